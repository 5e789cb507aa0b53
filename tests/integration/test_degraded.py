"""Degraded, not dead: a watcher that cannot work says so, keeps what it has, starts nothing, and goes on afterwards."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import selectors
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.crash.faults import FaultySystem, Lasting
from tests.desk import PATIENCE, Desk, until
from tests.powers import no_powers
from tests.refusing import On, Refusing, without_descriptors
from tests.sizes import LONG, thinned
from tests.typed import type_in

from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName, LogRecord
from agent_mailer.outcomes import Judgement
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive
from agent_mailer.runtimes.port import Evidence
from agent_mailer.state.turns import TurnStore
from agent_mailer.watch.room import Room
from agent_mailer.watch.watcher import End, Watcher


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.configure(poll_interval_idle=1)
    found.script({"witness": "ran"}, {"print": "ok"})
    return found


def status(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = type_in(desk.workdir, "status", "--json").json
    return found


def settled(desk: Desk) -> list[str]:
    path = desk.state / "processed.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


class Watch:
    """A watcher in this process, over a disk of the test's; waits are short unless the clock is simulated."""

    def __init__(self, desk: Desk, *, quick: bool = True) -> None:
        self.desk = desk
        self.place = desk.place()
        self.events: list[LogRecord] = []
        self.place.log.listen(self.events.append)
        self.quick = quick
        self.room: Room | None = None

    def seen(self, event: EventName) -> list[Mapping[str, object]]:
        return [e.fields for e in self.events if e.event is event]

    async def until(self, what: Callable[[], object], why: str, step: float = 0.01) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE + 1000 * step
        while not what():
            assert asyncio.get_running_loop().time() < deadline, why
            await asyncio.sleep(step)

    async def until_open(self) -> None:
        lock = self.desk.root / "agents/coder/extensions/agent-mailer/watcher.pid"
        await self.until(lock.exists, "the open mailbox")

    @contextmanager
    def over(self, system: SystemCalls) -> Iterator[None]:
        before, self.place.disk.system = self.place.disk.system, system
        try:
            yield
        finally:
            self.place.disk.system = before

    def run(self, story: Callable[[Watcher], Any], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
        """Watch while `story` goes on; stop when it ends."""
        lock = self.place.lock()
        lock.acquire()

        async def both() -> None:
            policy = self.place.policy()
            if self.quick:
                policy = msgspec.structs.replace(policy, trouble_first=0.02, trouble_longest=0.1)
            room = self.room = self.place.room(lock, policy)
            watcher = Watcher(room)
            watching = asyncio.create_task(watcher.run())
            try:
                await story(watcher)
            finally:
                watcher.stop(0.0)
                assert await watching is End.STOPPED

        try:
            self.place.prepare()
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(both())
        finally:
            lock.release()


@pytest.mark.parametrize("code", thinned([errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES]))
def test_a_disk_that_takes_nothing_stops_new_work_and_is_told_of(desk: Desk, code: int) -> None:
    watch = Watch(desk)

    async def story(watcher: Watcher) -> None:
        await watch.until_open()
        with watch.over(FaultySystem(1, code, Lasting.FROM_THEN_ON)):
            sent = await asyncio.to_thread(desk.send)
            await watch.until(lambda: watch.seen(EventName.STATE_TROUBLE), "the trouble")
            await asyncio.sleep(0.2)
            assert desk.marks() == []
            assert (desk.root / f"agents/coder/inbox/new/{sent}.md").exists()
        await watch.until(lambda: settled(desk) == [sent], "the settlement")

    watch.run(story)
    [trouble] = watch.seen(EventName.STATE_TROUBLE)
    assert os.strerror(code) in str(trouble["why"])
    assert trouble["fix"]
    assert watch.seen(EventName.MAILBOX_BACK)
    assert not (desk.state / "trouble.json").exists()
    assert len(desk.marks()) == 1
    assert len(desk.inbox()) == 1


def test_no_turn_starts_whose_claim_is_not_durable_and_status_says_why(desk: Desk) -> None:
    watch = Watch(desk)

    async def story(watcher: Watcher) -> None:
        await watch.until_open()
        with watch.over(Refusing("turn.json", code=errno.EIO)):
            sent = await asyncio.to_thread(desk.send)
            await watch.until(lambda: (desk.state / "trouble.json").exists(), "the trouble")
            shown = await asyncio.to_thread(status, desk)
            screen = (await asyncio.to_thread(type_in, desk.workdir, "status")).out
            assert shown["trouble"]["what"] == "disk"
            assert "turn.json" in shown["trouble"]["why"]
            assert shown["trouble"]["fix"]
            assert "trouble  disk: " in screen
            assert "(since " in screen
            assert "fix: " in screen
            assert desk.marks() == []
            assert [path.name for path in (desk.state / "turns").iterdir()] == []
        await watch.until(lambda: settled(desk) == [sent], "the settlement")

    watch.run(story)
    assert status(desk)["trouble"] is None
    assert len(desk.marks()) == 1


def test_a_turn_whose_start_the_disk_refused_has_not_run(desk: Desk) -> None:
    """Its program was held behind the gate, and was ended there: nothing of it counts, nor is looked for later."""
    desk.shell_that_tells("echo done")
    desk.send()
    desk.once(system=Refusing("turns/*/turn.json", On.REPLACE, times=1))
    state = desk.place().state
    [record] = filter(None, map(state.turns.load, state.turns.ids()))
    assert (record.process, record.settlement is None) == (None, False)
    assert (state.usage.today().turns, desk.marks(), desk.log(EventName.TURN_STARTED)) == (0, [], [])


def test_a_settlement_that_waits_for_the_disk_is_shown(desk: Desk) -> None:
    """The watcher itself goes on: only this settlement is in trouble, and it is told with its turn."""
    watch = Watch(desk)

    async def story(watcher: Watcher) -> None:
        with watch.over(Refusing("processed.txt")):
            sent = await asyncio.to_thread(desk.send)
            await watch.until(lambda: (desk.state / "trouble.json").exists(), "the trouble")
            assert "processed.txt" in (desk.state / "trouble.json").read_text()
            assert settled(desk) == []
        await watch.until(lambda: settled(desk) == [sent], "the settlement")

    watch.run(story)
    [trouble] = watch.seen(EventName.STATE_TROUBLE)
    assert trouble["turn_id"]
    assert not (desk.state / "trouble.json").exists()
    assert len(desk.marks()) == 1
    assert len(desk.inbox()) == 1


def test_a_folder_that_cannot_be_written_is_told_of_although_nothing_can_be_written(desk: Desk) -> None:
    with no_powers(), desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the start")
        (desk.state / "turns").chmod(0o500)
        desk.state.chmod(0o500)
        try:
            sent = desk.send()
            until(lambda: (status(desk)["trouble"] or {}).get("what") == "disk", "the trouble")
            assert desk.marks() == []
        finally:
            desk.state.chmod(0o700)
            (desk.state / "turns").chmod(0o700)
        until(lambda: settled(desk) == [sent], "the settlement")
        until(lambda: status(desk)["trouble"] is None, "the end of the trouble")
    assert len(desk.marks()) == 1


# Descriptors.


def limit(pid: int, files: int) -> tuple[int, int]:
    """Let process `pid` have no descriptor numbered `files` or above; returns what it had."""
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    return resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))


