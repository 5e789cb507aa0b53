"""What stands between a watcher and live sessions: offered once, given to one, and told whatever became of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.live.taking import Taking
from agent_mailer.mailbox.port import Envelope, Message
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import identify
from agent_mailer.state.presence import Presence
from agent_mailer.state.records import Pause, PauseReason, Phase, Settlement, Sitter, TurnRecord
from agent_mailer.state.requests import Request, Verb
from agent_mailer.turn_tools import RELEASED
from agent_mailer.turn_tools.folder import OUTBOX, Facts
from agent_mailer.watch.offering import Offers
from agent_mailer.watch.room import Stage, Work
from agent_mailer.watch.rules import Candidate

WAIT = 60.0
TURN = "20261129T100000-0a0b0c0d"


def sitter(name: str, pid: int | None = None) -> Sitter:
    process = identify(os.getpid() if pid is None else pid)
    assert process is not None
    return Sitter(name, process)


def pid_reused(by: Sitter) -> Sitter:
    """Who has this pid, and so this name, after him."""
    return Sitter(by.who, msgspec.structs.replace(by.process, started=by.process.started + 1))


def candidate(name: str) -> Candidate:
    return Candidate(Envelope(name, f"th-{name}", "user", 1.0, "", ""))


class Desk:
    """The sessions of `coder`'s folder, and a watcher that offers them its mail."""

    def __init__(self, base: Path) -> None:
        self.clock = FakeClock()
        self.scene = Scene(base, self.clock)
        self.presence = Presence(self.scene.desk.workdir, Disk())
        self.work: dict[str, Work] = {}
        self.woken = asyncio.Event()
        self.wait = WAIT
        self.begin()

    def begin(self) -> None:
        """Another watcher."""
        policy = msgspec.structs.replace(self.scene.policy, live_wait=self.wait)
        self.offers = Offers(self.scene.state, self.presence, lambda: policy, self.work, self.woken.set)

    def sift(
        self,
        *waiting: Candidate,
        ready: Sequence[Candidate] | None = None,
        pause: Pause | None = None,
        holds: bool = True,
    ) -> tuple[list[str], list[str]]:
        """The ids of what needs no session, and of what sessions have asked for."""

        async def sifted() -> tuple[list[Candidate], list[Candidate]]:
            now = self.clock.moment
            return self.offers.sift(waiting, list(waiting if ready is None else ready), pause, now, holds=holds)

        headless, taken = asyncio.run(sifted())
        return [one.envelope.id for one in headless], [one.envelope.id for one in taken]

    def offered(self) -> list[str]:
        return [one.message for one in self.presence.offers()]

    def ask(self, message: str, by: Sitter) -> str:
        self.clock.moment += 1  # who asks first is heard first
        return self.scene.state.requests.submit(Request(Verb.TAKE, (message,), by=by))

    def told(self, asked: str) -> tuple[bool, str] | None:
        answer = self.scene.state.requests.take_answer(asked)
        return None if answer is None else (answer.ok, answer.lines[0])

    def record(self, message: str, live: Sitter) -> TurnRecord:
        found = TurnRecord(TURN, candidate(message).envelope, Phase.RUNNING, "live", 1.0, live=live)
        self.scene.state.turns.create(found)
        (self.scene.state.turns.path(TURN) / OUTBOX).mkdir(exist_ok=True)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.scene.close()


def test_mail_is_held_for_who_is_there_until_its_time_is_up_over_watchers_too(desk: Desk) -> None:
    one, two = candidate("one"), candidate("two")
    assert desk.sift(one) == (["one"], []), "nobody is there"
    assert not desk.presence.folder.exists(), "and nothing is written for that"
    seat = desk.presence.sit(sitter("claude-1"))
    assert desk.sift(one, holds=False) == (["one"], []), "who runs through once waits for nobody"
    desk.begin()
    assert desk.sift(one) == ([], [])
    [offer] = desk.presence.offers()
    assert (offer.message, offer.until, [s.who for s in offer.sitters]) == (
        "one",
        desk.clock.moment + WAIT,
        ["claude-1"],
    )
    # Its thread is busy for a while: what is offered stays so.
    desk.clock.moment += 10
    assert desk.sift(one, ready=()) == ([], [])
    desk.begin()
    assert desk.sift(one, two) == ([], [])
    assert {one.message: one.until - desk.clock.moment for one in desk.presence.offers()} == {"one": 50, "two": 60}
    desk.clock.moment += 50
    assert desk.sift(one, two) == (["one"], [])
    # It is worked on, and is offered to nobody any more.
    assert desk.sift(two) == ([], [])
    assert desk.offered() == ["two"]
    assert [one["message_id"] for one in desk.scene.told(EventName.MESSAGE_OFFERED)] == ["one", "two"]
    desk.begin()
    assert desk.sift(two, holds=False) == (["two"], []), "nor does who runs through once, whoever has offered it"
    desk.presence.leave(seat)


