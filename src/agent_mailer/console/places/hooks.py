"""Hooks: by which programs of elsewhere write to agents, and what came by them."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from sqlalchemy import Connection

from agent_mailer.broker.callers import AsPerson, PersonCaller, store_of
from agent_mailer.broker.documents import base_url
from agent_mailer.broker.hooks import admin
from agent_mailer.broker.hooks.history import deliveries_of, items_of
from agent_mailer.broker.hooks.rows import find_hook, hooks_of
from agent_mailer.broker.protocol import Fault
from agent_mailer.console.mail.rows import agents_of, team_names
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, first_issue, form_of, text_of
from agent_mailer.outside.event import Source

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

MOST_SHOWN = 100


class Written(msgspec.Struct, frozen=True):
    """What a new hook's form holds. `to`: an agent's address, or `team:` and a team's id."""

    name: str = ""
    kind: str = Source.GENERIC.value
    to: str = ""
    events: str = ""


@router.get("/hooks")
async def listed(request: Request, person: AsPerson) -> Response:
    return await _listed(request, person, Written())


async def _listed(
    request: Request,
    person: PersonCaller,
    written: Written,
    *,
    made: admin.WithSecret | None = None,
    failed: str = "",
    status: int = 200,
) -> Response:
    """`made`: what has just got a secret, which is shown this once. `failed`: why none could be made."""

    def work(connection: Connection) -> dict[str, object]:
        return {
            "hooks": hooks_of(connection, person.user_id),
            "agents": agents_of(connection, person.user_id),
            "teams": team_names(connection, person.user_id),
        }

    known = await store_of(request).read(work)
    values = {"url": base_url(request), "kinds": tuple(Source), "written": written, "made": made, "failed": failed}
    return await page(request, person, "hooks.html", status, here="hooks", **values, **known)


@router.get("/hook")
async def one(request: Request, person: AsPerson, id: str) -> Response:
    """What came, the newest first, and what is open."""

    def work(connection: Connection) -> dict[str, object]:
        return {
            "hook": find_hook(connection, person.user_id, id),
            "came": deliveries_of(connection, person.user_id, id, None, MOST_SHOWN),
            "items": [one for one in items_of(connection, person.user_id, id, MOST_SHOWN) if one.is_open],
            "teams": dict(team_names(connection, person.user_id)),
        }

    known = await store_of(request).read(work)
    return await page(request, person, "hook.html", here="hooks", url=base_url(request), **known)


@router.post("/hooks/{what}")
async def act(request: Request, person: AsPerson, what: str) -> Response:
    """make, roll (another secret), disable, enable, delete; retry: what failed, once more."""
    form = await form_of(request)
    hook_id = text_of(form, "hook")
    if what == "make":
        return await _make(request, person)
    if what == "roll":
        return await _listed(request, person, Written(), made=_secret(await admin.roll(request, person, hook_id)))
    if what == "retry":
        await admin.again(request, person, hook_id, text_of(form, "delivery"))
        return leads_to("/console/hook", id=hook_id, done="saved")
    if what == "delete":
        await admin.delete(request, person, hook_id)
        return leads_to("/console/hooks", done="deleted")
    if what == "disable":
        await admin.disable(request, person, hook_id)
    elif what == "enable":
        await admin.enable(request, person, hook_id)
    else:
        raise Fault(404, "There is no such thing to do with it")
    return leads_to("/console/hooks", done="saved")


async def _make(request: Request, person: PersonCaller) -> Response:
    form = await form_of(request)
    written = Written(*(text_of(form, field).strip() for field in Written.__struct_fields__))
    team = written.to.removeprefix("team:") if written.to.startswith("team:") else None
    try:
        asked = admin.HookForm.model_validate(
            {
                "name": written.name,
                "kind": written.kind or Source.GENERIC,
                "to": "" if team is not None else written.to,
                "team_id": team,
                "events": written.events.replace(",", " ").split(),
            }
        )
        made = await admin.make(request, person, asked)
    except ValidationError as error:
        return await _listed(request, person, written, failed=first_issue(error), status=422)
    except Fault as fault:
        return await _listed(request, person, written, failed=fault.detail, status=fault.status)
    return await _listed(request, person, Written(), made=_secret(made))


def _secret(answer: Response) -> admin.WithSecret:
    return msgspec.json.decode(bytes(answer.body), type=admin.WithSecret)
