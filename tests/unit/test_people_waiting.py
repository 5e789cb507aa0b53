"""A person waits for what is to come: a mailbox that does not answer meanwhile ends no wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from tests.desk import Desk

from agent_mailer.clock import SystemClock
from agent_mailer.mailbox.port import Action, Automatic, Draft, MailboxRefused, MailboxUnavailable
from agent_mailer.people import Person, new_key, send
from agent_mailer.people.arrivals import Fate, wait_for_fate
from agent_mailer.people.folder import mail_in
from agent_mailer.people.port import Ending, MessageState, PersonalMail, Receipt, Report, Rest, Sent

DOWN = MailboxUnavailable("unreachable", "it does not answer", "wait")


async def waited(looks: Sequence[object], seconds: float) -> tuple[object, list[str], int]:
    """What came of it, what was said, and how often was looked; a fault among `looks` is raised, the last one stays."""
    said: list[str] = []
    done = 0

    async def look() -> object | None:
        nonlocal done
        found = looks[min(done, len(looks) - 1)]
        done += 1
        if isinstance(found, Exception):
            raise found
        return found

    async def rest(longest: float) -> None:
        await asyncio.sleep(min(longest, 0.01))

    found = await send.patiently(look, rest, seconds, said.append)
    return found, said, done


def test_it_is_asked_again_and_each_silence_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "ASK_AGAIN", 0.01)
    found, said, done = asyncio.run(waited([None, DOWN, DOWN, None, DOWN, "the answer"], 30.0))
    assert (found, done) == ("the answer", 6)
    assert said == ["it does not answer; the wait goes on"] * 2


def test_the_time_is_up_all_the_same() -> None:
    assert asyncio.run(waited([None], 0.05))[0] is None
    with pytest.raises(MailboxUnavailable):
        asyncio.run(waited([None, DOWN], 0.05))
    with pytest.raises(MailboxUnavailable):
        asyncio.run(waited([DOWN], 0.0))


def test_a_refusal_is_for_a_person_to_mend() -> None:
    with pytest.raises(MailboxRefused):
        asyncio.run(waited([MailboxRefused("refused", "not with this key", "mend"), "the answer"], 30.0))


def test_a_wait_for_several_ends_once_none_of_them_will_answer() -> None:
    def ending(*states: MessageState, unreadable: bool = False) -> Ending | None:
        reports = {name: Report(state, "", final=True) for name, state in zip("ab", states, strict=False)}
        receipts = (Receipt("a"), Receipt("b", unreadable=unreadable))
        return send.end_without_answer(receipts, reports, Sent("m", "t", ("a", "b"), 0.0))

    done, dead = MessageState.DONE, MessageState.GIVEN_UP
    assert ending() is ending(done) is ending(dead) is None
    assert ending(done, done) is Ending.UNANSWERED
    assert ending(done, dead) is Ending.DEAD
    assert ending(unreadable=True) is Ending.DEAD


@pytest.mark.parametrize(
    ("state", "automatic", "ending"),
    [
        (MessageState.DONE, Automatic.NO, Ending.ANSWERED),
        (MessageState.GIVEN_UP, Automatic.NOTICE, Ending.DEAD),
    ],
)
def test_what_arrives_while_it_is_looked_how_the_message_stands_is_not_denied(
    tmp_path: Path, state: MessageState, automatic: Automatic, ending: Ending
) -> None:
    """Whoever is seen to be at his end has sent before that what he sends."""
    desk = Desk(tmp_path)
    user, coder = (Person(mail_in(desk.place(), whose), SystemClock()) for whose in ("user", "coder"))
    sent = user.send(Draft(new_key(), Action.SEND, SystemClock().now(), to=("coder",), subject="s", body="b"))

    def settles(_: Sent, __: str) -> Report:
        draft = Draft(new_key(), Action.REPLY, SystemClock().now(), body="the last word", automatic=automatic)
        coder.send(draft, coder.find(sent.id).message)
        return Report(state, "is at its end", final=True)

    waited = user.wait_for_answer(sent, 0.0, settles)
    assert waited.answer is not None
    assert (waited.ending, waited.answer.body.strip()) == (ending, "the last word")


def test_what_somebody_else_says_in_the_thread_is_not_the_recipients_answer(tmp_path: Path) -> None:
    """Another program's mail names nothing that it answers."""
    desk, clock = Desk(tmp_path), SystemClock()
    user, coder = (Person(mail_in(desk.place(), whose), clock) for whose in ("user", "coder"))
    sent = user.send(Draft(new_key(), Action.SEND, clock.now(), to=("coder",), subject="s", body="b"))
    desk.send("I have seen that, too.", sender="planner", to="user", thread=sent.thread)
    assert user.wait_for_answer(sent, 0.0).answer is None
    coder.send(Draft(new_key(), Action.REPLY, clock.now(), body="the answer"), coder.find(sent.id).message)
    answer = user.wait_for_answer(sent, 0.0).answer
    assert answer is not None
    assert answer.body.strip() == "the answer"


def test_all_recipients_have_it_only_once_each_has() -> None:
    class Told:
        """A mailbox that tells, look by look, who has taken it."""

        def __init__(self, *looks: tuple[Receipt, ...]) -> None:
            self.looks = list(looks)

        async def receipts(self, *_: object) -> tuple[Receipt, ...]:
            return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

        @asynccontextmanager
        async def listening(self, _: Sent) -> AsyncIterator[Rest]:
            async def rest(longest: float) -> None:
                await asyncio.sleep(min(longest, 0.01))

            yield rest

    def fate(*looks: tuple[Receipt, ...], wanted: Fate = Fate.DRAINED, seconds: float = 30.0) -> Fate | None:
        sent, mail = Sent("m", "t", ("a", "b"), 0.0), cast(PersonalMail, Told(*looks))
        return asyncio.run(wait_for_fate(mail, sent, wanted, seconds, print))

    one, other, bad = Receipt("a"), Receipt("b"), Receipt("b", unreadable=True)
    assert fate((), (one,), (one, other)) is Fate.DRAINED
    assert fate((one,), seconds=0.03) is None
    assert fate((one, bad)) is Fate.DLQ
    assert fate((one, bad), wanted=Fate.DLQ, seconds=0.03) is None
