"""A person stops one turn: its tree ends, it is interrupted, and what he asked for its message happens, once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import Desk, outcomes, until
from tests.integration.test_codex_fence import CodexDesk
from tests.integration.test_odd_surroundings import once
from tests.typed import type_in

from agent_mailer.desk.doing import do
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Envelope, Kind, Message
from agent_mailer.names import new_turn_id
from agent_mailer.process.holder import TURN_ID_VARIABLE
from agent_mailer.process.tree import members
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.state.records import AfterStop, Phase, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply

LONG = "300"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Its agent works for ever at first, and is quick in every later turn."""
    desk = Desk(tmp_path)
    ran = tmp_path / "ran"
    desk.shell(f"cat >/dev/null; if [ -e {ran} ]; then echo done; exit 0; fi; touch {ran}; sleep {LONG} & sleep {LONG}")
    return desk


def running(desk: Desk) -> str:
    """The turn, once its agent is at work."""
    until((desk.base / "ran").exists, "the agent")
    until(lambda: desk.log(EventName.TURN_STARTED), "the watcher says so a moment later")
    return str(desk.log(EventName.TURN_STARTED)[-1]["turn_id"])


def stop(desk: Desk, turn: str, *words: str) -> None:
    said = type_in(desk.workdir, "turns", "stop", turn, *words)
    assert said.status == 0, said
    assert "is being stopped" in said.out


def answers(desk: Desk) -> list[Message]:
    return desk.inbox()


def test_it_runs_again_and_costs_no_attempt(desk: Desk) -> None:
    desk.send()
    with desk.watching():
        turn = running(desk)
        stop(desk, turn)
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the second turn's end")
        refused = type_in(desk.workdir, "turns", "stop", turn)
    assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["interrupted", "done"]
    assert [row["attempt"] for row in desk.log(EventName.TURN_CLAIMED)] == [1, 1]
    assert desk.log(EventName.TURN_STOPPING)[0]["reason"] == "by_hand"
    assert not desk.log(EventName.SURVIVORS)
    assert [answer.body for answer in answers(desk)] == ["done\n"]
    assert refused.status == 1
    assert "has ended: interrupted" in refused.out


def test_a_program_hears_it_by_the_signal_at_which_it_takes_its_tools_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    desk, heard = CodexDesk(tmp_path), tmp_path / "heard"
    traps = " ".join(f"trap 'echo {name} >>{heard}; exit 1' {name};" for name in ("INT", "TERM"))
    works = f"cat >/dev/null; {traps} touch {tmp_path}/ran; while :; do sleep 0.05; done"
    (tmp_path / "codex").write_text(f"#!/bin/sh\n[ $1 != sandbox ] || exit 0\ncase $* in *exec*) {works};; esac\n")
    desk.send()
    with desk.watching():
        stop(desk, running(desk), "--drop")
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
    assert heard.read_text() == "INT\n"


def test_it_is_dropped_and_its_sender_told(desk: Desk) -> None:
    sent = desk.send()
    with desk.watching():
        stop(desk, running(desk), "--drop", "--reason", "not for us")
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
    [told] = answers(desk)
    assert told.envelope.automatic is Automatic.NOTICE
    assert "dropped by hand" in told.body
    assert "not for us" in told.body
    state = desk.place().state
    assert sent in state.processed
    assert state.dead_letters.all() == []
    assert outcomes(desk.once()) == []
    assert len(answers(desk)) == 1


def test_its_sender_is_asked_and_an_answer_takes_the_work_up(desk: Desk) -> None:
    desk.send(thread="talk")
    with desk.watching():
        turn = running(desk)
        stop(desk, turn, "--ask", "--reason", "too\nexpensive?")
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the question")
        [asked] = answers(desk)
        assert asked.envelope.kind is Kind.QUESTION
        assert "too expensive?" in asked.body
        assert [question.thread for question in desk.place().state.questions.all()] == ["talk"]
        commands = (["status"], ["turns", "show", turn], ["turns", "thread", "talk"])
        shown = [type_in(desk.workdir, *words).out for words in commands]
        assert [text.count("before its end. Reason: too expensive? How is it to go on?") for text in shown] == [2, 1, 1]
        assert not any(r"\n" in text for text in shown)
        desk.send("go on", thread="talk")
        until(lambda: len(desk.log(EventName.MESSAGE_DONE)) == 2, "the answer's turn")
    assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["interrupted", "done"]
    assert desk.place().state.questions.all() == []


