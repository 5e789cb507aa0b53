"""Messages in the trash one by one: put there, listed, brought back, deleted for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_

from agent_mailer.broker.messages.wire import MESSAGE_COLUMNS, Message, message_of
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import NOT_ERASED, messages, trashed_messages
from agent_mailer.broker.threads.rows import (
    Arrivals,
    Mark,
    Shelf,
    erase,
    find_thread,
    forget_empty,
    put_in_one,
    take_out_one,
)


class Trashed(msgspec.Struct, frozen=True):
    """A message in the list of the trash."""

    message_id: str
    thread_id: str
    trashed_at: str
    from_agent: str
    to_agent: str
    action: str
    subject: str
    created_at: str


class TrashedWhole(msgspec.Struct, frozen=True):
    trashed_at: str
    message: Message


_m, _x = messages.c, trashed_messages.c
_OWN = (_m.id == bindparam("message"), _m.user_id == bindparam("user"), NOT_ERASED)
_THREAD_OF = select(_m.thread_id).where(*_OWN)
# Of two who bring it back, or delete it for good, the second waits here, and finds it gone.
_SINCE = select(_x.trashed_at).where(_x.message_id == bindparam("message")).with_for_update()
_ANSWERED = (
    select(_m.id)
    .where(_m.user_id == bindparam("user"), _m.thread_id == bindparam("thread"), _m.parent_id == bindparam("message"))
    .limit(1)
)
_OUT = delete(trashed_messages).where(_x.message_id == bindparam("message"))
_LISTED = (
    select(_m.id, _m.thread_id, _x.trashed_at, _m.from_agent, _m.to_agent, _m.action, _m.subject, _m.created_at)
    .join(messages, _m.id == _x.message_id)
    .where(_x.user_id == bindparam("user"))
    .where(tuple_(_x.trashed_at, _x.message_id) < tuple_(bindparam("moment"), bindparam("id")))
    .order_by(_x.trashed_at.desc(), _x.message_id.desc())
    .limit(bindparam("most"))
)
_OF_THREAD = (
    select(_m.id)
    .join(trashed_messages, _x.message_id == _m.id)
    .where(_m.user_id == bindparam("user"), _m.thread_id == bindparam("thread"), NOT_ERASED)
    .order_by(_m.created_at, _m.ordinal, _m.id)
)
_WHOLE = select(_x.trashed_at, *MESSAGE_COLUMNS).join(messages, _m.id == _x.message_id).where(*_OWN)


def trashed(connection: Connection, user_id: str, after: Mark, most: int) -> list[Trashed]:
    """At most `most` of them, what was put there last first."""
    names = {"user": user_id, "moment": after.moment, "id": after.id, "most": most}
    return [Trashed(*row) for row in connection.execute(_LISTED, names)]


def trashed_of(connection: Connection, user_id: str, thread_id: str) -> list[str]:
    """The ids of a thread's messages that are in the trash by themselves, oldest first."""
    found = connection.execute(_OF_THREAD, {"user": user_id, "thread": thread_id})
    return list(found.scalars())


def find_trashed(connection: Connection, user_id: str, message_id: str) -> TrashedWhole:
    """Raises Fault 404."""
    names = {"user": user_id, "message": message_id}
    _thread_of(connection, names)
    row: Sequence[Any] | None = connection.execute(_WHOLE, names).first()
    if row is None:
        raise Fault(404, "Message is not in trash")
    return TrashedWhole(row[0], message_of(row[1:]))


def trash_message(connection: Connection, user_id: str, message_id: str) -> str:
    """Since when it is there. Raises Fault 404, 400 (it is already, its thread is, it was answered)."""
    names = {"user": user_id, "message": message_id}
    thread_id = _thread_of(connection, names)
    if find_thread(connection, user_id, thread_id).shelf is Shelf.TRASH:
        raise Fault(400, "Thread is in trash; restore the thread or delete it permanently.")
    if connection.execute(_SINCE, names).first() is not None:
        raise Fault(400, "Message is already in trash")
    if connection.execute(_ANSWERED, {**names, "thread": thread_id}).first() is not None:
        raise Fault(400, "Cannot trash a message that has replies; trash replies first or trash the whole thread.")
    take_out_one(connection, message_id)
    moment = now_text()
    connection.execute(insert(trashed_messages).values(message_id=message_id, user_id=user_id, trashed_at=moment))
    return moment


def restore_message(connection: Connection, user_id: str, message_id: str) -> Arrivals:
    """Into its inbox, unless its thread is put away. Raises Fault 404."""
    names = {"user": user_id, "message": message_id}
    thread_id = _thread_of(connection, names)
    if connection.execute(_SINCE, names).first() is None:
        raise Fault(404, "Message is not in trash")
    connection.execute(_OUT, names)
    if find_thread(connection, user_id, thread_id, to_change=True).shelf is not Shelf.OPEN:
        return []
    return put_in_one(connection, message_id)


def erase_message(connection: Connection, user_id: str, message_id: str) -> None:
    """For good. Raises Fault 404, 400 (not in the trash, was answered)."""
    names = {"user": user_id, "message": message_id}
    thread_id = _thread_of(connection, names)
    if connection.execute(_SINCE, names).first() is None:
        raise Fault(400, "Message is not in trash; move to trash before permanent delete.")
    if connection.execute(_ANSWERED, {**names, "thread": thread_id}).first() is not None:
        raise Fault(400, "Cannot purge a message that has replies.")
    connection.execute(_OUT, names)
    erase(connection, (_m.id == bindparam("message"),), names)
    forget_empty(connection, user_id, thread_id)


def _thread_of(connection: Connection, names: dict[str, str]) -> str:
    """Raises Fault 404."""
    thread_id: str | None = connection.execute(_THREAD_OF, names).scalar()
    if thread_id is None:
        raise Fault(404, "Message not found")
    return thread_id
