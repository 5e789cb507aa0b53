"""Figures of one turn: what supervision adds to a start, costs in memory, and takes to end everything."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.desk import Desk, until

from agent_mailer.clock import from_iso
from agent_mailer.events import EventName
from benchmarks.measuring import percentile, resident_mib, row

TURNS = 30
BIG_OUTPUT = 200_000_000


def start() -> None:
    """From the claim to the agent's first byte, beside the same program started by hand."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        d = Desk(Path(folder))
        first = d.base / "first"
        d.configure(command=["/bin/sh", "-c", f"date +%s%N >>{first}"])
        for n in range(TURNS):
            d.send(thread=f"t{n}")
        with d.watching():
            until(lambda: len(d.log(EventName.TURN_SETTLED)) == TURNS, "the turns")
        claims = [float(entry) for entry in _claim_moments(d)]
        starts = [int(line) / 1e9 for line in first.read_text().split()]
        by_hand: list[float] = []
        for _ in range(TURNS):
            began = time.time()
            end = subprocess.run(["/bin/sh", "-c", "date +%s%N"], capture_output=True, check=True).stdout
            by_hand.append(int(end) / 1e9 - began)
    added = [s - c for s, c in zip(starts, claims, strict=True)]
    middle = (statistics.median(added) - statistics.median(by_hand)) * 1e3
    text = f"{middle:.1f} ms (p95 {percentile(added, 0.95) * 1e3:.1f} ms in all)"
    row("claim to first byte, over a start by hand", text, "under 60 ms", met=middle < 60)


def _claim_moments(d: Desk) -> list[float]:
    """When each claim was begun: the records' own moments, in the order of the starts."""
    turns = sorted((from_iso(r["ts"]), str(r["turn_id"])) for r in d.log(EventName.TURN_STARTED))
    records = (d.place().state.turns.load(turn_id) for _, turn_id in turns)
    return [record.claimed_at for record in records if record is not None]


def memory() -> None:
    """The watcher's memory through a turn that prints 200 MB of events."""
    line = '{"type":"progress","text":"' + "x" * 970 + '"}'
    script = f"""yes '{line}' | head -c {BIG_OUTPUT}; echo; echo '{{"type":"result","outcome":"done"}}'"""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        d = Desk(Path(folder))
        d.configure(command=["/bin/true"], command_output="jsonl")
        with d.watching() as watcher:
            d.send()
            until(lambda: d.log(EventName.TURN_SETTLED), "the first turn")
            before = resident_mib(watcher.pid)
            d.configure(command=["/bin/sh", "-c", script])
        with d.watching() as watcher:
            d.send()
            most = 0.0
            while len(d.log(EventName.TURN_ENDED)) < 2:
                most = max(most, resident_mib(watcher.pid))
                time.sleep(0.05)
    grown = most - before
    row("watcher's memory in a turn of 200 MB, over idle", f"{grown:+.1f} MiB", "within 10 MiB", met=grown <= 10)


def ending() -> None:
    """From the decision to end a turn to no survivor, when everything ignores INT and TERM."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        d = Desk(Path(folder))
        child = {"spawn": {"session": True, "orphan": True, "ignore_term": True}}
        d.script({"ignore": ["TERM", "INT"]}, child, child, {"wait_for": str(d.base / "never")})
        d.configure(turn_timeout=1)
        d.send()
        d.once()
        [stopping], [ended] = d.log(EventName.TURN_STOPPING), d.log(EventName.TURN_ENDED)
        took = from_iso(str(ended["ts"])) - from_iso(str(stopping["ts"]))
    row("from the decision to end a turn to no survivor", f"{took:.2f} s", "under 8 s", met=took < 8)
