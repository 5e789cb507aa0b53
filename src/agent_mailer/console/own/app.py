"""The pages of this machine as a program: what is mounted, and how it is served until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import APIRouter, FastAPI, Response

from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.serving import bind
from agent_mailer.console import static_files
from agent_mailer.console.own import agents, live, mail, searching
from agent_mailer.console.own.gate import ENTER, OWN_NAME, Door, Gate
from agent_mailer.console.own.pages import OwnPage
from agent_mailer.console.own.port import Agents, Mail
from agent_mailer.console.rendering import leads_to
from agent_mailer.console.session import change_view

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 1
ANSWERS_KEPT = 200

_around = APIRouter(include_in_schema=False, route_class=OwnPage)


@_around.get("/")
@_around.get("/console")
async def first_page() -> Response:
    return leads_to("/console/needs")


_around.post("/console/view")(change_view)
_last = APIRouter(include_in_schema=False, route_class=OwnPage)


@_last.get("/{rest:path}")
async def nothing() -> Response:
    raise Fault(404, "There is no such page")


class Served:
    """The pages, listening. `links` open them once: the first by a name of their own, the second by the address."""

    def __init__(self, feeding: Agents, post: Mail, port: int) -> None:
        """Raises BusyFault, ConfigFault."""
        self._bound: socket.socket = bind(LOOPBACK, port)
        number = self._bound.getsockname()[1]
        door = Door(number)
        self.links = tuple(f"http://{name}:{number}{ENTER}?key={door.key}" for name in (OWN_NAME, LOOPBACK))
        self.app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self.app.state.answering = asyncio.Lock()
        self.app.state.answers = deque[tuple[str, str, str]](maxlen=ANSWERS_KEPT)
        self.app.state.agents, self.app.state.mail = feeding, post
        self.app.state.pages = self._pages = live.Pages(door, feeding.changes)
        for router in (static_files.router, live.router, _around, agents.router, mail.router, searching.router, _last):
            self.app.include_router(router)
        self.app.add_middleware(Gate, door=door)

    def run(self, ready: Callable[[], None]) -> None:
        """Until SIGTERM, SIGINT or SIGHUP; `ready` is called once requests are answered."""
        config = uvicorn.Config(
            self.app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            proxy_headers=False,
        )
        _Server(config, ready, self._pages.close).run(sockets=[self._bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._end_streams = end_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """To be asked to stop is no failure: the signal is not raised again at the end."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
