"""Guessing passwords is slow: wrong ones are counted, by user name and by the address they come from."""

from __future__ import annotations

import math
import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from agent_mailer.broker.faults import Fault


class Throttle:
    """One per process. `rate` as in `10/5 minutes`."""

    def __init__(self, rate: str) -> None:
        self._rate = parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def check(self, username: str, host: str) -> None:
        """Raises Fault 429 with Retry-After (seconds) where either has failed too often."""
        for kind, who in (("user", username), ("host", host)):
            if await self._limiter.test(self._rate, kind, who):
                continue
            window = await self._limiter.get_window_stats(self._rate, kind, who)
            seconds = max(1, math.ceil(window.reset_time - time.time()))
            raise Fault(
                429,
                f"Too many wrong passwords; try again in {seconds} seconds",
                headers={"Retry-After": str(seconds)},
            )

    async def failed(self, username: str, host: str) -> None:
        await self._limiter.hit(self._rate, "user", username)
        await self._limiter.hit(self._rate, "host", host)

    async def succeeded(self, username: str) -> None:
        await self._limiter.clear(self._rate, "user", username)
