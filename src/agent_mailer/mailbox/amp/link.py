"""The connection to the broker as the mailbox uses it: current credentials, and what the broker can do today."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from agent_mailer.clock import Clock
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.amp.answers import Answer, credentials_refused, unavailable
from agent_mailer.mailbox.amp.client import BrokerClient, BrokerInfo, Credentials
from agent_mailer.mailbox.amp.transport import Limits, Transport
from agent_mailer.mailbox.port import MailboxUnavailable

Call = Callable[[Transport, str], Awaitable[Answer]]
"""A request, made with the transport and the agent's id of the moment."""

OF_THE_KEY: Final = frozenset({401})
OF_THE_AGENT: Final = frozenset({401, 403, 404})


class Link:
    """Raises ConfigFault where the credentials cannot be used.

    Opened, it keeps its connections until `close`; else each `connected` ends with them.
    """

    def __init__(self, credentials: Callable[[], Credentials], *, limits: Limits | None, clock: Clock) -> None:
        self._read = credentials
        self._limits = limits
        self._clock = clock
        self._shown = credentials()
        self._client: BrokerClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0
        self._kept = False
        self._stale = True
        self.info: BrokerInfo | None = None
        """What the broker could do when it was last asked."""
        self.epoch: int | None = None
        """By which the watcher held the agent last, as the broker told it."""
        # A URL or key that can be none is told now.
        self._make()

    @property
    def agent_id(self) -> str:
        return self._shown.agent_id

    @property
    def fence(self) -> dict[str, str]:
        """The header by which the broker refuses what is done by a hold of the agent that another has followed."""
        return {} if self.epoch is None else {"X-Agent-Mailer-Epoch": str(self.epoch)}

    @property
    def client(self) -> BrokerClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = self._make(), loop
        return self._client

    def keep(self) -> None:
        self._kept = True

    async def close(self) -> None:
        self._kept = False
        self._stale = True
        await self._drop()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and not self._kept:
                await self._drop()

    async def broker(self) -> BrokerInfo:
        """What the broker can do; asked again after a lost connection, as it may have been replaced meanwhile."""
        if self.info is None or self._stale:
            self._stale = False
            try:
                self.info = await self.client.discover()
            except BaseException:
                self._stale = True
                raise
        return self.info

    def doubt(self) -> None:
        """Ask the broker again what it can do."""
        self._stale = True

    def puzzled(self, answer: Answer) -> MailboxUnavailable:
        """An answer that no rule is for: perhaps the broker is another one than it was."""
        self.doubt()
        return unavailable(answer)

    async def ask(self, call: Call, refusals: frozenset[int] = OF_THE_KEY) -> Answer:
        """The answer. Of `refusals`, MailboxRefused is raised once the current configuration is refused, too."""
        refused = None
        for last in (False, True):
            answer = await call(self.client.transport, self.agent_id)
            refused = credentials_refused(answer) if answer.status in refusals else None
            if refused is None:
                return answer
            if last or not await self._renew():
                break
        assert refused is not None
        raise refused

    async def _renew(self) -> bool:
        """Whether the configuration has other credentials by now; then they are in use."""
        try:
            current = self._read()
            if current == self._shown:
                return False
            before, self._shown = self._shown, current
            try:
                self._make()
            except ConfigFault:
                self._shown = before
                return False
        except ConfigFault:
            return False
        self._stale = True
        await self._drop()
        return True

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            with suppress(Exception):
                await client.close()

    def _make(self) -> BrokerClient:
        client = BrokerClient(self._shown.broker_url, self._shown.api_key, limits=self._limits, clock=self._clock)
        client.transport.on_loss = self.doubt
        return client
