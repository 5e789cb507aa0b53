"""What adapters of servers share of composing: the key under which an item leaves once."""

from __future__ import annotations

import msgspec
import pytest

from agent_mailer.mailbox.port import Action, Draft
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
