"""Whose mail is an answer to what an agent asks, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene

from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Automatic, Capabilities, Envelope
from agent_mailer.state.approvals import Answer, Approval, By, Verdict
from agent_mailer.state.notices import Channel
from agent_mailer.watch.answering import IN_VAIN, Said, answers_in, take_answer

NOW = 1_800_000_000.0


class Vouching(MaildirMailbox):
    """A mailbox that says who a sender is."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, vouches=True)


class Asked:
    """`coder` has asked about mail of `user`; `mail` is what he and others write then."""

    def __init__(self, base: Path) -> None:
        self.clock = FakeClock(NOW)
        self.scene = Scene(base, self.clock, told=True)
        self.book = self.scene.state.approvals
        self.one: Approval = self.scene.asked()
        self.vouches = False

    def answers(self, *listed: Envelope, hidden: bool = True, own: bool = False, **who: Any) -> list[str]:
        """The ids of those that are answers."""
        policy = self.scene.policy
        approve = msgspec.structs.replace(policy.approve, mail_hidden=hidden, asks_sender=own)
        known = msgspec.structs.replace(policy.who, **{"people": ("user",), **who})
        policy = msgspec.structs.replace(policy, approve=approve, who=known)
        self.book.passed.clear()
        kind = Vouching if self.vouches else MaildirMailbox
        mailbox = kind(Disk(), self.scene.desk.root, "coder")
        return list(self.scene.run(answers_in(mailbox, self.scene.state, policy, listed)))

    def take(self, envelope: Envelope, verdict: Verdict = Verdict.ALLOW, *, always: bool = False) -> None:
        said = Said(verdict, self.one.code, always=always)
        take_answer(self.scene.state, self.scene.room.notices, envelope, said)

    def in_vain(self) -> list[tuple[str, str, str]]:
        waiting = self.scene.desk.place().state.notices.told.waiting
        return [(one.sender, one.why, one.reason) for one in waiting if one.reason == IN_VAIN]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    found = Asked(tmp_path)
    yield found
    found.scene.close()


def test_an_answer_is_a_persons_own_mail_where_the_agent_cannot_write_it(asked: Asked) -> None:
    mail = asked.scene.mail(body=f"allow {asked.one.code}\n\n> quoted")
    other = asked.scene.mail(body=f"allow {asked.one.code}", sender="planner")
    plain = asked.scene.mail(body=f"It may be.\nallow {asked.one.code}")
    assert asked.answers(mail, other, plain) == [mail.id]
    assert asked.book.passed == {plain.id}, "it is not read again at each look"
    assert asked.answers(mail, hidden=False) == [], "the agent could have written it"
    assert asked.answers(mail, people=()) == []
    assert asked.answers(mail, agents=frozenset({"user"})) == []
    # He is called so here, and his answers go elsewhere: somebody else, who is called as he is.
    assert asked.answers(msgspec.structs.replace(mail, reply_to="user@other:project")) == []
    linked = asked.scene.mail(body=f"allow link {asked.one.token}")
    assert asked.answers(linked) == [], "no page of a broker's has written into a folder"
    for automatic in (Automatic.NOTICE, Automatic.AUTO_REPLY):
        assert asked.answers(msgspec.structs.replace(mail, automatic=automatic)) == []
    asked.scene.state.processed.add(mail.id)
    assert asked.answers(mail) == [], "it was heard before"


def test_who_wrote_the_message_answers_what_is_asked_about_it_and_nothing_else(asked: Asked) -> None:
    asked.vouches = True
    own = asked.scene.mail(body=f"allow {asked.one.code}")
    others = asked.scene.mail(body=f"allow {asked.one.code}", sender="planner")
    assert asked.answers(own, others, own=True, people=()) == [own.id]
    assert asked.answers(own, others, own=True, people=(), agents=frozenset({"user"})) == []
    assert asked.answers(own, people=()) == [], "only where he is asked"
    assert asked.answers(others, people=(), vouched=frozenset({"planner"})) == [others.id], "the operator answers all"
    assert asked.answers(own) == [], "where the mailbox says who somebody is, a name in the configuration says nothing"
    # A link is mail of the operator's alone.
    linked = [asked.scene.mail(body=f"allow link {asked.one.token}", sender=one) for one in ("user", "planner")]
    assert asked.answers(*linked, own=True, vouched=frozenset({"planner"})) == [linked[1].id]


def test_an_answer_counts_once_and_who_answers_in_vain_is_told_why(asked: Asked) -> None:
    first, second = (asked.scene.mail(body=str(n)) for n in range(2))
    for _ in range(2):  # whoever took it before may have been killed
        asked.take(first)
    asked.take(second, Verdict.DENY)
    answer = asked.book.answer_to(asked.one.id)
    assert answer is not None
    assert (answer.verdict, answer.by, answer.who, answer.message_id) == (Verdict.ALLOW, By.MAIL, "user", first.id)
    assert asked.in_vain() == [("user", "it was answered before: allow", IN_VAIN)]
    [told] = asked.scene.desk.place().state.notices.told.waiting
    assert (told.message_id, told.thread, told.left) == (second.id, second.thread, (Channel.SENDER,)), "in its thread"
    assert [one["verdict"] for one in asked.scene.told(EventName.APPROVAL_ANSWERED)] == ["allow"] * 2
    take_answer(asked.scene.state, asked.scene.room.notices, second, Said(Verdict.ALLOW, "0" * 8))
    assert len(asked.in_vain()) == 1, "of one mail once"


@pytest.mark.parametrize("late", ["time", "over"])
def test_what_comes_too_late_allows_nothing(asked: Asked, late: str) -> None:
    if late == "time":
        asked.clock.moment += 3600
    else:
        asked.book.close([asked.one.id])
    asked.take(asked.scene.mail(), always=True)
    assert asked.book.answer_to(asked.one.id) is None
    assert asked.book.standing() == ()
    assert asked.in_vain() == [("user", "it came too late, the agent goes on without it", IN_VAIN)]


def test_what_is_allowed_for_good_stands_whoever_was_killed_before_that(asked: Asked) -> None:
    mail = asked.scene.mail()
    asked.book.answer(asked.one, Answer(Verdict.ALLOW, NOW, By.MAIL, who="user", message_id=mail.id))
    assert asked.book.standing() == ()
    for _ in range(2):
        asked.take(mail, always=True)
    assert [one.digest for one in asked.book.standing()] == [asked.one.digest]


def test_a_no_is_none_for_good(asked: Asked) -> None:
    asked.take(mail := asked.scene.mail(), Verdict.DENY)
    asked.take(mail, Verdict.ALLOW, always=True)
    assert asked.book.standing() == ()
