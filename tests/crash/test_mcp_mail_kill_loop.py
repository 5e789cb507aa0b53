"""kill -9 at random moments, mail at an mcp_agent_mail server that is killed as well: nothing lost, no run too many.

A watcher that is killed with a send under way may send it once more: its successor looks for it a moment later, and a
server that takes longer than that is beyond what a client can see. The fake commits at once, so nothing comes twice.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.crash.children import nursery
from tests.crash.loop import SEED, KillLoop, Victim
from tests.crash.mcp_mail import PLANNER, McpMailDesk
from tests.fake_mcp_mail import FakeProcess
from tests.sizes import sizes

ROUNDS = sizes(quick=2, long=15, soak=100)
VICTIMS = (Victim.WATCHER, Victim.AGENT, Victim.RECIPIENT, Victim.BROKER, Victim.WATCHER, Victim.HANDED_OVER)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_watchers_and_server_are_killed_and_every_message_is_answered_once(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(SEED + 3)
    process = FakeProcess(tmp_path / "base")

    def kill_server() -> None:
        process.kill()
        time.sleep(chance.uniform(0.0, 0.3))  # how long it is away is part of the lot
        process.start()

    try:
        process.start()
        desk = McpMailDesk(tmp_path, process)
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
