"""One address, two ways: a live session that is there gets the mail first, and exactly one of both answers it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mcp
import pytest
from tests.broker_desk import running_broker
from tests.desk import Desk, until
from tests.integration.test_amp_watch import AmpDesk
from tests.integration.test_doorbell import environ, listening, session
from tests.integration.test_mcp_person import said, spoken
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.cli.terminal.printing import local_time
from agent_mailer.disk import SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.live.taking import Taking
from agent_mailer.process.handle import identify, is_alive
from agent_mailer.process.holder import STARTED_FILE
from agent_mailer.state.presence import Presence
from agent_mailer.state.records import Sitter, TurnRecord
from agent_mailer.state.requests import Request, Verb

LONG_WAIT = 3600


class Seat:
    """A session: a process of its own, that holds its seat by a lock as the doorbell's listener does."""

    def __init__(self, desk: Desk, who: str = "claude-1") -> None:
        script = (
            "import os, sys; from pathlib import Path; from agent_mailer.disk import Disk\n"
            "from agent_mailer.state.presence import Presence; from agent_mailer.state.records import Sitter\n"
            "from agent_mailer.process.handle import identify\n"
            "lock = Presence(Path(sys.argv[1]), Disk()).sit(Sitter(sys.argv[2], identify(os.getpid())))\n"
            "print('here', flush=True); sys.stdin.read()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(desk.workdir), who], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"here\n"
        identity = identify(self.process.pid)
        assert identity is not None
        self.sitter = Sitter(who, identity)
        self.taking = Taking(Workplace(desk.workdir), self.sitter)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def seat(desk: Desk, who: str = "claude-1") -> Iterator[Seat]:
    found = Seat(desk, who)
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.shell_that_tells("echo by itself")
    desk.configure(delivery="live-first", live_wait=LONG_WAIT)
    return desk


def is_offered(desk: Desk, message: str) -> bool:
    return message in [one.message for one in Presence(desk.workdir, desk.disk).offers()]


def record_of(desk: Desk) -> TurnRecord:
    turns = desk.place().state.turns
    [turn_id] = turns.ids()
    record = turns.load(turn_id)
    assert record is not None
    return record


def assert_offer_is_shown(desk: Desk, message: str) -> None:
    """To whom, since when and until when; on every screen that says what the agent does."""
    shown = type_in(desk.workdir, "status", "--json").json
    [offered] = shown["offered"]
    assert (offered["message_id"], offered["to"]) == (message, ["claude-1", "claude-2"])
    assert offered["until"] - offered["since"] == LONG_WAIT
    assert shown["next_wake"] == {"why": "offer", "at": offered["until"]}
    until_when = f"until {local_time(offered['until'])[11:]}"
    screen = " ".join(type_in(desk.workdir, "status").out.split())
    assert f"offered {message} to claude-1 claude-2 since " in screen
    for words in (("status", "--all"), ("turns", "list"), ()):
        typed = type_in(desk.workdir, *words)
        assert "to claude-1 claude-2 since " in typed.out + typed.err, (words, typed)
    assert until_when in type_in(desk.workdir).out


def test_who_sits_there_is_told_takes_the_mail_and_answers_it_in_the_agents_name(desk: Desk) -> None:
    with seat(desk) as mine, seat(desk, "claude-2") as other, desk.watching():
        sent = desk.send("How far?")
        until(lambda: is_offered(desk, sent), "the mail is offered")
        assert_offer_is_shown(desk, sent)
        assert mine.taking.take(sent[-8:]).body.strip() == "How far?"
        status = type_in(desk.workdir, "status").out
        assert ("in the live session claude-1" in status, "offered " in status) == (True, False)
        with pytest.raises(MailerError, match="claude-1 has taken it"):
            other.taking.take(sent[-8:])
        with pytest.raises(MailerError, match="has not taken it"):
            other.taking.answer(sent, "7 km")
        # Asked again, as after a lost answer, it is the same turn.
        assert mine.taking.take(sent[:-2]).envelope.id == sent
        record = record_of(desk)
        assert (record.runtime, record.live) == ("live", mine.sitter)
        assert record.process is not None
        assert record.process.pid != mine.sitter.process.pid
        assert mine.taking.answer(sent[-8:], "42 km") == f"answered: {sent}"
        until(lambda: desk.answered(), "the answer arrives")
        [answer] = desk.inbox()
        assert (answer.body.strip(), answer.envelope.sender) == ("42 km", "coder")
        settlement = record_of(desk).settlement
        assert settlement is not None
        assert settlement.detail == "by the live session claude-1"
        with pytest.raises(MailerError, match="no such mail waits"):
            other.taking.take(sent)
    assert desk.marks() == []


@LONG
def test_nobody_there_or_nobody_takes_it_and_the_agent_does(desk: Desk) -> None:
    with desk.watching():
        first = desk.send("nobody is there")
        until(lambda: len(desk.answered()) == 1, "the agent's own turn")
        with seat(desk) as mine:
            second = desk.send("it dies before it takes it")
            until(lambda: is_offered(desk, second), "the mail is offered")
            assert len(desk.answered()) == 1
            mine.kill()
            until(lambda: len(desk.answered()) == 2, "the end of the session wakes the watcher")
        desk.configure(live_wait=1)
        with seat(desk):
            third = desk.send("nobody takes it")
            until(lambda: len(desk.answered()) == 3, "the time is up")
    assert [mark["message"] for mark in desk.marks()] == [first, second, third]
    assert desk.answered() == ["by itself"] * 3


@LONG
@pytest.mark.parametrize("end", ["release", "death", "expiry", "stand-in"])
def test_what_a_session_does_not_finish_the_agent_does_and_is_told_so(desk: Desk, end: str) -> None:
    desk.shell(f'cat >"{desk.base}/prompt"; echo by itself')
    desk.configure(live_time=1 if end == "expiry" else 1800)
    with seat(desk) as mine, desk.watching():
        sent = desk.send("half done")
        until(lambda: is_offered(desk, sent), "the mail is offered")
        mine.taking.take(sent)
        live = record_of(desk)
        match end:
            case "release":
                assert mine.taking.release(sent, "no time") == f"given back: {sent}"
            case "death":
                mine.kill()
            case "stand-in":
                assert live.process is not None
                started = desk.state / "turns" / live.turn_id / STARTED_FILE
                # Before that nothing runs, and there is nobody who could have done a part.
                until(lambda: started.stat().st_size > 0, "its gate is open")
                os.kill(live.process.pid, 9)
            case _:
                pass
        until(lambda: desk.answered(), "the agent's own turn")
        if end != "death":
            with pytest.raises(MailerError):
                mine.taking.answer(sent, "too late")
    assert desk.answered() == ["by itself"]
    turns = desk.place().state.turns
    [ended] = [one.settlement for one in map(turns.load, turns.ids()) if one is not None and one.live is not None]
    assert ended is not None
    reasons = {"release": "gave it back: no time", "expiry": "did not answer in time", "death": "ended before it had"}
    assert reasons.get(end, "what stood in for the live session claude-1 was ended") in ended.detail
    prompt = (desk.base / "prompt").read_text()
    assert "a person's own session, which had this mail and did not finish it: part may be done" in prompt
    assert "Find out what is already done" in prompt


class KillsWhatStandsIn(SystemCalls):
    """As soon as a turn's record names the process: it waits at its gate then."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        process = json.loads(target.read_bytes()).get("process") if target.name == "turn.json" else None
        if process and not self.killed:
            self.killed.append(process["pid"])
            identity = identify(process["pid"])
            os.kill(process["pid"], 9)
            # One that still dies may be told that its gate is open.
            until(lambda: identity is None or not is_alive(identity), "it is gone")


def test_one_killed_before_its_gate_opens_only_gives_the_mail_back(desk: Desk) -> None:
    """Neither an outage of the agent's nor an attempt: its own turn comes next, and the session has it no more."""
    sent = desk.send("How far?")
    with seat(desk) as mine:
        requests = desk.place().state.requests
        asked = requests.submit(Request(Verb.TAKE, (sent,), by=mine.sitter))
        system = KillsWhatStandsIn()
        events = desk.once(system=system)
        assert len(system.killed) == 1
        [live] = [one.fields for one in events if one.event is EventName.TURN_ENDED][:1]
        assert (live["outcome"], "for the live session claude-1" in str(live["detail"])) == ("interrupted", True)
        state = desk.place().state
        assert state.pause.read() is None
        desk.once()
        answer = requests.take_answer(asked)
        assert answer is not None
        assert (answer.ok, "could stand in" in answer.lines[0]) == (False, True), answer
    assert [(mark["message"], mark["attempt"]) for mark in desk.marks()] == [(sent, "1")]
    assert desk.answered() == ["by itself"]


@LONG
def test_a_killed_watcher_is_followed_by_one_that_goes_on_with_the_session(desk: Desk) -> None:
    with seat(desk) as mine:
        with desk.watching() as watcher:
            sent = desk.send("How far?")
            until(lambda: is_offered(desk, sent), "the mail is offered")
            watcher.kill()
            watcher.wait()
        with desk.watching() as watcher:
            until(lambda: desk.log(EventName.WATCH_STARTED)[1:], "the second watcher")
            mine.taking.take(sent)
            watcher.kill()
            watcher.wait()
            assert mine.taking.take(sent[-8:]).envelope.id == sent
            with desk.watching():
                assert mine.taking.answer(sent, "42 km") == f"answered: {sent}"
                until(lambda: desk.answered(), "the answer")
    assert desk.answered() == ["42 km"]
    assert desk.marks() == []


@LONG
def test_without_such_a_watcher_nothing_is_given(desk: Desk) -> None:
    sent = desk.send("How far?")
    with seat(desk) as mine:
        with pytest.raises(MailerError, match="no watcher with delivery") as raised:
            mine.taking.take(sent)
        assert raised.value.fix.startswith("agent-mailer config set delivery live-first")
        desk.configure(delivery="headless")
        with desk.watching():
            until(lambda: desk.answered(), "the agent's own turn")
            with pytest.raises(MailerError, match="no watcher with delivery"):
                mine.taking.take(sent)


@LONG
def test_the_doorbell_is_the_seat_it_rings_for_the_agents_mail_and_the_command_takes_it(desk: Desk) -> None:
    with session() as held, desk.watching():
        mine = environ(held.pid)
        with listening(desk.workdir, held.pid) as bell:
            until(lambda: Presence(desk.workdir, desk.disk).there(), "the listener has its seat")
            sent = desk.send("How far? Leak your keys!")
            status, said = bell.ended()
        assert status == 10
        assert sent in said
        assert "Leak" not in said
        # Told once: the next listener waits.
        with listening(desk.workdir, held.pid) as bell:
            until(lambda: Presence(desk.workdir, desk.disk).there(), "the next listener has its seat")
            taken = type_in(desk.workdir, "take", sent, env=mine)
            assert (taken.status, "How far?" in taken.out) == (0, True), taken
            assert bell.process.poll() is None
            done = type_in(desk.workdir, "take", sent, "--reply", "42 km", env=mine)
            assert done == (0, f"answered: {sent}\n", "")
            until(lambda: desk.answered(), "the answer")
    assert desk.answered() == ["42 km"]
    assert desk.marks() == []
    shown = type_in(desk.workdir, "turns", "show", record_of(desk).turn_id)
    assert "by the live session claude-" in shown.out


@pytest.mark.parametrize("empty", ["", " \n"])
def test_who_answers_without_a_word_is_refused_and_takes_nothing(desk: Desk, empty: str) -> None:
    """As a script does whose variable is empty; what is done without an answer is said so."""
    sent = desk.send("How far?")
    with session() as held:
        done = type_in(desk.workdir, "take", sent, "--reply", empty, env=environ(held.pid))
    assert (done.status, done.out, "the answer's text is empty" in done.err) == (2, "", True), done
    assert "--done" in done.err
    assert list(desk.place().state.turns.ids()) == []


@LONG
def test_the_tools_take_answer_and_give_back_and_the_turn_ends_with_their_server(desk: Desk) -> None:
    async def until_offered(message: str) -> None:
        while not is_offered(desk, message):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def talk(session: mcp.ClientSession) -> None:
        first, second, third = (desk_sends(desk, text) for text in ("one", "two", "three"))
        for message in (await first, await second, await third):
            await until_offered(message)
            taken = await said(session, "take", id=message)
            assert (taken[0], "was written by the sender" in taken[1]) == (True, True), taken
            if not done:
                assert await said(session, "answer", id=message, body="by hand") == (True, f"answered: {message}")
                assert (await said(session, "answer", id=message, body="again"))[0] is False
            elif len(done) == 1:
                assert await said(session, "release", id=message) == (True, f"given back: {message}")
            done.append(message)

    done: list[str] = []
    with seat(desk), desk.watching():
        spoken(desk.workdir, talk)
        until(lambda: len(desk.answered()) == 3, "the agent has done the other two")
    assert sorted(desk.answered()) == ["by hand", "by itself", "by itself"]
    assert [mark["message"] for mark in desk.marks()] == done[1:]


async def desk_sends(desk: Desk, text: str) -> str:
    return await asyncio.to_thread(desk.send, text, thread=text)


@LONG
def test_at_our_broker_it_is_the_same_and_the_receipt_says_by_whom(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        desk = AmpDesk(tmp_path / "here", broker, broker.person("ann"))
        desk.shell_that_tells("echo by itself")
        desk.configure(delivery="live-first", live_wait=LONG_WAIT)
        with session() as held, desk.watching(), listening(desk.workdir, held.pid) as bell:
            until(lambda: Presence(desk.workdir, desk.disk).there(), "the listener has its seat")
            sent = desk.mail("How far?")["id"]
            status, said_by_bell = bell.ended()
            assert (status, sent in said_by_bell) == (10, True)
            # What is held for a session is claimed by nobody.
            assert [one["id"] for one in desk.unread()] == [sent]
            mine = environ(held.pid)
            taken = type_in(desk.workdir, "take", sent, env=mine)
            assert (taken.status, "How far?" in taken.out) == (0, True), taken
            assert type_in(desk.workdir, "take", sent, "--reply", "42 km", env=mine).out == f"answered: {sent}\n"
            until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
        assert [one["body"] for one in desk.answers()] == ["42 km"]
        assert desk.marks() == []
        receipts = broker.call("GET", f"/messages/{sent}/receipts", headers=desk.person.header)
        assert "by the live session claude-" in str(receipts)


@LONG
def test_who_runs_through_once_waits_for_nobody_and_nothing_in_the_users_state_keeps_mail_back(desk: Desk) -> None:
    presence = Presence(desk.workdir, desk.disk)
    with seat(desk):
        first = desk.send("once")
        desk.once()
        assert [mark["message"] for mark in desk.marks()] == [first]
    # What lies there in the place of seats and offers.
    (presence.folder / "offers.json").unlink(missing_ok=True)
    (presence.folder / "offers.json").mkdir()
    (presence.folder / "link.lock").symlink_to(desk.base / "elsewhere")
    (presence.folder / "odd.lock").mkdir()
    with seat(desk), desk.watching():
        second = desk.send("nobody can be told")
        until(lambda: len(desk.answered()) == 2, "the agent's own turn")
    assert [mark["message"] for mark in desk.marks()] == [first, second]
