"""What agents are sent by the clock, for pages: what leaves when next, what was sent last, what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent_mailer.remote.port import Report, Scheduled
from agent_mailer.remote.watched import Watched


class ScheduleRow(msgspec.Struct, frozen=True):
    """A schedule of an agent's. `rests`: why nothing of it leaves just now: nobody watches the agent, or its pause."""

    agent_id: str
    address: str
    shown: Scheduled
    rests: str = ""


UNWATCHED = "unwatched"


def schedule_rows(agents: Iterable[Watched]) -> list[ScheduleRow]:
    """What does not leave first, then what is to leave now, then what leaves next."""
    rows = [
        ScheduleRow(agent.agent_id, agent.address, one, _rests(agent, agent.report))
        for agent in agents
        if agent.report is not None
        for one in agent.report.schedules
    ]
    return sorted(rows, key=_place)


def _rests(agent: Watched, report: Report) -> str:
    if agent.watcher is None:
        return UNWATCHED
    return report.pause.reason if report.pause is not None else ""


def _place(row: ScheduleRow) -> tuple[bool, float, str, str]:
    one = row.shown
    comes = one.due if one.due is not None else one.next_at
    return not one.why, comes if comes is not None else float("inf"), row.address, one.name
