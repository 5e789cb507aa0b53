"""What is started that is no turn (what is asked, what runs beside us) ends with all that it has started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import said_in

from agent_mailer.process import leashed
from agent_mailer.process.commands import run_briefly, run_briefly_async, start_command
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, waited_for
from agent_mailer.process.leashed import Leashed
from agent_mailer.processes import read_stat

ENV = {"PATH": "/usr/bin:/bin"}
DEAF = "trap '' TERM INT HUP"
ORPHAN = '(setsid env -i /bin/sh -c "{first}; echo \\$\\$ >new; mv new orphan; exec sleep 600" &)'
"""In a session of its own, without our environment; its parent is gone. `first` is what it does before."""
IS_THERE = "until [ -e orphan ]; do sleep 0.01; done"


class Place:
    """Where commands run, and the processes that they name there by a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def named(self, name: str = "orphan") -> ProcessIdentity:
        pid = int(said_in(self.folder / name, name))
        return identify(pid) or ProcessIdentity(pid, 0, "")

    def sh(self, script: str) -> tuple[str, ...]:
        return ("/bin/sh", "-c", script)

    def ask(self, script: str) -> tuple[int | None, str]:
        done = run_briefly(self.sh(script), env=ENV, cwd=self.folder, seconds=30)
        return done.status, done.output


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path)
    for name in ("orphan", "program"):
        with suppress(OSError):
            os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)


@pytest.mark.parametrize("output", [None, 1])
def test_one_that_cannot_be_started_leaves_no_descriptor_open(place: Place, output: int | None) -> None:
    before = procfs.descriptors()
    with pytest.raises(OSError, match="none"):
        Leashed(["/bin/true"], env=ENV, cwd=place.folder / "none", output=output)
    with pytest.raises(FileNotFoundError):
        start_command(["/no/program"], env=ENV, cwd=place.folder, output=place.folder / "said")
    assert procfs.descriptors() <= before


def test_what_we_hold_ourselves_is_no_orphan_of_a_turns(place: Place) -> None:
    """Where a turn's holder was killed, its orphans are those of our children that nobody waits for."""
    with (place.folder / "said").open("wb") as said:
        one = Leashed(["/bin/sleep", "600"], env=ENV, cwd=place.folder, output=said.fileno())
    assert one.process.pid in waited_for
    one.bury()
    assert one.process.pid not in waited_for


def test_what_is_stopped_is_asked_first(place: Place) -> None:
    script = "trap 'exit 5' TERM; echo $$ >program; while :; do sleep 0.01; done"
    running = start_command(place.sh(script), env=ENV, cwd=place.folder, output=place.folder / "said")
    place.named("program")
    assert running.stop(30.0) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_who_holds_it_is_told_it_is_told_itself(place: Place, number: signal.Signals) -> None:
    """It is in a session of its own, which no terminal reaches."""
    script = f"trap 'exit {number}' {number}; echo $$ >program; while :; do sleep 0.01; done"
    with (place.folder / "said").open("wb") as said:
        held = Leashed(place.sh(script), env=ENV, cwd=place.folder, output=said.fileno())
    try:
        held.wait(30.0, known=True)
        assert is_alive(place.named("program"))
        held.process.send_signal(number)
        held.wait(30.0)
        assert held.status == number
    finally:
        held.bury()


def test_what_heeds_no_asking_is_ended_with_what_it_has_left(place: Place) -> None:
    script = f"{DEAF}; {ORPHAN.format(first=DEAF)}; exec sleep 600"
    running = start_command(place.sh(script), env=ENV, cwd=place.folder, output=place.folder / "said")
    orphan = place.named()
    assert is_alive(orphan)
    assert running.stop(0.0) == 128 + signal.SIGKILL
    assert not is_alive(orphan)
    assert read_stat(running.pid) is None


