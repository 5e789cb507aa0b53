"""A draft in its final form. Pure: key and text follow from the draft, its origin and the turn alone."""

from __future__ import annotations

from typing import Final

import msgspec

from agent_mailer.groups import taken_by_one
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
from agent_mailer.mailbox.relay.reader import MOST_HOPS, Marks, is_claimable, number_of, task_of
from agent_mailer.mailbox.server_drafts import beyond, key_of, passed_on, recipients, storable

MAX_SUBJECT: Final = 200


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an item carries. `claimed`: the number of the message that it answers, where that had to be claimed; `task`:
    what that is about; `is_claimable`: one of a group takes it; `is_answer`: its recipient has written to us.
    """

    subject: str
    body: str
    marks: Marks
    reply_to: int | None = None
    claimed: int | None = None
    task: str = ""
    is_claimable: bool = False
    is_answer: bool = False


def payload_of(item: Outgoing) -> Payload:
    """Raises msgspec.DecodeError for an item that another mailbox composed."""
    return msgspec.json.decode(item.payload, type=Payload)


def compose(me: str, draft: Draft, origin: Message | None, turn_id: str) -> tuple[Outgoing, ...] | Refused:
    """One item a recipient, each with a key of its own; a fresh thread of several is shared by all of them."""
    if draft.action is not Action.SEND and origin is None:
        return Refused(f"there is no message to {draft.action.value}")
    if draft.refs or draft.context:
        return Refused("mail at this server has no place for refs and context: put them into the text")
    group = taken_by_one(draft.labels)
    to = (group,) if group else recipients(me, draft, origin)
    if isinstance(to, Refused):
        return to
    body = storable(passed_on(draft, origin) if draft.action is Action.FORWARD else draft.body)
    if (too_large := beyond(body)) is not None:
        return too_large
    answered = origin if draft.action is not Action.SEND else None
    thread = answered.envelope.thread if answered is not None else draft.thread
    fresh = f"am-{key_of(me, draft, turn_id, '')[:24]}"
    named = thread if thread and not thread.isdigit() else fresh if not thread and len(to) > 1 else ""
    locator = answered.envelope.locator if answered is not None else thread if thread.isdigit() else ""
    payload = Payload(
        storable(subject_of(draft, origin))[:MAX_SUBJECT],
        body,
        Marks(
            hops=min(MOST_HOPS, origin.envelope.hops + 1) if origin else 0,
            automatic=draft.automatic,
            kind=kind_of(draft, origin),
            priority=draft.priority or Priority.NORMAL,
            thread=named,
            parent=answered.envelope.id if answered is not None else "",
        ),
        reply_to=number_of(locator) if locator else None,
        claimed=number_of(locator) if is_claimable(locator) and draft.action is Action.REPLY else None,
        task=task_of(locator) if draft.action is Action.REPLY else "",
        is_claimable=bool(group),
        is_answer=draft.action is Action.REPLY,
    )
    data = msgspec.json.encode(payload).decode()
    items = []
    for recipient in to:
        name = f"am-{key_of(me, draft, turn_id, recipient)[:24]}"
        items.append(Outgoing(name, recipient, thread or named or name, data))
    return tuple(items)
