"""Channels: two agents that talk in turns, and a person who lets them go on or closes them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.broker.channels import routes
from agent_mailer.broker.channels.rows import channel_of_owner, channels_of, history
from agent_mailer.broker.protocol import Fault
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)


@router.get("/channels")
async def listed(request: Request, person: AsPerson) -> Response:
    """Those that wait for a person come first."""
    found = await store_of(request).read(lambda c: channels_of(c, person.user_id))
    waiting = sorted(found, key=lambda channel: channel.status != "pending_human")
    return await page(request, person, "channels.html", here="channels", channels=waiting)


@router.get("/channel")
async def channel(request: Request, person: AsPerson, token: str) -> Response:
    def work(connection: Connection) -> dict[str, object]:
        found = channel_of_owner(connection, token, person.user_id)
        return {"channel": found, "said": history(connection, found.id)}

    return await page(request, person, "channel.html", here="channels", **await store_of(request).read(work))


@router.post("/channels/{what}")
async def act(request: Request, person: AsPerson, what: str) -> Response:
    token = text_of(await form_of(request), "token")
    if what == "continue":
        await routes.admin_continue(request, person, token)
        return leads_to("/console/channel", token=token, done="continued")
    if what == "close":
        await routes.admin_close(request, person, token)
        return leads_to("/console/channel", token=token, done="closed")
    raise Fault(404, "There is no such thing to do with it")
