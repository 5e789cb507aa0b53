"""Threads, a thread, and what the person writes: the pages of a broker's mail over folder mailboxes. Nothing is put
away or deleted here: the folders are other programs', too.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from agent_mailer.broker.protocol import Fault
from agent_mailer.console.mail.rows import ThreadFilter
from agent_mailer.console.mail.threads import A_PAGE, FOLDED_FROM, MOST_SHOWN
from agent_mailer.console.mail.writing import Draft, draft_of
from agent_mailer.console.own.pages import OwnPage, agents_of, answers_of, looked, mail_of, own_page
from agent_mailer.console.own.port import Letter, OwnMessage, OwnShown, mark_of
from agent_mailer.console.rendering import leads_to
from agent_mailer.console.routing import form_of, own_address, text_of
from agent_mailer.errors import MailerError

router = APIRouter(prefix="/console", route_class=OwnPage, include_in_schema=False)

PERSON = "user"
_BETWEEN = re.compile(r"[,;\s]+")
_KEY = re.compile(r"[0-9a-zA-Z-]{8,100}")
_ACTIONS = ("send", "reply", "forward")
_PRIORITIES = ("normal", "urgent", "low")


@router.get("/threads")
async def threads(request: Request, only: str = "", agent: str = "", after: str = "") -> Response:
    wanted = ThreadFilter(unread=only == "unread", mine=only == "mine", agent=agent)
    asked = {"unread": wanted.unread, "mine": wanted.mine}
    shown = await looked(mail_of(request).threads, **asked, agent=agent, after=after, most=A_PAGE + 1)
    rows = shown.rows
    last = rows[A_PAGE - 1] if len(rows) > A_PAGE else None
    return await own_page(
        request,
        "threads.html",
        here="threads",
        title="Threads",
        rows=rows[:A_PAGE],
        single=(),
        older=mark_of(last.last_activity, last.id) if last is not None else "",
        agents=shown.agents,
        teams=(),
        wanted=wanted,
        after=after,
    )


@router.get("/thread")
async def thread(request: Request, id: str, all: str = "", sent: str = "") -> Response:
    """Looking moves nothing: the page's own form counts what came to the person as read, and no more."""
    found = await looked(mail_of(request).thread, id)
    if not found:
        raise Fault(404, "Thread not found")
    shown = found if all else found[-MOST_SHOWN:]
    unread = [one.message.id for one in shown if one.to_operator and not one.message.is_read]
    return await own_page(
        request,
        "thread.html",
        here="threads",
        thread_id=id,
        shelf="open",
        subject=next((one.message.subject for one in found if one.message.subject.strip()), ""),
        shown=shown,
        hidden=len(found) - len(shown),
        unread=unread[:MOST_SHOWN],
        own=PERSON,
        reply_to=_answers_to([one for one in found if PERSON in _ends(one)]),
        folded_from=FOLDED_FROM,
        sent=sent,
    )


def _ends(shown: OwnShown) -> tuple[str, ...]:
    return (shown.message.from_agent, *shown.message.to_agent.split(", "))


def _answers_to(mine: list[OwnShown]) -> OwnMessage | None:
    """What a reply in the page's own form answers: the last that somebody else wrote to the person, else his last."""
    others = [one for one in mine if one.message.from_agent != PERSON]
    return (others or mine)[-1].message if mine else None


@router.post("/thread/read")
async def read(request: Request) -> Response:
    form = await form_of(request)
    await looked(mail_of(request).read, [str(one) for one in form.getlist("unread")][:MOST_SHOWN])
    if "hx-request" in request.headers:
        return Response(status_code=204)
    return leads_to(own_address(text_of(form, "back")), done="read")


@router.get("/message")
async def message(request: Request, id: str) -> Response:
    """On the page of its thread."""
    found = await looked(mail_of(request).message, id)
    if found is None:
        raise Fault(404, "Message not found")
    leads = leads_to("/console/thread", id=found.thread_id)
    leads.headers["Location"] += f"#m-{quote(found.id)}"
    return leads


