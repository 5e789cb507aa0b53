"""Needs you, Agents and one agent of this machine: the same pages as a broker's, over workdirs."""

from __future__ import annotations

import asyncio
import time

import msgspec
from fastapi import APIRouter, Request, Response

from agent_mailer.broker.protocol import Fault
from agent_mailer.console.operating.clock import schedule_rows
from agent_mailer.console.operating.pages import A_PAGE, first_of, stamp, values_of
from agent_mailer.console.own.pages import OwnPage, agents_of, looked, own_page
from agent_mailer.console.rendering import leads_to
from agent_mailer.console.routing import form_of, own_address, text_of
from agent_mailer.remote.access import RemoteVerb

router = APIRouter(prefix="/console", route_class=OwnPage, include_in_schema=False)

_THENS = ("retry", "drop", "ask")


@router.get("/needs")
async def needs(request: Request, page: int = 1) -> Response:
    """The first page."""
    shown = await looked(agents_of(request).needs)
    shown = msgspec.structs.replace(shown, first=first_of(page, len(shown.needs)))
    return await own_page(request, "needs.html", here="needs", **values_of(shown, time.time()))


@router.get("/agents")
async def agents(request: Request, page: int = 1) -> Response:
    """Trouble first, then what works."""
    shown = await looked(agents_of(request).agents, page)
    return await own_page(request, "agents.html", here="agents", **values_of(shown, time.time()))


@router.get("/schedules")
async def schedules(request: Request, page: int = 1) -> Response:
    """What all agents are sent by the clock."""
    rows = schedule_rows(await looked(agents_of(request).every))
    shown = {"rows": rows, "first": first_of(page, len(rows)), "a_page": A_PAGE, "at": time.time(), "stamp": stamp}
    return await own_page(request, "schedules.html", here="schedules", **shown)


@router.get("/agent")
async def agent(request: Request, id: str) -> Response:
    found = await looked(agents_of(request).agent, id)
    if found is None:
        raise Fault(404, "Agent not found")
    own = {"own": found, "keys": (), "tags": (), "schedules": schedule_rows([found.shown.agent])}
    return await own_page(request, "own_agent.html", here="agents", **own, **values_of(found.shown, time.time()))


@router.get("/turn")
async def turn(request: Request, agent: str, id: str) -> Response:
    """What it was, what left, and the end of what its program has printed."""
    found = await looked(agents_of(request).turn, agent, id)
    if found is None:
        raise Fault(404, "Turn not found")
    return await own_page(request, "own_turn.html", here="agents", shown=found, stamp=stamp)


@router.post("/ask")
async def ask(request: Request) -> Response:
    """Have something done, or with `agent` more than once at several."""
    form = await form_of(request)
    verb, then = text_of(form, "verb"), text_of(form, "then") or "retry"
    if verb not in tuple(RemoteVerb) or then not in _THENS:
        raise Fault(422, "There is no such thing to ask")
    targets = [str(one) for one in form.getlist("target")]
    if limit := text_of(form, "limit"):
        targets.append(f"{limit}={text_of(form, 'value').strip()}")
    said = (RemoteVerb(verb), targets, text_of(form, "reason"), then)
    # Side by side: a watcher may be long in answering.
    agents = dict.fromkeys(map(str, form.getlist("agent")))
    if text_of(form, "whom") == "watched":
        every = await looked(agents_of(request).every)
        agents = dict.fromkeys(one.agent_id for one in every if one.watcher is not None)
    refused = await asyncio.gather(*(looked(agents_of(request).ask, agent_id, *said) for agent_id in agents))
    if len(refused) == 1 and refused[0]:
        # Of several the page shows what came of each; the row of one may be gone, as where it was answered before.
        raise Fault(409, "; ".join(refused[0]))
    return leads_to(own_address(text_of(form, "back")), done="did")
