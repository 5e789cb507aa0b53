"""Channels as rows. Whoever knows a channel's token may join it, of whatever user; two agents are all that fit.

Time ends a channel's turn by itself: nobody has to write that down, everybody sees it.
"""

from __future__ import annotations

import secrets
import string
from datetime import timedelta
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, literal, select, tuple_, update

from agent_mailer.broker.protocol import CLOCK, Fault, now_text
from agent_mailer.broker.tables import agents, channel_members, channel_messages, channels, users
from agent_mailer.broker.threads.rows import Mark
from agent_mailer.broker.users.rows import new_id

TURNS, MINUTES = 10, 30
"""Before a person has to say that they go on; and what they get then."""
MOST_MEMBERS = 2
MOST_LISTED = 500
NEWEST = Mark()
_TOKEN_SIGNS = string.ascii_letters + string.digits
_TOKEN_LENGTH = 22


class Status(StrEnum):
    OPEN = "open"
    PENDING = "pending_human"
    CLOSED = "closed"


class Member(msgspec.Struct, frozen=True):
    agent_address: str
    role: str
    joined_at: str


class Channel(msgspec.Struct, frozen=True):
    """As it is now."""

    id: str
    join_token: str
    creator_agent: str
    initial_prompt: str
    status: Status
    max_turns: int
    turn_count: int
    ttl_expires_at: str
    created_at: str
    closed_at: str | None
    close_reason: str | None
    members: list[Member]


class Owner(msgspec.Struct, frozen=True):
    """A user with an agent in a channel."""

    user_id: str
    username: str


class Said(msgspec.Struct, frozen=True):
    seq: int
    from_agent: str
    body: str
    created_at: str


_c, _p, _s = channels.c, channel_members.c, channel_messages.c
_CHANNEL = select(
    *(_c.id, _c.join_token, _c.creator_agent, _c.initial_prompt, _c.status, _c.max_turns, _c.turn_count),
    *(_c.ttl_expires_at, _c.created_at, _c.closed_at, _c.close_reason),
)


def open_channel(connection: Connection, agent_id: str, address: str, prompt: str) -> Channel:
    """With that agent as its first member."""
    now = now_text()
    token = "".join(secrets.choice(_TOKEN_SIGNS) for _ in range(_TOKEN_LENGTH))
    fields = {
        "id": new_id(),
        "join_token": token,
        "creator_agent": address,
        "initial_prompt": prompt,
        "status": Status.OPEN,
        "max_turns": TURNS,
        "turn_count": 0,
        "ttl_expires_at": _in_minutes(MINUTES),
        "created_at": now,
    }
    connection.execute(insert(channels).values(**fields))
    _add_member(connection, str(fields["id"]), agent_id, address, "creator")
    return find_channel(connection, token)


def find_channel(connection: Connection, token: str, *, to_change: bool = False) -> Channel:
    """Raises Fault 404. `to_change`: whoever else changes it waits until this transaction ends."""
    wanted = _CHANNEL.where(_c.join_token == token)
    row = connection.execute(wanted.with_for_update() if to_change else wanted).first()
    if row is None:
        raise Fault(404, "Channel not found")
    return _channel(connection, row)


def channel_of_member(connection: Connection, token: str, agent_id: str, *, to_change: bool = False) -> Channel:
    """Raises Fault 404, 403 (the agent is no member)."""
    channel = find_channel(connection, token, to_change=to_change)
    if not _is_member(connection, channel.id, agent_id):
        raise Fault(403, "Acting agent is not a member of this channel")
    return channel


def channel_of_owner(connection: Connection, token: str, user_id: str, *, to_change: bool = False) -> Channel:
    """Raises Fault 404 (unknown, or without an agent of that user)."""
    channel = find_channel(connection, token, to_change=to_change)
    if user_id not in [owner.user_id for owner in owners_of(connection, channel.id)]:
        raise Fault(404, "Channel not found")
    return channel


def channels_of(connection: Connection, user_id: str, begin: Mark = NEWEST, most: int = MOST_LISTED) -> list[Channel]:
    """Those in which an agent of that user is, the newest first, after `begin`; at most so many."""
    before = tuple_(_p.opened_at, _p.channel_id) < tuple_(literal(begin.moment), literal(begin.id))
    joined = select(_p.channel_id, _p.opened_at).where(_p.user_id == user_id, before).distinct()
    page = joined.order_by(_p.opened_at.desc(), _p.channel_id.desc()).limit(most).subquery()
    wanted = _CHANNEL.join(page, page.c.channel_id == _c.id).order_by(page.c.opened_at.desc(), page.c.channel_id.desc())
    return [_channel(connection, row) for row in connection.execute(wanted).all()]


def owners_of(connection: Connection, channel_id: str) -> list[Owner]:
    """Each once."""
    wanted = (
        select(users.c.id, users.c.username)
        .join(agents, agents.c.user_id == users.c.id)
        .join(channel_members, _p.agent_id == agents.c.id)
        .where(_p.channel_id == channel_id)
        .distinct()
        .order_by(users.c.id)
    )
    return [Owner(*row) for row in connection.execute(wanted)]


