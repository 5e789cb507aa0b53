"""The memories' routes: a person's, who writes them, and an agent's, which reads those of its team."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsAgent, AsPerson, own_agent, store_of
from agent_mailer.broker.memories.rows import (
    Memory,
    Writer,
    add_memory,
    append_memory,
    change_memory,
    delete_memory,
    find_memory,
    memories_for,
    memories_of,
)
from agent_mailer.broker.messages.wire import INLINE_CHARACTERS, body_html
from agent_mailer.broker.protocol import A_WORD_AT_LEAST, NO_NUL, Fault

router = APIRouter(prefix="/admin/teams/{team_id}/memories", tags=["memories"], responses=refusals(401))
by_key = APIRouter(tags=["memories"], responses=refusals(401))

Title = Annotated[str, Field(min_length=1, max_length=100, pattern=A_WORD_AT_LEAST)]
Content = Annotated[str, Field(max_length=200_000, pattern=NO_NUL)]


class MemoryForm(BaseModel):
    title: Title
    content: Content


class MemoryChange(BaseModel):
    """What is left out stays."""

    title: Title | None = None
    content: Content | None = None


class MemoryAnswer(msgspec.Struct, frozen=True):
    """`content_html` is safe, as a message's `body_html`."""

    id: str
    team_id: str
    title: str
    content: str
    content_html: str
    user_id: str
    created_at: str
    updated_at: str
    updated_by: str


class MemoryGone(msgspec.Struct, frozen=True):
    detail: str
    memory_id: str


async def _shown(found: Sequence[Memory]) -> list[MemoryAnswer]:
    def render() -> list[MemoryAnswer]:
        return [MemoryAnswer(**msgspec.structs.asdict(one), content_html=body_html(one.content)) for one in found]

    if sum(len(one.content) for one in found) <= INLINE_CHARACTERS:
        return render()
    return await asyncio.to_thread(render)


async def _one(memory: Memory, status: int = 200) -> Response:
    return answer((await _shown((memory,)))[0], status)


def _writer(person: AsPerson, team_id: str) -> Writer:
    return Writer(person.user_id, person.username, team_id)


@router.post(
    "",
    summary="Begin a memory",
    status_code=201,
    responses={201: described(MemoryAnswer), **refusals(404, 409, 422, 503)},
    response_class=Response,
)
async def make(request: Request, person: AsPerson, team_id: str, form: MemoryForm) -> Response:
    """Titles are unique in a team."""
    writer = _writer(person, team_id)
    return await _one(await store_of(request).write(lambda c: add_memory(c, writer, form.title, form.content)), 201)


@router.get(
    "",
    summary="A team's memories",
    responses={200: described(list[MemoryAnswer]), **refusals(404, 503)},
    response_class=Response,
)
async def listed(request: Request, person: AsPerson, team_id: str) -> Response:
    """Oldest first."""
    return answer(await _shown(await store_of(request).read(lambda c: memories_of(c, person.user_id, team_id))))


@router.post(
    "/upsert",
    summary="Append to a memory, or begin it",
    responses={200: described(MemoryAnswer), **refusals(404, 409, 413, 422, 503)},
    response_class=Response,
)
async def append(request: Request, person: AsPerson, team_id: str, form: MemoryForm) -> Response:
    """To the memory of that title, below a line."""
    writer = _writer(person, team_id)
    return await _one(await store_of(request).write(lambda c: append_memory(c, writer, form.title, form.content)))


@router.get(
    "/{memory_id}",
    summary="One memory",
    responses={200: described(MemoryAnswer), **refusals(404, 503)},
    response_class=Response,
)
async def one(request: Request, person: AsPerson, team_id: str, memory_id: str) -> Response:
    """Whole."""
    return await _one(await store_of(request).read(lambda c: find_memory(c, person.user_id, memory_id, team_id)))


@router.put(
    "/{memory_id}",
    summary="Change a memory",
    responses={200: described(MemoryAnswer), **refusals(404, 409, 422, 503)},
    response_class=Response,
)
async def change(request: Request, person: AsPerson, team_id: str, memory_id: str, form: MemoryChange) -> Response:
    """Its title, its content, or both."""
    writer, changes = _writer(person, team_id), form.model_dump(exclude_none=True)
    return await _one(await store_of(request).write(lambda c: change_memory(c, writer, memory_id, changes)))


@router.delete(
    "/{memory_id}",
    summary="Delete a memory",
    responses={200: described(MemoryGone), **refusals(404, 503)},
    response_class=Response,
)
async def delete(request: Request, person: AsPerson, team_id: str, memory_id: str) -> Response:
    """For good."""
    await store_of(request).write(lambda c: delete_memory(c, person.user_id, team_id, memory_id))
    return answer(MemoryGone("Memory deleted", memory_id))


@by_key.get(
    "/memories/{memory_id}",
    summary="One memory, by key",
    responses={200: described(MemoryAnswer), **refusals(404, 503)},
    response_class=Response,
)
async def one_by_key(request: Request, caller: AsAgent, memory_id: str) -> Response:
    """Of a team of the key's user; a key of one agent reads those of its team alone."""
    memory = await store_of(request).read(lambda c: find_memory(c, caller.user_id, memory_id))
    if caller.agent_id is not None:
        agent = await own_agent(request, caller, caller.agent_id)
        if agent.team_id != memory.team_id:
            raise Fault(404, "Memory not found")
    return await _one(memory)


@by_key.get(
    "/agents/{agent_id}/memories",
    summary="What an agent's team remembers",
    responses={200: described(list[MemoryAnswer]), **refusals(403, 404, 503)},
    response_class=Response,
)
async def of_agent(request: Request, caller: AsAgent, agent_id: str) -> Response:
    """Oldest first; nothing where the agent is in no team."""
    await own_agent(request, caller, agent_id)
    return answer(await _shown(await store_of(request).read(lambda c: memories_for(c, caller.user_id, agent_id))))