@pytest.mark.parametrize("then", AfterStop)
def test_a_watcher_killed_right_after_leaves_it_to_the_next(desk: Desk, then: AfterStop) -> None:
    """What was asked is on the disk before anybody hears so; the agent still runs."""
    sent = desk.send()
    with desk.watching() as watcher:
        turn = running(desk)
        watcher.kill()
        watcher.wait()
        assert apply(desk.place().state, Request(Verb.TURNS_STOP, (turn,), then=then)).ok
        seen = outcomes(desk.once())
    assert seen == ["interrupted", "done"] if then is AfterStop.RETRY else ["interrupted"]
    assert sent in desk.place().state.processed
    assert len(answers(desk)) == 1
    assert outcomes(desk.once()) == []
    assert len(answers(desk)) == 1


def test_without_a_watcher_its_processes_end_at_once(desk: Desk) -> None:
    desk.send()
    with desk.watching() as watcher:
        turn = running(desk)
        watcher.kill()
        watcher.wait()
        # As much of its name as nobody else has will do.
        stop(desk, turn[:-2], "--drop")
        until((desk.state / "turns" / turn / "exit").exists, "the end of the agent", patience=1.0)
    assert outcomes(desk.once()) == ["interrupted"]
    assert len(answers(desk)) == 1


def test_where_no_watcher_runs_a_page_too_stops_a_turn_by_ending_its_processes(desk: Desk) -> None:
    place, now = desk.place(), time.time()
    place.prepare()
    turns = [new_turn_id(now) for _ in range(3)]
    for turn in turns:
        envelope = Envelope(turn, "t", "user", now, "", "")
        place.state.turns.create(TurnRecord(turn, envelope, Phase.RUNNING, "command", now))
    agents = [
        subprocess.Popen(["sleep", LONG], env={**os.environ, TURN_ID_VARIABLE: turn}, start_new_session=True)
        for turn in turns
    ]
    try:
        assert do(place, RemoteVerb.STOP, turns[:2]).ok
        assert [agent.poll() for agent in agents] == [-signal.SIGTERM, -signal.SIGTERM, None]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()


def test_what_cannot_be_stopped_is_said(desk: Desk) -> None:
    place = desk.place()
    place.state.prepare()
    for targets in ((), ("20260101T000000-00000000",), ("../../x",)):
        assert not apply(place.state, Request(Verb.TURNS_STOP, targets)).ok
    twice = type_in(desk.workdir, "turns", "stop", "x", "--drop", "--ask")
    assert twice.status == 2, twice
    assert "exclude each other" in twice.err


def test_what_may_not_be_ended_is_named_and_the_message_is_done(desk: Desk) -> None:
    """As what an agent has started by `sudo`."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("no root, no setpriv")
    pid = desk.base / "pid"
    another = f"setpriv --reuid=4711 --clear-groups sleep {LONG}"
    desk.shell(f"cat >/dev/null; {another} >/dev/null 2>&1 & echo $! >'{pid}'; echo done")
    desk.send()
    done = once(desk, "setpriv", "--bounding-set=-kill", "--inh-caps=-kill", "--")
    left = int(pid.read_text())
    try:
        assert procfs.state(left) == "S"
        assert done.returncode == 0, done.stderr
        [named] = desk.log(EventName.SURVIVORS)
        assert named["pids"] == str(left)
        assert members(str(named["turn_id"]), None) == [], "no holder waits for it"
        assert [answer.body for answer in answers(desk)] == ["done\n"]
    finally:
        os.kill(left, signal.SIGKILL)
