"""The words by which mail is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_mailer.broker.search.words import LONGEST_WORD, Wanted, snippet, wanted_by, words_of


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The build of src/broker/app.py failed: exit 78.", "app"),
        ("The build of src/broker/app.py failed: exit 78.", "Exit 78"),
        ("user_name snake_case", "snake"),
        ("Straße in Zürich", "STRASSE zürich"),
        ("ﬁle ｆｕｌｌ", "file full"),
        ("release—today", "today"),
        ("请审查这个补丁，然后合并。", "审查"),
        ("请审查这个补丁，然后合并。", "补丁 合并"),
        ("请审查这个补丁，然后合并。", "这个补丁"),
        ("请审查这个补丁，然后合并。", "并"),
        ("review审查pull", "pull 审"),
        ("ภาษาไทยไม่มีช่องว่าง", "ไทย"),
        ("unbelievable", "unbel*"),
        ("a-b c", "a-b"),
        ("x" * 200, "x" * 200),
        ("it's", "it's"),
    ],
)
def test_what_is_in_a_text_finds_it_be_it_the_subject_or_the_body(text: str, query: str) -> None:
    wanted = wanted_by(query)
    assert wanted
    for beside in ("", "plain", "请审查"):
        for words in (words_of(beside, text), words_of(text, beside)):
            assert set(wanted.words) <= set(words), beside
            assert all(any(word.startswith(one) for word in words) for one in wanted.beginnings), beside


@pytest.mark.parametrize(("text", "query"), [("abc", "ab"), ("请审查", "查审"), ("unbelievable", "unb*"), ("x", "y")])
def test_what_is_not_does_not(text: str, query: str) -> None:
    assert not set(wanted_by(query).words) <= set(words_of("", text))


def test_no_words_are_nothing() -> None:
    for query in ("", " ", "!!", "* *", '"', "_"):
        assert not wanted_by(query)


@given(st.text(), st.text())
def test_any_text_has_words_that_either_database_takes(subject: str, body: str) -> None:
    for word in words_of(subject, body):
        assert word
        assert len(word) <= LONGEST_WORD
        assert word.isalnum() or len(word) <= 2, "neither quotes nor operators"
        assert not set(word) & set("'\"\\&|!:*() \0")


def test_a_snippet_is_around_the_first_word() -> None:
    body = "a" * 500 + " Needle " + "b" * 500
    shown = snippet(body, wanted_by("needle"))
    assert shown.startswith("...a")
    assert "Needle" in shown
    assert shown.endswith("b...")
    assert len(shown) < 250
    assert snippet("short", Wanted(("none",), ())) == "short"
    assert len(snippet("x" * 500, Wanted(("none",), ()))) == 200
