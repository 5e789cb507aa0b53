"""Of very many agents those that a page is about, and sums over all of them: by the columns that are kept beside their
reports. Only reports that are shown are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Text, bindparam, case, cast, func, or_, select

from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.leases import Lease
from agent_mailer.broker.remote.watched import Holders, watched_by
from agent_mailer.broker.tables import agents
from agent_mailer.broker.watch_tables import reports
from agent_mailer.names import HOOK
from agent_mailer.remote.watched import Sums, Watched

AT_ONCE = 500
"""Reports that are asked for in one query."""

_a, _r = agents.c, reports.c
_OURS = (
    _a.user_id == bindparam("user"),
    _a.status == "active",
    _a.id != bindparam("operator"),
    ~_a.address.startswith(HOOK, autoescape=True),
)
_REPORTED = (*_OURS, _r.report.is_not(None))
_BOTH = agents.join(reports, _r.agent_id == _a.id)
_IN_ORDER = (_a.created_at, _a.id)
_MAY_NEED = (
    select(_a.id, _r.well_since.is_(None), _r.ended, _a.inbox_unread)
    .select_from(_BOTH)
    .where(*_REPORTED, or_(_r.well_since.is_(None), ~_r.ended, _a.inbox_unread > 0))
    .order_by(*_IN_ORDER)
)
_TODAY = _r.day == bindparam("day")
_SUMS = (
    select(
        func.count(),
        func.coalesce(func.sum(_r.waiting), 0),
        func.coalesce(func.sum(case((_TODAY, _r.turns), else_=0)), 0),
        func.coalesce(func.sum(case((_TODAY, _r.cost_usd), else_=0.0)), 0.0),
        func.count(_r.well_since),
        func.max(_r.well_since),
    )
    .select_from(_BOTH)
    .where(*_REPORTED)
)
_WORKING = select(_a.id).select_from(_BOTH).where(*_REPORTED, _r.working > 0)
_SCHEDULED = select(_a.id).select_from(_BOTH).where(*_REPORTED, _r.schedules > 0).order_by(*_IN_ORDER)
_BRIEF = (
    select(_a.id, _a.address, _r.ended.is_not(None), cast(_a.tags, Text))
    .select_from(agents.outerjoin(reports, _r.agent_id == _a.id))
    .where(*_OURS)
    .order_by(*_IN_ORDER)
)


_NO_TAGS = (None, "[]", "null")


class Brief(msgspec.Struct, frozen=True):
    """What of an agent decides its place in a list; `reported`: its watcher did, whenever."""

    agent_id: str
    address: str
    reported: bool
    tags: Sequence[str]


def briefs(connection: Connection, user_id: str) -> list[Brief]:
    """Of all agents of the user, the oldest first."""
    return [
        # Most have none, and nothing is to be decoded.
        Brief(agent_id, address, reported, msgspec.json.decode(tags, type=list[str]) if tags not in _NO_TAGS else ())
        for agent_id, address, reported, tags in connection.execute(_BRIEF, _names(user_id))
    ]


def who_may_need(connection: Connection, holders: Holders, user_id: str) -> list[Watched]:
    """Those by whose report, or by whose silence, somebody may be needed: nobody else is. The oldest first."""
    held = holders.held(connection, user_id)
    wanted = [
        agent_id
        for agent_id, unwell, ended, unread in connection.execute(_MAY_NEED, _names(user_id))
        if unwell or (unread if ended else agent_id not in held)
    ]
    return list(these(connection, holders, user_id, wanted))


def scheduled(connection: Connection, holders: Holders, user_id: str) -> list[Watched]:
    """Those that are sent anything by the clock, the oldest first."""
    wanted = [agent_id for (agent_id,) in connection.execute(_SCHEDULED, _names(user_id))]
    return list(these(connection, holders, user_id, wanted))


def sums(connection: Connection, held: Mapping[str, Lease], user_id: str, day: str) -> Sums:
    """`held`: the agents that somebody watches; `day` (UTC) is today."""
    names = _names(user_id)
    many, waiting, turns, cost, well, newest = connection.execute(_SUMS, {**names, "day": day}).one()
    working = sum(agent_id in held for (agent_id,) in connection.execute(_WORKING, names))
    return Sums(many, working, int(waiting), int(turns), float(cost), newest if many and well == many else "")


def these(connection: Connection, holders: Holders, user_id: str, agent_ids: Sequence[str]) -> Iterator[Watched]:
    """Of the user's agents those of these ids, in this order."""
    for first in range(0, len(agent_ids), AT_ONCE):
        some = agent_ids[first : first + AT_ONCE]
        found = {one.agent_id: one for one in watched_by(connection, holders, user_id, some)}
        yield from (found[agent_id] for agent_id in some if agent_id in found)


def _names(user_id: str) -> dict[str, Any]:
    return {"user": user_id, "operator": operator_id(user_id)}
