"""Silence: mail that waits too long, no turn though mail came; told once while it lasts."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.guard_desk import Company
from tests.watch_room import Scene

from agent_mailer.names import new_turn_id
from agent_mailer.state.records import Pause, PauseReason, Phase, TurnRecord
from agent_mailer.watch.guards.alarm import AlarmPolicy
from agent_mailer.watch.room import Stage, Work
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.watcher import Watcher

DONE = "cat >/dev/null; echo done"


def told(company: Company) -> int:
    return company.told.read_text().count("mail waits longer") if company.told.exists() else 0


def test_mail_that_waits_is_told_once_while_it_lasts(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": DONE}, alarm={"mail_waits": 600}, guards={"turns_per_hour": 1})
    clock = FakeClock()
    for number in range(3):
        company.send("coder", f"t{number}", key=f"k{number}")
    company.once("coder", clock)
    assert (company.turns("coder"), told(company)) == (1, 0)
    for _ in range(3):
        clock.moment += 601
        company.once("coder", clock)
    assert told(company) == 1, "once, by whichever watcher"
    company.configure("coder", guards={"turns_per_hour": 0})
    company.once("coder", clock)
    assert company.turns("coder") == 3
    company.once("coder", clock)
    company.configure("coder", guards={"turns_per_hour": 1})
    company.send("coder", "late", key="late")
    clock.moment += 601
    company.once("coder", clock)
    assert told(company) == 2, "once more after it was over"


def test_mail_that_is_worked_on_waits_for_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path, FakeClock(), told=True)
    room = scene.room
    room.policy = msgspec.structs.replace(
        room.policy, guards=msgspec.structs.replace(room.policy.guards, alarm=AlarmPolicy(mail_waits=600.0))
    )
    mail = scene.mail()
    later = mail.created + 3600.0
    room.work["t"] = Work(mail, Stage.RUNNING, {mail.id})

    def silent() -> tuple[str, ...]:
        room.hear([Candidate(mail)], None, later)
        return scene.state.notices.told.silent

    assert silent() == ()
    room.work.clear()
    assert silent() == ("mail_waits",)
    scene.close()


@pytest.mark.parametrize("ahead", ["a turn", "mail", "a pause"])
def test_what_lies_ahead_of_the_clock_silences_no_alarm(tmp_path: Path, ahead: str) -> None:
    """The clock was set back, or its sender's is wrong: it counts from when it was first seen so."""
    clock = FakeClock()
    scene = Scene(tmp_path, clock, told=True)
    room, now = scene.room, clock.moment
    alarm = AlarmPolicy(mail_waits=600.0, no_turn=600.0)
    room.policy = msgspec.structs.replace(room.policy, guards=msgspec.structs.replace(room.policy.guards, alarm=alarm))
    mail = msgspec.structs.replace(scene.mail(), created=now - 1)

    def silent(pause: Pause | None = None) -> tuple[str, ...]:
        room.hear([Candidate(mail)], pause, now)
        return scene.state.notices.told.silent

    later = now + 30 * 86400
    if ahead == "a turn":
        room.gate.claimed(TurnRecord(new_turn_id(later), mail, Phase.CLAIMED, "command", later))
    elif ahead == "mail":
        mail = msgspec.structs.replace(mail, created=later)
    else:
        room.hear([Candidate(mail)], Pause(PauseReason.BY_HAND, later), later)
        room.hear([Candidate(mail)], None, later)
    told: list[tuple[str, ...]] = [silent()]
    for seconds in (599, 1, 1):
        now += seconds
        told.append(silent())
    both = ("mail_waits", "no_turn")
    first: tuple[str, ...] = ("mail_waits",) if ahead == "a turn" else ()
    assert told == [(), first, both, both]
    scene.close()


def test_the_mail_of_quiet_hours_has_waited_for_nobody_when_they_end(tmp_path: Path) -> None:
    company = Company(
        tmp_path,
        {"coder": DONE},
        alarm={"mail_waits": 600},
        guards={"quiet_hours": "22:00-07:00", "min_disk": "900000G"},
    )
    tomorrow = datetime.now().astimezone() + timedelta(days=1)
    clock = FakeClock(tomorrow.replace(hour=23, minute=0).timestamp())
    company.send("coder")
    place = company.place("coder", clock)
    lock = place.lock()
    lock.acquire()
    place.prepare()

    async def night() -> list[tuple[str, ...]]:
        room, silent = place.room(lock), []
        await room.mailbox.open()
        watcher = Watcher(room)
        for seconds in (0, 8 * 3600 + 1, 599, 2):
            clock.moment += seconds
            await watcher._start_what_may()
            silent.append(place.state.notices.told.silent)
        await room.mailbox.close()
        return silent

    assert asyncio.run(night()) == [(), (), (), ("mail_waits",)], "it has waited since the morning"
    lock.release()
