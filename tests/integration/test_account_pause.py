"""One account, several watchers: one pause, one probe."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.desk import Desk, outcomes
from tests.sizes import LONG

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk
from agent_mailer.events import LogRecord
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput, Runtime, RuntimeTraits
from agent_mailer.runtimes.programs import build_env
from agent_mailer.state import State
from agent_mailer.state.pauses import AccountPause
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply
from agent_mailer.watch.watcher import Watcher

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

    def once(self) -> list[LogRecord]:
        place = self.place()
        events: list[LogRecord] = []
        place.log.listen(events.append)
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


def _run_out(accounts: Path) -> None:
    """The pause's moment has come."""
    [path] = accounts.glob("*.json")
    pause = msgspec.json.decode(path.read_bytes(), type=Pause)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(pause, until=1.0)))


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
    one.script = LIMITED
    one.desk.send()
    one.once()
    _run_out(one.accounts)
    two.desk.send()
    prober = AccountPause(one.accounts, "the-account", Disk(), lambda moment, _: moment, lambda path, why: None)
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
    assert outcomes(two.once()) == ["limited"]
    paused = two.pause()
    assert paused is not None
    assert paused.probes == 1
    assert outcomes(one.once()) == []


def test_resume_by_hand_frees_the_account(agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    one.script = LIMITED
    one.desk.send()
    one.once()
    apply(one.place().state, Request(Verb.RESUME))
    two.desk.send()
    assert outcomes(two.once()) == ["done"]


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
