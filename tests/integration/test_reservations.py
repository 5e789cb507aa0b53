"""Files that one agent has to itself: before a turn, while it runs, and whatever its end."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import AheadOfTime, FakeClock
from tests.desk import SOON, Desk, outcomes, until
from tests.fake_mcp_mail import running
from tests.plain_broker import running_plain_broker
from tests.refusing import On, Refusing
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.approvals.hook import Dialect, run
from agent_mailer.approvals.turn import TurnApprovals, write
from agent_mailer.at_server import reservations_of
from agent_mailer.clock import Clock
from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.mcp_agent_mail.adapter import Account, McpAgentMailbox
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.path_patterns import overlap
from agent_mailer.reservations.leases import Leases
from agent_mailer.reservations.port import Owner, Reservation
from agent_mailer.reservations.turn import HELD, Answer, ask, put_held
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.views.reserved import in_the_way
from agent_mailer.watch.guards.gate import Admitted
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.turn import run_turn

WORKS = """cat >/dev/null
printf '{"mark":"begin","who":"%s"}\\n' "$AGENT_MAILER_WORKDIR" >>BASE/witness.jsonl
while [ ! -e BASE/go ]; do sleep 0.02; done
printf '{"mark":"end","who":"%s"}\\n' "$AGENT_MAILER_WORKDIR" >>BASE/witness.jsonl
echo done
"""


class TwoDesks:
    """`coder` and `planner` work on one project, and each has it to itself while it does."""

    def __init__(self, base: Path, **settings: Any) -> None:
        self.base = base
        self.project = base / "project"
        self.project.mkdir()
        self.first = Desk(base)
        given: dict[str, Any] = {"project_dir": str(self.project), "reserve": ["src/**"], **settings}
        self.first.configure(command=["/bin/sh", "-c", WORKS.replace("BASE", str(base))], **given)
        self.second = Desk.__new__(Desk)
        self.second.__dict__.update(self.first.__dict__)
        self.second.workdir = base / "planner"
        self.second.state = self.second.workdir / ".agent-mailer"
        self.second.state.mkdir(parents=True, mode=0o700)
        self.second.settings = dict(self.first.settings)
        self.second.configure(address="planner")

    def marks(self) -> list[tuple[str, str]]:
        return [(one["mark"], Path(one["who"]).name) for one in self.first.marks()]

    def held(self) -> list[dict[str, Any]]:
        path = self.first.root / "meta" / "reservations.json"
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return found

    def go(self) -> None:
        (self.base / "go").touch()


@pytest.fixture
def desks(tmp_path: Path) -> TwoDesks:
    return TwoDesks(tmp_path)


def leases(base: Path, address: str, clock: FakeClock | None = None) -> Leases:
    return Leases(base, Disk(), clock or FakeClock(), project="/srv/shop", address=address)


def test_of_many_that_ask_at_once_one_has_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        takers = [leases(tmp_path, f"a{number}") for number in range(8)]
        found = await asyncio.gather(*(one.take(f"t{n}", ["src/**", f"x{n}"], 60.0) for n, one in enumerate(takers)))
        assert sum(not way for way in found) == 1
        assert len(await takers[0].held()) == 2

    asyncio.run(scenario())


def test_all_or_none_is_had_and_what_has_run_out_is_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        one, other = leases(tmp_path, "one", clock), leases(tmp_path, "other", clock)
        assert await one.take("t1", ["src/app/*.py"], 60.0) == []
        (way,) = await other.take("t2", ["docs", "src/**"], 60.0)
        assert (way.owner, way.pattern) == (Owner("one", "t1"), "src/app/*.py")
        assert [held.pattern for held in await other.held()] == ["src/app/*.py"]
        assert await one.renew("t1", 120.0)
        clock.moment += 100
        assert await other.take("t2", ["src/**"], 60.0) != []
        clock.moment += 21
        assert await other.take("t2", ["src/**"], 60.0) == []
        assert not await one.renew("t1", 60.0)
        assert await one.take("t1", ["src/app/x.py"], 60.0) != []
        assert await other.release("t2") == 1
        assert await other.release("t2") == 0
        assert await one.take("t1", ["src/app/x.py"], 60.0) == []
        clock.moment -= 90 * 86400
        assert await other.held() == []

    asyncio.run(scenario())


def test_what_a_turn_has_stays_its_own_when_it_takes_more_of_the_project_or_of_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, other = leases(tmp_path, "one"), leases(tmp_path, "other")
        elsewhere = Leases(tmp_path, Disk(), FakeClock(), project="/srv/site", address="one")
        for taker, pattern in ((one, "src/**"), (elsewhere, "src/**"), (one, "docs"), (one, "docs")):
            assert await taker.take("t1", [pattern], 60.0) == []
        assert await one.take("t3", ["tests"], 60.0) == []
        assert sorted(held.pattern for held in await one.held()) == ["docs", "src/**", "tests"]
        assert [held.pattern for held in await elsewhere.held()] == ["src/**"]
        for pattern in ("src/app.py", "docs/a.md"):
            (way,) = await other.take("t2", [pattern], 60.0)
            assert way.owner == Owner("one", "t1")
        assert await one.release("t1", ["src/**"]) == 1
        assert await other.take("t2", ["src/app.py"], 60.0) == []
        assert await other.take("t2", ["docs/a.md"], 60.0) != []

    asyncio.run(scenario())


def test_of_two_agents_with_two_paths_each_renews_and_gives_back_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        one, other = leases(tmp_path, "one", clock), leases(tmp_path, "other", clock)

        async def held() -> list[str]:
            return sorted(reservation.pattern for reservation in await one.held())

        assert await one.take("t1", ["src", "docs"], 60.0) == []
        assert await other.take("t2", ["tests", "web"], 60.0) == []
        assert [way.pattern for way in one.of_others(["src", "tests", "web/a"])] == ["tests", "web"]
        clock.moment += 30
        assert await other.renew("t2", 120.0)
        assert await held() == ["docs", "src", "tests", "web"]
        clock.moment += 31
        assert await held() == ["tests", "web"]
        for release, left in ((one.release("t1"), ["tests", "web"]), (other.release("t2"), ["docs", "src"])):
            assert await one.take("t1", ["src", "docs"], 60.0) == []
            assert await release == 2
            assert await held() == left

    asyncio.run(scenario())


@pytest.mark.parametrize("more", ["docs", "src/**", ""], ids=["more", "the same", "renewed"])
def test_what_one_has_ends_no_earlier_because_one_asks_again_for_a_shorter_time(tmp_path: Path, more: str) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        one, other = leases(tmp_path, "one", clock), leases(tmp_path, "other", clock)
        assert await one.take("", ["src/**"], 7200.0) == []
        if more:
            assert await one.take("", [more], 60.0) == []
        else:
            assert await one.renew("", 60.0)
        clock.moment += 7199
        assert await other.take("t2", ["src/app.py"], 60.0) != []
        clock.moment += 1
        assert await other.take("t2", ["src/app.py"], 60.0) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("renews", [True, False], ids=["renewed", "asked again"])
def test_what_one_asks_for_longer_lasts_longer(tmp_path: Path, *, renews: bool) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        one, other = leases(tmp_path, "one", clock), leases(tmp_path, "other", clock)
        for pattern in ("docs", "src/**"):
            assert await one.take("", [pattern], 60.0) == []
        if renews:
            assert await one.renew("", 7200.0)
        else:
            assert await one.take("", ["docs", "src/**"], 7200.0) == []
        clock.moment += 7199
        for wanted in ("docs", "src/app.py"):
            assert await other.take("t2", [wanted], 60.0) != []
        # Of several that are wanted each stands in somebody's way.
        assert [hit.pattern for hit in await other.take("t2", ["free", "src/app.py"], 60.0)] == ["src/**"]

    asyncio.run(scenario())


def test_all_of_a_project_is_kept_from_others_and_no_shorter_by_a_clock_that_is_ahead(tmp_path: Path) -> None:
    async def scenario() -> None:
        here, ahead = FakeClock(), FakeClock()
        ahead.moment = here.moment + 7200
        one, other = leases(tmp_path, "one", ahead), leases(tmp_path, "other", here)
        assert await one.take("t1", ["**"], 60.0) == []
        (way,) = await other.take("t2", ["docs/a.md"], 60.0)
        assert (way.owner.address, way.pattern) == ("one", "**")
        here.moment += 61
        assert await other.take("t2", ["docs/a.md"], 60.0) != []
        here.moment += 7200
        assert await other.take("t2", ["docs/a.md"], 60.0) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"", b"{", b'[{"owner":1}]', b"[" * 100_000])
def test_a_damaged_file_keeps_nobody_from_anything(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "reservations.json").write_bytes(content)
    assert asyncio.run(leases(tmp_path, "one").take("t", ["src"], 60.0)) == []


@LONG
def test_two_agents_of_one_project_work_one_after_the_other_and_it_costs_no_attempt(desks: TwoDesks) -> None:
    desks.first.send("first")
    with desks.first.watching():
        until(lambda: desks.marks() == [("begin", "coder")], "the first at work")
        (held,) = desks.held()
        assert (held["owner"]["address"], held["pattern"]) == ("coder", "src/**")
        desks.second.send("second", to="planner")
        with desks.second.watching():
            until(lambda: desks.second.log(EventName.RESERVATION_CONFLICT), "the second kept waiting")
            (told,) = desks.second.log(EventName.RESERVATION_CONFLICT)
            assert "src/** is held by coder until " in told["why"]
            assert desks.second.log(EventName.TURN_CLAIMED) == []
            told_by(desks.second, "src/**", "coder", held["until"])
            assert [one.body.strip() for one in desks.second.inbox("planner")] == ["second"]
            desks.go()
            until(lambda: desks.second.log(EventName.TURN_SETTLED), "the second done")
        (claimed,) = desks.second.log(EventName.TURN_CLAIMED)
        assert claimed["attempt"] == 1
    assert [mark for mark, _ in desks.marks()] == ["begin", "end", "begin", "end"]
    until(lambda: desks.held() == [], "everything given back")


def told_by(desk: Desk, path: str, holder: str, until_when: float) -> None:
    """Whoever looks sees what the mail waits for."""
    shown = type_in(desk.workdir, "status", "--json").json
    assert shown["in_the_way"] == [{"path": path, "holder": holder, "until": until_when}]
    assert (shown["problems"], shown["next_wake"]["why"]) == ([], "files")
    screen = type_in(desk.workdir, "status").out
    assert f"{path} is {holder}'s until " in screen
    assert "waits for files" in type_in(desk.workdir, "status", "--all").out


def test_what_is_somebody_elses_or_nobodys_stands_in_nobodys_way(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path)

    def of(address: str) -> Leases:
        project = os.path.realpath(desks.project)
        return Leases(desks.first.root / "meta", Disk(), FakeClock(), project=project, address=address)

    keeper = of("user")
    assert asyncio.run(keeper.take("", ["docs/a.md", "src/a.py"], 600.0)) == []
    assert [one.path for one in in_the_way(desks.first.place())] == ["src/a.py"]
    assert asyncio.run(keeper.release("", ["src/a.py"])) == 1
    assert asyncio.run(of("coder").take("t", ["src/b.py"], 600.0)) == []
    assert in_the_way(desks.first.place()) == ()


def test_with_fail_it_is_an_attempt_that_says_who(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path, on_conflict="fail", max_retries=0)
    root = desks.first.root / "meta"
    keeper = Leases(root, Disk(), FakeClock(), project=os.path.realpath(desks.project), address="user")
    assert asyncio.run(keeper.take("", ["src/a.py"], 600.0)) == []
    desks.first.send("x")
    assert outcomes(desks.first.once()) == ["failed"]
    assert "src/a.py is held by user" in desks.first.log(EventName.TURN_ENDED)[0]["detail"]
    assert desks.marks() == []


@contextmanager
def at_work(desk: Desk, clock: Clock | None = None) -> Iterator[Room]:
    """A watcher's room, its mailbox not opened."""
    place = desk.place(clock)
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        yield place.room(lock)
    finally:
        lock.release()


