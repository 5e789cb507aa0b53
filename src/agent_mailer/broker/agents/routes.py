"""Agents as their programs see them, with an API key."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from agent_mailer.broker import documents
from agent_mailer.broker.agents.rows import (
    Agent,
    NewAgent,
    add_agent,
    agents_of,
    check_address,
    companions,
    derived_local_part,
    find_agent,
    move_agent,
    presence,
)
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.audit import Act
from agent_mailer.broker.callers import AsAgent, directory_of, own_agent, settings_of, store_of, write_noted
from agent_mailer.broker.directory import AgentCaller, Directory
from agent_mailer.broker.protocol import A_WORD_AT_LEAST, Description, Fault, Label, Prompt, Reference

router = APIRouter(prefix="/agents", tags=["agents"], responses=refusals(401))

AskedName = Annotated[str, Field(min_length=1, max_length=128, pattern=A_WORD_AT_LEAST)]
AskedAddress = Annotated[Reference, Field(min_length=1)]


class AgentForm(BaseModel):
    name: AskedName
    role: Label
    system_prompt: Prompt
    description: Description = ""
    address: AskedAddress | None = None


class AddressForm(BaseModel):
    address: AskedAddress


class AgentAnswer(BaseModel):
    """`status`: `online`, `idle` or `offline`, by when it asked for its mail last."""

    id: str
    name: str
    address: str
    role: str
    description: str
    system_prompt: str
    tags: list[str]
    created_at: str
    last_seen: str | None
    status: str
    team_id: str | None


class SetupAnswer(BaseModel):
    agent_md: str
    claude_md: str
    infiniti_md: str
    instructions: str


def agent_answer(agent: Agent, directory: Directory, caller: AgentCaller | None = None) -> AgentAnswer:
    """`caller`: without the instructions of agents that it may not act as."""
    if caller is not None and not caller.may_act_as(agent.id):
        agent = msgspec.structs.replace(agent, system_prompt="")
    last_seen = directory.last_seen(agent.id, agent.last_seen)
    shown = {"last_seen": last_seen, "status": presence(agent.role, last_seen)}
    return AgentAnswer.model_validate({**msgspec.structs.asdict(agent), **shown})


def identity_of(agent: Agent, url: str, key: str = documents.KEY_PLACE) -> documents.Identity:
    return documents.Identity(agent.name, agent.role, agent.address, agent.id, agent.system_prompt, url, key)


@router.post("/register", responses=refusals(400, 403, 409))
async def register(request: Request, caller: AsAgent, form: AgentForm) -> AgentAnswer:
    """Make an agent; without an address it gets one from its name."""
    if caller.agent_id is not None:
        raise Fault(403, "This API key acts for one agent only and cannot register others")
    domain = settings_of(request).domain
    address = form.address or f"{derived_local_part(form.name)}@{caller.username}.{domain}"
    check_address(address, caller.username, domain)
    new = NewAgent(form.name, address, form.role, form.description, form.system_prompt)
    agent = await write_noted(request, caller, Act.AGENT_ADDED, lambda c: add_agent(c, caller.user_id, new))
    directory_of(request).forget()
    return agent_answer(agent, directory_of(request))


@router.get("", responses=refusals(404))
async def listed(
    request: Request,
    caller: AsAgent,
    agent_id: Annotated[str | None, Query(description="Only whom this agent works with: its team, and people.")] = None,
) -> list[AgentAnswer]:
    """The user's agents, oldest first."""
    if agent_id is None:
        found = await store_of(request).read(lambda c: agents_of(c, caller.user_id))
    else:
        found = await store_of(request).read(lambda c: companions(c, caller.user_id, agent_id))
    directory = directory_of(request)
    return [agent_answer(agent, directory, caller) for agent in found]


@router.get("/{agent_id}", responses=refusals(404))
async def one(request: Request, caller: AsAgent, agent_id: str) -> AgentAnswer:
    agent = await store_of(request).read(lambda c: find_agent(c, caller.user_id, agent_id))
    return agent_answer(agent, directory_of(request), caller)


@router.get("/{agent_id}/setup", responses=refusals(403, 404))
async def setup(request: Request, caller: AsAgent, agent_id: str) -> SetupAnswer:
    """The documents for the agent's folder."""
    await own_agent(request, caller, agent_id)
    agent = await store_of(request).read(lambda c: find_agent(c, caller.user_id, agent_id))
    url = documents.base_url(request)
    identity = identity_of(agent, url)
    return SetupAnswer(
        agent_md=documents.agent_md(identity),
        claude_md=documents.adapter_md(identity, "AGENT.md"),
        infiniti_md=documents.adapter_md(identity, "SOUL.md"),
        instructions=documents.instructions(url),
    )


@router.patch("/{agent_id}/address", responses=refusals(400, 403, 404, 409))
async def move(request: Request, caller: AsAgent, agent_id: str, form: AddressForm) -> AgentAnswer:
    """Give the agent another address. The one before still leads to it; stored mail shows what was true."""
    await own_agent(request, caller, agent_id)
    check_address(form.address, caller.username, settings_of(request).domain)
    agent = await write_noted(
        request, caller, Act.AGENT_MOVED, lambda c: move_agent(c, caller.user_id, agent_id, form.address)
    )
    directory_of(request).forget()
    return agent_answer(agent, directory_of(request))
