"""Drafts in their final form: pure, one item a recipient."""

from __future__ import annotations

import msgspec
import pytest

from agent_mailer.mailbox.amp.compose import Author, Request, compose, payload_of
from agent_mailer.mailbox.port import (
    MOST_VISITED,
    Action,
    Automatic,
    Draft,
    Envelope,
    Kind,
    Message,
    Outgoing,
    Priority,
    Refused,
)

ALICE = Author("11111111-1111-4111-8111-111111111111", "alice@u.d")
DRAFT = Draft("k", Action.SEND, 1.5, to=("bob@u.d",), subject="Plan", body="work")
ORIGIN = Message(
    Envelope("m1", "t1", "bob@u.d", 1.0, "1", "m1", to=("alice@u.d",), hops=3, kind=Kind.QUESTION),
    subject="Plan",
    reply_to="bob@u.d",
)


def items(draft: Draft, origin: Message | None = None, turn: str = "turn", author: Author = ALICE) -> list[Outgoing]:
    composed = compose(author, draft, origin, turn)
    assert not isinstance(composed, Refused), composed
    return list(composed)


def request(draft: Draft, origin: Message | None = None) -> Request:
    (item,) = items(draft, origin)
    return payload_of(item).decoded()


def changed(**changes: object) -> Draft:
    return msgspec.structs.replace(DRAFT, **changes)


def test_a_fresh_send() -> None:
    (item,) = items(DRAFT)
    sent = payload_of(item).decoded()
    assert (sent.agent_id, sent.from_agent, sent.to_agent) == (ALICE.agent_id, "alice@u.d", "bob@u.d")
    assert (sent.action, sent.subject, sent.body, sent.parent_id) == ("send", "Plan", "work", None)
    assert sent.thread_id == item.thread
    assert payload_of(item).created == 1.5


def test_it_is_pure_and_every_turn_key_and_recipient_has_its_own_id() -> None:
    assert items(DRAFT) == items(DRAFT)
    several = [
        *items(DRAFT),
        *items(DRAFT, turn="other"),
        *items(changed(key="l")),
        *items(changed(to=("carol@u.d",))),
        *items(DRAFT, author=Author("no uuid", "alice@u.d")),
    ]
    assert len({item.id for item in several}) == 5
    assert len({payload_of(item).idempotency_key for item in several[:4]}) == 4


def test_recipients_of_one_draft_share_the_thread() -> None:
    first, second = items(changed(to=("bob@u.d", "carol", " bob@u.d ")))
    assert [first.recipient, second.recipient] == ["bob@u.d", "carol@u.d"]
    assert first.thread == second.thread
    assert first.id != second.id


def test_the_copies_of_what_one_of_a_group_takes_know_each_other() -> None:
    def taken_as(key: str) -> set[object]:
        copies = items(changed(key=key, to=("bob@u.d", "carol@u.d"), labels=("one-of:tag:back",)))
        return {payload_of(copy).decoded().one_of for copy in copies}

    assert len(taken_as("k")) == 1
    assert not taken_as("k") & taken_as("l")


def test_a_reply() -> None:
    sent = request(Draft("k", Action.REPLY, 2.0, body="42", automatic=Automatic.AUTO_REPLY), ORIGIN)
    assert (sent.to_agent, sent.action, sent.parent_id) == ("bob@u.d", "reply", "m1")
    assert (sent.subject, sent.kind, sent.hops, sent.automatic) == ("Re: Plan", "answer", 4, "auto-reply")
    assert sent.visited == ("bob@u.d",)
    assert sent.thread_id is None
    assert items(Draft("k", Action.REPLY, 2.0), ORIGIN)[0].thread == "t1"


def test_whatever_a_turn_sends_says_who_wrote_what_it_comes_of_the_last_of_very_many() -> None:
    chain = tuple(f"n{number}" for number in range(MOST_VISITED))
    came = msgspec.structs.replace(ORIGIN, envelope=msgspec.structs.replace(ORIGIN.envelope, visited=chain))
    for action in Action:
        assert request(changed(action=action), came).visited == (*chain[1:], "bob@u.d")


def test_an_answer_to_oneself_goes_to_whom_one_wrote() -> None:
    own = msgspec.structs.replace(
        ORIGIN,
        envelope=msgspec.structs.replace(ORIGIN.envelope, sender="alice@u.d", to=("bob@u.d",)),
        reply_to="alice@u.d",
    )
    assert request(Draft("k", Action.REPLY, 2.0), own).to_agent == "bob@u.d"


def test_a_forward_leaves_the_quoting_to_the_broker() -> None:
    sent = request(Draft("k", Action.FORWARD, 2.0, to=("carol@u.d",), body="look"), ORIGIN)
    assert (sent.action, sent.parent_id, sent.forward_scope) == ("forward", "m1", "message")
    assert (sent.subject, sent.body) == ("Fwd: Plan", "look")


@pytest.mark.parametrize(("before", "after"), [("Re: Plan", "Re: Plan"), ("RE: x", "RE: x"), ("", "Re: (no subject)")])
def test_the_prefix_is_there_once(before: str, after: str) -> None:
    assert request(Draft("k", Action.REPLY, 2.0), msgspec.structs.replace(ORIGIN, subject=before)).subject == after


def test_under_a_dedupe_key_a_sender_writes_once_whatever_the_turn() -> None:
    first = items(changed(key="dedupe:nightly"))
    assert [item.id for item in first] == [item.id for item in items(changed(key="dedupe:nightly"), turn="other")]
    neighbour = items(changed(key="dedupe:nightly"), author=Author(ALICE.agent_id, "carol@u.d"))
    assert payload_of(neighbour[0]).idempotency_key != payload_of(first[0]).idempotency_key


def test_a_thread_may_be_named() -> None:
    assert request(changed(thread="plan/9")).thread_id == "plan/9"
    for bad in (" plan", "pl\nan", "x" * 129):
        assert isinstance(compose(ALICE, changed(thread=bad), None, "turn"), Refused)


def test_what_can_be_no_mail_is_refused() -> None:
    assert isinstance(compose(ALICE, changed(to=()), None, "turn"), Refused)
    assert isinstance(compose(ALICE, Draft("k", Action.REPLY, 1.0), None, "turn"), Refused)
    assert isinstance(compose(ALICE, changed(body="é" * 600_000), None, "turn"), Refused)
    for address in ("", "a b@u.d", "a\n@u.d", "a\x1b@u.d", "x" * 400):
        assert isinstance(compose(ALICE, changed(to=(address,)), None, "turn"), Refused), address


def test_what_no_database_holds_is_replaced() -> None:
    sent = request(changed(body="a\0b\udc80c", subject="x\ny\0", labels=("", "l\n", "m" * 200)))
    assert sent.body.startswith("a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}")
    assert sent.body.endswith("c")
    assert sent.subject == "x y\N{REPLACEMENT CHARACTER}"
    assert sent.labels == ("l", "m" * 100)


@pytest.mark.parametrize("action", Action)
def test_whatever_a_turn_sends_is_one_hop_further_than_what_it_is_about(action: Action) -> None:
    assert request(changed(action=action), ORIGIN).hops == 4


def test_priority_and_hops_have_their_bounds() -> None:
    far = msgspec.structs.replace(ORIGIN, envelope=msgspec.structs.replace(ORIGIN.envelope, hops=5000))
    sent = request(Draft("k", Action.REPLY, 2.0, priority=Priority.URGENT), far)
    assert (sent.hops, sent.priority) == (1000, "urgent")
