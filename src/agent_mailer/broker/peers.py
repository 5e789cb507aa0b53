"""The processes that serve one database: each is told of what arrives at another, and of the watchers it has lost.

What is told is a hint: a lost one costs time, nothing else. So it is told after the commit and outside of its
transaction (a NOTIFY in it would have all commits of the server wait in one line), for all that has gathered at once,
and only where somebody else listens; and every process looks by itself now and then.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker.database import Executor
from agent_mailer.broker.engines import NOW_MS, listen
from agent_mailer.broker.leases import LOST_MS, Lease, give_all_back
from agent_mailer.broker.watch_tables import processes
from agent_mailer.errors import ConfigFault

log = logging.getLogger("agent_mailer.broker")
BEAT_SECONDS = 3.0
"""Between two signs of life; some may be lost before a process counts as gone."""
AGAIN_SECONDS = 0.5
GATHER_SECONDS = 0.005
"""Between two tellings: the first is at once, what comes soon after it goes together."""
FORGOTTEN_MS = 86_400_000
LONGEST_WORDS = 7900
"""Bytes of one notification; the server takes 8000."""
_EVERYBODY = "amp_processes"


class Arrivals(msgspec.Struct, frozen=True, tag="a"):
    """The newest numbers of inboxes, by agent id."""

    newest: dict[str, int]


class Replaced(msgspec.Struct, frozen=True, tag="r"):
    """A stream of the process that is told has lost its agent to the same watcher's newer one."""

    agent_id: str
    epoch: int
    by: Lease


class Joined(msgspec.Struct, frozen=True, tag="j"):
    """There is one process more."""


class Requests(msgspec.Struct, frozen=True, tag="q"):
    """The numbers of the last requests to watchers, by agent id."""

    newest: dict[str, int]


Word = Arrivals | Replaced | Joined | Requests
_read = msgspec.json.Decoder(Word).decode
_p = processes.c


class Ear(Protocol):
    """Who is to know what other processes say."""

    def wake(self, arrivals: Iterable[tuple[str, int]]) -> None:
        """These inboxes (agent id, number) have something new."""

    def wake_watchers(self, requests: Iterable[tuple[str, int]]) -> None:
        """The watchers of these agents are asked something (agent id, number)."""

    def replaced(self, word: Replaced) -> None: ...

    async def look(self) -> None:
        """Something may have been said in vain."""


