"""The lists of threads, one thread, and what is done with a thread or a message of it."""

from __future__ import annotations

from contextlib import suppress

import msgspec
from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.callers import AsPerson, PersonCaller, store_of
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.wire import Message
from agent_mailer.broker.operator import read as read_one
from agent_mailer.broker.operator import unread as unread_one
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.threads import routes
from agent_mailer.broker.threads.rows import Mark, Shelf, find_thread
from agent_mailer.broker.threads.trash import trashed, trashed_of
from agent_mailer.console.mail.rows import (
    Agent,
    ThreadFilter,
    ThreadRow,
    Turn,
    agents_of,
    team_names,
    threads_of,
    turns_of,
)
from agent_mailer.console.rendering import leads_to, page
from agent_mailer.console.routing import Page, form_of, own_address, text_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

A_PAGE = 50
MOST_SHOWN = 200
"""Messages of a thread on one page: the newest. And so many are marked as read at once, the oldest first."""
FOLDED_FROM = 4_000
"""Characters from which a body is folded."""


class Shown(msgspec.Struct, frozen=True):
    """A message on the page of its thread. `parts`: what is a picture of ours, and what is shown by its name alone."""

    message: Message
    turns: list[Turn]
    to_operator: bool
    trashed: bool
    pictures: list[tuple[str, str]]
    """Name and address of each."""
    parts: list[str]


@router.get("/threads")
async def listed(
    request: Request, person: AsPerson, only: str = "", agent: str = "", team: str = "", after: str = ""
) -> Response:
    wanted = ThreadFilter(Shelf.OPEN, unread=only == "unread", mine=only == "mine", agent=agent, team=team)
    return await _list(request, person, wanted, after, "threads", "Threads")


@router.get("/archive")
async def archive(request: Request, person: AsPerson, after: str = "") -> Response:
    return await _list(request, person, ThreadFilter(Shelf.ARCHIVE), after, "archive", "Archive")


@router.get("/trash")
async def trash(request: Request, person: AsPerson, after: str = "") -> Response:
    return await _list(request, person, ThreadFilter(Shelf.TRASH), after, "trash", "Trash")


async def _list(
    request: Request, person: PersonCaller, wanted: ThreadFilter, after: str, here: str, title: str
) -> Response:
    operator = operator_id(person.user_id)
    begin = routes.mark_of(after or None)

    def work(connection: Connection) -> tuple[list[ThreadRow], list[Agent], list[tuple[str, str]], list[object]]:
        rows = threads_of(connection, person.user_id, operator, wanted, begin, A_PAGE + 1)
        single: list[object] = []
        if wanted.shelf is Shelf.TRASH and not after:
            single = list(trashed(connection, person.user_id, Mark(), MOST_SHOWN))
        if wanted.shelf is not Shelf.OPEN:
            # There nothing is filtered.
            return rows, [], [], single
        return rows, agents_of(connection, person.user_id), team_names(connection, person.user_id), single

    rows, known, teams, single = await store_of(request).read(work)
    last = rows[A_PAGE - 1] if len(rows) > A_PAGE else None
    return await page(
        request,
        person,
        "threads.html",
        here=here,
        title=title,
        rows=rows[:A_PAGE],
        single=single,
        most_single=MOST_SHOWN,
        older=f"{last.last_activity} {last.id}" if last is not None else "",
        agents=known,
        teams=teams,
        wanted=wanted,
        after=after,
    )


@router.get("/thread")
async def thread(request: Request, person: AsPerson, id: str, all: str = "", sent: str = "") -> Response:
    """Looking marks nothing: the page's own form does, and for the operator's mail alone."""
    store, operator = store_of(request), operator_id(person.user_id)
    gone = await store.read(lambda c: trashed_of(c, person.user_id, id))
    ids = await inbox.thread(store, person.user_id, id, None) or []
    if not ids and not gone:
        raise Fault(404, "Thread not found")
    hidden = 0 if all else max(0, len(ids) - MOST_SHOWN)
    found: list[Message] = []
    async for portion in inbox.by_id(store, person.user_id, [*ids[hidden:], *gone[-MOST_SHOWN:]]):
        found += portion
    found.sort(key=lambda one: one.created_at)

    def work(
        connection: Connection,
    ) -> tuple[Shelf, dict[str, list[Turn]], list[Agent]]:
        shelf = find_thread(connection, person.user_id, id).shelf
        return (
            shelf,
            turns_of(connection, person.user_id, id),
            agents_of(connection, person.user_id),
        )

    shelf, turns, known = await store.read(work)
    own = next((one.address for one in known if one.id == operator), "")
    shown = [_shown(message, turns.get(message.id, []), own, set(gone)) for message in found]
    unread = [one.message.id for one in shown if one.to_operator and not one.message.is_read and not one.trashed]
    return await page(
        request,
        person,
        "thread.html",
        here="threads" if shelf is Shelf.OPEN else shelf.value,
        thread_id=id,
        shelf=shelf.value,
        subject=next((one.subject for one in found if one.subject.strip()), ""),
        shown=shown,
        hidden=hidden,
        unread=unread[:MOST_SHOWN],
        own=own,
        reply_to=_answers_to([one.message for one in shown if not one.trashed], own),
        folded_from=FOLDED_FROM,
        sent=sent,
    )


