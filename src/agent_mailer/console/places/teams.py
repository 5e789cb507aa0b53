"""Teams: their agents, and what they remember."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.agents.rows import members
from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.broker.memories import routes as memory_routes
from agent_mailer.broker.memories.rows import find_memory, memories_of
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.teams import routes
from agent_mailer.broker.teams.rows import find_team, teams_of
from agent_mailer.console.mail.rows import agents_of
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)


@router.get("/teams")
async def listed(request: Request, person: AsPerson) -> Response:
    teams = await store_of(request).read(lambda c: teams_of(c, person.user_id))
    return await page(request, person, "teams.html", here="teams", teams=teams)


@router.get("/team")
async def team(request: Request, person: AsPerson, id: str, memory: str = "") -> Response:
    """`memory`: the id of the one that is being changed."""

    def work(connection: Connection) -> dict[str, object]:
        found = find_team(connection, person.user_id, id)
        own = members(connection, person.user_id, id)
        return {
            "team": found,
            "members": own,
            "free": [one for one in agents_of(connection, person.user_id) if one.team_id is None],
            "memories": memories_of(connection, person.user_id, id),
            "changing": find_memory(connection, person.user_id, memory, id) if memory else None,
        }

    return await page(request, person, "team.html", here="teams", **await store_of(request).read(work))


@router.post("/teams/{what}")
async def act(request: Request, person: AsPerson, what: str) -> Response:
    form = await form_of(request)
    team_id, name, text = text_of(form, "team"), text_of(form, "name").strip(), text_of(form, "text")
    back = "/console/team"
    if what == "make":
        made = await routes.make(request, person, routes.TeamForm(name=name, description=text))
        return leads_to(back, id=made.id, done="made")
    if what == "change":
        await routes.change(request, person, team_id, routes.TeamChange(name=name, description=text))
        return leads_to(back, id=team_id, done="saved")
    if what == "delete":
        await routes.delete(request, person, team_id)
        return leads_to("/console/teams", done="deleted")
    if what == "add":
        await routes.add_member(request, person, team_id, routes.TeamMember(agent_id=text_of(form, "agent")))
        return leads_to(back, id=team_id, done="added")
    if what == "remove":
        await routes.remove_member(request, person, team_id, text_of(form, "agent"))
        return leads_to(back, id=team_id, done="removed")
    raise Fault(404, "There is no such thing to do with it")


@router.post("/memories/{what}")
async def remember(request: Request, person: AsPerson, what: str) -> Response:
    """make, change, delete; append: below what is there under that title."""
    form = await form_of(request)
    team_id, memory_id = text_of(form, "team"), text_of(form, "memory")
    if what == "delete":
        await memory_routes.delete(request, person, team_id, memory_id)
        return leads_to("/console/team", id=team_id, done="deleted")
    title, content = text_of(form, "title").strip(), text_of(form, "text")
    if what == "make":
        said = memory_routes.MemoryForm(title=title, content=content)
        await memory_routes.make(request, person, team_id, said)
    elif what == "append":
        said = memory_routes.MemoryForm(title=title, content=content)
        await memory_routes.append(request, person, team_id, said)
    elif what == "change":
        change = memory_routes.MemoryChange(title=title, content=content)
        await memory_routes.change(request, person, team_id, memory_id, change)
    else:
        raise Fault(404, "There is no such thing to do with it")
    return leads_to("/console/team", id=team_id, done="saved")