class Peers:
    """This process among those of its database; `open` before use, `close` at the end."""

    def __init__(self, url: str, secret: str) -> None:
        self.id = uuid.uuid4().hex
        self._digest = hashlib.sha256(b"agent-mailer process\0" + secret.encode()).hexdigest()
        self._ear: Ear | None = None
        self._url = url
        self._speaker = Executor(url, writes=False)
        self._reached: Any = None
        """The connection that listens, or will: a thread leaves it here."""
        self._over = False
        self._listening: Any = None
        self._line = -1
        self._others: tuple[str, ...] = ()
        self._arrivals: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._replaced: list[tuple[str, Replaced]] = []
        self._told = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._meeting: asyncio.Future[None] | None = None

    async def open(self, ear: Ear) -> None:
        """Raises ConfigFault where another process has another secret, SQLAlchemyError."""
        self._ear = ear
        await self._speaker.run(self._join)
        await self._listen()
        await self._speaker.run(lambda connection: _say(connection, _EVERYBODY, Joined()))
        self._tasks = [asyncio.create_task(self._speak_on()), asyncio.create_task(self._live_on())]

    async def close(self) -> None:
        """Leaves nothing behind that others would have to wait for."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stop_listening()
        if self._reached is not None:
            self._reached.close()
        with suppress(SQLAlchemyError):
            await self._speaker.run(self._leave)
        await self._speaker.close()

    def arrived(self, arrivals: Iterable[tuple[str, int]]) -> None:
        """Tell the others of it."""
        if self._others:
            for agent_id, number in arrivals:
                self._arrivals[agent_id] = max(number, self._arrivals.get(agent_id, 0))
            self._told.set()

    def asked(self, requests: Iterable[tuple[str, int]]) -> None:
        """The same of what watchers are asked."""
        if self._others:
            for agent_id, number in requests:
                self._asked[agent_id] = max(number, self._asked.get(agent_id, 0))
            self._told.set()

    def replaced(self, process_id: str, word: Replaced) -> None:
        """Tell that process of it."""
        self._replaced.append((process_id, word))
        self._told.set()

    def _join(self, connection: Connection) -> None:
        connection.execute(delete(processes).where(_p.seen_ms < NOW_MS - FORGOTTEN_MS))
        # First: of two that begin at once the later one at least finds the other.
        self._beat(connection)
        there = _p.seen_ms > NOW_MS - LOST_MS
        if connection.execute(select(_p.id).where(there, _p.secret_digest != self._digest)).first() is not None:
            self._leave(connection)
            raise ConfigFault(
                "other_secret",
                "another process serves this database with another AGENT_MAILER_SECRET_KEY",
                "give all of them the same; to change it, stop all of them first",
            )

    def _beat(self, connection: Connection) -> None:
        if not connection.execute(update(processes).where(_p.id == self.id).values(seen_ms=NOW_MS)).rowcount:
            connection.execute(insert(processes).values(id=self.id, secret_digest=self._digest, seen_ms=NOW_MS))
        found = connection.execute(select(_p.id).where(_p.id != self.id, _p.seen_ms > NOW_MS - LOST_MS))
        self._others = tuple(row[0] for row in found)

    def _leave(self, connection: Connection) -> None:
        give_all_back(connection, self.id)
        connection.execute(delete(processes).where(_p.id == self.id))

    async def _speak_on(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            arrivals, self._arrivals = self._arrivals, {}
            asked, self._asked = self._asked, {}
            replaced, self._replaced = self._replaced, []
            news = (*map(Arrivals, _portions(arrivals)), *map(Requests, _portions(asked)))
            words = [(other, word) for word in news for other in self._others]
            try:
                await self._speaker.run(lambda c, said=(*words, *replaced): _say_all(c, said))  # type: ignore[misc]
            except SQLAlchemyError as error:
                # They look by themselves soon.
                log.warning("other processes could not be told: %s", str(error).splitlines()[0])
                await asyncio.sleep(AGAIN_SECONDS)
            await asyncio.sleep(GATHER_SECONDS)

    async def _live_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._speaker.run(self._beat)
                if self._listening is None:
                    await self._listen()
            except SQLAlchemyError:
                continue
            if self._ear is not None:
                await self._ear.look()

    async def _listen(self) -> None:
        await asyncio.to_thread(self._reach)
        self._listening = self._reached
        # A number of its own: the driver closes its own one as soon as it finds the server gone.
        self._line = os.dup(self._listening.fileno())
        asyncio.get_running_loop().add_reader(self._line, self._heard)

    def _reach(self) -> None:
        """In a thread, which may outlive whoever has waited for it: one of the two sees what the other has left."""
        self._reached = listen(self._url, (_EVERYBODY, _channel(self.id)))
        if self._over:
            self._reached.close()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._line)
            os.close(self._line)
            self._listening.close()
            self._listening = None

    def _heard(self) -> None:
        line = self._listening.pgconn
        try:
            line.consume_input()
        except Exception as error:  # the driver's; it is not imported where no server is asked for
            log.warning("the database's notifications ended: %s", type(error).__name__)
            self._stop_listening()
            return
        while (notified := line.notifies()) is not None:
            with suppress(msgspec.DecodeError):
                word = _read(notified.extra)
                self._hear(word)

    def _hear(self, word: Word) -> None:
        if isinstance(word, Joined):
            self._meeting = asyncio.ensure_future(self._meet())
        elif isinstance(word, Replaced) and self._ear is not None:
            self._ear.replaced(word)
        elif isinstance(word, Arrivals) and self._ear is not None:
            self._ear.wake(word.newest.items())
        elif isinstance(word, Requests) and self._ear is not None:
            self._ear.wake_watchers(word.newest.items())

    async def _meet(self) -> None:
        with suppress(SQLAlchemyError):
            await self._speaker.run(self._beat)


def _portions(numbers: dict[str, int]) -> Iterator[dict[str, int]]:
    part: dict[str, int] = {}
    size = 0
    for agent_id, number in numbers.items():
        length = len(agent_id.encode()) + 24
        if part and size + length > LONGEST_WORDS:
            yield part
            part, size = {}, 0
        part[agent_id] = number
        size += length
    if part:
        yield part


def _say_all(connection: Connection, words: Sequence[tuple[str, Word]]) -> None:
    for process_id, word in words:
        _say(connection, _channel(process_id), word)


def _say(connection: Connection, channel: str, word: Word) -> None:
    connection.execute(select(func.pg_notify(channel, msgspec.json.encode(word).decode())))


def _channel(process_id: str) -> str:
    return f"amp_{process_id}"
