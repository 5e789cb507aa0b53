"""Agents as their owner sees them, with a login."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from agent_mailer.broker.agents.routes import identity_of
from agent_mailer.broker.agents.rows import (
    Agent,
    NewAgent,
    add_agent,
    agents_of,
    change_agent,
    delete_agent,
    find_agent,
    replace_key,
    strict_local_part,
)
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.audit import Act
from agent_mailer.broker.callers import (
    PersonCaller,
    directory_of,
    person_caller,
    settings_of,
    store_of,
    superadmin_caller,
    write_noted,
)
from agent_mailer.broker.directory import Directory
from agent_mailer.broker.documents import agent_md, base_url
from agent_mailer.broker.protocol import Description, Fault, Label, LocalPart, Name, Prompt, Reference, Tags
from agent_mailer.broker.users.rows import new_raw_key


class OwnAgentForm(BaseModel):
    """`address_local`: what stands before the @; without it the name in lower case."""

    name: Name
    address_local: LocalPart | None = None
    role: Label = ""
    description: Description = ""
    system_prompt: Prompt = ""
    tags: Tags = []
    team_id: Reference | None = None


class OwnAgentChange(BaseModel):
    """What is left out stays. An empty `team_id` takes the agent out of its team."""

    name: Name | None = None
    role: Label | None = None
    description: Description | None = None
    system_prompt: Prompt | None = None
    tags: Tags | None = None
    team_id: Reference | None = None


class OwnAgentAnswer(BaseModel):
    """`status`: `active` or `deleted`."""

    id: str
    name: str
    address: str
    role: str
    description: str
    system_prompt: str
    tags: list[str]
    created_at: str
    last_seen: str | None
    status: Literal["active", "deleted"]
    team_id: str | None
    api_key_masked: str | None


class NewOwnAgentAnswer(OwnAgentAnswer):
    api_key_plaintext: Annotated[str, Field(description="The agent's own key, shown this once.")]


class NewKey(BaseModel):
    agent_id: str
    api_key_masked: str
    api_key_plaintext: str


class Deleted(BaseModel):
    ok: bool
    agent_id: str
    already_deleted: bool = False


class Exported(BaseModel):
    filename: str
    content: str


def _masked(suffix: str) -> str:
    return f"amk_****{suffix}"


def _fields(agent: Agent, directory: Directory) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(agent),
        "last_seen": directory.last_seen(agent.id, agent.last_seen),
        "api_key_masked": agent.api_key_suffix and _masked(agent.api_key_suffix),
    }


def _answer(agent: Agent, directory: Directory) -> OwnAgentAnswer:
    return OwnAgentAnswer.model_validate(_fields(agent, directory))


async def make_own(request: Request, person: PersonCaller, form: OwnAgentForm, namespace: str) -> NewOwnAgentAnswer:
    """An agent with an API key that acts for it only, and an address in `namespace`. Raises Fault 400, 409."""
    local = strict_local_part(form.address_local if form.address_local is not None else form.name)
    raw_key = new_raw_key()
    new = NewAgent(
        name=form.name,
        address=f"{local}@{namespace}.{settings_of(request).domain}",
        role=form.role,
        description=form.description,
        system_prompt=form.system_prompt,
        tags=form.tags,
        team_id=form.team_id or None,
        raw_key=raw_key,
    )
    agent = await write_noted(request, person, Act.AGENT_ADDED, lambda c: add_agent(c, person.user_id, new))
    directory_of(request).forget()
    return NewOwnAgentAnswer.model_validate({**_fields(agent, directory_of(request)), "api_key_plaintext": raw_key})


async def change_own(request: Request, person: PersonCaller, agent_id: str, form: OwnAgentChange) -> Agent:
    """Raises Fault 400, 404."""
    changes = form.model_dump(exclude_none=True)
    if changes.get("team_id") == "":
        changes["team_id"] = None
    agent = await write_noted(
        request, person, Act.AGENT_CHANGED, lambda c: change_agent(c, person.user_id, agent_id, changes)
    )
    directory_of(request).forget()
    return agent


async def delete_own(request: Request, person: PersonCaller, agent_id: str) -> bool:
    """Its mail stays; its keys end at once. True if it was deleted before. Raises Fault 404, 409."""
    before = await write_noted(
        request, person, Act.AGENT_DELETED, lambda c: delete_agent(c, person.user_id, agent_id), agent_id
    )
    directory_of(request).forget()
    return before


async def replace_own_key(request: Request, person: PersonCaller, agent_id: str) -> str:
    """The new key; the one that the agent was made with ends at once. Raises Fault 404, 409."""
    raw_key = new_raw_key()
    await write_noted(
        request, person, Act.KEY_REPLACED, lambda c: replace_key(c, person.user_id, agent_id, raw_key), agent_id
    )
    directory_of(request).forget()
    return raw_key


def identity_text(request: Request, agent: Agent) -> str:
    """AGENT.md, which is SOUL.md, too."""
    return agent_md(identity_of(agent, base_url(request)), security=True)


def _routes(router: APIRouter, caller: Any, namespace: Callable[[PersonCaller], str | None]) -> None:  # noqa: ANN401
    """The routes for `caller`, what makes a PersonCaller; its agents get addresses in `namespace` (None: the user's
    name) and, where that is one of its own, only those in it are shown."""

    def shown(person: PersonCaller, domain: str) -> str:
        own = namespace(person)
        return f"@{own}.{domain}" if own else ""

    @router.get("")
    async def listed(
        request: Request,
        include_deleted: bool = False,  # noqa: FBT001, FBT002 - a query parameter
        person: PersonCaller = caller,
    ) -> list[OwnAgentAnswer]:
        """Newest first."""
        found = await store_of(request).read(lambda c: agents_of(c, person.user_id))
        directory, ending = directory_of(request), shown(person, settings_of(request).domain)
        return [
            _answer(agent, directory)
            for agent in reversed(found)
            if agent.address.endswith(ending) and (include_deleted or agent.status == "active")
        ]

    @router.post("", status_code=201, responses=refusals(400, 409))
    async def make(request: Request, form: OwnAgentForm, person: PersonCaller = caller) -> NewOwnAgentAnswer:
        """Make an agent with an API key that acts for it only."""
        return await make_own(request, person, form, namespace(person) or person.username)

    async def own(request: Request, person: PersonCaller, agent_id: str) -> Agent:
        agent = await store_of(request).read(lambda c: find_agent(c, person.user_id, agent_id))
        if not agent.address.endswith(shown(person, settings_of(request).domain)):
            raise Fault(404, "Agent not found")
        return agent

    @router.get("/{agent_id}", responses=refusals(404))
    async def one(request: Request, agent_id: str, person: PersonCaller = caller) -> OwnAgentAnswer:
        return _answer(await own(request, person, agent_id), directory_of(request))

    @router.put("/{agent_id}", responses=refusals(400, 404))
    async def change(
        request: Request, agent_id: str, form: OwnAgentChange, person: PersonCaller = caller
    ) -> OwnAgentAnswer:
        await own(request, person, agent_id)
        return _answer(await change_own(request, person, agent_id, form), directory_of(request))

    @router.delete("/{agent_id}", response_model_exclude_defaults=True, responses=refusals(404, 409))
    async def delete(request: Request, agent_id: str, person: PersonCaller = caller) -> Deleted:
        """Its mail stays; its keys end at once."""
        await own(request, person, agent_id)
        return Deleted(ok=True, agent_id=agent_id, already_deleted=await delete_own(request, person, agent_id))

    @router.post("/{agent_id}/regenerate-key", responses=refusals(404, 409))
    async def regenerate_key(request: Request, agent_id: str, person: PersonCaller = caller) -> NewKey:
        """The key before this one ends at once."""
        await own(request, person, agent_id)
        raw_key = await replace_own_key(request, person, agent_id)
        return NewKey(agent_id=agent_id, api_key_masked=_masked(raw_key[-6:]), api_key_plaintext=raw_key)

    @router.get("/{agent_id}/export", responses=refusals(400, 404))
    async def export(
        request: Request,
        agent_id: str,
        form: Annotated[str, Query(alias="format", json_schema_extra={"enum": ["agent_md", "soul_md"]})] = "agent_md",
        person: PersonCaller = caller,
    ) -> Exported:
        """The agent's identity file."""
        filename = {"agent_md": "AGENT.md", "soul_md": "SOUL.md"}.get(form)
        if filename is None:
            raise Fault(400, "format must be 'agent_md' or 'soul_md'")
        return Exported(filename=filename, content=identity_text(request, await own(request, person, agent_id)))


router = APIRouter(prefix="/users/me/agents", tags=["own agents"], responses=refusals(401))
_routes(router, Depends(person_caller), lambda _: None)

superadmin_router = APIRouter(prefix="/superadmin/agents", tags=["superadmin"], responses=refusals(401, 403))
_routes(superadmin_router, Depends(superadmin_caller), lambda _: "admin")
