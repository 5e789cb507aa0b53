from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.refusing import without_descriptors

from agent_mailer.beneath import anchor
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive
from agent_mailer.process.holder import Supervised
from agent_mailer.processes import boot_id, command_line, is_ours, namespaces_of, parse_stat

REST = b" S 10 20 30 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 4 0 987654 111 222 333\n"


@pytest.mark.parametrize(
    "name",
    [
        b"sh",
        b"",
        b"a b",
        b"a) b (c",
        b") Z 1 2 3 (",
        b"((((",
        b"))))",
        b") S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 5 (",
        b"\n",
        b"\xff",
    ],
)
def test_the_program_name_changes_nothing(name: bytes) -> None:
    stat = parse_stat(7, b"7 (" + name + b")" + REST)
    assert stat is not None
    assert (stat.pid, stat.state, stat.parent, stat.session, stat.threads, stat.started) == (7, "S", 10, 30, 4, 987654)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b")",
        b"7 (sh",
        b"7 (sh) S 1",
        b"7 (sh)" + REST.replace(b"987654", b"soon"),
        b"7 (sh)" + REST.replace(b"S", b"\xff"),
        b"\0" * 100,
    ],
)
def test_a_line_that_is_none_is_no_process(line: bytes) -> None:
    assert parse_stat(7, line) is None


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [("R", 1, True), ("T", 1, True), ("D", 1, True), ("Z", 1, False), ("Z", 0, False), ("X", 1, False), ("Z", 3, True)],
)
def test_which_states_are_alive(state: str, threads: int, *, alive: bool) -> None:
    line = b"7 (sh)" + REST.replace(b"S", state.encode(), 1).replace(b" 0 4 0 ", f" 0 {threads} 0 ".encode())
    stat = parse_stat(7, line)
    assert stat is not None
    assert stat.alive is alive


def test_we_know_ourselves() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me.boot == boot_id() != ""
    assert is_alive(me)
    assert not is_alive(ProcessIdentity(me.pid, me.started + 1, me.boot))
    assert not is_alive(ProcessIdentity(me.pid, me.started, "another boot"))
    assert not is_alive(ProcessIdentity(me.pid, 0, ""))


def test_who_cannot_be_looked_at_just_now_has_not_ended() -> None:
    me = identify(os.getpid())
    assert me is not None
    for look in (
        lambda: identify(me.pid),
        lambda: is_alive(me),
        lambda: is_ours(me.pid, b"NAME=value"),
        lambda: command_line(me.pid),
        lambda: namespaces_of(me.pid),
    ):
        with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
            look()


@pytest.mark.parametrize("pid", [0, -1, -(10**30), 2**31, 10**30])
def test_what_is_no_pid_is_nobody(pid: int) -> None:
    assert identify(pid) is None
    assert not is_alive(ProcessIdentity(pid, 1, boot_id()))


def test_a_gate_is_open_once_its_holder_has_said_so(tmp_path: Path) -> None:
    """Its file is made before the gate is: whoever dies in between has begun nothing."""
    us = identify(os.getpid())
    assert us is not None
    anchor(tmp_path)
    agent = Supervised(us, tmp_path, "t")
    assert not agent.released
    (tmp_path / "started").touch()
    assert not agent.released
    (tmp_path / "started").write_text("1\n")
    assert agent.released


def test_an_agent_whose_end_is_recorded_runs_no_longer_though_its_holder_stays(tmp_path: Path) -> None:
    us = identify(os.getpid())
    assert us is not None
    anchor(tmp_path)
    agent = Supervised(us, tmp_path, "t")
    assert agent.running
    (tmp_path / "exit").touch()
    assert agent.running, "its end is being written"
    (tmp_path / "exit").write_text("0\n")
    assert not agent.running
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        agent._recorded  # noqa: B018
    (tmp_path / "exit").unlink()
    os.mkfifo(tmp_path / "exit")
    assert not agent.running, "the agent's own: the holder leaves it alone, and has ended"


def test_the_words_of_a_process_are_known_in_the_middle_of_an_exec_too() -> None:
    """About every third has none yet when its parent hears that it was started."""
    for _ in range(40):
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
            assert command_line(process.pid)[0] == "/bin/cat"
            process.kill()


def test_what_has_ended_and_is_not_reaped_has_no_words() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert command_line(process.pid) == []
