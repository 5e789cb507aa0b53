"""An inbox at a broker as a person reads it: also what was read, by any broker's own calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.mailbox.amp import wire
from agent_mailer.mailbox.amp.answers import Answer, credentials_refused, decode, detail_of, unavailable
from agent_mailer.mailbox.amp.client import AgentInfo, BrokerClient, BrokerInfo, Credentials
from agent_mailer.mailbox.amp.stream import Source, Stream
from agent_mailer.mailbox.amp.transport import path_of
from agent_mailer.mailbox.port import Envelope

PAGE = 100
STRETCH = 1000
SEARCHED_PAGES = 100
LISTED_PAGES = 10
"""Of a broker that lists with bodies only: the newest thousand are enough for a person."""

FIRST_WORD_SECONDS, LOOK_ANYWAY, LOOK_WITHOUT = 5.0, 600.0, 2.0
"""For the stream's first word; between two looks beside a stream that works, and beside one that is lost."""

T = TypeVar("T")


class Step(msgspec.Struct, frozen=True):
    """A receipt: one step of a message's way; `final`, no further turn will follow."""

    stage: str
    outcome: str | None = None
    detail: str = ""
    created_at: str = ""
    final: bool = False

    @property
    def at(self) -> float | None:
        try:
            return from_iso(self.created_at)
        except ValueError:
            return None

    @property
    def said(self) -> str:
        return ": ".join(part for part in (self.outcome, self.detail) if part)


class BrokerInbox:
    """One agent's inbox. Raises MailboxUnavailable, MailboxRefused."""

    def __init__(self, credentials: Credentials, address: str) -> None:
        self._credentials = credentials
        self._address = address
        self._info: BrokerInfo | None = None

    async def is_ours(self) -> bool:
        async with self._client() as client:
            return (await self._broker(client)).ours

    async def agents(self) -> list[AgentInfo]:
        async with self._client() as client:
            return await client.agents()

    async def listed(self, *, read_too: bool) -> list[wire.Heard]:
        """Oldest first; without bodies where the broker can leave them out."""
        async with self._client() as client:
            if (await self._broker(client)).ours:
                return await self._stretches(client, read_too=read_too)
            return await self._pages(client, read_too=read_too)

    async def newest_first(self, *, read_too: bool, size: int = PAGE) -> AsyncGenerator[wire.Heard, None]:
        """Page by page, as far as somebody goes on asking; a page holds `size`, where that is not too many."""
        seen: set[str] = set()
        size = min(size, PAGE)
        async with self._client() as client:
            for number in range(1, SEARCHED_PAGES + 1):
                query: dict[str, str | int] = {"page": number, "page_size": size}
                answer = await self._list(client, query | ({"all": "true"} if read_too else {}))
                page = wire.parse_object(answer, wire.Page)
                for one in wire.heard_in(answer, bytes(page.messages)):
                    # What comes meanwhile pushes others to the next page.
                    if one.message.envelope.id not in seen:
                        seen.add(one.message.envelope.id)
                        yield one
                if number * size >= page.total:
                    return

    async def waiting(self, most: int) -> tuple[int, list[Envelope]]:
        """How many are unread, and the oldest of those that nobody has in work, where the broker can list them so."""
        async with self._client() as client:
            answer = await self._list(client, {"page": 1, "page_size": 1})
            total = wire.parse_object(answer, wire.Page).total
            if not total or not (await self._broker(client)).ours:
                return total, []
            query: dict[str, str | int] = {"after": 0, "limit": most, "bodies": "false", "claimed": "false"}
            answer = await self._list(client, query)
            oldest = wire.heard_in(answer, bytes(wire.parse_object(answer, wire.Stretch).messages))
            return total, [heard.message.envelope for heard in oldest]

    async def whole(self, message_id: str) -> wire.Heard | None:
        """The message of that very id, where the broker gives single ones."""
        async with self._client() as client:
            if not (await self._broker(client)).ours:
                return None
            try:
                path = path_of("messages", message_id)
            except ValueError:
                return None
            answer = await client.transport.ask("GET", path)
            if answer.status in (403, 404):
                return None
            return wire.parse_whole(self._sound(answer))

    async def receipts(self, message_id: str) -> list[Step]:
        """How far a message that we sent is, oldest first, where the broker keeps that."""
        async with self._client() as client:
            if not (await self._broker(client)).ours:
                return []
            answer = await client.transport.ask("GET", path_of("messages", message_id, "receipts"))
            return decode(answer, list[Step]) if answer.ok else []

    @asynccontextmanager
    async def told(self) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """A wait that ends with an arrival, after that many seconds at the latest. It holds nothing: a watcher may
        come, be and go beside it. Only where the broker is ours.
        """
        awake = asyncio.Event()
        async with self._client() as client:
            info = await self._broker(client)
            path = path_of("messages", "inbox", self._address) + "/stream"
            source = Source(path, self._credentials.agent_id, "", "", info.heartbeat_seconds)

            async def where() -> Source:
                return source

            stream = Stream(lambda: client.transport, where, awake.set)

            async def rest(longest: float) -> None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(longest, LOOK_ANYWAY if stream.healthy else LOOK_WITHOUT)):
                        await awake.wait()
                awake.clear()

            try:
                await stream.start(FIRST_WORD_SECONDS)
                yield rest
            finally:
                await stream.close()

    def _client(self) -> BrokerClient:
        return BrokerClient(self._credentials.broker_url, self._credentials.api_key)

    async def _broker(self, client: BrokerClient) -> BrokerInfo:
        if self._info is None:
            self._info = await client.discover()
        return self._info

    async def _stretches(self, client: BrokerClient, *, read_too: bool) -> list[wire.Heard]:
        found: list[wire.Heard] = []
        after = 0
        while True:
            query: dict[str, str | int] = {"after": after, "limit": STRETCH, "bodies": "false", "claimed": "true"}
            answer = await self._list(client, query | ({"all": "true"} if read_too else {}))
            stretch = wire.parse_object(answer, wire.Stretch)
            found += wire.heard_in(answer, bytes(stretch.messages))
            if not stretch.more or stretch.cursor <= after:
                break
            after = stretch.cursor
        return found

    async def _pages(self, client: BrokerClient, *, read_too: bool) -> list[wire.Heard]:
        found: dict[str, wire.Heard] = {}
        for number in range(1, LISTED_PAGES + 1):
            query: dict[str, str | int] = {"page": number, "page_size": PAGE}
            answer = await self._list(client, query | ({"all": "true"} if read_too else {}))
            page = wire.parse_object(answer, wire.Page)
            found |= {one.message.envelope.id: one for one in wire.heard_in(answer, bytes(page.messages))}
            if number * PAGE >= page.total:
                break
        return sorted(found.values(), key=lambda one: one.message.envelope.order)

    async def _list(self, client: BrokerClient, query: dict[str, str | int]) -> Answer:
        path = path_of("messages", "inbox", self._address)
        asked = {"agent_id": self._credentials.agent_id, **query}
        return self._sound(await client.transport.ask("GET", path, query=asked))

    def _sound(self, answer: Answer) -> Answer:
        if answer.ok:
            return answer
        refused = credentials_refused(answer)
        raise refused if refused is not None and detail_of(answer) is not None else unavailable(answer)
