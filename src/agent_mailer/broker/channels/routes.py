"""The channels' routes: agents open, join, talk and close by key; a person looks, lets them go on, or closes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import Connection

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsAgent, AsPerson, PersonCaller, own_agent, settings_of, store_of
from agent_mailer.broker.channels import rows
from agent_mailer.broker.channels.rows import Channel, Said
from agent_mailer.broker.directory import AgentRow
from agent_mailer.broker.messages.sending import send_all
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.broker.messages.wire import body_html
from agent_mailer.broker.operator import operator_of
from agent_mailer.broker.protocol import NO_NUL, ONE_LINE, Fault, Reference
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.threads.routes import After, Limit, mark_of

router = APIRouter(prefix="/channels", tags=["channels"])
admin_router = APIRouter(prefix="/admin/channels", tags=["channels"])

LONGEST_BODY = 8_192
"""Bytes of UTF-8."""
LARGEST_NUMBER = 2**31 - 1


def _short(text: str) -> str:
    if len(text.encode()) > LONGEST_BODY:
        raise ValueError(f"at most {LONGEST_BODY} bytes of UTF-8")
    return text


Text = Annotated[str, Field(max_length=LONGEST_BODY, pattern=NO_NUL), AfterValidator(_short)]
Reason = Annotated[str, Field(max_length=200, pattern=ONE_LINE)]
Since = Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="Only what was said after that number")]


class ChannelPage(msgspec.Struct, frozen=True):
    """`next`: the `after` of the page that follows; null where there is none."""

    channels: list[Channel]
    next: str | None


class OpenForm(BaseModel):
    agent_id: Reference
    initial_prompt: Text = ""


class JoinForm(BaseModel):
    agent_id: Reference


class SayForm(BaseModel):
    agent_id: Reference
    body: Text


class CloseForm(BaseModel):
    agent_id: Reference
    reason: Reason | None = None


class AdminCloseForm(BaseModel):
    reason: Reason | None = None


class GoOnForm(BaseModel):
    """Without either: 10 turns and 30 minutes."""

    extend_turns: Annotated[int, Field(ge=1, le=100)] | None = None
    extend_minutes: Annotated[int, Field(ge=1, le=1440)] | None = None


class Opened(msgspec.Struct, frozen=True):
    id: str
    join_token: str


class SaidShown(msgspec.Struct, frozen=True):
    seq: int
    from_agent: str
    body: str
    body_html: str
    created_at: str


class Joined(msgspec.Struct, frozen=True):
    channel: Channel
    history: list[SaidShown]


class Conversation(msgspec.Struct, frozen=True):
    channel: Channel
    messages: list[SaidShown]


class Taken(msgspec.Struct, frozen=True):
    """`status` and `turn_count` are the channel's, with this message."""

    seq: int
    status: rows.Status
    turn_count: int
    max_turns: int


def _shown(found: Sequence[Said]) -> list[SaidShown]:
    return [SaidShown(one.seq, one.from_agent, one.body, body_html(one.body), one.created_at) for one in found]


async def _acting(request: Request, caller: AsAgent, agent_id: str) -> AgentRow:
    """Raises Fault 404, 403."""
    agent = await own_agent(request, caller, agent_id)
    if agent.status == "deleted":
        raise Fault(403, "The agent is deleted: it sends and reads no more")
    return agent


