"""When something was, as servers and programs tell it: the same moment wherever this machine stands."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agent_mailer.clock import SystemClock, from_iso
from agent_mailer.mailbox.maildir.dated import stamp
from agent_mailer.mailbox.mcp_agent_mail.wire import moment_of
from agent_mailer.mailbox.relay.reader import row_in
from agent_mailer.names import new_turn_id, turn_began
from agent_mailer.outside.generic import moment_ms


def _of_a_row(text: str) -> float:
    return row_in(f'{{"id":1,"from":"a","to":"b","body":"x","createdAt":"{text}"}}'.encode()).created


def _of_an_event(text: str) -> float:
    return (moment_ms(text, "at") or 0) / 1000


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("read", [from_iso, moment_of, _of_a_row, _of_an_event])
def test_a_moment_without_a_zone_is_in_utc_and_none_loses_its_milliseconds(
    stand_in: Callable[[str], None], read: Callable[[str], float], zone: str
) -> None:
    stand_in(zone)
    for text in ("2026-11-28T09:30:00.250", "2026-11-28T09:30:00.250Z", "2026-11-28T11:30:00.250+02:00"):
        assert read(text) == 1795858200.25, text


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_name_begins_with_its_moment_in_utc(stand_in: Callable[[str], None], zone: str) -> None:
    """As AMQ's names do, among which it is sorted."""
    stand_in(zone)
    assert stamp(1795858200.25) == "2026-11-28T09-30-00.250Z"
    assert turn_began(new_turn_id(1795858200.25)) == 1795858200


def test_how_long_something_takes_is_by_a_clock_that_nobody_sets() -> None:
    assert time.monotonic() <= SystemClock().monotonic() <= time.monotonic()
