"""How much mail there is, of which agent and on which day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection, Select, bindparam, case, func, literal_column, select

from agent_mailer.broker.agents import admin
from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.broker.tables import messages, receipts, threads
from agent_mailer.console.charts import Bar, bars
from agent_mailer.console.rendering import page
from agent_mailer.console.routing import Page
from agent_mailer.console.words import view_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

DAYS = 14
_m, _t, _r = messages.c, threads.c, receipts.c
# By the threads' own index first: of old mail nothing is read.
_RECENT = select(_t.thread_id).where(_t.user_id == bindparam("user"), _t.last_activity >= bindparam("since"))
_DAY = func.substr(_m.created_at, literal_column("1"), literal_column("10"))
_BY_DAY: Select[Any] = (
    select(_DAY, func.count(), func.sum(case((_m.from_agent_id == bindparam("operator"), 1), else_=0)))
    .where(_m.user_id == bindparam("user"), _m.thread_id.in_(_RECENT), _m.created_at >= bindparam("since"))
    .group_by(_DAY)
)
_ENDS: Select[Any] = (
    select(_r.outcome, func.count())
    .join(messages, _m.id == _r.message_id)
    .where(_m.user_id == bindparam("user"), _m.thread_id.in_(_RECENT))
    .where(_r.stage == "settled", _r.created_at >= bindparam("since"))
    .group_by(_r.outcome)
    .order_by(func.count().desc())
)


@router.get("/stats")
async def stats(request: Request, person: AsPerson) -> Response:
    """Days are those of UTC."""
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=back)).isoformat() for back in reversed(range(DAYS))]
    names = {"user": person.user_id, "since": days[0], "operator": operator_id(person.user_id)}

    def work(connection: Connection) -> tuple[Sequence[Any], Sequence[Any]]:
        return connection.execute(_BY_DAY, names).all(), connection.execute(_ENDS, names).all()

    by_day, ends = await store_of(request).read(work)
    agents = await admin.stats(request, person)
    own, others = Counter[str](), Counter[str]()
    for day, many, by_operator in by_day:
        own[day], others[day] = int(by_operator), many - int(by_operator)
    shown = [Bar(day[8:] if day[8:] != "01" else day[5:], others[day], own[day]) for day in days]
    title = view_of(request).text("Mail of the last {n} days", n=DAYS)
    return await page(
        request,
        person,
        "stats.html",
        here="stats",
        days=[(day, others[day], own[day]) for day in days],
        chart=bars(title, shown),
        title=title,
        ends=ends,
        agents=agents,
    )
