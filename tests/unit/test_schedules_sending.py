"""What is due and cannot leave: tried again, refused after a day, and told before it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import Died, On, Refusing
from tests.watch_room import Scene

from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Delivered, Delivery, Outgoing, Unknown
from agent_mailer.schedules.bodies import digest_of
from agent_mailer.schedules.due import Known, Schedule
from agent_mailer.schedules.sending import AGAIN_FIRST, AGAIN_LONGEST, PATIENCE, REFUSED, Sending, run_now, skip_once
from agent_mailer.state.notices import Notice, NoticeKind
from agent_mailer.state.schedules import MOST_SENT

EVENING = datetime(2026, 6, 10, 20, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0
AT_THREE = EVENING + 7 * HOUR


class Watch(FakeClock):
    """Stands still, and goes on by hand; so does what durations are measured by."""

    def monotonic(self) -> float:
        return self.moment


class Vague(MaildirMailbox):
    """A mailbox of which nobody knows whether it has what it was given."""

    def __init__(self, root: Path) -> None:
        super().__init__(Disk(), root, "user")
        self.asked: list[str] = []

    async def deliver(self, item: Outgoing) -> Delivery:
        self.asked.append(item.id)
        return Unknown("500")

    async def look(self, item: Outgoing) -> bool:
        return False


class Keyless(MaildirMailbox):
    """A mailbox that takes as new whatever it is given: only who looks knows that it is there. `dies`: whoever gives it
    something is killed before it hears that it was taken.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(Disk(), root, "user")
        self.dies = False
        self.taken: list[str] = []

    async def deliver(self, item: Outgoing) -> Delivery:
        self.taken.append(item.id)
        if self.dies:
            raise Died
        return Delivered(item.id)

    async def look(self, item: Outgoing) -> bool:
        return item.id in self.taken


class Clockwork:
    def __init__(self, base: Path) -> None:
        self.clock = Watch(EVENING)
        self.scene = Scene(base, self.clock)
        self.told: list[Notice] = []
        self.deaf = 0
        self.vague = Vague(self.scene.desk.root)
        body = base / "nightly.md"
        body.write_text("What broke?")
        names = ("early", "nightly")
        self.schedules = [
            Schedule(name, "0 3 * * *", "UTC", "The night", body, digest=digest_of(body)) for name in names
        ]

    def sending(self, mailbox: MaildirMailbox, address: str = "coder") -> Sending:
        return Sending(mailbox, address, self.scene.state.schedules, self.scene.place.log, self.clock, self.tell)

    def tell(self, notice: Notice) -> None:
        if self.deaf:
            self.deaf -= 1
            raise OSError(28, "No space left on device")
        self.told.append(notice)

    def due(self, sending: Sending) -> float | None:
        return asyncio.run(sending.send_due(self.schedules))

    def known(self, name: str = "nightly") -> Known:
        return self.scene.state.schedules.all[name]


@pytest.fixture
def clockwork(tmp_path: Path) -> Iterator[Clockwork]:
    found = Clockwork(tmp_path)
    yield found
    found.scene.close()


def test_that_nothing_left_is_told_before_it_is_over_and_holds_up_no_other(clockwork: Clockwork) -> None:
    nobody = clockwork.sending(MaildirMailbox(Disk(), clockwork.scene.desk.root, "user"), "nobody")
    clockwork.due(nobody)
    clockwork.clock.moment, clockwork.deaf = AT_THREE + 60, 1
    with pytest.raises(OSError, match="No space"):
        clockwork.due(nobody)
    assert (clockwork.known("early").due, clockwork.told) == (AT_THREE, []), "else nobody would ever hear of it"
    line, state = clockwork.schedules[0].line, clockwork.scene.state
    assert run_now(state, "early", line, AT_THREE + 1) == (False, "early: it is being sent")
    assert run_now(state, "early", line, AT_THREE)[0]
    for _ in range(2):
        assert clockwork.due(nobody) == 3600.0, "a clock may be put forward meanwhile"
    assert [(one.kind, one.schedule, one.reason) for one in clockwork.told] == [
        (NoticeKind.SCHEDULE, name, REFUSED) for name in ("early", "nightly")
    ]
    assert {one.why for one in clockwork.told} == {clockwork.known().why}
    assert "there is no 'nobody' here" in clockwork.known().why
    assert (clockwork.known().due, clockwork.known().last, clockwork.known().sent) == (0.0, AT_THREE, ())
    assert len(clockwork.scene.told(EventName.SCHEDULE_REFUSED)) == 2


