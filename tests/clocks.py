"""A clock that tests set; durations within one process stay real."""

from __future__ import annotations

import time


class FakeClock:
    def __init__(self, moment: float | None = None) -> None:
        self.moment = time.time() if moment is None else moment

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return time.monotonic()
