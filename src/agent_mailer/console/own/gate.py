"""Who may see the pages of this machine: whoever has opened the link that the command has printed, once.

Every process of this machine reaches the port, and so does every page in the browser: so a request counts only under a
name of ours (else another site could give its own name our address), with the cookie that the link was exchanged for,
and what changes something only from a page of ours.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_mailer.console.rendering import HEADERS, MADE_AT

OWN_NAME = "agent-mailer.localhost"
"""Browsers lead every name below localhost to this machine; no other program's pages get a cookie of this one."""
ENTER = "/console/enter"
LINK_SECONDS = 3600.0
_OPEN_TO_ALL = "/console/static/"
_SAFE = frozenset(("GET", "HEAD"))


class Gate:
    """Around everything. `port` is where the pages are served; `number` counts what has changed."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        scope[MADE_AT] = self._door.number
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, door, path = Headers(scope=scope), self._door, scope["path"]
        host = headers.get("host", "")
        if host not in door.hosts:
            return _says(421, "There is no console under that name.")
        if path.startswith(_OPEN_TO_ALL):
            return None
        if path == ENTER and scope["method"] == "GET":
            return door.enter(parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0], host)
        if not door.knows(headers.get("cookie", "")):
            return _says(401, "This page opens by the link that `agent-mailer console` prints; it opens once.")
        if scope["method"] not in _SAFE and not _is_ours(headers, host):
            return _says(403, "Only a page of this console may do that.")
        return None


def _is_ours(headers: Headers, host: str) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site == "same-origin"
    # A browser of text sends neither.
    return origin is None or origin == f"http://{host}"


class Door:
    """The key in the link, which opens once, and the sessions that were begun with it."""

    def __init__(self, port: int) -> None:
        self.hosts = frozenset(f"{name}:{port}" for name in (OWN_NAME, "localhost", "127.0.0.1", "[::1]"))
        self.number = time.time_ns()
        self._cookie = f"agent_mailer_own_{port}"
        self._made = time.monotonic()
        self.key = secrets.token_urlsafe(32)
        self._left = self.key
        self._sessions: set[bytes] = set()

    def enter(self, key: str, host: str) -> Response:
        """Exchange the key for a cookie; a second time nobody gets one."""
        late = time.monotonic() - self._made > LINK_SECONDS
        if late or not self._left or not hmac.compare_digest(key.encode(), self._left.encode()):
            words = (
                "This link opens once, within an hour, and has done so or is over. Run `agent-mailer console` again."
            )
            return _says(403, words)
        self._left = ""
        session = secrets.token_urlsafe(32)
        self._sessions.add(_digest(session))
        answer = RedirectResponse(f"http://{host}/console/needs", 303, {**HEADERS, "Referrer-Policy": "no-referrer"})
        # No other site leads here with it, not even by a link.
        answer.set_cookie(self._cookie, session, path="/", httponly=True, samesite="strict")
        return answer

    def knows(self, cookies: str) -> bool:
        """Programs at other ports of that host have cookies beside ours, whatever these hold."""
        given = cookie_parser(cookies).get(self._cookie, "")
        return _digest(given) in self._sessions


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()


def _says(status: int, words: str) -> Response:
    return PlainTextResponse(words + "\n", status, HEADERS)
