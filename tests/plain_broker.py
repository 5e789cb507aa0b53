"""Our broker as the original one answers: without any extension, on the wire in both directions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.broker_desk import BrokerDesk

UNKNOWN_TO_IT = re.compile(
    r"GET /\.well-known/agent-mailer|GET /messages/(?!inbox$|thread$)[^/]+|POST /messages/[^/]+/claim"
    r"|(GET|POST) /messages/[^/]+/receipts|GET /messages/inbox/[^/]+/stream|POST /agents/operator"
)
FIELDS = ("cursor", "hops", "automatic", "priority", "kind", "labels", "claimed_at")
ASKED = ("thread_id", "hops", "automatic", "priority", "kind", "labels")
QUERY = ("after", "limit", "bodies", "claimed", "html")


class PlainBroker:
    """ASGI middleware that takes the extensions away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if UNKNOWN_TO_IT.fullmatch(f"{scope['method']} {scope['path']}"):
            await _answer(send, 404, {"detail": "Not Found"})
            return
        body = await _whole(receive)
        if scope["path"] == "/messages/send":
            body = _without(body, ASKED)
        query = urlencode([(k, v) for k, v in parse_qsl(scope["query_string"].decode()) if k not in QUERY])
        headers = [
            (name, str(len(body)).encode() if name == b"content-length" else value)
            for name, value in scope["headers"]
            if name != b"idempotency-key"
        ]
        answers: list[Message] = []

        async def keep(message: Message) -> None:
            answers.append(message)

        await self._app({**scope, "query_string": query.encode(), "headers": headers}, _once(body), keep)
        await _pass_on(send, answers)


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _once(body: bytes) -> Receive:
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive


async def _pass_on(send: Send, answers: list[Message]) -> None:
    start, *parts = answers
    body = b"".join(part.get("body", b"") for part in parts)
    body = _without(body, FIELDS)
    headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def _answer(send: Send, status: int, data: object) -> None:
    body = json.dumps(data).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _without(body: bytes, fields: tuple[str, ...]) -> bytes:
    try:
        data = json.loads(body)
    except ValueError:
        return body
    messages = data.get("messages", [data]) if isinstance(data, dict) else data
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            for field in fields:
                message.pop(field, None)
    return json.dumps(data).encode()


class LosesAnswers:
    """ASGI middleware before a broker: the next `left` messages arrive, and who sends them hears of a bad gateway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.left = 0
        self.sends = 0
        """How many were asked for in all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/messages/send":
            await self._app(scope, receive, send)
            return
        self.sends += 1
        if not self.left:
            await self._app(scope, receive, send)
            return
        self.left -= 1
        await self._app(scope, receive, _nowhere)
        await _answer(send, 502, {"detail": "Bad Gateway"})


async def _nowhere(_: Message) -> None:
    pass


@contextmanager
def running_plain_broker(
    base: Path, *, behind: Callable[[ASGIApp], ASGIApp] = lambda app: app, **settings: Any
) -> Iterator[BrokerDesk]:
    """As `running_broker`, without the extensions; `behind`: what stands before it."""
    desk = BrokerDesk(base, **settings)
    desk.put_before(lambda app: behind(PlainBroker(app)))
    desk.start()
    try:
        yield desk
    finally:
        desk.stop()
