"""Ending every process of a turn, wherever it went, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import until
from tests.sizes import LONG, thinned

from agent_mailer import processes
from agent_mailer.outcomes import Exit
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, reap, send, wait_gone
from agent_mailer.process.holder import TURN_ID_VARIABLE, Supervised, start_behind_gate
from agent_mailer.process.tree import EndReport, end_tree, members, sweep
from agent_mailer.processes import boot_id

ENV = {"PATH": "/usr/bin:/bin"}
SHORT = 0.5


class Agent:
    """A scripted agent in a turn of its own, stopped after its steps until it is ended."""

    def __init__(self, folder: Path, *steps: object) -> None:
        self.folder = folder
        self.turn_id = f"turn-{uuid.uuid4().hex}"
        folder.mkdir()
        ready = folder / "ready"
        script = {"steps": [*steps, {"touch": str(ready)}, {"sleep": 600}]}
        (folder / "script.json").write_text(json.dumps(script))
        (folder / "prompt.md").write_text("the prompt\n")
        argv = [sys.executable, "-m", "agent_mailer.testing.scripted_agent", str(folder / "script.json")]
        gated = start_behind_gate(argv, env=ENV, cwd=folder, turn_dir=folder, turn_id=self.turn_id)
        self.supervised: Supervised = gated.release()
        self.holder = gated.identity
        wait_for(ready)

    def spawned(self, name: str) -> ProcessIdentity:
        found = identify(int((self.folder / name).read_text()))
        assert found is not None
        return found

    def spawn(self, name: str, **how: object) -> dict[str, object]:
        return {"spawn": {"pid_file": str(self.folder / name), **how}}

    def halt(self) -> None:
        """All of it but its holder stands still, when this returns."""
        procfs.halt(*(one.pid for one in members(self.turn_id, self.holder) if one != self.holder))

    def end(self, grace: float = 5.0, first_signal: int = signal.SIGTERM) -> tuple[EndReport, Exit]:
        report = asyncio.run(end_tree(self.turn_id, self.holder, grace=grace, first_signal=first_signal))
        if not report.survivors:
            asyncio.run(self.supervised.wait_ended())
        return report, self.supervised.exit()


class Agents:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Agent] = []
        self.others: list[ProcessIdentity] = []

    def start(self, *steps: object) -> Agent:
        agent = Agent(self.folder / f"turn{len(self.started)}", *steps)
        self.started.append(agent)
        return agent

    def place(self) -> Path:
        """Where the next agent will live."""
        return self.folder / f"turn{len(self.started)}"

    def child(self, **how: object) -> dict[str, object]:
        return {"spawn": {"pid_file": str(self.place() / "child"), **how}}


def wait_for(path: Path) -> None:
    with subprocess.Popen(["/bin/sh", "-c", 'until [ -e "$0" ]; do sleep 0.01; done', str(path)]) as watching:
        assert watching.wait(30) == 0


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    agents = Agents(tmp_path)
    yield agents
    for process in agents.others:
        send(process, signal.SIGKILL)
    for agent in agents.started:
        for child in agent.folder.glob("child*"):
            if (process_left := identify(int(child.read_text()))) is not None:
                send(process_left, signal.SIGKILL)
        while left := members(agent.turn_id, agent.holder):
            for process in left:
                send(process, signal.SIGKILL)
                reap(process)


def test_an_agent_that_goes_when_asked(agents: Agents) -> None:
    agent = agents.start()
    report, end = agent.end()
    assert end == Exit(signal=signal.SIGTERM), "recorded by the holder"
    assert (report.signalled, report.killed, report.survivors) == (1, 0, ())
    assert members(agent.turn_id, agent.holder) == []


def test_the_first_signal_can_be_another(agents: Agents) -> None:
    _, end = agents.start().end(first_signal=signal.SIGINT)
    assert end == Exit(signal=signal.SIGINT)


def test_an_agent_that_ignores_the_signal_is_killed(agents: Agents) -> None:
    agent = agents.start({"ignore": ["TERM"]})
    report, end = agent.end(SHORT)
    assert end == Exit(signal=signal.SIGKILL), "recorded by the holder, which was left alive to do it"
    assert (report.signalled, report.killed, report.survivors) == (1, 1, ())


def test_an_agent_that_was_stopped_goes_when_asked(agents: Agents) -> None:
    agent = agents.start()
    agent.halt()
    report, end = agent.end()
    assert end == Exit(signal=signal.SIGTERM)
    assert report.killed == 0


def test_who_was_stopped_and_tidies_up_when_asked_comes_to_it(agents: Agents) -> None:
    ready, tidied = agents.place() / "ready", agents.place() / "tidied"
    tidies = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tidied)!r}).touch(), sys.exit()))
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    agent = agents.start({"run": ["{python}", "-c", tidies]})
    agent.halt()
    report, _ = agent.end()
    assert tidied.exists()
    assert report.killed == 0


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="a grandchild that holds stdout"),
        pytest.param({"session": True}, id="in its own session"),
        pytest.param({"session": True, "orphan": True}, id="a daemon with the turn's id"),
        pytest.param({"scrub": True, "orphan": True}, id="a cleared environment in the holder's session"),
        pytest.param({"scrub": True, "session": True}, id="a cleared environment in its own session, parent alive"),
        pytest.param({"scrub": True, "session": True, "orphan": True}, id="a daemon with a cleared environment"),
    ],
)
@pytest.mark.parametrize("ignore_term", thinned([False, True]))
def test_a_descendant_wherever_it_went(agents: Agents, how: dict[str, object], *, ignore_term: bool) -> None:
    agent = agents.start(agents.child(ignore_term=ignore_term, **how))
    child = agent.spawned("child")
    assert child in members(agent.turn_id, agent.holder)
    report, end = agent.end(SHORT)
    assert not is_alive(child)
    assert report.survivors == ()
    assert end == Exit(signal=signal.SIGTERM)
    assert report.killed == (1 if ignore_term else 0)


@pytest.mark.parametrize(
    "how",
    [{"session": True}, {"session": True, "orphan": True}, {"scrub": True, "session": True, "orphan": True}],
)
def test_what_a_killed_agent_left_is_ended(agents: Agents, how: dict[str, object]) -> None:
    """A killed agent's tools survive it in sessions of their own."""
    agent = agents.start(agents.child(**how))
    child = agent.spawned("child")
    for process in members(agent.turn_id, agent.holder):
        if process not in (child, agent.holder):
            send(process, signal.SIGKILL)
    asyncio.run(agent.supervised.wait_ended())
    assert agent.supervised.exit() == Exit(signal=signal.SIGKILL)
    assert set(members(agent.turn_id, agent.holder)) == {agent.holder, child}, "the holder stays with what is left"
    report, _ = agent.end()
    assert not is_alive(child)
    assert report.signalled == 1


