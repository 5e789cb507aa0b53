"""Quiet hours and a machine that has enough to do: nothing starts, with a reason and an end."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.guard_desk import Company
from tests.typed import type_in

from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.watch.guards.calm import parse_hours
from agent_mailer.watch.watcher import Watcher

DONE = "cat >/dev/null; echo done"


def at(hour: int, minute: int = 0, day: int = 10) -> float:
    return datetime(2026, 6, day, hour, minute).astimezone().timestamp()


def test_in_quiet_hours_mail_waits_and_starts_by_itself_when_they_end(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": DONE}, guards={"quiet_hours": "22:00-07:00"})
    company.send("coder")
    clock = FakeClock(at(23))
    company.once("coder", clock)
    assert company.turns("coder") == 0
    pause = company.place("coder").state.pause.read()
    assert pause is not None
    assert (pause.reason, pause.until) == (PauseReason.QUIET_HOURS, at(7, day=11))
    clock.moment = at(6, 59, day=11)
    company.once("coder", clock)
    assert company.turns("coder") == 0
    clock.moment = at(7, day=11)
    company.once("coder", clock)
    assert company.turns("coder") == 1
    assert company.place("coder", clock).state.pause.read() is None


def test_a_machine_without_room_is_looked_at_again(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": DONE}, guards={"min_disk": "900000G"})
    company.send("coder")
    clock = FakeClock()
    for _ in range(3):
        company.once("coder", clock)
        clock.moment += 61
    assert company.turns("coder") == 0
    assert "of disk are free (guards.min_disk" in type_in(tmp_path / "coder", "status").out
    log = (tmp_path / "coder/.agent-mailer/log.jsonl").read_text()
    assert log.count('"event":"paused"') == 1, "it lasts, and is told once"
    assert type_in(tmp_path / "coder", "config", "set", "guards.min_disk", "16M").status == 0
    company.once("coder", clock)
    assert company.turns("coder") == 1


def test_quiet_hours_that_are_changed_meanwhile_end_when_they_say(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": DONE}, guards={"quiet_hours": "22:00-07:00"})
    company.send("coder")
    clock = FakeClock(at(23))
    company.once("coder", clock)
    for hours, until in (("22:00-09:00", at(9, day=11)), ("22:00-06:00", at(6, day=11))):
        company.configure("coder", guards={"quiet_hours": hours})
        company.once("coder", clock)
        pause = company.place("coder", clock).state.pause.read()
        assert pause is not None
        assert (pause.since, pause.until) == (at(23), until)
    company.configure("coder", guards={"quiet_hours": "01:00-06:00"})
    company.once("coder", clock)
    assert company.turns("coder") == 1


def test_a_probe_that_is_due_in_quiet_hours_waits_for_their_end(tmp_path: Path) -> None:
    """A limit is over by then, and one turn would be let through: the loop must not turn round and round meanwhile."""
    company = Company(tmp_path, {"coder": DONE}, guards={"quiet_hours": "22:00-07:00"})
    company.send("coder")
    clock = FakeClock(at(23))
    place = company.place("coder", clock)
    lock = place.lock()
    lock.acquire()
    place.prepare()
    limited = Pause(PauseReason.LIMITED, since=at(21), until=at(22, 30))
    place.state.pause.write(limited)

    async def look() -> float | None:
        room = place.room(lock)
        await room.mailbox.open()
        try:
            return await Watcher(room)._start_what_may()
        finally:
            await room.mailbox.close()

    assert asyncio.run(look()) == at(7, day=11) - at(23)
    lock.release()
    assert place.state.pause.read() == limited, "what it waits for is still to be tried"
    clock.moment = at(7, day=11)
    company.once("coder", clock)
    assert (company.turns("coder"), company.place("coder", clock).state.pause.read()) == (1, None)


@pytest.mark.parametrize("hours", ["25:00-07:00", "7-8", "22:00-22:00", "00:00-24:00", "00:00-12:00,12:00-24:00", "x"])
def test_hours_that_are_none_or_leave_none_are_refused(tmp_path: Path, hours: str) -> None:
    with pytest.raises(ValueError, match="no"):
        parse_hours(hours)
    company = Company(tmp_path, {"coder": DONE}, guards={"quiet_hours": hours})
    seen = type_in(tmp_path / company.names[0], "status")
    assert (seen.status, "guards" in seen.err) == (78, True)
