"""Ids from outside: never a path of their own making, never a sentence in a prompt, never an escape on a terminal."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import (
    is_turn_id,
    meant,
    new_turn_id,
    path_name,
    pick,
    printable,
    prompt_word,
    shown_path,
    turn_began,
    whole_characters,
)

HARMLESS = ["a", "A-1", "0193cf2e-8a4b-7c1d", "x" * 128, "v1.2_3", "a..b", "end."]
ODD = [
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "-rf",
    "_",
    "~",
    "a b",
    " a",
    "a\n",
    "line\nbreak",
    "nul\0byte",
    "\x1b[2J",
    "日本語",
    "é",
    "e\u0301",
    "\u202ereversed",
    "lone \ud800",
    "x" * 129,
    "x" * 300,
    "../" * 200,
    "a:b",
    "a@b",
]
WORDS = ["a@b", "a/b", "a:b", "p2p/a__b", "x:1", "a+b"]


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_name_stays_as_it_is(name: str) -> None:
    assert path_name(name) == name
    assert prompt_word(name, "thread") == name


@pytest.mark.parametrize("name", ODD)
def test_any_name_becomes_one_short_name_in_its_folder(name: str, tmp_path: Path) -> None:
    mapped = path_name(name)
    assert mapped not in (".", "..")
    assert not set(mapped) & set("/\\\0\n \x1b")
    assert mapped[0] not in ".-~"
    assert mapped.isascii()
    assert mapped.isprintable()
    assert len(mapped) <= 128
    made = tmp_path / mapped
    made.touch()
    assert made.resolve().parent == tmp_path.resolve()
    assert path_name(name) == mapped


def test_two_names_never_meet() -> None:
    names = [*HARMLESS, *ODD]
    # What is mapped must not be a name that somebody can choose, either.
    names += [path_name(name) for name in ODD]
    for one, other in itertools.combinations(dict.fromkeys(names), 2):
        if other != path_name(one):
            assert path_name(one) != path_name(other), (one, other)
    for name in ODD:
        assert path_name(path_name(name)) != path_name(name), name


@pytest.mark.parametrize("name", [name for name in ODD if name not in WORDS])
def test_an_odd_name_is_no_word_of_a_prompt(name: str) -> None:
    word = prompt_word(name, "thread")
    assert word.startswith("thread-")
    assert len(word) == len("thread-") + 16
    assert word.isalnum() or set(word) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("name", WORDS)
def test_addresses_and_threads_of_mailboxes_are_words(name: str) -> None:
    assert prompt_word(name, "thread") == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\0", "\\x00"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("日本", "日本"),
        ("", ""),
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),
        ("\n" * 10, "\\n\\n\\n\\n\\"[:9] + "…"),
    ],
)
def test_what_is_shown_is_printable_and_bounded(text: str, shown: str) -> None:
    assert printable(text, 10) == (shown if len(shown) <= 10 else shown[:9] + "…")
    assert printable(text, 10).isprintable()
    assert len(printable(text * 1000, 50)) <= 50


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"a\ud800b"', "a\ufffdb"),
        (rb'"\uDEAD"', "\ufffd"),
        (rb'"\ud800\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud800"', "\\ud800"),
        (rb'"\u00d8\n\ud8"x', None),
    ],
)
def test_half_a_character_in_json_is_replaced_and_nothing_else(written: bytes, read: str | None) -> None:
    if read is None:
        assert whole_characters(written) == written
    else:
        assert json.loads(whole_characters(written)) == read


def test_a_path_is_shown_by_its_first_folders() -> None:
    assert shown_path("/a:/b:/a:") == "/a, /b"
    assert shown_path("/a:/b:/c", limit=6) == "/a, /b and 1 more"
    assert shown_path(f"/{'x' * 100}:/b", limit=6) == f"/{'x' * 100} and 1 more"
    assert shown_path(":") == "which is empty"


def test_turns_of_one_second_sort_as_they_began() -> None:
    moments = [1_700_000_000 + step / 1000 for step in range(0, 2001, 3)]
    made = [new_turn_id(moment) for moment in moments]
    assert made == sorted(made)
    assert all(map(is_turn_id, made))
    assert [turn_began(one) for one in made] == [float(int(moment)) for moment in moments]
    # Two of a moment differ by chance alone, in 20 bits: once in a thousand runs two of fifty are one.
    assert len({new_turn_id(0.0) for _ in range(50)}) > 40


SENTENCE = "m 1; rm -rf ~"
KNOWN = ["m-1", "m-10", "abc-1-x", "abc-2-y", "x-abc", SENTENCE]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("m-1", ["m-1"]),
        ("m-10", ["m-10"]),
        ("abc-1", ["abc-1-x"]),
        ("abc", ["abc-1-x", "abc-2-y"]),
        ("-y", ["abc-2-y"]),
        ("abc-1…", ["abc-1-x"]),
        ("…2-y", ["abc-2-y"]),
        ("...2-y", ["abc-2-y"]),
        (prompt_word(SENTENCE, "message"), [SENTENCE]),
        (prompt_word("another; x", "message"), []),
        ("bc-1", []),
        ("", []),
        ("…", []),
    ],
)
def test_what_a_person_types_is_the_whole_or_its_beginning_or_its_end(typed: str, found: list[str]) -> None:
    assert meant(typed, KNOWN) == found
    if len(found) == 1:
        assert pick(typed, KNOWN, "message", "fix") == found[0]
    else:
        with pytest.raises(
            UsageFault if found else MailerError, match="could be abc" if found else "there is no message"
        ):
            pick(typed, KNOWN, "message", "fix")
