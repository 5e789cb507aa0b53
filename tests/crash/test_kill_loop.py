"""kill -9 at random moments over a folder mailbox, with an outside witness: nothing lost or twice, no run too many."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.crash.children import nursery
from tests.crash.loop import MANY, SEED, KillLoop, Victim
from tests.desk import Desk
from tests.sizes import sizes

ROUNDS = sizes(quick=6, long=25, soak=200)

WATCHERS = (Victim.WATCHER, Victim.WATCHER, Victim.HANDED_OVER, Victim.RECIPIENT)
EVERYBODY = (Victim.WATCHER, Victim.AGENT, Victim.HOLDER, Victim.TOOL, Victim.RECIPIENT)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_only_watchers_are_killed_and_every_message_runs_exactly_once(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 1 if rounds < MANY else 2, WATCHERS)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_everybody_is_killed_and_no_message_runs_more_often_than_kills_explain(tmp_path: Path, rounds: int) -> None:
    _storm(tmp_path, rounds, 2, EVERYBODY)


def _storm(base: Path, rounds: int, parallel: int, victims: tuple[Victim, ...]) -> None:
    with nursery() as children:
        desk = Desk(base)
        loop = KillLoop(
            desk,
            children,
            random.Random(SEED),
            parallel=parallel,
            sender="planner",
            recipient={"address": "planner"},
        )
        try:
            loop.run(rounds, victims)
            loop.check()
        finally:
            print(f"\n{loop.report()}")
            loop.end()
