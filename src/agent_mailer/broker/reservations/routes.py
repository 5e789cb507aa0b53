"""The reservations' routes, by an agent's key: take, renew, release, and who has what."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsAgent, own_agent, store_of
from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.protocol import A_WORD_AT_LEAST, ONE_LINE, Fault
from agent_mailer.broker.reservations.rows import Owner, Standing, release, renew, standing, take

router = APIRouter(prefix="/agents/{agent_id}/reservations", tags=["extensions"])

Project = Annotated[str, Field(min_length=1, max_length=4096, pattern=A_WORD_AT_LEAST)]
Pattern = Annotated[str, Field(min_length=1, max_length=200, pattern=A_WORD_AT_LEAST)]
Patterns = Annotated[list[Pattern], Field(max_length=100)]
Seconds = Annotated[int, Field(ge=1, le=30 * 86400)]
By = Annotated[str, Field(max_length=60, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")]
"""A person's name, which no agent's address can be; empty: the agent itself."""


class Whose(BaseModel):
    """`turn` is empty for what a person has reserved, `by` names him."""

    turn: Annotated[str, Field(max_length=64, pattern=ONE_LINE)] = ""
    by: By = ""


class TakeForm(Whose):
    project: Project
    patterns: Annotated[Patterns, Field(min_length=1)]
    seconds: Seconds


class RenewForm(Whose):
    seconds: Seconds


class ReleaseForm(Whose):
    """No `patterns`: all that he has in the project."""

    project: Project
    patterns: Patterns = []


class Many(msgspec.Struct, frozen=True):
    many: int


async def _owner(request: Request, caller: AgentCaller, agent_id: str, form: Whose) -> Owner:
    """Raises Fault 403, 404."""
    agent = await own_agent(request, caller, agent_id)
    if agent.status == "deleted":
        raise Fault(403, f"Agent '{agent.id}' is deleted")
    return Owner(agent.user_id, agent.id, form.by or agent.address, form.turn)


@router.post(
    "",
    summary="Have files to oneself",
    responses={200: described(Many), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def make(request: Request, caller: AsAgent, agent_id: str, form: TakeForm) -> Response:
    """All of the patterns or none. 409 with `reason` `reserved`: `held` is what stands in the way."""
    for pattern in form.patterns:
        if any(name in ("", ".", "..") for name in pattern.split("/")):
            raise Fault(422, f"'{pattern}' is no pattern: it counts from the project's folder and stays in it")
    owner, patterns = await _owner(request, caller, agent_id, form), form.patterns
    await store_of(request).write(lambda c: take(c, owner, form.project, patterns, form.seconds))
    return answer(Many(len(set(patterns))))


@router.post(
    "/renew",
    summary="Have them for longer",
    responses={200: described(Many), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def prolong(request: Request, caller: AsAgent, agent_id: str, form: RenewForm) -> Response:
    """All that he has still; `many`: how many that are."""
    owner = await _owner(request, caller, agent_id, form)
    return answer(Many(await store_of(request).write(lambda c: renew(c, owner, form.seconds))))


@router.post(
    "/release",
    summary="Give files back",
    responses={200: described(Many), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def give_back(request: Request, caller: AsAgent, agent_id: str, form: ReleaseForm) -> Response:
    """Twice is as once."""
    owner = await _owner(request, caller, agent_id, form)
    return answer(Many(await store_of(request).write(lambda c: release(c, owner, form.project, form.patterns))))


@router.get(
    "",
    summary="Who has which files",
    responses={200: described(list[Standing]), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def listed(request: Request, caller: AsAgent, agent_id: str, project: Annotated[Project, Query()]) -> Response:
    """Those of all agents of the user, and of his people."""
    agent = await own_agent(request, caller, agent_id)
    return answer(await store_of(request).read(lambda c: standing(c, agent.user_id, project)))
