"""The links' routes: a watcher offers one, a person opens it, and his form acts once."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.approvals import pages
from agent_mailer.broker.approvals.rows import OpenLink, Shown, find_open, hash_of, now_ms, offer, use
from agent_mailer.broker.callers import AsAgent, PersonCaller, directory_of, own_agent, store_of
from agent_mailer.broker.operator import operator_of
from agent_mailer.broker.protocol import ONE_LINE, Fault, Reference
from agent_mailer.broker.streams import streams_of

APPROVE = "/approve/"
router = APIRouter()

LONGEST_FORM = 16_384

Line = Annotated[str, Field(max_length=65_536, pattern=ONE_LINE)]


class LinkForm(BaseModel):
    """`token_sha256`: hex; the token itself the broker sees when somebody uses it. `seconds`: for which it is open.
    `question`: its id, as the report has it.
    """

    agent_id: Reference
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    seconds: Annotated[int, Field(ge=1, le=30 * 86400)]
    act: Line
    said: Line = ""
    folder: Line = ""
    host: Line = ""
    for_mail_of: Line = ""
    question: Line = ""


class Offered(msgspec.Struct, frozen=True):
    """`path` is completed by the token."""

    path: str


@router.post(
    "/approvals/links",
    tags=["extensions"],
    summary="Offer a link by which a person answers, once",
    responses={200: described(Offered), **refusals(401, 403, 404, 409, 422, 429, 503)},
    response_class=Response,
)
async def offer_link(request: Request, caller: AsAgent, form: LinkForm) -> Response:
    """The page shows what is asked; its form sends the agent mail of its operator, whose first line has the token."""
    agent = await own_agent(request, caller, form.agent_id)
    if agent.status == "deleted":
        raise Fault(403, f"Agent '{agent.id}' is deleted")
    shown = Shown(form.act, form.said, form.folder, form.host, form.for_mail_of, form.question)
    link = OpenLink(caller.user_id, agent.id, agent.address, shown, now_ms() + form.seconds * 1000)
    await store_of(request).write(lambda c: offer(c, link, form.token_sha256))
    return answer(Offered(APPROVE))


@router.get(APPROVE + "{token}", include_in_schema=False)
async def show(request: Request, token: str) -> HTMLResponse:
    """Changes nothing: programs that look at mail open the links in it."""
    link = await store_of(request).read(lambda c: find_open(c, hash_of(token)))
    return pages.not_open() if link is None else pages.question(link)


@router.post(APPROVE + "{token}", include_in_schema=False)
async def act(request: Request, token: str) -> HTMLResponse:
    """Acts once: of two at the same time one."""
    if not _is_of_the_page(request):
        return pages.refused("This answer did not come from the page itself.", 403)
    form = parse_qs((await request.body())[:LONGEST_FORM].decode("utf-8", "replace"))
    verdict = form.get("answer", [""])[0]
    if verdict not in ("allow", "deny"):
        return pages.refused("An answer is allow or deny.", 422)
    reason = _one_line(form.get("reason", [""])[0]) if verdict == "deny" else ""
    link = await store_of(request).read(lambda c: find_open(c, hash_of(token)))
    user = None if link is None else await directory_of(request).user(link.user_id)
    if link is None or user is None:
        return pages.not_open()
    try:
        operator = await operator_of(request, PersonCaller(user.id, user.username, user.is_superadmin))
        sender = (operator.agent_id, operator.address)
        sent = await store_of(request).write(lambda c: use(c, token, sender, verdict, reason))
    except Fault as fault:
        return pages.refused(fault.detail, fault.status)
    if sent is None:
        return pages.not_open()
    streams_of(request).arrived(sent.arrivals)
    return pages.answered(verdict)


def _is_of_the_page(request: Request) -> bool:
    """As browsers tell; what is no browser has no cookie or login that somebody else could use."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    # The scheme is the proxy's.
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[: pages.LONGEST_REASON]
