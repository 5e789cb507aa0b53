"""The store: many readers, and one writer that commits what has gathered in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

from agent_mailer.broker.protocol import Fault

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
LONGEST_BATCH = 128
READERS = 4

# FULL: a commit that was answered survives a power cut (with NORMAL it may not).
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")
_STORES_PRAGMAS = ("journal_mode=WAL", *_PRAGMAS)

Bulk = Callable[[Connection, Sequence[A]], Sequence[R | Fault]]
"""What does the same thing for many at once: one result or Fault for each argument, in order."""


class _Write:
    def __init__(self, bulk: Bulk[Any, Any], argument: object) -> None:
        self.bulk = bulk
        self.argument = argument
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer(self, result: object) -> None:
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Store:
    """An open database. One per process; `open` before use, `close` at the end."""

    def __init__(self, url: str) -> None:
        """`url`: an SQLAlchemy URL; of a server with an async driver, of a file `sqlite:////path/to/file`."""
        self._writer = executor(url, writes=True, size=1)
        self._reader = executor(url, writes=False, size=READERS)
        self._waiting: asyncio.Queue[_Write] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None

    async def open(self) -> None:
        # The first connection alone: SQLite does not wait when two want to change the journal's mode.
        await self._reader.run(lambda _: None)
        self._pump = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """What was asked for before is committed first."""
        if self._pump is not None:
            await self._waiting.join()
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        await self._reader.close()
        await self._writer.close()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which only reads; each of its statements sees what is committed then. Raises as `work` does."""
        return await self._reader.run(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction and return its result once that is durable.

        `work` may run more than once, and it raises Fault only before its first write: so others in the same
        transaction are not disturbed.
        """
        return await self.write_each(_one, work)

    async def write_each(self, bulk: Bulk[A, R], argument: A) -> R:
        """The same for what can be done for many at once: `bulk` gets every argument that waits for it, in order."""
        item = _Write(bulk, argument)
        self._waiting.put_nowait(item)
        result: R = await item.future
        return result

    async def _write_on(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            seen = 0
            while seen < len(batch) < LONGEST_BATCH:
                # Requests that are being read just now join, as long as each round of the loop brings some.
                seen = len(batch)
                await asyncio.sleep(0)
                while len(batch) < LONGEST_BATCH and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
            try:
                await self._commit(batch)
            finally:
                for _ in batch:
                    self._waiting.task_done()

    async def _commit(self, batch: list[_Write]) -> None:
        try:
            results = await self._together(batch)
        except Exception as error:
            if len(batch) == 1 or is_busy(error):
                for work in batch:
                    work.answer(error)
                return
            # One of them failed: each gets a transaction of its own.
            for work in batch:
                await self._commit([work])
            return
        for work, result in zip(batch, results, strict=True):
            work.answer(result)

    async def _together(self, batch: list[_Write]) -> list[object]:
        def apply(connection: Connection) -> list[object]:
            results: list[object] = []
            for bulk, group in groupby(batch, key=lambda work: work.bulk):
                results += bulk(connection, [work.argument for work in group])
            return results

        return await self._writer.run(apply)


def _one(connection: Connection, works: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    results: list[Any] = []
    for work in works:
        try:
            results.append(work(connection))
        except Fault as fault:
            results.append(fault)
    return results


def error_words(error: DBAPIError) -> str:
    """What a failed database call means for whoever asked: locked, full, read-only … in a few words."""
    return (str(error.orig).splitlines() or [type(error.orig).__name__])[0][:200]


def is_busy(error: Exception) -> bool:
    """Whether somebody else holds the database; each try took as long as one waits for that."""
    return isinstance(error, OperationalError) and "locked" in error_words(error)


class Executor(Protocol):
    """A number of connections, each with one piece of work at a time."""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Where the executor writes: in one transaction, durable on return. Raises as `work` and the database do."""
        ...

    async def close(self) -> None: ...


def executor(url: str, *, writes: bool, size: int) -> Executor:
    """`size` connections to the database at `url`; a file is brought to the journal mode of a Store."""
    if is_file(url):
        return _FileExecutor(url, _STORES_PRAGMAS, writes=writes, size=size)
    return _ServerExecutor(url, writes=writes, size=size)


def writer(url: str) -> Executor:
    """One connection that writes; for what is done before a Store is opened. A file that it only looks into stays as it
    is, to the last byte.
    """
    return (
        _FileExecutor(url, _PRAGMAS, writes=True, size=1) if is_file(url) else _ServerExecutor(url, writes=True, size=1)
    )


def is_file(url: str) -> bool:
    """Whether `url` names a database file. Raises sqlalchemy.exc.ArgumentError."""
    return make_url(url).get_backend_name() == "sqlite"


class _ServerExecutor:
    """The driver waits for the server in the event loop."""

    def __init__(self, url: str, *, writes: bool, size: int) -> None:
        self._engine = create_async_engine(url, pool_size=size, pool_pre_ping=True)
        self._writes = writes

    async def run(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.begin() if self._writes else self._engine.connect() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


class _FileExecutor:
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
