"""When a schedule is due: clocks that are put forward and back, what was missed, and lines that are none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from agent_mailer.schedules.due import AHEAD, Known, Plan, Schedule, bad_line, begun, next_after, plan_of

HOUR, DAY = 3600.0, 86400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def schedule(cron: str, zone: str = "Europe/Berlin") -> Schedule:
    return Schedule("nightly", cron, zone, "The nightly look", Path("nightly.md"))


def coming(one: Schedule, after: str, number: int) -> list[str]:
    found, moment = [], at(after)
    for _ in range(number):
        following = next_after(one, moment)
        assert following is not None
        moment = following
        found.append(datetime.fromtimestamp(moment, UTC).strftime("%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("cron", "after", "found"),
    [
        # 29 March 2026: 02:00 to 03:00 is not there in Berlin; it comes at 03:00 (01:00 UTC), and once.
        ("30 2 * * *", "2026-03-28T12:00", ["29 01:00", "30 00:30"]),
        ("0,30 2,3 * * *", "2026-03-28T12:00", ["29 01:00", "29 01:30", "30 00:00"]),
        # 25 October 2026: 02:00 to 03:00 is there twice; it comes at the first.
        ("30 2 * * *", "2026-10-24T12:00", ["25 00:30", "26 01:30"]),
        ("30 2 * * *", "2026-10-25T01:15", ["26 01:30"]),
        # Each hour is each hour that passes.
        ("30 * * * *", "2026-10-24T23:40", ["25 00:30", "25 01:30", "25 02:30"]),
        ("30 * * * *", "2026-03-29T00:00", ["29 00:30", "29 01:30"]),
    ],
)
def test_a_clock_that_is_put_forward_or_back(cron: str, after: str, found: list[str]) -> None:
    assert coming(schedule(cron), after, len(found)) == found


def test_several_that_were_missed_are_one_and_it_is_the_last() -> None:
    one = schedule("0 3 * * *", "UTC")
    known = Known(one.line, at("2026-06-01T03:00"))
    assert plan_of(one, known, at("2026-06-02T02:59")) == Plan(None, at("2026-06-02T03:00"))
    assert plan_of(one, known, at("2026-06-02T03:00")) == Plan(at("2026-06-02T03:00"), at("2026-06-03T03:00"))
    assert plan_of(one, known, at("2026-06-09T12:00")).due == at("2026-06-09T03:00")
    often = schedule("* * * * *", "UTC")
    assert plan_of(often, Known(often.line, 0.0), at("2026-06-09T12:00:30")).due == at("2026-06-09T12:00")
    seldom = schedule("0 0 29 2 *", "UTC")
    assert plan_of(seldom, Known(seldom.line, 0.0), at("2027-01-01T00:00")).due == at("2024-02-29T00:00")


def test_what_is_left_out_keeps_nothing_else_from_leaving() -> None:
    one = schedule("0 3 * * *", "UTC")
    known = Known(one.line, at("2026-06-01T03:00"), skipped=(at("2026-06-03T03:00"), at("2026-06-04T03:00")))
    assert plan_of(one, known, at("2026-06-04T12:00")) == Plan(at("2026-06-02T03:00"), at("2026-06-05T03:00"))
    assert plan_of(one, known, at("2026-06-02T12:00")).next_due == at("2026-06-05T03:00")
    sent = msgspec.structs.replace(known, last=at("2026-06-02T03:00"))
    assert plan_of(one, sent, at("2026-06-04T12:00")).due is None


def test_what_was_begun_is_seen_through_whatever_is_due_since() -> None:
    one = schedule("0 3 * * *", "UTC")
    known = Known(one.line, at("2026-06-01T03:00"), due=at("2026-06-02T03:00"), at=at("2026-06-02T03:00"))
    assert plan_of(one, known, at("2026-06-05T12:00")).due == at("2026-06-02T03:00")


def test_a_clock_that_is_set_back_over_midnight_brings_nothing_again() -> None:
    one = schedule("0 0 * * *", "UTC")
    known = Known(one.line, at("2026-06-02T00:00"))
    assert plan_of(one, known, at("2026-06-01T23:50")) == Plan(None, at("2026-06-03T00:00"))


def test_a_clock_that_was_years_ahead_silences_nothing() -> None:
    one = schedule("0 0 * * *", "UTC")
    known = Known(one.line, at("2036-06-02T00:00"))
    assert plan_of(one, known, at("2026-06-01T23:50")) == Plan(None, at("2026-06-02T00:00"))


def test_a_new_one_and_one_with_another_line_are_due_from_now_on() -> None:
    one, now = schedule("0 3 * * *", "UTC"), at("2026-06-02T12:00")
    assert begun(one, None, now) == Known(one.line, now)
    known = Known(one.line, now - DAY)
    assert begun(one, known, now) is None
    other = msgspec.structs.replace(one, cron="0 9 * * *")
    changed = begun(other, known, now)
    assert changed == Known(other.line, now)
    assert plan_of(other, changed, now + HOUR).due is None
    far = begun(other, Known(one.line, now + 100 * DAY), now)
    assert far is not None
    assert far.last <= now + AHEAD


@pytest.mark.parametrize("changes", [{"cron": "0 9 * * *"}, {"zone": "Europe/Berlin"}])
def test_another_line_takes_back_nothing_that_was_begun_or_done(changes: dict[str, str]) -> None:
    one, now = schedule("0 3 * * *", "UTC"), at("2026-06-02T12:00")
    due = at("2026-06-02T03:00")
    known = Known(one.line, due - DAY, due, due + 1, (due + DAY,), ("m-1",), "there is no 'ann'", due - DAY)
    other = msgspec.structs.replace(one, **changes)
    changed = begun(other, known, now)
    assert changed == msgspec.structs.replace(known, line=other.line, last=now)
    assert changed is not None
    assert plan_of(other, changed, now).due == due


@pytest.mark.parametrize(
    ("cron", "zone", "key"),
    [
        ("0 0 30 2 *", "UTC", "cron"),
        ("0 0 31 2,4 *", "UTC", "cron"),
        ("0 0 * *", "UTC", "cron"),
        ("0 0 0 * * *", "UTC", "cron"),
        ("61 * * * *", "UTC", "cron"),
        ("*/0 * * * *", "UTC", "cron"),
        ("@daily", "UTC", "cron"),
        ("9" * 5000 + " * * * *", "UTC", "cron"),
        ("0 3 * * *", "Europe/Atlantis", "zone"),
        ("0 3 * * *", "", "zone"),
        ("0 3 * * *", "../../etc/passwd", "zone"),
        ("0 3 * * *", "America", "zone"),
    ],
)
def test_a_line_that_is_none_or_never_comes_names_its_key(cron: str, zone: str, key: str) -> None:
    found = bad_line(cron, zone, at("2026-06-02T12:00"))
    assert found is not None
    assert found[0] == key
    assert len(found[1]) < 200


@pytest.mark.parametrize("cron", ["0 3 * * 1-5", "*/15 * * * *", "0 0 L * *", "0 0 * 2 MON#5", "0 0 29 2 *"])
def test_a_line_that_is_one(cron: str) -> None:
    assert bad_line(cron, "Asia/Kathmandu", at("2026-06-02T12:00")) is None
