"""What is read from inboxes and threads, in portions whose cost does not depend on how much there is."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, false, func, null, or_, select

from agent_mailer.broker.database import Store
from agent_mailer.broker.messages.rows import takes_part
from agent_mailer.broker.messages.wire import (
    ENVELOPE_COLUMNS,
    MESSAGE_COLUMNS,
    Listing,
    Message,
    Page,
    envelope_of,
    message_of,
)
from agent_mailer.broker.protocol import CLOCK
from agent_mailer.broker.tables import IN_INBOX, NOT_ERASED, NOT_TRASHED, agents, messages

PORTION_CHARACTERS = 4_194_304
"""About what one portion of bodies holds."""
FIRST_PORTION = 50
SHORT_CHARACTERS = 262_144
"""Of a thread that is handed over with a claim; a longer one is asked for by itself."""
LARGEST_PORTION = 500

_m = messages.c


class Inbox(msgspec.Struct, frozen=True):
    """An inbox, whether read messages are wanted too, and of which team's agents alone (empty: of everybody)."""

    user_id: str
    agent_id: str
    read_too: bool = False
    from_team: str = ""

    @property
    def which(self) -> tuple[bool, bool]:
        return self.read_too, bool(self.from_team)


class CursorQuery(msgspec.Struct, frozen=True):
    """What a cursor listing is to hold. `unclaimed`: without what a watcher has claimed since `claims_since`."""

    after: int
    limit: int
    bodies: bool
    unclaimed: bool
    claims_since: str


def _portions(*, read_too: bool, bodies: bool = True) -> Select[Any]:
    columns = MESSAGE_COLUMNS if bodies else ENVELOPE_COLUMNS
    return (
        select(*columns)
        .where(_m.to_agent_id == bindparam("agent"), _m.user_id == bindparam("user"), *_only(read_too=read_too))
        .where(_m.seq > bindparam("after"), _m.seq <= bindparam("upto"))
        .order_by(_m.seq)
        .limit(bindparam("most"))
    )


def _only(*, read_too: bool, of_team: bool = False) -> tuple[Any, ...]:
    """Beside the inbox itself: the index that has these says how many there are and which comes after how many."""
    only: tuple[Any, ...] = () if read_too else (_m.is_read == false(),)
    if not of_team:
        return only
    of_the_team = select(agents.c.id).where(
        agents.c.team_id == bindparam("team"), agents.c.user_id == bindparam("user")
    )
    return (*only, _m.from_agent_id.in_(of_the_team))


_FREE = or_(_m.claimed_at.is_(None), _m.claimed_at < bindparam("claims_since"))
LISTINGS = {
    (read_too, bodies, unclaimed): _portions(read_too=read_too, bodies=bodies).where(*((_FREE,) if unclaimed else ()))
    for read_too in (False, True)
    for bodies in (False, True)
    for unclaimed in (False, True)
}
"""By: read ones too, with bodies, without claimed ones."""
_WHICH = [(read_too, of_team) for read_too in (False, True) for of_team in (False, True)]
"""`Inbox.which`."""
_NEWEST_FIRST = {
    (read_too, of_team): select(*MESSAGE_COLUMNS)
    .where(_m.to_agent_id == bindparam("agent"), _m.user_id == bindparam("user"))
    .where(*_only(read_too=read_too, of_team=of_team), IN_INBOX, _m.seq < bindparam("before"))
    .order_by(_m.seq.desc())
    .limit(bindparam("most"))
    for read_too, of_team in _WHICH
}
_TOTALS = {
    (read_too, False): select(agents.c.inbox_total if read_too else agents.c.inbox_unread, agents.c.inbox_seq).where(
        agents.c.id == bindparam("agent")
    )
    for read_too in (False, True)
} | {
    (read_too, True): select(func.count(), null()).where(
        _m.to_agent_id == bindparam("agent"), *_only(read_too=read_too, of_team=True), IN_INBOX
    )
    for read_too in (False, True)
}
"""And the inbox's newest number. Only what a team has written has to be counted."""
_PLACES = {
    (read_too, of_team, from_newest): select(_m.seq)
    .where(_m.to_agent_id == bindparam("agent"), *_only(read_too=read_too, of_team=of_team), IN_INBOX)
    .order_by(_m.seq.desc() if from_newest else _m.seq)
    .limit(1)
    .offset(bindparam("skip"))
    for read_too, of_team in _WHICH
    for from_newest in (False, True)
}
"""The number of the message that comes after so many."""
_NEWEST = select(agents.c.inbox_seq).where(agents.c.id == bindparam("agent"))
_UNREAD_SINCE = (
    select(func.max(_m.seq))
    .where(
        _m.to_agent_id == bindparam("agent"),
        _m.is_read == false(),
        _m.seq > bindparam("after"),
    )
    .scalar_subquery()
)
_NEWS = select(agents.c.inbox_seq, _UNREAD_SINCE).where(agents.c.id == bindparam("agent"))
_THREAD = (
    select(_m.id, _m.from_agent_id, _m.to_agent_id)
    .where(_m.user_id == bindparam("user"), _m.thread_id == bindparam("thread"), NOT_TRASHED, NOT_ERASED)
    .order_by(_m.created_at, _m.ordinal, _m.seq)
)
# By the ids and not by the user: a planner that takes the user's index reads all of that user's mail.
_SOME = select(*MESSAGE_COLUMNS).where(
    func.coalesce(_m.user_id, "") == bindparam("user"), _m.id.in_(bindparam("ids", expanding=True))
)
_ONE = select(_m.from_agent_id, _m.to_agent_id, *MESSAGE_COLUMNS).where(
    _m.id == bindparam("message"), _m.user_id == bindparam("user"), NOT_ERASED
)
_UNREAD = (
    select(_m.id)
    .where(_m.to_agent_id == bindparam("agent"), _m.is_read == false(), IN_INBOX, _m.seq <= bindparam("upto"))
    .order_by(_m.seq)
    .limit(LARGEST_PORTION)
)


