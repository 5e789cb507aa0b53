"""What a turn finds as it begins, where its mailbox or its program does not answer; and who stops waiting for that."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import SOON
from tests.unit.test_watch_settling import turn
from tests.watch_room import Scene, scene_at

from agent_mailer.approvals.calls import Call
from agent_mailer.approvals.turn import Word, read
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Capabilities, MailboxUnavailable, Message, Route
from agent_mailer.process.holder import PROMPT_FILE
from agent_mailer.runtimes.port import RuntimeMissing
from agent_mailer.state.approvals import Answer, By, Verdict
from agent_mailer.state.records import Batched, RetryEntry, TurnRecord
from agent_mailer.turn_tools.folder import TEAM, TurnMail
from agent_mailer.watch.start import WeLeave, _prepare, _prepared, _unless_we_leave

NOW = 2_100_000_000.0
DOWN = MailboxUnavailable("down", "no answer")

scene = scene_at(lambda: FakeClock(NOW))


def found(scene: Scene, record: TurnRecord, *messages: Message) -> TurnMail:
    """What the turn's tools find."""
    folder = scene.state.turns.folder(record.turn_id)
    scene.run(_prepare(scene.room, record, messages, folder))
    return folder.mail()


def test_a_mailbox_that_fails_costs_the_view_of_it_and_not_the_turn(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = turn(scene, None)
    message = Message(record.envelope, body="please")
    whole = found(scene, record, message)
    assert [one.envelope.id for one in whole.thread] == [record.envelope.id]
    assert "user" in {one.address for one in whole.contacts}

    async def down(*_: object) -> NoReturn:
        raise DOWN

    monkeypatch.setattr(MaildirMailbox, "thread", down)
    monkeypatch.setattr(MaildirMailbox, "contacts", down)
    # The thread is what it was handed; to whom it may write nobody knows, so that nobody is left out.
    record.route = Route("user@web", "/elsewhere", 1, 1, "user")
    mail = found(scene, record, message)
    assert (mail.thread, mail.contacts) == ((message,), ())

    async def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(MaildirMailbox, "contacts", broken)
    with pytest.raises(ZeroDivisionError):
        found(scene, record, message)


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_the_tools_know_what_its_mailbox_can_carry_and_what_the_agent_may_not_change(
    scene: Scene, context: bool, fixed: bool
) -> None:
    class Carrying(MaildirMailbox):
        @property
        def capabilities(self) -> Capabilities:
            able = super().capabilities
            return msgspec.structs.replace(
                able, max_message_bytes=99, carries_context=context, carries_marks=not context
            )

    scene.room.mailbox = Carrying(scene.place.disk, scene.desk.root, "coder")
    scene.room.policy = msgspec.structs.replace(scene.policy, global_note_fixed=fixed)
    record = turn(scene, None)
    record.no_way = "nobody is there"
    facts = found(scene, record, Message(record.envelope)).facts
    assert (facts.turn_id, facts.address, facts.max_message_bytes) == (record.turn_id, "coder", 99)
    assert (facts.carries_context, facts.carries_marks, facts.global_note_fixed) == (context, not context, fixed)
    assert facts.no_way == "nobody is there"


def test_who_wrote_from_elsewhere_can_be_written_to_and_each_message_of_a_batch_is_there(scene: Scene) -> None:
    record = turn(scene, None)
    other = msgspec.structs.replace(record.envelope, id="other")
    record.route = Route("user@web", "/elsewhere", 1, 1, "user")
    record.batch = (Batched(other, route=Route("planner@web", "/elsewhere", 1, 1, "planner")),)
    messages = (Message(record.envelope, body="one"), Message(other, body="two"))
    mail = found(scene, record, *messages)
    assert (mail.message, mail.batch) == (messages[0], messages[1:])
    assert {"user@web", "planner@web"} <= {one.address for one in mail.contacts}


def test_what_a_team_remembers_is_there_where_its_mailbox_tells(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    record = turn(scene, None)
    message, path = Message(record.envelope, body="please"), scene.state.turns.path(record.turn_id) / TEAM
    answers: list[str | MailboxUnavailable] = [DOWN, "It rains."]

    # A class of its own: whether `MaildirMailbox` remembers teams is found out once in a process, and kept.
    class Remembers(MaildirMailbox):
        async def team_memory(self) -> str:
            answer = answers.pop(0)
            if isinstance(answer, MailboxUnavailable):
                raise answer
            return answer

    monkeypatch.setattr(scene.room.mailbox, "__class__", Remembers)
    found(scene, record, message)
    assert not path.exists()
    found(scene, record, message)
    assert path.read_text() == "It rains."


@pytest.mark.parametrize("leaves", ["stopping", "handing_over"])
def test_a_trial_of_the_program_keeps_nobody_who_leaves(scene: Scene, leaves: str) -> None:
    ended: list[str] = []

    async def trial() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("trial")

    async def story() -> None:
        asyncio.get_running_loop().call_soon(getattr(scene.room, leaves).set)
        with pytest.raises(WeLeave):
            async with asyncio.timeout(SOON):
                await _unless_we_leave(scene.room, trial())

    asyncio.run(story())
    assert ended == ["trial"]


def test_what_a_trial_finds_is_heard(scene: Scene) -> None:
    async def missing() -> None:
        raise RuntimeMissing("no_claude", "there is no claude", "install it")

    async def fine() -> None:
        pass

    with pytest.raises(RuntimeMissing):
        asyncio.run(_unless_we_leave(scene.room, missing()))
    asyncio.run(_unless_we_leave(scene.room, fine()))


def test_a_yes_to_a_call_whose_session_is_lost_is_for_whichever_call_is_the_same(scene: Scene) -> None:
    record = turn(scene, None)
    one = msgspec.structs.replace(scene.asked(), call=Call("Bash", '{"command":"git push"}', "call-1"), id="q-2")
    scene.state.approvals.ask([one])
    scene.state.approvals.answer(one, Answer(Verdict.ALLOW, NOW, By.COMMAND))
    record.rerun = RetryEntry(record.envelope, asked=("q-2",))
    message = Message(record.envelope, body="please")
    _, directory = scene.run(_prepared(scene.room, record, (message,), scene.room.program))
    [told] = read(directory).told
    assert (told.id, told.word, told.call_id) == ("q-2", Word.ALLOW, "")
    assert "call it again exactly as before" in (directory / PROMPT_FILE).read_text()
