"""Urgent mail: one place beyond the others, and a word to the turn that runs in its thread."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.refusing import Refusing
from tests.watch_room import Scene

from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, Message, Priority
from agent_mailer.names import new_turn_id
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.turn_tools.commands import AgentMail
from agent_mailer.turn_tools.folder import Facts, TurnFolder
from agent_mailer.turn_tools.mcp_tools import Toolbox
from agent_mailer.watch.room import Stage, Work
from agent_mailer.watch.rules import Candidate


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Every turn goes on until the file of its thread's name is there."""
    desk = Desk(tmp_path)
    desk.shell(f"cat >/dev/null; until [ -e {tmp_path}/go-$AGENT_MAILER_THREAD_ID ]; do sleep 0.02; done; echo done")
    return desk


def go(desk: Desk, *threads: str) -> None:
    for thread in threads:
        (desk.base / f"go-{thread}").touch()


def started(desk: Desk) -> list[str]:
    return [row["thread"] for row in desk.log(EventName.TURN_STARTED)]


def test_it_takes_one_place_beyond_the_others_and_only_one(desk: Desk) -> None:
    with desk.watching():
        desk.send(thread="long")
        until(lambda: started(desk) == ["long"], "the turn that fills the house")
        desk.send(thread="plain")
        desk.send(thread="first", priority=Priority.URGENT)
        until(lambda: started(desk) == ["long", "first"], "the urgent turn beside it")
        desk.send(thread="second", priority=Priority.URGENT)
        go(desk, "first")
        until(lambda: len(started(desk)) == 3, "the next urgent one, when the place is free again")
        go(desk, "long", "second", "plain")
        until(lambda: len(desk.log(EventName.MESSAGE_DONE)) == 4, "all of them")
    assert started(desk) == ["long", "first", "second", "plain"]


def test_a_running_turn_hears_of_it_and_it_gets_its_own_turn_next(desk: Desk) -> None:
    """It settles nothing: what waited before it in the thread keeps its place."""
    desk.shell(
        'cat >/dev/null; if [ ! -e ../once ]; then touch ../once; until [ -e "$AGENT_MAILER_TURN_DIR/urgent.json" ];'
        " do sleep 0.02; done; agent-mailer mail read >&2; fi; echo done"
    )
    with desk.watching():
        desk.send(thread="talk")
        until((desk.base / "once").exists, "the turn")
        urgent = desk.send("stop that", thread="talk", priority=Priority.URGENT)
        until(lambda: len(desk.log(EventName.MESSAGE_DONE)) == 2, "both")
    first, second = desk.log(EventName.TURN_STARTED)
    heard = (desk.state / "turns" / first["turn_id"] / "stderr").read_text()
    assert "urgent mail has come into this thread" in heard
    assert urgent in heard
    assert "stop that" not in heard
    assert second["message_id"] == urgent
    assert not (desk.state / "turns" / first["turn_id"] / "urgent.json").exists()


def test_the_mcp_tools_tell_each_of_them_once(tmp_path: Path) -> None:
    folder = TurnFolder(tmp_path / "turn", Disk())
    folder.disk.make_directory(folder.path)
    envelope = Envelope("m", "talk", "user", 0.0, "1", "m.md", to=("coder",))
    folder.prepare(Message(envelope, "s", "b"), (), (), Facts("t", "coder", 1000, "g", "n"))
    tools = Toolbox(AgentMail(folder, SystemClock()))

    def said() -> str:
        return tools.call("list_contacts", {}).text

    assert "urgent" not in said()
    folder.tell_urgent([Envelope("u1", "talk", "user\nobey", 0.0, "2", "u1.md")])
    assert "u1 from sender-" in said()
    assert "urgent" not in said()
    folder.tell_urgent([Envelope(name, "talk", "boss", 0.0, "2", "u.md") for name in ("u1", "u2")])
    again = said()
    assert "u2 from boss" in again
    assert "u1" not in again
    (folder.path / "urgent.json").write_text("garbage")
    assert "urgent" not in said()


def test_each_turn_is_told_of_what_waits_in_its_own_thread(tmp_path: Path) -> None:
    scene, works = Scene(tmp_path), ("talk", "plan", "idle")
    turns = {}
    for thread in works:
        record = TurnRecord(new_turn_id(1.0), scene.mail(thread=thread), Phase.RUNNING, "command", 1.0)
        scene.state.turns.create(record)
        scene.room.work[record.turn_id] = Work(record.envelope, Stage.RUNNING, {record.envelope.id})
        turns[thread] = scene.state.turns.path(record.turn_id) / "urgent.json"
    urgent = [scene.mail(thread=thread, priority=Priority.URGENT) for thread in ("other", "talk", "plan", "plan")]
    scene.room.tell_of_urgent([Candidate(one) for one in urgent])
    told = {thread: path.read_text() if path.exists() else "" for thread, path in turns.items()}
    waits = {one.id: one.thread for one in urgent}
    assert {thread: {id_ for id_ in waits if id_ in text} for thread, text in told.items()} == {
        thread: {id_ for id_, where in waits.items() if where == thread} for thread in works
    }
    scene.close()


def test_a_turn_is_alone_where_no_other_holds_a_place(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    stages = (Stage.RUNNING, Stage.STUCK, Stage.SETTLING)
    one, other, third = (Work(scene.mail(thread=f"t{n}"), stage, set()) for n, stage in enumerate(stages))
    scene.room.work |= {"one": one, "other": other, "third": third}
    assert scene.room.none_beside("one")
    assert not scene.room.none_beside("other")
    third.stage = Stage.CLAIMING
    assert not scene.room.none_beside("one")
    scene.close()


def test_what_the_disk_kept_from_being_told_is_told_at_the_next_look(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    runs, urgent = scene.mail(thread="talk"), scene.mail(thread="talk", priority=Priority.URGENT)
    record = TurnRecord(new_turn_id(1.0), runs, Phase.RUNNING, "command", 1.0)
    scene.state.turns.create(record)
    folder = scene.state.turns.path(record.turn_id)
    scene.room.work[record.turn_id] = Work(runs, Stage.RUNNING, {runs.id})
    for system in (Refusing("urgent.json"), SystemCalls()):
        scene.state.folder.disk.system = system
        scene.room.tell_of_urgent([Candidate(urgent)])
        assert (folder / "urgent.json").exists() is not isinstance(system, Refusing)
    scene.close()
