"""kill -9 of the watcher at random moments, with an outside witness: nothing lost, nothing twice, one run a message."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tests.crash.loop import ANSWERS_WITH_ITS_ID, SEED, check, kill_the_watcher, settle_all
from tests.desk import Desk, until

ROUNDS = 25
ROUNDS_LONG = 200


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
    desk = Desk(tmp_path)
    desk.configure(max_parallel_turns=parallel)
    desk.script(*ANSWERS_WITH_ITS_ID)
    try:
        sent = kill_the_watcher(desk, random.Random(SEED), rounds)
        settle_all(desk, len(sent))
    finally:
        desk.end_turns()
    check(desk, sent)


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
        settle_all(desk, len(ids))
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