def test_who_loses_its_parent_while_we_look_is_ended(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once pids have gone round a parent's may be the larger, and it ends after its child was looked at."""
    last = 'setsid /bin/sh -c \'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600\' "$1" & echo $$ >"$0"; wait'
    pids = [str(agents.place() / name) for name in ("parent", "child")]
    words = ["setsid", "env", "-i", "/bin/sh", "-c", last, *pids]
    agent = agents.start({"run": ["/bin/sh", "-c", '"$0" "$@" &', *words]}, {"wait_for": pids[1]})
    parent, child = agent.spawned("parent"), agent.spawned("child")
    for process in members(agent.turn_id, agent.holder):
        if process not in (parent, child, agent.holder):
            send(process, signal.SIGKILL)
    asyncio.run(agent.supervised.wait_ended())
    listed = processes.listed_pids

    def going_round() -> Iterator[int]:
        yield child.pid
        if send(parent, signal.SIGKILL):
            until(lambda: not is_alive(parent), "the parent's end")
        yield from set(listed()) - {child.pid}

    monkeypatch.setattr(processes, "listed_pids", going_round)
    report, _ = agent.end(SHORT)
    assert report.signalled == 1
    assert not is_alive(child)


@pytest.mark.parametrize("leader", ["gone", "another's"])
def test_where_the_holder_is_unknown_a_session_without_its_leader_is_the_turns_and_a_strangers_is_not(
    agents: Agents, leader: str
) -> None:
    """As after a kill of holder and watcher: what has cleared its environment bears no id of the turn."""
    turn_id, places = f"turn-{uuid.uuid4().hex}", [agents.folder / name for name in ("bears", "cleared", "ready")]
    script = (
        f"{TURN_ID_VARIABLE}={turn_id} /bin/sleep 600 & echo $! >'{places[0]}'; env -i /bin/sleep 600 & "
        f"echo $! >'{places[1]}'; touch '{places[2]}'; {'' if leader == 'gone' else 'exec /bin/sleep 600'}"
    )
    first = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)
    wait_for(places[2])
    bears, cleared = (int(place.read_text()) for place in places[:2])
    agents.others += [found for pid in (first.pid, bears, cleared) if (found := identify(pid)) is not None]
    if leader == "gone":
        assert first.wait(30) == 0
    until(lambda: any(process.pid == bears for process in members(turn_id, None)), "its environment is its own")
    assert {process.pid for process in members(turn_id, None)} == ({bears, cleared} if leader == "gone" else {bears})
    if leader != "gone":
        first.kill()
        first.wait()


