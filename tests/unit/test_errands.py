"""What is asked of a watcher from afar: taken before it is done, done once, answered once, or refused."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene

from agent_mailer.choices import RemoteAccess
from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import new_turn_id
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.port import Answered, Asked, Became, Report
from agent_mailer.state.approvals import By, Verdict
from agent_mailer.state.held import Guard, HeldEntry
from agent_mailer.state.records import AfterStop, DeadLetter, PauseReason, Phase, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch import errands
from agent_mailer.watch.errands import Errands
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.pulse import Ear


class Afar:
    """Whoever operates the agent: hands out all that has no answer, and is away as often as `away` says."""

    def __init__(self) -> None:
        self.open: list[Asked] = []
        self.heard: list[Answered] = []
        self.away = 0

    def tell(self, report: Report) -> None:
        """Nobody reads it here."""

    async def asked(self) -> Sequence[Asked]:
        return tuple(self.open)

    async def answer(self, answered: Answered) -> None:
        if self.away:
            self.away -= 1
            raise MailboxUnavailable("away", "nobody answers")
        self.heard.append(answered)

    async def close(self, seconds: float) -> None:
        """Nothing is under way."""


class Refuses(SystemCalls):
    """A disk that does not take the file of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def replace(self, source: Path, target: Path) -> None:
        if self.name in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        super().replace(source, target)


class Operated:
    """A watcher's room, who asks of it from afar, and the part of the watcher that listens to him."""

    def __init__(self, base: Path) -> None:
        self.clock = FakeClock()
        self.scene = Scene(base, self.clock)
        self.scene.room.trouble_wait = lambda tries: 0.0  # type: ignore[method-assign]
        self.afar = Afar()
        self.woken = 0
        self.opened = False
        """Whether the last look has left turns that somebody has to see through."""
        self.begin()

    def begin(self) -> None:
        """Another watcher, over the same folder."""
        self.state = self.scene.desk.place(self.clock).state
        self.scene.room.state = self.state
        self.errands = Errands(self.scene.room, self.afar, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def may(self, access: RemoteAccess) -> None:
        self.scene.room.policy = msgspec.structs.replace(self.scene.room.policy, remote=access)

    def ask(self, verb: RemoteVerb, *targets: str, seconds: float = 60.0, number: int = 0, **more: Any) -> Asked:
        found = Asked(number or len(self.afar.open) + 1, verb, "ada", seconds, targets, **more)
        self.afar.open.append(found)
        return found

    def look(self) -> list[Answered]:
        """What the loop does once somebody may have asked; what is to be told of it, in all, and was not."""

        async def looked() -> None:
            await self.errands.hear()
            self.errands.heed()
            self.opened = self.errands.attend()

        asyncio.run(looked())
        return list(self.state.remote.untold)

    def did(self, *targets: str) -> str:
        """What came of the last of them, in a word and a line."""
        last = self.look()[-1]
        return f"{last.became}: {last.lines[0]}"


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Operated]:
    found = Operated(tmp_path)
    yield found
    found.scene.close()


def test_who_asks_from_afar_is_heard_whatever_is_asked_here_at_the_same_time(operated: Operated) -> None:
    operated.may(RemoteAccess.ALL)
    ear = Ear(operated.scene.room)
    ear.errands = operated.errands
    operated.ask(RemoteVerb.PAUSE)
    asyncio.run(operated.errands.hear())
    operated.errands.heed()
    operated.state.requests.submit(Request(Verb.STUCK_RETRY))
    assert ear.apply_waiting()
    assert [one.became for one in operated.state.remote.untold] == [Became.DONE]
    assert operated.state.requests.waiting() == []


