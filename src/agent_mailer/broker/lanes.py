"""Where work on the database is done: in the event loop for a server, in threads for a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool


# FULL: a commit that was answered survives a power cut (with NORMAL it may not).
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")
_STORES_PRAGMAS = ("journal_mode=WAL", *_PRAGMAS)


class Lane(Protocol):
    """A number of connections, each with one piece of work at a time."""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Where the lane writes: in one transaction, durable on return. Raises as `work` and the database do."""
        ...

    async def close(self) -> None: ...


def lane(url: str, *, writes: bool, size: int) -> Lane:
    """`size` connections to the database at `url`; a file is brought to the journal mode of a Store."""
    if is_file(url):
        return _Threads(url, _STORES_PRAGMAS, writes=writes, size=size)
    return _Server(url, writes=writes, size=size)


def writer(url: str) -> Lane:
    """One connection that writes; for what is done before a Store is opened. A file that it only looks into stays as it
    is, to the last byte.
    """
    return _Threads(url, _PRAGMAS, writes=True, size=1) if is_file(url) else _Server(url, writes=True, size=1)


def is_file(url: str) -> bool:
    """Whether `url` names a database file. Raises sqlalchemy.exc.ArgumentError."""
    return make_url(url).get_backend_name() == "sqlite"


class _Server:
    """The driver waits for the server in the event loop."""

    def __init__(self, url: str, *, writes: bool, size: int) -> None:
        self._engine = create_async_engine(url, pool_size=size, pool_pre_ping=True)
        self._writes = writes

    async def run(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.begin() if self._writes else self._engine.connect() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


class _Threads:
    """One hop to a thread for all that is to be done; an async driver for files hops for every statement, which costs
    more than the statement.
    """

    def __init__(self, url: str, pragmas: Sequence[str], *, writes: bool, size: int) -> None:
        self._engine = _file_engine(url, pragmas, writes=writes, size=size)
        self._writes = writes
        self._pool = ThreadPoolExecutor(size, "writer" if writes else "reader")

    async def run(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    def _do(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() if self._writes else self._engine.connect() as connection:
            return work(connection)

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        self._engine.dispose()


def _file_engine(url: str, pragmas: Sequence[str], *, writes: bool, size: int) -> Engine:
    engine = create_engine(
        make_url(url).set(drivername="sqlite"),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        connect_args={"isolation_level": None, "check_same_thread": False},
        # Readers begin nothing, so they have nothing to end.
        pool_reset_on_return="rollback" if writes else None,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if not writes:
        return engine.execution_options(isolation_level="AUTOCOMMIT")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail where another connection wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