def test_who_waits_for_files_takes_nothing_of_the_day(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path, limits={"turns_per_day": 1})
    root, project = desks.first.root / "meta", os.path.realpath(desks.project)
    keeper = Leases(root, Disk(), FakeClock(), project=project, address="user")
    assert asyncio.run(keeper.take("", ["src/a.py"], 600.0)) == []
    desks.first.send("x")

    async def waits(room: Room) -> None:
        now = room.clock.now()
        await room.mailbox.open()
        try:
            [envelope] = (await room.mailbox.pending(10)).envelopes
            one = Candidate(envelope)
            assert room.gate.admit([one], now) == Admitted((one,))
            assert await run_turn(room, one, new_turn_id(now), lambda: None) is None
            assert room.gate.admit([one], now) == Admitted((one,))
        finally:
            await room.mailbox.close()

    with at_work(desks.first) as room:
        asyncio.run(waits(room))


@pytest.mark.parametrize("twice", [False, True], ids=["once", "and to give it back"])
def test_what_was_taken_though_the_disk_did_not_say_so_is_given_back(tmp_path: Path, *, twice: bool) -> None:
    desks = TwoDesks(tmp_path)
    desks.go()
    desks.first.send("x")

    async def works(room: Room) -> None:
        await room.mailbox.open()
        try:
            [envelope] = (await room.mailbox.pending(10)).envelopes
            turns = [new_turn_id(room.clock.now()) for _ in range(2)]
            # What is written aside is synced; its folder is not, nor (twice) is anything new made there after that.
            room.state.folder.disk.system = Refusing("meta", On.MAKE, On.SYNC, code=errno.EIO, times=1 + twice, after=2)
            with pytest.raises(MailboxUnavailable):
                await run_turn(room, Candidate(envelope), turns[0], lambda: None)
            assert [one["owner"]["turn"] for one in desks.held()] == turns[:1] * twice
            assert await run_turn(room, Candidate(envelope), turns[1], lambda: None) is Outcome.DONE
        finally:
            await room.mailbox.close()

    with at_work(desks.first) as room:
        asyncio.run(works(room))
    assert desks.held() == []