def test_each_thing_that_may_be_asked_is_done_in_the_name_of_who_asks(operated: Operated) -> None:
    operated.may(RemoteAccess.ALL)
    state, scene = operated.state, operated.scene
    operated.ask(RemoteVerb.PAUSE, reason="I look at it")
    assert operated.did().startswith("done: paused")
    known = state.pause.read()
    assert known is not None
    assert (known.reason, known.detail) == (PauseReason.BY_HAND, "ada: I look at it")
    operated.ask(RemoteVerb.RESUME)
    assert operated.did() == "done: resumed"
    assert state.pause.read() is None

    mail = scene.mail()
    state.held.add([HeldEntry(mail.id, 1.0, Guard.PAIR, "too often", "pair", mail)])
    operated.ask(RemoteVerb.RELEASE, mail.id)
    assert operated.did().startswith("done: ")
    released = state.retries.get(mail.id)
    assert released is not None
    assert (released.released, dict(state.held.waiting)) == (True, {})
    operated.ask(RemoteVerb.RELEASE, mail.id)
    assert operated.did() == "refused: nothing of it is held"

    gone = scene.mail(body="two")
    state.dead_letters.add(DeadLetter(gone.id, gone.thread, envelope=gone), again=False)
    operated.ask(RemoteVerb.RETRY, f"given-up {gone.id}")
    assert not operated.opened
    assert operated.did() == f"done: {gone.id}: pending again"
    assert operated.opened, "what is sent again is a turn that nobody else would take up"
    operated.ask(RemoteVerb.RETRY, f"given-up {gone.id}")
    assert operated.did() == "refused: nothing of it is stuck"
    operated.ask(RemoteVerb.STOP, "20260101T000000-00000000")
    assert operated.did() == "refused: no such turn runs"
    running = TurnRecord(new_turn_id(1.0), scene.mail(body="three"), Phase.RUNNING, "command", 1.0)
    state.turns.create(running)
    operated.ask(RemoteVerb.STOP, running.turn_id, reason="too late", then=AfterStop.ASK.value)
    assert operated.did().startswith("done: ")
    stop = state.turns.stop_asked(running.turn_id)
    assert stop is not None
    assert (stop.then, stop.reason) == (AfterStop.ASK, "ada: too late")
    operated.ask(RemoteVerb.RAISE, "dollars_per_day=5")
    assert "is not set" in operated.did()

    asked = scene.asked()
    operated.ask(RemoteVerb.APPROVE, asked.id, reason="go on")
    assert operated.did() == "done: allowed, once"
    answer = operated.state.approvals.answer_to(asked.id)
    assert answer is not None
    assert (answer.verdict, answer.by, answer.who, answer.reason) == (Verdict.ALLOW, By.REMOTE, "ada", "go on")
    operated.ask(RemoteVerb.DENY, asked.id)
    assert operated.did() == "refused: it was answered before: allow"
    operated.ask(RemoteVerb.DENY, "q-2")
    assert operated.did() == "refused: there is no such question"
    done, refused = (scene.desk.log(name) for name in (EventName.REQUEST_APPLIED, EventName.REQUEST_REFUSED))
    assert [len(done), len(refused)] == [5, 5]
    assert {one.get("person") for one in (*done, *refused)} == {"ada"}


def test_of_several_that_are_named_at_once_each_is_done_whatever_the_first_is(operated: Operated) -> None:
    operated.may(RemoteAccess.ALL)
    state, scene = operated.state, operated.scene
    gone, held = ([scene.mail(body=f"{name} {number}") for number in range(2)] for name in ("gone", "held"))
    for one in gone:
        state.dead_letters.add(DeadLetter(one.id, one.thread, envelope=one), again=False)
    for key in ("first", "second"):
        state.stuck.add(StuckKind.NOT_FETCHED, key, scene.mail(body=key), "it is not there")
    state.held.add([HeldEntry(one.id, 1.0, Guard.PAIR, "too often", one.id, one) for one in held])
    operated.ask(RemoteVerb.RETRY, "given-up nothing", "not-fetched second")
    operated.ask(RemoteVerb.RETRY, "given-up nothing", *(f"given-up {one.id}" for one in gone))
    operated.ask(RemoteVerb.RELEASE, "nothing", *(one.id for one in held))
    turns = [TurnRecord(new_turn_id(moment), scene.mail(), Phase.RUNNING, "command", 1.0) for moment in (1.0, 2.0)]
    for turn in turns:
        state.turns.create(turn)
    operated.ask(RemoteVerb.STOP, "20260101T000000-00000000", *(turn.turn_id for turn in turns))
    budget = BudgetPolicy(turns_per_day=1, dollars_per_day=1.0)
    scene.room.policy = msgspec.structs.replace(scene.room.policy, budget=budget)
    operated.ask(RemoteVerb.RAISE, "turns_per_day=5", "dollars_per_day=6")
    operated.ask(RemoteVerb.RELEASE, "one\nthing", "another")
    *done, refused = operated.look()
    assert [one.became for one in (*done, refused)] == [Became.DONE] * 5 + [Became.REFUSED]
    assert [one.key for one in state.stuck.all()] == ["first"]
    assert {one.envelope.id for one in state.retries.all()} >= {one.id for one in (*gone, *held)}
    assert all(state.turns.stop_asked(turn.turn_id) for turn in turns)
    assert [len(one.lines) for one in done] == [2, 3, 3, 3, 2]
    told = [one["targets"] for one in scene.desk.log(EventName.REQUEST_REFUSED)]
    assert told[-1].endswith(" another"), told


