"""kill -9 of the watcher and of its broker at random moments: nothing lost, nothing twice, one run a message."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.broker_process import BrokerProcess
from tests.crash.broker_mail import BrokerMailDesk, killed_at_random
from tests.crash.loop import ANSWERS_WITH_ITS_ID, SEED, check, kill_the_watcher, settle_all

ROUNDS = 14
ROUNDS_LONG = 200


@pytest.mark.parametrize(
    ("rounds", "parallel"),
    [
        pytest.param(ROUNDS, 1, id="serial"),
        pytest.param(ROUNDS_LONG, 2, id="long", marks=[pytest.mark.crash_long, pytest.mark.timeout(3600)]),
    ],
)
def test_watcher_and_broker_are_killed_and_every_message_runs_exactly_once(
    tmp_path: Path, rounds: int, parallel: int
) -> None:
    process = BrokerProcess(tmp_path / "data")
    try:
        process.start()
        desk = BrokerMailDesk(tmp_path, process)
        desk.configure(max_parallel_turns=parallel)
        desk.script(*ANSWERS_WITH_ITS_ID)
        try:
            with killed_at_random(process, random.Random(SEED + 2)) as kills:
                sent = kill_the_watcher(desk, random.Random(SEED), rounds)
            assert len(kills) >= rounds // 3
            settle_all(desk, len(sent))
        finally:
            desk.end_turns()
        check(desk, sent)
        desk.close()
        assert "Traceback" not in process.said()
    finally:
        process.end()
