"""Teams of agents, as a person or a launcher keeps them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from agent_mailer.broker.agents.routes import AgentAnswer, agent_answer, identity_of
from agent_mailer.broker.agents.rows import Agent, NewAgent, check_new, insert_agent, members, strict_local_part
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.audit import Act
from agent_mailer.broker.callers import AsPerson, directory_of, settings_of, store_of, write_noted
from agent_mailer.broker.documents import KEY_VARIABLE, agent_md, base_url
from agent_mailer.broker.protocol import Description, Fault, Label, LocalPart, Name, Prompt, Reference, Tags
from agent_mailer.broker.teams.rows import (
    Team,
    add_team,
    add_to_team,
    change_team,
    delete_team,
    find_team,
    insert_team,
    remove_from_team,
    require_free_name,
    teams_of,
)
from agent_mailer.broker.users.rows import new_raw_key

router = APIRouter(prefix="/admin/teams", tags=["teams"], responses=refusals(401))


class TeamForm(BaseModel):
    name: Name
    description: Description = ""


class TeamChange(BaseModel):
    """What is left out stays."""

    name: Name | None = None
    description: Description | None = None


class TeamMember(BaseModel):
    agent_id: Reference


class BootstrapAgent(BaseModel):
    name: Name
    address_local: LocalPart | None = None
    role: Label = ""
    description: Description = ""
    system_prompt: Prompt = ""
    tags: Tags = []


class BootstrapForm(TeamForm):
    agents: Annotated[list[BootstrapAgent], Field(min_length=1, max_length=100)]


class TeamAnswer(BaseModel):
    id: str
    name: str
    description: str
    user_id: str
    created_at: str
    agent_count: int


class TeamWithAgents(TeamAnswer):
    agents: list[AgentAnswer]


class TeamDone(BaseModel):
    detail: str
    team_id: str


class MemberDone(TeamDone):
    agent_id: str


class BootstrappedAgent(BaseModel):
    agent_id: str
    name: str
    address: str
    role: str
    api_key_plaintext: str
    agent_md: str


class Bootstrapped(BaseModel):
    team: TeamAnswer
    agents: list[BootstrappedAgent]


def _answer(team: Team) -> TeamAnswer:
    return TeamAnswer.model_validate(team, from_attributes=True)


@router.post("", responses=refusals(409))
async def make(request: Request, person: AsPerson, form: TeamForm) -> TeamAnswer:
    return _answer(
        await write_noted(
            request, person, Act.TEAM_ADDED, lambda c: add_team(c, person.user_id, form.name, form.description)
        )
    )


@router.get("")
async def listed(request: Request, person: AsPerson) -> list[TeamAnswer]:
    """Oldest first."""
    return [_answer(team) for team in await store_of(request).read(lambda c: teams_of(c, person.user_id))]


@router.post("/bootstrap", responses=refusals(400, 409))
async def bootstrap(request: Request, person: AsPerson, form: BootstrapForm) -> Bootstrapped:
    """A team and its agents, each with its own key, or nothing of it."""
    ending = f"@{person.username}.{settings_of(request).domain}"
    wanted = [
        NewAgent(
            name=agent.name,
            address=strict_local_part(agent.name if agent.address_local is None else agent.address_local) + ending,
            role=agent.role,
            description=agent.description,
            system_prompt=agent.system_prompt,
            tags=agent.tags,
            raw_key=new_raw_key(),
        )
        for agent in form.agents
    ]
    addresses = [new.address for new in wanted]
    for address in addresses:
        if addresses.count(address) > 1:
            raise Fault(400, f"Address '{address}' is given to several agents")

    def work(connection: Connection) -> tuple[Team, list[Agent]]:
        require_free_name(connection, person.user_id, form.name)
        for new in wanted:
            check_new(connection, person.user_id, new)
        team = insert_team(connection, person.user_id, form.name, form.description)
        made = [
            insert_agent(connection, person.user_id, msgspec.structs.replace(new, team_id=team.id)) for new in wanted
        ]
        return msgspec.structs.replace(team, agent_count=len(made)), made

    team, made = await write_noted(request, person, Act.TEAM_ADDED, work, form.name)
    directory_of(request).forget()
    url = base_url(request)
    return Bootstrapped(
        team=_answer(team),
        agents=[
            BootstrappedAgent(
                agent_id=agent.id,
                name=agent.name,
                address=agent.address,
                role=agent.role,
                api_key_plaintext=new.raw_key or "",
                agent_md=agent_md(identity_of(agent, url, KEY_VARIABLE), security=True),
            )
            for agent, new in zip(made, wanted, strict=True)
        ],
    )


@router.get("/{team_id}", responses=refusals(404))
async def one(request: Request, person: AsPerson, team_id: str) -> TeamWithAgents:
    def work(connection: Connection) -> tuple[Team, list[Agent]]:
        return find_team(connection, person.user_id, team_id), members(connection, person.user_id, team_id)

    team, found = await store_of(request).read(work)
    directory = directory_of(request)
    shown = [agent_answer(agent, directory) for agent in found]
    return TeamWithAgents.model_validate({**_answer(team).model_dump(), "agents": shown})


@router.put("/{team_id}", responses=refusals(404, 409))
async def change(request: Request, person: AsPerson, team_id: str, form: TeamChange) -> TeamAnswer:
    changes = form.model_dump(exclude_none=True)
    return _answer(
        await write_noted(request, person, Act.TEAM_CHANGED, lambda c: change_team(c, person.user_id, team_id, changes))
    )


@router.delete("/{team_id}", responses=refusals(404))
async def delete(request: Request, person: AsPerson, team_id: str) -> TeamDone:
    """Its agents stay, in no team."""
    await write_noted(request, person, Act.TEAM_DELETED, lambda c: delete_team(c, person.user_id, team_id), team_id)
    directory_of(request).forget()
    return TeamDone(detail="Team deleted", team_id=team_id)


@router.post("/{team_id}/agents", responses=refusals(404, 409))
async def add_member(request: Request, person: AsPerson, team_id: str, form: TeamMember) -> MemberDone:
    await write_noted(
        request, person, Act.TEAM_CHANGED, lambda c: add_to_team(c, person.user_id, team_id, form.agent_id), team_id
    )
    directory_of(request).forget()
    return MemberDone(detail="Agent added to team", team_id=team_id, agent_id=form.agent_id)


@router.delete("/{team_id}/agents/{agent_id}", responses=refusals(404))
async def remove_member(request: Request, person: AsPerson, team_id: str, agent_id: str) -> MemberDone:
    await write_noted(
        request, person, Act.TEAM_CHANGED, lambda c: remove_from_team(c, person.user_id, team_id, agent_id), team_id
    )
    directory_of(request).forget()
    return MemberDone(detail="Agent removed from team", team_id=team_id, agent_id=agent_id)
