"""Agents are made, changed, given another key and deleted; their files for a folder, and those that are deleted."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from sqlalchemy import Connection

from agent_mailer.broker.agents import owner
from agent_mailer.broker.agents.routes import identity_of
from agent_mailer.broker.agents.rows import Agent, agents_of, find_agent, operator_id
from agent_mailer.broker.callers import AsPerson, PersonCaller, settings_of, store_of
from agent_mailer.broker.documents import adapter_md, base_url, set_up_agent
from agent_mailer.broker.hooks.rows import ROLE as HOOKS_ROLE
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.users import routes as user_routes
from agent_mailer.console.mail.rows import team_names
from agent_mailer.console.rendering import HEADERS, leads_to, page
from agent_mailer.console.routing import Page, first_issue, form_of, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

FILES = ("AGENT.md", "SOUL.md", "CLAUDE.md")
"""What an agent's folder may have; CLAUDE.md leads Claude Code to AGENT.md."""


class Written(msgspec.Struct, frozen=True):
    """An agent's fields as a form has them."""

    name: str = ""
    address_local: str = ""
    role: str = ""
    description: str = ""
    system_prompt: str = ""
    tags: str = ""
    team: str = ""


@router.get("/agents/new")
async def new(request: Request, person: AsPerson) -> Response:
    return await _new(request, person, Written())


async def _new(
    request: Request, person: PersonCaller, written: Written, failed: str = "", status: int = 200
) -> Response:
    teams = await store_of(request).read(lambda c: team_names(c, person.user_id))
    ending = f"@{person.username}.{settings_of(request).domain}"
    values = {"written": written, "teams": teams, "ending": ending, "failed": failed}
    return await page(request, person, "agent_new.html", status, here="agents", **values)


@router.post("/agents/make")
async def make(request: Request, person: AsPerson) -> Response:
    """The answer is the one place where the agent's key is shown. What cannot be stays on the page, with the reason."""
    written = await _written(request)
    try:
        form = owner.OwnAgentForm(
            name=written.name,
            address_local=written.address_local or None,
            role=written.role,
            description=written.description,
            system_prompt=written.system_prompt,
            tags=words_of(written.tags),
            team_id=written.team or None,
        )
        made = await owner.make_own(request, person, form, person.username)
    except ValidationError as error:
        return await _new(request, person, written, first_issue(error), 422)
    except Fault as fault:
        return await _new(request, person, written, fault.detail, fault.status)
    return await _settings(request, person, made.id, secret=made.api_key_plaintext)


@router.get("/agent/settings")
async def settings(request: Request, person: AsPerson, id: str) -> Response:
    return await _settings(request, person, id)


async def _settings(
    request: Request,
    person: PersonCaller,
    agent_id: str,
    *,
    written: Written | None = None,
    secret: str = "",
    failed: str = "",
    status: int = 200,
) -> Response:
    """`secret`: a key that was just made."""

    def work(connection: Connection) -> tuple[Agent, list[tuple[str, str]]]:
        return find_agent(connection, person.user_id, agent_id), team_names(connection, person.user_id)

    found, teams = await store_of(request).read(work)
    return await page(
        request,
        person,
        "agent_settings.html",
        status,
        here="agents",
        agent=found,
        kept=found.id == operator_id(person.user_id) or found.role == HOOKS_ROLE,
        written=written or _of(found),
        teams=teams,
        files={name: _file(request, found, name) for name in FILES},
        init=set_up_agent(base_url(request)).command,
        secret=secret,
        failed=failed,
    )


def _of(agent: Agent) -> Written:
    return Written(
        name=agent.name,
        role=agent.role,
        description=agent.description,
        system_prompt=agent.system_prompt,
        tags=", ".join(agent.tags),
        team=agent.team_id or "",
    )


def _file(request: Request, agent: Agent, name: str) -> str:
    if name == "CLAUDE.md":
        return adapter_md(identity_of(agent, base_url(request)), "AGENT.md")
    return owner.identity_text(request, agent)


@router.get("/agent/file")
async def file(request: Request, person: AsPerson, id: str, name: str) -> Response:
    """To be saved: never shown as a page."""
    if name not in FILES:
        raise Fault(404, "There is no such file")
    found = await store_of(request).read(lambda c: find_agent(c, person.user_id, id))
    headers: Mapping[str, str] = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(_file(request, found, name), 200, headers, "text/markdown; charset=utf-8")


@router.post("/agent/{what}")
async def act(request: Request, person: AsPerson, what: str) -> Response:
    """change, key, delete."""
    agent_id = text_of(await form_of(request), "agent")
    if what == "change":
        return await _change(request, person, agent_id)
    if what == "key":
        secret = await owner.replace_own_key(request, person, agent_id)
        return await _settings(request, person, agent_id, secret=secret)
    if what == "delete":
        await owner.delete_own(request, person, agent_id)
        return leads_to("/console/agents/deleted", done="agent-deleted")
    raise Fault(404, "There is no such thing to do with it")


async def _change(request: Request, person: PersonCaller, agent_id: str) -> Response:
    written = await _written(request)
    try:
        form = owner.OwnAgentChange(
            name=written.name,
            role=written.role,
            description=written.description,
            system_prompt=written.system_prompt,
            tags=words_of(written.tags),
            team_id=written.team,
        )
        await owner.change_own(request, person, agent_id, form)
    except ValidationError as error:
        return await _settings(request, person, agent_id, written=written, failed=first_issue(error), status=422)
    except Fault as fault:
        if fault.status != 400:
            raise
        return await _settings(request, person, agent_id, written=written, failed=fault.detail, status=400)
    return leads_to("/console/agent/settings", id=agent_id, done="saved")


@router.get("/agents/deleted")
async def deleted(request: Request, person: AsPerson) -> Response:
    """Their mail is still there."""
    found = await store_of(request).read(lambda c: agents_of(c, person.user_id))
    gone = [one for one in reversed(found) if one.status == "deleted" and one.role != HOOKS_ROLE]
    return await page(request, person, "agents_deleted.html", here="agents", agents=gone)


@router.post("/agents/filter")
async def keep_filter(request: Request, person: AsPerson) -> Response:
    """Which tags the list of agents is cut to, until it is said anew."""
    wanted = [str(one) for one in (await form_of(request)).getlist("tag")]
    await user_routes.filter_tags(request, person, user_routes.FilterTags(filter_tags=wanted))
    return leads_to("/console/agents", done="saved")


async def _written(request: Request) -> Written:
    form = await form_of(request)
    said = {field: text_of(form, field) for field in Written.__struct_fields__}
    return Written(**{**said, "name": said["name"].strip(), "address_local": said["address_local"].strip()})


def words_of(text: str) -> list[str]:
    """What stands between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
