"""What a watcher tells of its workdir to whoever operates it: what there is, and nothing that a mail says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene, scene_at

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, MailboxUnavailable
from agent_mailer.outcomes import Outcome
from agent_mailer.remote.access import RemoteVerb
from agent_mailer.remote.port import LONGEST_NAME, MOST_LISTED, Answered, Asked, Counted, Report, Spent, Standing
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.held import Guard, HeldEntry
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import (
    DeadLetter,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    Settlement,
    TurnRecord,
)
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch.reporting import Reporting, report_of
from agent_mailer.watch.requests import apply
from agent_mailer.watch.room import Stage, Work
from agent_mailer.watch.rules import Candidate

TURN = "20261129T100000-0a0b0c0d"
SECRET = "s3cret words of a mail"


class Board:
    """Whoever reads the reports."""

    def __init__(self) -> None:
        self.told: list[Report] = []

    def tell(self, report: Report) -> None:
        self.told.append(report)

    async def asked(self) -> Sequence[Asked]:
        raise NotImplementedError

    async def answer(self, answered: Answered) -> None:
        raise NotImplementedError

    async def close(self, seconds: float) -> None:
        raise NotImplementedError


scene = scene_at(lambda: FakeClock(1_800_000_000.0))


def letter(name: str, thread: str = "th", created: float = 100.0) -> Envelope:
    return Envelope(name, thread, "user", created, "", "")


def seen(scene: Scene) -> Report:
    return report_of(scene.room, 5.0, ())


def test_what_waits_is_counted_by_why_it_waits(scene: Scene) -> None:
    now = scene.place.clock.now()
    retried = [RetryEntry(letter("later", created=1.0), not_before=now + 60), RetryEntry(letter("due"), not_before=now)]
    scene.room.waiting = [
        Candidate(letter("new", created=50.0)),
        Candidate(letter("works", created=2.0)),
        *(Candidate(one.envelope, one) for one in retried),
    ]
    work = Work(letter("works"), Stage.RUNNING, {"works"})
    work.tool = ("Bash", now - 3)
    claimed = Work(letter("claimed"), Stage.CLAIMING, {"claimed"})
    stuck = Work(letter("ended"), Stage.STUCK, {"ended"})
    scene.room.work = {TURN: work, "20261129T100001-0a0b0c0d": claimed, "20261129T100002-0a0b0c0d": stuck}
    report = seen(scene)
    assert (report.waiting, report.oldest, report.retries, report.next_retry) == (2, 50.0, 1, now + 60)
    shown = [(one.message_id, one.tool, one.tool_since, one.settles, one.waits) for one in report.working]
    assert shown == [("works", "Bash", now - 3, False, False), ("ended", "", None, True, True)]
    assert report.standing is Standing.WORKS


def test_what_stands_in_the_way_what_the_day_has_taken_and_what_was_heard_is_told(scene: Scene) -> None:
    state, now = scene.state, scene.place.clock.now()
    assert seen(scene).standing is Standing.IDLE
    state.usage.add(TURN, now, 2.5, Usage(7, 8, 0.25))
    state.remote.take(Asked(41, RemoteVerb.PAUSE, "ada", 60.0))
    scene.room.troubles.begin(TURN, MailboxUnavailable("away", "nobody answers"))
    report = seen(scene)
    assert (report.runtime, report.standing, report.seen) == ("command", Standing.TROUBLE, 41)
    assert report.trouble is not None
    assert (report.trouble.what, report.trouble.since) == ("mailbox", now)
    assert report.today == Spent("2027-01-15", 1, 2.5, 7, 8, 0.25)
    state.login.learn(SignedOut(now - 5, "no login", "log in"))
    report = seen(scene)
    assert (report.signed_out, report.standing) == (now - 5, Standing.SIGNED_OUT)


def test_of_very_much_that_needs_somebody_the_newest_is_named_and_all_is_counted(scene: Scene) -> None:
    state, many = scene.state, MOST_LISTED + 3
    for number in range(many):
        one = letter(f"m{number:03}")
        state.held.add([HeldEntry(f"h{number:03}", float(number), Guard.PAIR, "", "pair", one)])
        state.stuck.add(StuckKind.NOT_FETCHED, f"f{number:03}", one, "")
    report = seen(scene)
    newest = range(3, many)
    assert [one.key for one in report.held] == [f"h{number:03}" for number in newest]
    assert sorted(one.key for one in report.stuck) == [f"f{number:03}" for number in newest]
    assert (report.held_counts, report.stuck_counts) == ((Counted("pair", many),), (Counted("not-fetched", many),))


def test_what_needs_somebody_is_named_with_its_key_and_nothing_that_a_mail_says(scene: Scene) -> None:
    state, now = scene.state, scene.place.clock.now()
    asked = scene.asked("m")
    state.retries.put(RetryEntry(letter("m"), asked=(asked.id,)))
    state.held.add([HeldEntry("h", 3.0, Guard.PAIR, SECRET, "pair", letter("h", "held"))])
    state.dead_letters.add(DeadLetter("d", "dead", 1, SECRET, "2026-01-01T00:00:00Z", TURN), again=False)
    state.stuck.add(StuckKind.NOT_FETCHED, "f", letter("f"), SECRET)
    long = "x" * (LONGEST_NAME + 1)
    state.stuck.add(StuckKind.NOT_FETCHED, long, letter(long), SECRET)
    ended = Settlement(Outcome.BLOCKED, SECRET, now, 7.0, finished=True, question=SECRET)
    record = TurnRecord(TURN, letter("q", "asks"), Phase.SETTLING, "command", now - 9, settlement=ended)
    state.turns.create(record)
    state.turns.mark_settled(TURN, durable=True)
    state.questions.settled(record)
    state.pause.write(Pause(PauseReason.BY_HAND, now - 1, detail=SECRET))
    report = seen(scene)
    assert [(one.id, one.tool, one.until) for one in report.questions] == [
        (TURN, "", None),
        (asked.id, "Bash", asked.expires_at),
    ]
    assert sorted((one.reason, one.key) for one in report.stuck) == [("given-up", "d"), ("not-fetched", "f")]
    assert report.stuck_counts == (Counted("given-up", 1), Counted("not-fetched", 2))
    assert [(one.reason, one.key, one.thread) for one in report.held] == [("pair", "h", "held")]
    assert report.held_counts == (Counted("pair", 1),)
    assert report.last is not None
    assert (report.last.turn_id, report.last.outcome, report.last.seconds) == (TURN, "blocked", 7.0)
    assert report.pause is not None
    assert (report.pause.reason, report.standing, report.needs_somebody) == ("by_hand", Standing.PAUSED, True)
    said = msgspec.json.encode(report).decode()
    assert (SECRET in said, "git push" in said, "cat " in said) == (False, False, False)
    # Its thread goes on: nobody is asked any more; and what nobody waits for is no question.
    scene.room.waiting = [Candidate(letter("more", "asks"))]
    state.retries.remove("m")
    assert seen(scene).questions == ()


def test_a_report_leaves_when_something_has_changed_and_the_last_says_that_it_was_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.watch.reporting.EVERY", 0.0)
    board = Board()

    async def told(many: int) -> None:
        async with asyncio.timeout(60):
            while len(board.told) < many:  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0)

    async def run() -> None:
        reporting = Reporting(scene.room, board)
        going = asyncio.create_task(reporting.go_on())
        reporting.touch()
        await told(1)
        apply(scene.state, Request(Verb.PAUSE))
        await told(2)
        # Nothing of it is another: nobody hears of that.
        reporting.touch()
        scene.place.log.emit(EventName.MAILBOX_BACK)
        for _ in range(20):
            await asyncio.sleep(0)
        apply(scene.state, Request(Verb.RESUME))
        await told(3)
        going.cancel()
        reporting.leave()

    asyncio.run(run())
    paused = [(one.pause is not None, one.ended) for one in board.told]
    assert paused == [(False, ""), (True, ""), (False, ""), (False, "stopped")]
    assert {one.since for one in board.told} == {scene.place.clock.now()}
