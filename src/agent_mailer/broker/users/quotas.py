"""What a user has taken of what one may take: messages and bytes of a day (UTC), files in all.

Counted only where there is a limit; what one user takes at once is counted one after the other, at whichever process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, time, timedelta

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, text

from agent_mailer.broker.data import Quota
from agent_mailer.broker.protocol import CLOCK, Fault
from agent_mailer.broker.tables import files, usage, users

_c = usage.c
_OF_DAY = select(_c.user_id, _c.messages, _c.bytes).where(
    _c.user_id.in_(bindparam("users", expanding=True)), _c.day == bindparam("today")
)
_ADD = text(
    "INSERT INTO usage (user_id, day, messages, bytes) VALUES (:user, :today, :messages, :bytes)"
    " ON CONFLICT (user_id, day) DO UPDATE SET messages = usage.messages + excluded.messages,"
    " bytes = usage.bytes + excluded.bytes"
)
_ONE_BY_ONE = (
    select(users.c.id)
    .where(users.c.id.in_(bindparam("users", expanding=True)))
    .order_by(users.c.id)
    .with_for_update(key_share=True)
)
_FORGET = delete(usage).where(_c.user_id == bindparam("user"), _c.day < bindparam("today"))
_FILES = select(func.coalesce(func.sum(files.c.size), 0)).where(files.c.user_id == bindparam("user"))


class Spent(msgspec.Struct, frozen=True):
    messages: int = 0
    bytes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.messages + other.messages, self.bytes + other.bytes)


def today() -> str:
    return CLOCK.now().date().isoformat()


def count_alone(connection: Connection, user_ids: Iterable[str]) -> None:
    """Until this transaction ends nobody else counts what these users take. Before all else that it locks."""
    connection.execute(_ONE_BY_ONE, {"users": sorted(user_ids)})


def spent_by(connection: Connection, user_ids: Iterable[str]) -> dict[str, Spent]:
    """Today, of those of them who have sent anything."""
    names = {"users": sorted(user_ids), "today": today()}
    return {row[0]: Spent(row[1], row[2]) for row in connection.execute(_OF_DAY, names)}


def require_left(quota: Quota, spent: Spent, wanted: Spent) -> None:
    """Raises Fault 429 with Retry-After (the seconds until tomorrow)."""
    after = spent + wanted
    for most, sum_, what in (
        (quota.messages_per_day, after.messages, "messages"),
        (quota.bytes_per_day, after.bytes, "bytes"),
    ):
        if most and sum_ > most:
            now = CLOCK.now()
            tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)
            seconds = max(1, int((tomorrow - now).total_seconds()))
            words = f"This user may send {most} {what} a day (UTC), and has"
            raise Fault(429, words, extra={"reason": "quota"}, headers={"Retry-After": str(seconds)})


def spend(connection: Connection, newly: Mapping[str, Spent]) -> None:
    day = today()
    for user_id, one in sorted(newly.items()):
        connection.execute(_ADD, {"user": user_id, "today": day, "messages": one.messages, "bytes": one.bytes})
        connection.execute(_FORGET, {"user": user_id, "today": day})


def file_bytes_of(connection: Connection, user_id: str) -> int:
    return int(connection.execute(_FILES, {"user": user_id}).scalar_one())


def require_room(connection: Connection, quota: Quota, user_id: str, size: int) -> None:
    """For a file of that size. Raises Fault 413."""
    if quota.file_bytes and file_bytes_of(connection, user_id) + size > quota.file_bytes:
        raise Fault(413, f"The files of this user may come to {quota.file_bytes} bytes", extra={"reason": "quota"})