def test_nobody_is_waited_for_who_cannot_be_told(desk: Desk) -> None:
    class Full(SystemCalls):
        def replace(self, source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device", str(target))

    seat = desk.presence.sit(sitter("claude-1"))
    desk.presence._disk.system = Full()
    for _ in range(2):
        assert desk.sift(candidate("one")) == (["one"], [])
    desk.presence._disk.system = SystemCalls()
    assert desk.sift(candidate("one")) == ([], []), "once it can be, it is"
    desk.presence.leave(seat)


def test_of_two_who_ask_one_has_it_and_who_is_gone_has_nothing(desk: Desk) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        gone = sitter("claude-3", process.pid)
        process.kill()
    first, second = sitter("claude-1"), sitter("claude-2")
    asked = [desk.ask("one", by) for by in (gone, first, second)]
    assert desk.sift(candidate("one"), candidate("two")) == (["two"], ["one"])
    assert desk.told(asked[0]) == (False, "the session that has asked is gone")
    assert desk.told(asked[1]) is None, "it is being started"
    assert desk.told(asked[2]) == (False, "one: an older mail of its thread comes first, or it is not due yet")
    # It is in work; asked again meanwhile, it is the same, for him alone.
    record = desk.record("one", first)
    desk.work[TURN] = Work(record.envelope, Stage.RUNNING, {"one"}, first)
    other = desk.ask("one", second)
    desk.offers.started(record)
    assert desk.sift(candidate("two")) == (["two"], [])
    assert (desk.told(asked[1]), desk.told(other)) == ((True, TURN), (False, "one: claude-1 has taken it"))
    later = desk.ask("one", pid_reused(first))
    desk.sift(candidate("two"))
    assert desk.told(later) == (False, "one: claude-1 has taken it")
    again = desk.ask("one", first)
    desk.sift(candidate("two"))
    assert desk.told(again) == (True, TURN)
    record.phase, record.settlement = Phase.SETTLING, Settlement(Outcome.DONE, "", 2.0, 1.0, finished=True)
    desk.scene.state.turns.save(record)
    late = desk.ask("one", first)
    desk.sift(candidate("two"))
    assert desk.told(late) == (False, "one: it is over")
    desk.work[TURN] = Work(record.envelope, Stage.RUNNING, {"one"})
    asked_for = desk.ask("one", second)
    desk.sift(candidate("two"))
    assert desk.told(asked_for) == (False, f"one: the agent's own turn {TURN} works on it")


def test_in_a_pause_nothing_is_given_nor_offered(desk: Desk) -> None:
    seat = desk.presence.sit(sitter("claude-1"))
    asked = desk.ask("one", sitter("claude-1"))
    assert desk.sift(candidate("one"), pause=Pause(PauseReason.BY_HAND, 1.0)) == (["one"], [])
    assert desk.offered() == []
    desk.presence.leave(seat)
    told = desk.told(asked)
    assert told is not None
    assert (told[0], "the agent is paused" in told[1]) == (False, True)


def test_who_has_not_waited_so_long_gives_it_back_and_hears_why_it_did_not_begin(desk: Desk) -> None:
    mine = sitter("claude-1")
    record = desk.record("one", mine)
    released = desk.scene.state.turns.path(TURN) / OUTBOX / RELEASED
    desk.ask("another", mine)
    desk.ask("one", sitter("claude-2"))
    desk.offers.started(record)
    assert released.read_bytes() == b"nobody waits for it"
    released.unlink()
    asked = desk.ask("one", mine)
    desk.offers.not_begun(record, "nothing could stand in")
    assert desk.told(asked) == (False, "one: nothing could stand in")
    asked = desk.ask("one", mine)
    desk.offers.started(record)
    assert (desk.told(asked), released.exists()) == ((True, TURN), False)


def test_what_cannot_be_answered_is_not_ended(desk: Desk) -> None:
    """The watcher settles a turn as soon as it is ended: an answer after that would be none."""
    mine = sitter("claude-1")
    record = desk.record("one", mine)
    message = Message(record.envelope, "task", "How far?")
    facts = Facts(TURN, "coder", 1024, "", "")
    desk.scene.state.turns.folder(TURN).prepare(message, [message], [], facts)
    taking = Taking(Workplace(desk.scene.desk.workdir), mine)
    outbox = desk.scene.state.turns.path(TURN) / OUTBOX
    before = sorted(outbox.iterdir())
    with pytest.raises(MailerError, match="at most"):
        taking.answer("one", "x" * 64 * 1024)
    assert sorted(outbox.iterdir()) == before
    for other in (sitter("claude-2"), pid_reused(mine)):
        with pytest.raises(MailerError, match="has not taken it"):
            Taking(Workplace(desk.scene.desk.workdir), other).answer("one", "x" * 64 * 1024)
    assert record.live == mine


@pytest.mark.parametrize("end", ["time", "death"])
def test_the_loop_is_woken_when_an_offer_ends(desk: Desk, end: str) -> None:
    desk.wait = 0.05 if end == "time" else WAIT
    desk.begin()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        seat = desk.presence.sit(sitter("claude-1", process.pid))

        async def held() -> None:
            one = candidate("one")
            assert desk.offers.sift([one], [one], None, desk.clock.moment) == ([], [])
            if end == "death":
                process.kill()
            async with asyncio.timeout(60):
                await desk.woken.wait()

        asyncio.run(held())
        process.kill()
    desk.presence.leave(seat)
    assert desk.sift(candidate("one"))[0] == ["one"]