def test_the_holder_killed_the_agent_is_found_by_its_session(agents: Agents) -> None:
    agent = agents.start(agents.child(scrub=True, orphan=True))
    child = agent.spawned("child")
    send(agent.holder, signal.SIGKILL)
    asyncio.run(agent.supervised.wait_ended())
    report, end = agent.end()
    assert not is_alive(child)
    assert end == Exit()
    assert report.signalled == 2


def test_who_was_found_by_a_parent_that_goes_first_is_ended_too(agents: Agents) -> None:
    """With the holder killed nothing else tells by then whose it is."""
    agent = agents.start(agents.child(scrub=True, session=True, ignore_term=True))
    child = agent.spawned("child")
    send(agent.holder, signal.SIGKILL)
    asyncio.run(agent.supervised.wait_ended())
    report, _ = agent.end(SHORT)
    assert not is_alive(child)
    assert (report.killed, report.survivors) == (1, ())


def test_a_sweep_finds_the_turn_by_its_id_alone(agents: Agents) -> None:
    agent = agents.start(agents.child(session=True, orphan=True))
    child = agent.spawned("child")
    report = asyncio.run(sweep(agent.turn_id))
    asyncio.run(agent.supervised.wait_ended())
    assert report.survivors == ()
    assert not is_alive(child)
    assert agent.supervised.exit() == Exit(signal=signal.SIGTERM), "the holder survived being asked, and recorded"


@LONG
def test_a_frozen_holder_is_killed_last(agents: Agents) -> None:
    agent = agents.start()
    procfs.halt(agent.holder.pid)
    report, _ = agent.end()
    assert report.survivors == ()
    assert not is_alive(agent.holder)


def test_processes_that_keep_forking_are_ended(agents: Agents) -> None:
    """Each generation starts the next in a new session and leaves at once; every one ignores the first signal."""
    stop, forking = agents.folder / "stop", agents.folder / "forking"
    # Whatever happens to this test, the last generation comes within seconds.
    generation = """
        trap '' TERM
        [ ! -e "$2" ] && [ "$4" -gt 0 ] || exit
        [ "$4" -gt 19990 ] || : >"$3"
        setsid /bin/sh -c "$1" again "$1" "$2" "$3" $(($4 - 1)) &
    """
    words = ["setsid", "/bin/sh", "-c", generation, "first", generation, str(stop), str(forking), "20000"]
    try:
        agent = agents.start({"run": ["/bin/sh", "-c", '"$@" &', "start", *words]}, {"wait_for": str(forking)})
        report, _ = agent.end(SHORT)
        assert report.survivors == ()
        assert all(members(agent.turn_id, agent.holder) == [] for _ in range(20))
    finally:
        stop.touch()


