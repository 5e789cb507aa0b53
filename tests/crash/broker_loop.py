"""A loop in which our broker runs beside those who use it: the real application over its real database, and pairs of
sockets instead of a network. What threads would do is done in the loop, at a moment that the seed decides.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import uvicorn
from fastapi import FastAPI
from tests.broker_desk import DOMAIN, running_broker
from tests.crash.seeded import LIFE, Others, SeededLoop
from uvicorn.server import ServerState

from agent_mailer.broker.app import create_app
from agent_mailer.broker.connections import patient
from agent_mailer.broker.data import Settings
from agent_mailer.broker.messages.direct import Direct

PORT = 9
URL = f"http://127.0.0.1:{PORT}"
SLOW = 0.05
"""Seconds that a piece of work of a thread may take."""


class BrokerLoop(SeededLoop):
    """Connections to `PORT` are pairs of sockets, whose other ends `server` has; refused where it is None."""

    def __init__(self, seed: int, others: Others) -> None:
        super().__init__(seed, others)
        self.server: Callable[[], asyncio.Protocol] | None = None
        self.theirs: list[asyncio.Transport] = []
        self._ours: list[tuple[int, asyncio.Transport]] = []

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], host: str | None = None, port: int | None = None, **more: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        assert port == PORT, f"nobody here connects to {host}:{port}"
        if self.server is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setblocking(False)
        # What the broker does with it is nobody's else.
        transport, _ = await self.begin(0, self.connect_accepted_socket(self.server, theirs))
        self.theirs.append(transport)
        try:
            made, protocol = await super().create_connection(factory, sock=ours)
        except BaseException:
            # Killed in the middle: the system closes it.
            self.remove_reader(ours.fileno())
            ours.close()
            raise
        self._ours = [(life, one) for life, one in self._ours if not one.is_closing()]
        self._ours.append((LIFE.get(), made))
        return made, protocol

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        told: asyncio.Future[Any] = self.create_future()

        def do() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:
                if not told.done():
                    told.set_exception(error)
            else:
                if not told.done():
                    told.set_result(result)

        if self.chance.random() < 0.5:
            self.call_soon(do)
        else:
            self.call_later(self.chance.uniform(0.0, SLOW), do)
        return told

    def kill(self, life: int) -> None:
        for its, one in self._ours:
            if its == life:
                one.abort()
        super().kill(life)

    def cut(self, *, every: bool) -> None:
        alive = [one for one in self.theirs if not one.is_closing()]
        for one in alive:
            if every or self.chance.random() < 0.5:
                one.abort()
        self.theirs = [one for one in alive if not one.is_closing()]


class Made(NamedTuple):
    """A broker's database with a user and an agent of hers; `operator`: she herself, as mail knows her."""

    folder: Path
    key: str
    coder: dict[str, Any]
    operator: dict[str, Any]


def made_broker(folder: Path) -> Made:
    with running_broker(folder) as desk:
        ann = desk.person("ann")
        told = desk.call("GET", "/admin/human-operator", headers=ann.login)
        operator = {"id": told["agent_id"], "address": f"human-operator@ann.{DOMAIN}"}
        return Made(folder, ann.key, desk.agent(ann, "coder"), operator)


@cache
def app_at(database: str, uploads: Path) -> tuple[FastAPI, uvicorn.Config]:
    """Made once for a place: its state is made anew each time that it begins."""
    app = create_app(Settings(database, uploads, "s" * 32))
    protocol = cast(type[asyncio.Protocol], patient(120.0, 10_000, Direct(app, proxied=False)))
    config = uvicorn.Config(app, http=protocol, log_config=None, access_log=False, lifespan="off")
    config.load()
    return app, config


class RunningBroker:
    """The application in a loop; stopped, all connections end."""

    def __init__(self, loop: BrokerLoop, app: FastAPI, config: uvicorn.Config) -> None:
        self.loop, self._app, self._config = loop, app, config
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()

    async def start(self) -> None:
        self._over = asyncio.Event()
        ready = asyncio.Event()

        async def serve() -> None:
            async with self._app.router.lifespan_context(self._app):
                ready.set()
                await self._over.wait()

        self._task = asyncio.create_task(serve())
        await ready.wait()
        state, protocol = ServerState(), cast(Any, self._config.http_protocol_class)
        self.loop.server = lambda: protocol(config=self._config, server_state=state, app_state={}, _loop=self.loop)

    async def restart(self, seconds: float) -> None:
        """It is away for so long, and comes back whatever becomes of whoever has asked for it."""

        async def away() -> None:
            async with self._one:
                await self._stop()
                await asyncio.sleep(seconds)
                await self.start()

        await asyncio.shield(asyncio.create_task(away()))

    async def stop(self) -> None:
        async with self._one:
            await self._stop()

    async def _stop(self) -> None:
        self.loop.server = None
        self.loop.cut(every=True)
        self._over.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
