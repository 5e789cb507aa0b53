"""A client as thin as can be, so that what is measured is the broker: HTTP/1.1 over one kept connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit


class Line:
    """One connection. Requests go one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._head = head

    async def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - any JSON
        """The JSON of a 2xx answer."""
        data = b"" if body is None else json.dumps(body).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode()
        head = f"{method} {path} HTTP/1.1\r\nContent-Length: {len(data)}\r\n".encode()
        self._writer.write(head + b"Content-Type: application/json\r\n" + more + self._head + b"\r\n" + data)
        status, length = await self._answer()
        content = await self._reader.readexactly(length)
        assert 200 <= status < 300, content[:500]
        return json.loads(content)

    async def listen(self, path: str, headers: Mapping[str, str]) -> asyncio.StreamReader:
        """The body of an endless answer, in chunks as they come."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        self._writer.write(f"GET {path} HTTP/1.1\r\n".encode() + more + self._head + b"\r\n")
        status, _ = await self._answer()
        assert status == 200, status
        return self._reader

    async def _answer(self) -> tuple[int, int]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return status, int(value)
        return status, 0


@asynccontextmanager
async def line(url: str, key: str) -> AsyncIterator[Line]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Line(reader, writer, f"Host: {parts.netloc}\r\nX-API-Key: {key}\r\n".encode())
    finally:
        writer.close()