def test_what_is_tidied_takes_nothing_from_a_turn_that_has_no_record_yet(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path)
    desks.first.send("x")
    path, aside = desks.first.root / "meta/reservations.json", tmp_path / "aside"

    async def works(room: Room) -> None:
        [envelope] = (await room.mailbox.pending(10)).envelopes
        reserving = room.reserving
        assert reserving is not None

        async def never(why: str) -> None:
            raise AssertionError(why)

        async def story(_: str) -> Outcome:
            path.rename(aside)
            path.mkdir()
            with pytest.raises(MailboxUnavailable):
                await reserving.around(room, envelope, "second", never)
            path.rmdir()
            aside.rename(path)
            assert await reserving.around(room, envelope, "third", never) is None
            assert [one["owner"]["turn"] for one in desks.held()] == ["first"]
            return Outcome.DONE

        assert await reserving.around(room, envelope, "first", story) is Outcome.DONE

    with at_work(desks.first) as room:
        asyncio.run(works(room))
    assert desks.held() == []


def test_what_is_tidied_takes_nothing_from_an_open_turn_of_an_earlier_watcher(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path)
    desks.first.send("x")
    now = FakeClock().now()
    before = new_turn_id(now)

    async def works(room: Room) -> None:
        [envelope] = (await room.mailbox.pending(10)).envelopes
        room.state.turns.create(TurnRecord(before, envelope, Phase.RUNNING, "command", now))
        reserving = room.reserving
        assert reserving is not None

        async def never(why: str) -> None:
            raise AssertionError(why)

        assert await reserving.around(room, envelope, "next", never) is None

    with at_work(desks.first) as room:
        meta, project = desks.first.root / "meta", os.path.realpath(desks.project)
        left = Leases(meta, Disk(), room.clock, project=project, address="coder")
        assert asyncio.run(left.take(before, ["src/**"], 600.0)) == []
        asyncio.run(works(room))
    assert [one["owner"]["turn"] for one in desks.held()] == [before]


