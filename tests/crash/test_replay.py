"""What the model allows in the log of a watcher that was killed: a line may be missing, a count may not be wrong."""

from __future__ import annotations

import pytest
from tests.crash.replay import Line, replay

from agent_mailer.events import EventName
from agent_mailer.outcomes import Outcome

STARTED: Line = {"event": EventName.WATCH_STARTED}


def _line(event: EventName, turn: str, outcome: Outcome = Outcome.FAILED, **more: int) -> Line:
    return {"event": event, "turn_id": turn, "message_id": "m", "thread": "red", "outcome": outcome, **more}


@pytest.mark.parametrize("told", [(), (EventName.TURN_ENDED,), (EventName.TURN_ENDED, EventName.RETRY_SCHEDULED)])
@pytest.mark.parametrize(("attempts", "attempt"), [(1, 2), (0, 1), (0, 2), (1, 1), (1, 3), (2, 3)])
def test_a_failure_counts_once_however_much_a_killed_life_has_told_of_it(
    told: tuple[EventName, ...], attempts: int, attempt: int
) -> None:
    log = [
        STARTED,
        _line(EventName.TURN_CLAIMED, "one", attempt=1),
        *(_line(event, "one", attempts=1) for event in told),
        STARTED,
        _line(EventName.RETRY_SCHEDULED, "one", attempts=attempts),
        _line(EventName.TURN_SETTLED, "one"),
        _line(EventName.TURN_CLAIMED, "two", attempt=attempt),
        *(_line(event, "two", Outcome.DONE) for event in (EventName.TURN_ENDED, EventName.MESSAGE_DONE)),
        _line(EventName.TURN_SETTLED, "two", Outcome.DONE),
    ]
    assert (replay(log) == []) is ((attempts, attempt) == (1, 2))