def test_other_turns_and_bystanders_are_left_alone(agents: Agents) -> None:
    first = agents.start()
    second = agents.start()
    # An id that begins like ours, or stands within another value, is not ours.
    for name, value in (("AGENT_MAILER_TURN_ID", first.turn_id + "0"), ("X", f"AGENT_MAILER_TURN_ID={first.turn_id}")):
        bystander = subprocess.Popen(["/bin/sleep", "600"], env={name: value})
        try:
            identity = identify(bystander.pid)
            assert identity is not None
            agents.others.append(identity)
            assert identity not in members(first.turn_id, first.holder)
        finally:
            if name == "X":
                bystander.kill()
                bystander.wait()
            else:
                kept, kept_identity = bystander, identity
    first.end()
    assert second.supervised.running
    assert kept_identity is not None
    assert is_alive(kept_identity)
    kept.kill()
    kept.wait()


def test_we_are_never_a_member(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import asyncio, os, sys
from agent_mailer.process.tree import end_tree, members
from agent_mailer.process.handle import identify
turn_id = os.environ["AGENT_MAILER_TURN_ID"]
me = identify(os.getpid())
assert members(turn_id, me) == [], members(turn_id, me)
report = asyncio.run(end_tree(turn_id, me, grace=0.1))
assert (report.signalled, report.killed, report.survivors) == (0, 0, ()), report
"""
    env = os.environ | {"AGENT_MAILER_TURN_ID": f"turn-{uuid.uuid4().hex}"}
    assert subprocess.run([sys.executable, "-c", script], env=env, start_new_session=True, check=False).returncode == 0


@pytest.mark.parametrize("pidfd", [True, False])
@pytest.mark.parametrize("wrong", ["started", "boot"])
def test_a_pid_that_was_given_out_again_is_not_signalled(
    monkeypatch: pytest.MonkeyPatch, wrong: str, *, pidfd: bool
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    stranger = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
    try:
        real = identify(stranger.pid)
        assert real is not None
        former = ProcessIdentity(
            real.pid,
            real.started - 1 if wrong == "started" else real.started,
            "another boot" if wrong == "boot" else real.boot,
        )
        assert not send(former, signal.SIGKILL)
        report = asyncio.run(end_tree(f"turn-{uuid.uuid4().hex}", former, grace=0.1))
        assert (report.signalled, report.killed, report.survivors) == (0, 0, ())
        assert asyncio.run(wait_gone([former], 30)), "it is gone: somebody else has its pid"
        assert is_alive(real)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_without_pidfd_the_tree_is_ended_as_well(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agents.start({"ignore": ["TERM"]}, agents.child(session=True, orphan=True))
    child = agent.spawned("child")
    monkeypatch.delattr(os, "pidfd_open")
    report, end = agent.end(SHORT)
    assert report.survivors == ()
    assert not is_alive(child)
    assert end == Exit(signal=signal.SIGKILL)


def test_a_zombie_is_no_member() -> None:
    turn_id = f"turn-{uuid.uuid4().hex}"
    child = subprocess.Popen(["/bin/true"], env={"AGENT_MAILER_TURN_ID": turn_id})
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        identity = identify(child.pid)
        assert identity is not None
        assert not is_alive(identity)
        assert members(turn_id, identity) == []
        assert not send(identity, signal.SIGTERM)
    finally:
        child.wait()


def test_only_two_looks_in_a_row_that_find_nobody_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is missed once may be missed again after another was found."""
    turn_id = f"turn-{uuid.uuid4().hex}"
    env = {"AGENT_MAILER_TURN_ID": turn_id}
    both = [subprocess.Popen(["/bin/sleep", "600"], env=env, start_new_session=True) for _ in range(2)]
    listed = processes.listed_pids
    looks: list[Callable[[], Iterable[int]]] = [list, lambda: [both[0].pid], list]
    try:
        # Whatever begins elsewhere meanwhile would have a look list more.
        monkeypatch.setattr(processes, "_newest_pid", int)
        monkeypatch.setattr(processes, "listed_pids", lambda: looks.pop(0)() if looks else listed())
        report = asyncio.run(end_tree(turn_id, None, grace=0))
        assert (looks, report.survivors) == ([], ())
        assert [one.poll() for one in both] == [-signal.SIGKILL, -signal.SIGKILL]
    finally:
        for one in both:
            one.kill()
            one.wait()


def test_who_gets_a_pid_between_the_look_and_its_descriptor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    meant, stranger = [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(2)]
    open_pidfd, opened = os.pidfd_open, list[int]()

    def given_out_again(_pid: int, flags: int = 0) -> int:
        meant.kill()
        meant.wait()
        opened.append(open_pidfd(stranger.pid, flags))
        return opened[-1]

    try:
        process = identify(meant.pid)
        assert process is not None
        monkeypatch.setattr(os, "pidfd_open", given_out_again)
        assert not send(process, signal.SIGKILL)
        assert opened
        assert stranger.poll() is None
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(opened[0])
    finally:
        for one in (meant, stranger):
            one.kill()
            one.wait()


@pytest.mark.parametrize("holder", [None, ProcessIdentity(2**40, 5, "x"), ProcessIdentity(-1, -1, "")])
def test_ending_a_turn_that_is_not_there(holder: ProcessIdentity | None) -> None:
    report = asyncio.run(end_tree(f"turn-{uuid.uuid4().hex}", holder))
    assert (report.signalled, report.killed, report.survivors) == (0, 0, ())
    assert boot_id()


def test_who_is_in_the_turns_scope_belongs_wherever_he_went(
    agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control group is not left by forking; here it is a file that says who is in it."""
    agent = agents.start()
    stray = subprocess.Popen(["/bin/sleep", "600"], env={}, start_new_session=True)
    try:
        identity = identify(stray.pid)
        assert identity is not None
        agents.others.append(identity)
        assert identity not in members(agent.turn_id, agent.holder)
        user = tmp_path / f"user.slice/user-{os.geteuid()}.slice/user@{os.geteuid()}.service/app.slice"
        group = user / f"agent-mailer-turn-{agent.turn_id}.scope"
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text(f"{agent.holder.pid}\n{stray.pid}\n")
        monkeypatch.setattr(processes, "CONTROL_GROUPS", (tmp_path,))
        assert identity in members(agent.turn_id, agent.holder)
        report, _ = agent.end()
        assert report.survivors == ()
        assert stray.wait(10) == -signal.SIGTERM
    finally:
        stray.kill()
        stray.wait()


@pytest.mark.parametrize("means", ["a descriptor of each", "looks"])
def test_who_waits_for_several_waits_for_the_last_of_them(monkeypatch: pytest.MonkeyPatch, means: str) -> None:
    if means == "looks":
        monkeypatch.delattr(os, "pidfd_open")
    processes = [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(3)]
    known = [found for one in processes if (found := identify(one.pid)) is not None]
    assert len(known) == len(processes)
    opened = procfs.descriptors()
    try:
        for one in processes:
            assert not asyncio.run(wait_gone(known, 0.02))
            one.kill()
            one.wait()
        assert asyncio.run(wait_gone(known, 30))
    finally:
        for one in processes:
            one.kill()
            one.wait()
    assert procfs.descriptors() <= opened, "and holds nothing after that"
