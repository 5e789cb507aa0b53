"""What a person has of their own at the broker: API keys, the password, how the pages look."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.callers import AsPerson, PersonCaller, directory_of, settings_of, store_of
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.users import routes
from agent_mailer.broker.users.rows import keys_of
from agent_mailer.console.mail.rows import agents_of
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)


@router.get("/keys")
async def listed(request: Request, person: AsPerson) -> Response:
    return await _keys(request, person)


async def _keys(request: Request, person: PersonCaller, *, secret: str = "", name: str = "") -> Response:
    """`secret`: a key that was just made, shown this once."""

    def work(connection: Connection) -> dict[str, object]:
        known = agents_of(connection, person.user_id)
        return {"keys": keys_of(connection, person.user_id), "agents": {one.id: one for one in known}}

    used = directory_of(request).last_used
    found = await store_of(request).read(work)
    return await page(request, person, "keys.html", here="keys", used=used, secret=secret, name=name, **found)


@router.post("/keys/{what}")
async def act(request: Request, person: AsPerson, what: str) -> Response:
    form = await form_of(request)
    key_id = text_of(form, "key")
    if what == "make":
        name = text_of(form, "name").strip()
        asked = routes.KeyForm(name=name, agent_id=text_of(form, "agent") or None)
        made = await routes.make(request, person, asked)
        # Not in an address, nor kept: the answer to this form is the one place where it is shown.
        return await _keys(request, person, secret=made.raw_key, name=name)
    if what == "deactivate":
        await routes.deactivate(request, person, key_id)
    elif what == "reactivate":
        await routes.reactivate(request, person, key_id)
    elif what == "delete":
        await routes.delete(request, person, key_id)
    else:
        raise Fault(404, "There is no such thing to do with it")
    return leads_to("/console/keys", done="deleted" if what == "delete" else "saved")


@router.get("/account")
async def account(request: Request, person: AsPerson) -> Response:
    return await _account(request, person)


async def _account(request: Request, person: PersonCaller, failed: str = "", status: int = 200) -> Response:
    spent, quota = await routes.used(request, person), settings_of(request).quota
    return await page(request, person, "account.html", status, here="account", spent=spent, quota=quota, failed=failed)


@router.post("/account/password")
async def change_password(request: Request, person: AsPerson) -> Response:
    """All sessions end, this one too."""
    form = await form_of(request)
    asked = routes.PasswordChange(
        current_password=text_of(form, "current_password"), new_password=text_of(form, "new_password")
    )
    try:
        await routes.change_password(request, person, asked)
    except Fault as fault:
        if fault.status != 400:
            raise
        return await _account(request, person, fault.detail, 400)
    return leads_to("/console/login", done="password")
