"""An answer that lasts: the events of one stream, sent where all that has looked at the request is gone already.

A broker has thousands of them, and each does nothing nearly always. So none keeps the frames of a web framework alive,
and what it needs itself is one task beside that of its connection, and one timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from agent_mailer.broker.leases import Lease

log = logging.getLogger("agent_mailer.broker")

SEND_SECONDS = 30.0
"""A stream whose client takes nothing for so long is ended."""
LASTING = "agent_mailer.lasting"
"""In the scope of a request: the Events that are to be sent, once the request is dealt with."""
STREAM_HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"connection", b"keep-alive"),
        (b"x-accel-buffering", b"no"),
    ],
}
_HEARTBEAT = b": ping\n\n"


class Stream:
    """One open stream: the newest number that arrived, and whether it is over."""

    __slots__ = ("agent_id", "asked", "epoch", "host", "key_id", "lease", "newest", "over", "replaced_by", "woken")

    def __init__(self, agent_id: str, key_id: str, host: str, lease: Lease | None) -> None:
        self.agent_id = agent_id
        self.key_id = key_id
        self.host = host
        self.lease = lease
        self.newest = 0
        # The number of the last request to the watcher that it was to be told of.
        self.asked = 0
        # Of the lease: each time that an agent is held it is another.
        self.epoch: int | None = None
        self.over = False
        self.replaced_by: Lease | None = None
        self.woken = asyncio.Event()

    def arrived(self, number: int) -> None:
        self.newest = max(self.newest, number)
        self.woken.set()

    def was_asked(self, number: int) -> None:
        if number > self.asked:
            self.asked = number
            self.woken.set()

    def end(self) -> None:
        self.over = True
        self.woken.set()


class Keeper(Protocol):
    """Who keeps the streams."""

    def end(self, stream: Stream) -> None:
        """Forget it; a second time does nothing."""


class Events:
    """What the client of a stream is told; `go_on` until it is over, or `forget` it."""

    __slots__ = ("_heartbeat_seconds", "_keeper", "_newest", "_stream", "_unread")

    def __init__(self, keeper: Keeper, stream: Stream, newest: int, unread: int, heartbeat_seconds: float) -> None:
        """`newest`: the inbox's number; `unread`: that of its newest message that the client has to know of, or 0."""
        self._keeper = keeper
        self._stream = stream
        self._newest = newest
        self._unread = unread
        self._heartbeat_seconds = heartbeat_seconds

    def forget(self) -> None:
        self._keeper.end(self._stream)

    async def go_on(self, receive: Receive, send: Send) -> None:
        stream = self._stream
        gone = asyncio.create_task(_end_with_client(receive, stream))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send(STREAM_HEAD)
            # In one piece: whoever has read the number of the first event has read of the mail before it, too.
            await _tell(send, self._hello() + (_mail(self._unread) if self._unread else b""))
            await self._tell_on(send)
            if stream.replaced_by is not None:
                name = msgspec.json.encode({"name": stream.replaced_by.name, "since": stream.replaced_by.since})
                await _tell(send, b"event: replaced\ndata: %s\n\n" % name)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.warning("a stream's client took nothing for %d s: it is ended", SEND_SECONDS)
        finally:
            gone.cancel()
            self.forget()

    async def _tell_on(self, send: Send) -> None:
        stream, told, asked = self._stream, self._newest, 0
        later = asyncio.get_running_loop().call_later
        while not stream.over:
            beat = later(self._heartbeat_seconds, stream.woken.set)
            try:
                await stream.woken.wait()
            finally:
                beat.cancel()
            stream.woken.clear()
            if stream.over:
                return
            if stream.newest > told:
                told = stream.newest
                await _tell(send, _mail(told))
            elif stream.asked > asked:
                pass
            else:
                await _tell(send, _HEARTBEAT)
            if stream.asked > asked:
                asked = stream.asked
                await _tell(send, b'event: asked\ndata: {"number":%d}\n\n' % asked)

    def _hello(self) -> bytes:
        told = {"cursor": self._newest, "heartbeat_seconds": self._heartbeat_seconds}
        if self._stream.epoch is not None:
            told["epoch"] = self._stream.epoch
        return _event("hello", self._newest, msgspec.json.encode(told))


class Lasting(Response):
    """Sends nothing: it leaves the events where whoever stands around all requests finds them."""

    def __init__(self, events: Events) -> None:
        super().__init__(media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        scope[LASTING] = self._events


async def _end_with_client(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end()


async def _tell(send: Send, what: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": what, "more_body": True})


def _event(name: str, number: int, data: bytes) -> bytes:
    return b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), number, data)


def _mail(number: int) -> bytes:
    return _event("mail", number, b'{"cursor":%d}' % number)
