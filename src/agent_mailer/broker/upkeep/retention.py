"""How long is mail kept? By age and by size; what somebody has yet to read is never taken, nor its thread.

What is taken is deleted for good, as from the trash: its id and its key stay, so that nothing is sent or run a second
time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Text,
    and_,
    cast,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
)
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker.data import Keep
from agent_mailer.broker.database import Store
from agent_mailer.broker.protocol import CLOCK
from agent_mailer.broker.tables import NOT_ERASED, audit_log, files, messages
from agent_mailer.broker.threads.rows import erase_read, lock_with_threads
from agent_mailer.progress import Step, Tell, untold

log = logging.getLogger("agent_mailer.broker")
EVERY = 3600.0
"""Seconds between two looks."""
AT_ONCE = 200
"""Messages that go in one transaction: nobody who sends waits long."""
IN_A_LOOK = 5000


class Pruned(msgspec.Struct, frozen=True):
    """`bytes`: of the bodies that went; `uploads`: files that went; `audit`: entries of who did what."""

    messages: int = 0
    bytes: int = 0
    uploads: int = 0
    audit: int = 0


_m = messages.c
_other = messages.alias("of_the_thread")
_UNREAD_THERE = exists().where(
    _other.c.user_id == _m.user_id, _other.c.thread_id == _m.thread_id, not_(_other.c.is_read)
)
_MAY_GO = and_(_m.is_read, NOT_ERASED, ~_UNREAD_THERE)
_NAMED = exists().where(
    not_(_m.is_read),
    _m.user_id == files.c.user_id,
    or_(_m.body.contains(files.c.id), cast(_m.attachments, Text).contains(files.c.id)),
)
"""Whether unread mail of its user names an upload."""


async def keep_on(store: Store, uploads: Path, keep: Keep) -> None:
    """For ever."""
    while True:
        try:
            gone = await prune(store, uploads, keep)
            if gone != Pruned():
                words = "taken for its age or size: %d messages, %d bytes, %d uploads, %d entries of the audit"
                log.warning(words, gone.messages, gone.bytes, gone.uploads, gone.audit)
        except (SQLAlchemyError, OSError) as error:
            log.warning("old mail could not be taken: %s", str(error).splitlines()[0])
        await asyncio.sleep(EVERY)


async def prune(store: Store, uploads: Path, keep: Keep, *, look_only: bool = False, tell: Tell = untold) -> Pruned:
    """Take what is older, and then the oldest until the rest is small enough. `look_only`: say what would go."""
    audit = await _audit(store, _before(keep.audit_days), look_only=look_only) if keep.audit_days else 0
    if not keep.days and not keep.bytes:
        return Pruned(audit=audit)
    many = size = seen = 0
    before = _before(keep.days)
    done = ("", "")
    while some := await store.read(partial(_oldest, done, summed=bool(keep.bytes))):
        # Anew in each look: what another process takes meanwhile is too much no longer.
        too_much = some[0][3] - keep.bytes - (size if look_only else 0)
        chosen = []
        for message_id, moment, its_size, _ in some:
            if moment < before or too_much > 0:
                chosen.append(message_id)
                many, size, too_much = many + 1, size + its_size, too_much - its_size
        seen += len(some)
        tell(Step("looks for old mail", seen))
        if not look_only:
            for start in range(0, len(chosen), AT_ONCE):
                tell(Step("deletes old mail", many - len(chosen) + start))
                await store.write(partial(_take, chosen[start : start + AT_ONCE]))
        if len(chosen) < len(some):
            break
        done = (some[-1][1], some[-1][0])
    tell(Step("looks for old uploads"))
    uploaded = await _uploads(store, uploads, before, look_only=look_only) if keep.days else 0
    return Pruned(many, size, uploaded, audit)


async def _audit(store: Store, before: str, *, look_only: bool) -> int:
    """What was done before that moment; what is told of it elsewhere stays."""
    old = audit_log.c.at < before
    if look_only:
        count = select(func.count()).select_from(audit_log).where(old)
        return int(await store.read(lambda connection: connection.execute(count).scalar_one()))
    oldest = select(audit_log.c.id).where(old).order_by(audit_log.c.id).limit(IN_A_LOOK)
    some = delete(audit_log).where(audit_log.c.id.in_(oldest))
    many = 0
    while gone := await store.write(lambda connection: int(connection.execute(some).rowcount)):
        many += gone
    return many


def _before(days: int) -> str:
    return (CLOCK.now() - timedelta(days=days)).isoformat(timespec="microseconds") if days else ""


def _size_of(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[int]:
    if connection.dialect.name == "postgresql":
        return func.octet_length(column)
    return func.length(cast(column, LargeBinary))


def _oldest(after: tuple[str, str], connection: Connection, *, summed: bool) -> Sequence[tuple[str, str, int, int]]:
    """Id, moment and size of the oldest that may go, after the one of that moment and id; and what all mail comes to in
    that same instant, where that is asked for.
    """
    every = messages.alias("every").c
    total = select(func.sum(_size_of(connection, every.body))).where(every.thread_id != "").scalar_subquery()
    wanted = (
        select(_m.id, _m.created_at, _size_of(connection, _m.body), total if summed else literal(0))
        .where(_MAY_GO, tuple_(_m.created_at, _m.id) > tuple_(literal(after[0]), literal(after[1])))
        .order_by(_m.created_at, _m.id)
        .limit(IN_A_LOOK)
    )
    return [(row[0], row[1], row[2], int(row[3])) for row in connection.execute(wanted)]


def _take(ids: Sequence[str], connection: Connection) -> None:
    # Somebody may have marked one unread, or written into its thread, since it was found, or be just doing so.
    lock_with_threads(connection, ids)
    found = connection.execute(select(_m.id).where(_m.id.in_(ids), _MAY_GO)).scalars().all()
    if found:
        erase_read(connection, found)


async def _uploads(store: Store, uploads: Path, before: str, *, look_only: bool) -> int:
    """Files that are older and that no unread mail names."""

    def find(connection: Connection) -> list[tuple[str, str]]:
        old = select(files.c.id, files.c.stored_path).where(files.c.created_at < before, ~_NAMED)
        return [(row[0], row[1]) for row in connection.execute(old)]

    found = await store.read(find)
    if look_only:
        return len(found)
    many = 0
    for file_id, stored_path in found:
        if await store.write(partial(_forget_file, file_id)):
            (uploads / stored_path).unlink(missing_ok=True)
            many += 1
    return many


def _forget_file(file_id: str, connection: Connection) -> bool:
    """Unless unread mail has come to name it since it was found."""
    return bool(connection.execute(delete(files).where(files.c.id == file_id, ~_NAMED)).rowcount)
