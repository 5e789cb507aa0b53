"""Teams of agents, as a person or a launcher keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from sqlalchemy import Connection, Select, func, insert, select, update

from agent_mailer.broker import documents
from agent_mailer.broker.agents import rows as roster
from agent_mailer.broker.agents.routes import AgentAnswer, agent_answer, identity_of
from agent_mailer.broker.agents.rows import Agent, NewAgent
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import AsPerson, directory_of, settings_of, store_of
from agent_mailer.broker.protocol import Description, Fault, Label, LocalPart, Name, Prompt, Reference, Tags, now_text
from agent_mailer.broker.tables import agents, teams
from agent_mailer.broker.users import rows as accounts

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


class Team(msgspec.Struct, frozen=True):
    id: str
    name: str
    description: str
    user_id: str
    created_at: str
    agent_count: int


def _wanted(user_id: str) -> Select[Any]:
    count = (
        select(func.count())
        .where(agents.c.team_id == teams.c.id, agents.c.status == "active")
        .correlate(teams)
        .scalar_subquery()
    )
    t = teams.c
    return select(t.id, t.name, t.description, t.user_id, t.created_at, count).where(t.user_id == user_id)


def _team(row: Sequence[Any]) -> Team:
    return Team(*row)


def _find(connection: Connection, user_id: str, team_id: str) -> Team:
    row = connection.execute(_wanted(user_id).where(teams.c.id == team_id)).first()
    if row is None:
        raise Fault(404, "Team not found")
    return _team(row)


def _require_free_name(connection: Connection, user_id: str, name: str, except_id: str | None = None) -> None:
    wanted = select(teams.c.id).where(teams.c.user_id == user_id, teams.c.name == name)
    holder = connection.execute(wanted).scalar()
    if holder is not None and holder != except_id:
        raise Fault(409, f"Team '{name}' already exists")


def _insert(connection: Connection, user_id: str, form: TeamForm) -> Team:
    team = Team(accounts.new_id(), form.name, form.description, user_id, now_text(), 0)
    fields = msgspec.structs.asdict(team)
    del fields["agent_count"]
    connection.execute(insert(teams).values(**fields))
    return team


def _answer(team: Team) -> TeamAnswer:
    return TeamAnswer.model_validate(team, from_attributes=True)


@router.post("", responses=refusals(409))
async def make(request: Request, person: AsPerson, form: TeamForm) -> TeamAnswer:
    def work(connection: Connection) -> Team:
        _require_free_name(connection, person.user_id, form.name)
        return _insert(connection, person.user_id, form)

    return _answer(await store_of(request).write(work))


@router.get("")
async def listed(request: Request, person: AsPerson) -> list[TeamAnswer]:
    """Oldest first."""
    wanted = _wanted(person.user_id).order_by(teams.c.created_at, teams.c.id)
    rows = await store_of(request).read(lambda c: c.execute(wanted).all())
    return [_answer(_team(row)) for row in rows]


@router.post("/bootstrap", responses=refusals(400, 409))
async def bootstrap(request: Request, person: AsPerson, form: BootstrapForm) -> Bootstrapped:
    """A team and its agents, each with its own key, or nothing of it."""
    ending = f"@{person.username}.{settings_of(request).domain}"
    wanted = [
        NewAgent(
            name=agent.name,
            address=roster.strict_local_part(agent.name if agent.address_local is None else agent.address_local)
            + ending,
            role=agent.role,
            description=agent.description,
            system_prompt=agent.system_prompt,
            tags=agent.tags,
            raw_key=accounts.new_raw_key(),
        )
        for agent in form.agents
    ]
    addresses = [new.address for new in wanted]
    for address in addresses:
        if addresses.count(address) > 1:
            raise Fault(400, f"Address '{address}' is given to several agents")

    def work(connection: Connection) -> tuple[Team, list[Agent]]:
        _require_free_name(connection, person.user_id, form.name)
        for new in wanted:
            roster.check_new(connection, person.user_id, new)
        team = _insert(connection, person.user_id, form)
        made = [
            roster.insert_agent(connection, person.user_id, msgspec.structs.replace(new, team_id=team.id))
            for new in wanted
        ]
        return msgspec.structs.replace(team, agent_count=len(made)), made

    team, made = await store_of(request).write(work)
    directory_of(request).forget()
    url = documents.base_url(request)
    return Bootstrapped(
        team=_answer(team),
        agents=[
            BootstrappedAgent(
                agent_id=agent.id,
                name=agent.name,
                address=agent.address,
                role=agent.role,
                api_key_plaintext=new.raw_key or "",
                agent_md=documents.agent_md(identity_of(agent, url, documents.KEY_VARIABLE), security=True),
            )
            for agent, new in zip(made, wanted, strict=True)
        ],
    )


@router.get("/{team_id}", responses=refusals(404))
async def one(request: Request, person: AsPerson, team_id: str) -> TeamWithAgents:
    def work(connection: Connection) -> tuple[Team, list[Agent]]:
        return _find(connection, person.user_id, team_id), roster.members(connection, person.user_id, team_id)

    team, found = await store_of(request).read(work)
    directory = directory_of(request)
    shown = [agent_answer(agent, directory) for agent in found]
    return TeamWithAgents.model_validate({**_answer(team).model_dump(), "agents": shown})


@router.put("/{team_id}", responses=refusals(404, 409))
async def change(request: Request, person: AsPerson, team_id: str, form: TeamChange) -> TeamAnswer:
    changes = form.model_dump(exclude_none=True)

    def work(connection: Connection) -> Team:
        _find(connection, person.user_id, team_id)
        if form.name is not None:
            _require_free_name(connection, person.user_id, form.name, team_id)
        if changes:
            connection.execute(update(teams).where(teams.c.id == team_id).values(**changes))
        return _find(connection, person.user_id, team_id)

    return _answer(await store_of(request).write(work))


@router.delete("/{team_id}", responses=refusals(404))
async def delete(request: Request, person: AsPerson, team_id: str) -> TeamDone:
    """Its agents stay, in no team."""

    def work(connection: Connection) -> None:
        _find(connection, person.user_id, team_id)
        connection.execute(update(agents).where(agents.c.team_id == team_id).values(team_id=None))
        connection.execute(teams.delete().where(teams.c.id == team_id))

    await store_of(request).write(work)
    directory_of(request).forget()
    return TeamDone(detail="Team deleted", team_id=team_id)


@router.post("/{team_id}/agents", responses=refusals(404, 409))
async def add_member(request: Request, person: AsPerson, team_id: str, form: TeamMember) -> MemberDone:
    def work(connection: Connection) -> None:
        _find(connection, person.user_id, team_id)
        agent = roster.find_agent(connection, person.user_id, form.agent_id)
        if agent.team_id not in (None, team_id):
            raise Fault(409, "Agent already belongs to another team")
        roster.change_agent(connection, person.user_id, agent.id, {"team_id": team_id})

    await store_of(request).write(work)
    directory_of(request).forget()
    return MemberDone(detail="Agent added to team", team_id=team_id, agent_id=form.agent_id)


@router.delete("/{team_id}/agents/{agent_id}", responses=refusals(404))
async def remove_member(request: Request, person: AsPerson, team_id: str, agent_id: str) -> MemberDone:
    def work(connection: Connection) -> None:
        _find(connection, person.user_id, team_id)
        agent = roster.find_agent(connection, person.user_id, agent_id)
        if agent.team_id != team_id:
            raise Fault(404, "Agent not in this team")
        roster.change_agent(connection, person.user_id, agent_id, {"team_id": None})

    await store_of(request).write(work)
    directory_of(request).forget()
    return MemberDone(detail="Agent removed from team", team_id=team_id, agent_id=agent_id)
