"""Until when a request may still be carried out that nobody waits for any more."""

from __future__ import annotations

import pytest
from tests.clocks import FakeClock

from agent_mailer.mailbox.under_way import UnderWay


class Stopwatch(FakeClock):
    """Durations are set, too."""

    def monotonic(self) -> float:
        return self.moment


def test_a_request_counts_from_its_end_however_it_ended_and_an_unknown_one_from_our_beginning() -> None:
    clock = Stopwatch(0.0)
    asked = UnderWay(clock, seconds=5.0)
    clock.moment = 2.0
    assert asked.rest("a") == 3.0, "a predecessor may have asked for it just now"

    def in_vain() -> None:
        with asked.asking("a"):
            clock.moment = 30.0
            raise TimeoutError

    with pytest.raises(TimeoutError):
        in_vain()
    assert asked.rest("a") == 5.0
    clock.moment = 34.0
    assert (asked.rest("a"), asked.rest("b")) == (1.0, 0.0)
    asked.answered("a")
    assert asked.rest("a") == 0.0
