"""The pages "Needs you" and "Agents", and their forms: what is asked of a watcher is shown until it has answered."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, get_args

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.callers import AsPerson, PersonCaller, store_of
from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.protocol import CLOCK, Fault
from agent_mailer.broker.remote.crowd import Brief, briefs, scheduled, sums, these, who_may_need
from agent_mailer.broker.remote.routes import DEFAULT_SECONDS, WantedForm, ask_of
from agent_mailer.broker.remote.rows import recent_requests, requests_of
from agent_mailer.broker.remote.watched import watched_by
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.users.rows import keys_of
from agent_mailer.console.mail import writing
from agent_mailer.console.operating.answering import TOO_LATE, Answer, answer_all
from agent_mailer.console.operating.clock import schedule_rows
from agent_mailer.console.operating.needs import needs_of
from agent_mailer.console.operating.pages import (
    A_PAGE,
    SHOWN_SECONDS,
    AgentPage,
    AgentsPage,
    ByTags,
    NeedsPage,
    Said,
    first_of,
    stamp,
    trouble_first,
    values_of,
)
from agent_mailer.console.operating.rows import acts_in, said_in, tags_of, turns_of_agent, wanted_tags
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, own_address, text_of
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.watched import Wanted, Watched
from agent_mailer.views.values.needs import NeedKind, NeedView

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

_KEY = re.compile(r"[0-9a-f]{32}")
AT_ONCE = 100
"""So many agents are asked side by side."""
_PageNumber = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]
_THENS = get_args(WantedForm.model_fields["then"].annotation)


@router.get("/needs")
async def needs(request: Request, person: AsPerson, number: _PageNumber = 1) -> Response:
    """The first page: it counts what nobody has answered."""
    streams, now = streams_of(request), CLOCK.now().timestamp()

    def work(connection: Connection) -> NeedsPage:
        found = needs_of(who_may_need(connection, streams, person.user_id), now)
        said = said_in(connection, person.user_id, _questions(found))
        waiting = _unanswered(found, said)
        first = first_of(number, len(waiting))
        shown = waiting[first : first + A_PAGE]
        said |= said_in(connection, person.user_id, [need for need in _questions(shown) if need.id not in said])
        asked = recent_requests(connection, person.user_id, now - SHOWN_SECONDS)
        acts = acts_in(connection, person.user_id, shown)
        held = streams.held(connection, person.user_id)
        known = sums(connection, held, person.user_id, stamp(now)[:10])
        return NeedsPage(known, waiting, said, asked, first, acts)

    shown = await store_of(request).read(work)
    return await page(request, person, "needs.html", here="needs", **values_of(shown, now))


def _questions(needs: list[NeedView]) -> list[NeedView]:
    return [need for need in needs if need.kind is NeedKind.QUESTION]


def _unanswered(needs: list[NeedView], said: dict[str, Said]) -> list[NeedView]:
    """Whoever has been answered is about to go on."""
    return [need for need in needs if need.id not in said or not said[need.id].answered]


@router.post("/needs/answer")
async def answer(request: Request, person: AsPerson) -> Response:
    """By mail in the question's thread; of two people who answer one question the second is told."""
    form = await form_of(request)
    streams, now = streams_of(request), CLOCK.now().timestamp()
    asked = text_of(form, "need")

    # A need's id names its agent behind its kind.
    named = asked.split(":")[1:2]

    def work(connection: Connection) -> list[NeedView]:
        agents = watched_by(connection, streams, person.user_id, named)
        return [need for need in needs_of(agents, now) if need.id == asked]

    found = await store_of(request).read(work)
    if not found and not await writing.was_sent(request, person, writing.draft_of(form)):
        raise Fault(409, TOO_LATE)

    async def store(submission: Submission) -> Sent:
        if not found:
            return await store_of(request).write_each(send_all, submission)
        return await store_of(request).write_each(answer_all, Answer(found[0], submission))

    sent = await writing.send_by(request, person, store, raised=(401, 403, 409))
    return leads_to("/console/needs", done="answered", done_id=asked) if sent.status_code == 303 else sent


