"""What is to be told is durable before anybody is told, each way by itself, until it is told or given up."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene

from agent_mailer.approvals.calls import Call
from agent_mailer.disk import SystemCalls
from agent_mailer.errors import BusyFault
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Capabilities, Delivered, Envelope, Outgoing, Refused, Unknown
from agent_mailer.outcomes import Outcome
from agent_mailer.state.held import Guard
from agent_mailer.state.notices import Channel, Notice, NoticeKind
from agent_mailer.state.records import Pause, PauseReason, Phase, Settlement, TurnRecord
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch.guards.alarm import Silence
from agent_mailer.watch.notices import MAIL_PATIENCE, QUESTIONS_A_DAY, STRANGERS_A_DAY, TRIES, Notices
from agent_mailer.watch.telling import Teller
from agent_mailer.watch.trouble import OWN

NOON = 1_800_000_000.0


class Full(SystemCalls):
    """A disk that does not take what is to be told."""

    def replace(self, source: Path, target: Path) -> None:
        if target.name == "guards.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        super().replace(source, target)


class Telling:
    def __init__(self, base: Path) -> None:
        self.clock = FakeClock(NOON)
        self.scene = Scene(base, self.clock)
        self.scene.desk.tell(address="planner")
        self.lost = False
        self.begin()

    def begin(self) -> None:
        """Another watcher, over the same folder."""
        place = self.scene.desk.place(self.clock)
        room = place.room(self.scene.lock)
        self.state = room.state
        policy = room.policy
        policy = msgspec.structs.replace(policy, approve=msgspec.structs.replace(policy.approve, asks_sender=True))
        self.troubles = room.troubles
        self.notices = Notices(room.mailbox, self.state, policy, self.clock, self.guard, room.troubles)

    def guard(self) -> None:
        if self.lost:
            raise BusyFault("lock_lost", "the workdir is another watcher's", "")

    @property
    def waiting(self) -> list[Notice]:
        """As it is on the disk."""
        return list(self.scene.desk.place().state.notices.told.waiting)

    def asks(self, number: int, sender: str = "ann") -> None:
        """A turn has ended with a question, for mail of `sender`."""
        turn_id = f"20261129T100000-{number:08x}"
        envelope = Envelope(f"m{number}", f"th{number}", sender, 1.0, "", "")
        call = Call("Bash", f'{{"command":"push {number}"}}')
        ended = Settlement(Outcome.ASKED, "asks", NOON, 1.0, finished=False, asked=(call,), asked_until=NOON + 3600)
        self.notices.settled(TurnRecord(turn_id, envelope, Phase.SETTLING, "command", NOON, settlement=ended))


@pytest.fixture
def telling(tmp_path: Path) -> Iterator[Telling]:
    found = Telling(tmp_path)
    yield found
    found.scene.close()


def test_what_is_stuck_is_told_though_the_disk_did_not_take_it_at_first(telling: Telling) -> None:
    for key in ("one", "two"):
        telling.state.stuck.add(StuckKind.NOT_FETCHED, key, Envelope(key, "th", "ann", 1.0, "", ""), "it is not there")
    telling.state.folder.disk.system = Full()
    with pytest.raises(OSError, match="No space"):
        telling.notices.look(None)
    telling.state.folder.disk.system = SystemCalls()
    for _ in range(2):
        telling.notices.look(None)
    assert [(one.kind, one.stuck) for one in telling.waiting] == [(NoticeKind.STUCK, "one"), (NoticeKind.STUCK, "two")]
    assert [(one.message_id, one.thread, one.sender) for one in telling.waiting] == [
        (key, "th", "ann") for key in ("one", "two")
    ]


@pytest.mark.parametrize("sender", ["planner", "coder", ""])
def test_a_question_about_mail_of_the_operator_or_of_nobody_else_is_put_to_the_operator_once(
    telling: Telling, sender: str
) -> None:
    """His own mail has no answer yet, which would tell him; the agent itself is asked nothing."""
    telling.asks(1, sender)
    assert [one.left for one in telling.waiting] == [(Channel.COMMAND, Channel.MAIL)]


def test_of_very_many_questions_the_operator_hears_together_and_each_sender_of_his_own(telling: Telling) -> None:
    for number in range(QUESTIONS_A_DAY + 3):
        for _ in range(2):  # a settlement may be applied again
            telling.asks(number)
    one_by_one, together = telling.waiting[:QUESTIONS_A_DAY], telling.waiting[QUESTIONS_A_DAY:]
    assert {one.left for one in one_by_one} == {(Channel.COMMAND, Channel.MAIL, Channel.SENDER)}
    assert [(one.reason, one.sender, one.left) for one in together] == [
        ("asked", "ann", (Channel.SENDER,)),
        ("many", "", (Channel.COMMAND, Channel.MAIL)),
        *[("asked", "ann", (Channel.SENDER,))] * 2,
    ]
    telling.clock.moment += 86400
    telling.asks(99)
    assert telling.waiting[-1].left == (Channel.COMMAND, Channel.MAIL, Channel.SENDER), "another day"


def test_what_was_told_while_the_clock_was_ahead_is_none_of_the_day_to_which_it_is_set_back(telling: Telling) -> None:
    """Else nothing would be told one by one until the clock came there again."""

    def held(number: int) -> None:
        envelope = Envelope(f"m{number}", f"th{number}", f"stranger-{number}", 1.0, "", "")
        telling.notices.held(Guard.WHO, f"who\0stranger-{number}", envelope, "not in allow_from")

    telling.clock.moment += 30 * 86400
    for number in range(max(QUESTIONS_A_DAY, STRANGERS_A_DAY) + 1):
        telling.asks(number)
        held(number)
    many = [one for one in telling.waiting if not one.sender]
    assert [(one.kind, one.reason) for one in many] == [(NoticeKind.APPROVAL, "many"), (NoticeKind.HELD, "who")]
    telling.clock.moment = NOON
    telling.asks(99)
    held(99)
    asked, stranger = telling.waiting[-2:]
    assert (asked.reason, asked.left) == ("asked", (Channel.COMMAND, Channel.MAIL, Channel.SENDER))
    assert (stranger.kind, stranger.sender) == (NoticeKind.HELD, "stranger-99")
    assert (stranger.message_id, stranger.thread, stranger.why) == ("m99", "th99", "not in allow_from")


def test_each_way_tells_for_itself_and_its_tries_are_counted_over_restarts(telling: Telling) -> None:
    telling.notices.tell(Notice("n-1", NoticeKind.INSTRUCTIONS, NOON, "changed", sender="ann"))
    for tries in range(1, TRIES):
        [notice] = telling.waiting
        assert (notice.left, notice.tries) == ((Channel.COMMAND, Channel.MAIL), tries - 1)
        telling.notices._take(notice, Channel.COMMAND, Unknown("it ended with 1"))
        telling.notices._take(notice, Channel.MAIL, Unknown("503"))
        telling.begin()
    [notice] = telling.waiting
    telling.notices._take(notice, Channel.COMMAND, Unknown("it ended with 1"))
    [notice] = telling.waiting
    assert notice.left == (Channel.MAIL,), "a command is given up after so many tries"
    # Mail is told for a week, and is given up then, or where it is refused.
    telling.clock.moment += MAIL_PATIENCE
    telling.notices._take(notice, Channel.MAIL, Unknown("503"))
    assert len(telling.waiting) == 1
    telling.clock.moment += 1
    telling.notices._take(notice, Channel.MAIL, Unknown("503"))
    assert telling.waiting == []
    ends: tuple[Delivered | Refused, ...] = (Delivered(), Refused("404"))
    for number, delivery in enumerate(ends):
        telling.notices.tell(Notice(f"n-{number + 2}", NoticeKind.INSTRUCTIONS, NOON, "changed", sender="ann"))
        [notice] = telling.waiting
        # What the other way has told meanwhile stays told.
        telling.notices._take(notice, Channel.COMMAND, Delivered())
        telling.notices._take(notice, Channel.MAIL, delivery)
        assert telling.waiting == []
    # Nor does it come back with a way that is tried once more.
    telling.notices.tell(Notice("n-4", NoticeKind.INSTRUCTIONS, NOON, "changed", sender="ann"))
    [notice] = telling.waiting
    telling.notices._take(notice, Channel.MAIL, Delivered())
    telling.notices._take(notice, Channel.COMMAND, Unknown("it ended with 1"))
    assert [(one.left, one.tries) for one in telling.waiting] == [((Channel.COMMAND,), 1)]
    log = telling.scene.desk.log
    assert [one["by"] for one in log(EventName.NOTICE_GIVEN_UP)] == ["command", "mail", "mail"]
    assert [one["by"] for one in log(EventName.NOTICE_SENT)] == ["command", "mail", "command", "mail"]


def test_whose_workdir_is_anothers_by_now_tells_nobody(telling: Telling) -> None:
    """What waits there the other one tells."""
    telling.notices.tell(Notice("n-1", NoticeKind.INSTRUCTIONS, NOON, "changed", sender="ann"))
    telling.lost = True
    for channel in (Channel.COMMAND, Channel.MAIL):
        with pytest.raises(BusyFault):
            asyncio.run(telling.notices._round(channel))
    assert (telling.scene.desk.notices(), telling.scene.desk.inbox("planner")) == ([], [])
    telling.lost = False
    asyncio.run(telling.notices._round(Channel.COMMAND))
    assert [one["kind"] for one in telling.scene.desk.notices()] == ["instructions"]


def test_that_the_disk_takes_nothing_is_told_though_it_does_not_take_that_either(telling: Telling) -> None:
    telling.state.folder.disk.system = Full()
    telling.troubles.begin(OWN, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert telling.notices._see_trouble() == telling.notices._policy.notify.trouble_after
    telling.clock.moment += telling.notices._policy.notify.trouble_after
    for _ in range(2):
        assert telling.notices._see_trouble() is None
    assert [one.kind for one in telling.state.notices.told.waiting] == [NoticeKind.TROUBLE]
    # Any other word waits until it can be kept: whoever is killed would say it twice.
    with pytest.raises(OSError, match="No space"):
        telling.notices.look(Pause(PauseReason.SIGNED_OUT, NOON))


def test_of_each_silence_the_operator_hears_once_while_it_lasts_also_of_two_that_become_due_together(
    telling: Telling,
) -> None:
    mail, turn = (Silence.MAIL_WAITS, NOON), (Silence.NO_TURN, NOON)

    def heard(*silent: tuple[Silence, float]) -> list[str]:
        before = len(telling.waiting)
        telling.notices.hear(silent)
        return [one.reason for one in telling.waiting[before:]]

    assert heard(mail, turn) == ["mail_waits", "no_turn"]
    assert [heard(mail, turn), heard(turn, mail)] == [[], []]
    telling.begin()
    assert heard(mail, turn) == [], "nor by the next watcher"
    assert [heard(turn), heard(mail, turn)] == [[], ["mail_waits"]], "once more after it was over"
    assert len({one.id for one in telling.waiting}) == 3, "of one moment, and yet each is told by itself"


class Elsewhere(MaildirMailbox):
    """A mailbox that would take the same mail twice, and has it by now."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, recognises_delivery=False)

    async def look(self, item: Outgoing) -> bool:
        return True


def test_where_the_same_mail_would_come_twice_it_is_looked_for_first(telling: Telling) -> None:
    """Whoever was killed before he could write it down had told it."""
    desk = telling.scene.desk
    teller = Teller(telling.notices._policy, Elsewhere(desk.disk, desk.root, "coder"))
    notice = Notice("n-1", NoticeKind.INSTRUCTIONS, NOON, "changed", sender="ann")
    assert asyncio.run(teller.tell(notice, Channel.MAIL)) == Delivered()
    assert desk.inbox("planner") == []
