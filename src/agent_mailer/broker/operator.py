"""The mailbox of the person behind the agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from agent_mailer.broker.agents.rows import add_operator, operator_id, require_team
from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsAgent, AsPerson, PersonCaller, directory_of, settings_of, store_of
from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.changing import Locked, changed
from agent_mailer.broker.messages.forms import OperatorForm, documented, read_form
from agent_mailer.broker.messages.requested import submission_of
from agent_mailer.broker.messages.routes import (
    LARGEST_NUMBER,
    SENT,
    Before,
    Html,
    Limit,
    before_cursor,
    deliver,
    json_list,
    marked_read,
    marked_unread,
    page_of,
    thread_of,
)
from agent_mailer.broker.messages.rows import mark_read
from agent_mailer.broker.messages.wire import Listing, Message, Page
from agent_mailer.broker.protocol import Fault, Reference

router = APIRouter(prefix="/admin", tags=["operator"])
by_key = APIRouter(tags=["extensions"])


class Operator(msgspec.Struct, frozen=True):
    """The agent under whose name a person writes."""

    agent_id: str
    address: str


async def operator_of(request: Request, person: PersonCaller | AgentCaller) -> Operator:
    """The operator of the person whose login or key this is, made at the first call. Raises Fault 409."""
    known = await directory_of(request).agent(operator_id(person.user_id))
    if known is not None:
        return Operator(known.id, known.address)
    domain = settings_of(request).domain
    made = await store_of(request).write(lambda c: add_operator(c, person.user_id, person.username, domain))
    directory_of(request).forget()
    return Operator(made.id, made.address)


@router.get(
    "/human-operator",
    summary="Who the operator is",
    responses={200: described(Operator), **refusals(401, 409, 503)},
    response_class=Response,
)
async def human_operator(request: Request, person: AsPerson) -> Response:
    """The agent under whose name this person writes."""
    return answer(await operator_of(request, person))


@by_key.post(
    "/agents/operator",
    summary="The operator, by key",
    responses={200: described(Operator), **refusals(401, 403, 409, 503)},
    response_class=Response,
)
async def operator_by_key(request: Request, caller: AsAgent) -> Response:
    """The same for a key that acts for every agent of its user; so a person needs no login to send mail."""
    if caller.agent_id is not None:
        raise Fault(403, "This API key may act for another agent only")
    return answer(await operator_of(request, caller))


@router.post(
    "/messages/send",
    summary="Send as the operator",
    openapi_extra=documented(OperatorForm),
    responses={**SENT, **refusals(400, 401, 403, 404, 409, 413, 422, 429, 503)},
    response_class=Response,
)
async def send(request: Request, person: AsPerson, html: Html = True) -> Response:  # noqa: FBT002
    """As agents do."""
    form = await read_form(request, OperatorForm)
    operator = await operator_of(request, person)
    submission = submission_of(
        request,
        form,
        sender=(person.user_id, operator.agent_id, operator.address),
        bound=False,
    )
    return await deliver(request, submission, html=html)


@router.get(
    "/messages/inbox/{address}",
    summary="What is in an agent's inbox",
    responses={
        200: described(
            list[Message], Page, Listing, description="Newest first; a page of it (`page`); older ones (`before`)"
        ),
        **refusals(400, 401, 404, 422, 503),
    },
    response_class=Response,
)
async def list_inbox(
    request: Request,
    address: str,
    person: AsPerson,
    all: Annotated[bool, Query(description="Read messages, too")] = False,  # noqa: FBT002
    page: Annotated[int | None, Query(ge=1)] = None,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Before = None,
    limit: Limit = 100,
    from_team_id: Annotated[Reference | None, Query(description="Only what agents of this team have written")] = None,
    html: Html = True,  # noqa: FBT002
) -> Response:
    """Of any agent of this person."""
    agent = await directory_of(request).by_address(address)
    if agent is None or agent.user_id != person.user_id:
        raise Fault(404, "Address not found")
    if from_team_id:
        await store_of(request).read(lambda c: require_team(c, person.user_id, from_team_id))
    box = inbox.Inbox(person.user_id, agent.id, all, from_team_id or "")
    if before is not None:
        return await before_cursor(request, box, before, limit, html=html)
    if page is not None:
        return await page_of(request, box, page, page_size, html=html)
    return await json_list(inbox.whole_inbox(store_of(request), box, newest_first=True), html=html)


class AllRead(msgspec.Struct, frozen=True):
    """`marked`: how many were unread."""

    address: str
    marked: int
    ok: Literal[True] = True


class UptoForm(BaseModel):
    """`upto`: the `cursor` of the newest message that is meant; without it whatever there is now."""

    upto: Annotated[int, Field(ge=0, le=LARGEST_NUMBER)] | None = None


@router.post(
    "/messages/inbox/{address}/read-all",
    summary="Mark all of the operator's mail as read",
    responses={200: described(AllRead), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def read_all(request: Request, address: str, person: AsPerson, form: UptoForm) -> Response:
    """What comes meanwhile stays unread. An agent's inbox is its watcher's to mark."""
    agent = await directory_of(request).by_address(address)
    if agent is None or agent.user_id != person.user_id:
        raise Fault(404, "Address not found")
    if agent.id != operator_id(person.user_id):
        raise Fault(403, "This inbox is an agent's, and its watcher marks it")
    store, caller = store_of(request), AgentCaller(person.user_id, person.username, "", None)
    marked = 0
    async for ids in inbox.unread_upto(store, agent.id, form.upto):
        await asyncio.gather(*(changed(store, caller, name, mark_read) for name in ids))
        marked += len(ids)
    return answer(AllRead(address, marked))


@router.get(
    "/messages/thread/{thread_id:path}",
    summary="All messages of a thread",
    responses={200: described(list[Message]), **refusals(401, 404, 503)},
    response_class=Response,
)
async def list_thread(request: Request, thread_id: str, person: AsPerson, html: Html = True) -> Response:  # noqa: FBT002
    """Oldest first; of any thread of this person's agents."""
    return await thread_of(request, person.user_id, thread_id, html=html)


@router.patch(
    "/messages/{message_id}/read",
    summary="Mark the operator's mail as read",
    responses={200: described(Message), **refusals(401, 403, 404, 503)},
    response_class=Response,
)
async def read(request: Request, message_id: str, person: AsPerson, html: Html = True) -> Response:  # noqa: FBT002
    """The message as it is then. What was written to an agent is the agent's to mark."""
    return await marked_read(request, *_of_operator(person, message_id), html=html)


@router.patch(
    "/messages/{message_id}/unread",
    summary="Mark the operator's mail as unread",
    responses={200: described(Message), **refusals(401, 403, 404, 503)},
    response_class=Response,
)
async def unread(request: Request, message_id: str, person: AsPerson, html: Html = True) -> Response:  # noqa: FBT002
    """The message as it is then: at the end of the inbox."""
    return await marked_unread(request, *_of_operator(person, message_id), html=html)


def _of_operator(person: PersonCaller, message_id: str) -> tuple[AgentCaller, str, Callable[[Locked], None]]:
    """Who marks which message, and what makes sure that it is one to the operator."""

    def check(locked: Locked) -> None:
        if locked.agent_id != operator_id(person.user_id):
            raise Fault(403, "This message is an agent's, and its watcher marks it")

    return AgentCaller(person.user_id, person.username, "", None), message_id, check
