"""What came by a hook, and what of it is open: for the person whose hook it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, update

from agent_mailer.broker.hooks.rows import find_hook
from agent_mailer.broker.hooks.tables import hook_deliveries, hook_items
from agent_mailer.broker.protocol import Fault
from agent_mailer.outside.items import Outcome

_d, _i = hook_deliveries.c, hook_items.c


class Came(msgspec.Struct, frozen=True):
    """`delivery`: the id that the sender gave it. `origin` and `item`: what it is about. `tries`: of what failed."""

    id: str
    delivery: str
    at: str
    event: str
    origin: str
    item: str
    outcome: str
    reason: str
    occurrence_count: int
    message_ids: list[str]
    tries: int
    waits: bool
    """It will be tried again by itself."""


class Item(msgspec.Struct, frozen=True):
    """`first_at`, `last_at`: when it was told."""

    origin: str
    item: str
    is_open: bool
    occurrence_count: int
    thread_id: str
    first_at: str
    last_at: str


def deliveries_of(connection: Connection, user_id: str, hook_id: str, outcome: Outcome | None, most: int) -> list[Came]:
    """The newest first. Raises Fault 404."""
    find_hook(connection, user_id, hook_id)
    wanted = select(
        *(_d.id, _d.delivery_id, _d.at, _d.event, _d.origin, _d.item, _d.outcome, _d.reason, _d.occurrences),
        *(_d.message_ids, _d.tries, _d.due_ms, _d.held),
    ).where(_d.hook_id == hook_id, _d.user_id == user_id)
    if outcome is not None:
        wanted = wanted.where(_d.outcome == outcome.value)
    found: Sequence[Sequence[Any]] = connection.execute(wanted.order_by(_d.at.desc(), _d.id).limit(most)).all()
    return [Came(*row[:-2], *[row[-1] is not None and row[-2] is not None]) for row in found]


def failed_of(connection: Connection, user_id: str, hook_id: str) -> list[str]:
    """The rows of all that failed, the newest first."""
    wanted = select(_d.id).where(_d.hook_id == hook_id, _d.user_id == user_id, _d.outcome == Outcome.FAILED.value)
    return list(connection.execute(wanted.order_by(_d.at.desc(), _d.id)).scalars())


def items_of(connection: Connection, user_id: str, hook_id: str, most: int) -> list[Item]:
    """What was told last first. Raises Fault 404."""
    find_hook(connection, user_id, hook_id)
    wanted = select(_i.origin, _i.item, _i.is_open, _i.occurrences, _i.thread_id, _i.first_at, _i.last_at)
    wanted = wanted.where(_i.hook_id == hook_id, _i.user_id == user_id).order_by(_i.last_at.desc(), _i.item)
    return [Item(*row) for row in connection.execute(wanted.limit(most))]


def failed_delivery(connection: Connection, user_id: str, hook_id: str, row_id: str) -> None:
    """Raises Fault 404 (none), 409 (it did not fail)."""
    find_hook(connection, user_id, hook_id)
    wanted = select(_d.held).where(_d.id == row_id, _d.hook_id == hook_id, _d.user_id == user_id)
    row = connection.execute(wanted).first()
    if row is None:
        raise Fault(404, "Delivery not found")
    if row.held is None:
        raise Fault(409, "It did not fail")


def due(connection: Connection, now_ms: int, most: int) -> list[str]:
    """The rows of what failed and is to be tried again by then, the longest and then the earliest first."""
    wanted = select(_d.id).where(_d.due_ms <= now_ms, _d.held.is_not(None)).order_by(_d.due_ms, _d.at).limit(most)
    return list(connection.execute(wanted).scalars())


def make_due(connection: Connection, user_id: str, row_ids: Sequence[str]) -> None:
    """Have what failed tried again at the broker's next look, as if for the first time."""
    failed = (_d.id == bindparam("row_id"), _d.user_id == user_id, _d.held.is_not(None))
    again = update(hook_deliveries).where(*failed).values(due_ms=0, tries=0)
    # A statement for each: a database takes only so many values in one.
    if row_ids:
        connection.execute(again, [{"row_id": row_id} for row_id in row_ids])


def forget(connection: Connection, before: str) -> None:
    """What came earlier and is over. A message's key outlives it: nothing of it is sent again."""
    connection.execute(delete(hook_deliveries).where(_d.at < before, _d.due_ms.is_(None)))
    connection.execute(delete(hook_items).where(_i.last_at < before, ~_i.is_open))
