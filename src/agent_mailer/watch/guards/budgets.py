"""`[limits]`: what turns may take of a day, whole, of one thread, and of one sender.

The turns' records are the ledger: a turn that is under way counts with what is reserved for it, a settled one with what
it took, also where it was killed. Days are local. Agents that share a name share a day: each writes down its own sum
beside those of the others, and counts theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path

import msgspec

from agent_mailer.amounts import dollars
from agent_mailer.beneath import is_file, is_there
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import path_name, prompt_word, turn_id_at
from agent_mailer.state.folder import GARBLED
from agent_mailer.state.records import TurnRecord
from agent_mailer.state.turns import TurnStore
from agent_mailer.state.workdirs import user_state

UNITS = ("turns", "minutes", "tokens", "dollars")
WHOSE = ("day", "thread", "sender")
DAY = 86400.0
MOST_FOLDED = 5000
"""Turns of one day; who lets more run has switched the guards off."""

LAST = 10
"""Of so many turns the largest is reserved for the next."""


class BudgetPolicy(msgspec.Struct, frozen=True):
    """0 = no limit. `reserve`: dollars that one turn cannot go beyond, where the agent program holds that."""

    turns_per_day: float = 0
    minutes_per_day: float = 0
    tokens_per_day: float = 0
    dollars_per_day: float = 0
    turns_per_thread: float = 0
    minutes_per_thread: float = 0
    tokens_per_thread: float = 0
    dollars_per_thread: float = 0
    turns_per_sender: float = 0
    minutes_per_sender: float = 0
    tokens_per_sender: float = 0
    dollars_per_sender: float = 0
    share: str = ""
    reserve: float = 0.0

    @property
    def limits(self) -> bool:
        return any(getattr(self, key) for key in self.names())

    def names(self) -> list[str]:
        return [f"{unit}_per_{whose}" for whose in WHOSE for unit in UNITS]


def limit_today(policy: BudgetPolicy, key: str, raised: float | None) -> float:
    """0 = no limit. A person raises one that there is; where it has been taken out since, there is none."""
    limit = float(getattr(policy, key))
    return raised if limit and raised is not None else limit


class Spent(msgspec.Struct, frozen=True):
    turns: float = 0
    minutes: float = 0.0
    tokens: float = 0
    dollars: float = 0.0

    def plus(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, unit) + getattr(other, unit) for unit in UNITS))


NOTHING = Spent()


class Line(msgspec.Struct, frozen=True):
    """One turn in the ledger."""

    at: float
    thread: str
    sender: str
    spent: Spent


class Over(msgspec.Struct, frozen=True):
    """A limit that the next turn would go beyond: its key, whose it is (day, thread, sender), and why for people."""

    key: str
    whose: str
    why: str


class Ledger:
    """What this workdir's turns took."""

    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy
        self._lines: dict[str, Line] = {}
        self._sizes: list[Spent] = []

    def reserve(self, envelope: Envelope, now: float) -> None:
        """It is about to be claimed: whoever is looked at next finds less."""
        self._lines[envelope.id] = Line(now, envelope.thread, envelope.sender, self._reserved())

    def forget(self, record: TurnRecord) -> None:
        """Nothing ran."""
        self._lines.pop(record.envelope.id, None)
        self._lines.pop(record.turn_id, None)

    def put_back(self, envelope: Envelope) -> bool:
        """It is not to be claimed now; whether something was reserved for it."""
        return self._lines.pop(envelope.id, None) is not None

    def note(self, record: TurnRecord) -> None:
        """The record as it is now; once more, it counts as it is then."""
        self._lines.pop(record.envelope.id, None)
        known = self._lines.pop(record.turn_id, None)
        settlement = record.settlement
        if settlement is not None and record.process is None:
            return
        spent = self._reserved() if known is None else known.spent
        if settlement is not None:
            usage, reserved = settlement.usage, spent
            spent = Spent(1, settlement.seconds / 60)
            if usage is not None:
                spent = Spent(1, spent.minutes, usage.input_tokens + usage.output_tokens, usage.cost_usd)
                self._sizes = [*self._sizes[1 - LAST :], spent]
            elif not settlement.outcome.settles:
                # It was ended before it could say what it took.
                spent = msgspec.structs.replace(spent, tokens=reserved.tokens, dollars=reserved.dollars)
        envelope = record.envelope
        self._lines[record.turn_id] = Line(record.claimed_at, envelope.thread, envelope.sender, spent)

    def today(self, now: float, *, thread: str = "", sender: str = "") -> Spent:
        """Of all, of a thread, or of a sender. What a clock that was set back has left ahead counts as of today."""
        since, total = midnight(now), Spent()
        for turn_id, line in list(self._lines.items()):
            if line.at < since - 86400:
                del self._lines[turn_id]
            elif line.at >= since and thread in ("", line.thread) and sender in ("", line.sender):
                total = total.plus(line.spent)
        return total

    def over(self, now: float, envelope: Envelope, limit_of: Callable[[str], float], others: Spent) -> Over | None:
        """The first limit that one more turn would go beyond. `others`: what those took who share the day."""
        thread, sender = envelope.thread, envelope.sender
        return (
            self.day_over(now, limit_of, others)
            or self._first_over(
                "thread", self.today(now, thread=thread), limit_of, f" by {prompt_word(thread, 'thread')}"
            )
            or self._first_over(
                "sender", self.today(now, sender=sender), limit_of, f" for {prompt_word(sender, 'sender')}"
            )
        )

    def day_over(self, now: float, limit_of: Callable[[str], float], others: Spent) -> Over | None:
        """The same of the day's limits, whoever the turn is for."""
        return self._first_over("day", self.today(now).plus(others), limit_of, others=others)

    def _first_over(
        self, whose: str, spent: Spent, limit_of: Callable[[str], float], by: str = "", others: Spent = NOTHING
    ) -> Over | None:
        next_one = self._reserved()
        for unit in UNITS:
            key = f"{unit}_per_{whose}"
            limit = limit_of(key)
            if not limit:
                continue
            taken, more = getattr(spent, unit), getattr(next_one, unit)
            hard = unit == "turns" or (unit == "dollars" and self._policy.reserve)
            # A guess at what the next may take does not keep a whole day from its first turn.
            if taken >= limit or (taken + more > limit and (taken or hard)):
                are = "is" if unit != "dollars" and round(taken) == 1 else "are"
                theirs = getattr(others, unit)
                shared = f", {_told(theirs, unit)} of it by others of its share" if theirs else ""
                why = f"limits.{key} is {_told(limit, unit)}; {_told(taken, unit)} {are} taken{by}{shared}"
                return Over(key, whose, why)
        return None

    def _reserved(self) -> Spent:
        largest = [max((getattr(one, unit) for one in self._sizes), default=0.0) for unit in UNITS]
        return Spent(1, largest[1], largest[2], self._policy.reserve or largest[3])


