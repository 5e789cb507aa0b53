"""What a turn costs beside what lies around it: mail that was read long ago, mail that waits, turns of history.

`GROWTH_SIZES="10 1000"` measures these sizes only.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.desk import Desk, until

from agent_mailer.events import EventName
from agent_mailer.names import new_turn_id
from benchmarks.measuring import cpu_seconds, resident_mib, row

SIZES = tuple(int(size) for size in os.environ.get("GROWTH_SIZES", "10 1000 10000 25000 100000").split())
MOST_TURNS = 25_000
TURNS = 10
IN_A_THREAD = 5
"""So many of what lies around belong together: a question, an answer, and so on."""


class Cost(NamedTuple):
    """`first`: seconds from the start of a watcher until its first turn is settled, `began` what of them was its CPU;
    `cpu` a later turn's, `memory` MiB in the end.
    """

    first: float
    began: float
    cpu: float
    memory: float


def growth() -> None:
    _curve("messages in the root", _lie, 1.2, ("first turn after a start", 1.0))
    _curve("messages waiting", _wait, 1.5, None)
    # Each is a folder of ten files; the guards do not let an agent run more in a month.
    few = [size for size in SIZES if size <= MOST_TURNS]
    _curve("turns of history", _remember, 1.2, ("first turn after a start", 0.6), few)


def _curve(
    what: str,
    fill: Callable[[Desk, int], None],
    wanted: float,
    start: tuple[str, float] | None,
    sizes: Sequence[int] = SIZES,
) -> None:
    floor: Cost | None = None
    for size in sizes:
        with _desk() as d:
            _begin(d)
            fill(d, size)
            # What is remembered of it from life to life is there from the second on.
            fresh, cost = _cost(d), _cost(d)
        floor = floor or cost
        ratio = cost.cpu / floor.cpu
        text = f"{ratio:.2f} x ({cost.cpu * 1e3:.1f} ms, {cost.memory:.0f} MiB)"
        row(f"{size:,} {what}: CPU of a turn", text, f"within {wanted} x", met=ratio <= wanted)
        if start is not None:
            text = f"{cost.first:.2f} s, CPU {cost.began:.2f} s (never seen: {fresh.first:.2f}, {fresh.began:.2f} s)"
            row(f"{size:,} {what}: {start[0]}", text, f"within {start[1]} s", met=cost.first <= start[1])


@contextmanager
def _desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        d = Desk(Path(folder))
        d.configure(command=["/bin/true"], guards={"turns_per_hour": 0})
        yield d


def _begin(d: Desk) -> None:
    """One turn, of which there can be many."""
    d.send(thread="first")
    d.once()


def _cost(d: Desk) -> Cost:
    before = len(d.log(EventName.TURN_SETTLED))
    d.send(thread="after-the-start", body="now")
    began = time.monotonic()
    with d.watching() as watcher:
        until(lambda: len(d.log(EventName.TURN_SETTLED)) > before, "the first turn", patience=600)
        first, began_cpu = time.monotonic() - began, cpu_seconds(watcher.pid)
        _rested(watcher.pid)
        spent = []
        for n in range(TURNS):
            known, cpu = len(d.log(EventName.TURN_SETTLED)), cpu_seconds(watcher.pid)
            d.send(thread=f"later-{n}")
            until(lambda known=known: len(d.log(EventName.TURN_SETTLED)) > known, "a turn", patience=600)
            _rested(watcher.pid)
            turns = len(d.log(EventName.TURN_SETTLED)) - known
            spent.append((cpu_seconds(watcher.pid) - cpu) / turns)
        return Cost(first, began_cpu, statistics.median(spent), resident_mib(watcher.pid))


def _rested(pid: int) -> None:
    """What follows a turn belongs to it; where other mail waits, the next turns do."""
    until_then = time.monotonic() + 1.0
    spent = cpu_seconds(pid)
    while time.monotonic() < until_then:
        time.sleep(0.1)
        if (now := cpu_seconds(pid)) == spent:
            return
        spent = now


def _lie(d: Desk, size: int) -> None:
    """Read mail: half of it in the agent's `cur`, half in that of those whom it answered."""
    theirs, ours = d.root / "agents/user/inbox/cur", d.root / "agents/coder/inbox/cur"
    for n, (name, data) in enumerate(_messages(next(ours.glob("*.md")), size)):
        ((ours if n % 2 else theirs) / name).write_bytes(data)


def _wait(d: Desk, size: int) -> None:
    new = d.root / "agents/coder/inbox/new"
    for name, data in _messages(next((d.root / "agents/coder/inbox/cur").glob("*.md")), size):
        (new / name).write_bytes(data)


def _messages(like: Path, size: int) -> Iterator[tuple[str, bytes]]:
    """As many messages as one that is there, each of its own id."""
    data, known = like.read_bytes(), like.stem
    thread = re.search(rb'"thread": *"[^"]*"', data)
    assert thread is not None
    for n in range(size):
        moment = f"2026-01-{1 + n // 5000:02d}T{n // 60 % 24:02d}-{n % 60:02d}-00.{n % 1000:03d}Z"
        name = f"{moment}_pid1_{n:08x}"
        named = data.replace(known.encode(), name.encode())
        yield f"{name}.md", named.replace(thread[0], b'"thread": "lain-%d"' % (n // IN_A_THREAD))


def _remember(d: Desk, size: int) -> None:
    """Turns of the last week, each as one that has run."""
    turns = d.state / "turns"
    [like] = [path for path in turns.iterdir() if path.is_dir()]
    record = (like / "turn.json").read_text()
    message = next((d.root / "agents/coder/inbox/cur").glob("*.md")).stem
    now = time.time()
    for n in range(size):
        moment = now - 7 * 86400 * (size - n) / size
        turn = new_turn_id(moment)
        path = turns / turn
        shutil.copytree(like, path)
        text = record.replace(like.name, turn).replace(message, f"{message[:-8]}{n:08x}")
        (path / "turn.json").write_text(re.sub(r'("claimed_at": )[0-9.]+', rf"\g<1>{moment}", text))
