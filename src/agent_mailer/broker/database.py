"""The store: many readers, and one writer that commits what has gathered in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from agent_mailer.broker.batches import Batches
from agent_mailer.broker.engines import Trouble, engine_of, is_file, trouble_of
from agent_mailer.broker.protocol import Fault

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
LONGEST_BATCH = 128
READERS = 4

TRIES = 5
"""How often a transaction that gave way to another is begun anew."""

Bulk = Callable[[Connection, Sequence[A]], Sequence[R | Fault]]
"""What does the same thing for many at once: one result or Fault for each argument, in order."""


class _Write:
    """`answer` is told the result, or the exception that there is in place of one."""

    __slots__ = ("answer", "argument", "bulk")

    def __init__(self, bulk: Bulk[Any, Any], argument: object, answer: Callable[[Any], None]) -> None:
        self.bulk = bulk
        self.argument = argument
        self.answer = answer


def _answering(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    def answer(result: object) -> None:
        if future.done():
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)

    return answer


class Store:
    """An open database. One per process; `open` before use, `close` at the end."""

    def __init__(self, url: str) -> None:
        """`url`: an SQLAlchemy URL, as `data.find_data` gives it."""
        self._writer = Executor(url, writes=True)
        self._apart = not is_file(url)
        self._reader = Executor(url, writes=False, size=READERS)
        self._batches: Batches[_Write] = Batches(LONGEST_BATCH)
        self._pump: asyncio.Task[None] | None = None

    async def open(self) -> None:
        # The first connection alone: SQLite does not wait when two want to change the journal's mode.
        await self._reader.run(lambda _: None)
        self._pump = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """What was asked for before is committed first."""
        if self._pump is not None:
            await self._batches.all_done()
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
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.submit(bulk, argument, _answering(future))
        return await future

    def submit(self, bulk: Bulk[A, R], argument: A, answer: Callable[[R | Exception], None]) -> None:
        """The same for who does not wait: `answer` is told the result, or the exception, and raises nothing."""
        self._batches.put(_Write(bulk, argument, answer))

    async def _write_on(self) -> None:
        while True:
            batch = await self._batches.take()
            try:
                for part in self._parts(batch):
                    await self._commit(part)
            finally:
                self._batches.done()

    def _parts(self, batch: list[_Write]) -> list[list[_Write]]:
        """What is committed together: at a server only what is of one kind, and so locks in one order."""
        if not self._apart:
            return [batch]
        kinds: dict[Bulk[Any, Any], list[_Write]] = {}
        for work in batch:
            kinds.setdefault(work.bulk, []).append(work)
        return list(kinds.values())

    async def _commit(self, batch: list[_Write], tries: int = TRIES) -> None:
        try:
            results: Sequence[object] = await self._together(batch)
        except Exception as error:
            trouble, alone = trouble_of(error), len(batch) == 1
            if tries and (trouble is Trouble.AGAIN or (trouble is Trouble.CONFLICT and alone)):
                # What another process has stored meanwhile is seen this time, and answered as what it is.
                await self._commit(batch, tries - 1 if trouble is Trouble.AGAIN else 0)
                return
            if not alone and trouble not in (Trouble.BUSY, Trouble.AWAY):
                # One of them failed: each gets a transaction of its own.
                for work in batch:
                    await self._commit([work])
                return
            results = [error] * len(batch)
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


class Executor:
    """A number of connections, each with one piece of work at a time: one hop to a thread for all of its statements."""

    def __init__(self, url: str, *, writes: bool, size: int = 1, stores: bool = True) -> None:
        """What `engine_of` makes of these."""
        self._engine = engine_of(url, writes=writes, size=size, stores=stores)
        self._writes = writes
        self._kept: Connection | None = None
        self._pool = ThreadPoolExecutor(size, "writer" if writes else "reader")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Where the executor writes: in one transaction, durable on return. `work` may run twice. Raises as it and the
        database do.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        self._let_go()
        self._engine.dispose()

    def _do(self, work: Callable[[Connection], T]) -> T:
        committing = False

        def once() -> T:
            nonlocal committing
            with self._connected() as connection:
                if not self._writes:
                    return work(connection)
                with connection.begin():
                    result = work(connection)
                    committing = True
                return result

        try:
            return once()
        except DBAPIError as error:
            # A server that was started again has ended the connections that are kept here: the next one is new.
            # But whoever was lost while committing may have committed.
            if committing or not error.connection_invalidated:
                raise
        return once()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Whoever writes to a file keeps the connection until something fails: to take one out of the pool and put it
        back costs more than to begin and to commit.
        """
        if not self._writes or self._engine.dialect.name != "sqlite":
            with self._engine.connect() as connection:
                yield connection
            return
        if self._kept is None:
            self._kept = self._engine.connect()
        try:
            yield self._kept
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.close()