@router.post(
    "",
    summary="Open a channel",
    responses={200: described(Opened), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def make(request: Request, caller: AsAgent, form: OpenForm) -> Response:
    """Whoever gets its token may join, an agent of another user, too."""
    agent = await _acting(request, caller, form.agent_id)
    made = await store_of(request).write(lambda c: rows.open_channel(c, agent.id, agent.address, form.initial_prompt))
    return answer(Opened(made.id, made.join_token))


@router.post(
    "/{token}/join",
    summary="Join a channel",
    responses={200: described(Joined), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def join(request: Request, caller: AsAgent, token: str, form: JoinForm) -> Response:
    """The channel, and what was said; it has room for two."""
    agent = await _acting(request, caller, form.agent_id)

    def work(connection: Connection) -> tuple[Channel, list[Said]]:
        channel = rows.join(connection, token, agent.id, agent.address)
        return channel, rows.history(connection, channel.id)

    channel, said = await store_of(request).write(work)
    return answer(Joined(channel, _shown(said)))


@router.post(
    "/{token}/messages",
    summary="Say something in a channel",
    responses={200: described(Taken), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def say(request: Request, caller: AsAgent, token: str, form: SayForm) -> Response:
    """After so many turns a person has to let it go on."""
    agent = await _acting(request, caller, form.agent_id)
    seq, channel = await store_of(request).write(lambda c: rows.say(c, token, agent.id, agent.address, form.body))
    return answer(Taken(seq, channel.status, channel.turn_count, channel.max_turns))


@router.get(
    "/{token}/messages",
    summary="What was said in a channel",
    responses={200: described(Conversation), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def listed(
    request: Request, caller: AsAgent, token: str, agent_id: Annotated[str, Query()], since_seq: Since = 0
) -> Response:
    """For its members; oldest first."""
    agent = await _acting(request, caller, agent_id)
    return await _told(request, lambda c: rows.channel_of_member(c, token, agent.id), since_seq)


@router.get(
    "/{token}",
    summary="A channel",
    responses={200: described(Channel), **refusals(401, 403, 404, 422, 503)},
    response_class=Response,
)
async def one(request: Request, caller: AsAgent, token: str, agent_id: Annotated[str, Query()]) -> Response:
    """For its members."""
    agent = await _acting(request, caller, agent_id)
    return answer(await store_of(request).read(lambda c: rows.channel_of_member(c, token, agent.id)))


@router.post(
    "/{token}/close",
    summary="Close a channel",
    responses={200: described(Channel), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def close(request: Request, caller: AsAgent, token: str, form: CloseForm) -> Response:
    """For good, by a member; the operators of both agents get mail of it."""
    agent = await _acting(request, caller, form.agent_id)
    return await _closed(request, lambda c: rows.channel_of_member(c, token, agent.id, to_change=True), form.reason)


async def _told(request: Request, find: Callable[[Connection], Channel], since_seq: int) -> Response:
    def work(connection: Connection) -> tuple[Channel, list[Said]]:
        channel = find(connection)
        return channel, rows.history(connection, channel.id, since_seq)

    channel, said = await store_of(request).read(work)
    return answer(Conversation(channel, _shown(said)))


async def _closed(request: Request, find: Callable[[Connection], Channel], reason: str | None) -> Response:
    channel = await store_of(request).write(lambda c: rows.close(c, find(c), reason or "human"))
    # Also where it was closed before: whoever did so may have ended before all were told.
    for owner in await store_of(request).read(lambda c: rows.owners_of(c, channel.id)):
        await _tell(request, owner, channel)
    return answer(channel)


async def _tell(request: Request, owner: rows.Owner, channel: Channel) -> None:
    person = PersonCaller(owner.user_id, owner.username, is_superadmin=False)
    operator = await operator_of(request, person)
    body = (
        f"The channel of `{channel.creator_agent}` is closed.\n\n- why: {channel.close_reason}\n"
        f"- turns: {channel.turn_count} of {channel.max_turns}\n- id: {channel.id}\n"
    )
    new = NewMessage(
        from_agent=operator.address,
        to=(operator.address,),
        subject="A channel is closed",
        body=body,
        automatic="notice",
    )
    settings = settings_of(request)
    # Under a key: whoever closes it again, at whatever process, tells nobody twice.
    submission = Submission(
        new,
        owner.user_id,
        operator.agent_id,
        bound=False,
        key=f"channel-closed:{channel.id}",
        longest=settings.max_body_bytes,
    )
    sent = await store_of(request).write_each(send_all, submission)
    streams_of(request).arrived(sent.arrivals)


@admin_router.get(
    "",
    summary="The channels of a person's agents",
    responses={200: described(list[Channel] | ChannelPage), **refusals(400, 401, 422, 503)},
    response_class=Response,
)
async def admin_listed(request: Request, person: AsPerson, limit: Limit = None, after: After = None) -> Response:
    """The newest first: the newest 500, or where `limit` or `after` is given a page, with what leads to the next."""
    if limit is None and after is None:
        return answer(await store_of(request).read(lambda c: rows.channels_of(c, person.user_id)))
    begin, most = mark_of(after), limit or rows.MOST_LISTED
    found = await store_of(request).read(lambda c: rows.channels_of(c, person.user_id, begin, most + 1))
    last = found[most - 1] if len(found) > most else None
    return answer(ChannelPage(found[:most], f"{last.created_at} {last.id}" if last is not None else None))


@admin_router.get(
    "/{token}",
    summary="A channel and what was said in it",
    responses={200: described(Conversation), **refusals(401, 404, 422, 503)},
    response_class=Response,
)
async def admin_one(request: Request, person: AsPerson, token: str, since_seq: Since = 0) -> Response:
    """Where an agent of this person is."""
    return await _told(request, lambda c: rows.channel_of_owner(c, token, person.user_id), since_seq)


@admin_router.post(
    "/{token}/close",
    summary="Close a channel, as a person",
    responses={200: described(Channel), **refusals(401, 404, 409, 422, 503)},
    response_class=Response,
)
async def admin_close(request: Request, person: AsPerson, token: str, form: AdminCloseForm | None = None) -> Response:
    """For good."""
    reason = form.reason if form else None
    return await _closed(request, lambda c: rows.channel_of_owner(c, token, person.user_id, to_change=True), reason)


@admin_router.post(
    "/{token}/continue",
    summary="Let a channel go on",
    responses={200: described(Channel), **refusals(401, 404, 409, 422, 503)},
    response_class=Response,
)
async def admin_continue(request: Request, person: AsPerson, token: str, form: GoOnForm | None = None) -> Response:
    """One that waits for a person; no agent can do that."""
    asked = form or GoOnForm()

    def work(connection: Connection) -> Channel:
        channel = rows.channel_of_owner(connection, token, person.user_id, to_change=True)
        return rows.go_on(connection, channel, asked.extend_turns, asked.extend_minutes)

    return answer(await store_of(request).write(work))
