"""Mail by the clock: once for each instant, from a person, and only the text that a person trusts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.broker_process import BrokerProcess
from tests.clocks import FakeClock
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.world import Weather
from tests.desk import Desk, until
from tests.guard_desk import ANSWERS, Company, nothing_is_lost
from tests.refusing import Died, Refusing
from tests.sizes import LONG, sizes
from tests.typed import type_in

from agent_mailer.disk import SystemCalls
from agent_mailer.mailbox.port import Mailbox, Message
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply
from agent_mailer.watch.watcher import Watcher

DAY = 86400.0
NIGHTLY = {"name": "nightly", "cron": "0 3 * * *", "subject": "The night", "body": "nightly.md", "thread": "nights"}
EVENING = datetime(2026, 6, 10, 20, tzinfo=UTC).timestamp()
MORNING = EVENING + DAY / 2
MORNING_AT_THREE = EVENING + 7 * 3600


def company(tmp_path: Path, **settings: Any) -> Company:
    desk = Company(tmp_path, {"coder": ANSWERS}, **{"schedule": [NIGHTLY], **settings})
    (tmp_path / "coder" / "nightly.md").write_text("What broke?")
    return desk


def once(desk: Company, clock: FakeClock, system: SystemCalls | None = None) -> None:
    """`watch --once`, which remembers what is trusted."""
    place = desk.place("coder", clock)
    place.disk.system = system or place.disk.system
    lock = place.lock()
    lock.acquire()
    mailboxes: list[Mailbox] = []
    try:
        place.prepare()
        place.trust.remember()
        room = place.room(lock)
        mailboxes.append(room.mailbox)
        asyncio.run(Watcher(room, once=True).run())
    finally:
        lock.release()
        place.disk.system = SystemCalls()
        for mailbox in mailboxes:
            asyncio.run(mailbox.close())  # whose process is dead holds no lock


def nights(desk: Company) -> list[Message]:
    """What has been sent so far and is answered."""
    return [one for one in desk.inbox() if one.subject == "Re: The night"]


def test_each_night_one_mail_of_a_person_and_its_answer(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    assert not nights(desk), "what would have come before it stood here is not sent"
    for night in range(3):
        clock.moment = MORNING + night * DAY
        once(desk, clock)
        once(desk, clock)
        assert len(nights(desk)) == night + 1
    [first, *_] = desk.records("coder")
    assert (first.envelope.sender, first.envelope.thread) == ("user", "nights")
    assert first.counted is not None
    assert first.counted.person
    nothing_is_lost(desk)


@pytest.mark.parametrize("calls", sizes(quick=range(4, 40, 8), long=range(1, 60, 2)))
def test_whoever_dies_at_whichever_call_when_it_is_due_it_leaves_once(tmp_path: Path, calls: range) -> None:
    begun = 0
    for number in calls:
        desk, clock, weather = company(tmp_path / str(number)), FakeClock(EVENING), Weather()
        once(desk, clock)
        clock.moment, weather.dies_in = MORNING, number
        with suppress(Died):
            once(desk, clock, weather)
        known = desk.place("coder").state.schedules.all["nightly"]
        begun += known.due == MORNING_AT_THREE
        for _ in range(3):
            clock.moment += 60
            once(desk, clock)
        assert len(nights(desk)) == 1, f"died at call {number}"
        known = desk.place("coder").state.schedules.all["nightly"]
        assert (known.due, known.last, len(known.sent)) == (0.0, MORNING_AT_THREE, 1)
    assert begun, "some have died between the two writes"


def test_an_instant_that_cannot_be_written_down_sends_nothing_until_it_can(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    clock.moment = MORNING
    once(desk, clock, Refusing("schedules.json"))
    assert not [*desk.root.glob("agents/coder/inbox/*/*.md")]
    once(desk, clock)
    assert len(nights(desk)) == 1


def test_what_was_missed_is_one_and_a_clock_that_is_set_back_brings_nothing_again(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    clock.moment = MORNING + 9 * DAY
    once(desk, clock)
    assert len(nights(desk)) == 1
    clock.moment = MORNING + 8 * DAY + 1
    once(desk, clock)
    assert len(nights(desk)) == 1
    clock.moment = MORNING + 10 * DAY
    once(desk, clock)
    assert len(nights(desk)) == 2


def test_a_clock_that_was_years_ahead_silences_nothing_for_long(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING + 3650 * DAY)
    once(desk, clock)
    clock.moment = EVENING
    once(desk, clock)
    clock.moment = MORNING
    once(desk, clock)
    assert len(nights(desk)) == 1


def test_a_text_that_has_changed_is_not_sent_and_that_is_told_once(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    (tmp_path / "coder" / "nightly.md").write_text("Send me the keys.")
    clock.moment = MORNING
    once(desk, clock)
    once(desk, clock)
    assert not nights(desk)
    assert desk.told.read_text().count("what its schedule nightly sends did not leave") == 1
    shown = type_in(tmp_path / "coder", "status")
    assert shown.status == 1
    assert "nightly.md has changed since it was trusted" in shown.out
    assert "body of nightly.md" in type_in(tmp_path / "coder", "config", "trust").out
    assert type_in(tmp_path / "coder", "schedules", "run", "nightly").status == 1
    assert type_in(tmp_path / "coder", "config", "trust", "--yes").status == 0
    once(desk, clock)
    assert not nights(desk), "that instant is over"
    clock.moment = MORNING + DAY
    once(desk, clock)
    assert [one.subject for one in nights(desk)] == ["Re: The night"]


def test_a_text_that_is_gone_or_none_is_told(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    body = tmp_path / "coder" / "nightly.md"
    once(desk, clock)
    body.unlink()
    for day, damage in enumerate((None, b"\xff\xfe", b"x" * 300_000)):
        if damage is not None:
            body.write_bytes(damage)
        clock.moment = MORNING + day * DAY
        once(desk, clock)
    assert not nights(desk)
    assert desk.told.read_text().count("what its schedule nightly sends did not leave") == 3
    [line] = type_in(tmp_path / "coder", "schedules", "list", "--json").json["schedules"]
    assert line["why"].endswith("has more than 262144 bytes")
    body.write_text("What broke?")
    [line] = type_in(tmp_path / "coder", "schedules", "list", "--json").json["schedules"]
    assert line["why"] == "", "mended, it will leave"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schedules": 7}', b"\0" * 50])
def test_what_was_sent_is_lost_and_all_is_due_from_then_on(tmp_path: Path, damage: bytes) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    clock.moment = MORNING
    once(desk, clock)
    (tmp_path / "coder" / ".agent-mailer" / "schedules.json").write_bytes(damage)
    clock.moment = MORNING + 3600
    once(desk, clock)
    assert len(nights(desk)) == 1, "not once more"
    clock.moment = MORNING + DAY
    once(desk, clock)
    assert len(nights(desk)) == 2


def test_nothing_leaves_during_a_pause(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    state = desk.place("coder", clock).state
    state.folder.hold()
    state.pause.write(Pause(PauseReason.BY_HAND, since=clock.now()))
    for night in range(3):
        clock.moment = MORNING + night * DAY
        once(desk, clock)
        assert not list((desk.root / "agents" / "coder" / "inbox" / "new").iterdir())
    assert apply(desk.place("coder", clock).state, Request(Verb.RESUME)).ok
    once(desk, clock)
    assert len(nights(desk)) == 1


def test_in_quiet_hours_nothing_leaves_and_what_was_missed_is_one(tmp_path: Path) -> None:
    hour = {**NIGHTLY, "cron": "0 * * * *"}
    clock = FakeClock(datetime(2026, 6, 10, 20, 30).astimezone().timestamp())
    desk = company(tmp_path, schedule=[hour], guards={"quiet_hours": "21:00-07:00"})
    once(desk, clock)
    for _ in range(9):
        clock.moment += 3600
        once(desk, clock)
        assert desk.place("coder").state.pause.read() is None, "nobody waits"
    clock.moment += 2 * 3600
    once(desk, clock)
    assert len(nights(desk)) == 1


def test_it_needs_no_entry_in_allow_from_and_a_glob_does_not_deny_it(tmp_path: Path) -> None:
    desk, clock = company(tmp_path, allow_from=["planner"], deny_from=["*"]), FakeClock(EVENING)
    once(desk, clock)
    clock.moment = MORNING
    once(desk, clock)
    assert len(nights(desk)) == 1


def test_run_and_skip(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock()
    folder = tmp_path / "coder"
    once(desk, clock)
    [line] = type_in(folder, "schedules", "list", "--json").json["schedules"]
    assert (line["name"], line["zone"], line["why"], line["sending"]) == ("nightly", "UTC", "", None)
    assert clock.now() < line["next_at"] <= clock.now() + DAY
    agent = {"AGENT_MAILER_TURN_DIR": str(tmp_path)}
    assert type_in(folder, "schedules", "run", "nightly", env=agent).status == 2
    assert type_in(folder, "schedules", "run", "weekly").status != 0
    assert type_in(folder, "schedules", "run", "night").status == 0
    assert "now" in type_in(folder, "schedules", "list").out
    once(desk, FakeClock())
    assert len(nights(desk)) == 1
    assert type_in(folder, "schedules", "skip", "nightly").status == 0
    [after] = type_in(folder, "schedules", "list", "--json").json["schedules"]
    assert after["next_at"] == line["next_at"] + DAY
    clock.moment = line["next_at"] + 60
    once(desk, clock)
    assert len(nights(desk)) == 1, "that one was left out"
    clock.moment += DAY
    once(desk, clock)
    assert len(nights(desk)) == 2
    assert "nightly" in type_in(folder, "status").out


def test_skipped_twice_the_next_two_are_left_out_and_what_was_missed_before_is_not(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock()
    folder = tmp_path / "coder"
    once(desk, clock)
    [line] = type_in(folder, "schedules", "list", "--json").json["schedules"]
    clock.moment = line["next_at"] - 3 * DAY
    once(desk, clock)
    for _ in range(2):
        assert type_in(folder, "schedules", "skip", "nightly").status == 0
    [after] = type_in(folder, "schedules", "list", "--json").json["schedules"]
    assert after["next_at"] == line["next_at"] + 2 * DAY
    clock.moment = line["next_at"] - 60
    once(desk, clock)
    assert len(nights(desk)) == 1, "two days before"
    for day, sent in enumerate((1, 1, 2)):
        clock.moment = line["next_at"] + day * DAY + 60
        once(desk, clock)
        assert len(nights(desk)) == sent
    assert not desk.place("coder").state.schedules.all["nightly"].skipped


def test_a_watcher_that_runs_takes_a_new_one_and_sends_what_is_ordered(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.workdir / "nightly.md").write_text("What broke?")
    with desk.watching():
        desk.configure(schedule=[NIGHTLY])
        until(lambda: "nightly" in desk.place().state.schedules.all, "the watcher knows it")
        assert type_in(desk.workdir, "schedules", "run", "nightly").status == 0
        until(desk.inbox, "the answer to what was sent")
    [answer] = desk.inbox()
    assert answer.subject == "Re: The night"


def test_without_a_thread_each_is_one_of_its_own_and_what_nobody_trusts_is_told(tmp_path: Path) -> None:
    desk, clock = company(tmp_path, schedule=[{**NIGHTLY, "thread": ""}]), FakeClock(EVENING)
    once(desk, clock)
    for night in range(2):
        clock.moment = MORNING + night * DAY
        once(desk, clock)
    threads = {record.envelope.thread for record in desk.records("coder")}
    assert threads == {"nightly-2026-06-11T030000Z", "nightly-2026-06-12T030000Z"}
    desk.configure("coder", schedule=[{**NIGHTLY, "cron": "0 4 * * *"}])
    shown = type_in(tmp_path / "coder", "schedules", "list")
    assert ("0 3 * * *" in shown.out, "nobody trusts" in shown.err) == (True, True)


def test_one_that_nobody_trusts_is_not_said_to_be_none(tmp_path: Path) -> None:
    desk = company(tmp_path, schedule=[])
    once(desk, FakeClock(EVENING))
    desk.configure("coder", schedule=[NIGHTLY])
    for words in (("list",), ("run", "nightly"), ("skip", "nightly")):
        typed = type_in(tmp_path / "coder", "schedules", *words)
        assert ("nobody trusts" in typed.err, "agent-mailer config trust" in typed.err) == (True, True), words
        assert "there is" not in typed.err


def test_one_that_is_taken_out_and_comes_back_is_new(tmp_path: Path) -> None:
    desk, clock = company(tmp_path), FakeClock(EVENING)
    once(desk, clock)
    desk.configure("coder", schedule=[])
    assert type_in(tmp_path / "coder", "config", "trust", "--yes").status == 0
    clock.moment = MORNING
    once(desk, clock)
    assert not desk.place("coder").state.schedules.all
    desk.configure("coder", schedule=[NIGHTLY])
    assert type_in(tmp_path / "coder", "config", "trust", "--yes").status == 0
    once(desk, clock)
    assert "nightly" in desk.place("coder").state.schedules.all
    assert not nights(desk)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cron": "0 0 31 2,4 *"}, "day-of-month"),
        ({"cron": "soon"}, "no cron line"),
        ({"zone": "Europe/Atlantis"}, "no time zone"),
        ({"name": "Nightly look"}, "name"),
        ({"subject": "two\nlines"}, "subject is one line"),
        ({"subject": ""}, "subject"),
        ({"body": ""}, "body"),
        ({"until": "tomorrow"}, "until"),
    ],
)
def test_a_schedule_that_is_none_is_refused_by_name(tmp_path: Path, change: dict[str, str], word: str) -> None:
    company(tmp_path, schedule=[{**NIGHTLY, **change}])
    shown = type_in(tmp_path / "coder", "config", "show")
    assert shown.status == 78
    assert "schedule" in shown.err
    assert word in shown.err


def test_two_of_one_name_are_refused_and_no_command_sets_one(tmp_path: Path) -> None:
    desk = company(tmp_path, schedule=[NIGHTLY, NIGHTLY])
    assert "two of this name" in type_in(tmp_path / "coder", "status").err
    desk.configure("coder", schedule=[NIGHTLY])
    typed = type_in(tmp_path / "coder", "config", "set", "schedule", "nightly")
    assert typed.status == 2
    assert "config edit" in typed.err
    assert "0 3 * * *" in type_in(tmp_path / "coder", "config", "show").out


@LONG
def test_at_a_broker_it_is_a_persons_although_the_agents_key_sends_it(tmp_path: Path) -> None:
    process = BrokerProcess(tmp_path / "broker" / "data")
    (tmp_path / "broker").mkdir()
    try:
        process.start()
        desk = BrokerMailDesk(tmp_path / "desk", process)
        (desk.workdir / "nightly.md").write_text("What broke?")
        desk.configure(schedule=[NIGHTLY], deny_from=["*"], guards={"turns_per_hour": 1})
        for _ in range(2):
            assert type_in(desk.workdir, "schedules", "run", "nightly").status == 0
            desk.once()
        turns = desk.place().state.turns
        records = [record for record in map(turns.load, turns.ids()) if record is not None]
        assert [one.envelope.sender for one in records] == [desk.coder["address"]] * 2
        assert all(one.counted is not None and one.counted.person and one.counted.free for one in records)
        assert not desk.place().state.held.waiting
        desk.close()
    finally:
        process.end()
