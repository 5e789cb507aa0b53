"""Arrivals as server-sent events, and the one watcher of an agent.

Nothing here asks the database again and again: an arrival wakes the streams of its inbox, and one timer for all of them
looks whether their keys still hold.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection, Select, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker import leases
from agent_mailer.broker.answers import header, refusals
from agent_mailer.broker.callers import AsAgent, directory_of, owned_inbox, settings_of
from agent_mailer.broker.data import Settings
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import Directory
from agent_mailer.broker.leases import Epochs, Fence, Held, Lease, Wish, take_all
from agent_mailer.broker.listening import Events, Lasting, Stream
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.peers import Peers, Replaced
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.remote.rows import newest_requests
from agent_mailer.broker.tables import agents as agent_rows
from agent_mailer.broker.tables import api_keys, users
from agent_mailer.broker.watchers import epoch_of, watched, watcher_header, watcher_name, watcher_of

log = logging.getLogger("agent_mailer.broker")
router = APIRouter()

KEYS_EVERY = 3.0
"""Seconds between two looks at the keys of the open streams."""
AT_ONCE = 500
FULL = {"Retry-After": "30"}
_ACTIVE = (
    select(api_keys.c.id)
    .join(users, users.c.id == api_keys.c.user_id)
    .where(api_keys.c.id.in_(bindparam("ids", expanding=True)), api_keys.c.is_active, users.c.standing == "active")
)
_DELETED = select(agent_rows.c.id).where(
    agent_rows.c.id.in_(bindparam("ids", expanding=True)), agent_rows.c.status == "deleted"
)
_INBOXES = select(agent_rows.c.id, agent_rows.c.inbox_seq).where(agent_rows.c.id.in_(bindparam("ids", expanding=True)))


class Hearer(Protocol):
    """Who is told of what arrives at this process, wherever it was stored."""

    def arrived(self, arrivals: Iterable[tuple[str, int]]) -> None: ...

    def close(self) -> None: ...


class Streams:
    """All open streams of this process; `open` before use, `close` at the end."""

    def __init__(self, store: Store, directory: Directory, settings: Settings, peers: Peers | None) -> None:
        """`peers`: where other processes may serve the same database."""
        self._store = store
        self._peers = peers
        self._given_back: set[tuple[str, int]] = set()
        self._directory = directory
        self._heartbeat_seconds = settings.heartbeat_seconds
        self._most = (settings.streams_per_key, settings.streams_per_host)
        self._open = (Counter[str](), Counter[str]())
        """How many streams a key, and a host, has."""
        self._of: dict[str, set[Stream]] = {}
        self._watching: dict[str, Stream] = {}
        self._epochs: dict[str, int] = {}
        """Of the agents that are or were held, where no other process serves them."""
        # An epoch of before the start of this process is none of its own.
        self._next_epoch = itertools.count(time.time_ns() // 1_000_000)
        self._hearers: list[Hearer] = []
        self._to_give_back = asyncio.Event()
        self._pulses: list[asyncio.Task[None]] = []
        self._closed = False

    async def open(self) -> None:
        self._pulses = [asyncio.create_task(self._go_on())]
        if self._peers is not None:
            self._pulses.append(asyncio.create_task(self._give_back_on(self._peers.id)))

    async def close(self) -> None:
        """End every stream, and begin no other; a second time does nothing."""
        self._closed = True
        for pulse in self._pulses:
            pulse.cancel()
        await asyncio.gather(*self._pulses, return_exceptions=True)
        for stream in self._all():
            stream.end()
        for hearer in self._hearers:
            hearer.close()

    def hear(self, hearer: Hearer) -> None:
        """A second time does nothing."""
        if hearer not in self._hearers:
            self._hearers.append(hearer)

    def arrived(self, arrivals: Sequence[tuple[str, int]]) -> None:
        """Tell the streams of these inboxes (agent id, number of the message), here and elsewhere; after the commit."""
        self.wake(arrivals)
        if self._peers is not None:
            self._peers.arrived(arrivals)

    def wake(self, arrivals: Iterable[tuple[str, int]]) -> None:
        """Tell those of this process."""
        told = list(arrivals)
        for hearer in self._hearers:
            hearer.arrived(told)
        for agent_id, number in told:
            for stream in self._of.get(agent_id, ()):
                stream.arrived(number)

    def asked(self, requests: Sequence[tuple[str, int]]) -> None:
        """Tell the watchers of these agents (id, number of the request), here and elsewhere; after the commit."""
        self.wake_watchers(requests)
        if self._peers is not None:
            self._peers.asked(requests)

    def wake_watchers(self, requests: Iterable[tuple[str, int]]) -> None:
        """Tell those of this process."""
        for agent_id, number in requests:
            stream = self._watching.get(agent_id)
            if stream is not None:
                stream.was_asked(number)

    def many(self) -> tuple[int, int]:
        """How many are open at this process, and how many of them hold their agent."""
        return sum(map(len, self._of.values())), len(self._watching)

    def lease(self, agent_id: str) -> Lease | None:
        """Who holds the agent at this process."""
        stream = self._watching.get(agent_id)
        return None if stream is None else stream.lease

    def holder(self, connection: Connection, agent_id: str) -> Lease | None:
        """Who holds the agent, wherever."""
        return self.lease(agent_id) if self._peers is None else leases.holder(connection, agent_id)

    def holders(self, connection: Connection, agent_ids: Sequence[str]) -> Mapping[str, Lease]:
        """Of these agents those that are held, wherever."""
        if self._peers is not None:
            return leases.holders(connection, agent_ids)
        found = ((agent_id, self.lease(agent_id)) for agent_id in agent_ids)
        return {agent_id: lease for agent_id, lease in found if lease is not None}

    def held(self, connection: Connection, user_id: str) -> Mapping[str, Lease]:
        """All that are held, wherever, by agent; agents of others may be among them."""
        if self._peers is not None:
            return leases.held_of(connection, user_id)
        # A thread of the store may ask while another stream begins.
        found = list(self._watching.items())
        return {agent_id: stream.lease for agent_id, stream in found if stream.lease is not None}

    def epochs(self, connection: Connection, agent_ids: Sequence[str]) -> Epochs:
        """As `Fence.last`."""
        if self._peers is not None:
            return leases.epochs(connection, agent_ids)
        return {name: self._epochs[name] for name in agent_ids if name in self._epochs}

    def replaced(self, word: Replaced) -> None:
        """The watcher has a newer stream at another process."""
        stream = self._watching.get(word.agent_id)
        if stream is not None and stream.epoch == word.epoch:
            stream.replaced_by = word.by
            stream.end()

    def begin(self, agent_id: str, address: str, key_id: str, host: str, watcher: str | None, name: str) -> Stream:
        """A stream of that inbox; with `watcher` it holds the agent. `end` it in any case.

        Raises Fault 409, 429 (the key, or the client at that host, has as many as it may), 503.
        """
        if self._closed:
            raise Fault(503, "The broker is being stopped", headers={"Retry-After": "1"})
        lease = None if watcher is None else Lease(watcher, name, now_text())
        stream = Stream(agent_id, key_id, host, lease)
        held = self._watching.get(agent_id) if lease is not None else None
        if held is None:
            # Else it takes the place of one that ends now.
            self._require_room(stream)
        if lease is not None:
            if held is not None and held.lease is not None:
                if held.lease.watcher != watcher:
                    raise watched(address, held.lease)
                held.replaced_by = lease
                held.end()
            self._watching[agent_id] = stream
        self._of.setdefault(agent_id, set()).add(stream)
        for count, whose in zip(self._open, (key_id, host), strict=True):
            count[whose] += 1
        return stream

    def _require_room(self, stream: Stream) -> None:
        """Raises Fault 429."""
        whose = (("API key", stream.key_id), ("address", stream.host))
        for count, most, (what, name) in zip(self._open, self._most, whose, strict=True):
            if count[name] >= most:
                raise Fault(429, f"This {what} has {most} streams open, and may have no more", headers=FULL)

    def end(self, stream: Stream) -> None:
        """Forget it; a second time does nothing."""
        stream.end()
        of_agent = self._of.get(stream.agent_id, set())
        if stream in of_agent:
            of_agent.discard(stream)
            for count, whose in zip(self._open, (stream.key_id, stream.host), strict=True):
                count[whose] -= 1
                if not count[whose]:
                    del count[whose]
        if not of_agent:
            self._of.pop(stream.agent_id, None)
        if self._watching.get(stream.agent_id) is stream:
            del self._watching[stream.agent_id]
        if stream.epoch is not None and self._peers is not None:
            self._given_back.add((stream.agent_id, stream.epoch))
            self._to_give_back.set()
            stream.epoch = None

    async def hold(self, stream: Stream, address: str) -> None:
        """Hold the agent at all processes, as the stream does at this one. Raises Fault 409, and ends it then."""
        lease, peers = stream.lease, self._peers
        if lease is None:
            return
        try:
            if peers is None:
                # As a write, so that what was done by an earlier hold is committed before this one begins.
                stream.epoch = await self._store.write(lambda _: self._begin_epoch(stream.agent_id))
                return
            held: Held | Lease = await self._store.write_each(take_all, Wish(stream.agent_id, lease, peers.id))
            if isinstance(held, Lease):
                raise watched(address, held)
            stream.epoch = held.epoch
        except BaseException:
            self.end(stream)
            raise
        if held.taken_from is not None:
            peers.replaced(held.taken_from, Replaced(stream.agent_id, held.epoch - 1, lease))
        if stream.over:
            self.end(stream)

    def _begin_epoch(self, agent_id: str) -> int:
        self._epochs[agent_id] = epoch = next(self._next_epoch)
        return epoch

    async def news(self, stream: Stream, after: int) -> tuple[int, int]:
        """The inbox's newest number, and that of its newest unread message after `after` (0: none).

        The stream has begun before: what arrives from now on wakes it.
        """
        try:
            return await inbox.news(self._store, stream.agent_id, after)
        except BaseException:
            self.end(stream)
            raise

    def _all(self) -> list[Stream]:
        return [stream for streams in self._of.values() for stream in streams]

    async def _go_on(self) -> None:
        pause = min(KEYS_EVERY, self._heartbeat_seconds)
        while True:
            await asyncio.sleep(pause)
            for agent_id in list(self._of):
                self._directory.seen(agent_id)
            with suppress(SQLAlchemyError):
                await self._end_revoked()

    async def _give_back_on(self, process_id: str) -> None:
        while True:
            await self._to_give_back.wait()
            self._to_give_back.clear()
            given, self._given_back = self._given_back, set()
            try:
                await self._store.write_each(_give_back, (process_id, given))
            except SQLAlchemyError:
                self._given_back |= given
                await asyncio.sleep(KEYS_EVERY)
                self._to_give_back.set()

    async def look(self) -> None:
        """At what other processes may have said in vain: what has arrived, and which agents are held elsewhere now."""
        if self._peers is None:
            return
        process_id = self._peers.id
        held = {stream.agent_id: stream for stream in self._watching.values() if stream.epoch is not None}
        known = {agent_id: stream.epoch for agent_id, stream in held.items()}
        with suppress(SQLAlchemyError):
            epochs = await self._store.read(lambda c: leases.held_by(c, process_id))
            for agent_id, stream in held.items():
                # One that was taken since we asked has another epoch than the one that we knew then.
                if stream.epoch == known[agent_id] and epochs.get(agent_id) != stream.epoch:
                    stream.end()
            # Taken by a commit whose answer was lost. A stream that is being begun is among those that watch.
            lost = {(agent_id, epoch) for agent_id, epoch in epochs.items() if agent_id not in self._watching}
            if lost:
                self._given_back |= lost
                self._to_give_back.set()
            agents = sorted(self._of)
            for some in _cut(agents):
                self.wake(await self._store.read(partial(_newest, some)))
            for some in _cut(sorted(self._watching)):
                self.wake_watchers(await self._store.read(partial(newest_requests, agent_ids=some)))

    async def _end_revoked(self) -> None:
        keys = sorted({stream.key_id for stream in self._all()})
        revoked = set(keys)
        for some in _cut(keys):
            revoked -= await self._store.read(partial(_found, _ACTIVE, some))
        deleted: set[str] = set()
        for some in _cut(sorted(self._of)):
            deleted |= await self._store.read(partial(_found, _DELETED, some))
        for stream in self._all() if revoked or deleted else ():
            if stream.key_id in revoked or stream.agent_id in deleted:
                stream.end()


def _cut(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))


def _found(statement: Select[Any], ids: Sequence[str], connection: Connection) -> set[str]:
    return {row[0] for row in connection.execute(statement, {"ids": ids})}


def _newest(agents: Sequence[str], connection: Connection) -> list[tuple[str, int]]:
    return [(row[0], row[1]) for row in connection.execute(_INBOXES, {"ids": agents})]


def _give_back(connection: Connection, given: Sequence[tuple[str, set[tuple[str, int]]]]) -> list[None]:
    for process_id, held in given:
        leases.give_back(connection, process_id, list(held))
    return [None] * len(given)


def streams_of(request: Request) -> Streams:
    return cast(Streams, request.app.state.streams)


def fence_of(request: Request) -> Fence | None:
    """By which hold of its agent the caller acts, where it says so. Raises Fault 422."""
    shown = epoch_of(request)
    return None if shown is None else Fence(shown, streams_of(request).epochs)


@router.get(
    "/messages/inbox/{address}/stream",
    tags=["extensions"],
    summary="Be told of arrivals",
    response_class=Response,
    openapi_extra={
        "parameters": [
            watcher_header("With it the stream holds the agent, until it ends", required=False),
            header("X-Agent-Mailer-Watcher-Name", "How people are told who holds the agent", ".{0,200}"),
            header("Last-Event-ID", "The last number that the client knows of", "[0-9]*"),
        ]
    },
    responses={
        200: {"description": "Server-sent events: hello, mail, asked", "content": {"text/event-stream": {}}},
        **refusals(401, 403, 404, 409, 422, 429, 503),
    },
)
async def stream(request: Request, address: str, caller: AsAgent, agent_id: Annotated[str, Query()]) -> Response:
    """Server-sent events: `hello`, then `mail` when there is unread mail or some arrives.

    A stream that holds the agent is told by `asked` that somebody asks something of its watcher.
    """
    agent = await owned_inbox(request, caller, agent_id, address)
    streams = streams_of(request)
    directory_of(request).seen(agent.id)
    host = request.client.host if request.client else ""
    opened = streams.begin(agent.id, agent.address, caller.key_id, host, watcher_of(request), watcher_name(request))
    await streams.hold(opened, agent.address)
    newest, unread = await streams.news(opened, _last_seen(request))
    return Lasting(Events(streams, opened, newest, unread, settings_of(request).heartbeat_seconds))


def _last_seen(request: Request) -> int:
    """A number that this broker cannot have given counts as none."""
    given = request.headers.get("last-event-id", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else 0
