"""What adapters of servers share of composing: whom a draft goes to, what a text can be. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from agent_mailer.mailbox.port import Action, Draft, Message, Refused
from agent_mailer.names import DEDUPE_KEY, printable

MAX_BODY_BYTES: Final = 1_048_576
"""Of a body in UTF-8. What an agent may write does not depend on which server answers today."""

_LONGEST_ADDRESS: Final = 320

NO_GROUPS: Final = Refused("the server has no way for mail that one of a group takes: name one of them")


def recipients(me: str, draft: Draft, origin: Message | None) -> tuple[str, ...] | Refused:
    """Each once, as it was named; of a reply that names nobody whoever is answered."""
    wanted = draft.to
    if not wanted and draft.action is Action.REPLY and origin is not None:
        envelope = origin.envelope
        mine = envelope.sender == me and envelope.to
        wanted = (envelope.to[0] if mine else origin.reply_to or envelope.sender,)
    if not wanted:
        return Refused("there is no recipient")
    found: dict[str, None] = {}
    for address in wanted:
        name = address.strip()
        if not name or not name.isprintable() or len(name) > _LONGEST_ADDRESS or any(one.isspace() for one in name):
            return Refused(f"{printable(address)!r} is no address")
        found[name] = None
    return tuple(found)


def beyond(body: str) -> Refused | None:
    """Why a body is too large to be sent, if it is."""
    size = len(body.encode())
    if size <= MAX_BODY_BYTES:
        return None
    return Refused(f"the message has {size} bytes; at most {MAX_BODY_BYTES} can be sent: send a file name")


def storable(text: str) -> str:
    """What a server's database can hold: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def key_of(me: str, draft: Draft, turn_id: str, recipient: str) -> str:
    """Hex of the item's idempotency: the same for the same draft of a turn, and for a person's dedupe key whenever."""
    once = draft.key.startswith(DEDUPE_KEY)
    parts = (me, "" if once else turn_id, draft.key, recipient)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def passed_on(draft: Draft, origin: Message | None) -> str:
    """The body of a forward where the server has no place for what is passed on."""
    assert origin is not None
    note = f"{draft.body}\n\n" if draft.body else ""
    return f"{note}---------- forwarded from {origin.envelope.sender} ----------\n\n{origin.body}"
