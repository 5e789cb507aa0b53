"""A watcher at its broker under schedules drawn from seeds: whatever breaks and whoever dies in whatever order, each
message is worked on once, in the order of its thread, and answered once, and each answer rings in one session, once.
"""

from __future__ import annotations

import gc
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.crash.broker_loop import Made, app_at, made_broker
from tests.crash.broker_schedule import BrokerScene
from tests.crash.scheduled import MANY, SEED, find_planted, in_memory, naming
from tests.proved import Harness, proved
from tests.sizes import LONG, sizes

RACES = {
    "after a lost connection what arrives wakes nobody": (
        "mailbox/amp/stream.py",
        'elif event.event == "mail":',
        'elif event.event == "mail" and self.connections == 1:',
    ),
    "an answer that may have arrived is sent again as another": (
        "mailbox/amp/delivery.py",
        '{"Idempotency-Key": payload.idempotency_key, ',
        '{"Idempotency-Key": str(id(object())) + str(self._clock.now()), ',
    ),
    "two sessions hear of one answer in one moment": (
        "live/doorbell.py",
        "elsewhere = self._sessions.told_elsewhere(session)\n            news",
        "elsewhere = frozenset[str]()\n            news",
    ),
    "a mailbox that is gone as the bell rings ends it": (
        "live/doorbell.py",
        "                    rung = Ring.FAILED\n",
        "                    return 0\n",
    ),
}

FIRST = {"a mailbox that is gone as the bell rings ends it": 60}
"""The rarest is looked for from a seed on that is near one which finds it."""


@contextmanager
def forgiving_the_dead() -> Iterator[None]:
    """Who dies closes nothing: the system does it for a process, and here nobody. Libraries that are ended in the
    middle of a step say so, as late as they are collected.
    """
    quiet = [patch.object(logging.getLogger(name), "disabled", True) for name in ("asyncio", "uvicorn.error")]
    with warnings.catch_warnings(), patch.object(sys, "unraisablehook", lambda _: None), quiet[0], quiet[1]:
        # A record that pytest keeps would keep their sockets until its own end.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    with in_memory() as place:
        yield place
    with forgiving_the_dead():
        # It knows the last that were connected.
        app_at.cache_clear()


@pytest.fixture(scope="module")
def made(memory: Path) -> Made:
    (memory / "made").mkdir()
    return made_broker(memory / "made")


def play(base: Path, made: Made, seed: int) -> BrokerScene:
    """One schedule and its promises. Raises AssertionError, which names the seed."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    scene = BrokerScene(base, made, seed)
    with forgiving_the_dead():
        try:
            with naming(seed, scene.told):
                scene.run()
                assert scene.faults() == []
        finally:
            scene.end()
    return scene


@pytest.mark.parametrize("schedules", sizes(quick=1, long=16, soak=1000))
def test_in_whatever_order_things_break_each_message_is_answered_once(memory: Path, made: Made, schedules: int) -> None:
    messages = 0
    for seed in range(SEED, SEED + (MANY or schedules)):
        messages += len(play(memory / "scene", made, seed).sent)
    proved(Harness.SCHEDULES, schedules=MANY or schedules, turns=messages)


@pytest.mark.long
def test_the_same_seed_is_the_same_schedule(memory: Path, made: Made) -> None:
    first, again, other = (play(memory / "scene", made, seed) for seed in (SEED, SEED, SEED + 1))
    assert first.trail == again.trail
    assert first.trail != other.trail


@LONG
@pytest.mark.long
@pytest.mark.parametrize("race", RACES)
def test_a_planted_race_is_found(tmp_path: Path, race: str) -> None:
    test = f"{Path(__file__)}::test_in_whatever_order_things_break_each_message_is_answered_once"
    find_planted(tmp_path, *RACES[race], test, 160, first=FIRST.get(race, 0))
