"""What is told of schedules to whoever operates the agent from elsewhere: when each sends next, what it has sent last,
and what keeps it from sending. Names, moments and words of ours; never a subject or a text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from agent_mailer.remote.port import LONGEST_WORD, MOST_LISTED, Scheduled
from agent_mailer.schedules.bodies import Withheld, body_of
from agent_mailer.schedules.due import Known, Plan, Schedule, plan_of

_REFUSED = "refused"


class _Looked(msgspec.Struct, frozen=True):
    """What was found out at `at`: it stands until the next instant comes, or the schedule or its book changes."""

    schedule: Schedule
    known: Known | None
    at: float
    plan: Plan


class Told:
    """One a watcher: a report a second is not to look through a calendar and read every text each time."""

    def __init__(self) -> None:
        self._plans: dict[str, _Looked] = {}
        self._bodies: dict[str, tuple[object, str]] = {}
        """By schedule: the text's file and the trusted digest as they were, and the word for why it is withheld."""

    def of(self, schedules: Sequence[Schedule], book: Mapping[str, Known], now: float) -> tuple[Scheduled, ...]:
        """What does not leave first, then what leaves next. Never raises."""
        names = {one.name for one in schedules}
        for kept in (self._plans, self._bodies):
            for name in kept.keys() - names:
                del kept[name]
        shown = [self._one(one, book.get(one.name), now) for one in schedules]
        never = float("inf")
        shown.sort(key=lambda one: (not one.why, one.next_at if one.next_at is not None else never, one.name))
        return tuple(shown[:MOST_LISTED])

    def _one(self, schedule: Schedule, known: Known | None, now: float) -> Scheduled:
        plan = self._plan(schedule, known, now)
        refused = _REFUSED if known is not None and known.why else ""
        return Scheduled(
            name=schedule.name[:LONGEST_WORD],
            when=schedule.line,
            next_at=plan.next_due,
            due=plan.due,
            sent=known.sent[-1] if known is not None and known.sent else "",
            sent_at=known.sent_at or None if known is not None else None,
            why=self._withheld(schedule) or refused,
        )

    def _plan(self, schedule: Schedule, known: Known | None, now: float) -> Plan:
        looked = self._plans.get(schedule.name)
        if looked is not None and (looked.schedule, looked.known) == (schedule, known) and looked.at <= now:
            until = looked.plan.next_due
            if until is None or now < until:
                return looked.plan
        # Before it was looked at for the first time nothing of it is due.
        plan = plan_of(schedule, known or Known(schedule.line, now), now)
        self._plans[schedule.name] = _Looked(schedule, known, now, plan)
        return plan

    def _withheld(self, schedule: Schedule) -> str:
        key = (_stamp(schedule), schedule.body, schedule.digest)
        looked = self._bodies.get(schedule.name)
        if looked is None or looked[0] != key:
            body = body_of(schedule.body, schedule.digest)
            looked = self._bodies[schedule.name] = key, body.code if isinstance(body, Withheld) else ""
        return looked[1]


def _stamp(schedule: Schedule) -> tuple[int, ...]:
    """Which file it is, and when it was changed last."""
    try:
        found = os.stat(schedule.body)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
