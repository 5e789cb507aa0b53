"""The messages' routes: send, inbox, thread, one message, read and unread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute

from agent_mailer.broker.answers import Responses, answer, described, encode, refusals
from agent_mailer.broker.callers import AsAgent, agent_caller, directory_of, owned_inbox, settings_of, store_of
from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.changing import Changes, Locked, changed
from agent_mailer.broker.messages.forms import (
    SendForm,
    documented,
    read_form,
)
from agent_mailer.broker.messages.requested import submission_of
from agent_mailer.broker.messages.rows import mark_read, mark_unread
from agent_mailer.broker.messages.sending import send_all
from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.messages.waiting import heads as heads_of
from agent_mailer.broker.messages.wire import Listing, Message, Page, rendered
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.watchers import EPOCH_HEADER

router = APIRouter(prefix="/messages", tags=["messages"])

LARGEST_NUMBER = 2**63 - 1
Before = Annotated[
    int | None, Query(ge=1, le=LARGEST_NUMBER, description="What is older than this cursor, newest first")
]
Limit = Annotated[int, Query(ge=1, le=1000)]
Html = Annotated[bool, Query(description="false: without `body_html`")]
SENT: Responses = {
    200: described(Message, list[Message], description="One message; a list unless there is exactly one recipient")
}


FAILED = "agent_mailer.failed"
"""Of a scope: why storing what it asks for has failed already."""


class _StraightRoute(APIRoute):
    """Without a query a request has nothing that FastAPI would have to look at: what all mail comes by goes past it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = super().get_route_handler()

        async def straight(request: Request) -> Response:
            if request.scope["query_string"]:
                return await usual(request)
            if FAILED in request.scope:
                raise cast(Exception, request.scope[FAILED])
            return await send(request, await agent_caller(request))

        return straight


by_send = APIRouter(prefix="/messages", tags=["messages"], route_class=_StraightRoute)


@by_send.post(
    "/send",
    summary="Send, reply or forward",
    openapi_extra=documented(SendForm, EPOCH_HEADER),
    responses={**SENT, **refusals(400, 401, 403, 404, 409, 413, 422, 429, 503)},
    response_class=Response,
)
async def send(request: Request, caller: AsAgent, html: Html = True) -> Response:  # noqa: FBT002
    """Store a message for each recipient, all of them or none."""
    form = await read_form(request, SendForm)
    agent = await owned_inbox(request, caller, form.agent_id, form.from_agent)
    submission = submission_of(
        request,
        form,
        sender=(caller.user_id, agent.id, agent.address),
        bound=caller.agent_id is not None,
    )
    return await deliver(request, submission, html=html)


async def deliver(request: Request, submission: Submission, *, html: bool) -> Response:
    """Store it, wake those who wait for it, and answer. Raises Fault."""
    sent = await store_of(request).write_each(send_all, submission)
    streams_of(request).arrived(sent.arrivals)
    found = await rendered(sent.messages) if html else sent.messages
    headers = {"Idempotency-Replayed": "true"} if sent.replayed else None
    return answer(found[0] if len(found) == 1 else found, headers=headers)


@router.get(
    "/inbox/{address}",
    summary="What is in an inbox",
    responses={
        200: described(
            list[Message],
            Page,
            Listing,
            description="All of it, oldest first; a page, newest first (`page`); what comes after a cursor (`after`),"
            " or before one, newest first (`before`); what of each thread comes next (`heads`)",
        ),
        **refusals(401, 403, 404, 422, 503),
    },
    response_class=Response,
)
async def list_inbox(
    request: Request,
    address: str,
    caller: AsAgent,
    agent_id: Annotated[str, Query()],
    all: Annotated[bool, Query(description="Read messages, too")] = False,  # noqa: FBT002
    page: Annotated[int | None, Query(ge=1)] = None,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int | None, Query(ge=0, le=LARGEST_NUMBER)] = None,
    before: Before = None,
    limit: Limit = 100,
    bodies: Annotated[bool, Query(description="false: without body, body_html and attachments")] = True,  # noqa: FBT002
    claimed: Annotated[bool, Query(description="false: without what a watcher has claimed")] = True,  # noqa: FBT002
    heads: Annotated[  # noqa: FBT002
        bool, Query(description="At most `limit` of what waits: each thread's oldest and most urgent, without bodies")
    ] = False,
    html: Html = True,  # noqa: FBT002
) -> Response:
    """Unread messages (`all`: read ones, too). The agent counts as online for a minute."""
    agent = await owned_inbox(request, caller, agent_id, address)
    directory_of(request).seen(agent.id)
    store = store_of(request)
    if heads:
        since = inbox.claims_since(settings_of(request).claim_seconds)
        return answer(await store.read(lambda c: heads_of(c, agent.id, limit, since)))
    box = inbox.Inbox(agent.user_id, agent.id, all)
    if after is not None:
        since = inbox.claims_since(settings_of(request).claim_seconds)
        found = await inbox.listing(store, box, inbox.CursorQuery(after, limit, bodies, not claimed, since))
        if bodies and html:
            await rendered([message for message in found.messages if isinstance(message, Message)])
        return answer(found)
    if before is not None:
        return await before_cursor(request, box, before, limit, html=html)
    if page is not None:
        return await page_of(request, box, page, page_size, html=html)
    return await json_list(inbox.whole_inbox(store, box), html=html)