def test_a_turn_that_fails_gives_back_what_it_had(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path, max_retries=0)
    desks.first.shell("cat >/dev/null; exit 3")
    desks.first.send("x")
    assert outcomes(desks.first.once()) == ["failed"]
    assert desks.held() == []


def test_a_program_that_is_not_there_gives_back_what_it_had(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path)
    desks.first.configure(command=["/nowhere/at-all"])
    desks.first.send("x")
    desks.first.once()
    assert desks.held() == []


def test_a_killed_watchers_turn_keeps_its_files_until_its_end(desks: TwoDesks) -> None:
    desks.first.send("first")
    with desks.first.watching() as watcher:
        until(lambda: desks.marks() == [("begin", "coder")], "the first at work")
        watcher.kill()
        watcher.wait()
        before = desks.held()
        assert len(before) == 1
        with desks.first.watching():
            until(lambda: desks.first.log(EventName.TURN_ADOPTED), "the turn adopted")
            assert [one["owner"] for one in desks.held()] == [before[0]["owner"]]
            desks.go()
            until(lambda: desks.first.log(EventName.TURN_SETTLED), "the turn settled")
            until(lambda: desks.held() == [], "everything given back")


def test_a_turn_keeps_what_it_has_beyond_the_end_of_its_watcher_and_an_adopted_one_has_it_again(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path)
    desks.first.send("x")
    path = desks.first.root / "meta" / "reservations.json"
    loop = AheadOfTime()

    async def soon(what: Callable[[], object]) -> None:
        late = time.monotonic() + SOON
        while not what():
            assert time.monotonic() < late
            await asyncio.sleep(0.005)

    def pass_by(seconds: float) -> None:
        loop.ahead += seconds
        loop.clock_ahead += seconds

    async def works(room: Room) -> None:
        [envelope] = (await room.mailbox.pending(10)).envelopes
        reserving = room.reserving
        assert reserving is not None

        async def story(_: str) -> None:
            await reserving.begin(room, "turn")
            (before,) = desks.held()
            await asyncio.sleep(0.005)
            pass_by(700)
            await soon(lambda: desks.held()[0]["until"] > before["until"] + 600)
            renewed.set()
            await asyncio.Event().wait()

        renewed = asyncio.Event()
        turn = asyncio.create_task(reserving.around(room, envelope, "turn", story))
        await soon(lambda: renewed.is_set() or turn.done())
        assert not turn.done(), turn.result()
        (had,) = desks.held()
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)
        assert desks.held() == [had]
        path.write_text("[]")  # it has run out while nobody watched
        reserving.tend(room, "turn", adopted=True)
        await soon(desks.held)
        assert desks.held()[0]["owner"] == had["owner"]
        await reserving.give_back(room, "turn")
        planner = Leases(path.parent, Disk(), loop, project=had["project"], address="planner")
        assert await planner.take("", ["src/a.py"], 6000.0) == []
        reserving.tend(room, "turn", adopted=True)
        await soon(lambda: desks.first.log(EventName.RESERVATION_LOST))
        for _ in range(2):
            pass_by(700)
            await asyncio.sleep(0.02)
        await reserving.give_back(room, "turn")

    with at_work(desks.first, loop) as room, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(works(room))
    assert len(desks.first.log(EventName.RESERVATION_LOST)) == 1
    assert [one["owner"]["address"] for one in desks.held()] == ["planner"]


