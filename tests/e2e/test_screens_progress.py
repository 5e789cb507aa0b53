"""Long work on a real terminal: a line while it lasts, gone at its end; none for whoever wants or can show none."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND

from agent_mailer.state.lock import holder_of

pytestmark = LONG

SLOW = """#!/bin/sh
touch "$0.asked"
while [ ! -e "$0.go" ]; do sleep 0.05; done
case "$*" in
  --version) echo '2.1.300 (Claude Code)' ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """An agent program that answers as soon as there is a file `.go` beside it."""
    path = tmp_path / "claude"
    path.write_text(SLOW)
    path.chmod(0o755)
    return path


@pytest.fixture
def desk(tmp_path: Path, slow: Path) -> Desk:
    found = Desk(tmp_path)
    found.configure(runtime="claude", claude_command=str(slow))
    return found


def beside(slow: Path, name: str) -> Path:
    return slow.with_name(f"{slow.name}.{name}")


def test_a_line_says_what_is_done_until_it_is(desk: Desk, slow: Path) -> None:
    with terminal([COMMAND, "doctor"], desk.workdir, width=40) as screen:
        screen.until("asks the agent program, ")
        screen.resize(20, 20)
        screen.until("asks the agent pro…")
        screen.resize(80, 20)
        screen.until("asks the agent program,")
        beside(slow, "go").touch()
        screen.until_ended()
        shown = screen.screen()
    assert "asks the agent program" not in shown
    assert "failed" in shown


def test_what_a_watcher_is_to_do_is_waited_for_in_sight(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with desk.watching() as watcher:
        until(lambda: holder_of(desk.state / ".lock"), "the watcher")
        watcher.send_signal(signal.SIGSTOP)
        with terminal([COMMAND, "sessions", "prune", "--older-than", "14d"], desk.workdir, width=60) as screen:
            screen.until("has it carried out, ")
            watcher.send_signal(signal.SIGCONT)
            assert screen.until_ended() == 0
            shown = screen.screen()
    assert "carried out" not in shown
    assert shown.strip()


def test_ctrl_c_gives_the_terminal_back_as_it_was(desk: Desk) -> None:
    with terminal(
        ["/bin/sh", "-c", f"trap : INT; {COMMAND} doctor; echo left with $?; read it"], desk.workdir
    ) as screen:
        screen.until("asks the agent program, ")
        screen._ask("send-keys", "C-c")
        shown = screen.until("left with 130")
        assert screen._ask("display-message", "-p", "#{cursor_flag}").strip() == "1"
    assert "asks the agent program" not in shown


@pytest.mark.parametrize(
    ("words", "env"),
    [(("--quiet",), {}), (("--json",), {}), ((), {"TERM": "dumb"}), (("2>&1 | cat",), {})],
    ids=["quiet", "json", "dumb", "no terminal"],
)
def test_none_is_drawn(desk: Desk, slow: Path, words: tuple[str, ...], env: dict[str, str]) -> None:
    """All that ever reached the terminal is looked at: of a line that was drawn and erased the rest would tell."""
    script = f"{shlex.quote(COMMAND)} doctor {' '.join(words)}"
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        ["/bin/sh", "-c", script],
        cwd=desk.workdir,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **env},
    )
    os.close(theirs)
    try:
        until(beside(slow, "asked").exists, "the program was asked")
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(2.0)  # longer than nothing is drawn in any case
        beside(slow, "go").touch()
        shown = b""
        while part := _read(ours):
            shown += part
        assert program.wait(60) in (0, 1)
    finally:
        os.close(ours)
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert b"asks" not in shown
    assert b"\x1b[K" not in shown
    assert b"runtime" in shown


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # so Linux tells that nobody has the terminal any more
        return b""