class Shared:
    """The sums of the agents that share a name, one file each in a folder of the user."""

    def __init__(self, folder: Path, name: str, workdir: Path, disk: Disk) -> None:
        self._folder = folder / path_name(name)
        self._own = f"{path_name(str(workdir))}.json"
        self._disk = disk

    def alone(self) -> AbstractContextManager[object]:
        """While it lasts nobody else looks and starts."""
        from filelock import FileLock

        self._disk.make_directory(self._folder)
        return FileLock(self._folder / ".lock", timeout=5, mode=0o600, fallback_to_soft=False)

    def others(self, now: float) -> Spent:
        total = Spent()
        for path in self._folder.glob("*.json"):
            if path.name != self._own:
                total = total.plus(self._spent(path, now))
        return total

    def own(self, now: float) -> Spent:
        """What the others were told last."""
        return self._spent(self._folder / self._own, now)

    def write(self, now: float, spent: Spent) -> None:
        """Lost in a power failure it is made anew from the turns by its watcher. Raises OSError: others would go on as
        if nothing had been taken.
        """
        data, path = msgspec.json.encode({"since": midnight(now), "spent": spent}), self._folder / self._own
        self._disk.make_directory(self._folder)
        if is_there(path) and not is_file(path):
            self._disk.move(path, path.with_suffix(f".corrupt-{now:.0f}"), sync=Sync.NONE)
        self._disk.replace(path, data + b"\n", sync=Sync.NONE)

    def _spent(self, path: Path, now: float) -> Spent:
        with suppress(OSError, *GARBLED):
            day = msgspec.json.decode(read_regular(path), type=_Day)
            if day.since >= midnight(now):
                return day.spent
        return NOTHING


def shared_of(policy: BudgetPolicy, workdir: Path, disk: Disk) -> Shared | None:
    """None where the agent shares its day with nobody."""
    if not (policy.share and policy.limits):
        return None
    return Shared(user_state() / "budgets", policy.share, workdir, disk)


class _Day(msgspec.Struct, frozen=True):
    since: float
    spent: Spent


def of_the_day(turns: TurnStore, now: float) -> list[TurnRecord]:
    """The turns of the local day and of the last 24 hours, in the order of their claims."""
    first = turn_id_at(min(now - DAY, midnight(now)))
    recent = [turn_id for turn_id in turns.ids() if turn_id >= first][-MOST_FOLDED:]
    return sorted(filter(None, map(turns.load, recent)), key=attrgetter("claimed_at"))


def midnight(now: float, days: int = 0) -> float:
    """Where the local day of a moment begins, or that `days` later: where the clock skips midnight, after the gap."""
    day = datetime.fromtimestamp(now).astimezone().date() + timedelta(days=days)
    # With a zone it would be a moment before the gap: the day before.
    return datetime(day.year, day.month, day.day).timestamp()  # noqa: DTZ001 - local time


def _told(value: float, unit: str) -> str:
    if unit == "dollars":
        return dollars(value) or "$0"
    return f"{value:.0f} {unit[:-1] if round(value) == 1 else unit}"
