"""`usage.json`: turns, seconds, tokens and dollars per day. What a thread or a sender took is in the turns."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.folder import StateFolder

KEEP_DAYS = 400
REMEMBER_TURNS = 256
"""Far more than can be settling at once: what makes adding a turn twice add it once."""


class Spend(msgspec.Struct, omit_defaults=True):
    turns: int = 0
    seconds: float = 0.0
    usage: Usage = Usage()

    def add(self, seconds: float, usage: Usage | None) -> None:
        self.turns += 1
        self.seconds = round(self.seconds + seconds, 3)
        if usage is not None:
            self.usage = self.usage.plus(usage)


class Day(msgspec.Struct, omit_defaults=True):
    total: Spend = msgspec.field(default_factory=Spend)


class _Ledger(msgspec.Struct, omit_defaults=True):
    days: dict[str, Day] = msgspec.field(default_factory=dict)
    applied: list[str] = msgspec.field(default_factory=list)


class UsageLedger:
    """What was spent. Days are UTC."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "usage.json"
        self._ledger: _Ledger | None = None

    def add(self, turn_id: str, at: float, seconds: float, usage: Usage | None) -> None:
        """Add one turn, once however often it is called. A loss of the newest turns to a power failure is harmless."""
        ledger = self._load()
        if turn_id in ledger.applied:
            return
        ledger.days.setdefault(self._date(at), Day()).total.add(seconds, usage)
        ledger.applied = [*ledger.applied[-REMEMBER_TURNS + 1 :], turn_id]
        for old in sorted(ledger.days)[:-KEEP_DAYS]:
            del ledger.days[old]
        self._ledger = None  # where this is refused, what the disk has counts
        self._folder.disk.replace(self._path, msgspec.json.encode(ledger) + b"\n", sync=Sync.CONTENT)
        self._ledger = ledger

    def today(self) -> Spend:
        """The sum of this day."""
        return self._load().days.get(self._date(self._folder.clock.now()), Day()).total

    def days(self) -> dict[str, Spend]:
        """The sum of each day, as `2026-11-27`, on which there was a turn."""
        return {date: day.total for date, day in sorted(self._load().days.items())}

    def _date(self, moment: float) -> str:
        """The day of a moment, in UTC; of now where a garbled record names no day there is."""
        try:
            return datetime.fromtimestamp(moment, UTC).date().isoformat()
        except (OverflowError, ValueError, OSError):
            return datetime.fromtimestamp(self._folder.clock.now(), UTC).date().isoformat()

    def _load(self) -> _Ledger:
        if self._ledger is None:
            self._ledger = self._folder.read(self._path, _Ledger, _Ledger())
        return self._ledger
