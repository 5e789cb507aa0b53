"""kill -9 at random moments of two agents that reserve the same files: nothing lost, and nothing left held."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import httpx
import pytest
from tests.broker_process import BrokerProcess
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.children import nursery
from tests.crash.loop import SEED, KillLoop, Victim
from tests.desk import Desk
from tests.sizes import LONG, SOAK

ROUNDS = [pytest.param(5, id="long", marks=LONG), pytest.param(50, id="soak", marks=SOAK)]
VICTIMS = (Victim.WATCHER, Victim.AGENT, Victim.HOLDER, Victim.TOOL, Victim.RECIPIENT, Victim.HANDED_OVER)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_both_are_killed_and_what_they_had_is_given_back(tmp_path: Path, rounds: int) -> None:
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
            loop.run(rounds, VICTIMS)
            loop.check()
        finally:
            print(f"\n{loop.report()}")
            loop.end()
    assert json.loads((desk.root / "meta" / "reservations.json").read_text()) == []


@pytest.mark.parametrize("rounds", ROUNDS)
def test_the_broker_that_keeps_them_is_killed_too(tmp_path: Path, rounds: int) -> None:
    (tmp_path / "project").mkdir()
    project = str((tmp_path / "project").resolve())
    chance = random.Random(SEED + 10)
    process = BrokerProcess(tmp_path / "data")

    def kill_broker() -> None:
        process.kill()
        time.sleep(chance.uniform(0.0, 0.3))  # how long it is away is part of the lot
        process.start()

    try:
        process.start()
        desk = BrokerMailDesk(tmp_path, process)
        desk.configure(project_dir=project, reserve=["src/**"])
        with nursery() as children:
            planner = {"address": desk.planner["address"], "agent_id": desk.planner["id"]}
            loop = KillLoop(
                desk,
                children,
                chance,
                parallel=1,
                sender=planner["address"],
                recipient=planner,
                kill_broker=kill_broker,
            )
            try:
                loop.run(rounds, (*VICTIMS, Victim.BROKER))
                loop.check()
            finally:
                print(f"\n{loop.report()}")
                loop.end()
                desk.close()

        def held() -> object:
            path = f"{process.url}/agents/{desk.coder['id']}/reservations"
            asked = httpx.get(path, params={"project": project}, headers=desk.account.as_agent, trust_env=False)
            return asked.raise_for_status().json()

        assert held() == []
    finally:
        process.end()