@router.get("/compose")
async def compose(request: Request, to: str = "", reply: str = "", forward: str = "") -> Response:
    draft, quoted = Draft(to=to), None
    if reply or forward:
        quoted = await looked(mail_of(request).message, reply or forward)
        if quoted is None:
            raise Fault(404, "Message not found")
        if reply:
            to = quoted.to_agent if quoted.from_agent == PERSON else quoted.from_agent
            draft = Draft(to=to, subject=_again("Re: ", quoted.subject), parent=reply, action="reply")
        else:
            draft = Draft(subject=_again("Fwd: ", quoted.subject), parent=forward, action="forward")
    return await _show(request, draft, quoted)


def _again(prefix: str, subject: str) -> str:
    return subject if subject.lower().startswith(prefix.strip().lower()) or not subject else prefix + subject


async def _show(
    request: Request, draft: Draft, quoted: OwnMessage | None = None, *, failed: str = "", status: int = 200
) -> Response:
    known = await looked(mail_of(request).addresses)
    values = {"draft": draft, "quoted": quoted, "agents": known, "memories": (), "failed": failed}
    return await own_page(request, "compose.html", status, here="compose", **values)


@router.post("/send")
async def send(request: Request) -> Response:
    """The same form a second time sends nothing a second time, and leads to the same thread."""
    draft = draft_of(await form_of(request))
    try:
        thread_id = await looked(mail_of(request).send, _letter(draft))
    except MailerError as fault:
        failed = f"{fault.message}; {fault.fix}" if fault.fix else fault.message
        return await _show(request, draft, failed=failed, status=422)
    except Fault as fault:
        return await _show(request, draft, failed=fault.detail, status=fault.status)
    return leads_to("/console/thread", id=thread_id, done="sent", sent=draft.name)


@router.post("/needs/answer")
async def answer(request: Request) -> Response:
    """By mail in the question's thread; of two answers the second is told."""
    form = await form_of(request)
    # Two in the same instant: the second sees that the first has gone.
    async with cast(asyncio.Lock, request.app.state.answering):
        return await _answer(request, text_of(form, "need"), draft_of(form))


async def _answer(request: Request, asked: str, draft: Draft) -> Response:
    sent = answers_of(request)
    if (asked, draft.key, draft.body) in sent:
        # The same form once more.
        return leads_to("/console/needs", done="answered", done_id=asked)
    found = await looked(agents_of(request).needs)
    need = next((one for one in found.needs if one.id == asked), None)
    if need is None:
        raise Fault(409, "Somebody has answered this meanwhile, or the agent goes on; your text was not sent")
    known = await looked(mail_of(request).addresses)
    # By its workdir: agents of several mailboxes may have the same name.
    to = next((one.address for one in known if one.id == need.agent_id), "")
    if not to:
        raise Fault(409, "Its mail is not on this machine: answer it where its mail is.")
    letter = Letter((to,), draft.subject, draft.body, "send", thread=need.thread, key=_key(draft))
    await looked(mail_of(request).send, letter)
    sent.append((asked, draft.key, draft.body))
    return leads_to("/console/needs", done="answered", done_id=asked)


def _letter(draft: Draft) -> Letter:
    """Raises Fault for what no form of ours holds."""
    to = tuple(word for word in _BETWEEN.split(draft.to) if word)
    if not to:
        raise Fault(422, "To whom? Give an address of an agent")
    if draft.action not in _ACTIONS or draft.priority not in _PRIORITIES:
        raise Fault(422, "The form is not as it must be")
    key = _key(draft)
    return Letter(to, draft.subject, draft.body, draft.action, draft.parent, priority=draft.priority, key=key)


def _key(draft: Draft) -> str:
    return draft.key if _KEY.fullmatch(draft.key) else ""
