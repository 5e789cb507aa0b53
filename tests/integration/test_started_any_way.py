"""A watcher that was started by hand in a terminal that is then closed, by cron, or by at."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.desk import SOON, Desk, until
from tests.sizes import LONG
from tests.typed import COMMAND

from agent_mailer.events import EventName
from agent_mailer.processes import read_stat
from agent_mailer.state.lock import holder_of

pytestmark = LONG

WATCH = f"{COMMAND} watch --no-interactive"
STAYS = {
    "nohup": f"nohup {WATCH} &",
    "nohup to a file": f"nohup {WATCH} >out 2>&1 </dev/null &",
    "disown": f"{WATCH} & disown",
    "disown -h": f"{WATCH} & disown -h",
    "setsid": f"setsid {WATCH} &",
    "setsid from a subshell": f"(setsid {WATCH} &)",
}
GOES = {"in the foreground": WATCH, "in the background": f"{WATCH} &"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


class Window:
    """An interactive bash in a terminal of its own, of which nobody reads much."""

    def __init__(self, cwd: Path) -> None:
        bash = shutil.which("bash")
        if bash is None:
            pytest.skip("no bash here")
        self._pid, self.keyboard = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(cwd)
                os.execve(bash, ["bash", "--norc", "-i"], {**os.environ, "TERM": "dumb", "HISTFILE": ""})
            finally:
                os._exit(127)

    def type(self, line: str) -> None:
        os.write(self.keyboard, line.encode() + b"\n")

    def close(self) -> None:
        """As who clicks it away; returns when its shell has ended."""
        os.close(self.keyboard)
        os.waitpid(self._pid, 0)


@contextmanager
def watcher_of(desk: Desk) -> Iterator[int]:
    """The pid of the watcher that somebody started; it is ended at the end."""
    lock = desk.state / ".lock"
    try:
        until(lambda: desk.log(EventName.WATCH_STARTED) and holder_of(lock), "the watcher")
        holder = holder_of(lock)
        assert holder is not None
        yield holder.process.pid
    finally:
        if (left := holder_of(lock)) is not None:
            os.kill(left.process.pid, signal.SIGKILL)
            until(lambda: not lives(left.process.pid), "its end")
        desk.end_turns()


def lives(pid: int) -> bool:
    found = read_stat(pid)
    return found is not None and found.alive


def works_and_heeds_a_stop(desk: Desk, pid: int) -> None:
    for number in range(1, 4):
        desk.send(f"after {number}", thread=f"t{number}")
    until(lambda: len(desk.inbox()) == 3, "the answers")
    os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid), "its end")
    assert desk.log(EventName.WATCH_STOPPED)
    assert desk.log(EventName.STATE_DAMAGED) == []


@pytest.mark.parametrize("how", STAYS)
def test_a_window_that_is_closed_leaves_a_watcher_that_was_to_stay(desk: Desk, how: str) -> None:
    window = Window(desk.workdir)
    window.type(STAYS[how])
    with watcher_of(desk) as pid:
        window.close()
        works_and_heeds_a_stop(desk, pid)


@pytest.mark.parametrize("how", GOES)
def test_a_window_that_is_closed_stops_a_watcher_that_nobody_said_should_stay(desk: Desk, how: str) -> None:
    window = Window(desk.workdir)
    window.type(GOES[how])
    with watcher_of(desk) as pid:
        window.close()
        until(lambda: not lives(pid), "its end", SOON)
    assert desk.log(EventName.WATCH_STOPPED)


def test_a_terminal_that_stops_who_writes_from_the_background_stops_no_watcher(desk: Desk) -> None:
    desk.shell("cat >/dev/null; grep SigIgn /proc/self/status")
    window = Window(desk.workdir)
    try:
        window.type(f"stty tostop; {WATCH} &")
        with watcher_of(desk) as pid:
            works_and_heeds_a_stop(desk, pid)
    finally:
        window.close()
    ignored = {int(mail.body.split()[1], 16) for mail in desk.inbox()}
    assert all(mask & (1 << signal.SIGTTOU - 1) == 0 for mask in ignored), "an agent is left the terminal's rules"


@pytest.mark.parametrize("command", [WATCH, f"{WATCH} >/dev/null 2>&1 &", f"exec {WATCH} <&- >&- 2>&-"])
def test_cron_starts_it_with_next_to_nothing(desk: Desk, command: str) -> None:
    """No terminal, four variables, its output a pipe; and a cron that is restarted reads it no more."""
    words = ["/bin/sh", "-c", f"cd {desk.workdir} && {command}"]
    env = {"HOME": str(desk.base), "LOGNAME": "somebody", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    cron = subprocess.Popen(
        words,
        cwd="/",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        umask=0o077,
    )
    assert cron.stdout is not None
    try:
        with watcher_of(desk) as pid:
            cron.stdout.close()
            works_and_heeds_a_stop(desk, pid)
    finally:
        cron.kill()
        cron.wait()


def test_at_starts_it_and_forgets_it(desk: Desk) -> None:
    """Its shell reads the script from standard input, which the watcher gets as well; its output is a file."""
    script = (
        f"#!/bin/sh\n# atrun uid=0 gid=0\numask 22\ncd {desk.workdir} || exit 1\n{WATCH}\necho not read by anybody\n"
    )
    with (desk.base / "spool").open("w+b") as spool:
        spool.write(script.encode())
        spool.seek(0)
        starter = "import subprocess; subprocess.Popen(['/bin/sh'], start_new_session=True)"
        subprocess.run([sys.executable, "-c", starter], stdin=spool, stdout=spool, stderr=spool, check=True)
    with watcher_of(desk) as pid:
        works_and_heeds_a_stop(desk, pid)
