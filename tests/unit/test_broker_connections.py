"""Connections of a broker: what of a request has to come in time, on a loop that is set ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from tests.clocks import AheadOfTime
from uvicorn.server import ServerState

from agent_mailer.broker.connections import patient

SECONDS = 3600.0
WHOLE = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
WITH_BODY = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
SAID: tuple[tuple[bytes, ...], ...] = (
    (b"",),
    (b"GET /a HT",),
    (WITH_BODY + b"1",),
    # After a whole one: at once, when it was answered, and after another.
    (WHOLE + WHOLE[:8],),
    (WHOLE, WHOLE[:8]),
    (WHOLE, WHOLE, WITH_BODY),
    (WITH_BODY + b"123456789", WITH_BODY + b"1"),
)
"""What comes in pieces, each when the one before was answered; the last is no whole request."""


class _NothingDirect:
    """Every request goes to the application."""

    def may_take(self, scope: Any) -> bool:
        return False

    def take(self, scope: Any, raw: bytes, answered: Callable[[bytes | None], None]) -> bool:
        return False


async def says_yes(scope: Scope, receive: Receive, send: Send) -> None:
    while (said := await receive()).get("more_body"):
        pass
    if said["type"] == "http.request":
        await PlainTextResponse("yes")(scope, receive, send)


def test_each_request_of_a_connection_has_to_come_whole_in_time() -> None:
    loop = AheadOfTime()
    protocol: Any = patient(SECONDS, 100, _NothingDirect())
    config = uvicorn.Config(
        cast(Any, says_yes), http=protocol, log_config=None, lifespan="off", timeout_keep_alive=10**6, access_log=False
    )
    config.load()
    state, ended = ServerState(), asyncio.Semaphore(0)

    class Connection(protocol):  # type: ignore[misc]
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.release()

    async def answered(reader: asyncio.StreamReader) -> None:
        await reader.readuntil(b"\r\n\r\nyes")

    async def all_of_it() -> None:
        server = await loop.create_server(
            lambda: Connection(config=config, server_state=state, app_state={}, _loop=loop), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        ways = [await asyncio.open_connection("127.0.0.1", port) for _ in SAID]
        patient_reader, patient_writer = await asyncio.open_connection("127.0.0.1", port)
        for (reader, writer), pieces in zip(ways, SAID, strict=True):
            for piece in pieces[:-1]:
                writer.write(piece)
                await answered(reader)
            writer.write(pieces[-1])
            if pieces[-1].startswith(WHOLE):
                await answered(reader)
        # Whoever is answered after them was read after them.
        patient_writer.write(WHOLE)
        await answered(patient_reader)
        loop.ahead += SECONDS - 60
        # Some more of it brings no more time.
        for (_, writer), pieces in zip(ways, SAID, strict=True):
            writer.write(b"2" if WITH_BODY in pieces[-1] else b"")
        patient_writer.write(WHOLE)
        await answered(patient_reader)
        assert not any(reader.at_eof() for reader, _ in ways)
        loop.ahead += 120
        async with asyncio.timeout(30):
            assert [await reader.read() for reader, _ in ways] == [b""] * len(ways)
        # Who has said all there is to say is not hurried.
        patient_writer.write(WHOLE)
        await answered(patient_reader)
        for _, writer in (*ways, (patient_reader, patient_writer)):
            writer.close()
        server.close()
        for _ in (*ways, patient_writer):
            await ended.acquire()
        assert not state.connections

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(all_of_it())
