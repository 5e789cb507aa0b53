"""When a schedule is due: cron lines in a zone, and what of them was missed. Pure.

Instants are seconds since the epoch. A time that a zone skips comes when the gap ends, one that it has twice comes
once; lines with `*` in their minutes or hours go by elapsed time, as cron has it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path

import msgspec

from agent_mailer.names import printable

LONGEST_LINE = 120
LOOK_BACK = 3600.0
"""What was missed is looked for in a window of so many seconds before now, then in ever larger ones."""

AHEAD = 86400.0
"""A moment that was handled and lies further ahead of now than this came of a clock that was wrong."""


class Schedule(msgspec.Struct, frozen=True):
    """One `[[schedule]]`. `digest` is that of its body as a person trusts it; empty = nobody does."""

    name: str
    cron: str
    zone: str
    subject: str
    body: Path
    thread: str = ""
    digest: str = ""

    @property
    def line(self) -> str:
        return f"{self.cron} {self.zone}"


class Known(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was done of a schedule. `line`: its cron line and zone then; up to `last` every instant is handled.

    `due` is the instant that is being sent, `at` the moment at which that was begun; 0 = none. `skipped` are instants
    that a person does not want. `sent` are the last messages, the newest last; `why` the mailbox refused
    the last. `sent_at`: when the newest of `sent` left; 0 = not known.
    """

    line: str
    last: float
    due: float = 0.0
    at: float = 0.0
    skipped: tuple[float, ...] = ()
    sent: tuple[str, ...] = ()
    why: str = ""
    sent_at: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """`due`: the instant that is to be sent now, of several the last; `next_due`: the one after now."""

    due: float | None
    next_due: float | None


def plan_of(schedule: Schedule, known: Known, now: float) -> Plan:
    """What was begun is seen through first. An instant that has passed once does not come again by a clock set back."""
    handled = known.last if known.last <= now + AHEAD else now
    coming = next_after(schedule, max(now, handled))
    while coming is not None and coming in known.skipped:
        coming = next_after(schedule, coming)
    return Plan(known.due or _latest(schedule, handled, now, known.skipped), coming)


def begun(schedule: Schedule, known: Known | None, now: float) -> Known | None:
    """What is to be remembered of a schedule that is new, or has another cron line; None where nothing is.

    It is due from now on: nobody expects what it would have sent before it stood here. So is one that a wrong clock
    has handled far ahead of now.
    """
    if known is not None and known.line == schedule.line:
        return msgspec.structs.replace(known, last=now) if known.last > now + AHEAD else None
    if known is None:
        return Known(schedule.line, now)
    return msgspec.structs.replace(known, line=schedule.line, last=max(now, min(known.last, now + AHEAD)))


def next_after(schedule: Schedule, moment: float) -> float | None:
    """None where no instant comes any more."""
    return next(_instants(schedule.cron, schedule.zone, moment), None)


def bad_line(cron: str, zone: str, now: float) -> tuple[str, str] | None:
    """The key that is wrong and why; None where there is an instant after `now`."""
    if why := _bad_zone(zone):
        return "zone", why
    shown = printable(cron, 60)
    if len(cron) > LONGEST_LINE or not cron.isprintable() or len(cron.split()) != 5:
        return "cron", f"{shown!r} is no cron line: minute, hour, day, month and weekday, as 0 3 * * 1-5"
    try:
        first = next(_instants(cron, zone, now), None)
    except ValueError as error:
        return "cron", f"{shown!r} is no cron line: {error}"
    return None if first is not None else ("cron", f"{shown!r} never comes")


def _latest(schedule: Schedule, after: float, now: float, skipped: Container[float]) -> float | None:
    """The last instant that is after `after`, not after `now`, and wanted."""
    window, until = LOOK_BACK, now
    while until > after:
        since = max(after, now - window)
        found = None
        for instant in _instants(schedule.cron, schedule.zone, since):
            if instant > until:
                break
            found = found if instant in skipped else instant
        if found is not None:
            return found
        until, window = since, window * 8
    return None


def _instants(cron: str, zone: str, after: float) -> Iterator[float]:
    """Ever later ones, all after `after`. Raises ValueError for what is no cron line."""
    from cronsim import CronSim, CronSimError

    start = datetime.fromtimestamp(after, UTC).astimezone(_zone(zone))
    try:
        times = iter(CronSim(cron, start))
    except (CronSimError, AssertionError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(str(error) or "it cannot be understood") from None
    last = after
    with suppress(OverflowError):
        # The calendar ends with the year 9999.
        for found in times:
            moment = found.timestamp()
            if moment > last:
                last = moment
                yield moment


def _bad_zone(name: str) -> str:
    try:
        _zone(name)
    except (KeyError, ValueError, OSError):
        return f"there is no time zone {printable(name, 60)!r}: give it as Europe/Berlin, or UTC"
    return ""


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)
