"""Whatever a turn's agent left running, wherever it went, does not outlive the turn, however that ended."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, send

WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"orphan": True},
    {"session": True, "orphan": True},
    {"scrub": True},
    {"scrub": True, "orphan": True},
    {"scrub": True, "session": True},
    {"scrub": True, "session": True, "orphan": True},
)


class Scene:
    """An agent that leaves a process behind in every way there is, and then does as it is told."""

    def __init__(self, base: Path) -> None:
        self.desk = Desk(base)
        self.desk.configure(stop_grace=0)
        self.go = base / "go"
        self._pids = [base / f"left{number}" for number, _ in enumerate(WAYS)]

    def script(self, *then: dict[str, Any]) -> None:
        left = [
            {"spawn": {"pid_file": str(path), "seconds": 600, **how}}
            for path, how in zip(self._pids, WAYS, strict=True)
        ]
        self.desk.script(*left, {"witness": "start"}, *then)
        self.desk.send()

    def left(self) -> list[ProcessIdentity]:
        found = [identify(int(path.read_text())) for path in self._pids]
        assert None not in found
        return [process for process in found if process is not None]

    def holder(self) -> ProcessIdentity:
        [turn_id] = self.desk.place().state.turns.ids()
        record = self.desk.place().state.turns.load(turn_id)
        assert record is not None
        assert record.process is not None
        return record.process

    def nothing_lives(self) -> bool:
        """Of those that were left, by the pids they had."""
        found = [identify(int(path.read_text())) for path in self._pids]
        return not any(process is not None and is_alive(process) for process in found)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_after_a_turn_that_ended_well(scene: Scene) -> None:
    scene.script({"print": "done"})
    assert outcomes(scene.desk.once()) == ["done"]
    assert scene.nothing_lives()
    assert [mail.body for mail in scene.desk.inbox()] == ["done\n"]


def test_after_a_turn_that_crashed(scene: Scene) -> None:
    scene.script({"die": "KILL"})
    assert outcomes(scene.desk.once()) == ["crashed"]
    assert scene.nothing_lives()


def test_after_a_turn_whose_watcher_was_stopped(scene: Scene) -> None:
    scene.script({"wait_for": str(scene.go)})
    with scene.desk.watching() as watcher:
        until(scene.desk.marks, "the agent's start")
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(30) == 0
    assert scene.nothing_lives()


def test_after_a_turn_whose_holder_was_killed(scene: Scene) -> None:
    """What only the holder knew of is left to its watcher."""
    scene.script({"wait_for": str(scene.go)})
    with scene.desk.watching():
        until(scene.desk.marks, "the agent's start")
        assert send(scene.holder(), signal.SIGKILL)
        until(lambda: scene.desk.log(EventName.TURN_ENDED), "the end")
        assert scene.nothing_lives()
    assert scene.desk.log(EventName.TURN_ENDED)[0]["outcome"] == "crashed"


@pytest.mark.parametrize(
    "ended", [pytest.param(False, id="it runs", marks=LONG), pytest.param(True, id="it has ended")]
)
def test_after_an_adopted_turn(scene: Scene, *, ended: bool) -> None:
    scene.script({"wait_for": str(scene.go)}, {"print": "done"})
    with scene.desk.watching() as watcher:
        until(scene.desk.marks, "the agent's start")
        watcher.kill()
        watcher.wait()
        holder, [turn] = scene.holder(), list((scene.desk.state / "turns").iterdir())
        if ended:
            scene.go.touch()
            until((turn / "exit").exists, "the record of the agent's end")
            assert is_alive(holder), "it stays with what the agent has left"
            assert all(map(is_alive, scene.left()))
        with scene.desk.watching():
            until(lambda: scene.desk.log(EventName.TURN_ADOPTED), "the adoption")
            scene.go.touch()
            until(lambda: scene.desk.log(EventName.TURN_SETTLED), "the settlement")
            assert scene.nothing_lives()
            assert not is_alive(holder)
    [ended_event] = scene.desk.log(EventName.TURN_ENDED)
    assert ended_event["outcome"] == "done"


@LONG
def test_after_a_turn_that_was_stopped_by_hand_without_a_watcher(scene: Scene) -> None:
    scene.script({"wait_for": str(scene.go)})
    with scene.desk.watching() as watcher:
        until(scene.desk.marks, "the agent's start")
        watcher.kill()
        watcher.wait()
        holder, [turn_id] = scene.holder(), scene.desk.place().state.turns.ids()
        assert type_in(scene.desk.workdir, "turns", "stop", turn_id).status == 0
        assert scene.nothing_lives()
        assert not is_alive(holder)


@LONG
def test_a_holder_that_is_asked_to_go_stays_until_it_is_told(scene: Scene) -> None:
    """What ends all processes of the user, say, must not let those go that only the holder knows."""
    scene.script({"wait_for": str(scene.go)}, {"print": "done"})
    with scene.desk.watching() as watcher:
        until(scene.desk.marks, "the agent's start")
        watcher.kill()
        watcher.wait()
        holder, [turn] = scene.holder(), list((scene.desk.state / "turns").iterdir())
        scene.go.touch()
        until((turn / "exit").exists, "the record of the agent's end")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            assert send(holder, number)
        assert outcomes(scene.desk.once()) == ["done"]
        assert scene.nothing_lives()
