from __future__ import annotations

import math

import pytest

from agent_mailer.outcomes import StopReason
from agent_mailer.watch.rules import Activity, Limits, next_check, verdict

ALL = Limits(turn_timeout=1000, tool_timeout=300, first_output_timeout=60, silence_timeout=100, finish_grace=10)
TURN_ONLY = Limits(
    turn_timeout=1000, tool_timeout=None, first_output_timeout=None, silence_timeout=None, finish_grace=10
)
NO_FIRST = Limits(turn_timeout=1000, tool_timeout=300, first_output_timeout=None, silence_timeout=100, finish_grace=10)
LONG_FIRST = Limits(turn_timeout=1000, tool_timeout=300, first_output_timeout=500, silence_timeout=100, finish_grace=10)
LONG_TOOL = Limits(turn_timeout=1000, tool_timeout=5000, first_output_timeout=60, silence_timeout=100, finish_grace=10)
SHORT_TURN = Limits(turn_timeout=50, tool_timeout=20, first_output_timeout=60, silence_timeout=30, finish_grace=10)

# limits, activity, when the first clock runs out, and which it is
CLOCKS = [
    pytest.param(ALL, Activity(0), 60, StopReason.FIRST_OUTPUT_TIMEOUT, id="nothing said yet"),
    pytest.param(LONG_FIRST, Activity(0), 500, StopReason.FIRST_OUTPUT_TIMEOUT, id="first output is not silence"),
    pytest.param(NO_FIRST, Activity(0), 100, StopReason.SILENCE_TIMEOUT, id="silent from the start"),
    pytest.param(ALL, Activity(0, last_event=5), 105, StopReason.SILENCE_TIMEOUT, id="silent since it spoke"),
    pytest.param(ALL, Activity(0, last_event=5, open_tool_since=5), 305, StopReason.TOOL_TIMEOUT, id="open tool"),
    pytest.param(
        LONG_TOOL, Activity(0, last_event=5, open_tool_since=5), 1000, StopReason.TURN_TIMEOUT, id="long tool"
    ),
    pytest.param(
        TURN_ONLY, Activity(0, last_event=5, open_tool_since=5), 1000, StopReason.TURN_TIMEOUT, id="tool, off"
    ),
    pytest.param(TURN_ONLY, Activity(0), 1000, StopReason.TURN_TIMEOUT, id="all but the turn's off"),
    pytest.param(ALL, Activity(0, last_event=950), 1000, StopReason.TURN_TIMEOUT, id="the total ends the talkative"),
    pytest.param(ALL, Activity(0, last_event=7, result_at=7), 17, StopReason.FINISHED, id="result"),
    pytest.param(ALL, Activity(0, result_at=7, open_tool_since=1), 17, StopReason.FINISHED, id="result, open tool"),
    pytest.param(ALL, Activity(0, result_at=999), 1009, StopReason.FINISHED, id="result just before the total"),
    pytest.param(SHORT_TURN, Activity(100, 129, open_tool_since=130), 150, StopReason.TURN_TIMEOUT, id="both at once"),
    pytest.param(SHORT_TURN, Activity(100, 129, open_tool_since=129), 149, StopReason.TOOL_TIMEOUT, id="tool first"),
]


@pytest.mark.parametrize(("limits", "activity", "moment", "reason"), CLOCKS)
def test_the_first_clock_to_run_out_ends_the_turn(
    limits: Limits, activity: Activity, moment: float, reason: StopReason
) -> None:
    assert verdict(limits, activity, math.nextafter(moment, 0)) is None
    assert verdict(limits, activity, moment) is reason
    # A watcher that looks late names the clock that ran out first, whatever ran out since.
    assert verdict(limits, activity, moment + 10_000) is reason


@pytest.mark.parametrize(("limits", "activity", "moment", "reason"), CLOCKS)
def test_the_next_check_is_when_a_clock_can_run_out(
    limits: Limits, activity: Activity, moment: float, reason: StopReason
) -> None:
    assert next_check(limits, activity, activity.started) == moment
    assert next_check(limits, activity, moment + 5) == moment + 5
