"""What it costs that no link is followed below a root: turns with and without roots, in one run."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.desk import Desk

from agent_mailer import beneath
from benchmarks.measuring import row

ROUNDS = 15
TURNS = 8
MOST = 1.02


def links() -> None:
    """The CPU of a turn in a folder mailbox, its programs included; both ways take turns: other load falls on both."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        base = Path(folder)
        _turns(base / "first")
        without, beside = [], []
        for number in range(ROUNDS):
            ways = ((beside, nullcontext), (without, _no_roots))
            for spent, way in ways if number % 2 else reversed(ways):
                with way():
                    spent.append(_turns(base / f"{number}-{len(spent)}-{way.__name__}"))
        calls = _calls(base / "counted")
        each = _one_open(base / "one") * 1e6
    ratio, least = min(beside) / min(without), min(without) / TURNS * 1e3
    text = f"{ratio:.3f} of {least:.1f} ms (medians {statistics.median(beside) / statistics.median(without):.3f})"
    row("a turn's CPU, with roots against without", text, f"at most {MOST}", met=ratio <= MOST)
    text = ", ".join(f"{number / TURNS:.0f} {what}" for what, number in calls.items())
    row("opened below a root, a turn", text, "-", met=True)
    row("one file opened below a root, over os.open", f"{each:+.1f} µs", "-", met=True)


def _turns(base: Path) -> float:
    base.mkdir()
    desk = Desk(base)
    desk.shell("cat >/dev/null; echo done")
    for number in range(TURNS):
        desk.send(thread=f"t{number}")
    began = _spent()
    desk.once()
    return _spent() - began


def _spent() -> float:
    """CPU seconds of this process and of what it has started."""
    one = os.times()
    return time.process_time() + one.children_user + one.children_system


@contextmanager
def _no_roots() -> Iterator[None]:
    kept, beneath._root_of = beneath._root_of, lambda _: None
    try:
        yield
    finally:
        beneath._root_of = kept


def _calls(base: Path) -> Counter[str]:
    """How often a turn asks."""
    counted: Counter[str] = Counter()
    known = beneath.open_file

    def counting(path: Path | str, flags: int, mode: int = 0o600) -> int:
        counted["folders" if flags & beneath._ONLY_NAME == beneath._ONLY_NAME else "files"] += 1
        return known(path, flags, mode)

    beneath.open_file = counting
    try:
        _turns(base)
    finally:
        beneath.open_file = known
    return counted


def _one_open(base: Path) -> float:
    path = base / "a" / "b" / "file"
    path.parent.mkdir(parents=True)
    path.touch()
    beneath.anchor(base)

    def many(opened: object) -> float:
        began = time.perf_counter()
        for _ in range(2000):
            os.close(opened(path, os.O_RDONLY))  # type: ignore[operator]
        return (time.perf_counter() - began) / 2000

    pairs = [(many(beneath.open_file), many(os.open)) for _ in range(7)]
    return statistics.median(one - other for one, other in pairs)
