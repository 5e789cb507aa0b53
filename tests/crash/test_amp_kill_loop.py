"""kill -9 at random moments, mail at a broker that is killed as well: nothing lost, nothing twice, no run too many."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.broker_process import BrokerProcess
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.loop import MANY, SEED, Victim
from tests.crash.server_storm import storm
from tests.sizes import sizes

ROUNDS = sizes(quick=2, long=15, soak=200)

WATCHERS = (Victim.WATCHER, Victim.WATCHER, Victim.HANDED_OVER, Victim.RECIPIENT, Victim.BROKER)
EVERYBODY = (Victim.WATCHER, Victim.AGENT, Victim.HOLDER, Victim.TOOL, Victim.RECIPIENT, Victim.BROKER)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_watchers_and_broker_are_killed_and_every_message_runs_exactly_once(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 1 if rounds < MANY else 2, WATCHERS)


@pytest.mark.parametrize("rounds", ROUNDS[1:])
def test_everybody_and_the_broker_are_killed(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 2, EVERYBODY)


def _storm(base: Path, rounds: int, parallel: int, victims: tuple[Victim, ...]) -> None:
    chance = random.Random(SEED + 2)
    process = BrokerProcess(base / "data")
    try:
        process.start()
        desk = BrokerMailDesk(base, process)
        recipient = {"address": desk.planner["address"], "agent_id": desk.planner["id"]}
        try:
            sender = desk.planner["address"]
            storm(desk, process, chance, rounds, victims, recipient=recipient, sender=sender, parallel=parallel)
        finally:
            desk.close()
        assert "Traceback" not in process.said()
    finally:
        process.end()
