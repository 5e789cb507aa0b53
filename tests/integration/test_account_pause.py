"""One account, several watchers: one pause, one probe."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from tests.desk import Desk, outcomes
from tests.sizes import LONG

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk
from agent_mailer.events import EventName, Listener, LogRecord
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.tree import sweep
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput, Runtime, RuntimeTraits
from agent_mailer.runtimes.programs import build_env
from agent_mailer.state import State
from agent_mailer.state.pauses import AccountPause, Pauses
from agent_mailer.state.records import Pause, PauseReason, Settlement
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.occasions import worth_telling
from agent_mailer.watch.probes import decide_pause
from agent_mailer.watch.requests import apply
from agent_mailer.watch.watcher import PROBE_PATIENCE, Watcher

LIMITED = """echo '{"type":"result","outcome":"limited","detail":"quota"}'"""
SIGNED_OUT = """echo '{"type":"result","outcome":"signed_out"}'"""
PATH = "/usr/bin:/bin"
DONE = """echo '{"type":"result","outcome":"done"}'"""


class OnAnAccount(CommandRuntime):
    """A command whose limits are those of an account."""

    @property
    def traits(self) -> RuntimeTraits:
        return msgspec.structs.replace(super().traits, account="the-account")


class Place(Workplace):
    """A workplace whose runtime has an account, in the folder that all share."""

    def __init__(self, workdir: Path, accounts: Path, script: str) -> None:
        super().__init__(workdir)
        self._script = script
        account = AccountPause(accounts, "the-account", self.disk, self.folder.clamp, self.folder.damaged)
        self.state = State(self.folder, self.log, account)

    def runtime(self) -> Runtime:
        return OnAnAccount(("/bin/sh", "-c", self._script), CommandOutput.JSONL, build_env({"PATH": PATH}, (), {}))

    def share_pause(self, runtime: Runtime) -> None:
        """It is shared already."""


class Agent:
    def __init__(self, base: Path, accounts: Path) -> None:
        self.desk = Desk(base)
        self.accounts = accounts
        self.script = DONE

    def place(self) -> Workplace:
        return Place(self.desk.workdir, self.accounts, self.script)

    def once(self, heard: Listener | None = None) -> list[LogRecord]:
        # Kept: what it holds on to is not let go by being forgotten.
        place = self.last = self.place()
        events: list[LogRecord] = []
        place.log.listen(events.append)
        if heard is not None:
            place.log.listen(heard)
        lock = place.lock()
        lock.acquire()
        try:
            place.prepare()
            asyncio.run(Watcher(place.room(lock), once=True).run())
        finally:
            lock.release()
        return events

    def pause(self) -> Pause | None:
        return self.place().state.pause.read()


@pytest.fixture
def agents(tmp_path: Path) -> tuple[Agent, Agent]:
    return Agent(tmp_path / "one", tmp_path / "accounts"), Agent(tmp_path / "two", tmp_path / "accounts")


def somebody_else(accounts: Path) -> AccountPause:
    """Another watcher on the account, as far as its pause is concerned."""
    return AccountPause(accounts, "the-account", Disk(), lambda moment, _: moment, lambda path, why: None)


def _run_out(accounts: Path) -> None:
    """The pause's moment has come."""
    [path] = accounts.glob("*.json")
    pause = msgspec.json.decode(path.read_bytes(), type=Pause)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(pause, until=1.0)))


def _met_a_limit(agent: Agent) -> None:
    """Whoever starts next probes."""
    agent.script = LIMITED
    agent.desk.send()
    agent.once()
    _run_out(agent.accounts)


