"""Mail that one of a group takes: each member has a copy, and whose claim comes first has it, for good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.messages.wire import Message
from agent_mailer.broker.tables import group_messages, messages

_g = group_messages.c
_of_these = group_messages.alias("of_these")
_COPIES = (
    select(_g.message_id, _g.from_agent_id, _g.one_of, _g.taken, messages.c.to_agent)
    .join(_of_these, (_of_these.c.from_agent_id == _g.from_agent_id) & (_of_these.c.one_of == _g.one_of))
    .join(messages, messages.c.id == _g.message_id)
    .where(_of_these.c.message_id.in_(bindparam("ids", expanding=True)))
    .order_by(_g.message_id)
    .with_for_update(of=group_messages)
)
_NOTE = insert(group_messages)
_TAKE = update(group_messages).where(_g.message_id == bindparam("message")).values(taken=True)


class _Copy(NamedTuple):
    group: tuple[str, str]
    """Who sent it, and his name for it."""
    to: str


def copies_of(submission: Submission, made: Sequence[Message]) -> list[dict[str, object]]:
    """Rows of the table for what is stored of a submission: none, where it is everybody's own."""
    one_of = submission.new.one_of
    sender = {"user_id": submission.user_id, "from_agent_id": submission.agent_id, "one_of": one_of, "taken": False}
    return [{**sender, "message_id": message.id} for message in made] if one_of else []


def note_copies(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    """Of messages that were stored just now."""
    if rows:
        connection.execute(_NOTE, list(rows))


class Taken:
    """Who has which, of the messages of these ids, that a group's members have copies of; locked until the transaction
    ends, after the messages themselves.
    """

    def __init__(self, connection: Connection, ids: Collection[str]) -> None:
        self._connection = connection
        self._copies: dict[str, _Copy] = {}
        self._owners: dict[tuple[str, str], str] = {}
        rows: Sequence[Sequence[Any]] = connection.execute(_COPIES, {"ids": sorted(ids)}).all() if ids else ()
        for message_id, sender, one_of, taken, to in rows:
            self._copies[message_id] = _Copy((sender, one_of), to)
            if taken:
                self._owners[sender, one_of] = message_id

    def by_another(self, message_id: str) -> str:
        """The address of another member that has taken it; empty where nobody has."""
        copy = self._copies.get(message_id)
        owner = self._owners.get(copy.group, message_id) if copy is not None else message_id
        return "" if owner == message_id else self._copies[owner].to

    def take(self, message_id: str) -> None:
        """It is this copy's recipient who has it."""
        copy = self._copies.get(message_id)
        if copy is not None and copy.group not in self._owners:
            self._owners[copy.group] = message_id
            self._connection.execute(_TAKE, {"message": message_id})
