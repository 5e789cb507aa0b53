"""What `status` costs over a long history and over many workdirs, and what forty idle watchers cost."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from tests.desk import CLI, Desk, until

from agent_mailer.clock import iso
from agent_mailer.events import ROTATE_AT_BYTES, EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.records import Phase, Settlement, TurnRecord
from benchmarks.measuring import alternating, cpu_seconds, median_of, quiet, row

BIG = 100_000
DAY = BIG // 7
WORKDIRS = 200
WATCHERS = 40
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 5.0
MOST_MIB, MOST_CPU = 24.0, 5.0
"""What one of many idle watchers may take: memory that it shares with nobody, and milliseconds of CPU a minute."""


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder, and the user's state folder in it: what is measured is not written to the real one."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as name:
        base = Path(name)
        places = {"XDG_STATE_HOME": str(base / "state-home"), "HOME": str(base)}
        with mock.patch.dict(os.environ, places):
            yield base


def history() -> None:
    """`status` on a workdir through which 100,000 messages have gone, beside one that is new."""
    with folder() as base:
        full, empty = Desk(base / "full"), Desk(base / "empty")
        _live_through(full)
        took, floor = alternating(9, lambda: _status(full.workdir), lambda: _status(empty.workdir))
        cpu = cpu_of(lambda: _status(full.workdir))
    row(
        f"status after {BIG:,} messages",
        f"{took * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU; new: {floor * 1e3:.0f})",
        "under 400 ms",
        met=took < 0.4,
    )


def everywhere() -> None:
    """`status --all` over two hundred workdirs, each with some mail."""
    with folder() as base:
        for n in range(WORKDIRS):
            desk = Desk(base / f"d{n}")
            desk.send(thread="waits")
            remember(desk)
        took = median_of(9, lambda: _status(base, "--all"))
        cpu = cpu_of(lambda: _status(base, "--all"))
    row(
        f"status --all, {WORKDIRS} workdirs",
        f"{took * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU)",
        "under 1500 ms",
        met=took < 1.5,
    )


def forty() -> None:
    """Forty idle watchers, each its own process; and one process with the loops of all forty."""
    with folder() as base, ExitStack() as stack:
        desks = [Desk(base / f"d{n}") for n in range(WATCHERS)]
        processes = [stack.enter_context(desk.watching()) for desk in desks]
        for desk in desks:
            until(lambda desk=desk: desk.log(EventName.WATCH_STARTED), "a watcher")
        apart = _idle([process.pid for process in processes])
    with folder() as base:
        desks = [Desk(base / f"d{n}") for n in range(WATCHERS)]
        argv = [sys.executable, "-m", "benchmarks.status", *(str(desk.workdir) for desk in desks)]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            together = _idle([process.pid])
            process.kill()
    most, cpu_most = WATCHERS * MOST_MIB, WATCHERS * MOST_CPU
    row(
        f"{WATCHERS} idle watchers: memory (proportional set size)",
        f"{apart[0]:.0f} MiB ({apart[1]:.0f} private)",
        f"at most {most:.0f} MiB",
        met=apart[0] <= most,
    )
    row(
        f"{WATCHERS} idle watchers: CPU a minute",
        f"{apart[2]:.1f} ms",
        f"at most {cpu_most:.0f} ms",
        met=apart[2] <= cpu_most,
    )
    text = f"{together[0]:.0f} MiB, {together[2]:.1f} ms CPU a minute"
    row(f"the loops of all {WATCHERS} in one process", text, "(to compare)", met=True)


def _status(workdir: Path, *words: str) -> None:
    where = [] if words else ["--workdir", str(workdir)]
    quiet([*installed(), "status", *where, *words], ends=1)  # no watcher runs there


def cpu_of(work: Callable[[], None]) -> float:
    """Seconds of CPU, of the processes that `work` starts: what else the machine does is not in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def installed() -> list[str]:
    command = Path(sys.executable).parent / "agent-mailer"
    return [str(command)] if command.exists() else CLI


def remember(desk: Desk) -> None:
    from agent_mailer.state.workdirs import remember

    remember(desk.workdir)


