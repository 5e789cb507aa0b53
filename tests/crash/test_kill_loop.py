"""kill -9 of the watcher at random moments, with an outside witness: nothing lost, nothing twice, one run a message."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, until

from agent_mailer.events import EventName
from agent_mailer.process import members

ROUNDS = 25
ROUNDS_LONG = 200
THREADS = ("red", "green")
SEED = int(os.environ.get("KILL_LOOP_SEED", "20261121"))


@pytest.mark.parametrize(
    ("rounds", "parallel"),
    [
        pytest.param(ROUNDS, 1, id="serial"),
        pytest.param(ROUNDS_LONG, 2, id="long", marks=[pytest.mark.crash_long, pytest.mark.timeout(3600)]),
    ],
)
def test_only_the_watcher_is_killed_and_every_message_runs_exactly_once(
    tmp_path: Path, rounds: int, parallel: int
) -> None:
    chance = random.Random(SEED)
    desk = Desk(tmp_path)
    desk.configure(max_parallel_turns=parallel)
    desk.script({"witness": "start"}, {"sleep": 0.05}, {"witness": "end"}, {"print": "$AGENT_MAILER_MESSAGE_ID"})
    sent: list[tuple[str, str]] = []
    try:
        for _ in range(rounds):
            for thread in THREADS:
                if chance.random() < 0.7:
                    sent.append((thread, desk.send(thread=thread)))
            watcher = desk.start_watch()
            time.sleep(chance.uniform(0.2, 1.2))  # the kill is to fall anywhere, not on something observable
            watcher.send_signal(signal.SIGUSR1 if chance.random() < 0.1 else signal.SIGKILL)
            watcher.wait()
        _settle_all(desk, len(sent))
    finally:
        desk.end_turns()
    _check(desk, sent)


def _settle_all(desk: Desk, count: int) -> None:
    processed = desk.state / "processed.txt"
    with desk.watching():
        until(
            lambda: processed.exists() and len(processed.read_text().splitlines()) >= count and _nothing_open(desk),
            f"{count} settled messages",
        )


def _nothing_open(desk: Desk) -> bool:
    return all((turn / "settled").exists() for turn in (desk.state / "turns").iterdir())


def _check(desk: Desk, sent: list[tuple[str, str]]) -> None:
    ids = [message_id for _, message_id in sent]
    lines = (desk.state / "processed.txt").read_text().splitlines()
    assert sorted(lines) == sorted(ids), "every message is settled exactly once"
    assert not desk.log(EventName.DEAD_LETTER)
    answers = [message.body.strip() for message in desk.inbox()]
    assert sorted(answers) == sorted(ids), "no answer lost, none twice"
    marks = desk.marks()
    runs = [mark["message"] for mark in marks if mark["mark"] == "start"]
    assert sorted(runs) == sorted(ids), "exactly one run per message"
    for thread in THREADS:
        order = [message_id for name, message_id in sent if name == thread]
        assert [m for m in runs if m in order] == order, "a thread in its order"
        _no_overlap([mark for mark in marks if mark["message"] in order])
    for turn in (desk.state / "turns").iterdir():
        assert members(turn.name, None) == [], "no process left behind"


def _no_overlap(marks: list[dict[str, Any]]) -> None:
    """Start and end of one thread's turns alternate, and each end belongs to the start before it."""
    assert len(marks) % 2 == 0
    for start, end in zip(marks[::2], marks[1::2], strict=True):
        assert (start["mark"], end["mark"]) == ("start", "end")
        assert start["turn"] == end["turn"]


def test_the_agent_and_its_holder_are_killed_too(tmp_path: Path) -> None:
    """At most one run more for each kill of an agent; still no answer twice and nothing lost."""
    chance = random.Random(SEED + 1)
    desk = Desk(tmp_path)
    desk.configure(max_retries=50, max_starts=50, retry={"first": 1, "longest": 1})
    desk.script({"witness": "start"}, {"sleep": 0.3}, {"witness": "end"}, {"print": "$AGENT_MAILER_MESSAGE_ID"})
    ids = [desk.send(thread=f"t{n}") for n in range(4)]
    kills = 0
    try:
        for _ in range(6):
            with desk.watching() as watcher:
                seen = len(desk.marks())
                until(partial(_moved_on, desk, seen, ids), "a start")
                if _nothing_waits(desk, ids):
                    break
                victim = desk.marks()[-1]
                if chance.random() < 0.7:
                    kills += 1
                    _kill(victim["pid"] if chance.random() < 0.5 else os.getpgid(victim["pid"]))
                watcher.kill()
                watcher.wait()
                # The block ends what is left of the turns, as a reboot would: another kill of the agent.
                kills += 1
        _settle_all(desk, len(ids))
    finally:
        desk.end_turns()
    assert sorted((desk.state / "processed.txt").read_text().splitlines()) == sorted(ids)
    assert sorted(message.body.strip() for message in desk.inbox()) == sorted(ids)
    starts = [mark for mark in desk.marks() if mark["mark"] == "start"]
    assert len(ids) <= len(starts) <= len(ids) + kills


def _moved_on(desk: Desk, seen: int, ids: list[str]) -> bool:
    return len(desk.marks()) > seen or _nothing_waits(desk, ids)


def _nothing_waits(desk: Desk, ids: list[str]) -> bool:
    path = desk.state / "processed.txt"
    return path.exists() and len(path.read_text().splitlines()) >= len(ids)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
