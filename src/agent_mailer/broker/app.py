"""The broker as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer import __version__
from agent_mailer.broker import about, documents, metrics, streams
from agent_mailer.broker.agents import admin, owner
from agent_mailer.broker.agents.routes import router as agents_router
from agent_mailer.broker.answers import LATER, give_handlers, refusals
from agent_mailer.broker.approvals.routes import router as links_router
from agent_mailer.broker.channels.routes import admin_router as admin_channels_router
from agent_mailer.broker.channels.routes import router as channels_router
from agent_mailer.broker.data import Keep, Settings
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import Directory
from agent_mailer.broker.edge import Edge
from agent_mailer.broker.engines import is_file
from agent_mailer.broker.hooks.admin import router as hooks_admin_router
from agent_mailer.broker.hooks.posting import post_on
from agent_mailer.broker.hooks.routes import router as hooks_router
from agent_mailer.broker.hooks.sweep import sweep_on
from agent_mailer.broker.hooks.taking import Limits
from agent_mailer.broker.memories.routes import by_key as memories_by_key
from agent_mailer.broker.memories.routes import router as memories_router
from agent_mailer.broker.messages import files, receipts
from agent_mailer.broker.messages.quick import Quick
from agent_mailer.broker.messages.routes import by_send
from agent_mailer.broker.messages.routes import router as messages_router
from agent_mailer.broker.migrate import bring_to_head
from agent_mailer.broker.numbers import Counted, Numbers
from agent_mailer.broker.operator import by_key as operator_by_key
from agent_mailer.broker.operator import router as operator_router
from agent_mailer.broker.peers import Peers
from agent_mailer.broker.protocol import CLOCK, Fault
from agent_mailer.broker.remote.routes import router as remote_router
from agent_mailer.broker.reservations.routes import router as reservations_router
from agent_mailer.broker.search.behind import Gathering
from agent_mailer.broker.search.routes import router as search_router
from agent_mailer.broker.streams import Streams
from agent_mailer.broker.tables import agents
from agent_mailer.broker.tables import receipts as receipt_rows
from agent_mailer.broker.teams.routes import router as teams_router
from agent_mailer.broker.threads.routes import router as threads_router
from agent_mailer.broker.upkeep import retention
from agent_mailer.broker.users import superadmin
from agent_mailer.broker.users.login import Passwords
from agent_mailer.broker.users.routes import keys_router
from agent_mailer.broker.users.routes import router as users_router
from agent_mailer.broker.users.throttle import Throttle


class Health(BaseModel):
    status: str


class Ready(BaseModel):
    ready: bool


READY_SECONDS = 3.0
"""How long a database may take to answer."""


def create_app(settings: Settings) -> FastAPI:
    """A broker; its lifespan opens the database, migrated, and raises MailerError where that cannot be."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await bring_to_head(settings.database)
        store = Store(settings.database)
        await store.open()
        CLOCK.not_before(await store.read(_latest_moment))
        directory = Directory(store)
        app.state.store = store
        app.state.directory = directory
        app.state.passwords = Passwords()
        app.state.throttle = Throttle(store, settings.login_attempts)
        peers = None if is_file(settings.database) else Peers(settings.database, settings.secret)
        app.state.streams = streams = Streams(store, directory, settings, peers)
        await directory.open()
        keeper: asyncio.Task[None] | None = None
        sweepers: list[asyncio.Task[None]] = []
        app.state.hooks_lock = lock = asyncio.Lock()
        limits = Limits(settings.max_body_bytes, settings.quota)
        if settings.keep != Keep():
            keeper = asyncio.create_task(retention.keep_on(store, settings.uploads, settings.keep))
        try:
            if peers is not None:
                await peers.open(streams)
                # A newer one changes the tables while it finds nobody who serves them: from now on it finds us.
                await bring_to_head(settings.database)
            await streams.open()
            sweepers.append(asyncio.create_task(sweep_on(store, streams, lock, limits)))
            sweepers.append(asyncio.create_task(post_on(store, settings.secret)))
            if is_file(settings.database):
                streams.hear(gathering := Gathering(store))
                sweepers.append(asyncio.create_task(gathering.go_on()))
            yield
        finally:
            for sweeper in sweepers:
                sweeper.cancel()
            await asyncio.gather(*sweepers, return_exceptions=True)
            if keeper is not None:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
            await streams.close()
            if peers is not None:
                await peers.close()
            await directory.close()
            await store.close()

    app = FastAPI(
        title="agent-mailer broker",
        description="A broker of the Agent Mailer Protocol.",
        version=__version__,
        lifespan=lifespan,
        responses=refusals(400, 413, 421, 422, 503),
        # Theirs load scripts from other hosts; ours is in `about`.
        docs_url=None,
        redoc_url=None,
        # Nothing leaves this machine that its operator has not asked for; and it costs every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    give_handlers(app)
    app.state.numbers = numbers = Numbers()
    app.add_middleware(Quick)
    app.add_middleware(Edge, settings=settings)
    app.add_middleware(Counted, numbers=numbers)

    @app.get("/health", tags=["broker"])
    async def health() -> Health:
        """Whether the broker answers."""
        return Health(status="ok")

    @app.get("/ready", tags=["broker"])
    async def ready() -> Ready:
        """Whether the broker can do its work: 503 while its database cannot be reached."""
        try:
            await asyncio.wait_for(app.state.store.read(lambda c: c.execute(select(1)).scalar()), READY_SECONDS)
        except (SQLAlchemyError, TimeoutError):
            words = "the database cannot be reached"
            raise Fault(503, words, headers=LATER, extra={"ready": False}) from None
        return Ready(ready=True)

    # A request is held against the routes one by one: those that are asked for all the time come first.
    for router in (
        by_send,
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
        threads_router,
        search_router,
        admin.router,
        memories_router,
        memories_by_key,
        hooks_router,
        hooks_admin_router,
        channels_router,
        admin_channels_router,
        owner.superadmin_router,
        operator_by_key,
        links_router,
        remote_router,
        reservations_router,
        metrics.router,
    ):
        app.include_router(router)
    return app


def _latest_moment(connection: Connection) -> str:
    """About when something was written last; empty where nothing was."""
    seen = connection.execute(select(func.max(agents.c.last_seen))).scalar() or ""
    newest = select(receipt_rows.c.created_at).order_by(receipt_rows.c.id.desc()).limit(1)
    return max(seen, connection.execute(newest).scalar() or "")
