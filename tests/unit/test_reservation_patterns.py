"""Which paths a pattern names, whether two may meet, and what is none."""

from __future__ import annotations

import itertools

import pytest

from agent_mailer.errors import UsageFault
from agent_mailer.path_patterns import names_path, overlap
from agent_mailer.reservations.patterns import checked

PROJECT = "/srv/shop"


@pytest.mark.parametrize(
    ("pattern", "path", "named"),
    [
        ("src/**", "src/a.py", True),
        ("src/**", "src/a/b/c.py", True),
        ("src/**", "srcs/a.py", False),
        ("src", "src/a/b.py", True),
        ("src", "src", True),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/a/b.py", False),
        ("src/*.py", "src/a.pyc", False),
        ("**/a.py", "a.py", True),
        ("**/a.py", "x/y/a.py", True),
        ("**/a.py", "x/ya.py", False),
        ("**", "anything/at/all", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.b", "axb", False),
        ("[ab]", "a", False),
        ("src/**/t.py", "src/t.py", True),
        ("src/**/t.py", "src/x/y/t.py", True),
        ("a\\b", "a\\b", True),
    ],
)
def test_a_pattern_names_its_paths_and_what_lies_below(pattern: str, path: str, named: bool) -> None:
    assert names_path(pattern, path) is named


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("src/app/*.py", "src/**", True),
        ("src/app/*.py", "src/app/x.py", True),
        ("src/app/*.py", "src/app/x.js", False),
        ("a/**/z", "a/b/**", True),
        ("a/*", "b/*", False),
        ("**", "x", True),
        ("src", "src/deep/er", True),
        ("*a", "b*", True),
        ("x*a", "y*a", False),
        ("docs", "src", False),
    ],
)
def test_two_patterns_meet_whichever_is_asked_first(one: str, other: str, meet: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is meet


def test_whatever_two_patterns_both_name_they_meet_in() -> None:
    parts = ["a", "b", "*", "a*", "?", "**"]
    names = ["a", "b", "ab", "ba"]
    paths = ["/".join(one) for size in (1, 2, 3) for one in itertools.product(names, repeat=size)]
    patterns = ["/".join(one) for size in (1, 2) for one in itertools.product(parts, repeat=size)]
    named = {pattern: {path for path in paths if names_path(pattern, path)} for pattern in patterns}
    for one, other in itertools.combinations(patterns, 2):
        if named[one] & named[other]:
            assert overlap(one, other), (one, other)


def test_what_is_kept_counts_from_the_project() -> None:
    given = ["src/**", "./src//**", f"{PROJECT}/docs/", ".", f"{PROJECT}"]
    assert checked(given, PROJECT) == ("src/**", "docs", "**")


@pytest.mark.parametrize(
    "pattern", ["/", "/etc/passwd", "../other", "src/../../x", "", "  ", "a\nb", "a" * 201, "/srv/shopping"]
)
def test_what_reserves_nothing_here_is_refused(pattern: str) -> None:
    with pytest.raises(UsageFault):
        checked([pattern], PROJECT)


def test_ten_thousand_paths_are_refused() -> None:
    with pytest.raises(UsageFault) as caught:
        checked([f"src/{number}" for number in range(10_000)], PROJECT)
    assert "10000" in caught.value.message


def test_patterns_made_to_take_long_do_not() -> None:
    assert overlap("/".join(["**", "a*a*a*a*a*a*"] * 12), "/".join(["**", "*a*a*a*a*a*b"] * 12)) in (True, False)
    assert not names_path("*a" * 90 + "b", "a" * 2000)
