"""What an agent writes into the state, in our name: nobody else's process is touched, and no message is lost by it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.desk import Desk, outcomes

from agent_mailer.clock import iso
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import ProcessIdentity, identify
from agent_mailer.process.holder import TURN_ID_VARIABLE
from agent_mailer.state.records import (
    Phase,
    Provisional,
    RetryEntry,
    SessionChange,
    SessionEntry,
    SettledItem,
    Settlement,
    TurnRecord,
)
from agent_mailer.state.turns import encode_record

OPTION = "--dangerously-skip-permissions"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def stranger(desk: Desk) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the user's, and what it has started, in a session of their own."""
    argv = ["/bin/sh", "-c", "sleep 600 & wait"]
    process = subprocess.Popen(argv, start_new_session=True, env={"PATH": os.defpath})
    yield process
    os.killpg(process.pid, 9)
    process.wait()


def waiting(desk: Desk) -> Envelope:
    import asyncio

    mailbox = MaildirMailbox(desk.disk, desk.root, "coder")
    return asyncio.run(mailbox.pending(10)).envelopes[0]


def forge(desk: Desk, phase: Phase, **fields: Any) -> str:
    """A turn of the message that waits, as an agent may have written it."""
    now = 1_700_000_000.0
    turn_id = new_turn_id(now)
    record = TurnRecord(turn_id, waiting(desk), phase, "command", now, **fields)
    folder = desk.state / "turns" / turn_id
    folder.mkdir(parents=True)
    (folder / "turn.json").write_bytes(encode_record(record))
    (folder / "started").write_text("1\n")
    return turn_id


def finished(**fields: Any) -> Settlement:
    return Settlement(Outcome.DONE, "", 1_700_000_001.0, 1.0, finished=True, **fields)


def test_a_strangers_process_is_neither_followed_nor_ended(desk: Desk, stranger: subprocess.Popen[bytes]) -> None:
    desk.send()
    identity = identify(stranger.pid)
    assert identity is not None
    forge(desk, Phase.RUNNING, process=identity, started_at=1_700_000_000.0)
    desk.configure(retry={"first": 600, "longest": 600})  # its next turn is none of this look
    events = desk.once()
    assert stranger.poll() is None
    [adopted] = [e.fields for e in events if e.event is EventName.TURN_ADOPTED]
    assert adopted["running"] is False
    assert outcomes(events) == ["crashed"]
    assert [entry.attempts for entry in desk.place().state.retries.all()] == [1]


def test_the_session_of_a_stranger_who_is_gone_is_not_ended(desk: Desk) -> None:
    """Its leader's number is in the record; what it has started goes on."""
    desk.send()
    leader = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 600 & echo $!; exec sleep 600"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    identity = identify(leader.pid)
    assert identity is not None
    leader.kill()
    leader.wait()
    leader.stdout.close()
    try:
        forge(desk, Phase.RUNNING, process=identity, started_at=1_700_000_000.0)
        assert outcomes(desk.once()) == ["crashed"]
        assert identify(child) is not None
    finally:
        os.kill(child, 9)


def test_what_carries_another_turns_id_is_a_stranger(desk: Desk) -> None:
    desk.send()
    env = {"PATH": os.defpath, TURN_ID_VARIABLE: "20260101T000000-00000000"}
    other = subprocess.Popen(["sleep", "600"], start_new_session=True, env=env)
    try:
        forge(desk, Phase.RUNNING, process=identify(other.pid), started_at=1_700_000_000.0)
        assert outcomes(desk.once()) == ["crashed"]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_message_that_nobody_has_taken_is_not_settled(desk: Desk) -> None:
    desk.send("do it")
    mark = Outgoing("forged", "planner", "p2p/coder__planner", "x")
    for settlement in (finished(), finished(items=(SettledItem(mark),))):
        forge(desk, Phase.SETTLING, settlement=settlement, process=ProcessIdentity(1, 1, "b"))
    events = desk.once()
    assert outcomes(events) == ["done"]
    assert len([e for e in events if e.event is EventName.TURN_DROPPED]) == 2
    assert desk.answered() == ["done"]
    assert desk.inbox("planner") == []


def test_a_record_that_speaks_of_two_messages_is_none(desk: Desk) -> None:
    desk.send("do it", thread="a/one")
    other = msgspec.structs.replace(waiting(desk), id="other", thread="a/two")
    entry = SessionEntry("stolen", 1, iso(0.0), iso(0.0), "command", 0, 9)
    forge(desk, Phase.SETTLING, settlement=finished(session=SessionChange("a/two", 0, entry)))
    forge(desk, Phase.SETTLING, settlement=finished(retry=RetryEntry(other, attempts=1)))
    forge(desk, Phase.CLAIMED, settlement=finished())
    forge(desk, Phase.CLAIMED, rerun=RetryEntry(other))
    events = desk.once()
    assert outcomes(events) == ["done"]
    assert desk.place().state.sessions.get("a/two") is None
    assert len(desk.inbox()) == 1


CLAUDE = """\
#!/bin/sh
case $1 in auth) echo '{"loggedIn": true}'; exit ;; esac
cat >/dev/null
printf '%s\\n' "$@" >>WITNESS
echo '{"type":"result","subtype":"success","is_error":false,"result":"hello"}'
"""


def claude(desk: Desk) -> Path:
    """An agent that writes down its command line."""
    witness, program = desk.base / "words", desk.base / "claude"
    program.write_text(CLAUDE.replace("WITNESS", str(witness)))
    program.chmod(0o755)
    desk.configure(runtime="claude", claude_command=str(program), permission_mode="plan")
    return witness


@pytest.mark.parametrize(
    ("place", "option"),
    [
        *((place, OPTION) for place in ("sessions.json", "sessions.journal", "retries.json", "turn.json")),
        *(("sessions.json", option) for option in ("x\n--model", "../up")),
    ],
)
def test_an_option_never_becomes_a_session(desk: Desk, place: str, option: str) -> None:
    witness = claude(desk)
    desk.send(thread="t")
    now = 1_700_000_000.0
    entry = SessionEntry(option, 1, iso(now), iso(now), "claude", 0, 1)
    kept = RetryEntry(
        waiting(desk), attempts=1, starts=1, provisional=Provisional(option, "claude", Outcome.TIMED_OUT), revision=1
    )
    if place == "sessions.json":
        (desk.state / place).write_bytes(msgspec.json.encode({"t": entry}))
    elif place == "sessions.journal":
        (desk.state / place).write_bytes(msgspec.json.encode({"thread": "t", "entry": entry}) + b"\n")
    elif place == "retries.json":
        (desk.state / place).write_bytes(msgspec.json.encode({kept.envelope.id: kept}))
    else:
        forge(desk, Phase.SETTLING, settlement=finished(session=SessionChange("t", 0, entry)))
    desk.once()
    words = witness.read_text()
    assert not option or f"\n{option}\n" not in words.replace("--session-id", "")
    assert OPTION not in words
    bound = desk.place().state.sessions.get("t")
    assert bound is None or bound.session_id != option or not option
    desk.send(thread="t")
    desk.once()
    assert OPTION not in witness.read_text()
