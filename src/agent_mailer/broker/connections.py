"""Connections: one over which no whole request comes in time is ended, and those beyond what the process can hold are
told so, while `/health` answers them still.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, ClassVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agent_mailer.broker.answers import LATER, refuse

RESERVE = 128
"""Descriptors that are kept for the database, for files, and for those who are told that there is no room."""
CROWDED_SECONDS = 5.0
"""What somebody has for a request to whom there is little to say."""
HEALTH = ("/health", "/ready")


def most_connections() -> int:
    """How many this process can hold at a time, by its limit of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else soft - min(RESERVE, soft // 2)


def patient(request_seconds: float, most: int) -> Callable[..., asyncio.Protocol]:
    """The protocol of a connection, for uvicorn: a request has come whole within `request_seconds` of its first byte,
    the first of a connection within as many of its beginning. `most`: beyond so many there is no room.
    """

    class Connection(_Connection):
        seconds = request_seconds
        room = most
        crowd: ClassVar[dict[_Connection, None]] = {}

    return Connection


class _Connection(HttpToolsProtocol):
    seconds: float
    room: int
    crowd: ClassVar[dict[_Connection, None]]
    """Those for whom there is no room, the oldest first."""
    _deadline: asyncio.TimerHandle | None = None
    _whole = False
    """Nothing of a request is missing. A connection that has just begun lacks all of one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.room:
            self.seconds = min(self.seconds, CROWDED_SECONDS)
            self.app = _only_health(self.app)
            self.crowd[self] = None
            if len(self.crowd) > RESERVE // 2:
                # Else they would take the rest. Whoever asks something is answered, and gone, before it is the oldest.
                next(iter(self.crowd)).transport.abort()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._met()
        self.crowd.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._whole:
            self._met()
        elif not self.transport.is_closing():
            self._wait()

    def on_message_begin(self) -> None:
        self._whole = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._whole = True
        super().on_message_complete()

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _met(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _only_health(app: Any) -> ASGIApp:  # noqa: ANN401 - uvicorn has a type of its own
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        if scope["type"] == "http" and scope["path"] in HEALTH:
            await app(scope, receive, last)
        else:
            await refuse(503, "The broker has no room for more connections", LATER)(scope, receive, last)

    return answer
