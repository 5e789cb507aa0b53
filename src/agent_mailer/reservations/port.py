"""The values of a reservation, and the protocol of what keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from agent_mailer.choices import OnConflict as OnConflict  # noqa: PLC0414 - of this port, where most look for it

MOST_PATTERNS: Final = 100
"""So many paths one turn, or one person, may ask for at once."""

LONGEST: Final = 30 * 86400.0
"""Seconds; what claims to last longer is of a clock that was wrong."""


class ReservePolicy(msgspec.Struct, frozen=True):
    """`patterns` are reserved before each turn; none = nothing is. They count from the project's folder."""

    patterns: tuple[str, ...] = ()
    on_conflict: OnConflict = OnConflict.WAIT


class Owner(msgspec.Struct, frozen=True):
    """`address` may be another's name for itself; `turn` is empty for what a person has reserved."""

    address: str
    turn: str = ""


class Reservation(msgspec.Struct, frozen=True):
    """`pattern` counts from the folder `project` (absolute); `until` is seconds since the epoch."""

    owner: Owner
    project: str
    pattern: str
    until: float


class How(StrEnum):
    """What became of a file."""

    MADE = "made"
    CHANGED = "changed"
    REMOVED = "removed"


class Doubt(StrEnum):
    """What is known of the file's holder in that time."""

    IDLE = "idle"
    """None of its own calls ran."""
    BUSY = "busy"
    """One ran, and may have done it."""
    UNKNOWN = "unknown"


class Touched(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that changed while `holder` had it reserved by `pattern`. `by_call`: while a shell command of ours ran."""

    path: str
    how: How
    holder: str
    pattern: str
    doubt: Doubt
    by_call: bool = True


class Reservations(Protocol):
    """The reservations of one project, for one address.

    Every method may raise MailboxUnavailable: then the same call may be made again.
    """

    async def take(self, turn: str, patterns: Sequence[str], seconds: float) -> Sequence[Reservation]:
        """All of the patterns or none: what stands in the way, empty where they are ours for `seconds` from now.

        What the same owner has already is not in the way, lasts as long as the new ones at least, and ends no earlier.
        """

    async def renew(self, turn: str, seconds: float) -> bool:
        """Whether all that the turn had is its own still, and now for `seconds` more."""

    async def release(self, turn: str, patterns: Sequence[str] = ()) -> int:
        """Give these back, or all that the owner has; how many. Again is no fault."""

    async def held(self) -> Sequence[Reservation]:
        """All that stand now, everybody's."""
