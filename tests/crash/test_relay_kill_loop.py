"""kill -9 at random moments, mail at an Agent Relay server that is killed as well: nothing lost, no run too many.

Every other message is for whoever takes it, and has to be claimed there first. The fake gives the first message of a
key once more and commits at once, so nothing comes twice.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.crash.children import nursery
from tests.crash.loop import SEED, KillLoop, Victim
from tests.crash.relay_mail import PLANNER, RelayDesk
from tests.fake_relay import FakeProcess
from tests.sizes import LONG, SOAK

ROUNDS = (pytest.param(6, id="long", marks=LONG), pytest.param(100, id="soak", marks=SOAK))
VICTIMS = (Victim.WATCHER, Victim.AGENT, Victim.RECIPIENT, Victim.BROKER, Victim.WATCHER, Victim.HANDED_OVER)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_watchers_and_server_are_killed_and_every_message_is_answered_once(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(SEED + 5)
    process = FakeProcess(tmp_path / "base")

    def kill_server() -> None:
        process.kill()
        time.sleep(chance.uniform(0.0, 0.3))  # how long it is away is part of the lot
        process.start()

    try:
        process.start()
        desk = RelayDesk(tmp_path, process)
        with nursery() as children:
            recipient = {"address": PLANNER}
            loop = KillLoop(desk, children, chance, parallel=1, sender="", recipient=recipient, kill_broker=kill_server)
            try:
                loop.run(rounds, VICTIMS)
                loop.check()
            finally:
                print(f"\n{loop.report()}")
                loop.end()
    finally:
        process.kill()
