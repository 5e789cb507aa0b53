"""kill -9 at random moments, mail at an mcp_agent_mail server that is killed as well: nothing lost, no run too many.

A watcher that is killed with a send under way may send it once more: its successor looks for it a moment later, and a
server that takes longer than that is beyond what a client can see. The fake commits at once, so nothing comes twice.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.crash.loop import SEED, Victim
from tests.crash.mcp_mail import PLANNER, McpMailDesk
from tests.crash.server_storm import storm
from tests.fake_mcp_mail import in_process
from tests.sizes import sizes

ROUNDS = sizes(quick=1, long=10, soak=100)
VICTIMS = (Victim.WATCHER, Victim.AGENT, Victim.RECIPIENT, Victim.BROKER, Victim.WATCHER, Victim.HANDED_OVER)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_watchers_and_server_are_killed_and_every_message_is_answered_once(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(SEED + 3)
    process = in_process(tmp_path / "base")
    try:
        process.start()
        storm(McpMailDesk(tmp_path, process), process, chance, rounds, VICTIMS, recipient={"address": PLANNER})
    finally:
        process.kill()
