"""The calls of reports and requests: a watcher tells and is asked by key, people look and ask by their login."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from agent_mailer.broker.answers import answer, body_of, described, refusals
from agent_mailer.broker.callers import AsAgent, AsPerson, PersonCaller, own_agent, store_of, who_asks
from agent_mailer.broker.directory import AgentCaller, AgentRow
from agent_mailer.broker.messages.forms import KEY_HEADER, idempotency_key
from agent_mailer.broker.protocol import NO_NUL, Fault
from agent_mailer.broker.remote import rows
from agent_mailer.broker.remote.watched import watched_by
from agent_mailer.broker.streams import fence_of, streams_of
from agent_mailer.broker.watchers import EPOCH_HEADER
from agent_mailer.remote.access import RemoteVerb, wrong_with
from agent_mailer.remote.port import (
    LARGEST_REPORT,
    LONGEST_NAME,
    LONGEST_REASON,
    MOST_LINES,
    MOST_TARGETS,
    Answered,
    Asked,
    Became,
    Report,
)
from agent_mailer.remote.watched import RemoteRequest, Wanted, Watched

router = APIRouter()
T = TypeVar("T")

DEFAULT_SECONDS = 3600
LONGEST_SECONDS = 7 * 86400
MOST_SHOWN = rows.KEPT

_Number = Annotated[int, Path(ge=1, le=2**53)]
_Target = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME + 32, pattern=NO_NUL)]
_EPOCH = {"parameters": [EPOCH_HEADER]}


class Kept(msgspec.Struct, frozen=True):
    """`asked` is the number of the newest request that waits; 0: none does."""

    asked: int


class ToldForm(BaseModel):
    """What came of a request; `lines` are for people."""

    became: Became
    lines: Annotated[
        list[Annotated[str, StringConstraints(max_length=4000, pattern=NO_NUL)]], Field(max_length=2 * MOST_LINES)
    ] = []


class Taken(msgspec.Struct, frozen=True):
    number: int


class WantedForm(BaseModel):
    """`targets`: of `retry` what is stuck, as the report names it (reason, blank, key), none = all; of `stop` turns,
    and `then` what becomes of their messages; of `deny` and `approve` one question; of `raise` `limit=value`; of
    `release` messages that are held. `seconds`: for which it counts.
    """

    verb: RemoteVerb
    targets: Annotated[list[_Target], Field(max_length=MOST_TARGETS)] = []
    reason: Annotated[str, Field(max_length=LONGEST_REASON, pattern=NO_NUL)] = ""
    then: Literal["retry", "drop", "ask"] = "retry"
    seconds: Annotated[int, Field(ge=1, le=LONGEST_SECONDS)] = DEFAULT_SECONDS


@router.put(
    "/agents/{agent_id}/report",
    tags=["extensions"],
    summary="Report what a watcher does",
    openapi_extra={**_EPOCH, **body_of(Report)},
    responses={200: described(Kept), **refusals(401, 403, 404, 409, 413, 422, 503)},
    response_class=Response,
)
async def report(request: Request, agent_id: str, caller: AsAgent) -> Response:
    """In place of the report before. X-Agent-Mailer-Epoch: as for a claim."""
    agent, fence = await _living(request, caller, agent_id), fence_of(request)
    body = await request.body()
    if len(body) > LARGEST_REPORT:
        raise Fault(413, f"A report has at most {LARGEST_REPORT} bytes")
    told = _decoded(body, Report)
    newest = await store_of(request).write(lambda c: rows.keep_report(c, (agent.id, agent.address), told, fence))
    return answer(Kept(newest))


@router.get(
    "/agents/{agent_id}/requests",
    tags=["extensions"],
    summary="What is asked of a watcher",
    responses={200: described(list[Asked]), **refusals(401, 403, 404, 503)},
    response_class=Response,
)
async def asked(request: Request, agent_id: str, caller: AsAgent) -> Response:
    """What has no answer and still counts, the oldest first; `seconds`: for so long."""
    agent = await _living(request, caller, agent_id)
    return answer(await store_of(request).read(lambda c: rows.waiting_for(c, agent.id)))


@router.put(
    "/agents/{agent_id}/requests/{number}",
    tags=["extensions"],
    summary="Tell what came of a request",
    openapi_extra=_EPOCH,
    responses={200: described(Taken), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def told(request: Request, agent_id: str, number: _Number, caller: AsAgent, form: ToldForm) -> Response:
    """Once: of several the first counts. X-Agent-Mailer-Epoch: as for a claim."""
    agent, fence = await _living(request, caller, agent_id), fence_of(request)
    what, who = Answered(number, form.became, tuple(form.lines)), who_asks(request, caller)
    await store_of(request).write(lambda c: rows.answer(c, (agent.id, agent.address), what, fence, who))
    return answer(Taken(number))


@router.get(
    "/admin/watchers",
    tags=["operator"],
    summary="What all agents do now",
    responses={200: described(list[Watched]), **refusals(401, 503)},
    response_class=Response,
)
async def watchers(request: Request, person: AsPerson) -> Response:
    """The person's agents, the oldest first."""
    streams = streams_of(request)
    return answer(await store_of(request).read(lambda c: watched_by(c, streams, person.user_id)))


