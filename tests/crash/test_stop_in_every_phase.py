"""SIGTERM and SIGUSR1 at every point of a watcher's life: just before and just after each call on the disk.

Stopped, the watcher leaves no process behind and no attempt on the message; handing over, it leaves the agent at work,
and the next watcher adopts it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.crash.children import Children, nursery
from tests.crash.points import Act, Moment, Point, points
from tests.crash.turns import ANSWER, STAGED, Case, Rig, end_turns
from tests.desk import PATIENCE, Desk, until
from tests.proved import Harness, proved
from tests.sizes import sizes

from agent_mailer.events import EventName
from agent_mailer.process.tree import members

WORKS = 0.3
"""Seconds for which the agent works: long enough for a stop to meet it."""

STRIDES = sizes(quick=251, long=47, soak=1)
STRIDES_ADOPTED = sizes(quick=251, long=43, soak=1)
CASES = [msgspec.structs.replace(case, pause=WORKS) for case in (ANSWER, STAGED)]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with nursery() as found:
        yield found


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("act", [Act.STOP, Act.HAND_OVER], ids=lambda act: act.name.lower())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_in_a_turn(tmp_path: Path, children: Children, case: Case, act: Act, stride: int) -> None:
    names = Rig(children, tmp_path / "trace", case).trace()
    for point in points(names, act)[stride // 2 :: stride]:
        _one(children, tmp_path, case, point)


@pytest.mark.parametrize("stride", STRIDES_ADOPTED)
@pytest.mark.parametrize("act", [Act.STOP, Act.HAND_OVER], ids=lambda act: act.name.lower())
def test_in_an_adopted_turn(tmp_path: Path, children: Children, act: Act, stride: int) -> None:
    case = CASES[1]
    # The last call before the gate is opened. It obeys only then.
    running = Point("write .agent-mailer/inflight.json", 2, Moment.AFTER, Act.HAND_OVER)
    rig = Rig(children, tmp_path / "trace-adopted", case)
    assert rig.watch(running) in (0, 1)
    for point in points(rig.trace(), act)[stride // 2 :: stride]:
        _one(children, tmp_path, case, point, running)


@pytest.mark.parametrize("act", [Act.STOP, Act.HAND_OVER], ids=lambda act: act.name.lower())
@pytest.mark.parametrize("paused", [False, True], ids=["idle", "mail waits behind a pause"])
def test_with_nothing_under_way(tmp_path: Path, act: Act, paused: bool) -> None:
    desk = Desk(tmp_path)
    if paused:
        (desk.state / "pause.json").write_text('{"reason":"by_hand","since":1.0}')
        desk.send()
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        watcher.send_signal(getattr(signal, f"SIG{act.value}"))
        assert watcher.wait(PATIENCE) == 0
    assert not desk.log(EventName.TURN_CLAIMED)


def _one(children: Children, base: Path, case: Case, point: Point, earlier: Point | None = None) -> None:
    why = f"{case.name}: {point}" + (f", after {earlier}" if earlier else "")
    rig = Rig(children, base / "desk", case)
    try:
        if earlier is not None:
            assert rig.watch(earlier) in (0, 1), why
        status = rig.watch(point)
        # Before it obeys signals, a watcher has nothing to leave in order.
        unprepared = -int(getattr(signal, f"SIG{point.act.value}"))
        assert status in (0, 1, unprepared), f"{why}: {status}: {rig.words.read_text()}"
        if point.act is Act.STOP and status != unprepared:
            assert _at_work(rig.desk) == [], f"{why}: it has ended what it began"
        rig.recover()
        rig.check(why, most_runs=2 if point.act is Act.STOP else None)
        proved(Harness.STOPS, stops=1)
    except BaseException as error:
        error.add_note(why)
        end_turns(rig.desk)
        raise
    shutil.rmtree(rig.desk.base)


def _at_work(desk: Desk) -> list[int]:
    turns = desk.state / "turns"
    names = os.listdir(turns) if turns.exists() else []
    return [process.pid for name in names for process in members(name, None)]
