"""What adapters of servers share of composing: the key under which an item leaves once."""

from __future__ import annotations

import msgspec
import pytest

from agent_mailer.mailbox.mcp_agent_mail import compose as mcp_agent_mail
from agent_mailer.mailbox.mcp_agent_mail.wire import marks_in
from agent_mailer.mailbox.port import Action, Draft, Envelope, Message, Refused
from agent_mailer.mailbox.relay import compose as relay
from agent_mailer.mailbox.server_drafts import key_of
from agent_mailer.names import DEDUPE_KEY


@pytest.mark.parametrize("once", [False, True], ids=["of a turn", "of a person's"])
def test_a_key_is_one_senders_for_one_draft_to_one_recipient(once: bool) -> None:
    draft = Draft(f"{DEDUPE_KEY if once else ''}nightly", Action.SEND, 1.5, to=("bob",))
    key = key_of("alice", draft, "turn", "bob")
    others = (
        key_of("carol", draft, "turn", "bob"),
        key_of("alice", msgspec.structs.replace(draft, key=f"{draft.key}-2"), "turn", "bob"),
        key_of("alice", draft, "turn", "dan"),
    )
    assert len({key, *others}) == 4
    assert (key_of("alice", draft, "a later one", "bob") == key) is once


@pytest.mark.parametrize("action", Action)
def test_whatever_a_turn_sends_is_one_hop_further_than_what_it_is_about(action: Action) -> None:
    about = Message(Envelope("7", "t", "bob", 1.0, "1", "7", to=("alice",), hops=3), "Plan", "work", reply_to="bob")
    draft = Draft("k", action, 1.5, to=("bob",), body="text")
    for items, hops in (
        (
            mcp_agent_mail.compose("alice", draft, about, "turn"),
            lambda one: marks_in(mcp_agent_mail.payload_of(one).topic),
        ),
        (relay.compose("alice", draft, about, "turn"), lambda one: relay.payload_of(one).marks),
    ):
        assert not isinstance(items, Refused), items
        assert [hops(one).hops for one in items] == [4]