def join(connection: Connection, token: str, agent_id: str, address: str) -> Channel:
    """A second time changes nothing. Raises Fault 404, 409 (closed, not open, full)."""
    channel = find_channel(connection, token, to_change=True)
    known = _is_member(connection, channel.id, agent_id)
    if channel.status is Status.CLOSED or (channel.status is not Status.OPEN and not known):
        raise Fault(409, f"Channel is {channel.status}, cannot join")
    if known:
        return channel
    if len(channel.members) >= MOST_MEMBERS:
        raise Fault(409, f"Channel is full: it has room for {MOST_MEMBERS} agents")
    _add_member(connection, channel.id, agent_id, address, "member")
    return find_channel(connection, token)


def say(connection: Connection, token: str, agent_id: str, address: str, body: str) -> tuple[int, Channel]:
    """The number of what was said, and the channel then. Raises Fault 404, 403, 409 (not open)."""
    channel = channel_of_member(connection, token, agent_id, to_change=True)
    if channel.status is not Status.OPEN:
        raise Fault(409, f"Channel is {channel.status}; not accepting messages")
    count = channel.turn_count + 1
    said = {"channel_id": channel.id, "seq": count, "from_agent": address, "body": body, "created_at": now_text()}
    connection.execute(insert(channel_messages).values(id=new_id(), **said))
    ends = {"status": Status.PENDING, "close_reason": "max_turns"} if count >= channel.max_turns else {}
    connection.execute(update(channels).where(_c.id == channel.id).values(turn_count=count, **ends))
    return count, find_channel(connection, token)


def history(connection: Connection, channel_id: str, since: int = 0) -> list[Said]:
    """What was said after that number."""
    wanted = select(_s.seq, _s.from_agent, _s.body, _s.created_at).where(_s.channel_id == channel_id, _s.seq > since)
    return [Said(*row) for row in connection.execute(wanted.order_by(_s.seq))]


def close(connection: Connection, channel: Channel, reason: str) -> Channel:
    """For good; a second time changes nothing."""
    if channel.status is Status.CLOSED:
        return channel
    values = {"status": Status.CLOSED, "closed_at": now_text(), "close_reason": reason}
    connection.execute(update(channels).where(_c.id == channel.id).values(**values))
    return find_channel(connection, channel.join_token)


def go_on(connection: Connection, channel: Channel, turns: int | None, minutes: int | None) -> Channel:
    """Open again for so many turns and minutes more; without either `TURNS` and `MINUTES`. Raises Fault 409."""
    if channel.status is not Status.PENDING:
        raise Fault(409, f"Channel is {channel.status}; only pending_human channels can continue")
    if turns is None and minutes is None:
        turns, minutes = TURNS, MINUTES
    most = channel.max_turns + (turns or 0)
    ends = _in_minutes(minutes) if minutes else channel.ttl_expires_at
    values = {
        "status": Status.OPEN,
        "close_reason": None,
        # Whatever was asked for, it is open then.
        "max_turns": most if most > channel.turn_count else channel.turn_count + TURNS,
        "ttl_expires_at": ends if ends > now_text() else _in_minutes(MINUTES),
    }
    connection.execute(update(channels).where(_c.id == channel.id).values(**values))
    return find_channel(connection, channel.join_token)


def _channel(connection: Connection, row: Any) -> Channel:  # noqa: ANN401 - a row of _CHANNEL
    wanted = select(_p.agent_address, _p.role, _p.joined_at).where(_p.channel_id == row.id)
    members = [Member(*one) for one in connection.execute(wanted.order_by(_p.joined_at, _p.role))]
    fields = dict(row._mapping)
    if fields["status"] == Status.OPEN and fields["ttl_expires_at"] < now_text():
        fields |= {"status": Status.PENDING, "close_reason": "ttl"}
    return Channel(**{**fields, "status": Status(fields["status"])}, members=members)


def _is_member(connection: Connection, channel_id: str, agent_id: str) -> bool:
    wanted = select(_p.agent_id).where(_p.channel_id == channel_id, _p.agent_id == agent_id)
    return connection.execute(wanted).first() is not None


def _add_member(connection: Connection, channel_id: str, agent_id: str, address: str, role: str) -> None:
    values = {"channel_id": channel_id, "agent_id": agent_id, "agent_address": address, "role": role}
    places = {
        "user_id": select(agents.c.user_id).where(agents.c.id == agent_id).scalar_subquery(),
        "opened_at": select(_c.created_at).where(_c.id == channel_id).scalar_subquery(),
    }
    connection.execute(insert(channel_members).values(**values, **places, joined_at=now_text()))


def _in_minutes(minutes: int) -> str:
    return (CLOCK.now() + timedelta(minutes=minutes)).isoformat(timespec="microseconds")
