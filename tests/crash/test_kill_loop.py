"""kill -9 at random moments over a folder mailbox, with an outside witness: nothing lost or twice, no run too many."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.containers import containers
from tests.crash.children import nursery
from tests.crash.loop import MANY, SEED, KillLoop, Victim
from tests.desk import Desk
from tests.sizes import sizes

__all__ = ["containers"]

ROUNDS = sizes(quick=4, long=25, soak=200)

WATCHERS = (Victim.WATCHER, Victim.WATCHER, Victim.HANDED_OVER, Victim.RECIPIENT)
EVERYBODY = (Victim.WATCHER, Victim.AGENT, Victim.HOLDER, Victim.TOOL, Victim.RECIPIENT)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_only_watchers_are_killed_and_every_message_runs_exactly_once(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 1 if rounds < MANY else 2, WATCHERS)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_everybody_is_killed_and_no_message_runs_more_often_than_kills_explain(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 2, EVERYBODY)


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("rounds", sizes(quick=6, long=25, soak=200)[1:])
def test_whole_containers_are_killed_and_no_message_is_to_blame(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 2, (Victim.CONTAINER, Victim.CONTAINER, Victim.RECIPIENT), contained=True)


def _storm(base: Path, rounds: int, parallel: int, victims: tuple[Victim, ...], *, contained: bool = False) -> None:
    with nursery() as children:
        desk = Desk(base)
        loop = KillLoop(
            desk,
            children,
            random.Random(SEED),
            parallel=parallel,
            sender="planner",
            recipient={"address": "planner"},
            contained=contained,
        )
        try:
            loop.run(rounds, victims)
            loop.check()
            if contained:
                hopeless = loop.load.hopeless
                blamed = [record for record in loop.coder.records() if record.attempt > 1]
                assert {record.envelope.id for record in blamed} <= hopeless, "a killed container is nobody's fault"
        finally:
            print(f"\n{loop.report()}")
            loop.end()
