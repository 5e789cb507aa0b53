"""kill -9 at random moments, mail at a broker that is killed as well: nothing lost, nothing twice, no run too many."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.broker_process import BrokerProcess
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.children import nursery
from tests.crash.loop import SEED, KillLoop, Victim

ROUNDS = 25
ROUNDS_LONG = 200
LONG = [pytest.mark.crash_long, pytest.mark.timeout(3600)]

WATCHERS = (Victim.WATCHER, Victim.WATCHER, Victim.HANDED_OVER, Victim.RECIPIENT, Victim.BROKER)
EVERYBODY = (Victim.WATCHER, Victim.AGENT, Victim.HOLDER, Victim.TOOL, Victim.RECIPIENT, Victim.BROKER)


@pytest.mark.parametrize(("rounds", "parallel"), [(ROUNDS, 1), pytest.param(ROUNDS_LONG, 2, marks=LONG)])
def test_watchers_and_broker_are_killed_and_every_message_runs_exactly_once(
    tmp_path: Path, rounds: int, parallel: int
) -> None:
    _storm(tmp_path, rounds, parallel, WATCHERS)


@pytest.mark.parametrize(("rounds", "parallel"), [(ROUNDS, 2), pytest.param(ROUNDS_LONG, 2, marks=LONG)])
def test_everybody_and_the_broker_are_killed(tmp_path: Path, rounds: int, parallel: int) -> None:
    _storm(tmp_path, rounds, parallel, EVERYBODY)


def _storm(base: Path, rounds: int, parallel: int, victims: tuple[Victim, ...]) -> None:
    chance = random.Random(SEED + 2)
    process = BrokerProcess(base / "data")

    def kill_broker() -> None:
        process.kill()
        time.sleep(chance.uniform(0.0, 0.3))
        process.start()

    try:
        process.start()
        desk = BrokerMailDesk(base, process)
        with nursery() as children:
            loop = KillLoop(
                desk,
                children,
                chance,
                parallel=parallel,
                sender=desk.planner["address"],
                recipient={"address": desk.planner["address"], "agent_id": desk.planner["id"]},
                kill_broker=kill_broker,
            )
            try:
                loop.run(rounds, victims)
                loop.check()
            finally:
                print(f"\n{loop.report()}")
                loop.end()
                desk.close()
        assert "Traceback" not in process.said()
    finally:
        process.end()