def test_of_two_schedules_the_one_that_is_next_is_waited_for(clockwork: Clockwork) -> None:
    clockwork.schedules[1] = msgspec.structs.replace(clockwork.schedules[1], cron="10 20 * * *")
    assert clockwork.due(clockwork.sending(clockwork.vague)) == 600.0


def test_of_schedules_that_stay_nothing_is_forgotten_with_another(clockwork: Clockwork) -> None:
    book = clockwork.scene.state.schedules
    for name in ("gone", "early", "nightly"):
        book.put(name, Known(name, EVENING))
    book.keep(["early", "nightly"])
    assert {name: known.line for name, known in book.all.items()} == {name: name for name in ("early", "nightly")}


def test_what_nobody_can_say_is_looked_for_and_tried_again_ever_later_for_a_day(clockwork: Clockwork) -> None:
    del clockwork.schedules[0]
    sending, vague = clockwork.sending(clockwork.vague), clockwork.vague
    clockwork.due(sending)
    clockwork.clock.moment = AT_THREE + 60
    waits = [clockwork.due(sending)]
    assert clockwork.due(sending) == waits[0], "it is not asked again before that"
    for _ in range(6):
        clockwork.clock.moment += waits[-1] or 0.0
        waits.append(clockwork.due(sending))
    assert waits == [min(AGAIN_LONGEST, AGAIN_FIRST * 2.0**tries) for tries in range(1, 8)]
    # Another watcher knows since when.
    sending = clockwork.sending(vague)
    clockwork.clock.moment = AT_THREE + 60 + PATIENCE
    assert clockwork.due(sending) == 2 * AGAIN_FIRST
    clockwork.clock.moment += 2 * AGAIN_FIRST
    clockwork.due(sending)
    assert [one.why for one in clockwork.told] == ["500"]
    assert len(vague.asked) == 9
    assert len(set(vague.asked)) == 1, "one instant is one message"
    assert (clockwork.known().due, clockwork.known().why) == (0.0, "500")


def test_what_a_person_orders_is_tried_for_a_day_from_then(clockwork: Clockwork) -> None:
    sending, vague = clockwork.sending(clockwork.vague), clockwork.vague
    clockwork.due(sending)
    clockwork.clock.moment += 60
    assert run_now(clockwork.scene.state, "nightly", clockwork.schedules[1].line, clockwork.clock.moment)[0]
    assert clockwork.due(sending) == 2 * AGAIN_FIRST
    assert (len(vague.asked), clockwork.told) == (1, [])


@pytest.mark.parametrize("dies", ["before it hears", "before it is written down"])
def test_what_left_before_its_watcher_was_killed_is_found_by_the_next_and_leaves_no_second_time(
    clockwork: Clockwork, dies: str
) -> None:
    keyless = Keyless(clockwork.scene.desk.root)
    clockwork.due(clockwork.sending(keyless))
    clockwork.clock.moment = AT_THREE + 60
    keyless.dies, system = dies == "before it hears", clockwork.scene.place.disk.system
    if not keyless.dies:
        # What is begun is written down, and that it is over is not.
        clockwork.scene.place.disk.system = Refusing("schedules.json", On.REPLACE, code=None, after=1)
    with pytest.raises(Died):
        clockwork.due(clockwork.sending(keyless))
    assert len(keyless.taken) == 1
    keyless.dies, clockwork.scene.place.disk.system = False, system
    clockwork.clock.moment += 60
    for _ in range(2):
        clockwork.due(clockwork.sending(keyless))
    assert len(keyless.taken) == len(set(keyless.taken)) == 2, "the other leaves as well, and neither again"
    assert [clockwork.known(name).sent for name in ("early", "nightly")] == [(one,) for one in keyless.taken]
    assert clockwork.known("early").due == 0.0


