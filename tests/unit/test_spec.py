"""SPEC.md can be read, says what the program is, and what is cited of it is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.pages import PROJECT, SOURCE, code, page, section, table

from agent_mailer.errors import ExitCode
from agent_mailer.outcomes import Outcome

MOST_WORDS = 11_000
LONGEST_LINE = 199

WRITTEN_BY_US = [
    *("*.md", "*.toml", "run", "docs/**/*.md", "packaging/*", "templates/*", "tests/*.md"),
    *("src/**/*.py", "tests/**/*.py", "tools/*.py", "benchmarks/**/*.py"),
]
NUMBER = r"\[?(\d+(?:\.\d+)?)(?!\.?\d)(?:\]\([^)\s]*\))?"
CITATION = re.compile(rf"(?:\bSPEC(?:\.md)?,?\s+(?:#\s+)?(?:[Ss]ections?\s+)?|\b[Ss]ections?\s+){NUMBER}")
FURTHER = re.compile(rf"(?:,| and| to| or)\s+{NUMBER}")
LOOSE = re.compile(
    r"\bSPEC(?:\.md)?(?!\.md|#)\W{0,6}(?:(?:sec|sect|section|sections|chapter|part|see|in)\b\W{0,4})?(\d+(?:\.\d+)?)"
)
"""What looks like a citation, in forms that nobody uses yet, too."""

FIGURES = {"3.11", "2.5", "1.25"}
"""What has a point in SPEC.md and is no section."""


def headings() -> list[str]:
    return re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", page("SPEC.md"), re.MULTILINE)


def cited(text: str) -> list[str]:
    """The sections that a text names, in whatever way: `SPEC 5.2`, `SPEC.md, section 4`, `SPEC sections 5 to 8`."""
    found: list[str] = []
    for citation in CITATION.finditer(text):
        found.append(citation[1])
        at = citation.end()
        while further := FURTHER.match(text, at):
            found.append(further[1])
            at = further.end()
    return found


def _texts() -> Iterator[tuple[str, str]]:
    for pattern in WRITTEN_BY_US:
        for path in PROJECT.glob(pattern):
            if path.is_file() and path != Path(__file__):
                yield str(path.relative_to(PROJECT)), path.read_text("utf-8")


def test_it_can_be_read() -> None:
    text = page("SPEC.md")
    assert len(text.split()) < MOST_WORDS
    assert not [line for line in text.splitlines() if len(line) > LONGEST_LINE]


def test_every_section_has_a_number_of_its_own_in_order() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in headings()]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("SPEC 5.2", ["5.2"]),
        ("(SPEC section 5.9). More", ["5.9"]),
        ("the one of SPEC\n    section 5, say", ["5"]),
        ("as SPEC\n# section 5 says", ["5"]),
        ("SPEC sections 5 to 8.1", ["5", "8.1"]),
        ("SPEC 6.2, 6.3 and 7", ["6.2", "6.3", "7"]),
        ("[SPEC.md, section 10](../SPEC.md#10-x)", ["10"]),
        ("SPEC [7](../SPEC.md#7-x) and [8.8](../SPEC.md#88-y) are", ["7", "8.8"]),
        ("what section 5.9 promises", ["5.9"]),
        ("[SPEC.md](SPEC.md#101-keys) is 1.5 times", []),
    ],
)
def test_each_way_of_citing_is_known(text: str, sections: list[str]) -> None:
    assert cited(text) == sections


def test_every_section_that_is_cited_exists() -> None:
    known, found = set(headings()), 0
    for name, text in _texts():
        numbers = cited(text)
        assert set(numbers) <= known, f"{name} cites a section that SPEC.md does not have"
        missed = {match[1] for match in LOOSE.finditer(text)} - set(numbers)
        assert not missed, f"{name} cites {missed} in a way that this test does not know"
        found += len(numbers)
    assert found > 30


def test_what_the_spec_cites_of_itself_exists() -> None:
    numbers = set(re.findall(r"(?<![\d.])([1-9]\d?\.\d{1,2})(?![.\d])", page("SPEC.md"))) - FIGURES
    assert numbers <= set(headings())


def test_every_invariant_that_is_cited_exists() -> None:
    known = set(re.findall(r"^\| (I\d+) \|", section("5.9"), re.MULTILINE))
    assert known == {f"I{number}" for number in range(1, 11)}
    for name, text in _texts():
        assert set(re.findall(r"\bI\d+\b", text)) <= known, name


def test_every_promise_names_a_test_that_exists() -> None:
    rows = table(page("tests/CONFORMANCE.md"), "promise", "section", "test")
    assert len(rows) > 50
    for row in rows:
        path, _, name = code(row["test"]).partition("::")
        assert name in _names_in(PROJECT / path), f"{row['promise']}: there is no {path}::{name}"
        for place in re.findall(r"I[0-9]+|[0-9]+(?:\.[0-9]+)?", row["section"]):
            assert place.startswith("I") or section(place)
    promises = [row["promise"] for row in rows]
    assert len(set(promises)) == len(promises)


def test_every_public_report_names_a_test_that_exists_or_says_why_it_cannot_be() -> None:
    rows = table(page("docs/public-threads.md"), "", "what was told", "here", "test")
    assert [row[""] for row in rows] == [str(number) for number in range(1, 26)]
    for row in rows:
        path, _, name = row["test"].strip("`").partition("::")
        assert path == "–" or name in _names_in(PROJECT / path), f"{row['what was told']}: there is no {path}::{name}"


@cache
def _names_in(path: Path) -> frozenset[str]:
    """Tests of a file: `test_x`, `TestX` and `TestX::test_x`, those inherited from a suite of ours included."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            names |= {f"{node.name}::{name}" for name in (*methods, *_suite_methods(frozenset(bases)))}
    return frozenset(names)


@cache
def _suite_methods(bases: frozenset[str]) -> list[str]:
    return [
        item.name
        for path in (SOURCE / "testing").glob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in bases
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    ]


def test_the_outcomes_are_those_of_the_program() -> None:
    rows = {code(row["outcome"]): row for row in table(section("6.1"), "outcome", "means")}
    assert list(rows) == [outcome.value for outcome in Outcome]
    for outcome in Outcome:
        row = rows[outcome.value]
        assert row["attempt"] == ("+1" if outcome.counts else "0"), outcome
        assert row["pauses"] == ("yes" if outcome.pauses else "no"), outcome
        assert (row["session"] == "provisional") == outcome.keeps_session, outcome
        assert row["then"].startswith("settled") == outcome.settles, outcome


def test_the_exit_codes_are_those_of_the_program() -> None:
    rows = {int(row["code"]): code(row["name"]) for row in table(section("9"), "code", "name")}
    assert rows == {exit_code.value: exit_code.name for exit_code in ExitCode}
