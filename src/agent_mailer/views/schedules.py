"""What is sent by the clock: when it comes next, and what keeps it from leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_mailer.policies import schedules_of
from agent_mailer.schedules.bodies import Withheld, body_of
from agent_mailer.schedules.due import Known, Schedule, plan_of
from agent_mailer.views.values.status import ScheduleView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def schedules(place: Workplace) -> list[ScheduleView]:
    """As they count, in the order of the file. Reads only."""
    if not place.config.schedule:
        return []
    known, now = place.state.schedules.all, place.clock.now()
    return [_shown(one, known.get(one.name), now) for one in counting(place)]


def counting(place: Workplace) -> tuple[Schedule, ...]:
    return schedules_of(place.config, place.workdir, place.trust.verdict.counts.bodies)


def next_of(schedule: Schedule, known: Known | None, now: float) -> float | None:
    """The next instant that nobody has skipped."""
    return plan_of(schedule, known or Known(schedule.line, now), now).next_due


def _shown(schedule: Schedule, known: Known | None, now: float) -> ScheduleView:
    body = body_of(schedule.body, schedule.digest)
    due = plan_of(schedule, known, now).due if known is not None else None
    return ScheduleView(
        schedule.name,
        schedule.cron,
        schedule.zone,
        schedule.subject,
        str(schedule.body),
        schedule.thread,
        next_of(schedule, known, now),
        due,
        known.sent[-1] if known is not None and known.sent else "",
        body.why if isinstance(body, Withheld) else (known.why if known is not None else ""),
        known.sent_at or None if known is not None else None,
    )
