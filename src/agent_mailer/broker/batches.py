"""What is written together: the fewer the commits, the less each of many costs.

While some is written, others come. Whoever was answered then may come again at once: where they are not waited for,
some are always a batch behind the others, and every batch is half as large as it could be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

W = TypeVar("W")

PATIENCE = 0.5
"""How long those of the last batch are waited for, of the time that it took."""
LONGEST = 0.005
"""Seconds, at most."""
IN_VAIN = 4
"""So many batches wait for nobody after one to which nobody came."""


class Batches(Generic[W]):
    """What waits, in its order, and what is being written; of one event loop."""

    def __init__(self, most: int) -> None:
        """`most`: of one batch."""
        self._most = most
        self._waiting: deque[W] = deque()
        self._came = asyncio.Event()
        self._wanted = 1
        """How many have to wait for `_came`."""
        self._written = asyncio.Event()
        self._written.set()
        self._last, self._began, self._alone = 0, 0.0, 0

    def put(self, work: W) -> None:
        self._waiting.append(work)
        self._written.clear()
        if len(self._waiting) >= self._wanted:
            self._came.set()

    async def take(self) -> list[W]:
        """The next batch, when all of the last one is written and answered; it has one at least."""
        took = self._time() - self._began
        expected = min(len(self._waiting) + self._last, self._most)
        await self._until(1)
        if self._alone:
            self._alone -= 1
        elif len(self._waiting) < expected:
            here = len(self._waiting)
            await self._until(expected, min(took * PATIENCE, LONGEST))
            self._alone = IN_VAIN if len(self._waiting) == here else 0
        seen = 0
        while seen < len(self._waiting) < self._most:
            # Requests that are being read just now join, as long as each round of the loop brings some.
            seen = len(self._waiting)
            await asyncio.sleep(0)
        self._last = min(len(self._waiting), self._most)
        self._began = self._time()
        return [self._waiting.popleft() for _ in range(self._last)]

    def done(self) -> None:
        """The batch is written."""
        if not self._waiting:
            self._written.set()

    async def all_done(self) -> None:
        """All that waits, or is being written, is written."""
        await self._written.wait()

    async def _until(self, many: int, seconds: float | None = None) -> None:
        """So many wait, or the time is over."""
        if len(self._waiting) >= many:
            return
        self._wanted = many
        self._came.clear()
        end = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._came.set)
        try:
            await self._came.wait()
        finally:
            self._wanted = 1
            if end is not None:
                end.cancel()

    def _time(self) -> float:
        return asyncio.get_running_loop().time()
