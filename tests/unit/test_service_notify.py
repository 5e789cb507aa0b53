"""What the watcher tells systemd, at a socket that is not systemd's."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent_mailer.clock import iso
from agent_mailer.events import EventName, LogRecord
from agent_mailer.service.notify import Notifier, Reporter, StatusLine, take_notifier
from agent_mailer.state.records import Pause, PauseReason

NOW = 1_700_000_000.0


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    # The path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(Path(folder) / "notify"))
        heard.setblocking(False)
        yield heard


def address(heard: socket.socket) -> str:
    return str(heard.getsockname())


def said(heard: socket.socket) -> list[str]:
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(heard.recv(4096).decode())
    return found


def record(event: EventName, **fields: str | float) -> LogRecord:
    return LogRecord(iso(NOW), event, dict(fields))


def line_after(*events: LogRecord, pause: Pause | None = None) -> str:
    line = StatusLine(pause)
    for event in events:
        line.take(event)
    return line.text


def started(turn_id: str) -> LogRecord:
    return record(EventName.TURN_STARTED, turn_id=turn_id, thread=f"thread-{turn_id}")


def test_the_line_says_what_runs() -> None:
    assert line_after() == "waiting for mail"
    assert line_after(started("a")) == "1 turn running: thread-a"
    assert line_after(started("a"), record(EventName.TURN_ADOPTED, turn_id="b", thread="t")) == (
        "2 turns running: thread-a, t"
    )
    assert line_after(*map(started, "abcde")) == "5 turns running: thread-a, thread-b, thread-c and 2 more"
    assert line_after(started("a"), record(EventName.TURN_ENDED, turn_id="a")) == "waiting for mail"


def test_the_line_says_what_keeps_it_from_its_work() -> None:
    by_hand = Pause(PauseReason.BY_HAND, since=NOW)
    assert line_after(pause=by_hand) == "waiting for mail; paused (by hand)"
    limited = line_after(started("a"), record(EventName.PAUSED, reason="limited", in_seconds=3600))
    assert limited.startswith("1 turn running: thread-a; paused (limited) until 2023-11-1")
    assert line_after(record(EventName.RESUMED), pause=by_hand) == "waiting for mail"
    trouble = record(EventName.MAILBOX_TROUBLE, why="no answer")
    assert line_after(trouble) == "waiting for mail; in trouble: no answer"
    assert line_after(trouble, record(EventName.MAILBOX_BACK)) == "waiting for mail"
    assert line_after(record(EventName.STATE_TROUBLE, why="full", turn_id="a")) == "waiting for mail"
    assert len(line_after(record(EventName.MAILBOX_TROUBLE, why="x" * 900))) == 300


def test_ready_status_and_stop_are_told_as_they_come(systemd: socket.socket) -> None:
    reporter = Reporter(Notifier(address(systemd)), None)
    reporter.begin()
    reporter.note(started("a"))
    reporter.note(record(EventName.TURN_PROGRESS, turn_id="a"))
    reporter.note(record(EventName.WATCH_STOPPING, grace=20.0))
    assert said(systemd) == [
        "READY=1\nSTATUS=waiting for mail",
        "STATUS=1 turn running: thread-a",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=50000000\nSTATUS=stopping; 1 turn running: thread-a",
    ]


def test_what_systemd_gave_us_is_taken_out_of_the_environment(systemd: socket.socket) -> None:
    environ = {
        "NOTIFY_SOCKET": address(systemd),
        "WATCHDOG_USEC": "4000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    notifier = take_notifier(environ)
    assert notifier is not None
    assert notifier.watchdog == 4.0
    assert environ == {"A": "b"}
    for other in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1"}):
        assert take_notifier(other) is None
    unwatched = take_notifier({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"})
    assert unwatched is not None
    assert unwatched.watchdog is None


def test_the_beats_come_from_the_loop(systemd: socket.socket) -> None:
    async def beat_twice() -> None:
        beats = asyncio.create_task(Notifier(address(systemd), watchdog=0.02).keep_beating())
        loop = asyncio.get_running_loop()
        for _ in range(2):
            assert await loop.sock_recv(systemd, 100) == b"WATCHDOG=1"
        beats.cancel()

    asyncio.run(beat_twice())


def test_nobody_to_tell_is_no_fault() -> None:
    Reporter(Notifier("/nowhere/notify"), None).begin()
    Notifier("@agent-mailer-nobody").beat()