@pytest.mark.parametrize("access", RemoteAccess)
def test_what_gives_power_needs_a_persons_word_in_the_workdir(operated: Operated, access: RemoteAccess) -> None:
    operated.may(access)
    asked, now = operated.scene.asked(), operated.clock.moment
    for verb in RemoteVerb:
        targets = {RemoteVerb.PAUSE: (), RemoteVerb.RESUME: ()}.get(verb, (asked.id,))
        operated.ask(verb, *targets)
    refused = [one.number for one in operated.look() if one.lines[0].startswith("remote = ")]
    allowed = {RemoteAccess.NONE: set(), RemoteAccess.ALL: set(RemoteVerb)}.get(
        access, {RemoteVerb.PAUSE, RemoteVerb.RESUME, RemoteVerb.RETRY, RemoteVerb.STOP, RemoteVerb.DENY}
    )
    assert refused == [one.number for one in operated.afar.open if one.verb not in allowed]
    answer = operated.state.approvals.answer_to(asked.id)
    assert (answer is None) == (access is RemoteAccess.NONE), now


def test_of_what_could_not_be_read_its_mailbox_is_asked(operated: Operated) -> None:
    (operated.scene.box / "new" / "bad.md").write_text("no mail")
    operated.scene.do(*operated.scene.look().actions)
    operated.begin()
    operated.may(RemoteAccess.OPERATE)
    [bad] = operated.state.stuck.all()
    operated.ask(RemoteVerb.RETRY, f"{bad.kind.value} {bad.key}")
    assert "it is no message: " in operated.did()


def test_of_several_that_wait_at_once_each_is_done_in_its_order(operated: Operated) -> None:
    operated.may(RemoteAccess.ALL)
    state, gone = operated.state, operated.scene.mail()
    state.dead_letters.add(DeadLetter(gone.id, gone.thread, envelope=gone), again=False)
    asked = operated.scene.asked()
    operated.ask(RemoteVerb.RETRY, f"given-up {gone.id}")
    operated.ask(RemoteVerb.APPROVE, asked.id)
    operated.ask(RemoteVerb.PAUSE)
    assert [(one.number, one.became) for one in operated.look()] == [(number, Became.DONE) for number in (1, 2, 3)]
    assert operated.opened
    assert state.approvals.answer_to(asked.id) is not None
    assert state.pause.read() is not None


def test_what_came_too_late_or_twice_is_not_done(operated: Operated) -> None:
    operated.ask(RemoteVerb.PAUSE, seconds=-1.0)
    assert operated.did() == "expired: its time had run out when the watcher came to it"
    operated.ask(RemoteVerb.PAUSE, number=1)
    for answered in operated.state.remote.untold:
        operated.state.remote.told(answered)
    operated.begin()
    assert operated.did() == "refused: this number was asked for before: ask again"
    asked = operated.scene.asked()
    operated.clock.moment += 3600
    operated.ask(RemoteVerb.DENY, asked.id, number=9)
    assert operated.did() == "refused: it came too late, the agent goes on without it"
    assert operated.state.pause.read() is None


def test_of_several_that_come_once_more_none_is_done_again(operated: Operated) -> None:
    """To refuse the first of them makes none of the others new."""
    for _ in range(3):
        operated.ask(RemoteVerb.PAUSE)
    for answered in operated.look():
        operated.state.remote.told(answered)
    operated.state.pause.clear()
    operated.begin()
    assert [(one.number, one.became) for one in operated.look()] == [(number, Became.REFUSED) for number in (1, 2, 3)]
    assert (operated.state.pause.read(), operated.state.remote.seen) == (None, 3)


