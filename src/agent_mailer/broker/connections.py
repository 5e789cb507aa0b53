"""Connections: one over which no whole request comes in time is ended, and those beyond what the process can hold are
told so, while `/health` answers them still.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

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


class Direct(Protocol):
    """What answers some requests itself."""

    def may_take(self, scope: Any) -> bool:  # noqa: ANN401 - uvicorn has a type of its own
        """By its head."""

    def take(self, scope: Any, raw: bytes, answered: Callable[[bytes | None], None]) -> bool:  # noqa: ANN401
        """Whether it will be answered: with a 200 of these headers and this body, or, for None, by the application."""


def patient(request_seconds: float, most: int, direct_way: Direct) -> Callable[..., asyncio.Protocol]:
    """The protocol of a connection, for uvicorn: a request has come whole within `request_seconds` of its first byte,
    the first of a connection within as many of its beginning. `most`: beyond so many there is no room. `direct_way`: is
    asked before the application.
    """

    class Connection(_Connection):
        seconds = request_seconds
        room = most
        direct = direct_way
        crowd: ClassVar[dict[_Connection, None]] = {}

    return Connection


class _Connection(HttpToolsProtocol):
    seconds: float
    room: int
    direct: Direct
    crowd: ClassVar[dict[_Connection, None]]
    """Those for whom there is no room, the oldest first."""
    _deadline: asyncio.TimerHandle | None = None
    _whole = False
    """Nothing of a request is missing. A connection that has just begun lacks all of one."""
    _coming: tuple[RequestResponseCycle, Any] | None = None
    """A request that may be answered directly, once its body is there, and the application for it."""

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
        if self._coming is not None and not self._coming[0].more_body:
            (cycle, app), self._coming = self._coming, None
            self._begin(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn has a type of its own
        # A client that reads nothing waits for room, and one that is told to go on waits for that: not here.
        odd = self.flow.write_paused or cycle.waiting_for_100_continue or not cycle.keep_alive
        if odd or app is not self.config.loaded_app or not self.direct.may_take(cycle.scope):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._coming = cycle, app
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - the same
        def answered(answer: bytes | None) -> None:
            if cycle.disconnected:
                return
            if answer is None:
                super(_Connection, self)._start_asgi_task(cycle, app)
                return
            head = [STATUS_LINE[200], *(b"%b: %b\r\n" % header for header in self.server_state.default_headers)]
            if not cycle.keep_alive:
                head.append(b"connection: close\r\n")
            self.transport.write(b"".join((*head, answer)))
            cycle.response_started = cycle.response_complete = True
            if not cycle.keep_alive:
                self.transport.close()
            self.on_response_complete()

        if not self.direct.take(cycle.scope, bytes(cycle.body), answered):
            super()._start_asgi_task(cycle, app)

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
