"""A clock that tests set; durations within one process stay real."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class FakeClock:
    def __init__(self, moment: float | None = None) -> None:
        self.moment = time.time() if moment is None else moment

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return time.monotonic()


def utc_day() -> str:
    """The ledger's day. A test that compares what was spent today must know whether midnight has passed on the way."""
    return datetime.now(UTC).date().isoformat()
