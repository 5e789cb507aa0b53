"""The page of the search, and one message by itself: as text, to copy or to save."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.wire import Message
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.search.behind import catch_up
from agent_mailer.broker.search.rows import MOST_FOUND
from agent_mailer.console.mail.finding import Hit, find, read
from agent_mailer.console.mail.rows import team_names
from agent_mailer.console.rendering import page
from agent_mailer.console.routing import Page

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

A_PAGE = 30
LONGEST_QUERY = 200


@router.get("/search")
async def search(request: Request, person: AsPerson, q: str = "", skip: int = 0) -> Response:
    """In all mail of this person's agents, put away or not; it says which is."""
    asked = read(q[:LONGEST_QUERY])
    skip = min(max(0, skip), MOST_FOUND)

    def work(connection: Connection) -> tuple[list[Hit], int]:
        return find(connection, person.user_id, operator_id(person.user_id), asked, skip, A_PAGE)

    found: list[Hit] = []
    total = 0
    if asked.anything:
        await catch_up(store_of(request))
        found, total = await store_of(request).read(work)
    return await page(
        request,
        person,
        "search.html",
        here="search",
        q=q[:LONGEST_QUERY],
        found=found,
        total=total,
        most=MOST_FOUND,
        skip=skip,
        next=skip + A_PAGE if skip + A_PAGE < total else 0,
    )


@router.get("/message")
async def message(request: Request, person: AsPerson, id: str) -> Response:
    found = await inbox.one(store_of(request), person.user_id, id, None)
    if found is None:
        raise Fault(404, "Message not found")
    teams = await store_of(request).read(lambda c: team_names(c, person.user_id))
    return await page(
        request, person, "message.html", here="threads", message=found, markdown=as_markdown(found), teams=teams
    )


def as_markdown(message: Message) -> str:
    """Head, body and what is attached, to be pasted elsewhere."""
    head = [("From", message.from_agent), ("To", message.to_agent), ("Date", message.created_at)]
    lines = [f"# {message.subject or '(no subject)'}", "", *(f"- **{name}**: {value}" for name, value in head)]
    lines += ["", message.body.rstrip(), ""]
    for part in message.attachments:
        name = part if isinstance(part, str) else str(part.get("filename") or part.get("url") or "file")
        lines.append(f"- attached: {name}")
    return "\n".join(lines).rstrip() + "\n"