class _Portions:
    """How many messages to fetch next, by how large the last ones were."""

    def __init__(self) -> None:
        self.size = FIRST_PORTION

    def saw(self, found: Sequence[Message]) -> None:
        if found:
            mean = sum(len(message.body) for message in found) // len(found) + 1
            self.size = max(4, min(LARGEST_PORTION, PORTION_CHARACTERS // mean))


async def listing(store: Store, box: Inbox, query: CursorQuery) -> Listing:
    """What comes after the cursor: at most `limit` messages, and not many more characters than a portion holds."""
    newest = await store.read(lambda c: c.execute(_NEWEST, {"agent": box.agent_id}).scalar()) or 0
    found: list[Any] = []
    after = query.after
    portions = _Portions()
    statement = LISTINGS[box.read_too, query.bodies, query.unclaimed]
    names = {"agent": box.agent_id, "user": box.user_id, "upto": newest}
    if query.unclaimed:
        names["claims_since"] = query.claims_since
    characters = 0
    while after < newest:
        most = query.limit - len(found)
        if query.bodies:
            most = min(most, portions.size)
        rows = await store.read(_all(statement, {**names, "after": after, "most": most + 1}))
        more = len(rows) > most
        taken: Sequence[Any] = [(message_of if query.bodies else envelope_of)(row) for row in rows[:most]]
        found += taken
        if not more:
            break
        after = found[-1].cursor
        if query.bodies:
            portions.saw(taken)
            characters += sum(len(message.body) for message in taken)
        if len(found) >= query.limit or characters >= PORTION_CHARACTERS:
            return Listing(found, after, more=True)
    return Listing(found, newest, more=False)


async def earlier(store: Store, box: Inbox, before: int, limit: int) -> Listing:
    """What comes before that number, newest first: at most `limit`, and not many more characters than a portion holds.

    It costs the same wherever in the inbox that is. `cursor` leads on from the last one.
    """
    found: list[Message] = []
    portions = _Portions()
    names: dict[str, Any] = {"agent": box.agent_id, "user": box.user_id, "team": box.from_team}
    characters = 0
    while len(found) < limit and characters < PORTION_CHARACTERS:
        most = min(limit - len(found), portions.size)
        rows = await store.read(_all(_NEWEST_FIRST[box.which], {**names, "before": before, "most": most + 1}))
        taken = [message_of(row) for row in rows[:most]]
        found += taken
        before = taken[-1].cursor if taken else before
        if len(rows) <= most:
            return Listing(found, before, more=False)
        portions.saw(taken)
        characters += sum(len(message.body) for message in taken)
    return Listing(found, before, more=True)


async def page(store: Store, box: Inbox, number: int, size: int) -> Page:
    """The page `number` (from 1), newest first. The first and the last cost the same however many there are; one in the
    middle does where the wanted messages have all numbers of the inbox, else it costs a walk in the index, which
    `earlier` does not.
    """
    skip = (number - 1) * size
    names: dict[str, Any] = {"agent": box.agent_id, "user": box.user_id, "most": size, "team": box.from_team}

    def work(connection: Connection) -> tuple[int, Sequence[Sequence[Any]]]:
        total, newest = connection.execute(_TOTALS[box.which], names).first() or (0, 0)
        if skip >= total:
            return total, []
        if total == newest:
            first: int | None = newest - skip
        else:
            # From the nearer end, in the index alone.
            from_newest = skip <= total // 2
            before = {**names, "skip": skip if from_newest else total - 1 - skip}
            first = connection.execute(_PLACES[(*box.which, from_newest)], before).scalar()
        if first is None:
            return total, []
        return total, connection.execute(_NEWEST_FIRST[box.which], {**names, "before": first + 1}).all()

    total, rows = await store.read(work)
    return Page([message_of(row) for row in rows], total, number, size, max(1, -(-total // size)))


async def whole_inbox(store: Store, box: Inbox, *, newest_first: bool = False) -> AsyncIterator[Sequence[Message]]:
    """Everything in the inbox, in portions."""
    newest = await store.read(lambda c: c.execute(_NEWEST, {"agent": box.agent_id}).scalar()) or 0
    names: dict[str, Any] = {"agent": box.agent_id, "user": box.user_id, "team": box.from_team}
    portions = _Portions()
    if newest_first:
        statement, edge, at = _NEWEST_FIRST[box.which], "before", newest + 1
    else:
        statement, edge, at = LISTINGS[box.read_too, True, False], "after", 0
        names["upto"] = newest
    while newest:
        rows = await store.read(_all(statement, {**names, edge: at, "most": portions.size}))
        found = [message_of(row) for row in rows]
        yield found
        if len(found) < portions.size:
            return
        at = found[-1].cursor
        portions.saw(found)


async def thread(store: Store, user_id: str, thread_id: str, agent_id: str | None) -> Sequence[str] | None:
    """The ids of a thread's messages, oldest first; None where there is none, or none that `agent_id` takes part in."""
    rows = await store.read(_all(_THREAD, {"user": user_id, "thread": thread_id}))
    if not rows or (agent_id is not None and not any(agent_id in row[1:] for row in rows)):
        return None
    return [row[0] for row in rows]


async def short_thread(
    store: Store, user_id: str, message: Message, agent_id: str | None
) -> Sequence[Message] | msgspec.UnsetType:
    """The thread of a message that was just read, as `thread` and `by_id` have it; UNSET where it is no short one."""
    ids = await thread(store, user_id, message.thread_id, agent_id)
    if ids is None or len(ids) > FIRST_PORTION:
        return msgspec.UNSET
    if list(ids) == [message.id]:
        return (copy.copy(message),)
    found = [one async for portion in by_id(store, user_id, ids) for one in portion]
    return found if sum(len(one.body) for one in found) <= SHORT_CHARACTERS else msgspec.UNSET


async def by_id(store: Store, user_id: str, ids: Sequence[str]) -> AsyncIterator[Sequence[Message]]:
    """Those messages in that order, in portions."""
    portions = _Portions()
    at = 0
    while at < len(ids):
        some = ids[at : at + portions.size]
        rows = await store.read(_all(_SOME, {"user": user_id, "ids": some}))
        known = {row[0]: message_of(row) for row in rows}
        found = [known[name] for name in some if name in known]
        yield found
        at += len(some)
        portions.saw(found)


async def one(store: Store, user_id: str, message_id: str, agent_id: str | None) -> Message | None:
    """That message, if it is the user's and, where `agent_id` is given, of a thread in which that agent takes part."""

    def work(connection: Connection) -> Message | None:
        row = connection.execute(_ONE, {"message": message_id, "user": user_id}).first()
        if row is None:
            return None
        message = message_of(row[2:])
        if agent_id is None or agent_id in row[:2] or takes_part(connection, user_id, message.thread_id, agent_id):
            return message
        return None

    return await store.read(work)


async def unread_upto(store: Store, agent_id: str, upto: int | None) -> AsyncIterator[Sequence[str]]:
    """The ids of what is unread up to that number (None: the newest now), in portions; each must be read before the
    next.
    """
    if upto is None:
        upto = await store.read(lambda c: c.execute(_NEWEST, {"agent": agent_id}).scalar()) or 0
    while found := [row[0] for row in await store.read(_all(_UNREAD, {"agent": agent_id, "upto": upto}))]:
        yield found


async def news(store: Store, agent_id: str, after: int) -> tuple[int, int]:
    """The newest number of the inbox, and that of the newest unread message after `after` (0: there is none)."""
    row = await store.read(lambda c: c.execute(_NEWS, {"agent": agent_id, "after": after}).first())
    return (0, 0) if row is None else (row[0], row[1] or 0)


def claims_since(seconds: float) -> str:
    """A claim made before this moment does not count any more."""
    return (CLOCK.now() - timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def _all(statement: Select[Any], names: dict[str, Any]) -> Callable[[Connection], Sequence[Sequence[Any]]]:
    return lambda connection: connection.execute(statement, names).all()
