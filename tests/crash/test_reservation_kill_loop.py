"""kill -9 at random moments of two agents that reserve the same files: nothing lost, and nothing left held."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.crash.children import nursery
from tests.crash.loop import SEED, KillLoop, Victim
from tests.desk import Desk
from tests.sizes import LONG

pytestmark = LONG

ROUNDS = 10
VICTIMS = (Victim.WATCHER, Victim.AGENT, Victim.HOLDER, Victim.TOOL, Victim.RECIPIENT, Victim.HANDED_OVER)


def test_both_are_killed_and_what_they_had_is_given_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (tmp_path / "project").mkdir()
    desk.configure(project_dir=str(tmp_path / "project"), reserve=["src/**"])
    with nursery() as children:
        loop = KillLoop(
            desk,
            children,
            random.Random(SEED + 9),
            parallel=2,
            sender="planner",
            recipient={"address": "planner"},
        )
        try:
            loop.run(ROUNDS, VICTIMS)
            loop.check()
        finally:
            print(f"\n{loop.report()}")
            loop.end()
    assert json.loads((desk.root / "meta" / "reservations.json").read_text()) == []
