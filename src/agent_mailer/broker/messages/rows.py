"""What is noted at a message after it was sent, as rows: read, claimed, receipts. Every query names the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, bindparam, insert, or_, select, true, update

from agent_mailer.broker.messages.changing import Changes, Locked
from agent_mailer.broker.messages.wire import Message
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import NOT_ERASED, messages, receipts


class Receipt(msgspec.Struct, frozen=True):
    """One step of a message's way through a turn."""

    message_id: str
    stage: str
    turn_id: str
    outcome: str | None
    detail: str
    final: bool
    created_at: str


class Claimed(msgspec.Struct):
    """`claimed` is `before` where this watcher had it already. `thread`: if it was asked for, and is no long one."""

    message: Message
    claimed: Literal["now", "before"]
    thread: Sequence[Message] | msgspec.UnsetType = msgspec.UNSET


_m = messages.c
_READ = update(messages).where(_m.id == bindparam("message")).values(is_read=true())
_r = receipts.c
_COLUMNS = (_r.message_id, _r.stage, _r.turn_id, _r.outcome, _r.detail, _r.final, _r.created_at)
_OF_MESSAGE = select(*_COLUMNS).where(_r.message_id == bindparam("message")).order_by(_r.id)
_SAME = select(*_COLUMNS).where(
    _r.message_id == bindparam("message"), _r.turn_id == bindparam("turn"), _r.stage == bindparam("stage")
)
_NOTE = insert(receipts)
_CLAIM = (
    update(messages)
    .where(messages.c.id == bindparam("message"))
    .values(claimed_by=bindparam("watcher"), claimed_at=bindparam("moment"))
)
_ENDS = select(_m.from_agent_id, _m.to_agent_id).where(
    _m.id == bindparam("message"), _m.user_id == bindparam("user"), NOT_ERASED
)
_TAKES_PART = (
    select(_m.id)
    .where(
        _m.user_id == bindparam("user"),
        _m.thread_id == bindparam("thread"),
        or_(_m.from_agent_id == bindparam("agent"), _m.to_agent_id == bindparam("agent")),
    )
    .limit(1)
)


def mark_read(changes: Changes, locked: Locked) -> Message:
    """The message as it is then."""
    if not locked.message.is_read:
        changes.connection.execute(_READ, {"message": locked.message.id})
        locked.message.is_read = True
        changes.was_read(locked)
        if locked.message.claimed_at is None:
            changes.was_taken(locked)
    return changes.answer(locked)


def mark_unread(changes: Changes, locked: Locked) -> Message:
    """The message as it is then: unclaimed, and in a new place at the end of the inbox, so that it is found again."""
    changes.becomes_unread(locked)
    return changes.answer(locked)


def require_free(locked: Locked, watcher: str, since: str) -> None:
    """Raises Fault 409 where it is read or put away, or another watcher has claimed it after the moment `since`."""
    if locked.is_away:
        raise Fault(409, "This message is archived, or in the trash", extra={"reason": "away"})
    if locked.message.is_read:
        raise Fault(409, "This message is read already", extra={"reason": "read"})
    claimed_at = locked.message.claimed_at
    if locked.claimed_by not in (None, watcher) and claimed_at is not None and claimed_at >= since:
        words = f"This message is claimed by another watcher since {claimed_at}"
        raise Fault(409, words, extra={"reason": "claimed"})


def claim_message(
    changes: Changes, locked: Locked, watcher: str, turn_id: str, *, silent: bool = False, started: bool = False
) -> Claimed:
    """Note the claim; `turn_id` may be empty. `silent`: no receipt tells of it; `started`: one more of the turn."""
    message, before, waited = locked.message, locked.claimed_by == watcher, locked.message.claimed_at is None
    changes.taken.take(message.id)
    message.claimed_at = now_text()
    locked.claimed_by = watcher
    changes.connection.execute(_CLAIM, {"message": message.id, "watcher": watcher, "moment": message.claimed_at})
    if waited:
        changes.was_taken(locked)
    if not silent and (not before or turn_id):
        receipt = Receipt(message.id, "claimed", turn_id, None, "", final=False, created_at=message.claimed_at)
        add_receipt(changes.connection, receipt, watcher)
        if started and turn_id:
            add_receipt(changes.connection, msgspec.structs.replace(receipt, stage="started"), watcher)
    return Claimed(changes.answer(locked), "before" if before else "now")


def add_receipt(connection: Connection, receipt: Receipt, watcher: str) -> tuple[Receipt, bool]:
    """The stored receipt, and whether it is new."""
    same = {"message": receipt.message_id, "turn": receipt.turn_id, "stage": receipt.stage}
    stored = connection.execute(_SAME, same).first()
    if stored is not None:
        return Receipt(*stored), False
    connection.execute(_NOTE, [{**msgspec.structs.asdict(receipt), "watcher": watcher}])
    return receipt, True


def receipts_of(connection: Connection, user_id: str, message_id: str, agent_id: str | None) -> list[Receipt]:
    """Oldest first. `agent_id`: only if that agent is its sender or recipient. Raises Fault 404."""
    ends = connection.execute(_ENDS, {"message": message_id, "user": user_id}).first()
    if ends is None or (agent_id is not None and agent_id not in ends):
        raise Fault(404, "Message not found")
    rows: Sequence[Sequence[Any]] = connection.execute(_OF_MESSAGE, {"message": message_id}).all()
    return [Receipt(*row) for row in rows]


def takes_part(connection: Connection, user_id: str, thread_id: str, agent_id: str) -> bool:
    """Whether the agent wrote or got a message of that thread."""
    found = connection.execute(_TAKES_PART, {"user": user_id, "thread": thread_id, "agent": agent_id}).first()
    return found is not None
