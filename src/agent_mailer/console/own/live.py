"""What makes the open pages of this machine draw themselves anew: one stream a page, fed by the files' own events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from agent_mailer.console.live import CHANGED, PING, hello
from agent_mailer.console.own.gate import Door
from agent_mailer.console.rendering import HEADERS
from agent_mailer.errors import MailerError

HEARTBEAT = 15.0
Changes = Callable[[], AsyncIterator[None]]

router = APIRouter(prefix="/console", include_in_schema=False)


class Pages:
    """The pages that are open. While there are none nothing is watched."""

    def __init__(self, door: Door, changes: Changes, heartbeat: float = HEARTBEAT) -> None:
        self._door = door
        self._heartbeat = heartbeat
        self._changes = changes
        self._open: set[asyncio.Event] = set()
        self._following: asyncio.Task[None] | None = None
        self._over = False

    def changed(self) -> None:
        """A page that was made at another number may be old."""
        self._door.number += 1
        for page in self._open:
            page.set()

    def close(self) -> None:
        """The program ends: every stream does."""
        self._over = True
        self.changed()

    async def stream(self, made_at: str) -> AsyncIterator[bytes]:
        woken = asyncio.Event()
        if made_at != str(self._door.number):
            woken.set()
        self._open.add(woken)
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        try:
            yield hello(self._heartbeat)
            while not self._over:
                try:
                    await asyncio.wait_for(woken.wait(), self._heartbeat)
                except TimeoutError:
                    yield PING
                    continue
                woken.clear()
                yield CHANGED
        finally:
            self._open.discard(woken)
            if not self._open and self._following is not None:
                self._following.cancel()
                self._following = None

    async def _follow(self) -> None:
        """Where nothing can be watched the pages look again now and then, as they do without a stream."""
        while True:
            with suppress(MailerError, OSError):
                async for _ in self._changes():
                    self.changed()
            await asyncio.sleep(self._heartbeat)
            self.changed()


@router.get("/live")
async def live(request: Request, made_at: str = "") -> Response:
    """Events: hello, then `changed` whenever the page should look again."""
    pages: Pages = request.app.state.pages
    return StreamingResponse(pages.stream(made_at), headers=HEADERS, media_type="text/event-stream")
