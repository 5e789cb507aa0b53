"""The store: many readers, and one writer that commits what has gathered in one transaction.

A durable commit costs a flush of the disk. Whatever is asked for while one is under way shares the next, so that the
number of messages a second is not the number of flushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from agent_mailer.broker.faults import Fault
from agent_mailer.broker.lanes import lane

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
LONGEST_BATCH = 128
READERS = 4

Bulk = Callable[[Connection, Sequence[A]], Sequence[R | Fault]]
"""What does the same thing for many at once: one result or Fault for each argument, in order."""


class _Work:
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
        self._writer = lane(url, writes=True, size=1)
        self._reader = lane(url, writes=False, size=READERS)
        self._waiting: asyncio.Queue[_Work] = asyncio.Queue()
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
        item = _Work(bulk, argument)
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

    async def _commit(self, batch: list[_Work]) -> None:
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

    async def _together(self, batch: list[_Work]) -> list[object]:
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


def is_trouble(error: DBAPIError) -> str:
    """What a failed database call means for whoever asked: locked, full, read-only … in a few words."""
    return (str(error.orig).splitlines() or [type(error.orig).__name__])[0][:200]


def is_busy(error: Exception) -> bool:
    """Whether somebody else holds the database; each try took as long as one waits for that."""
    return isinstance(error, OperationalError) and "locked" in is_trouble(error)
