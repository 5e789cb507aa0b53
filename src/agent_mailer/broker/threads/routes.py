"""The threads' routes: a person's lists of them, the archive and the trash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.broker.messages.wire import rendered
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.threads.rows import (
    Mark,
    Shelf,
    Summary,
    Thread,
    bring_back,
    erase_thread,
    find_thread,
    put_away,
    summaries,
)
from agent_mailer.broker.threads.trash import (
    Trashed,
    TrashedWhole,
    erase_message,
    find_trashed,
    restore_message,
    trash_message,
    trashed,
)

router = APIRouter(prefix="/admin", tags=["threads"])

PORTION = 200
Limit = Annotated[int | None, Query(ge=1, le=500, description="A page of so many, with what leads to the next")]
After = Annotated[str | None, Query(max_length=400, description="`next` of the page before")]
T = TypeVar("T")


class ThreadPage(msgspec.Struct, frozen=True):
    """`next`: what `after` must be for the page that follows; null where this is the last one."""

    threads: list[Summary]
    next: str | None


class TrashPage(msgspec.Struct, frozen=True):
    messages: list[Trashed]
    next: str | None


class ThreadStatus(msgspec.Struct, frozen=True):
    archived: bool
    trashed: bool
    archived_at: str | None
    trashed_at: str | None


class ArchiveStatus(msgspec.Struct, frozen=True):
    archived: bool
    archived_at: str | None


class ThreadDone(msgspec.Struct, frozen=True):
    thread_id: str
    ok: Literal[True] = True


class Archived(msgspec.Struct, frozen=True):
    thread_id: str
    archived_at: str
    ok: Literal[True] = True


class ThreadTrashed(msgspec.Struct, frozen=True):
    thread_id: str
    trashed_at: str
    ok: Literal[True] = True


class MessageDone(msgspec.Struct, frozen=True):
    message_id: str
    ok: Literal[True] = True


class MessageTrashed(msgspec.Struct, frozen=True):
    message_id: str
    trashed_at: str
    ok: Literal[True] = True


def mark_of(text: str | None) -> Mark:
    """The place that `next` named. Raises Fault 400."""
    if text is None:
        return Mark()
    moment, space, name = text.partition(" ")
    if not space or not name:
        raise Fault(400, "after must be the `next` of a page")
    return Mark(moment, name)


async def _whole(
    request: Request, portion: Callable[[Connection, Mark, int], list[T]], mark: Callable[[T], Mark]
) -> list[T]:
    """All of a list, read in portions."""
    found: list[T] = []
    after = Mark()
    while True:
        some = await store_of(request).read(lambda c, after=after: portion(c, after, PORTION))  # type: ignore[misc]
        found += some
        if len(some) < PORTION:
            return found
        after = mark(some[-1])


async def _listed(
    request: Request,
    asked: tuple[int | None, str | None],
    portion: Callable[[Connection, Mark, int], list[T]],
    mark: Callable[[T], Mark],
    page: Callable[[list[T], str | None], object],
) -> Response:
    """All of a list, or where `asked` (limit, after) says so a page of it, with the place that its last row is at."""
    limit, after = asked
    if limit is None and after is None:
        return answer(await _whole(request, portion, mark))
    begin, most = mark_of(after), limit or PORTION
    some = await store_of(request).read(lambda c: portion(c, begin, most + 1))
    last = mark(some[most - 1]) if len(some) > most else None
    return answer(page(some[:most], f"{last.moment} {last.id}" if last is not None else None))


@router.get(
    "/threads/summary",
    summary="The threads, one line each",
    responses={200: described(list[Summary], ThreadPage), **refusals(400, 401, 422, 503)},
    response_class=Response,
)
async def list_threads(
    request: Request,
    person: AsPerson,
    archived: Annotated[bool, Query(description="Those in the archive")] = False,  # noqa: FBT002
    trashed: Annotated[bool, Query(description="Those in the trash")] = False,  # noqa: FBT002
    limit: Limit = None,
    after: After = None,
) -> Response:
    """The one with the newest mail first; neither archived nor in the trash unless asked for."""
    if archived and trashed:
        raise Fault(400, "Use only one of archived=true or trashed=true.")
    shelf = Shelf.ARCHIVE if archived else Shelf.TRASH if trashed else Shelf.OPEN

    def portion(connection: Connection, begin: Mark, most: int) -> list[Summary]:
        return summaries(connection, person.user_id, shelf, begin, most)

    return await _listed(
        request, (limit, after), portion, lambda one: Mark(one.last_activity, one.thread_id), ThreadPage
    )


async def _thread(request: Request, person: AsPerson, thread_id: str) -> Thread:
    return await store_of(request).read(lambda c: find_thread(c, person.user_id, thread_id))


def _since(thread: Thread, shelf: Shelf) -> str | None:
    return thread.shelved_at if thread.shelf is shelf else None


@router.get(
    "/threads/{thread_id:path}/status",
    summary="Where a thread is",
    responses={200: described(ThreadStatus), **refusals(401, 404, 503)},
    response_class=Response,
)
async def status(request: Request, thread_id: str, person: AsPerson) -> Response:
    """Whether it is archived, or in the trash, and since when."""
    thread = await _thread(request, person, thread_id)
    archived_at, trashed_at = _since(thread, Shelf.ARCHIVE), _since(thread, Shelf.TRASH)
    return answer(ThreadStatus(archived_at is not None, trashed_at is not None, archived_at, trashed_at))


@router.get(
    "/threads/{thread_id:path}/archive",
    summary="Whether a thread is archived",
    responses={200: described(ArchiveStatus), **refusals(401, 404, 503)},
    response_class=Response,
)
async def archive_status(request: Request, thread_id: str, person: AsPerson) -> Response:
    """And since when."""
    archived_at = _since(await _thread(request, person, thread_id), Shelf.ARCHIVE)
    return answer(ArchiveStatus(archived_at is not None, archived_at))


@router.post(
    "/threads/{thread_id:path}/archive",
    summary="Archive a thread",
    responses={200: described(Archived), **refusals(400, 401, 404, 503)},
    response_class=Response,
)
async def archive(request: Request, thread_id: str, person: AsPerson) -> Response:
    """Its mail leaves the inboxes, unread mail too, until `unarchive`; new mail in it opens it again."""
    moment = await store_of(request).write(lambda c: put_away(c, person.user_id, thread_id, Shelf.ARCHIVE))
    return answer(Archived(thread_id, moment))


@router.post(
    "/threads/{thread_id:path}/unarchive",
    summary="Take a thread out of the archive",
    responses={200: described(ThreadDone), **refusals(401, 404, 503)},
    response_class=Response,
)
async def unarchive(request: Request, thread_id: str, person: AsPerson) -> Response:
    """Its mail is in the inboxes again; what is unread in new places, so that it is found."""
    return await _brought_back(request, person, thread_id, Shelf.ARCHIVE)


@router.post(
    "/threads/{thread_id:path}/trash",
    summary="Move a thread to the trash",
    responses={200: described(ThreadTrashed), **refusals(400, 401, 404, 503)},
    response_class=Response,
)
async def trash(request: Request, thread_id: str, person: AsPerson) -> Response:
    """Its mail leaves the inboxes, unread mail too, until `restore`."""
    moment = await store_of(request).write(lambda c: put_away(c, person.user_id, thread_id, Shelf.TRASH))
    return answer(ThreadTrashed(thread_id, moment))


@router.post(
    "/threads/{thread_id:path}/restore",
    summary="Take a thread out of the trash",
    responses={200: described(ThreadDone), **refusals(401, 404, 503)},
    response_class=Response,
)
async def restore(request: Request, thread_id: str, person: AsPerson) -> Response:
    """As `unarchive`."""
    return await _brought_back(request, person, thread_id, Shelf.TRASH)


async def _brought_back(request: Request, person: AsPerson, thread_id: str, shelf: Shelf) -> Response:
    arrivals = await store_of(request).write(lambda c: bring_back(c, person.user_id, thread_id, shelf))
    streams_of(request).arrived(arrivals)
    return answer(ThreadDone(thread_id))


@router.post(
    "/threads/{thread_id:path}/purge",
    summary="Delete a thread for good",
    responses={200: described(ThreadDone), **refusals(400, 401, 404, 503)},
    response_class=Response,
)
async def purge(request: Request, thread_id: str, person: AsPerson) -> Response:
    """Only one that is in the trash. Subjects, bodies, attachments and receipts are gone; ids are never used again."""
    await store_of(request).write(lambda c: erase_thread(c, person.user_id, thread_id))
    return answer(ThreadDone(thread_id))


@router.get(
    "/trash/messages",
    summary="The messages in the trash",
    responses={200: described(list[Trashed], TrashPage), **refusals(400, 401, 422, 503)},
    response_class=Response,
)
async def list_trash(request: Request, person: AsPerson, limit: Limit = None, after: After = None) -> Response:
    """Those that were put there one by one, the last one first."""

    def portion(connection: Connection, begin: Mark, most: int) -> list[Trashed]:
        return trashed(connection, person.user_id, begin, most)

    return await _listed(request, (limit, after), portion, lambda one: Mark(one.trashed_at, one.message_id), TrashPage)


@router.get(
    "/trash/messages/{trashed_id}",
    summary="One message in the trash",
    responses={200: described(TrashedWhole), **refusals(401, 404, 503)},
    response_class=Response,
)
async def show_trashed(request: Request, trashed_id: str, person: AsPerson) -> Response:
    """Whole, and since when it is there."""
    found = await store_of(request).read(lambda c: find_trashed(c, person.user_id, trashed_id))
    await rendered((found.message,))
    return answer(found)


@router.post(
    "/messages/{message_id}/trash",
    summary="Move a message to the trash",
    responses={200: described(MessageTrashed), **refusals(400, 401, 404, 503)},
    response_class=Response,
)
async def trash_one(request: Request, message_id: str, person: AsPerson) -> Response:
    """One that nobody has answered."""
    moment = await store_of(request).write(lambda c: trash_message(c, person.user_id, message_id))
    return answer(MessageTrashed(message_id, moment))


@router.post(
    "/messages/{message_id}/restore",
    summary="Take a message out of the trash",
    responses={200: described(MessageDone), **refusals(401, 404, 503)},
    response_class=Response,
)
async def restore_one(request: Request, message_id: str, person: AsPerson) -> Response:
    """It is in its inbox again, unless its thread is archived."""
    arrivals = await store_of(request).write(lambda c: restore_message(c, person.user_id, message_id))
    streams_of(request).arrived(arrivals)
    return answer(MessageDone(message_id))


@router.post(
    "/messages/{message_id}/purge",
    summary="Delete a message for good",
    responses={200: described(MessageDone), **refusals(400, 401, 404, 503)},
    response_class=Response,
)
async def purge_one(request: Request, message_id: str, person: AsPerson) -> Response:
    """Only one that is in the trash, and that nobody has answered."""
    await store_of(request).write(lambda c: erase_message(c, person.user_id, message_id))
    return answer(MessageDone(message_id))
