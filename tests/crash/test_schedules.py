"""The real watcher under schedules drawn from seeds: whatever order its tasks run in, each message comes to one end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.schedule import Scene
from tests.crash.scheduled import MANY, SEED, find_planted, in_memory, naming
from tests.crash.test_model import check, check_ends, to_do
from tests.proved import Harness, proved
from tests.sizes import LONG, sizes

RACES = {
    "a wake that came during the look is lost": (
        "            async with asyncio.timeout(seconds):\n                await self._wake.wait()",
        "            self._wake.clear()\n            async with asyncio.timeout(seconds):\n"
        "                await self._wake.wait()",
    ),
    "a thread is free as soon as its turn has ended": (
        "{work.envelope.thread for work in room.work.values()}",
        "{work.envelope.thread for work in room.work.values() if work.holds_place}",
    ),
}
"""What is planted in `watch/watcher.py`."""


def play(base: Path, seed: int) -> Scene:
    """One schedule and its promises. Raises AssertionError, which names the seed."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    scene = Scene(base, seed)
    try:
        with naming(seed, scene.told):
            scene.run()
            if to_do(scene.world):
                # What a mailbox did not take off its list, though it is settled, goes at the next look.
                scene.world.tick()
            check(scene.world)
            check_ends(scene.world)
            assert not to_do(scene.world), "something is left to do"
            assert not scene.left_running(), "a process is left"
    finally:
        scene.world.end()
    return scene


@pytest.fixture
def place() -> Iterator[Path]:
    with in_memory() as memory:
        yield memory / "scene"


@pytest.mark.parametrize("schedules", sizes(quick=30, long=1000, soak=20_000))
def test_in_whatever_order_things_happen_each_message_comes_to_its_one_end(place: Path, schedules: int) -> None:
    turns = 0
    for seed in range(SEED, SEED + (MANY or schedules)):
        turns += len(play(place, seed).world.runs())
    proved(Harness.SCHEDULES, schedules=MANY or schedules, turns=turns)


def test_the_same_seed_is_the_same_schedule(place: Path) -> None:
    first, again, other = (play(place, seed) for seed in (SEED, SEED, SEED + 1))
    assert first.trail == again.trail
    assert first.trail != other.trail


@LONG
@pytest.mark.long
@pytest.mark.parametrize("race", RACES)
def test_a_planted_race_is_found(tmp_path: Path, race: str) -> None:
    test = f"{Path(__file__)}::test_in_whatever_order_things_happen_each_message_comes_to_its_one_end"
    find_planted(tmp_path, "watch/watcher.py", *RACES[race], test, 600)
