"""kill -9 at random moments, mail at an Agent Relay server that is killed as well: nothing lost, no run too many.

Every other message is for whoever takes it, and has to be claimed there first. The fake gives the first message of a
key once more and commits at once, so nothing comes twice.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.crash.loop import SEED, Victim
from tests.crash.relay_mail import PLANNER, RelayDesk
from tests.crash.server_storm import storm
from tests.fake_relay import in_process
from tests.sizes import LONG, SOAK

ROUNDS = (pytest.param(6, id="long", marks=LONG), pytest.param(100, id="soak", marks=SOAK))
VICTIMS = (Victim.WATCHER, Victim.AGENT, Victim.RECIPIENT, Victim.BROKER, Victim.WATCHER, Victim.HANDED_OVER)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_watchers_and_server_are_killed_and_every_message_is_answered_once(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(SEED + 5)
    process = in_process(tmp_path / "base")
    try:
        process.start()
        storm(RelayDesk(tmp_path, process), process, chance, rounds, VICTIMS, recipient={"address": PLANNER})
    finally:
        process.kill()
