"""File reservations as rows. Every query names the user: those of another's agents do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, insert, select, update

from agent_mailer.broker.engines import now_ms
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import file_reservations, users
from agent_mailer.broker.users.rows import new_id
from agent_mailer.path_patterns import overlap

MOST_STANDING = 1000
"""Of one user, at a time."""

MOST_WORK = 1_000_000
"""Characters against characters that one comparison may take: others wait for the writer meanwhile."""


class Owner(msgspec.Struct, frozen=True):
    """Of which user, by which agent's key; `holder` is the agent's address, or a name of a person's; `turn` is empty
    for a person.
    """

    user_id: str
    agent_id: str
    holder: str
    turn: str


class Standing(msgspec.Struct, frozen=True):
    """One that stands; `seconds_left` from now."""

    by: str
    turn: str
    pattern: str
    seconds_left: float


_c = file_reservations.c


def _of(user_id: str, project: str, now: int) -> Select[Any]:
    wanted = select(_c.id, _c.holder, _c.turn, _c.pattern, _c.ends_ms)
    return wanted.where(_c.user_id == user_id, _c.project == project, _c.ends_ms > now).order_by(_c.pattern, _c.id)


def _own(owner: Owner) -> ColumnElement[bool]:
    return and_(_c.user_id == owner.user_id, _c.holder == owner.holder, _c.turn == owner.turn)


def standing(connection: Connection, user_id: str, project: str) -> list[Standing]:
    """By their patterns."""
    now = now_ms(connection)
    return [_shown(row, now) for row in connection.execute(_of(user_id, project, now))]


def take(connection: Connection, owner: Owner, project: str, patterns: Sequence[str], seconds: int) -> None:
    """All of them or none. Raises Fault 409: `held` is what stands in the way; or there are too many."""
    now = _alone(connection, owner.user_id)
    mine, others = list[Any](), list[Any]()
    for row in connection.execute(_of(owner.user_id, project, now)):
        (mine if (row.holder, row.turn) == (owner.holder, owner.turn) else others).append(row)
    way = _in_the_way(patterns, others)
    if way:
        first = _shown(way[0], now)
        words = f"'{first.pattern}' is reserved by {first.by}"
        held = [msgspec.structs.asdict(_shown(row, now)) for row in way[:100]]
        raise Fault(409, words, extra={"reason": "reserved", "held": held})
    new = [pattern for pattern in dict.fromkeys(patterns) if all(row.pattern != pattern for row in mine)]
    if _count(connection, and_(_c.user_id == owner.user_id, _c.ends_ms > now)) + len(new) > MOST_STANDING:
        raise Fault(409, f"A user has at most {MOST_STANDING} reservations", extra={"reason": "too_many"})
    connection.execute(delete(file_reservations).where(_c.user_id == owner.user_id, _c.ends_ms <= now))
    ends = now + seconds * 1000
    # What the same owner has lasts as long as the new ones at least.
    connection.execute(
        update(file_reservations).where(_own(owner), _c.project == project, _c.ends_ms < ends).values(ends_ms=ends)
    )
    if new:
        whose = msgspec.structs.asdict(owner)
        rows = [{"id": new_id(), **whose, "project": project, "pattern": one, "ends_ms": ends} for one in new]
        connection.execute(insert(file_reservations), rows)


def renew(connection: Connection, owner: Owner, seconds: int) -> int:
    """So much longer from now, for all that the owner has; how many there are."""
    now = _alone(connection, owner.user_id)
    lasting = and_(_own(owner), _c.ends_ms > now)
    ends = now + seconds * 1000
    connection.execute(update(file_reservations).where(lasting, _c.ends_ms < ends).values(ends_ms=ends))
    return _count(connection, lasting)


def release(connection: Connection, owner: Owner, project: str, patterns: Sequence[str]) -> int:
    """Those, or all that the owner has in the project; how many. Twice is as once."""
    now = _alone(connection, owner.user_id)
    wanted = and_(_own(owner), _c.project == project, *([_c.pattern.in_(patterns)] if patterns else []))
    many = _count(connection, and_(wanted, _c.ends_ms > now))
    connection.execute(delete(file_reservations).where(wanted))
    return many


def _count(connection: Connection, those: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(file_reservations).where(those)).scalar_one()


def _alone(connection: Connection, user_id: str) -> int:
    """The moment by the database's clock; until the transaction ends nobody else changes what this user's agents have,
    at whichever process.
    """
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))
    return now_ms(connection)


def _in_the_way(patterns: Sequence[str], others: Sequence[Any]) -> list[Any]:
    """Raises Fault 409 where to compare them would take long."""
    found, work = [], 0
    for row in others:
        for pattern in patterns:
            if _apart(row.pattern, pattern):
                continue
            work += len(row.pattern) * len(pattern)
            if work > MOST_WORK:
                words = "There are too many patterns to be compared; reserve folders"
                raise Fault(409, words, extra={"reason": "too_many"})
            if overlap(row.pattern, pattern):
                found.append(row)
                break
    return found


def _apart(one: str, other: str) -> bool:
    """Whether their beginnings tell already that no path is named by both."""
    for name, there in zip(one.split("/"), other.split("/"), strict=False):
        if "*" in name or "?" in name or "*" in there or "?" in there:
            return False
        if name != there:
            return True
    return False


def _shown(row: Any, now: int) -> Standing:  # noqa: ANN401 - a row
    return Standing(row.holder, row.turn, row.pattern, (row.ends_ms - now) / 1000)