@LONG
def test_a_limit_met_by_one_stops_all_and_a_success_frees_all(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    one.script = LIMITED
    one.desk.send()
    two.desk.send()
    assert outcomes(one.once()) == ["limited"]
    assert outcomes(two.once()) == [], "the other never tried"
    paused = two.pause()
    assert paused is not None
    assert (paused.reason, paused.detail) == (PauseReason.LIMITED, "quota")
    _run_out(one.accounts)
    one.script = DONE
    assert outcomes(one.once()) == ["done"]
    assert outcomes(two.once()) == ["done"]
    assert one.pause() is None
    assert two.pause() is None


@LONG
def test_while_one_probes_the_others_wait(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    _met_a_limit(one)
    two.desk.send()
    prober = somebody_else(one.accounts)
    assert prober.may_probe()
    assert outcomes(two.once()) == []
    prober.end_probe()
    assert outcomes(two.once()) == ["done"]


def test_a_failed_probe_pauses_all_for_longer(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    one.script = two.script = LIMITED
    one.desk.send()
    two.desk.send()
    one.once()
    _run_out(one.accounts)
    other = somebody_else(one.accounts)
    assert other.may_probe()
    assert outcomes(two.once()) == [], "one probes at a time"
    other.end_probe()
    beside = list[bool]()

    def heard(record: LogRecord) -> None:
        if record.event in (EventName.TURN_STARTED, EventName.TURN_ENDED):
            beside.append(other.may_probe())

    assert outcomes(two.once(heard)) == ["limited"]
    assert beside == [False, False], "nor while the other's turn runs"
    paused = two.pause()
    assert paused is not None
    assert paused.probes == 1
    assert other.may_probe(), "a probe that is over keeps nobody from the next"
    assert outcomes(one.once()) == []


def test_a_watcher_that_goes_on_keeps_nobody_from_the_next_probe(agents: tuple[Agent, Agent]) -> None:
    one, _ = agents
    _met_a_limit(one)
    place, other = one.place(), somebody_else(one.accounts)
    lock, ended = place.lock(), asyncio.Event()
    place.log.listen(lambda record: ended.set() if record.event is EventName.TURN_ENDED else None)

    async def probes() -> None:
        watcher = Watcher(place.room(lock))
        running = asyncio.create_task(watcher.run())
        async with asyncio.timeout(30):
            await ended.wait()
            while not other.may_probe():  # noqa: ASYNC110 - another process would look
                await asyncio.sleep(0.01)
        watcher.stop(0.0)
        await running

    lock.acquire()
    try:
        place.prepare()
        asyncio.run(probes())
    finally:
        other.end_probe()
        lock.release()


def test_who_is_kept_from_probing_keeps_no_other_from_it(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    _met_a_limit(one)
    one.desk.configure(guards={"min_disk": "900000G"})
    two.desk.send()
    assert outcomes(one.once()) == [], "a guard of its own stops it"
    assert outcomes(two.once()) == ["done"]


def test_who_has_nothing_to_try_does_not_wait_for_who_tries(agents: tuple[Agent, Agent]) -> None:
    """For its result he would be woken again and again, and `--once` would have failed."""
    one, two = (agent.place() for agent in agents)
    one.state.pause.settled(
        Settlement(Outcome.LIMITED, "", 1.0, 1.0, finished=False, pause=Pause(PauseReason.LIMITED, 1.0, 1.0)), 0.0
    )
    prober = somebody_else(agents[0].accounts)
    assert prober.may_probe()
    lock = two.lock()
    lock.acquire()
    two.prepare()

    async def look() -> float | None:
        room = two.room(lock)
        await room.mailbox.open()
        try:
            return await Watcher(room)._start_what_may()
        finally:
            await room.mailbox.close()

    assert asyncio.run(look()) is None
    agents[1].desk.send()
    assert asyncio.run(look()) == PROBE_PATIENCE
    prober.end_probe()
    lock.release()


def test_resume_by_hand_frees_the_account(agents: tuple[Agent, Agent]) -> None:
    """By whichever of its watchers: also by one that has not looked at it yet."""
    one, two = agents
    one.script = SIGNED_OUT
    one.desk.send()
    one.once()
    assert two.pause() is None
    apply(two.place().state, Request(Verb.RESUME))
    assert one.place().state.pause.current() is None
    two.desk.send()
    assert outcomes(two.once()) == ["done"]


@pytest.mark.parametrize("outcome", [Outcome.LIMITED, Outcome.SIGNED_OUT, Outcome.UNAVAILABLE])
def test_what_one_meets_the_others_hear_from_it_and_any_of_them_ends_it(
    agents: tuple[Agent, Agent], outcome: Outcome
) -> None:
    one, two = (agent.place().state.pause for agent in agents)
    met = decide_pause(Judgement(outcome), None, now := time.time(), 0.5)
    one.settled(Settlement(outcome, "", now, 1.0, finished=False, pause=met), now - 1)
    for look in ("first", "next"):
        own, heard = one.current(), two.current()
        assert own is not None
        assert worth_telling(msgspec.structs.replace(own, probes=1)), f"who has met it tells of it: {look} look"
        if outcome is Outcome.UNAVAILABLE:
            assert heard is None, "another's program may be there"
            return
        assert heard is not None
        assert (heard.reason, heard.until) == (own.reason, own.until)
        assert not worth_telling(msgspec.structs.replace(heard, probes=1)), f"he is told once: {look} look"
    two.settled(Settlement(Outcome.DONE, "", now + 9, 1.0, finished=True), now + 8)
    assert (one.current(), two.current()) == (None, None)


@pytest.mark.parametrize("found", [Outcome.LIMITED, Outcome.SIGNED_OUT])
def test_who_probes_what_another_met_tells_of_what_he_finds_where_that_is_something_else(
    agents: tuple[Agent, Agent], found: Outcome
) -> None:
    one, two = (agent.place().state.pause for agent in agents)

    def ends(pauses: Pauses, outcome: Outcome, now: float) -> None:
        met = decide_pause(Judgement(outcome), pauses.current(), now, 0.5)
        pauses.settled(Settlement(outcome, "", now, 1.0, finished=False, pause=met), now - 1.0)

    ends(one, Outcome.LIMITED, now := time.time())
    for probe in (1, 2):
        ends(two, found, now + probe)
        for look in ("first", "next"):
            known = [pauses.current() for pauses in (one, two)]
            assert [pause and pause.reason.value for pause in known] == [found.value] * 2
            telling = [pause is not None and worth_telling(pause) for pause in known]
            assert telling == [found is Outcome.LIMITED, found is not Outcome.LIMITED], (probe, look)


def test_those_that_waited_start_at_a_moment_of_their_own(
    agents: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five seconds each waits a share by lot: they do not all come back to the provider at once."""
    one, two = agents
    one.script = LIMITED
    one.desk.send()
    one.once()
    two.desk.send()
    place, moments = two.place(), dict[EventName, float]()
    lock = place.lock()
    lock.acquire()
    place.prepare()
    watcher = Watcher(room := place.room(lock))
    monkeypatch.setattr(room, "jitter", lambda: 0.03)

    def heard(record: LogRecord) -> None:
        moments.setdefault(record.event, time.monotonic())
        if record.event is EventName.PAUSED:
            asyncio.get_running_loop().call_soon(somebody_else(one.accounts).clear)
        if record.event is EventName.TURN_CLAIMED:
            watcher.hand_over()

    place.log.listen(heard)

    async def watch() -> None:
        async with asyncio.timeout(4):
            await watcher.run()

    try:
        asyncio.run(watch())
    finally:
        lock.release()
        for turn in place.state.turns.ids():
            asyncio.run(sweep(turn, grace=0.0))
    assert moments[EventName.TURN_CLAIMED] - moments[EventName.RESUMED] >= 5 * 0.03


def test_a_damaged_file_is_no_pause(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    one.script = LIMITED
    one.desk.send()
    one.once()
    [path] = one.accounts.glob("*.json")
    path.write_bytes(b"\0\0{")
    two.desk.send()
    assert outcomes(two.once()) == ["done"]


def test_a_stop_by_hand_is_nobody_elses(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    apply(one.place().state, Request(Verb.PAUSE))
    one.desk.send()
    two.desk.send()
    assert outcomes(one.once()) == []
    assert outcomes(two.once()) == ["done"]


@LONG
def test_the_operator_is_told_by_the_watcher_that_met_it(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    for agent in agents:
        tell = f'echo "$AGENT_MAILER_NOTICE_KIND" >>"{agent.desk.base}/told"'
        agent.desk.configure(notify={"command": ["/bin/sh", "-c", tell]})
        agent.script = SIGNED_OUT
        agent.desk.send()
    one.once()
    for agent in (two, one, two):
        # A probe by another watcher changes nothing about who tells.
        _run_out(one.accounts)
        agent.once()
    for agent in agents:
        agent.script = DONE
    _run_out(one.accounts)
    two.once()
    one.once()
    assert (one.desk.base / "told").read_text() == "paused\nresumed\n"
    assert not (two.desk.base / "told").exists()
