"""The part of a page that changes by itself is drawn once for all who look at the same at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import Request, Response

from agent_mailer.broker.callers import person_caller
from agent_mailer.console.words import VIEW_COOKIE

DRAWINGS = "agent_mailer.drawings"
"""In the scope of a request: what gives the `Drawings` of a user (by id), or None."""
MOST_KEPT = 100

Key = tuple[str, ...]


class Drawings:
    """Answers that are the same for whoever asks so soon; `seconds` after which each is drawn anew in any case."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: dict[Key, tuple[float, asyncio.Task[Response]]] = {}

    def forget(self) -> None:
        """Something has changed: what is asked for from now on shows it. Who waits already gets what is being drawn."""
        self._kept.clear()

    async def of(self, key: Key, draw: Callable[[], Awaitable[Response]]) -> Response:
        """What is drawn under that key, by whoever asks first."""
        now = asyncio.get_running_loop().time()
        known = self._kept.get(key)
        if known is None or now - known[0] >= self._seconds:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            known = self._kept[key] = now, asyncio.ensure_future(draw())
        # Whoever asked first may leave: the others still get it.
        answer = await asyncio.shield(known[1])
        return Response(answer.body, answer.status_code, answer.headers)


async def drawn_once(request: Request, draw: Callable[[Request], Awaitable[Response]]) -> Response:
    """The answer to who asks for a part of a page. Raises Fault 401 and what `draw` raises."""
    person = await person_caller(request)
    drawings = cast(Callable[[str], Drawings | None], request.scope[DRAWINGS])(person.user_id)
    if drawings is None:
        return await draw(request)
    return await drawings.of(key_of(request, person.impersonated_by), lambda: draw(request))


def key_of(request: Request, impersonated_by: str) -> Key:
    """All that the answer depends on beside the user and the moment."""
    headers = request.headers
    return (
        *(request.url.path, request.url.query, impersonated_by, headers.get("host", "")),
        *(request.cookies.get(VIEW_COOKIE, ""), headers.get("accept-language", "")),
        headers.get("accept-encoding", ""),
    )
