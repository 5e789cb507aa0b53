"""Drafts in their final form."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from agent_mailer.mailbox.maildir.compose import (
    MAX_FORWARDED,
    MAX_REFS,
    compose,
    dedupe_id_for,
    message_id_for,
)
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, parse_message
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
    Route,
)
from agent_mailer.names import DEDUPE_KEY

NOW = 1787392800.123


def origin(
    *, sender: str = "bob", subject: str = "Plan", kind: Kind | None = None, reply_to: str = "", hops: int = 0
) -> Message:
    envelope = Envelope(
        id="o1",
        thread="p2p/alice__bob",
        sender=sender,
        created=NOW,
        order="1",
        locator="o1.md",
        to=("alice", "carol"),
        kind=kind,
        hops=hops,
    )
    return Message(envelope=envelope, subject=subject, body="original\n", refs=("r0",), reply_to=reply_to or sender)


def draft(action: Action = Action.REPLY, **fields: object) -> Draft:
    return Draft(**{"key": "k", "action": action, "created": NOW, "body": "text", **fields})  # type: ignore[arg-type]


def items(draft_: Draft, origin_: Message | None, turn: str = "t1") -> tuple[Outgoing, ...]:
    composed = compose("alice", "root", draft_, origin_, turn)
    assert not isinstance(composed, Refused), composed
    return composed


def sent(draft_: Draft, origin_: Message | None = None, turn: str = "t1") -> Message:
    parsed = parse_message(items(draft_, origin_, turn)[0].payload.encode(), "x.md")
    assert isinstance(parsed, Message), parsed
    return parsed


def refused(draft_: Draft, origin_: Message | None = None) -> str:
    composed = compose("alice", "root", draft_, origin_, "t1")
    assert isinstance(composed, Refused)
    return composed.why


def test_ids_have_amqs_form_and_follow_from_the_turn() -> None:
    identifier = message_id_for("alice", "t1", "k", NOW)
    assert re.fullmatch(r"2026-08-22T10-00-00\.123Z_pid[1-9][0-9]*_[0-9a-f]{8}", identifier)
    assert identifier == message_id_for("alice", "t1", "k", NOW)
    others = {message_id_for(*names, NOW) for names in (("bob", "t1", "k"), ("alice", "t2", "k"), ("alice", "t1", "l"))}
    assert len({identifier, *others, message_id_for("alice", "t1k", "", NOW)}) == 5


def test_a_dedupe_key_alone_makes_the_id() -> None:
    first = items(draft(Action.SEND, key=DEDUPE_KEY + "nightly", to=("bob",)), None)
    later = items(
        draft(Action.SEND, key=DEDUPE_KEY + "nightly", to=("bob",), created=NOW + 999, body="other"), None, "t2"
    )
    assert first[0].id == later[0].id == dedupe_id_for("alice", "nightly")
    assert re.fullmatch(r"dedupe-[0-9a-f]{32}", first[0].id)
    assert dedupe_id_for("bob", "nightly") != first[0].id


@pytest.mark.parametrize(
    ("subject", "answer"),
    [
        ("Plan", "Re: Plan"),
        ("RE: Plan", "RE: Plan"),
        ("re:Plan", "re:Plan"),
        ("", "Re: (no subject)"),
        ("a\nb", "Re: a b"),
    ],
)
def test_the_subject_of_a_reply(subject: str, answer: str) -> None:
    assert sent(draft(), origin(subject=subject)).subject == answer


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Kind.REVIEW_REQUEST, Kind.REVIEW_RESPONSE),
        (Kind.QUESTION, Kind.ANSWER),
        (Kind.TODO, Kind.TODO),
        (None, None),
    ],
)
def test_the_kind_of_a_reply(kind: Kind | None, answer: Kind | None) -> None:
    payload = items(draft(), origin(kind=kind))[0].payload
    assert sent(draft(), origin(kind=kind)).envelope.kind is answer
    assert ('"priority": "normal"' in payload) is (answer is not None)


@pytest.mark.parametrize("action", Action)
def test_whatever_a_turn_sends_is_one_hop_further_than_what_it_is_about(action: Action) -> None:
    assert sent(draft(action, to=("dora",)), origin(hops=4)).envelope.hops == 5


def test_a_reply_names_what_it_answers() -> None:
    reply = sent(draft(labels=("mine",), priority=Priority.URGENT), origin(hops=4))
    assert reply.refs == ("r0", "o1")
    assert reply.envelope.thread == "p2p/alice__bob"
    assert reply.envelope.to == ("bob",)
    assert reply.envelope.hops == 5
    assert reply.envelope.priority is Priority.URGENT
    assert reply.labels == ("mine",)


def test_whatever_a_turn_sends_says_who_wrote_what_it_comes_of_the_last_of_very_many() -> None:
    chain = tuple(f"n{number}" for number in range(MOST_VISITED))
    came = msgspec.structs.replace(origin(), envelope=msgspec.structs.replace(origin().envelope, visited=chain))
    for action in Action:
        assert sent(draft(action, to=("dora",)), came).envelope.visited == (*chain[1:], "bob")


def test_a_reply_to_oneself_goes_to_the_first_recipient() -> None:
    message = origin(sender="alice")
    assert sent(draft(), message).envelope.to == ("alice",)
    envelope = Envelope(id="o", thread="t", sender="alice", created=NOW, order="1", locator="o.md", to=("bob",))
    assert sent(draft(), Message(envelope=envelope, reply_to="alice")).envelope.to == ("bob",)
    # One of the same name elsewhere is somebody else.
    assert "session" in refused(draft(), Message(envelope=envelope, reply_to="alice@main"))
    assert "project" in refused(draft(), Message(envelope=envelope, reply_to="web:alice"))


@pytest.mark.parametrize(
    ("automatic", "label"),
    [(Automatic.NOTICE, "agent-mailer:notice"), (Automatic.AUTO_REPLY, "agent-mailer:auto-reply")],
)
def test_an_automatic_message_says_so_to_programs_and_people(automatic: Automatic, label: str) -> None:
    message = sent(draft(automatic=automatic), origin())
    assert message.envelope.automatic is automatic
    assert message.labels == (label,)
    assert '"turn": "t1"' in items(draft(automatic=automatic), origin())[0].payload


def test_a_forward_quotes_the_header_and_carries_the_body() -> None:
    message = sent(draft(Action.FORWARD, to=("dora",), body="see below"), origin(subject="Plan"))
    assert message.subject == "Fwd: Plan"
    assert message.envelope.to == ("dora",)
    assert message.envelope.thread == "p2p/alice__bob"
    assert message.refs == ("r0", "o1")
    assert message.body == (
        "see below\n\n> From: bob\n> To: alice, carol\n> Date: 2026-08-22T10:00:00.123Z\n> Subject: Plan\n\noriginal\n"
    )


def test_new_threads() -> None:
    assert sent(draft(Action.SEND, to=("zoe",))).envelope.thread == "p2p/alice__zoe"
    assert sent(draft(Action.SEND, to=("aaron",))).envelope.thread == "p2p/aaron__alice"
    assert sent(draft(Action.SEND, to=("zoe",), thread="mine")).envelope.thread == "mine"
    several = items(draft(Action.SEND, to=("zoe", "bob", "zoe")), None)
    assert [item.recipient for item in several] == ["zoe", "bob"]
    assert {item.thread for item in several} == {f"t-{several[0].id}"}
    assert len({(item.id, item.payload) for item in several}) == 1
    assert sent(draft(Action.SEND, to=("zoe",)), origin()).refs == ()


def test_a_plain_send_by_a_person_carries_no_marks_and_a_context_is_carried() -> None:
    assert "context" not in items(draft(Action.SEND, to=("bob",)), None, "")[0].payload
    [given] = items(draft(Action.SEND, to=("bob",), context='{"paths": ["src"], "focus": 1}'), None, "")
    context = {"paths": ["src"], "focus": 1}
    assert json.loads(given.payload.split("---")[1].removeprefix("json"))["context"] == context
    parsed = parse_message(given.payload.encode(), "x.md")
    assert isinstance(parsed, Message)
    assert json.loads(parsed.context) == context


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("Bob", "handle"),
        ("../../x", "handle"),
        ("bob@main", "session"),
        ("web:bob", "project"),
        ("web:bob@main", "project"),
        ("", "handle"),
    ],
)
def test_addresses_beyond_this_root_are_refused(address: str, said: str) -> None:
    assert said in refused(draft(Action.SEND, to=(address,)))


def test_a_reply_into_another_root_is_refused_and_into_our_own_is_not() -> None:
    assert "session" in refused(draft(), origin(reply_to="bob@main"))
    assert "project" in refused(draft(), origin(reply_to="web:bob"))
    assert sent(draft(), origin(reply_to="bob@root")).envelope.to == ("bob",)


def test_what_cannot_be_sent_is_refused() -> None:
    assert "reply" in refused(draft())
    assert "recipient" in refused(draft(Action.FORWARD), origin())
    assert "'../x' is no message id" in refused(draft(refs=("m1", "../x")), origin())
    assert "thread" in refused(draft(Action.SEND, to=("bob",), thread=" t"))
    assert str(MAX_MESSAGE_BYTES) in refused(draft(Action.SEND, to=("bob",), body="ü" * (MAX_MESSAGE_BYTES // 2)))


def test_refs_keep_the_first_and_the_newest() -> None:
    refs = tuple(f"r{number}" for number in range(MAX_REFS + 50))
    long = msgspec.structs.replace(origin(), refs=refs)
    written = sent(draft(), long)
    assert written.refs == (refs[0], *refs[2 - MAX_REFS :], "o1")
    assert len(written.refs) == MAX_REFS == 20


def test_a_thread_that_leaves_our_root_names_both_ends_as_they_read_from_afar() -> None:
    """And one that stays names two handles."""
    away = Route("zoe@there", "/there", 1, 2, "zoe", back="alice@here")
    far = draft(Action.SEND, to=("zoe@there",))
    [item] = composed_by(far, (away,))
    assert item.thread == "p2p/here:alice__there:zoe"
    [within] = composed_by(far, (msgspec.structs.replace(away, back=""),))
    assert within.thread == "p2p/alice__zoe"


def test_each_of_several_gets_his_copy_by_his_own_way_and_all_are_named() -> None:
    ways = tuple(Route(f"{name}@there", "/there", 1, 2, name, back="alice@here") for name in ("zoe", "yan"))
    found = composed_by(draft(Action.SEND, to=("bob", "zoe@there", "yan@there")), ways)
    assert [(one.recipient, one.route) for one in found] == [
        ("bob", None),
        ("zoe@there", ways[0]),
        ("yan@there", ways[1]),
    ]
    heads = [parse_message(one.payload.encode(), "x.md") for one in found]
    assert [isinstance(one, Message) and one.envelope.to for one in heads] == [("bob", "zoe", "yan")] * 3


def composed_by(draft_: Draft, routes: tuple[Route, ...]) -> tuple[Outgoing, ...]:
    composed = compose("alice", "root", draft_, None, "t1", routes)
    assert not isinstance(composed, Refused), composed
    return composed


def test_a_large_message_is_passed_on_in_part_and_says_so() -> None:
    large = msgspec.structs.replace(origin(), body="ü" * MAX_FORWARDED)
    [item] = items(draft(Action.FORWARD, to=("carol",)), large)
    assert f"[cut here, after {MAX_FORWARDED} of {2 * MAX_FORWARDED} bytes; the whole is message o1]" in item.payload
    assert len(item.payload.encode()) < MAX_FORWARDED + 2000
