"""What the benchmarks share: timing, percentiles, reading a process's own accounts."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.desk import Desk

Measure = TypeVar("Measure")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median_of(times: int, work: Callable[[], object]) -> float:
    return statistics.median(seconds(work) for _ in range(times))


def alternating(times: int, first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Medians of two works done in turn, so that what else the machine does falls on both."""
    pairs = [(seconds(first), seconds(second)) for _ in range(times)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def settled(desk: Desk, measured: Callable[[Callable[[], object]], Measure]) -> tuple[int, Measure]:
    """Settle all that waits in this process; returns the fsyncs, and what `measured` says of it."""
    from agent_mailer.watch.watcher import Watcher

    place = desk.place()
    lock = place.lock()
    lock.acquire()
    place.folder.prepare()
    before = place.disk.syncs

    async def run() -> None:
        await Watcher(place.room(lock), once=True).run()

    cost = measured(lambda: asyncio.run(run()))
    lock.release()
    return place.disk.syncs - before, cost


def quiet(argv: Sequence[str], cwd: Path | None = None, *, ends: int = 0) -> None:
    """`ends`: the exit status that is no surprise."""
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == ends, done


def cpu_seconds(pid: int) -> float:
    """On-CPU time of all threads, in nanosecond steps (/proc/<pid>/schedstat counts one thread only)."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def write_calls(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["syscw"])


def row(name: str, measured: str, wanted: str, *, met: bool) -> None:
    print(f"{'ok  ' if met else 'MISS'} {name:<58} {measured:<34} wanted: {wanted}", flush=True)
