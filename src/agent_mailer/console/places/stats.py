"""How much mail there is, of which agent and on which day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.agents import admin
from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.console.charts import Bar, bars
from agent_mailer.console.operating.pages import A_PAGE, first_of
from agent_mailer.console.places.counting import Counting, Figures
from agent_mailer.console.rendering import page
from agent_mailer.console.routing import Page
from agent_mailer.console.words import view_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

DAYS = 14


@router.get("/stats")
async def stats(
    request: Request, person: AsPerson, number: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1
) -> Response:
    """Days are those of UTC."""
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=back)).isoformat() for back in reversed(range(DAYS))]
    counting = cast(Counting, request.app.state.counting)

    def work(connection: Connection) -> Figures:
        return counting.of(connection, person.user_id, operator_id(person.user_id), days[0])

    found = await store_of(request).read(work)
    agents = await admin.stats(request, person)
    own = {day: found.own.get(day, 0) for day in days}
    others = {day: found.mail.get(day, 0) - own[day] for day in days}
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
        ends=found.outcomes(days[0]),
        agents=agents,
        first=first_of(number, len(agents)),
        a_page=A_PAGE,
    )
