"""What a person who watches sees of each event: a line a mail; what ends a trouble is at its front and never cut."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.unit.test_cli_screen import sit_before

from agent_mailer.cli.terminal.screen import cells
from agent_mailer.cli.watch.screen import Screen, lines_of, live_line
from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk
from agent_mailer.events import EventLog, EventName, LogRecord, Value
from agent_mailer.views.happenings import Happening, Running, Story, Tone

TS = "2026-01-01T15:31:44Z"
_PAINT = re.compile(r"\x1b\[[0-9;]*m")


def of(event: EventName, shown: str = "", **fields: Value) -> LogRecord:
    return LogRecord(TS, event, dict(fields), shown=shown)


def told(*records: LogRecord, login: str = "") -> list[Happening]:
    story = Story(login)
    return [found for record in records if (found := story.tell(record, 0.0)) is not None]


def turn(outcome: str, *between: LogRecord, **ended: float | str) -> list[LogRecord]:
    return [
        of(EventName.TURN_CLAIMED, "Write rain.txt", turn_id="t", message_id="m-12345678", sender="user", attempt=1),
        of(EventName.TURN_STARTED, turn_id="t", message_id="m-12345678", thread="p2p"),
        of(EventName.TURN_PROGRESS, turn_id="t", tool="mcp__agent_mailer__read_message", text="read_message"),
        of(EventName.TURN_PROGRESS, turn_id="t", tool="Write", text="Write rain.txt"),
        of(EventName.TURN_PROGRESS, turn_id="t", text="Done."),
        LogRecord(TS, EventName.TURN_ENDED, {"turn_id": "t", "outcome": outcome, "seconds": 8.2, **ended}),
        *between,
        of(EventName.TURN_SETTLED, turn_id="t", outcome=outcome, seconds=8.2),
    ]


def test_a_mail_is_one_line_and_what_came_of_it_another() -> None:
    sent = of(EventName.ITEM_DELIVERED, turn_id="t", message_id="a", to="user")
    bound = of(EventName.SESSION_BOUND, turn_id="t", thread="p2p", session="s")
    done = of(EventName.MESSAGE_DONE, turn_id="t", message_id="m-12345678", thread="p2p")
    came, answered = told(*turn("done", sent, bound, done, cost_usd=0.0612))
    assert (came.head, came.text) == ("mail from user", "Write rain.txt")
    assert (answered.head, answered.text) == ("answered user", "8 s · 2 tools · $0.0612  read_message Write")
    assert answered.tone is Tone.GOOD
    _, answered = told(*turn("done", sent, bound, done, cost_usd=0.00004))
    assert answered.text == "8 s · 2 tools · <$0.0001  read_message Write"


@pytest.mark.parametrize(
    ("to", "head"),
    [((), "done, no answer"), (("planner",), "sent to planner"), (("planner", "user"), "answered user and 1 more")],
)
def test_who_got_an_answer(to: tuple[str, ...], head: str) -> None:
    items = [of(EventName.ITEM_DELIVERED, turn_id="t", message_id="a", to=name) for name in to]
    assert told(*turn("done", *items))[-1].head == head


def test_a_failure_says_what_comes_next_before_why() -> None:
    again = of(
        EventName.RETRY_SCHEDULED, turn_id="t", message_id="m-12345678", outcome="failed", attempts=1, in_seconds=9.0
    )
    failed = told(*turn("failed", again, detail="it broke"))[-1]
    assert (failed.head, failed.tone) == ("FAILED", Tone.BAD)
    assert failed.mend == "tried again in 9 s (failed once)"
    assert failed.text == "it broke  8 s · 2 tools"
    dead = of(EventName.DEAD_LETTER, turn_id="t", message_id="m-12345678", why="it broke")
    done = of(EventName.MESSAGE_DONE, turn_id="t", message_id="m-12345678", thread="p2p")
    given_up = told(*turn("failed", dead, done))
    assert [one.head for one in given_up] == ["mail from user", "GIVEN UP"]
    assert given_up[-1].mend == "agent-mailer dead-letter retry 12345678"


def test_a_pause_says_what_ends_it() -> None:
    signed_out = of(EventName.PAUSED, reason="signed_out", detail="Please run /login")
    [pause] = told(signed_out, login="claude auth login")
    assert (pause.head, pause.mend) == ("PAUSED  signed out", "claude auth login, then: agent-mailer resume")
    limited = of(EventName.PAUSED, reason="limited", in_seconds=60.0)
    again = of(EventName.RETRY_SCHEDULED, turn_id="t", message_id="m", outcome="limited", attempts=0, in_seconds=0.0)
    # The pause tells it all; the mail that met it gets no line of its own.
    came, paused = told(*turn("limited", limited, again))
    assert (came.head, paused.head) == ("mail from user", "PAUSED  limited")
    assert re.fullmatch(r"until (\w+ )?\d\d:\d\d, or: agent-mailer resume", paused.mend)


@pytest.mark.parametrize("outcome", ["limited", "signed_out", "unavailable"])
def test_a_mail_that_a_pause_has_met_is_a_line_where_it_is_given_up(outcome: str) -> None:
    dead = of(EventName.DEAD_LETTER, turn_id="t", message_id="m-12345678", why="begun too often")
    last = told(*turn(outcome, of(EventName.PAUSED, reason=outcome, in_seconds=60.0), dead))[-1]
    assert (last.head, last.tone, last.mend) == ("GIVEN UP", Tone.BAD, "agent-mailer dead-letter retry 12345678")
    assert last.text.startswith("begun too often")


def test_a_stop_says_what_it_waits_for_and_what_ends_that() -> None:
    [first] = told(of(EventName.WATCH_STOPPING, running=2, grace=30.0))
    assert first.mend == "waits up to 30 s for 2 turns; Ctrl-C again ends them now"
    assert told(of(EventName.WATCH_STOPPING, running=0, grace=30.0)) == []


@pytest.mark.parametrize("event", EventName)
def test_each_event_is_a_line_or_nothing_and_never_more_than_harmless(event: EventName) -> None:
    said = dict.fromkeys(("why", "how", "request", "sender", "to", "file", "names", "detail"), "\x1b[2J")
    for found in told(LogRecord(TS, event, {"turn_id": "t", "in_seconds": 3.0, "outcome": "failed", **said})):
        assert found.head
        assert "\x1b" not in found.head + found.mend + found.text


SIGNED_OUT = Happening(TS, "PAUSED  signed out", Tone.BAD, "claude auth login, then: agent-mailer resume", "w " * 200)


@pytest.mark.parametrize("room", [20, 40, 60, 80, 120, 300])
@pytest.mark.parametrize(
    "happening",
    [
        SIGNED_OUT,
        Happening(
            TS, "NOT SENT to somebody@alice.amp.example.org", Tone.BAD, "agent-mailer stuck show 12345678", "x" * 300
        ),
        Happening(TS, "mail from user", text="اكتب قصيدة " * 30),
        Happening(TS, "mail from user", text="🙂" * 200),
        Happening(TS, "stopped"),
    ],
)
def test_a_line_fits_its_terminal_and_what_mends_it_is_whole(
    monkeypatch: pytest.MonkeyPatch, happening: Happening, room: int
) -> None:
    sit_before(monkeypatch)
    lines = [_PAINT.sub("", line) for line in lines_of(happening, room)]
    assert max(map(cells, lines)) <= room
    words = "".join("".join(lines).split())
    assert happening.head.replace(" ", "") in words
    assert happening.mend.replace(" ", "") in words


def test_what_mends_it_begins_on_the_first_line_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_before(monkeypatch)
    first = _PAINT.sub("", lines_of(SIGNED_OUT, 80)[0])
    assert first[8:] == "  PAUSED  signed out    claude auth login, then: agent-mailer resume"


def test_without_colours_nothing_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_before(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(lines_of(SIGNED_OUT, 80))


def test_live_lines_are_taken_off_before_anything_else_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = sit_before(monkeypatch)
    screen = Screen(lambda _: [], "")
    for record in turn("done"):
        screen.show(record)
    shown = found.shown.decode()
    assert shown.count("\r\x1b[J") == 4  # each but the first live line was drawn over the one before
    assert "2 tools  Write rain.txt" in shown
    last = shown.rpartition("\r\x1b[J")[2]
    assert _PAINT.sub("", last).endswith("done, no answer       8 s · 2 tools  read_message…\n")


def test_a_live_line_that_was_broken_by_a_narrower_window_is_taken_off_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sit_before(monkeypatch)
    screen = Screen(lambda _: [], "")
    claimed, started, *_ = turn("done")
    screen.show(claimed)
    screen.show(started)
    screen.show(of(EventName.TURN_PROGRESS, turn_id="t", tool="Bash", text="y" * 100))
    monkeypatch.setenv("COLUMNS", "25")
    screen.show(of(EventName.TURN_PROGRESS, turn_id="t", text="z"))
    assert "\r\x1b[2A\x1b[J" in found.shown.decode()


def test_on_a_dumb_terminal_nothing_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sit_before(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen(lambda _: [], "")
    for record in turn("done"):
        screen.show(record)
    assert b"\x1b" not in found.shown
    assert b"\r" not in found.shown
    assert found.shown.count(b"\n") == 2


def test_a_live_line_without_work_shows_the_subject() -> None:
    assert live_line(Running("user", "Write rain.txt", 0.0), 8.0) == "8 s       user  Write rain.txt"


def test_a_subject_is_shown_made_harmless_and_is_never_logged(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl", Disk(), SystemClock())
    heard: list[LogRecord] = []
    log.listen(heard.append)
    log.emit(EventName.TURN_CLAIMED, "secret\n\x1b[2J" + "x" * 9999, turn_id="t")
    [record] = heard
    assert record.shown.startswith(r"secret \x1b[2Jxxx")
    assert len(record.shown) <= 200
    for line in ((tmp_path / "log.jsonl").read_bytes(), record.line()):
        assert set(json.loads(line)) == {"ts", "event", "turn_id"}