async def page_of(request: Request, box: inbox.Inbox, number: int, size: int, *, html: bool) -> Response:
    found = await inbox.page(store_of(request), box, number, size)
    if html:
        await rendered(found.messages)
    return answer(found)


async def before_cursor(request: Request, box: inbox.Inbox, before: int, limit: int, *, html: bool) -> Response:
    found = await inbox.earlier(store_of(request), box, before, limit)
    if html:
        await rendered([message for message in found.messages if isinstance(message, Message)])
    return answer(found)


async def json_list(portions: AsyncIterator[Sequence[Message]], *, html: bool) -> Response:
    """A JSON list, written while it is read where it does not fit in one portion."""
    # Not `anext(portions, ())`: Python 3.11 takes an empty tuple for the arguments of an exception.
    first = await anext(portions, None) or []
    second = await anext(portions, None)
    if html:
        await rendered(first)
    if second is None:
        return answer(first)
    start: list[Sequence[Message]] = [first, second]

    async def pieces() -> AsyncIterator[bytes]:
        mark = b"["
        # Of what a portion was to hold all may have been marked as read since the one before it was read.
        for portion in filter(None, start):
            yield mark + await _joined(portion, html=html)
            mark = b","
        start.clear()
        async for portion in portions:
            if portion:
                yield mark + await _joined(portion, html=html)
                mark = b","
        yield b"]" if mark == b"," else b"[]"

    return StreamingResponse(pieces(), media_type="application/json")


async def _joined(portion: Sequence[Message], *, html: bool) -> bytes:
    if html:
        await rendered(portion)
    return b",".join(encode(message) for message in portion)


@router.get(
    "/thread/{thread_id:path}",
    summary="All messages of a thread",
    responses={200: described(list[Message]), **refusals(401, 404, 503)},
    response_class=Response,
)
async def list_thread(request: Request, thread_id: str, caller: AsAgent, html: Html = True) -> Response:  # noqa: FBT002
    """Oldest first."""
    return await thread_of(request, caller.user_id, thread_id, caller.agent_id, html=html)


async def thread_of(
    request: Request, user_id: str, thread_id: str, agent_id: str | None = None, *, html: bool
) -> Response:
    """`agent_id`: only if that agent takes part in it. Raises Fault 404."""
    store = store_of(request)
    ids = await inbox.thread(store, user_id, thread_id, agent_id)
    if ids is None:
        raise Fault(404, "Thread not found")
    return await json_list(inbox.by_id(store, user_id, ids), html=html)


@router.get(
    "/{message_id}",
    summary="One message",
    responses={200: described(Message), **refusals(401, 404, 503)},
    response_class=Response,
)
async def one_message(request: Request, message_id: str, caller: AsAgent, html: Html = True) -> Response:  # noqa: FBT002
    """That message."""
    found = await inbox.one(store_of(request), caller.user_id, message_id, caller.agent_id)
    if found is None:
        raise Fault(404, "Message not found")
    return await whole(found, html=html)


async def whole(message: Message, *, html: bool = True) -> Response:
    if html:
        await rendered((message,))
    return answer(message)


@router.patch(
    "/{message_id}/read",
    summary="Mark as read",
    responses={200: described(Message), **refusals(401, 403, 404, 503)},
    response_class=Response,
)
async def read(request: Request, message_id: str, caller: AsAgent, html: Html = True) -> Response:  # noqa: FBT002
    """The message as it is then."""
    return await marked_read(request, caller, message_id, html=html)


def anyones(_locked: Locked) -> None:
    """Whoever may act for its recipient may change it."""


async def marked_read(
    request: Request,
    caller: AgentCaller,
    message_id: str,
    check: Callable[[Locked], None] = anyones,
    *,
    html: bool,
) -> Response:
    """`check` raises Fault where the message is not the caller's to mark."""

    def make(changes: Changes, locked: Locked) -> Message:
        check(locked)
        return mark_read(changes, locked)

    return await whole(await changed(store_of(request), caller, message_id, make), html=html)


@router.patch(
    "/{message_id}/unread",
    summary="Mark as unread",
    responses={200: described(Message), **refusals(401, 403, 404, 503)},
    response_class=Response,
)
async def unread(request: Request, message_id: str, caller: AsAgent, html: Html = True) -> Response:  # noqa: FBT002
    """The message as it is then: at the end of the inbox, and unclaimed."""
    return await marked_unread(request, caller, message_id, html=html)


async def marked_unread(
    request: Request,
    caller: AgentCaller,
    message_id: str,
    check: Callable[[Locked], None] = anyones,
    *,
    html: bool,
) -> Response:
    """As `marked_read`; the recipient is woken."""

    def make(changes: Changes, locked: Locked) -> tuple[str, Message]:
        check(locked)
        return locked.agent_id, mark_unread(changes, locked)

    agent_id, message = await changed(store_of(request), caller, message_id, make)
    if message.cursor > 0:
        streams_of(request).arrived([(agent_id, message.cursor)])
    return await whole(message, html=html)
