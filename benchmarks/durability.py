"""What it costs that nothing is lost: syncs and milliseconds of a turn, beside the bare minimum of one synced line."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.desk import Desk

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName, LogRecord
from agent_mailer.watch.watcher import Watcher
from benchmarks.measuring import row, seconds

TURNS = 60
BINDS_A_SESSION = """cat >/dev/null; echo '{"type":"session","id":"s-1"}'; echo '{"type":"result","text":"done"}'"""
SILENT = "cat >/dev/null"
MOST_SYNCS = 14
BEFORE_THE_AGENT = 6
"""Syncs of the claim and of the start."""

DEARER = 10
"""A new file, a rename and a folder, each synced, beside a line in a file that is open."""


class TimedCalls(SystemCalls):
    """Counts and times the syncs, and times all calls that change the disk."""

    def __init__(self) -> None:
        self.syncs = 0
        self.seconds = 0.0
        self.syncing = 0.0

    def fsync(self, fd: int) -> None:
        before = self.seconds
        with self._timed():
            super().fsync(fd)
        self.syncs += 1
        self.syncing += self.seconds - before

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        with self._timed():
            return super().open(path, flags, mode)

    def write(self, fd: int, data: memoryview) -> int:
        with self._timed():
            return super().write(fd, data)

    def replace(self, source: Path, target: Path) -> None:
        with self._timed():
            super().replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        with self._timed():
            super().rename_noreplace(source, target)

    def unlink(self, path: Path) -> None:
        with self._timed():
            super().unlink(path)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


class Moment(msgspec.Struct, frozen=True):
    """What had been spent so far."""

    syncs: int
    seconds: float
    syncing: float


def durability() -> None:
    """Turns without an answer, and with an answer and a session: all of one, and its settlement alone."""
    for name, script, settings in (
        ("no answer", SILENT, {}),
        ("answer, session", BINDS_A_SESSION, {"command_output": "jsonl"}),
    ):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
            desk = Desk(Path(folder))
            desk.configure(**settings)
            desk.shell(script)
            whole, settling, bare = _turns(desk)
        _tell(f"a turn ({name})", whole, bare, MOST_SYNCS)
        _tell(f"its settlement ({name})", settling, bare, MOST_SYNCS - BEFORE_THE_AGENT)


def _tell(name: str, spans: list[Moment], bare: float, most: int) -> None:
    syncs = statistics.mean(span.syncs for span in spans)
    calls = statistics.median(span.seconds for span in spans)
    syncing = statistics.median(span.syncing for span in spans)
    row(f"{name}: fsyncs; the bare minimum is 1", f"{syncs:.2f}", f"at most {most}", met=syncs <= most)
    text = f"{calls * 1e3:.1f} ms, {syncing * 1e3:.1f} of them in fsync"
    row(f"{name}: on the disk", text, "-", met=True)
    times = calls / bare
    text = f"{times:.0f} x one synced line ({bare * 1e3:.2f} ms)"
    wanted = f"at most {DEARER} for each fsync"
    row(f"{name}: beside the bare minimum", text, wanted, met=times <= DEARER * syncs)


def _turns(desk: Desk) -> tuple[list[Moment], list[Moment], float]:
    """What each turn spent in all, and from the start of its agent until it was settled; the seconds of a bare line.

    A line is synced after each turn, so that what else the machine does falls on both.
    """
    fd = os.open(desk.base / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    bare: list[float] = []

    def line() -> None:
        os.write(fd, b"x" * 100 + b"\n")
        os.fsync(fd)

    system = TimedCalls()
    place = desk.place()
    place.disk.system = system
    marks: dict[tuple[str, EventName], Moment] = {}

    def listen(event: LogRecord) -> None:
        turn = str(event.fields.get("turn_id"))
        marks.setdefault((turn, event.event), Moment(system.syncs, system.seconds, system.syncing))
        if event.event is EventName.TURN_SETTLED:
            bare.append(seconds(line))

    async def run() -> None:
        await Watcher(place.room(lock), once=True).run()

    for n in range(TURNS):
        desk.send(thread=f"t{n}")
    lock = place.lock()
    lock.acquire()
    try:
        place.folder.prepare()
        place.log.listen(listen)
        asyncio.run(run())
    finally:
        lock.release()
        os.close(fd)
    ended = [turn for turn, event in marks if event is EventName.TURN_SETTLED]
    began = dict(zip(ended, [Moment(0, 0, 0), *(marks[turn, EventName.TURN_SETTLED] for turn in ended)], strict=False))
    # The first turn pays for what is new in the workdir.
    return (
        [_between(began[turn], marks[turn, EventName.TURN_SETTLED]) for turn in ended[1:]],
        [_between(marks[turn, EventName.TURN_STARTED], marks[turn, EventName.TURN_SETTLED]) for turn in ended[1:]],
        statistics.median(bare),
    )


def _between(first: Moment, last: Moment) -> Moment:
    return Moment(last.syncs - first.syncs, last.seconds - first.seconds, last.syncing - first.syncing)