@router.post("/ask")
async def ask(request: Request, person: AsPerson) -> Response:
    """Ask something of a watcher, or with `agent` more than once of several; of two answers the second is told."""
    form = await form_of(request)
    verb, then, key = text_of(form, "verb"), text_of(form, "then") or "retry", text_of(form, "key")
    if verb not in tuple(RemoteVerb) or then not in _THENS:
        raise Fault(422, "There is no such thing to ask")
    targets = tuple(str(one) for one in form.getlist("target"))
    if verb == RemoteVerb.RAISE:
        targets = (f"{text_of(form, 'limit').strip()}={text_of(form, 'value').strip()}",)
    agents = [str(one) for one in form.getlist("agent")] or await _meant(request, person, text_of(form, "whom"))
    shown = f"console:{key}" if _KEY.fullmatch(key) else None
    reason = " ".join(text_of(form, "reason").split())[:500]
    wanted = Wanted(RemoteVerb(verb), DEFAULT_SECONDS, targets, reason, then, shown)
    # Side by side they are stored together.
    for first in range(0, len(agents), AT_ONCE):
        portion = agents[first : first + AT_ONCE]
        await asyncio.gather(*(ask_of(request, person, agent_id, wanted) for agent_id in portion))
    return leads_to(own_address(text_of(form, "back")), done="asked")


async def _meant(request: Request, person: PersonCaller, whom: str) -> list[str]:
    """Agents that are watched now: all, or of those with the tags that the list is cut to. More than a form holds."""
    if whom not in ("watched", "shown"):
        return []

    def work(connection: Connection) -> list[str]:
        held = streams_of(request).held(connection, person.user_id)
        wanted = wanted_tags(connection, person.user_id) if whom == "shown" else set()
        kept = _with_any(wanted, briefs(connection, person.user_id))
        return [one.agent_id for one in kept if one.agent_id in held]

    return await store_of(request).read(work)


@router.get("/agents")
async def agents(request: Request, person: AsPerson, number: _PageNumber = 1) -> Response:
    """Trouble first, then what works; of agents with the tags that the person wants to see."""
    streams, now = streams_of(request), CLOCK.now().timestamp()

    def work(connection: Connection) -> AgentsPage:
        found = briefs(connection, person.user_id)
        wanted = wanted_tags(connection, person.user_id)
        kept = _with_any(wanted, found)
        every = {tag for one in found for tag in one.tags} | wanted
        known = ByTags(sorted(every), sorted(wanted), len(found) - len(kept))
        needs = needs_of(who_may_need(connection, streams, person.user_id), now)
        first = first_of(number, len(kept))
        placed = [one.agent_id for one in trouble_first(kept, needs)[first : first + A_PAGE]]
        held = streams.held(connection, person.user_id)
        watched = sum(one.agent_id in held for one in kept)
        asked = recent_requests(connection, person.user_id, now - SHOWN_SECONDS)
        shown = list(these(connection, streams, person.user_id, placed))
        return AgentsPage(shown, asked, len(kept), watched, first, known)

    shown = await store_of(request).read(work)
    return await page(request, person, "agents.html", here="agents", **values_of(shown, now))


@router.get("/schedules")
async def schedules(request: Request, person: AsPerson, number: _PageNumber = 1) -> Response:
    """What all agents are sent by the clock."""
    streams, now = streams_of(request), CLOCK.now().timestamp()
    rows = schedule_rows(await store_of(request).read(lambda c: scheduled(c, streams, person.user_id)))
    shown = {"rows": rows, "first": first_of(number, len(rows)), "a_page": A_PAGE, "at": now, "stamp": stamp}
    return await page(request, person, "schedules.html", here="schedules", **shown)


@router.get("/agent")
async def agent(request: Request, person: AsPerson, id: str) -> Response:
    streams, now = streams_of(request), CLOCK.now().timestamp()

    def work(connection: Connection) -> dict[str, object]:
        one = _named(watched_by(connection, streams, person.user_id, [id]), id)
        found = needs_of([one], now)
        said = said_in(connection, person.user_id, _questions(found))
        found = _unanswered(found, said)
        shown = AgentPage(
            one,
            found,
            said,
            recent_requests(connection, person.user_id, now - SHOWN_SECONDS),
            requests_of(connection, person.user_id, id, 20),
            turns_of_agent(connection, person.user_id, id),
            acts_in(connection, person.user_id, found),
        )
        return {
            **values_of(shown, now),
            "schedules": schedule_rows([one]),
            "tags": tags_of(connection, person.user_id, id),
            "keys": [key for key in keys_of(connection, person.user_id) if key.agent_id in (None, id)],
        }

    values = await store_of(request).read(work)
    return await page(request, person, "agent.html", here="agents", **values)


def _with_any(wanted: set[str], found: list[Brief]) -> list[Brief]:
    """Of those tags; all where none is wanted."""
    return [one for one in found if not wanted or wanted & set(one.tags)]


def _named(found: list[Watched], agent_id: str) -> Watched:
    """Raises Fault 404."""
    for one in found:
        if one.agent_id == agent_id:
            return one
    raise Fault(404, "Agent not found")