@LONG
@pytest.mark.parametrize("taken", [False, True], ids=["had again", "lost"])
def test_an_adopted_turn_has_its_files_again_or_is_told_that_another_has_them(desks: TwoDesks, *, taken: bool) -> None:
    path = desks.first.root / "meta" / "reservations.json"
    desks.first.send("first")
    with desks.first.watching() as watcher:
        until(lambda: desks.marks() == [("begin", "coder")], "the first at work")
        watcher.kill()
        watcher.wait()
        (before,) = desks.held()
        # It has run out while nobody watched.
        path.write_text("[]")
        planner = Leases(path.parent, Disk(), FakeClock(), project=before["project"], address="planner")
        if taken:
            assert asyncio.run(planner.take("", ["src/a.py"], 600.0)) == []
        with desks.first.watching():
            if taken:
                until(lambda: desks.first.log(EventName.RESERVATION_LOST), "it is told")
                assert "src/a.py is held by planner until " in desks.first.log(EventName.RESERVATION_LOST)[0]["why"]
            else:
                until(lambda: [one["owner"] for one in desks.held()] == [before["owner"]], "it has them again")
            desks.go()
            until(lambda: desks.first.log(EventName.TURN_SETTLED), "the turn settled")
    assert len(desks.first.log(EventName.RESERVATION_LOST)) == taken
    assert [one["owner"]["address"] for one in desks.held()] == ["planner"] * taken