def _idle(pids: list[int]) -> tuple[float, float, float]:
    """Proportional and private MiB of them all, and milliseconds of CPU in a minute."""
    time.sleep(SETTLE_SECONDS)
    before = sum(map(cpu_seconds, pids))
    time.sleep(IDLE_SECONDS)
    used = (sum(map(cpu_seconds, pids)) - before) * 1e3 * 60 / IDLE_SECONDS
    shares = [_rollup(pid) for pid in pids]
    return sum(s["Pss"] for s in shares), sum(s["Private_Clean"] + s["Private_Dirty"] for s in shares), used


def _rollup(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}


def _live_through(d: Desk) -> None:
    """Files as 100,000 settled messages leave them, all in the days for which transcripts are kept."""
    now = time.time()
    ids = [f"2026-11-01T00-00-00.000Z_pid{n}_{n:08x}" for n in range(BIG)]
    (d.state / "processed.txt").write_text("".join(f"{i}\n" for i in ids))
    moment = iso(now)
    entry = {"session_id": "s", "turn_count": 3, "first_seen_at": moment, "last_used_at": moment, "generation": 3}
    sessions = {f"thread-{n}": {**entry, "runtime": "command"} for n in range(BIG)}
    (d.state / "sessions.json").write_text(json.dumps(sessions))
    spend = {"turns": 1, "seconds": 12.5, "usage": {"input_tokens": 1000, "output_tokens": 200, "cost_usd": 0.01}}
    days = {moment[:10]: {"total": spend, "threads": {f"thread-{n}": spend for n in range(DAY)}}}
    (d.state / "usage.json").write_text(json.dumps({"days": days, "applied": []}))
    _turns(d, ids, now)
    events = "".join(_events(turn, moment) for turn in sorted(os.listdir(d.state / "turns"))[-500:])
    for name in ("log.jsonl", "log.jsonl.1", "log.jsonl.2", "log.jsonl.3"):
        (d.state / name).write_text(events * (ROTATE_AT_BYTES // len(events) - 1))
    d.send(thread="waits")
    waiting = next((d.root / "agents/coder/inbox/new").iterdir())
    cur = d.root / "agents/coder/inbox/cur"
    body = waiting.read_bytes()
    for message_id in ids:
        (cur / f"{message_id}.md").write_bytes(body)


def _turns(d: Desk, ids: list[str], now: float) -> None:
    import msgspec

    turns = d.state / "turns"
    turns.mkdir(mode=0o700)
    settlement = Settlement(Outcome.DONE, "", now, 12.5, finished=True, usage=Usage(1000, 200, 0.01))
    for n, message_id in enumerate(ids):
        turn_id = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now - (BIG - n) * 5)) + f"-{n:08x}"
        envelope = Envelope(message_id, f"thread-{n}", "user", now, order=message_id, locator=f"{message_id}.md")
        record = TurnRecord(turn_id, envelope, Phase.SETTLING, "command", now, settlement=settlement)
        path = turns / turn_id
        path.mkdir(mode=0o700)
        (path / "turn.json").write_bytes(msgspec.json.encode(record))
        (path / "settled").touch()


def _events(turn_id: str, moment: str) -> str:
    names = ("turn_claimed", "turn_started", "turn_ended", "item_delivered", "message_done", "turn_settled")
    return "".join(
        json.dumps({"ts": moment, "event": name, "turn_id": turn_id, "thread": "t"}) + "\n" for name in names
    )


async def _all_in_one(workdirs: list[str]) -> None:
    """The loops of many watchers in this process; it says so on stdout, and never ends by itself."""
    from agent_mailer.assemble import Workplace
    from agent_mailer.watch.watcher import Watcher

    watchers = []
    for workdir in workdirs:
        place = Workplace(Path(workdir))
        lock = place.lock()
        lock.acquire()
        place.folder.prepare()
        watchers.append(asyncio.ensure_future(Watcher(place.room(lock)).run()))
    await asyncio.sleep(1)
    assert not any(watcher.done() for watcher in watchers)
    print("all watch", flush=True)
    await asyncio.gather(*watchers)


if __name__ == "__main__":
    asyncio.run(_all_in_one(sys.argv[1:]))