@router.get(
    "/admin/agents/{agent_id}/requests",
    tags=["operator"],
    summary="What was asked of an agent's watcher, and what came of it",
    responses={200: described(list[RemoteRequest]), **refusals(401, 404, 422, 503)},
    response_class=Response,
)
async def shown(
    request: Request, agent_id: str, person: AsPerson, limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 50
) -> Response:
    """The newest first."""
    found = await store_of(request).read(lambda c: rows.requests_of(c, person.user_id, agent_id, limit))
    return answer(found)


@router.post(
    "/admin/agents/{agent_id}/requests",
    tags=["operator"],
    summary="Ask something of an agent's watcher",
    status_code=201,
    openapi_extra={"parameters": [KEY_HEADER]},
    responses={
        200: described(RemoteRequest, description="It was asked before, under this Idempotency-Key"),
        201: described(RemoteRequest, description="Asked"),
        **refusals(401, 403, 404, 409, 422, 429, 503),
    },
    response_class=Response,
)
async def ask(request: Request, agent_id: str, person: AsPerson, form: WantedForm) -> Response:
    """The watcher does it once, or says why not. A question is answered by mail in its thread."""
    wanted = Wanted(form.verb, form.seconds, tuple(form.targets), form.reason, form.then, idempotency_key(request))
    found, new = await ask_of(request, person, agent_id, wanted)
    return answer(found, 201 if new else 200)


async def ask_of(request: Request, person: PersonCaller, agent_id: str, wanted: Wanted) -> tuple[RemoteRequest, bool]:
    """As a person, of one of their agents' watchers: the request, and whether it is new. Raises Fault 404, 409, 422,
    429.
    """
    wrong = wrong_with(wanted.verb, wanted.targets)
    if wrong:
        raise Fault(422, wrong)
    by, who = person.username, who_asks(request, person)
    if person.impersonated_by:
        by = f"{by} (login of {person.impersonated_by})"
    found, new = await store_of(request).write(lambda c: rows.ask(c, person.user_id, agent_id, wanted, by, who))
    if new:
        streams_of(request).asked([(agent_id, found.number)])
    return found, new


async def _living(request: Request, caller: AgentCaller, agent_id: str) -> AgentRow:
    """The caller's own agent. Raises Fault 403, 404."""
    agent = await own_agent(request, caller, agent_id)
    if agent.status == "deleted":
        raise Fault(403, f"Agent '{agent.id}' is deleted: nobody watches it any more")
    return agent


def _decoded(body: bytes, kind: type[T]) -> T:
    """Raises Fault 422."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(422, f"The body is no {kind.__name__}: {str(error)[:300]}") from None