@LONG  # it waits until what was reserved has run out
def test_what_a_killed_holder_had_is_free_once_it_has_run_out(desks: TwoDesks) -> None:
    desks.first.send("first")
    with desks.first.watching() as watcher:
        until(lambda: desks.marks() == [("begin", "coder")], "the first at work")
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
    (left,) = desks.held()
    desks.go()
    desks.second.send("second", to="planner")
    with desks.second.watching():
        until(lambda: desks.second.log(EventName.RESERVATION_CONFLICT), "the second kept waiting")
        path = desks.first.root / "meta" / "reservations.json"
        path.write_text(json.dumps([{**left, "until": time.time() + 1}]))
        until(lambda: desks.second.log(EventName.TURN_SETTLED), "the second done")


def test_the_next_watcher_gives_back_what_no_turn_has_any_more(desks: TwoDesks) -> None:
    meta, project = desks.first.root / "meta", os.path.realpath(desks.project)
    left = Leases(meta, Disk(), FakeClock(), project=project, address="coder")
    assert asyncio.run(left.take("20261127T200000-0000000a", ["src/**"], 600.0)) == []
    desks.go()
    desks.first.send("x")
    assert outcomes(desks.first.once()) == ["done"]
    assert desks.held() == []


def test_a_turn_may_ask_for_more_and_is_told_who_has_it(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path, reserve=[], reservations=True)
    meta, project = desks.first.root / "meta", os.path.realpath(desks.project)
    keeper = Leases(meta, Disk(), FakeClock(), project=project, address="planner")
    assert asyncio.run(keeper.take("", ["docs/**"], 600.0)) == []
    words = "agent-mailer mail reserve 'src/**' && cat META/reservations.json; agent-mailer mail reserve docs/x.md 2>&1"
    words += "; agent-mailer mail reserve /etc/passwd 2>&1; true"
    desks.first.shell(f"cat >/dev/null; {words.replace('META', str(meta))}")
    desks.first.send("x")
    assert outcomes(desks.first.once()) == ["done"]
    (answer,) = desks.first.answered()
    assert "reserved src/**" in answer
    assert '"pattern":"src/**"' in answer
    assert "docs/** is held by planner until " in answer
    assert "does not lie in the project" in answer
    assert [one["pattern"] for one in desks.held()] == ["docs/**"]


@pytest.mark.parametrize("name", ["reservations.json", "reserved-*.json"], ids=["taken", "answered"])
def test_what_a_turn_asks_for_is_answered_though_the_disk_failed_at_first(tmp_path: Path, name: str) -> None:
    desks = TwoDesks(tmp_path, reserve=[], reservations=True)
    now = FakeClock().now()
    turn_id = new_turn_id(now)

    async def works(room: Room) -> Answer:
        reserving = room.reserving
        assert reserving is not None
        reserving._rhythm = 0.01
        directory = room.state.turns.path(turn_id)
        (directory / "outbox").mkdir(parents=True)
        room.state.folder.disk.system = refusing = Refusing(name, On.REPLACE, times=1)
        reserving.tend(room, turn_id)
        answer = await asyncio.to_thread(ask, Disk(), directory, ["src/a.py"], SOON)
        assert refusing.refused == 1
        assert [one["owner"]["turn"] for one in desks.held()] == [turn_id]
        await reserving.give_back(room, turn_id)
        return answer

    with at_work(desks.first) as room:
        answer = asyncio.run(works(room))
    assert (answer.patterns, answer.why) == (("src/a.py",), "")