@pytest.mark.parametrize(("back", "again"), [(61.0, 0), (HOUR, 0), (DAY + 60.0, 0), (3 * DAY, 1)])
def test_a_clock_that_is_set_back_sends_nothing_twice_and_one_that_was_far_ahead_silences_nothing(
    clockwork: Clockwork, back: float, again: int
) -> None:
    del clockwork.schedules[0]
    keyless = Keyless(clockwork.scene.desk.root)
    sending = clockwork.sending(keyless)
    clockwork.due(sending)
    clockwork.clock.moment = AT_THREE + 60
    clockwork.due(sending)
    assert len(keyless.taken) == 1
    clockwork.clock.moment = AT_THREE + 60 - back
    clockwork.due(sending)
    # Over the next instant that the clock comes to, its first time or its second.
    clockwork.clock.moment += min(back, DAY + 60.0)
    clockwork.due(sending)
    assert len(keyless.taken) == 1 + again


@pytest.mark.parametrize("begun", [False, True], ids=["not yet begun", "begun"])
def test_what_was_skipped_is_not_sent_though_an_earlier_one_leaves_only_after_it(
    clockwork: Clockwork, begun: bool
) -> None:
    """A pause, a machine that slept, a mailbox that was away: the instant that nobody wanted has passed meanwhile."""
    del clockwork.schedules[0]
    keyless, [nightly] = Keyless(clockwork.scene.desk.root), clockwork.schedules
    clockwork.due(clockwork.sending(keyless))
    for days in (1, 3, 4):
        assert skip_once(clockwork.scene.state, "nightly", nightly.line, AT_THREE + days * DAY)[0]
    if begun:
        clockwork.clock.moment = AT_THREE + 60
        clockwork.due(clockwork.sending(clockwork.vague))
    for day, sent in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 3)):
        clockwork.clock.moment = AT_THREE + day * DAY + 60
        clockwork.due(clockwork.sending(keyless))
        assert len(keyless.taken) == sent, day
    assert clockwork.known().skipped == ()


def test_what_was_begun_under_an_earlier_line_ends_without_what_the_new_one_would_have_sent_before_it_stood_there(
    clockwork: Clockwork,
) -> None:
    del clockwork.schedules[0]
    keyless = Keyless(clockwork.scene.desk.root)
    clockwork.due(clockwork.sending(keyless))
    clockwork.clock.moment = AT_THREE + 60
    clockwork.due(clockwork.sending(clockwork.vague))
    clockwork.schedules = [msgspec.structs.replace(clockwork.schedules[0], cron="0 5 * * *")]
    for hours, sent in ((4, 1), (25, 1), (26.1, 2)):
        clockwork.clock.moment = AT_THREE + hours * HOUR
        for _ in range(2):
            clockwork.due(clockwork.sending(keyless))
        assert len(keyless.taken) == sent, hours


def test_what_is_ordered_after_a_clock_was_set_back_brings_nothing_again(clockwork: Clockwork) -> None:
    del clockwork.schedules[0]
    keyless, [nightly] = Keyless(clockwork.scene.desk.root), clockwork.schedules
    clockwork.due(clockwork.sending(keyless))
    clockwork.clock.moment = AT_THREE + 60
    clockwork.due(clockwork.sending(keyless))
    clockwork.clock.moment -= 2 * HOUR
    assert run_now(clockwork.scene.state, "nightly", nightly.line, clockwork.clock.moment)[0]
    for hours, sent in ((-2, 2), (0, 2), (24, 3)):
        clockwork.clock.moment = AT_THREE + hours * HOUR + 60
        for _ in range(2):
            clockwork.due(clockwork.sending(keyless))
        assert len(keyless.taken) == sent, hours


def test_all_that_it_has_sent_is_known_as_a_persons_however_long_it_waits(clockwork: Clockwork) -> None:
    sending = clockwork.sending(MaildirMailbox(Disk(), clockwork.scene.desk.root, "user"))
    clockwork.due(sending)
    for day in range(3):
        clockwork.clock.moment = AT_THREE + 60 + day * 86400
        clockwork.due(sending)
        assert clockwork.known().sent_at == clockwork.clock.moment
    waiting = {one.envelope.id for one in clockwork.scene.desk.inbox("coder")}
    assert len(waiting) == 6
    assert clockwork.scene.desk.place().state.schedules.sent == waiting


def test_of_very_many_that_it_has_sent_the_newest_are_known(clockwork: Clockwork) -> None:
    book, sent = clockwork.scene.desk.place().state.schedules, tuple(f"m{number}" for number in range(MOST_SENT + 1))
    book.put("daily", Known("line", 1.0, sent=sent))
    assert clockwork.scene.desk.place().state.schedules.sent == set(sent[1:])