def test_a_turn_is_not_judged_while_its_output_cannot_be_read(desk: Desk) -> None:
    """An answer, or the words that tell a limit from a failure, would be lost for want of a descriptor."""
    sent = desk.send()
    watch = Watch(desk)
    refused: list[Evidence] = []

    async def story(watcher: Watcher) -> None:
        del watcher
        assert watch.room is not None
        runtime = watch.room.program.runtime
        judge = runtime.judge

        def refused_twice(evidence: Evidence) -> Judgement:
            if len(refused) == 2:
                return judge(evidence)
            refused.append(evidence)
            with without_descriptors():
                return judge(evidence)

        runtime.judge = refused_twice  # type: ignore[method-assign]
        await watch.until(lambda: settled(desk) == [sent], "the settlement")

    watch.run(story)
    assert len(refused) == 2
    assert watch.seen(EventName.TURN_ADOPTED) == [], "it was in hand all the time"
    assert [one["outcome"] for one in watch.seen(EventName.TURN_ENDED)] == ["done"]
    assert [m.body for m in desk.inbox()] == ["ok\n"]


@LONG
def test_a_watcher_without_descriptors_starts_nothing_and_goes_on(desk: Desk) -> None:
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the start")
        until(lambda: status(desk)["watcher"]["pid"] == watcher.pid, "the watcher")
        before = limit(watcher.pid, 3)
        sent = desk.send()
        with pytest.raises(AssertionError, match="in vain"):
            until(lambda: desk.marks() or watcher.poll() is not None, "nothing", patience=2.5)
        resource.prlimit(watcher.pid, resource.RLIMIT_NOFILE, before)
        until(lambda: settled(desk) == [sent], "the settlement")
        assert watcher.poll() is None
    assert len(desk.marks()) == 1
    assert len(desk.inbox()) == 1


def agent_of(desk: Desk) -> ProcessIdentity | None:
    """The holder of the one open turn."""
    turns: TurnStore = desk.place().state.turns
    for turn_id in turns.open_ids():
        record = turns.load(turn_id)
        if record is not None and record.process is not None:
            return record.process
    return None


