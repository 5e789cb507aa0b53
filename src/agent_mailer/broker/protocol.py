"""What the protocol fixes: a refusal's shape, how moments are written, what may stand in a text.

PostgreSQL cannot hold NUL, so no text may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints


class Fault(Exception):
    """A refusal. `extra` joins `detail` in the body; `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})


class Clock:
    """The time of day, which never goes back while the broker runs: set back it goes on from where it was."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._ahead = 0.0
        """What the latest moment was ahead of the steady clock."""

    def not_before(self, moment: str) -> None:
        """Go on from `moment`, as `now_text` writes it, where the time of day is before it; other text is none."""
        try:
            stored = datetime.fromisoformat(moment).timestamp()
        except (ValueError, TypeError):
            return
        if stored - self._wall() < A_LIKELY_STEP:
            self._ahead = max(self._ahead, stored - self._steady())

    def now(self) -> datetime:
        self._ahead = max(self._ahead, self._wall() - self._steady())
        return datetime.fromtimestamp(self._ahead + self._steady(), UTC)


A_LIKELY_STEP = 10 * 86400.0
"""Seconds: what is stored as further ahead is a clock that was wrong then, not one that is wrong now."""
CLOCK = Clock()


def now_text() -> str:
    """Now in UTC as ISO 8601 with microseconds and `+00:00`: the order of such texts is the order in time."""
    return CLOCK.now().isoformat(timespec="microseconds")


def now_after(moment: str) -> str:
    """The same; where the clock of the process that wrote `moment` is ahead of ours, the moment right after that: what
    answers a message is never older than it.
    """
    now = now_text()
    if now > moment:
        return now
    return (datetime.fromisoformat(moment) + timedelta(microseconds=1)).isoformat(timespec="microseconds")


def age_seconds(moment: str) -> float:
    """Seconds since `moment`, an ISO 8601 text with a zone; infinite where it is no such text."""
    try:
        return (CLOCK.now() - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")


NO_NUL = r"^[^\x00]*$"
_UNSHOWN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
ONE_LINE = rf"^[^{_UNSHOWN}]*$"
A_WORD_AT_LEAST = rf"^[^{_UNSHOWN}]*[^\s{_UNSHOWN}][^{_UNSHOWN}]*$"

LONGEST_PROMPT = 262_144
LOCAL_PART = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"

Password = Annotated[str, Field(max_length=1024, pattern=NO_NUL)]
Label = Annotated[str, Field(max_length=200, pattern=ONE_LINE)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=A_WORD_AT_LEAST)]
LocalPart = Annotated[Label, Field(json_schema_extra={"pattern": LOCAL_PART})]
"""What stands before the @; refused with 400 and in words, not by its pattern."""
Reference = Annotated[str, Field(max_length=200, pattern=ONE_LINE)]
"""An id or an address in a body: looked up, never stored as it comes."""
Description = Annotated[str, Field(max_length=10_000, pattern=NO_NUL)]
Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT, pattern=NO_NUL)]
Tags = Annotated[
    list[Annotated[str, StringConstraints(max_length=100, pattern=ONE_LINE)]],
    Field(max_length=100),
]
