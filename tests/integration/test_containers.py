"""A watcher in a container: killed with all it has, stopped in a hurry, and process 1."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from tests import procfs
from tests.containers import Container, containers
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG
from tests.typed import COMMAND

from agent_mailer.events import EventName
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, send
from agent_mailer.process.tree import members
from agent_mailer.processes import first_started

__all__ = ["containers"]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@contextmanager
def contained(desk: Desk) -> Iterator[Container]:
    container = Container([COMMAND, "watch", "--no-interactive"], desk.workdir)
    try:
        yield container
    finally:
        container.kill()


def entry(desk: Desk, message: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((desk.state / "retries.json").read_text())[message]
    return found


def process_of(desk: Desk) -> tuple[str, ProcessIdentity]:
    turns = desk.place().state.turns
    [turn_id] = turns.open_ids()
    record = turns.load(turn_id)
    assert record is not None
    assert record.process is not None
    return turn_id, record.process


def test_a_process_of_another_container_is_another_life() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me.first == first_started()
    assert is_alive(ProcessIdentity(me.pid, me.started, me.boot)), "what an older version recorded counts by its boot"
    if me.first:
        assert not is_alive(ProcessIdentity(me.pid, me.started, me.boot, me.first + 1))


@LONG
@pytest.mark.usefixtures("containers")
def test_a_container_that_is_killed_again_and_again_costs_no_attempt(desk: Desk) -> None:
    desk.configure(max_retries=1)
    go = desk.base / "go"
    desk.script({"witness": "start"}, {"wait_for": str(go)}, {"print": "finished"})
    sent = desk.send()
    for runs in range(1, 4):
        with contained(desk):
            until(lambda runs=runs: len(desk.marks()) == runs, "the agent's start")  # type: ignore[misc]
    go.touch()
    with contained(desk):
        until(lambda: desk.inbox(), "the answer")
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 4, "the settlement")
    assert [event["outcome"] for event in desk.log(EventName.TURN_ENDED)] == ["interrupted"] * 3 + ["done"]
    assert [mail.body for mail in desk.inbox()] == ["finished\n"]
    assert sent in desk.place().state.processed


@LONG
@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_container_that_is_stopped_ends_its_turns_in_ten_seconds(desk: Desk, *, stubborn: bool) -> None:
    desk.script(
        *([{"ignore": ["TERM"]}] if stubborn else []), {"witness": "start"}, {"wait_for": str(desk.base / "no")}
    )
    sent = desk.send()
    with contained(desk) as container:
        until(desk.marks, "the agent's start")
        assert container.stop() == 0
    [stopping] = desk.log(EventName.WATCH_STOPPING)
    assert stopping["grace"] == 2
    assert desk.log(EventName.WATCH_STOPPED)
    assert [event["outcome"] for event in desk.log(EventName.TURN_ENDED)] == ["interrupted"]
    assert desk.log(EventName.TURN_ENDED)[0]["seconds"] < 9
    assert entry(desk, sent).get("attempts", 0) == 0
    assert not (desk.state / "stopping").exists()


GRACE = """
import os, sys
from pathlib import Path
from agent_mailer.assemble import Workplace

for manager in ({}, {"INVOCATION_ID": "of a service manager"}):
    os.environ.pop("INVOCATION_ID", None)
    os.environ.update(manager)
    for workdir in sys.argv[1:]:
        print(Workplace(Path(workdir)).policy().stop_grace)
"""


@pytest.mark.usefixtures("containers")
def test_in_a_container_a_stop_has_two_seconds_where_nobody_says_otherwise(desk: Desk) -> None:
    """As its process 1, and as the child of that."""
    other = Desk(desk.base / "other")
    other.configure(stop_grace=7)
    for above in ([], ["sh", "-c", '"$@"; :', "sh"]):
        words = [*above, sys.executable, "-c", GRACE, str(desk.workdir), str(other.workdir)]
        container = Container(words, desk.base, stdout=PIPE)
        try:
            assert container.said().split() == ["2.0", "7.0", "20.0", "7.0"]
        finally:
            container.kill()


@LONG
@pytest.mark.usefixtures("containers")
def test_as_process_one_the_watcher_reaps_what_it_inherits(desk: Desk) -> None:
    """What a killed holder knew of becomes ours, and what a person started in the container and left."""
    desk.shell('cat >/dev/null; (setsid sh -c "sleep 0.1" &); kill -9 $PPID; sleep 600')
    desk.configure(max_retries=0)
    desk.send()
    with contained(desk) as container:
        until(lambda: desk.log(EventName.TURN_SETTLED), "the settlement")
        first = container.first()
        until(lambda: not procfs.children(first), "nothing is left below process 1", 10)
        until(lambda: procfs.state(first) == "S", "it waits again", 10)


def test_a_watcher_that_is_ended_while_it_stops_costs_no_attempt(desk: Desk) -> None:
    desk.configure(max_retries=0, stop_grace=600)
    desk.script({"witness": "start"}, {"wait_for": str(desk.base / "no")})
    sent = desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        watcher.send_signal(signal.SIGTERM)
        until((desk.state / "stopping").exists, "the mark")
        turn_id, holder = process_of(desk)
        watcher.kill()
        watcher.wait()
        for process in members(turn_id, holder):
            send(process, signal.SIGKILL)
    go = desk.base / "no"
    go.touch()
    events = desk.once()
    assert outcomes(events) == ["interrupted", "done"]
    assert not (desk.state / "stopping").exists()
    assert sent in desk.place().state.processed


def test_what_outlived_a_watcher_that_stopped_is_judged_as_ever(desk: Desk) -> None:
    desk.configure(max_retries=0, stop_grace=600)
    go = desk.base / "go"
    desk.script({"witness": "start"}, {"wait_for": str(go)}, {"die": "KILL"})
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        watcher.send_signal(signal.SIGTERM)
        until((desk.state / "stopping").exists, "the mark")
        watcher.kill()
        watcher.wait()
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
            until(lambda: not (desk.state / "stopping").exists(), "the mark is taken away")
            go.touch()
            until(lambda: desk.log(EventName.TURN_ENDED), "the end")
    assert [event["outcome"] for event in desk.log(EventName.TURN_ENDED)] == ["crashed"]


def test_an_agent_that_is_signalled_with_its_watcher_was_stopped(desk: Desk) -> None:
    """A machine that goes down asks everybody to end."""
    desk.configure(max_retries=0, stop_grace=600)
    desk.script({"witness": "start"}, {"wait_for": str(desk.base / "no")})
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the agent's start")
        turn_id, holder = process_of(desk)
        watcher.send_signal(signal.SIGTERM)
        until((desk.state / "stopping").exists, "the mark")
        for process in members(turn_id, holder):
            send(process, signal.SIGTERM)
        assert watcher.wait(60) == 0
    assert [event["outcome"] for event in desk.log(EventName.TURN_ENDED)] == ["interrupted"]
    assert not (desk.state / "stopping").exists()


def test_an_idle_watcher_that_stops_writes_no_mark(desk: Desk) -> None:
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the start")
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(60) == 0
    assert not (desk.state / "stopping").exists()
