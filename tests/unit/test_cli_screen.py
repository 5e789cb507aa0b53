"""What is printed, by what the terminal can show."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from agent_mailer.amounts import dollars
from agent_mailer.cli.hook import _welcome
from agent_mailer.cli.status.many import agents
from agent_mailer.cli.terminal.printing import json_text
from agent_mailer.cli.terminal.screen import Ink, cells, fit, paint, plain, prepare_streams, width
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.names import pick
from agent_mailer.outside.event import Source
from agent_mailer.views.values.status import FaultView

IDS = ["20260101T000000-aaaa1111", "20260101T000000-bbbb2222", "20260203T040506-cccc3333"]


class Screen(io.TextIOWrapper):
    """A stdout that is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> bytes:
        self.flush()
        found = self.buffer
        assert isinstance(found, io.BytesIO)
        return found.getvalue()


def sit_before(monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> Screen:
    """Make stdout a colour terminal of 60 columns in a UTF-8 locale. Not a fixture: pytest puts its own stdout back."""
    for name in ("NO_COLOR", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "60", "LANG": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    found = Screen(encoding)
    monkeypatch.setattr(sys, "stdout", found)
    return found


@pytest.mark.parametrize(
    ("text", "wide"), [("plain", 5), ("漢字", 4), ("🙂!", 3), ("e\u0301", 1), ("", 0), ("\x1b[31mred\x1b[0m", 3)]
)
def test_the_width_of_a_text_is_that_on_the_screen(text: str, wide: int) -> None:
    assert cells(text) == wide


@pytest.mark.parametrize(
    ("text", "shown"), [("short", "short"), ("a long text", "a long…"), ("漢字漢字漢字", "漢字漢…")]
)
def test_a_cut_text_fits_and_says_so(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    sit_before(monkeypatch)
    assert fit(text, 7) == shown
    assert cells(shown) <= 7


def test_a_table_fits_the_terminal_and_ids_still_name_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_before(monkeypatch)
    rows = [(turn_id, "done", "why " * 30) for turn_id in IDS]
    shown = columns(rows, ("turn", "state", "detail"), ids=("turn",), whole=("state",))
    lines = shown.splitlines()
    assert len(lines) == 4
    assert max(map(cells, lines)) <= 60
    seen = [line.split()[0] for line in lines[1:]]
    assert [pick(name, IDS, "turn", "") for name in seen] == IDS
    assert all(line.rstrip().endswith("…") for line in lines[1:])


@pytest.mark.parametrize(("locale", "dots"), [("C.UTF-8", "…"), ("C", "...")])
def test_what_is_left_of_an_id_names_it_however_long_the_ellipsis_is(
    monkeypatch: pytest.MonkeyPatch, locale: str, dots: str
) -> None:
    sit_before(monkeypatch)
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.setenv("COLUMNS", "34")
    ends = [one[::-1] for one in IDS]
    for ids, which, cut in ((IDS, "ids", slice(-len(dots), None)), (ends, "endings", slice(len(dots)))):
        shown = columns([(one, "why " * 30) for one in ids], ("turn", "detail"), **{which: ("turn",)})
        lines = shown.splitlines()
        assert max(map(cells, lines)) <= 34
        seen = [line.split()[0] for line in lines[1:]]
        assert [name[cut] for name in seen] == [dots] * len(ids), "there was no room for more"
        assert [pick(name, ids, "turn", "") for name in seen] == ids


def test_a_table_that_tells_ids_by_their_ends_shows_those(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_before(monkeypatch)
    ids = [f"2026-11-28T08-14-01.000Z_pid1000_0000000{number}" for number in range(3)]
    shown = columns([(one, "why " * 30) for one in ids], ("message", "detail"), endings=("message",))
    seen = [line.split()[0] for line in shown.splitlines()[1:]]
    assert all(name.startswith("…") for name in seen)
    assert [pick(name, ids, "message", "") for name in seen] == ids
    assert max(map(cells, shown.splitlines())) <= 60


def test_the_agents_of_a_team_are_told_apart_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_before(monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")
    places = [f"/home/ada/amp-teams/shop/agents/claude-code_{role}" for role in ("planner", "reviewer", "runner")]
    lines = agents([FaultView(workdir=place, problems=()) for place in places])
    assert max(map(cells, lines)) <= 40
    for column in (0, -1):
        seen = [line.split()[column] for line in lines[1:]]
        assert len(set(seen)) == len(places), lines


def test_where_no_table_fits_each_row_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_before(monkeypatch)
    monkeypatch.setenv("COLUMNS", "30")
    shown = columns([(turn_id, "done", "x") for turn_id in IDS], ("turn", "state", "y"), ids=("turn",), whole=("turn",))
    assert shown.split("\n\n")[0] == f"turn   {IDS[0]}\nstate  done\ny      x"


def test_what_goes_into_a_file_is_never_cut_nor_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert width() is None
    shown = columns([("x" * 100, "y" * 100)], ("one", "two"))
    assert "x" * 100 in shown
    assert "y" * 100 in shown
    assert paint("red", Ink.RED) == "red"


@pytest.mark.parametrize("quiet", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, quiet: dict[str, str]) -> None:
    sit_before(monkeypatch)
    assert paint("red", Ink.RED) == "\x1b[31mred\x1b[0m"
    for name, value in quiet.items():
        monkeypatch.setenv(name, value)
    assert paint("red", Ink.RED) == "red"


@pytest.mark.parametrize(("name", "value"), [("LC_ALL", "C"), ("LC_ALL", "POSIX")])
def test_the_locale_c_has_no_typography(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    sit_before(monkeypatch)
    assert plain("cut…") == "cut…"
    monkeypatch.setenv(name, value)
    assert plain("cut…") == "cut..."
    assert fit("a long text", 7) == "a lo..."


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gb18030", "utf-8"])
def test_no_character_is_an_error_whatever_the_terminal_has(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    found = sit_before(monkeypatch, encoding)
    prepare_streams()
    broken = os.fsdecode(b"\xff")
    sys.stdout.write(f"é 漢 🙂 {broken}")
    assert b"\\udcff" in found.shown
    text = json_text({"subject": "é 漢", "path": broken})
    assert "\\udcff" in text
    text.encode(encoding)


def test_what_a_listener_says_first_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sit_before(monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")
    _welcome(("127.0.0.1", 9812), "/hooks/generic", Source.GENERIC, "generic", ["coder"])
    lines = found.shown.decode().splitlines()
    assert "http://127.0.0.1:9812/hooks/generic" in lines
    assert any(line.endswith("t=TIME,v1=HEX") for line in lines)
    assert max(map(len, lines)) <= 42  # a command is not broken
    assert lines[-1] == "Ctrl-C stops it."


def test_fields_are_one_under_the_other_and_empty_ones_left_out() -> None:
    assert fields([("turn", "t"), ("attempt", ""), ("state", "done")]) == "turn   t\nstate  done"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, ""), (0.00004, "<$0.0001"), (0.00012, "$0.0001"), (0.25, "$0.2500"), (12.5, "$12.50")],
)
def test_money(amount: float, text: str) -> None:
    assert dollars(amount) == text


def test_json_has_no_control_and_no_invisible_character_and_says_the_same() -> None:
    text = "a\x1b[2J\u202eb\u200b\u2028\U000e0041 é日🚀"
    shown = json_text({"said": text})
    assert shown.isprintable()
    assert "é日🚀" in shown
    assert json.loads(shown) == {"said": text}
