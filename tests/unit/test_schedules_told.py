"""What a report tells of schedules: when each sends next, what was sent last, what keeps it from leaving."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from agent_mailer.schedules.due import Known, Schedule
from agent_mailer.schedules.told import Told

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0


def schedule(base: Path, name: str, cron: str) -> Schedule:
    body = base / f"{name}.md"
    body.write_text("look")
    return Schedule(name, cron, "UTC", "a subject", body, digest=hashlib.sha256(b"look").hexdigest())


def test_the_next_instant_the_last_mail_and_what_is_due(tmp_path: Path) -> None:
    hourly, nightly = schedule(tmp_path, "hourly", "30 * * * *"), schedule(tmp_path, "nightly", "0 3 * * *")
    book = {"hourly": Known(hourly.line, NOON - HOUR / 2, sent=("m1", "m2"), sent_at=NOON - HOUR / 2)}
    told = Told()
    first, second = told.of([nightly, hourly], book, NOON)
    assert (first.name, first.next_at, first.due, first.sent, first.sent_at, first.why) == (
        *("hourly", NOON + HOUR / 2, None, "m2", NOON - HOUR / 2),
        "",
    )
    assert (second.name, second.when, second.sent, second.sent_at) == ("nightly", "0 3 * * * UTC", "", None)
    # Its instant has come, and a pause keeps it.
    late = told.of([nightly, hourly], book, NOON + HOUR)[0]
    assert (late.due, late.next_at) == (NOON + HOUR / 2, NOON + 1.5 * HOUR)
    # The clock was set back.
    assert told.of([hourly], book, NOON)[0].due is None
    left = {"hourly": Known(hourly.line, NOON + HOUR / 2, sent=("m3",), sent_at=NOON + HOUR)}
    assert told.of([hourly], left, NOON + HOUR)[0].due is None
    assert "subject" not in repr(late)


def test_what_does_not_leave_comes_first_with_a_word(tmp_path: Path) -> None:
    hourly, nightly = schedule(tmp_path, "hourly", "30 * * * *"), schedule(tmp_path, "nightly", "0 3 * * *")
    told = Told()

    def words(book: dict[str, Known] | None = None) -> list[tuple[str, str]]:
        return [(one.name, one.why) for one in told.of([hourly, nightly], book or {}, NOON)]

    assert words() == [("hourly", ""), ("nightly", "")]
    nightly.body.write_text("something else")
    assert words() == [("nightly", "body_changed"), ("hourly", "")]
    nightly.body.unlink()
    assert words() == [("nightly", "body_unreadable"), ("hourly", "")]
    nightly.body.write_text("look")
    assert words() == [("hourly", ""), ("nightly", "")]
    assert words({"nightly": Known(nightly.line, NOON, why="no such address")})[0] == ("nightly", "refused")


def test_of_many_those_are_told_that_leave_next(tmp_path: Path) -> None:
    many = [schedule(tmp_path, f"s{number:02}", f"{number % 60} 13 * * *") for number in range(60)]
    found = Told().of(many[::-1], {}, NOON)
    assert [one.name for one in found] == [one.name for one in many[:50]]
