"""A draft in its final form. Pure: topic and text follow from the draft, its origin and the turn alone."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent_mailer.groups import taken_by_one
from agent_mailer.mailbox.mcp_agent_mail.wire import MOST_HOPS, Marks, topic_of
from agent_mailer.mailbox.port import (
    Action,
    Draft,
    Message,
    Outgoing,
    Priority,
    Refused,
    kind_of,
    subject_of,
)
from agent_mailer.mailbox.server_drafts import NO_GROUPS, beyond, key_of, passed_on, recipients, storable
from agent_mailer.names import printable

MAX_SUBJECT: Final = 200
THREAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Payload(msgspec.Struct, frozen=True):
    """What an item carries: the arguments of `send_message`."""

    topic: str
    subject: str
    body: str
    importance: str


def payload_of(item: Outgoing) -> Payload:
    """Raises msgspec.DecodeError for an item that another mailbox composed."""
    return msgspec.json.decode(item.payload, type=Payload)


def compose(me: str, draft: Draft, origin: Message | None, turn_id: str) -> tuple[Outgoing, ...] | Refused:
    """One item a recipient, each with a topic of its own; a fresh thread is shared by all of them."""
    if draft.action is not Action.SEND and origin is None:
        return Refused(f"there is no message to {draft.action.value}")
    if draft.refs or draft.context:
        return Refused("mail at this server has no place for refs and context: put them into the text")
    if taken_by_one(draft.labels):
        return NO_GROUPS
    to = recipients(me, draft, origin)
    if isinstance(to, Refused):
        return to
    body = storable(passed_on(draft, origin) if draft.action is Action.FORWARD else draft.body)
    if (too_large := beyond(body)) is not None:
        return too_large
    thread = _thread(me, draft, origin, turn_id)
    if THREAD.fullmatch(thread) is None:
        return Refused(f"{printable(thread)!r} is no name of a thread here: letters, digits, . _ and -, at most 128")
    marks = Marks(
        hops=min(MOST_HOPS, origin.envelope.hops + 1) if origin else 0,
        automatic=draft.automatic,
        kind=kind_of(draft, origin),
        parent=origin.envelope.id if origin is not None and draft.action is not Action.SEND else "",
    )
    importance = (draft.priority or Priority.NORMAL).value
    items = []
    for recipient in to:
        key = key_of(me, draft, turn_id, recipient)
        subject = storable(subject_of(draft, origin))[:MAX_SUBJECT]
        payload = Payload(topic_of(key, marks), subject, body, importance)
        items.append(Outgoing(f"am-{key[:24]}", recipient, thread, msgspec.json.encode(payload).decode()))
    return tuple(items)


def _thread(me: str, draft: Draft, origin: Message | None, turn_id: str) -> str:
    if draft.action is not Action.SEND and origin is not None:
        return origin.envelope.thread
    return draft.thread or f"am-{key_of(me, draft, turn_id, '')[:24]}"
