"""Who may use the broker, and who did what."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.agents.rows import agents_of
from agent_mailer.broker.audit import Entry, latest
from agent_mailer.broker.callers import AsPerson, AsSuperadmin, PersonCaller, store_of
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.teams.rows import teams_of
from agent_mailer.broker.users import superadmin
from agent_mailer.broker.users.rows import all_invites, all_users, invite_required, keys_of, user_of
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

MOST_ENTRIES = 200


@router.get("/users")
async def listed(request: Request, person: AsSuperadmin) -> Response:
    def work(connection: Connection) -> dict[str, object]:
        users = all_users(connection)
        return {
            "users": users,
            "names": {user.id: user.username for user in users},
            "invites": all_invites(connection),
            "required": invite_required(connection),
        }

    return await page(request, person, "users.html", here="users", **await store_of(request).read(work))


@router.post("/users/{what}")
async def act(request: Request, person: AsSuperadmin, what: str) -> Response:
    form = await form_of(request)
    user_id = text_of(form, "user")
    if what == "invite":
        await superadmin.make_invite(request, person)
        return leads_to("/console/users", done="made")
    if what == "settings":
        asked = superadmin.BrokerSettings(invite_required=text_of(form, "invite_required") == "on")
        await superadmin.change_settings(request, person, asked)
    elif what == "disable":
        await superadmin.disable(request, person, user_id)
    elif what == "enable":
        await superadmin.enable(request, person, user_id)
    elif what == "delete":
        await superadmin.delete(request, person, user_id)
        return leads_to("/console/users", done="deleted")
    else:
        raise Fault(404, "There is no such thing to do with it")
    return leads_to("/console/users", done="saved")


@router.get("/audit")
async def audit(request: Request, person: AsPerson, whose: str = "") -> Response:
    """What this person did, and what was done to them; a superadmin sees everybody's with `whose=all`."""
    everybody = whose == "all" and person.is_superadmin

    def work(connection: Connection) -> tuple[list[Entry], dict[str, str]]:
        user = None if everybody else user_of(connection, person.user_id)
        return latest(connection, MOST_ENTRIES, user), _names(connection, person)

    entries, names = await store_of(request).read(work)
    return await page(request, person, "audit.html", here="audit", entries=entries, names=names, everybody=everybody)


def _names(connection: Connection, person: PersonCaller) -> dict[str, str]:
    """What ids in the audit mean, as far as this person may know."""
    known = {person.user_id: person.username}
    if person.is_superadmin:
        known |= {user.id: user.username for user in all_users(connection)}
    known |= {one.id: one.address for one in agents_of(connection, person.user_id)}
    known |= {team.id: team.name for team in teams_of(connection, person.user_id)}
    return known | {key.id: key.name for key in keys_of(connection, person.user_id)}
