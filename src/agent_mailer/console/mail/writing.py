"""What a person writes: to somebody new, as a reply, as a forward. It leaves once, however often its form is sent."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection, bindparam, select
from starlette.datastructures import FormData, UploadFile

from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.callers import AsPerson, PersonCaller, store_of
from agent_mailer.broker.memories.rows import memories_of
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.files import Uploaded, upload
from agent_mailer.broker.messages.forms import OperatorForm
from agent_mailer.broker.messages.requested import submission_of
from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.messages.wire import Message
from agent_mailer.broker.operator import operator_of
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.tables import messages
from agent_mailer.console.mail.rows import Agent, agents_of, team_names
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

_KEY = re.compile(r"[0-9a-zA-Z-]{8,100}")
_BY_KEY = (
    select(messages.c.thread_id, messages.c.subject, messages.c.body)
    .where(messages.c.from_agent_id == bindparam("operator"), messages.c.idempotency_key == bindparam("key"))
    .limit(1)
)
_BETWEEN = re.compile(r"[,;\s]+")


class Draft(msgspec.Struct, frozen=True):
    """What the form of the page begins with. `key`: under which it leaves once."""

    to: str = ""
    subject: str = ""
    body: str = ""
    parent: str = ""
    action: str = "send"
    scope: str = ""
    priority: str = "normal"
    key: str = ""

    @property
    def name(self) -> str:
        """Of what the browser keeps of it."""
        return f"{self.action}:{self.parent or 'new'}"


@router.get("/compose")
async def compose(
    request: Request, person: AsPerson, to: str = "", reply: str = "", forward: str = "", scope: str = "message"
) -> Response:
    draft = Draft(to=to)
    quoted: Message | None = None
    if reply or forward:
        quoted = await inbox.one(store_of(request), person.user_id, reply or forward, None)
        if quoted is None:
            raise Fault(404, "Message not found")
        operator = await operator_of(request, person)
        if reply:
            to = quoted.to_agent if quoted.from_agent == operator.address else quoted.from_agent
            draft = Draft(to=to, subject=_again("Re: ", quoted.subject), parent=reply, action="reply")
        else:
            kept = "thread" if scope == "thread" else "message"
            draft = Draft(subject=_again("Fwd: ", quoted.subject), parent=forward, action="forward", scope=kept)
    return await show(request, person, draft, quoted)


async def show(
    request: Request,
    person: PersonCaller,
    draft: Draft,
    quoted: Message | None = None,
    *,
    failed: str = "",
    status: int = 200,
) -> Response:
    """The page to write on. `failed`: why the last try did not leave."""

    def work(connection: Connection) -> tuple[list[Agent], list[tuple[str, str, str]]]:
        memories = [
            (team, memory.title, memory.content)
            for team_id, team in team_names(connection, person.user_id)
            for memory in memories_of(connection, person.user_id, team_id)
        ]
        return agents_of(connection, person.user_id), memories

    known, memories = await store_of(request).read(work)
    return await page(
        request,
        person,
        "compose.html",
        status,
        here="compose",
        draft=draft,
        quoted=quoted,
        agents=known,
        memories=memories,
        failed=failed,
    )


def _again(prefix: str, subject: str) -> str:
    return subject if subject.lower().startswith(prefix.strip().lower()) or not subject else prefix + subject


def draft_of(form: FormData) -> Draft:
    said = {name: text_of(form, name) for name in Draft.__struct_fields__}
    return Draft(**{**said, "action": said["action"] or "send", "priority": said["priority"] or "normal"})


@router.post("/send")
async def send(request: Request, person: AsPerson) -> Response:
    """The same form a second time sends nothing a second time, and leads to the same thread."""

    async def store(submission: Submission) -> Sent:
        return await store_of(request).write_each(send_all, submission)

    return await send_by(request, person, store)


async def send_by(
    request: Request,
    person: PersonCaller,
    store: Callable[[Submission], Awaitable[Sent]],
    raised: Sequence[int] = (401, 403),
) -> Response:
    """What the form holds, stored by `store`. Raises Fault of the statuses `raised`; of others the page tells."""
    form = await form_of(request)
    draft = draft_of(form)
    if text_of(form, "write") == "on":
        return await show(request, person, draft)
    again = await was_sent(request, person, draft)
    if again:
        return leads_to("/console/thread", id=again, done="sent", sent=draft.name)
    try:
        sent = await _sent(request, person, draft, form, store)
    except Fault as fault:
        if fault.status in raised:
            raise
        return await show(request, person, draft, failed=fault.detail, status=fault.status)
    return leads_to("/console/thread", id=sent.messages[0].thread_id, done="sent", sent=draft.name)


async def was_sent(request: Request, person: PersonCaller, draft: Draft) -> str:
    """The thread into which the same form has gone already: pictures would be stored anew, as others."""
    names = {"operator": operator_id(person.user_id), "key": f"console:{draft.key}"}
    row = await store_of(request).read(lambda c: c.execute(_BY_KEY, names).first())
    return str(row[0]) if row is not None and (row[1], row[2]) == (draft.subject, draft.body) else ""


async def _sent(
    request: Request,
    person: PersonCaller,
    draft: Draft,
    form: FormData,
    store: Callable[[Submission], Awaitable[Sent]],
) -> Sent:
    to = [word for word in _BETWEEN.split(draft.to) if word]
    if not to:
        raise Fault(422, "To whom? Give an address of an agent")
    operator = await operator_of(request, person)
    known = {
        one.name.lower(): one.address for one in await store_of(request).read(lambda c: agents_of(c, person.user_id))
    }
    to = [word if "@" in word else known.get(word.lower(), word) for word in to]
    asked: dict[str, Any] = {
        "to_agent": to[0] if len(to) == 1 else to,
        "action": draft.action,
        "subject": draft.subject,
        "body": draft.body,
        "priority": draft.priority,
    }
    if draft.parent:
        asked["parent_id"] = draft.parent
    if draft.action == "forward":
        asked["forward_scope"] = draft.scope or "message"
    asked["attachments"] = [
        {"id": one.id, "filename": one.filename, "mime_type": one.mime_type, "size": one.size, "url": one.url}
        for one in await _stored(request, person, form)
    ]
    submission = submission_of(
        request,
        OperatorForm.model_validate(asked),
        sender=(person.user_id, operator.agent_id, operator.address),
        bound=False,
    )
    key = f"console:{draft.key}" if _KEY.fullmatch(draft.key) else None
    sent = await store(msgspec.structs.replace(submission, key=key))
    streams_of(request).arrived(sent.arrivals)
    return sent


async def _stored(request: Request, person: PersonCaller, form: FormData) -> list[Uploaded]:
    """The pictures of the form."""
    found = []
    for part in form.getlist("picture"):
        if isinstance(part, UploadFile) and part.filename:
            answer = await upload(request, person, part)  # type: ignore[arg-type]
            found.append(msgspec.json.decode(bytes(answer.body), type=Uploaded))
    return found
