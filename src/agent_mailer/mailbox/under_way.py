"""Requests that a server may still carry out when nobody waits for them any more.

Where it does not recognise a second delivery, an item is sent again only after a look that found nothing, and such a
look means something only once none of our requests can be under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agent_mailer.clock import Clock

UNDER_WAY_SECONDS: Final = 5.0
"""So long a request may still be carried out after its connection was given up."""


class UnderWay:
    """When each item was last asked for.

    A predecessor may have been killed just now: what this process has not asked for counts from when this was made.
    """

    def __init__(self, clock: Clock, seconds: float = UNDER_WAY_SECONDS) -> None:
        self._clock = clock
        self._seconds = seconds
        self._began = clock.monotonic()
        self._tried: dict[str, float] = {}

    @contextmanager
    def asking(self, item_id: str) -> Iterator[None]:
        """One request for the item, from before it leaves until it has ended in whatever way."""
        self._tried[item_id] = self._clock.monotonic()
        try:
            yield
        finally:
            self._tried[item_id] = self._clock.monotonic()

    def answered(self, item_id: str) -> None:
        """It is known what became of every request for the item."""
        self._tried.pop(item_id, None)

    def rest(self, item_id: str) -> float:
        """Seconds until no request for the item can be under way."""
        since = self._tried.get(item_id, self._began)
        return max(0.0, since + self._seconds - self._clock.monotonic())
