"""What makes open pages draw themselves anew: one stream a page, told at most once a second that something changed, all
pages of a user at the same moment: they draw the same, and it is drawn once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import cast

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_mailer.broker.callers import ASKED_BY, settings_of
from agent_mailer.broker.directory import Directory
from agent_mailer.broker.listening import LASTING, SEND_SECONDS, STREAM_HEAD
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.streams import Streams
from agent_mailer.console.drawing import DRAWINGS, Drawings
from agent_mailer.console.rendering import MADE_AT
from agent_mailer.console.routing import Page, person_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

EVERY = 1.0
"""Seconds between two words to the pages of one user."""
MOST_OF_A_USER = 200
CHANGED = b"event: changed\ndata: 1\n\n"
PING = b"event: ping\ndata: 1\n\n"
"""An event and no comment: a page that hears nothing for two of them knows that its connection is dead."""


def hello(heartbeat: float) -> bytes:
    """The first event; its data are the seconds after which a stream that has nothing to say pings."""
    return b"event: hello\ndata: %g\n\n" % heartbeat


class OfUser:
    """The open pages of one user, and what of theirs was drawn since they were told last."""

    def __init__(self) -> None:
        self.pages: set[OpenPage] = set()
        self.drawn = Drawings(EVERY)
        self._told = -EVERY
        self._later: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """Now, or as soon as a second has passed since the last word."""
        if self._later is None:
            loop = asyncio.get_running_loop()
            self._later = loop.call_at(max(loop.time(), self._told + EVERY), self._tell)

    def _tell(self) -> None:
        self._later, self._told = None, asyncio.get_running_loop().time()
        self.drawn.forget()
        for opened in self.pages:
            opened.look_again()

    def close(self) -> None:
        if self._later is not None:
            self._later.cancel()


class Live:
    """The pages that are open at this process, by user; it hears what arrives at agents, and what users did."""

    def __init__(self) -> None:
        self._open: dict[str, OfUser] = {}
        self._owners: dict[str, str] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._directory: Directory | None = None
        self.number = time.time_ns()
        """Grows with each change, whosever: a page that was made at another number may be old already."""

    def listen(self, streams: Streams, directory: Directory) -> None:
        """Before the first page is made. A second time does nothing."""
        if self._directory is None:
            self._directory = directory
            streams.hear(self)

    def begin(self, user_id: str, made_at: str) -> OpenPage:
        """`made_at`: the number at which the page was made. Raises Fault 429."""
        opened = OpenPage(self, user_id)
        if made_at != str(self.number):
            opened.look_again()
        of_user = self._open.setdefault(user_id, OfUser())
        if len(of_user.pages) >= MOST_OF_A_USER:
            raise Fault(429, "Too many pages are open", headers={"Retry-After": "30"})
        of_user.pages.add(opened)
        return opened

    def end(self, opened: OpenPage) -> None:
        """Forget it; a second time does nothing."""
        of_user = self._open.get(opened.user_id)
        if of_user is None:
            return
        of_user.pages.discard(opened)
        if not of_user.pages:
            of_user.close()
            del self._open[opened.user_id]

    def drawings(self, user_id: str) -> Drawings | None:
        """What pages of that user have drawn since they were told; None where no page is told of anything."""
        of_user = self._open.get(user_id)
        return None if of_user is None else of_user.drawn

    def changed(self, user_id: str) -> None:
        """Something that a page of this user may show."""
        self.number += 1
        if user_id in self._open:
            self._open[user_id].changed()

    def arrived(self, arrivals: Iterable[tuple[str, int]]) -> None:
        """Mail for these agents (id, number)."""
        self.number += 1
        if not self._open or self._directory is None:
            return
        for agent_id, _ in arrivals:
            if agent_id in self._owners:
                self.changed(self._owners[agent_id])
            else:
                task = asyncio.ensure_future(self._look_up(agent_id, self._directory))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

    async def _look_up(self, agent_id: str, directory: Directory) -> None:
        found = await directory.agent(agent_id)
        if found is not None:
            self._owners[agent_id] = found.user_id
            self.changed(found.user_id)

    def close(self) -> None:
        """The broker stops."""
        for of_user in list(self._open.values()):
            of_user.close()
            for opened in list(of_user.pages):
                opened.over = True
                opened.woken.set()


class OpenPage:
    """The stream of one page: kept, like a watcher's, where nothing of the request is kept with it."""

    def __init__(self, pages: Live, user_id: str) -> None:
        self._pages = pages
        self.user_id = user_id
        self.woken = asyncio.Event()
        self.stale = False
        """Something changed that the page has not been told of."""
        self.over = False
        self.heartbeat_seconds = 15.0

    def look_again(self) -> None:
        self.stale = True
        self.woken.set()

    def forget(self) -> None:
        self._pages.end(self)

    async def go_on(self, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(self._end_with_client(receive))
        try:
            await self._send(send, STREAM_HEAD)
            await self._tell(send, hello(self.heartbeat_seconds))
            while not self.over:
                timer = asyncio.get_running_loop().call_later(self.heartbeat_seconds, self.woken.set)
                await self.woken.wait()
                timer.cancel()
                self.woken.clear()
                if self.over:
                    break
                stale, self.stale = self.stale, False
                await self._tell(send, CHANGED if stale else PING)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass  # it takes nothing any more
        finally:
            gone.cancel()
            self.forget()

    async def _end_with_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.over = True
        self.woken.set()

    async def _tell(self, send: Send, what: bytes) -> None:
        await self._send(send, {"type": "http.response.body", "body": what, "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await send(message)


class _Lasting(Response):
    def __init__(self, opened: OpenPage) -> None:
        super().__init__(media_type="text/event-stream")
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        scope[LASTING] = self._opened


@router.get("/live")
async def stream(request: Request, made_at: str = "") -> Response:
    """Events: hello, then `changed` whenever the page should look again (at once, if something has happened since), and
    `ping` where nothing was said for a while.
    """
    person = await person_of(request)
    opened = live_of(request.app).begin(person.user_id, made_at)
    opened.heartbeat_seconds = settings_of(request).heartbeat_seconds
    return _Lasting(opened)


def live_of(app: FastAPI) -> Live:
    return cast(Live, app.state.console)


class Noticing:
    """Around everything: whoever has changed something by a call, their pages look again."""

    def __init__(self, app: ASGIApp, pages: Live) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope["app"].state
            self._pages.listen(state.streams, state.directory)
            # Before anything is read for it.
            scope[MADE_AT] = self._pages.number
            scope[DRAWINGS] = self._pages.drawings
        await self._app(scope, receive, send)
        if scope["type"] == "http" and scope["method"] != "GET" and ASKED_BY in scope:
            self._pages.changed(scope[ASKED_BY])