def test_without_reservations_the_tool_says_so_and_nothing_is_made(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.shell("cat >/dev/null; agent-mailer mail reserve src 2>&1; true")
    desk.send("x")
    desk.once()
    (answer,) = desk.answered()
    assert "no files are reserved here" in answer
    assert not (desk.root / "meta" / "reservations.json").exists()


@pytest.mark.parametrize("tool", ["Edit", "Write", "NotebookEdit"])
def test_the_hook_refuses_an_edit_of_what_somebody_else_has_and_says_who(tmp_path: Path, tool: str) -> None:
    project, turn = tmp_path / "project", tmp_path / "turn"
    (project / "src").mkdir(parents=True)
    turn.mkdir()
    write(Disk(), turn, TurnApprovals(edits=True))
    until_ = time.time() + 600
    others = [Reservation(Owner("planner", "t"), str(project), "src/**", until_)]
    put_held(Disk(), turn, project, others)
    (tmp_path / "link").symlink_to(project / "src")

    def said(path: str) -> dict[str, Any]:
        key = "notebook_path" if tool == "NotebookEdit" else "file_path"
        given = {"hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": {key: path}, "cwd": str(project)}
        out = io.StringIO()
        run(turn, io.StringIO(json.dumps(given)), out)
        found: dict[str, Any] = json.loads(out.getvalue())["hookSpecificOutput"] if out.getvalue() else {}
        return found

    for path in (f"{project}/src/a.py", "src/deep/b.py", str(tmp_path / "link" / "c.py"), f"{project}/x/../src/d.py"):
        assert said(path)["permissionDecision"] == "deny", path
        assert "reserved by planner (src/**) until " in said(path)["permissionDecisionReason"]
    assert said("docs/a.md") == {}
    put_held(Disk(), turn, project, [msgspec.structs.replace(others[0], until=time.time() - 1)])
    assert said("src/a.py") == {}
    (turn / HELD).write_text("{")
    assert said("src/a.py")["permissionDecision"] == "deny"
    (turn / HELD).unlink()
    assert said("src/a.py") == {}


def test_the_hook_refuses_a_patch_of_which_one_file_is_somebody_elses(tmp_path: Path) -> None:
    project, turn = tmp_path / "project", tmp_path / "turn"
    turn.mkdir()
    write(Disk(), turn, TurnApprovals(edits=True))
    put_held(Disk(), turn, project, [Reservation(Owner("planner", "t"), str(project), "src/**", time.time() + 600)])

    def said(*lines: str) -> str:
        text = "\n".join(("*** Begin Patch", *lines, "*** End Patch"))
        given = {"hook_event_name": "PreToolUse", "tool_name": "apply_patch", "tool_input": {"command": text}}
        out = io.StringIO()
        run(turn, io.StringIO(json.dumps({**given, "cwd": str(project)})), out, Dialect.CODEX)
        found = json.loads(out.getvalue())["hookSpecificOutput"] if out.getvalue() else {}
        return str(found.get("permissionDecisionReason", ""))

    for theirs in (
        "Add File: src/a",
        "Update File: src/a b.py",
        f"Delete File: {project}/src/a",
        "Move to: docs/../src/a",
    ):
        assert "reserved by planner (src/**) until " in said("*** Update File: docs/a", f"*** {theirs}"), theirs
    assert said("*** Update File: docs/a", "+*** Add File of src/a") == ""
    assert "the patch names no file" in said("+src/a")


def test_a_person_reserves_lists_and_gives_back(desks: TwoDesks) -> None:
    def at(*words: str) -> Any:
        return type_in(desks.first.workdir, "mail", *words)

    assert "reserved src/a.py" in at("reserve", "src/a.py").out
    listed = at("reservations", "--json").json
    assert [(one["path"], one["by"]) for one in listed["reservations"]] == [("src/a.py", "user")]
    assert "src/a.py" in at("reservations").out
    conflict = at("reserve", "src/**", "--as", "planner")
    assert conflict.status == 1
    assert "held by user" in conflict.err
    for bad in ("/", "../x", "/etc"):
        assert at("reserve", bad).status == 2
    assert at("reserve", "x", "--seconds", "0").status == 2
    assert at("release", "--json").json["released"] == 1
    assert "nothing is reserved" in at("reservations").err


def test_a_file_is_given_back_by_whatever_path_it_was_reserved(desks: TwoDesks) -> None:
    def at(*words: str) -> Any:
        return type_in(desks.first.workdir, "mail", *words)

    ways = ("src/a.py", "./src/a.py", f"{desks.project}/src/a.py")
    for taken, given_back in zip(ways, [*ways[1:], ways[0]], strict=True):
        assert at("reserve", taken, "docs").status == 0
        assert at("release", given_back, "--json").json["released"] == 1
        assert [one["pattern"] for one in desks.held()] == ["docs"]
    outside = at("release", "../x")
    assert (outside.status, len(desks.held())) == (2, 1), outside


def test_who_comes_to_the_project_by_a_link_keeps_out_of_others_way_too(desks: TwoDesks) -> None:
    link = desks.base / "link"
    link.symlink_to(desks.project)
    desks.second.configure(project_dir=str(link))
    first, second = (reservations_of(desk.place(), name) for desk, name in ((desks.first, "a"), (desks.second, "b")))
    assert asyncio.run(first.take("t1", ["src/**"], 60.0)) == []
    (way,) = asyncio.run(second.take("t2", ["src/x.py"], 60.0))
    assert way.owner == Owner("a", "t1")
    assert [one.holder for one in in_the_way(desks.second.place())] == ["a"]


def test_a_path_that_can_be_none_keeps_the_watcher_from_starting(tmp_path: Path) -> None:
    desks = TwoDesks(tmp_path, reserve=["../elsewhere"])
    typed = type_in(desks.first.workdir, "watch", "--once", "--no-interactive")
    assert typed.status == 78
    assert "does not lie in the project" in typed.err


def test_agents_of_a_broker_that_keeps_none_keep_out_of_each_others_way_on_one_machine(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(maildir_root="", broker_url="http://127.0.0.1:1", api_key="k", agent_id="a", address="a@b.c")
    desk.configure(project_dir=str(tmp_path), reserve=["src"])

    async def scenario() -> None:
        one, other = (reservations_of(desk.place(), address) for address in ("a@b.c", "operator"))
        assert await one.take("t1", ["src/**"], 60.0) == []
        (way,) = await other.take("t2", ["src/x.py"], 60.0)
        assert way.owner == Owner("a@b.c", "t1")

    with running_plain_broker(tmp_path) as broker:
        desk.configure(broker_url=broker.url)
        asyncio.run(scenario())
        typed = type_in(desk.workdir, "mail", "reserve", "src/y.py")
        assert (typed.status, "held by a@b.c" in typed.err) == (1, True)
    assert "reserve       reserved before a turn" in type_in(desk.workdir, "verify").out
    assert type_in(desk.workdir, "mail", "reservations").status == 69


def test_at_a_server_what_it_grants_in_spite_of_others_is_given_back(tmp_path: Path) -> None:
    with running(tmp_path / "base") as (url, fake):

        def box(name: str) -> McpAgentMailbox:
            return McpAgentMailbox(Account(url, name, "/srv/shop"), tmp_path, Disk(), environ={}, under_way=0.0)

        async def scenario() -> None:
            one, other = box("one-1").reservations(overlap), box("two-2").reservations(overlap)
            assert await one.take("t1", ["src/app/*.py"], 60.0) == []
            (way,) = await other.take("t2", ["src/**"], 60.0)
            assert way.owner.address == "one-1"
            assert await other.take("t2", ["lib"], 60.0) == []
            # Its own check sees only the same words; ours was blind at the moment of the first look.
            blind = box("two-2").reservations(lambda a, b: False)
            assert len(await blind.take("t2", ["lib", "docs", "src/app/*.py"], 60.0)) == 1
            held = [(one.owner.address, one.pattern) for one in await other.held()]
            assert sorted(held) == [("one-1", "src/app/*.py"), ("two-2", "lib")], "what it had before stays its own"
            assert await other.release("t2") == 1
            assert await one.renew("t1", 3600.0)
            assert (await one.held())[0].until > time.time() + 1800
            assert await one.take("t9", ["src/app/x.py"], 60.0) != [], "another turn of the same agent"
            assert await one.release("t1") == 1
            assert await other.take("t2", ["src/**"], 60.0) == []

        asyncio.run(scenario())
        assert fake.asked("select count(*) from reservations where released_ts is null")[0][0] == 1


@pytest.mark.parametrize("pattern", ["../shop", "/etc/passwd", "", "x" * 300])
def test_what_no_watcher_would_start_with_is_not_written_down(tmp_path: Path, pattern: str) -> None:
    desk = Desk(tmp_path)
    before = (desk.state / "config.toml").read_bytes()
    refused = type_in(desk.workdir, "config", "set", "reserve", json.dumps(["src/**", pattern]))
    assert refused.status == 2, refused
    assert refused.err.startswith("error: reserve: ")
    assert "fix: agent-mailer config set reserve 'src/**'" in refused.err
    assert (desk.state / "config.toml").read_bytes() == before
    assert type_in(desk.workdir, "config", "set", "reserve", "[]").status == 0
