"""A server that answers as a test says, byte by byte: for what no broker in its senses would answer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

AGENT_ID = "11111111-1111-4111-8111-111111111111"
ADDRESS = "alice@u.d"
AGENT = {"id": AGENT_ID, "address": ADDRESS, "name": "alice"}
OURS = {
    "protocol": "amp",
    "broker": "agent-mailer",
    "version": "1",
    "extensions": [
        "inbox-cursor",
        "inbox-heads",
        "stream",
        "idempotency",
        "marks",
        "claims",
        "receipts",
        "message-get",
    ],
    "max_body_bytes": 1048576,
    "heartbeat_seconds": 15,
}


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Rule = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def says(
    status: int, data: object = None, *, headers: dict[str, str] | None = None, kind: str = "application/json"
) -> Rule:
    """Answers with JSON, or with bytes as they are."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    lines = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return answer


def html(status: int) -> Rule:
    return says(status, b"<html><h1>proxy</h1></html>", kind="text/html")


def page(*messages: dict[str, Any], total: int | None = None) -> Rule:
    return says(200, {"messages": list(messages), "total": len(messages) if total is None else total, "page": 1})


async def drops(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Takes the request, and hangs up."""
    writer.transport.abort()


async def resets(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Takes the request, and is gone without a word."""
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


async def hangs(_: Asked, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def message(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"m{number}",
        "thread_id": "t1",
        "from_agent": "bob@u.d",
        "to_agent": ADDRESS,
        "action": "send",
        "subject": f"no {number}",
        "body": "work",
        "attachments": [],
        "is_read": False,
        "parent_id": None,
        "created_at": f"2026-11-21T03:20:24.{number:06d}+00:00",
        **changes,
    }


class RawBroker:
    """Answers by the first rule for `METHOD /path`; each further rule of a list is for the next request."""

    def __init__(self) -> None:
        self.rules: dict[str, list[Rule]] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.on("GET /.well-known/agent-mailer", says(404, {"detail": "Not Found"}))
        self.on(f"GET /agents/{AGENT_ID}", says(200, AGENT))
        self.on(f"GET /messages/inbox/{ADDRESS}", page())

    def on(self, what: str, *rules: Rule) -> None:
        """The last rule stays."""
        self.rules[what] = list(rules)

    def requests(self, what: str) -> list[Asked]:
        return [one for one in self.asked if f"{one.method} {one.path}" == what]

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        asked = Asked(method, unquote(parts.path), query, headers, body)
        self.asked.append(asked)
        rules = self.rules.get(f"{method} {asked.path}", [says(404, {"detail": "Not Found"})])
        await (rules.pop(0) if len(rules) > 1 else rules[0])(asked, writer)
        return not writer.is_closing()


@asynccontextmanager
async def raw_broker() -> AsyncIterator[RawBroker]:
    server = RawBroker()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