def test_what_is_meant_for_a_group_ends_nobody_elses(place: Place) -> None:
    """Neither does what is meant for ours reach it, nor what it ends its own with who holds it."""
    held = Leashed(place.sh(f"{ORPHAN.format(first=':')}; {IS_THERE}; read x; kill -KILL 0"), env=ENV, cwd=place.folder)
    held.wait(30.0, known=True)
    assert [os.getsid(pid) for pid in (held.process.pid, held.pid)] == [held.process.pid, held.pid]
    orphan = place.named()
    assert held.process.stdin is not None
    assert held.process.stdout is not None
    held.process.stdin.close()
    held.wait(30.0)
    held.bury()
    held.process.stdout.close()
    assert held.status == 128 + signal.SIGKILL
    assert not is_alive(orphan)


def test_what_has_ended_who_held_it_is_found_by_its_mark(place: Place) -> None:
    status, _ = place.ask("setsid sleep 600 & echo $! >orphan; echo $$ >program; kill -KILL $PPID; exec sleep 600")
    assert status == 128 + signal.SIGKILL
    assert not is_alive(place.named())
    assert not is_alive(place.named("program"))


def test_one_that_does_not_end_what_it_holds_is_ended_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leashed, "LETTING_GO", 0.05)
    script = place.sh("echo $$ >program; exec sleep 600")
    running = start_command(script, env=ENV, cwd=place.folder, output=place.folder / "said")
    held = running._leashed.process
    procfs.halt(held.pid)
    running._leashed.bury()
    assert held.returncode == -signal.SIGKILL


def test_what_an_earlier_life_left_by_the_same_mark_is_ended_before(place: Place) -> None:
    mark = f"brief-{os.urandom(8).hex()}"
    left = subprocess.Popen(["/bin/sleep", "600"], env={"AGENT_MAILER_TURN_ID": mark})
    try:
        script = f"grep -c '^State:.Z' /proc/{left.pid}/status"
        asked = run_briefly_async(place.sh(script), env=ENV, cwd=place.folder, seconds=30, mark=mark)
        assert asyncio.run(asked).output == "1\n"
    finally:
        left.kill()
        left.wait()


@pytest.mark.parametrize("locale", [{}, {"LC_CTYPE": "C.UTF-8"}])
def test_it_gets_what_it_is_given_and_no_more(place: Place, locale: dict[str, str]) -> None:
    script = "ls /proc/self/fd; grep -E '^Sig(Ign|Blk)' /proc/self/status; env"
    done = run_briefly(place.sh(script), env={**ENV, **locale}, cwd=place.folder, seconds=30)
    *fds, blocked, ignored = done.output.split("PATH")[0].split("\n")[:6]
    assert fds == ["0", "1", "2", "3"], "the last one is ls' own"
    # The C library's own two apart, and what whoever started us wants ignored (nohup, say), which Python leaves alone.
    by_python = {signal.SIGPIPE, signal.SIGXFSZ}
    wished = {one for one in signal.valid_signals() if signal.getsignal(one) is signal.SIG_IGN} - by_python
    allowed = sum(1 << (one - 1) for one in wished) | 3 << 31
    assert [int(line.split()[1], 16) & ~given for line, given in ((blocked, 3 << 31), (ignored, allowed))] == [0, 0]
    given = dict(line.split("=", 1) for line in done.output.splitlines() if "=" in line)
    assert given.keys() - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "AGENT_MAILER_TURN_ID", *locale}


def test_no_module_of_theirs_is_taken_for_one_of_ours(place: Place) -> None:
    """The environment is the agent's program's, and may name a folder in which an agent writes."""
    for name in ("sitecustomize", "ctypes", "select"):
        (place.folder / f"{name}.py").write_text(f"open({str(place.folder / 'ran')!r}, 'w').close()\n")
    env = {**ENV, "PYTHONPATH": str(place.folder)}
    assert run_briefly(("/bin/true",), env=env, cwd=place.folder, seconds=30).status == 0
    assert not (place.folder / "ran").exists()
