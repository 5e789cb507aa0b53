"""Every I/O call of a story fails once, and from then on: n = 1, 2, 3 ... until no fault fires.

Every few of them, each with one fault or another by lot; in the soak all, with every fault.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.crash.faults import Kind, Lasting, QuickFaultySystem
from tests.crash.scenarios import Expected, Scenario, content, new_desk, played, recover, verify
from tests.desk import Desk
from tests.proved import Harness, proved
from tests.sizes import SOAK, sizes

from agent_mailer import events
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.watch.watcher import Watcher

MOST_CALLS = 1000
"""Far above what one story makes; that a loop ends before it shows that every call was reached."""

SEED = int(os.environ.get("FAULTS_SEED", "20261121"))
FAULTS = [(kind, lasting) for kind in Kind for lasting in Lasting]
TROUBLED = 0.15
"""How long a watcher is watched on a disk that fails for good."""


class Faulted:
    """A stage over a disk that fails. Where the fault lasts, a watcher is left in the middle, as a kill would."""

    def __init__(self, desk: Desk, system: QuickFaultySystem) -> None:
        self.desk = desk
        self.system = system
        self.disk = Disk(system)
        self.marks: set[str] = set()

    def mark(self, name: str) -> None:
        self.marks.add(name)

    def watch(self, ahead: float = 0.0) -> None:
        place = self.desk.place(FakeClock(time.time() + ahead))
        place.disk.system = self.system
        lock = place.lock()
        lock.acquire()

        async def run() -> None:
            room = place.room(lock, msgspec.structs.replace(place.policy(), trouble_first=0.01, trouble_longest=0.02))
            watcher = Watcher(room, once=True)
            task = asyncio.create_task(watcher.run())
            deadline = time.monotonic() + 30
            while not task.done() and time.monotonic() < deadline:
                await asyncio.wait({task}, timeout=0.05)
                if self.system.fired and self.system.lasting is Lasting.FROM_THEN_ON:
                    deadline = min(deadline, time.monotonic() + TROUBLED)
            if not task.done():
                assert self.system.fired
                assert self.system.lasting is Lasting.FROM_THEN_ON
                watcher.hand_over()
            await task

        # Made before the fault: a process that gets no descriptor any more makes no loop.
        with asyncio.Runner() as runner:
            runner.get_loop()
            try:
                place.prepare()
                runner.run(run())
            finally:
                self.system.end()
                lock.release()


class Story:
    """One scenario, prepared once and played from the same beginning each time."""

    def __init__(self, scenario: Scenario, base: Path) -> None:
        self.scenario = scenario
        self.desk = new_desk(base / "desk")
        self.expected: list[Expected] = scenario.prepare(self.desk)
        self._saved = base / "saved"
        shutil.copytree(self.desk.base, self._saved)

    def play(self, at: int, kind: Kind, lasting: Lasting) -> QuickFaultySystem:
        """Play it with one fault, recover, and assert what must hold."""
        shutil.rmtree(self.desk.base)
        shutil.copytree(self._saved, self.desk.base)
        system = QuickFaultySystem(at, kind, lasting)
        stage = Faulted(self.desk, system)
        why = f"{self.scenario.name}: call {at} fails, {kind.name} {lasting.value}"
        try:
            try:
                self.scenario.act(stage)
            except (OSError, MailerError):
                assert system.fired
            finally:
                system.end()
            self.scenario.at_once(self.desk, stage.marks)
            recover(self.desk)
            verify(self.desk, self.expected, stage.marks, Counter(), why)
            self.scenario.holds(self.desk, stage.marks)
            before = content(self.desk)
            recover(self.desk)
            assert content(self.desk) == before, f"{why}: recovered twice"
        except BaseException as fault:
            fault.add_note(why)
            raise
        return system


@pytest.fixture(params=played())
def story(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setattr(events, "ROTATE_AT_BYTES", 5000)
    assert isinstance(request.param, Scenario)
    return Story(request.param, tmp_path)


@pytest.mark.parametrize("stride", sizes(quick=80, long=12))
def test_a_fault_now_and_then_is_survived(story: Story, stride: int) -> None:
    chance = random.Random(f"{SEED}{story.scenario.name}")
    whole = story.play(MOST_CALLS, Kind.EIO, Lasting.ONCE)
    writes = story.play(MOST_CALLS, Kind.SHORT, Lasting.ONCE)
    assert not whole.fired
    assert not writes.fired
    print(f"\n{story.scenario.name}: {whole.calls} calls")
    faults: list[tuple[Kind, Lasting]] = []
    failed = 0
    for call in range(chance.randrange(stride), whole.calls, stride):
        faults = faults or chance.sample(FAULTS, len(FAULTS))
        kind, lasting = faults.pop()
        at = 1 + (call * writes.calls // whole.calls if kind is Kind.SHORT else call)
        failed += story.play(at, kind, lasting).fired
    proved(Harness.CALLS_FAIL, calls_that_failed=failed)


@SOAK
@pytest.mark.parametrize("lasting", list(Lasting), ids=lambda lasting: lasting.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_every_call_fails(story: Story, kind: Kind, lasting: Lasting) -> None:
    for at in itertools.count(1):
        assert at < MOST_CALLS
        if not story.play(at, kind, lasting).fired:
            print(f"\n{story.scenario.name}: {kind.name} {lasting.value} at each of {at - 1} calls")
            assert at > 15, "a story makes more calls than this"
            proved(Harness.CALLS_FAIL, calls_that_failed=at - 1)
            return
