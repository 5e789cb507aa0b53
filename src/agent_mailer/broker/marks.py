"""What is noted at a message after it was sent: that it was read, or that it is to be read again."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, bindparam, false, select, true, update

from agent_mailer.broker.callers import AgentCaller
from agent_mailer.broker.faults import Fault
from agent_mailer.broker.tables import agents, messages
from agent_mailer.broker.wire import MESSAGE_COLUMNS, Message, message_of

_m = messages.c
_LOCKED = (
    select(_m.to_agent_id, _m.claimed_by, *MESSAGE_COLUMNS)
    .where(_m.id == bindparam("message"), _m.user_id == bindparam("user"))
    .with_for_update(key_share=True)
)
_READ = update(messages).where(_m.id == bindparam("message")).values(is_read=true())
_LOCKED_INBOX = select(agents.c.inbox_seq).where(agents.c.id == bindparam("agent")).with_for_update(key_share=True)
_COUNT_ON = update(agents).where(agents.c.id == bindparam("agent")).values(inbox_seq=bindparam("newest"))
_UNREAD = (
    update(messages)
    .where(_m.id == bindparam("message"))
    .values(is_read=false(), seq=bindparam("newest"), claimed_by=None, claimed_at=None)
)


class Held(msgspec.Struct, frozen=True):
    """A message that nobody else changes until the transaction ends. `agent_id` is its recipient."""

    agent_id: str
    claimed_by: str | None
    message: Message


def hold(connection: Connection, caller: AgentCaller, message_id: str) -> Held:
    """That message. Raises Fault 404 (unknown, or of another user), 403 (the caller is not its recipient)."""
    row = connection.execute(_LOCKED, {"message": message_id, "user": caller.user_id}).first()
    if row is None:
        raise Fault(404, "Message not found")
    if not caller.may_act_as(row[0]):
        raise Fault(403, "This API key acts for another agent only")
    return Held(row[0], row[1], message_of(row[2:]))


def mark_read(connection: Connection, held: Held) -> Message:
    """The message as it is then."""
    if not held.message.is_read:
        connection.execute(_READ, {"message": held.message.id})
        held.message.is_read = True
    return held.message


def mark_unread(connection: Connection, held: Held) -> Message:
    """The message as it is then: unclaimed, and in a new place at the end of the inbox, so that it is found again."""
    newest = int(connection.execute(_LOCKED_INBOX, {"agent": held.agent_id}).scalar_one()) + 1
    connection.execute(_COUNT_ON, {"agent": held.agent_id, "newest": newest})
    connection.execute(_UNREAD, {"message": held.message.id, "newest": newest})
    message = held.message
    message.is_read, message.cursor, message.claimed_at = False, newest, None
    return message