def test_nothing_is_done_that_was_not_written_down_and_that_is_done_once_the_disk_takes_it(operated: Operated) -> None:
    disk = operated.state.folder.disk
    disk.system = Refuses("/remote/")
    operated.ask(RemoteVerb.PAUSE)
    assert operated.look() == []
    assert (operated.state.pause.read(), operated.state.remote.seen) == (None, 0)
    disk.system = SystemCalls()
    assert [(one.number, one.became) for one in operated.look()] == [(1, Became.DONE)]
    assert operated.look() == operated.look(), "what was answered is not taken once more"
    assert operated.scene.told(EventName.REQUEST_REFUSED)[0]["request"] == "remote"


def test_what_the_disk_has_refused_is_tried_again_although_nobody_asks_or_writes(
    operated: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of the watcher that listens first, so that the loop finds something to be attended to."""
    monkeypatch.setattr(errands, "AGAIN_SECONDS", 0.0)
    loop_woken_after = list[int]()
    operated.scene.room.wake = lambda: loop_woken_after.append(operated.woken)
    operated.state.folder.disk.system = Refuses("/remote/")
    operated.ask(RemoteVerb.PAUSE)

    async def looked() -> None:
        await operated.errands.hear()
        operated.errands.heed()
        assert (operated.errands.attend(), operated.woken) == (True, 1)
        async with asyncio.timeout(20):
            while not loop_woken_after:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0)

    asyncio.run(looked())
    assert loop_woken_after == [2]


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_taken_and_may_have_been_done_is_done_again_and_answered_once(
    operated: Operated, killed: bool
) -> None:
    disk = operated.state.folder.disk
    disk.system = Refuses("pause.json")
    operated.ask(RemoteVerb.PAUSE)
    operated.ask(RemoteVerb.RETRY, "given-up x")
    assert operated.look() == []
    doing = operated.state.remote.doing
    assert doing is not None
    assert doing.number == 1
    disk.system = SystemCalls()
    if killed:
        operated.begin()
    assert [(one.number, one.became) for one in operated.look()] == [(1, Became.DONE), (2, Became.REFUSED)]
    assert operated.state.pause.read() is not None
    assert operated.state.remote.doing is None


def test_what_was_done_before_a_kill_is_told_as_done(operated: Operated) -> None:
    """The yes counted; whoever comes after finds it answered."""
    operated.may(RemoteAccess.ALL)
    one = operated.scene.mail()
    operated.state.held.add([HeldEntry(one.id, 1.0, Guard.PAIR, "too often", "pair", one)])
    asked = operated.ask(RemoteVerb.RELEASE, one.id)
    disk = operated.state.folder.disk
    operated.state.remote.take(asked)
    operated.errands._done(asked)  # and is killed before what came of it is written down
    disk.system = SystemCalls()
    operated.begin()
    [told] = operated.look()
    assert (told.became, told.lines[0]) == (Became.DONE, "done before the watcher was started again")


def test_what_came_of_it_is_told_until_somebody_has_heard_it(operated: Operated) -> None:
    operated.ask(RemoteVerb.PAUSE)
    operated.ask(RemoteVerb.RESUME)
    operated.look()
    operated.begin()
    operated.afar.away = 3

    async def told() -> None:
        telling = asyncio.create_task(operated.errands.tell_on())
        async with asyncio.timeout(60):
            while operated.state.remote.untold:  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0)
        telling.cancel()

    asyncio.run(told())
    assert [(one.number, one.became) for one in operated.afar.heard] == [(1, Became.DONE), (2, Became.DONE)]
    operated.begin()
    assert operated.state.remote.untold == ()


def test_who_tells_what_came_of_it_hears_of_what_is_done_later(operated: Operated) -> None:
    async def told_on() -> None:
        errands = operated.errands
        telling = asyncio.create_task(errands.tell_on())
        for number in (1, 2):
            operated.ask(RemoteVerb.PAUSE, number=number)
            await errands.hear()
            errands.heed()
            errands.attend()
            async with asyncio.timeout(20):
                while len(operated.afar.heard) < number:  # noqa: ASYNC110 - who is away sets no event
                    await asyncio.sleep(0)
        telling.cancel()

    asyncio.run(told_on())
    assert operated.state.remote.untold == ()
