"""The clocks of a turn: which of them has run out, and when to look again. Pure; all moments are monotonic seconds."""

from __future__ import annotations

import msgspec

from agent_mailer.outcomes import StopReason


class Limits(msgspec.Struct, frozen=True):
    """Seconds each clock may run; None = that clock is off.

    The tool clock measures one open tool, the first-output clock a runtime that has not said anything yet, the silence
    clock one that has stopped; `finish_grace` is what the processes have to leave after the result.
    """

    turn_timeout: float
    tool_timeout: float | None
    first_output_timeout: float | None
    silence_timeout: float | None
    finish_grace: float


class Activity(msgspec.Struct, frozen=True):
    """What the clocks start from. `open_tool_since` is the start of the oldest tool that is open."""

    started: float
    last_event: float | None = None
    result_at: float | None = None
    open_tool_since: float | None = None


def verdict(limits: Limits, activity: Activity, now: float) -> StopReason | None:
    """Why the turn has to be ended at `now`: the clock that ran out first; None while it may go on."""
    moment, reason = min(_deadlines(limits, activity), key=_moment)
    return reason if now >= moment else None


def next_check(limits: Limits, activity: Activity, now: float) -> float:
    """The earliest moment at which a clock can run out if nothing happens; never before `now`."""
    return max(now, min(moment for moment, _ in _deadlines(limits, activity)))


def _deadlines(limits: Limits, activity: Activity) -> list[tuple[float, StopReason]]:
    if activity.result_at is not None:
        return [(activity.result_at + limits.finish_grace, StopReason.FINISHED)]
    running = [(activity.started + limits.turn_timeout, StopReason.TURN_TIMEOUT)]
    if activity.open_tool_since is not None:
        # Silence counts only while the model is waited for: an open tool may work quietly for as long as it is allowed.
        if limits.tool_timeout is not None:
            running.append((activity.open_tool_since + limits.tool_timeout, StopReason.TOOL_TIMEOUT))
    elif activity.last_event is None and limits.first_output_timeout is not None:
        running.append((activity.started + limits.first_output_timeout, StopReason.FIRST_OUTPUT_TIMEOUT))
    elif limits.silence_timeout is not None:
        silent_since = activity.started if activity.last_event is None else activity.last_event
        running.append((silent_since + limits.silence_timeout, StopReason.SILENCE_TIMEOUT))
    return running


def _moment(deadline: tuple[float, StopReason]) -> float:
    return deadline[0]
