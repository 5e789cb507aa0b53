"""The broker as an ASGI application."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_mailer import __version__
from agent_mailer.broker import about, documents, streams
from agent_mailer.broker.agents import owner
from agent_mailer.broker.agents.routes import router as agents_router
from agent_mailer.broker.answers import give_handlers, refusals, refuse
from agent_mailer.broker.data import Settings
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import Directory
from agent_mailer.broker.messages import files, receipts
from agent_mailer.broker.messages.routes import router as messages_router
from agent_mailer.broker.migrate import bring_to_head
from agent_mailer.broker.operator import by_key as operator_by_key
from agent_mailer.broker.operator import router as operator_router
from agent_mailer.broker.streams import Streams
from agent_mailer.broker.teams.routes import router as teams_router
from agent_mailer.broker.users import superadmin
from agent_mailer.broker.users.login import Passwords, Throttle
from agent_mailer.broker.users.routes import keys_router
from agent_mailer.broker.users.routes import router as users_router
from agent_mailer.names import printable

log = logging.getLogger("agent_mailer.broker")

BESIDE_THE_BODY = 65_536
"""What a request may hold beside a body or a file of the largest size."""
UPLOAD = "/files/upload"
_NUL = re.compile(rb"%00|\x00")


class Health(BaseModel):
    status: str


def create_app(settings: Settings) -> FastAPI:
    """A broker; its lifespan opens the database, migrated, and raises MailerError where that cannot be."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await bring_to_head(settings.database)
        store = Store(settings.database)
        await store.open()
        directory = Directory(store)
        app.state.store = store
        app.state.directory = directory
        app.state.passwords = Passwords()
        app.state.throttle = Throttle(settings.login_attempts)
        app.state.streams = Streams(store, directory, settings.heartbeat_seconds)
        await directory.open()
        await app.state.streams.open()
        try:
            yield
        finally:
            await app.state.streams.close()
            await directory.close()
            await store.close()

    app = FastAPI(
        title="agent-mailer broker",
        description="A broker of the Agent Mailer Protocol.",
        version=__version__,
        lifespan=lifespan,
        responses=refusals(400, 413, 422, 503),
        # Nothing leaves this machine that its operator has not asked for; and it costs every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    give_handlers(app)
    app.add_middleware(Edge, settings=settings)

    @app.get("/health", tags=["broker"])
    async def health() -> Health:
        """Whether the broker answers."""
        return Health(status="ok")

    # A request is held against the routes one by one: those that are asked for all the time come first.
    for router in (
        streams.router,
        receipts.router,
        messages_router,
        agents_router,
        documents.router,
        about.router,
        users_router,
        keys_router,
        superadmin.router,
        owner.router,
        teams_router,
        files.router,
        operator_router,
        owner.superadmin_router,
        operator_by_key,
    ):
        app.include_router(router)
    return app


class Edge:
    """Around everything: what is too large is refused before it is read, and what fails still answers in JSON."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._most = 2 * settings.max_body_bytes + BESIDE_THE_BODY
        self._most_of_a_file = settings.max_file_bytes + BESIDE_THE_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most_of_a_file if scope["path"] == UPLOAD else self._most
        if _declared(scope) > most:
            await refuse(413, _too_large(most))(scope, receive, send)
            return
        if "\0" in scope["path"] or _NUL.search(scope["query_string"]):
            await refuse(422, "The address of a request holds no NUL")(scope, receive, send)
            return
        read, started = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > most:
                    raise HTTPException(413, _too_large(most))
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except Exception as error:
            log.error("%s %r failed: %s", scope["method"], scope["path"], _told(error))  # noqa: TRY400 - one line, not a traceback
            if not started:
                await refuse(500, "Internal Server Error")(scope, receive, send)


def _told(error: Exception) -> str:
    """A failure of our own on one line, with the place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {printable(str(error))}"


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            try:
                return int(value)
            except ValueError:
                return 0
    return 0


def _too_large(most: int) -> str:
    return f"The request is larger than {most} bytes"
