"""A watcher at its broker under schedules drawn from seeds: whatever breaks in whatever order, each message is
worked on once, in the order of its thread, and answered once.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.broker_schedule import BrokerScene, Made, made_broker
from tests.proved import Harness, proved
from tests.sizes import LONG, sizes

import agent_mailer

SEED = int(os.environ.get("SCHEDULE_SEED", "20261128"))
"""The first of as many as are asked for; with `SCHEDULES=1` that one alone."""
MANY = int(os.environ.get("SCHEDULES", "0"))
FOLDER = Path(agent_mailer.__file__).parent

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
}


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """In memory, where there is such a place: nothing here is about what survives a power failure."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def made(memory: Path) -> Made:
    (memory / "made").mkdir()
    return made_broker(memory / "made")


def play(base: Path, made: Made, seed: int) -> BrokerScene:
    """One schedule and its promises. Raises AssertionError, which names the seed."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    scene = BrokerScene(base, made, seed)
    with warnings.catch_warnings():
        # Who dies closes nothing: the system does it for a process, and here nobody.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            scene.run()
            assert scene.faults() == []
        except BaseException as fault:
            fault.add_note(f"SCHEDULE_SEED={seed} SCHEDULES=1 repeats it: {', '.join(scene.told())}, with {FOLDER}")
            raise
        finally:
            scene.end()
            gc.collect()
    return scene


@pytest.mark.parametrize("schedules", sizes(quick=2, long=30, soak=1000))
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
    copy = tmp_path / "src" / "agent_mailer"
    shutil.copytree(FOLDER, copy)
    shutil.copytree(FOLDER.parents[1] / "templates", tmp_path / "templates")
    module, right, wrong = RACES[race]
    text = (copy / module).read_text()
    assert text.count(right) == 1
    (copy / module).write_text(text.replace(right, wrong))
    env = {**os.environ, "PYTHONPATH": str(copy.parent), "SCHEDULES": "40", "SCHEDULE_SEED": "0"}
    name = f"{Path(__file__)}::test_in_whatever_order_things_break_each_message_is_answered_once"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "quick", name],
        cwd=Path(__file__).parents[2],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert str(copy) in done.stdout, "it was the copy that failed"
    assert "SCHEDULES=1 repeats it" in done.stdout
