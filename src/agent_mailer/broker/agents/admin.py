"""The agents as the operator's console lists them, with what each has sent and got."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from sqlalchemy import Connection, Select, case, func, select

from agent_mailer.broker.agents.owner import OwnAgentChange, change_own, delete_own
from agent_mailer.broker.agents.routes import AgentAnswer, agent_answer
from agent_mailer.broker.agents.rows import agents_of, presence
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import AsPerson, directory_of, store_of
from agent_mailer.broker.protocol import Tags
from agent_mailer.broker.tables import agents, sent_counts

router = APIRouter(prefix="/admin/agents", tags=["operator"], responses=refusals(401))


class TagsForm(BaseModel):
    tags: Tags


class Tagged(BaseModel):
    agent_id: str
    tags: list[str]


class AgentGone(BaseModel):
    detail: str
    agent_id: str


class AgentStats(BaseModel):
    """What is received is what the inbox has; of what is put away nothing counts. `status` as in an agent."""

    agent_id: str
    name: str
    address: str
    role: str
    tags: list[str]
    messages_received: int
    messages_read: int
    messages_unread: int
    messages_sent: int
    messages_replied: int
    messages_forwarded: int
    last_seen: str | None
    status: str


def _stats(user_id: str) -> Select[Any]:
    """Each agent that is not deleted, the oldest first; no message is counted for it."""
    a, many = agents.c, sent_counts.c.many

    def sent(action: str) -> Any:  # noqa: ANN401 - an expression
        return func.coalesce(func.sum(case((sent_counts.c.action == action, many), else_=0)), 0)

    return (
        select(
            *(a.id, a.name, a.address, a.role, a.tags, a.last_seen, a.inbox_total, a.inbox_unread),
            func.coalesce(func.sum(many), 0),
            sent("reply"),
            sent("forward"),
        )
        .outerjoin(sent_counts, sent_counts.c.agent_id == a.id)
        .where(a.user_id == user_id, a.status == "active")
        .group_by(a.id)
        .order_by(a.created_at, a.id)
    )


@router.get("")
async def listed(request: Request, person: AsPerson) -> list[AgentAnswer]:
    """The person's agents, oldest first, without those that are deleted."""
    found = await store_of(request).read(lambda c: agents_of(c, person.user_id))
    directory = directory_of(request)
    return [agent_answer(agent, directory) for agent in found if agent.status == "active"]


@router.get("/stats")
async def stats(request: Request, person: AsPerson) -> list[AgentStats]:
    """What each agent has got and sent, oldest agent first."""

    def work(connection: Connection) -> list[Any]:
        return list(connection.execute(_stats(person.user_id)))

    directory = directory_of(request)
    shown = []
    for name_id, name, address, role, tags, seen, total, unread, sent, replied, forwarded in await store_of(
        request
    ).read(work):
        last_seen = directory.last_seen(name_id, seen)
        shown.append(
            AgentStats(
                agent_id=name_id,
                name=name,
                address=address,
                role=role,
                tags=tags,
                messages_received=total,
                messages_read=total - unread,
                messages_unread=unread,
                messages_sent=int(sent),
                messages_replied=int(replied),
                messages_forwarded=int(forwarded),
                last_seen=last_seen,
                status=presence(role, last_seen),
            )
        )
    return shown


@router.put("/{agent_id}/tags", responses=refusals(404))
async def tag(request: Request, person: AsPerson, agent_id: str, form: TagsForm) -> Tagged:
    """Give the agent these tags in place of what it has."""
    agent = await change_own(request, person, agent_id, OwnAgentChange(tags=form.tags))
    return Tagged(agent_id=agent.id, tags=agent.tags)


@router.delete("/{agent_id}", responses=refusals(404, 409))
async def delete(request: Request, person: AsPerson, agent_id: str) -> AgentGone:
    """As `DELETE /users/me/agents/{agent_id}`: its mail stays, its keys end at once."""
    await delete_own(request, person, agent_id)
    return AgentGone(detail="Agent deleted", agent_id=agent_id)