@pytest.mark.parametrize("ends", ["while there are none", "later"])
@LONG
def test_an_agent_is_not_taken_for_dead_by_a_watcher_without_descriptors(desk: Desk, ends: str) -> None:
    """No second turn of the thread starts beside it, and its answer is not lost."""
    go = desk.base / "go"
    desk.script({"witness": "ran"}, {"wait_for": str(go)}, {"print": "the answer"})
    first = desk.send(thread="t")
    with desk.watching() as watcher:
        until(desk.marks, "the agent")
        until(lambda: agent_of(desk), "the holder")
        holder = agent_of(desk)
        assert holder is not None
        before = limit(watcher.pid, 3)
        second = desk.send(thread="t")
        if ends == "later":
            with pytest.raises(AssertionError, match="in vain"):
                until(lambda: not is_alive(holder) or len(desk.marks()) > 1, "nothing", patience=2.5)
        else:
            go.touch()
            until(lambda: identify(holder.pid) is None or not is_alive(holder), "the agent's end")
            with pytest.raises(AssertionError, match="in vain"):
                until(lambda: len(desk.marks()) > 1 or watcher.poll() is not None, "nothing", patience=2.0)
        resource.prlimit(watcher.pid, resource.RLIMIT_NOFILE, before)
        go.touch()
        until(lambda: settled(desk) == [first, second], "both settlements")
        assert watcher.poll() is None
    assert [mark["message"] for mark in desk.marks()] == [first, second]
    assert [m.body for m in desk.inbox()] == ["the answer\n", "the answer\n"]


def test_a_record_that_cannot_be_read_just_now_is_not_damaged(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start without descriptors must not give up the decisions of a turn that was being settled."""
    watch = Watch(desk)
    desk.send()

    async def begin(watcher: Watcher) -> None:
        with watch.over(Refusing("processed.txt")):
            await watch.until(lambda: watch.seen(EventName.STATE_TROUBLE), "a settlement that waits")
            watcher.hand_over()
            await asyncio.sleep(0.05)

    with pytest.raises(AssertionError):
        watch.run(begin)  # it was handed over, not stopped
    [turn] = (desk.state / "turns").iterdir()
    again = Watch(desk)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def story(watcher: Watcher) -> None:
        del watcher
        await asyncio.sleep(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await again.until(lambda: settled(desk), "the settlement")

    opening = Room.__init__

    def at_the_start(self: Room, **given: Any) -> None:
        opening(self, **given)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))

    monkeypatch.setattr(Room, "__init__", at_the_start)
    try:
        again.run(story)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not list(turn.glob("*.corrupt-*"))
    assert not again.seen(EventName.TURN_DROPPED)
    assert len(desk.marks()) == 1
    assert len(desk.inbox()) == 1


# Places.


class _Jumping(selectors.DefaultSelector):
    """Does not wait: where nothing is ready soon, the loop's clock jumps to its next moment."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if timeout is None else min(timeout, 0.002))
        if not found and timeout is not None and timeout > 0.002:
            self.ahead += timeout
        elif not found and timeout is None:
            return super().select(timeout)
        return found


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its time runs as fast as nothing happens."""

    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return super().time() + self.jumping.ahead


@LONG
def test_a_mailbox_that_is_gone_for_an_hour(desk: Desk) -> None:
    """Told once, looked for at most a few hundred times, found again; the mail of that hour is settled."""
    desk.configure(poll_interval_idle=600)
    watch = Watch(desk, quick=False)
    elsewhere = desk.base / "elsewhere"
    looks = 0

    async def story(watcher: Watcher) -> None:
        nonlocal looks
        loop = asyncio.get_running_loop()
        await watch.until_open()
        await asyncio.sleep(5)
        desk.root.rename(elsewhere)
        assert watch.room is not None
        pending = watch.room.mailbox.pending

        async def counted(limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Any:
            nonlocal looks
            looks += 1
            return await pending(limit, beside, woken=woken)

        watch.room.mailbox.pending = counted  # type: ignore[method-assign]
        began = loop.time()
        await watch.until(lambda: loop.time() >= began + 3600, "an hour", step=60)
        [trouble] = watch.seen(EventName.MAILBOX_TROUBLE)
        assert trouble["why"] == f"{desk.root}/agents/coder is gone"
        assert "is gone" in (desk.state / "trouble.json").read_text()
        assert not desk.root.exists()
        elsewhere.rename(desk.root)
        sent = await asyncio.to_thread(desk.send)
        await watch.until(lambda: settled(desk) == [sent], "the settlement", step=1.0)

    watch.run(story, SimulatedLoop)
    assert 20 < looks < 4000
    assert len(watch.seen(EventName.MAILBOX_BACK)) == 1
    assert not (desk.state / "trouble.json").exists()
    assert len(desk.marks()) == 1
    assert len(desk.inbox()) == 1


def test_status_tells_of_a_mailbox_that_is_gone_and_of_the_mend(desk: Desk) -> None:
    elsewhere = desk.base / "elsewhere"
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the start")
        until(lambda: (desk.root / "agents/coder/extensions/agent-mailer/watcher.lock").exists(), "the open mailbox")
        desk.root.rename(elsewhere)
        until(lambda: (desk.state / "trouble.json").exists(), "the trouble")
        shown, screen = status(desk), type_in(desk.workdir, "status").out
        assert shown["trouble"]["what"] == "mailbox"
        assert set(shown["trouble"]) == {"what", "since", "why", "fix"}
        assert f"trouble  mailbox: {desk.root}/agents/coder is gone (since " in screen
        assert "fix: put it back, or: agent-mailer init" in screen
        elsewhere.rename(desk.root)
        until(lambda: status(desk)["trouble"] is None, "the end of the trouble")
    assert stat.S_IMODE((desk.state).stat().st_mode) == 0o700
