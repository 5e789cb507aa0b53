"""HTTP/1.1 with one host, without TLS or a proxy: as little of it as whole requests and whole answers need.

A watcher asks its broker several times a turn, and a client for everything costs more than all the rest of that.
Failures are those of httpx, which serves what this does not.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import httpx

LONGEST_HEAD = 64 * 1024
PIECE = 64 * 1024
BESIDE = 0.25
"""Seconds after which another address of the host is tried beside the first."""
_WITHOUT_BODY = (204, 304)


class Reply(NamedTuple):
    """`fields` by their lower-case names, of several of one name the last. Not `whole`: `body` is a beginning of it."""

    status: int
    fields: Mapping[str, str]
    body: bytes
    whole: bool = True


class Most(NamedTuple):
    """Of a body of more than `size` bytes at least `start` are read, and the connection is closed."""

    size: int
    start: int


class _Wire(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float


class Wires:
    """Connections to `host`, each kept for `idle` seconds after an answer. `common`: the fields of every request.

    Seconds: `connect` for a connection, `read` for the next part of an answer.
    """

    def __init__(
        self, host: str, port: int, common: Mapping[str, str], *, connect: float, read: float, idle: float
    ) -> None:
        self._host = host
        self._port = port
        self._common = _lines(common)
        self._connect = connect
        self._read = read
        self._idle = idle
        self._free: list[_Wire] = []

    def close(self) -> None:
        while self._free:
            wire = self._free.pop()
            wire.writer.transport.abort()

    async def ask(
        self, method: str, target: str, fields: Mapping[str, str], content: bytes | None, most: Most
    ) -> Reply:
        """Raises LocalProtocolError, ConnectError and ConnectTimeout of httpx where nothing was sent, its ReadTimeout,
        ReadError and RemoteProtocolError where something was.
        """
        length = {"Content-Length": str(len(content or b""))} if content is not None or method in _WITH_BODY else {}
        words = f"{method} {target} HTTP/1.1\r\n{self._common}{_lines(fields)}{_lines(length)}\r\n".encode("ascii")
        wire = await self._take()
        lasting = False
        try:
            with _as_httpx():
                async with asyncio.timeout(self._read) as clock:
                    wire.writer.write(words + (content or b""))
                    await wire.writer.drain()
                    status, found, lasting = await _head(wire.reader)
                    body, whole = await _Body(wire.reader, clock, self._read, most).read(status, found)
                    lasting = lasting and whole
            return Reply(status, found, body, whole)
        except BaseException:
            lasting = False
            raise
        finally:
            if lasting:
                self._free.append(wire._replace(since=asyncio.get_running_loop().time()))
            else:
                wire.writer.transport.abort()

    async def _take(self) -> _Wire:
        now = asyncio.get_running_loop().time()
        if self._free:
            # What was closed at the other end is heard of now.
            await asyncio.sleep(0)
        while self._free:
            wire = self._free.pop()
            if now - wire.since < self._idle and not wire.reader.at_eof() and not wire.writer.is_closing():
                return wire
            wire.writer.transport.abort()
        try:
            async with asyncio.timeout(self._connect):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, limit=LONGEST_HEAD, happy_eyeballs_delay=BESIDE
                )
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection") from None
        except (OSError, ValueError) as error:
            raise httpx.ConnectError(_why(error)) from None
        return _Wire(reader, writer, now)


def _why(error: OSError | ValueError) -> str:
    """In the system's words, without the address, which whoever tells of it has told already."""
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return "all connection attempts failed" if isinstance(error, OSError) else str(error)


_WITH_BODY = ("POST", "PATCH", "PUT")


def _lines(fields: Mapping[str, str]) -> str:
    if not all(value.isascii() and value.isprintable() for value in fields.values()):
        raise httpx.LocalProtocolError("a field of the request is no printable ASCII")
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items())


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise httpx.ReadTimeout("no answer") from None
    except EOFError:
        raise httpx.RemoteProtocolError("the connection was closed before the answer was whole") from None
    except (asyncio.LimitOverrunError, ValueError):
        raise httpx.RemoteProtocolError("this is no answer in HTTP") from None
    except OSError as error:
        raise httpx.ReadError(str(error) or type(error).__name__) from None


async def _head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str], bool]:
    """Status, fields, and whether the connection lasts beyond the answer. Raises ValueError for what is none."""
    while True:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text[:-4].split("\r\n")
        version, _, rest = first.partition(" ")
        status = int(rest[:3])
        if not version.startswith("HTTP/1.") or status < 100:
            raise ValueError("no HTTP")
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ValueError("no field")
            fields[name.lower()] = value.strip()
        if status >= 200:
            break
    framed = "content-length" in fields or "transfer-encoding" in fields or status in _WITHOUT_BODY
    lasting = framed and version == "HTTP/1.1" and "close" not in fields.get("connection", "").lower()
    return status, fields, lasting


def _size_of_chunk(line: bytes) -> int:
    """Raises ValueError: what `int` takes beside digits, a sign say, would have us read until the connection ends."""
    size = line.split(b";", 1)[0].strip()
    if not size.isalnum():
        raise ValueError("no size")
    return int(size, 16)


class _Body:
    """What follows a head, each part in its time."""

    def __init__(self, reader: asyncio.StreamReader, clock: asyncio.Timeout, seconds: float, most: Most) -> None:
        self._reader = reader
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._found = bytearray()
        self._told = 0

    async def read(self, status: int, fields: Mapping[str, str]) -> tuple[bytes, bool]:
        """The body, and whether it is whole. Raises ValueError and EOFError for what is none."""
        whole = await self._read(status, fields)
        return bytes(self._found), whole

    async def _read(self, status: int, fields: Mapping[str, str]) -> bool:
        if status in _WITHOUT_BODY:
            return True
        coding, told = fields.get("transfer-encoding", "").lower(), fields.get("content-length")
        if coding:
            if coding != "chunked":
                raise ValueError("an unknown coding")
            while size := _size_of_chunk(await self._reader.readuntil(b"\n")):
                if not await self._part(size):
                    return False
                if await self._reader.readexactly(2) != b"\r\n":
                    raise ValueError("no chunk")
            while (await self._reader.readuntil(b"\n")).strip():
                pass
            return True
        if told is None:
            return await self._part(None)
        if not (told.isascii() and told.isdigit()):
            raise ValueError("no length")
        self._told = int(told[:15])
        return await self._part(self._told)

    async def _part(self, size: int | None) -> bool:
        """So many bytes, or all until the connection ends; False where it is too much."""
        left = size
        while left is None or left:
            part = await self._reader.read(PIECE if left is None else min(left, PIECE))
            if not part:
                if left is None:
                    return True
                raise EOFError
            self._clock.reschedule(asyncio.get_running_loop().time() + self._seconds)
            self._found += part
            left = None if left is None else left - len(part)
            beyond = self._told > self._most.size and len(self._found) >= self._most.start
            if beyond or len(self._found) > self._most.size:
                return False
        return True
