"""A broker with pages: what joins the two, which know nothing of each other else."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Response

from agent_mailer.broker.protocol import Fault
from agent_mailer.console import live, session, static_files
from agent_mailer.console.mail import searching, threads, writing
from agent_mailer.console.operating import managing
from agent_mailer.console.operating import routes as operating
from agent_mailer.console.places import channels, hooks, keys, stats, teams, users
from agent_mailer.console.places.counting import Counting
from agent_mailer.console.rendering import leads_to
from agent_mailer.console.routing import Page

_first = APIRouter(include_in_schema=False, route_class=Page)
_last = APIRouter(prefix="/console", include_in_schema=False, route_class=Page)


@_first.get("/admin/ui")
async def former_address() -> Response:
    """Where people of before have it."""
    return leads_to("/console")


@_first.get("/console")
async def first_page() -> Response:
    return leads_to("/console/needs")


@_last.get("/{rest:path}")
async def nothing() -> Response:
    raise Fault(404, "There is no such page")


def mount(app: FastAPI) -> None:
    """Let the broker serve the pages. Before its first request."""
    app.state.console = pages = live.Live()
    app.state.counting = Counting()
    app.add_middleware(live.Noticing, pages=pages)
    for router in (
        static_files.router,
        live.router,
        _first,
        session.router,
        managing.router,
        operating.router,
        threads.router,
        writing.router,
        searching.router,
        teams.router,
        channels.router,
        hooks.router,
        stats.router,
        keys.router,
        users.router,
        _last,
    ):
        app.include_router(router)