def _answers_to(found: list[Message], own: str) -> Message | None:
    """What a reply in the page's own form answers: the last that somebody else wrote, else the last."""
    others = [one for one in found if one.from_agent != own]
    return (others or found)[-1] if found else None


def _shown(message: Message, turns: list[Turn], own: str, gone: set[str]) -> Shown:
    pictures, parts = [], []
    for part in message.attachments:
        name, address = _attachment(part)
        if address:
            pictures.append((name, address))
        else:
            parts.append(name)
    return Shown(message, turns, message.to_agent == own, message.id in gone, pictures, parts)


def _attachment(part: object) -> tuple[str, str]:
    """Its name, and where it lies if that is a file of this broker."""
    if isinstance(part, str):
        name, address = part.rpartition("/")[2] or part, part
    elif isinstance(part, dict):
        name = str(part.get("filename") or part.get("name") or part.get("url") or "file")
        address = str(part.get("url") or (f"/files/{part['id']}" if "id" in part else ""))
    else:
        return "file", ""
    _, files, file_id = address.rpartition("/files/")
    ours = bool(files) and len(file_id) == 36 and all(sign in "0123456789abcdef-" for sign in file_id)
    return name[:200], f"/files/{file_id}" if ours else ""


@router.post("/thread/{what}")
async def act(request: Request, person: AsPerson, what: str) -> Response:
    """archive, unarchive, trash, restore, purge: a thread, or with `message` one message of it; read, unread."""
    form = await form_of(request)
    thread_id, message_id = text_of(form, "thread"), text_of(form, "message")
    back = own_address(text_of(form, "back") or "/console/threads")
    if message_id and what in _ONE:
        await _ONE[what](request, message_id, person)
    elif what == "read":
        await _read_all(request, person, [str(one) for one in form.getlist("unread")])
    elif thread_id and what in _WHOLE:
        await _WHOLE[what](request, thread_id, person)
    else:
        raise Fault(404, "There is no such thing to do with it")
    if "hx-request" in request.headers:
        return Response(status_code=204)
    return leads_to(back, done=f"message-{what}" if message_id else what, done_id=message_id or thread_id)


async def _read_all(request: Request, person: PersonCaller, ids: list[str]) -> None:
    for message_id in ids[:MOST_SHOWN]:
        await read_one(request, message_id, person, html=False)


async def _unread(request: Request, message_id: str, person: PersonCaller) -> Response:
    return await unread_one(request, message_id, person, html=False)


_ONE = {"trash": routes.trash_one, "restore": routes.restore_one, "purge": routes.purge_one, "unread": _unread}
_WHOLE = {
    "archive": routes.archive,
    "unarchive": routes.unarchive,
    "trash": routes.trash,
    "restore": routes.restore,
    "purge": routes.purge,
}


@router.post("/trash/empty")
async def empty(request: Request, person: AsPerson) -> Response:
    """What is in it now, for good; what cannot be (it was answered) stays."""
    store, after = store_of(request), Mark()
    while single := await store.read(lambda c, after=after: trashed(c, person.user_id, after, MOST_SHOWN)):  # type: ignore[misc]
        after = Mark(single[-1].trashed_at, single[-1].message_id)
        for one in single:
            with suppress(Fault):
                await routes.purge_one(request, one.message_id, person)
    wanted, operator = ThreadFilter(Shelf.TRASH), operator_id(person.user_id)
    while rows := await store.read(lambda c: threads_of(c, person.user_id, operator, wanted, Mark(), MOST_SHOWN)):
        for row in rows:
            await routes.purge(request, row.id, person)
    return leads_to("/console/trash", done="emptied")
