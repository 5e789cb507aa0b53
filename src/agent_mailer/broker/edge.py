"""What stands around every request and answer, whatever route it is for."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import cast

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_mailer.broker.answers import refuse
from agent_mailer.broker.callers import either_caller
from agent_mailer.broker.data import Settings, is_number
from agent_mailer.broker.listening import LASTING, Events
from agent_mailer.broker.protocol import Fault
from agent_mailer.names import printable
from agent_mailer.outside.signature import LARGEST as LARGEST_EVENT

log = logging.getLogger("agent_mailer.broker")

BESIDE_THE_BODY = 65_536
"""What a request may hold beside a body or a file of the largest size."""
WRITTEN_AS = 6
"""Bytes that one of a body may be in a request: `\\u001b` in JSON, `%0D%0A` in a form."""
MOST_READ_AWAY = 256 * 1_048_576
SECONDS_TO_READ_AWAY = 60.0
UPLOAD = "/files/upload"
FROM_STRANGERS = 65_536
"""Bytes of a request that are looked at before it is known whose it is."""
OPEN = frozenset(("/users/login", "/users/register", "/users/logout"))
"""What a stranger may ask for with a body."""
HOOKS = "/hooks/"
"""What a stranger may call who has a secret for it: the route looks."""
_NUL = re.compile(rb"%00|\x00")
_PORT = re.compile(r":\d*$")
GUARDS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""Where the route says nothing else."""


class Edge:
    """Around everything: what is too large, or for another host, is refused before it is looked at; what fails still
    answers in JSON, and no answer is more to a browser than it is.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = settings.hosts
        self._most = WRITTEN_AS * settings.max_body_bytes + BESIDE_THE_BODY
        self._most_of_a_file = settings.max_file_bytes + BESIDE_THE_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most_of_a_file if scope["path"] == UPLOAD else self._most
        if scope["path"] in OPEN:
            most = FROM_STRANGERS
        by_hook = scope["path"].startswith(HOOKS)
        if by_hook:
            most = LARGEST_EVENT

        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                message = {**message, "headers": _guarded(message.get("headers", ()))}
            await send(message)

        if self._hosts and not is_ours(_header(scope, b"host").decode("latin-1"), self._hosts):
            host = printable(_header(scope, b"host").decode("latin-1"))[:200]
            await refuse(421, f"This broker is not {host}; its names: --host-name")(scope, receive, noted)
            return
        if _declared(scope) > most:
            # A client that is still sending would see its connection end before it reads why.
            await _read_away(receive, _declared(scope))
            await refuse(413, _too_large(most))(scope, receive, noted)
            return
        if "\0" in scope["path"] or _NUL.search(scope["query_string"]):
            await refuse(422, "The address of a request holds no NUL")(scope, receive, noted)
            return
        is_open = by_hook or scope["path"] in OPEN
        if (_declared(scope) > FROM_STRANGERS or _header(scope, b"transfer-encoding")) and not is_open:
            try:
                await either_caller(Request(scope))
            except Fault as fault:
                await _read_away(receive, _declared(scope))
                await refuse(fault.status, fault.detail, fault.headers)(scope, receive, noted)
                return
            except SQLAlchemyError:
                pass  # the route says what is wrong with the database
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > most:
                    if message.get("more_body", False):
                        await _read_away(receive, read)
                    raise HTTPException(413, _too_large(most))
            return message

        try:
            await self._app(scope, counted, noted)
            if LASTING in scope:
                # Here, so that nothing of all within is kept while it lasts.
                await cast(Events, scope.pop(LASTING)).go_on(receive, noted)
        except ClientDisconnect:
            return  # in the middle of its request: there is nobody to answer
        except asyncio.CancelledError:
            if started:
                raise
            # The broker stops, and waits no longer for what is still being sent.
            await refuse(503, "The broker is being stopped; try again", {"Retry-After": "5"})(scope, receive, noted)
        except Exception as error:
            log.error("%s %r failed: %s", scope["method"], scope["path"], _told(error))  # noqa: TRY400 - one line, not a traceback
            if not started:
                await refuse(500, "Internal Server Error")(scope, receive, noted)
        finally:
            if LASTING in scope:
                cast(Events, scope.pop(LASTING)).forget()


def _told(error: Exception) -> str:
    """A failure of our own on one line, with the place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {printable(str(error))}"


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _declared(scope: Scope) -> int:
    try:
        return int(_header(scope, b"content-length") or 0)
    except ValueError:
        return 0


async def _read_away(receive: Receive, size: int) -> None:
    """The rest of a request's body, where it is not so large that whoever sends it must be cut off, or slow.

    `size`: in bytes, what it says that it has, or what it has had.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_TO_READ_AWAY):
            more = size <= MOST_READ_AWAY
            left = MOST_READ_AWAY
            while more and left >= 0:
                message = await receive()
                more = message.get("more_body", False)
                left -= len(message.get("body", b""))


def _guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return given + [(name, value) for name, value in GUARDS if name not in names]


def is_ours(host: str, ours: Collection[str]) -> bool:
    """Whether a Host header is one of these names, at any port; a number is no name that somebody could point here."""
    name = host.rpartition(":")[0] if _PORT.search(host) else host
    name = name.strip("[]").rstrip(".").lower()
    return name in ours or is_number(name)


def _too_large(most: int) -> str:
    return f"The request is larger than {most} bytes"
