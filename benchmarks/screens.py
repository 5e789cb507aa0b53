"""What a person waits for before a screen, and what the live line of `watch` takes while he looks at it."""

from __future__ import annotations

import os
import pty
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.desk import Desk, until

from agent_mailer.events import EventName
from benchmarks.measuring import alternating, cpu_seconds, quiet, row
from benchmarks.status import cpu_of, folder, installed, remember

AGENTS = 40
LOOKED_AT_SECONDS = 30.0
MOST_SECONDS, MOST_SHARE = 0.5, 0.01


def alone() -> None:
    """`agent-mailer` alone with forty agents, each with some mail, beside `python -c pass`."""
    with folder() as base:
        for number in range(AGENTS):
            desk = Desk(base / f"d{number}")
            desk.send(thread="waits")
            remember(desk)
        took, bare = alternating(
            9, lambda: quiet(installed(), base), lambda: quiet([sys.executable, "-c", "pass"], base)
        )
        cpu = cpu_of(lambda: quiet(installed(), base))
    # Where others have the processors only its own time of them says how long it takes elsewhere.
    row(
        f"agent-mailer alone, {AGENTS} agents",
        f"{took * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU), {took / bare:.1f} times python -c pass ({bare * 1e3:.0f} ms)",
        f"under {MOST_SECONDS * 1e3:.0f} ms of CPU",
        met=cpu < MOST_SECONDS,
    )


def live_line() -> None:
    """`watch` on a terminal while a turn runs, beside the same without one."""
    with folder() as base:
        drawn = _share(Desk(base / "drawn"), terminal=True)
        mute = _share(Desk(base / "mute"), terminal=False)
    row(
        "the live line of watch: share of a core",
        f"{(drawn - mute) * 100:.2f} % ({drawn * 100:.2f} % with it, {mute * 100:.2f} % without)",
        f"under {MOST_SHARE * 100:.0f} %",
        met=drawn - mute < MOST_SHARE,
    )


def _share(desk: Desk, *, terminal: bool) -> float:
    """Of a core, by a watcher whose agent has a tool at work."""
    go = desk.base / "go"
    desk.configure(command_output="jsonl")
    desk.script(
        {"emit": {"type": "tool_start", "id": "1", "name": "Bash", "detail": "make all"}},
        {"wait_for": str(go)},
        {"emit": {"type": "result", "outcome": "done", "text": "ok"}},
    )
    with _output(terminal=terminal) as stream, desk.watching(stdout=stream, stderr=stream) as watcher:
        desk.send(thread="work")
        until(lambda: desk.log(EventName.TURN_STARTED), "the turn")
        time.sleep(2.0)
        before = cpu_seconds(watcher.pid)
        time.sleep(LOOKED_AT_SECONDS)
        used = cpu_seconds(watcher.pid) - before
        go.touch()
    return used / LOOKED_AT_SECONDS


@contextmanager
def _output(*, terminal: bool) -> Iterator[int]:
    """Where a watcher writes: a terminal that somebody reads, or nowhere."""
    if not terminal:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            yield nowhere
        finally:
            os.close(nowhere)
        return
    ours, theirs = pty.openpty()
    os.environ.setdefault("TERM", "xterm-256color")
    threading.Thread(target=_read, args=(ours,), daemon=True).start()
    try:
        yield theirs
    finally:
        os.close(theirs)


def _read(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except OSError:  # so Linux tells that nobody writes any more
        os.close(fd)
