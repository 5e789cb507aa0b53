"""Clocks that tests set."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class FakeClock:
    """Durations within one process stay real."""

    def __init__(self, moment: float | None = None) -> None:
        self.moment = time.time() if moment is None else moment

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return time.monotonic()


class StoppedClock(FakeClock):
    """On it nothing takes any time."""

    def monotonic(self) -> float:
        return 0.0


class AheadOfTime(asyncio.SelectorEventLoop):
    """A loop, and a clock, that are set ahead while nobody waits."""

    ahead = clock_ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def now(self) -> float:
        return time.time() + self.clock_ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.clock_ahead


def noon() -> str:
    """A TZ where the hour is twelve: what is shown shortens a moment of another local day."""
    return f"NOON{datetime.now(UTC).hour - 12:+d}"


def utc_day() -> str:
    """The ledger's day. A test that compares what was spent today must know whether midnight has passed on the way."""
    return datetime.now(UTC).date().isoformat()
