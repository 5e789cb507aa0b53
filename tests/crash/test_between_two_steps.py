"""A watcher that dies just between two steps of a turn whose order is a promise, each by its name."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.crash.children import Children, nursery
from tests.crash.points import Moment, Point
from tests.crash.turns import ANSWER, LIMITED, Case, Rig
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG

from agent_mailer.events import EventName
from agent_mailer.reservations.leases import Leases

KILLED = -signal.SIGKILL

RUNNING = "replace TURN/turn.json"
"""The first of this name publishes the record of the turn that runs: the claim is made without a rename."""

INDEX = "write .agent-mailer/inflight.json"
"""The last call on the disk before the gate is opened is the second of this name; the first follows the claim."""


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with nursery() as found:
        yield found


def test_no_agent_runs_before_the_record_of_its_turn_is_durable(tmp_path: Path, children: Children) -> None:
    """I3. An agent that runs behind the record's back would be taken for none, ended, and run a second time."""
    rig = Rig(children, tmp_path, ANSWER)
    assert rig.watch(Point(RUNNING)) == KILLED
    assert rig.runs() == 0, "an agent has run that no record knows"
    rig.recover()
    rig.check("before the record")


def test_no_turn_counts_as_settled_before_its_message_does(tmp_path: Path, children: Children) -> None:
    """Of a settled turn nobody takes up the rest: a message that it still had to finish would be nobody's."""
    rig = Rig(children, tmp_path, ANSWER)
    assert rig.watch(Point("write .agent-mailer/processed.txt")) == KILLED
    rig.recover()
    rig.check("before its message is settled")


def test_a_gate_that_was_never_opened_costs_no_attempt_and_no_start(tmp_path: Path, children: Children) -> None:
    rig = Rig(children, tmp_path, ANSWER)
    assert rig.watch(Point(INDEX, 2, Moment.AFTER)) == KILLED
    [turn] = rig.turns()
    store = rig.desk.place().state.turns
    left = store.load(turn)
    assert left is not None
    assert left.process is not None, "it stands as running"
    assert rig.runs() == 0
    assert outcomes(rig.desk.once()) == ["interrupted", "done"]
    rig.check("before the gate")
    [rerun] = [record for name in rig.turns() if name != turn and (record := store.load(name))]
    assert (rerun.attempt, rerun.starts) == (1, 1)


@pytest.mark.parametrize("by_itself", [True, False], ids=["it ends by itself", "the next watcher ends it"])
def test_why_a_turn_was_stopped_is_known_before_its_agent_hears_of_it(
    tmp_path: Path, children: Children, *, by_itself: bool
) -> None:
    """Else the next watcher takes the end that we have asked for for the agent's own, which costs an attempt."""
    desk = Desk(tmp_path)
    desk.configure(command_output="jsonl", stop_grace=0)
    begun, asked, go = (tmp_path / name for name in ("begun", "asked", "go"))
    # The second signal ends it.
    hears = f"trap ': >{asked}; trap - TERM' TERM"
    desk.shell(f"{hears}; cat >/dev/null; : >{begun}; until [ -e {go} ]; do sleep 0.01; done; exit 1")
    desk.send()
    argv = ("watch", "--no-interactive", "--workdir", str(desk.workdir))
    watcher = children.start(*argv, stderr=tmp_path / "stderr")
    try:
        until(begun.exists, "the agent's start")
        os.kill(watcher, signal.SIGTERM)
        until(asked.exists, "the first signal")
        os.kill(watcher, signal.SIGKILL)
        assert children.wait(watcher).status == KILLED
        [turn] = (desk.state / "turns").iterdir()
        if by_itself:
            go.touch()
            until((turn / "exit").exists, "the agent's end")
        desk.shell("""cat >/dev/null; echo '{"type":"result","text":"done"}'""")
        events = desk.once()
    finally:
        desk.end_turns()
    assert outcomes(events) == ["interrupted", "done"]
    [retry] = [event.fields for event in events if event.event is EventName.RETRY_SCHEDULED]
    assert retry["attempts"] == 0


def test_a_pause_that_a_person_has_ended_is_not_brought_back_by_an_old_settlement(
    tmp_path: Path, children: Children
) -> None:
    rig = Rig(children, tmp_path, LIMITED)
    assert rig.watch(Point("replace .agent-mailer/pause.json", moment=Moment.AFTER)) == KILLED
    assert rig.desk.place().state.pause.read() is not None
    rig.desk.resume()
    assert outcomes(rig.desk.once()) == ["done"]
    rig.check("after the pause")


_HOOK = f"{shlex.quote(sys.executable)} -I -m agent_mailer.reservations.hook $AGENT_MAILER_TURN_DIR"
# One file while a program's hook looks, and another where nobody does.
_TOUCHES = Case(
    "it writes what another has",
    f"""mkdir -p src; say '{{"hook_event_name":"PreToolUse","tool_use_id":"c"}}' | {_HOOK}; echo x >src/a
say '{{"hook_event_name":"PostToolUse","tool_use_id":"c"}}' | {_HOOK} >/dev/null; echo x >src/b
{ANSWER.script}""",
)


@pytest.mark.parametrize(
    "point",
    [
        # The agent has written, and nothing of it is known.
        Point("replace TURN/turn.json", 2),
        pytest.param(Point("replace TURN/turn.json", 2, Moment.AFTER), marks=LONG),
        pytest.param(Point("write .agent-mailer/log.jsonl", 6, Moment.AFTER), marks=LONG),
        pytest.param(Point("write .agent-mailer/processed.txt"), marks=LONG),
        pytest.param(Point("write .agent-mailer/processed.txt", 1, Moment.AFTER), marks=LONG),
    ],
    ids=str,
)
def test_what_changed_of_others_is_told_once_whoever_dies_in_between(
    tmp_path: Path, children: Children, point: Point
) -> None:
    rig = Rig(children, tmp_path, _TOUCHES)
    desk = rig.desk
    desk.tell()
    desk.configure(reservations=True)
    project = os.path.realpath(desk.workdir)
    planner = Leases(desk.root / "meta", desk.disk, FakeClock(), project=project, address="planner")
    assert asyncio.run(planner.take("", ["src/**"], 600.0)) == []
    assert rig.watch(point) == KILLED
    rig.recover()
    [event] = desk.log(EventName.RESERVATION_TOUCHED)
    assert event["file"] == "src/a src/b"
    [record] = [desk.place().state.turns.load(turn) for turn in rig.turns()]
    assert record is not None
    assert record.settlement is not None
    assert [one.by_call for one in record.settlement.touched] == [True, False]
    [answer] = desk.inbox()
    assert answer.body.count("files changed that others have reserved") == 1
    [told] = desk.inbox("planner")
    assert (told.body.count("src/a"), told.body.count("src/b")) == (1, 1)
    assert [one["kind"] for one in desk.notices()] == ["reserved"]
    rig.check(str(point))
