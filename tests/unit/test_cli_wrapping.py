"""Text in columns: every line fits, and nothing of it is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_mailer.cli.terminal import tables
from agent_mailer.cli.terminal.printing import prose
from agent_mailer.cli.terminal.screen import Part, Row, cells, laid_out, side_by_side, wrapped

TEXT = st.text(st.characters(exclude_categories=("C", "Z", "M")) | st.just(" "), max_size=80)


@given(TEXT, st.integers(min_value=2, max_value=60))
def test_no_line_is_too_long_and_no_character_is_lost(text: str, room: int) -> None:
    lines = list(wrapped(text, room))
    assert all(cells(line) <= room for line in lines), lines
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=9), TEXT, st.booleans()), max_size=4))
@pytest.mark.parametrize("room", [20, 40, 80])
def test_rows_fit_however_narrow_it_is(room: int, rows: list[tuple[str, str, bool]]) -> None:
    made = [Row(name, (Part(text, cut=cut), Part("more"))) for name, text, cut in rows]
    lines = laid_out(made, room)
    assert all(cells(line) <= room for line in lines), lines


def test_a_row_is_wrapped_beside_its_name_and_cut_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    rows = [
        Row("name", (Part("one two three four five six"), Part("one two three four five six", cut=True))),
        Row("n", (Part("x"),)),
    ]
    assert laid_out(rows, 22) == [
        "name  one two three",
        "      four five six",
        "      one two three f…",
        "n     x",
    ]
    assert laid_out(rows, None)[0] == "name  one two three four five six"
    assert laid_out([Row("a long name indeed", (Part("value"),))], 22) == ["a long name indeed", "  value"]


@pytest.mark.parametrize(
    ("room", "lines"),
    [
        (45, ["failed  one two three four five six seven", "        eight nine"]),
        (30, ["failed", "  one two three four five six", "  seven eight nine"]),
        (None, ["failed  one two three four five six seven eight nine"]),
    ],
)
def test_a_text_hangs_behind_its_head_or_begins_below_it(
    monkeypatch: pytest.MonkeyPatch, room: int | None, lines: list[str]
) -> None:
    monkeypatch.setattr(tables, "width", lambda: room)
    told = tables.hanging("failed  ", "one two three four five six seven eight nine")
    assert told.split("\n") == lines


def test_wide_characters_take_two_columns() -> None:
    assert list(wrapped("中文 字符 宽度", 6)) == ["中文", "字符", "宽度"]
    assert list(wrapped("中文字符", 5)) == ["中文", "字符"]
    assert side_by_side([["中", "x"], ["abc", "y"]]) == ["中   x", "abc  y"]
    assert side_by_side([]) == []


@pytest.mark.parametrize(
    ("text", "room", "lines"),
    [
        ("nobody watches: agent-mailer watch -C /a", 30, ["nobody watches:", "agent-mailer watch -C /a"]),
        ("  fix: agent-mailer resume", 20, ["  fix:", "  agent-mailer resume"]),
        ("paused until: agent-mailer resume, or a day", 24, ["paused until:", "agent-mailer resume, or", "a day"]),
        ("one\ntwo", 20, ["one", "two"]),
        ("as long as it is: agent-mailer resume", None, ["as long as it is: agent-mailer resume"]),
    ],
)  # fmt: skip
def test_prose_breaks_between_words_and_never_within_a_command(text: str, room: int | None, lines: list[str]) -> None:
    assert prose(text, room).split("\n") == lines
