"""The clock as a parameter, and how moments are written down."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Seconds that never go back, for durations within one process."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def in_utc(moment: float) -> datetime:
    """Seconds since the epoch as a date; what a garbled record calls a moment is the nearest of four digits."""
    return datetime.fromtimestamp(min(max(moment, _YEAR_1000), _YEAR_9999), UTC)


_YEAR_1000, _YEAR_9999 = -30_610_224_000.0, 253_402_300_799.0


def iso(moment: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC with milliseconds and `Z`."""
    return in_utc(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> float:
    """ISO 8601 with a zone (or without: UTC) as seconds since the epoch; raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
