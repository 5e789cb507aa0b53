"""The screens of `status` on a real terminal: each state, live, narrow, without colours, on a dumb one."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.terminal import Terminal, terminal
from tests.typed import COMMAND

from agent_mailer.cli.terminal.screen import cells
from agent_mailer.events import EventName
from agent_mailer.state.notices import Trouble, TroubleWith
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.workdirs import remember

pytestmark = LONG

RED, GREEN, YELLOW = "\x1b[31m", "\x1b[32m", "\x1b[33m"
LIVE = "Ctrl-C ends this"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def shown(desk: Desk, *words: str, env: Mapping[str, str] | None = None, width: int = 100) -> str:
    """The screen of a command that ends, with its colours."""
    settings = [f"{name}={value}" for name, value in (env or {}).items()]
    with terminal(["env", *settings, COMMAND, "status", *words], desk.workdir, width=width) as window:
        window.until_ended()
        return window.screen(escapes=True)


def lines(screen: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()


def troubled(desk: Desk) -> None:
    """All that can be wrong at once, and some that is right."""
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; echo 'no luck' >&2; exit 3")
    desk.send(thread="sad")
    desk.once()
    desk.shell("cat >/dev/null; agent-mailer mail finish --blocked 'May I drop it?'")
    desk.send(thread="db")
    desk.once()
    desk.shell("cat >/dev/null; echo done")
    desk.send(thread="fine")
    desk.once()
    desk.configure(max_retries=3, retry={"first": 600, "longest": 600})
    desk.shell("cat >/dev/null; exit 3")
    desk.send(thread="again")
    desk.once()
    desk.send(thread="later")
    desk.place().state.pause.write(Pause(PauseReason.SIGNED_OUT, time.time(), time.time() + 600, "401"))


def test_everything_on_one_screen(desk: Desk) -> None:
    troubled(desk)
    screen = shown(desk)
    rows = {line[:7].strip(): line[9:] for line in lines(screen) if line[:7].strip()}
    assert list(rows) == [
        *(
            "agent",
            "health",
            "watcher",
            "mailbox",
            "sandbox",
            "trust",
            "paused",
            "waiting",
            "retry",
            "blocked",
            "dead",
            "last",
        ),
        "today",
    ]
    assert len(lines(screen)) < 40
    assert rows["watcher"] == "not running (agent-mailer watch)"
    assert rows["paused"].startswith("signed out, until ")
    assert rows["waiting"].startswith("1, the oldest for ")
    assert rows["retry"].startswith("again in ")
    assert rows["blocked"].startswith("db: user was asked ")
    assert rows["dead"].startswith("1 given up")
    assert rows["last"].startswith("failed ")
    for colour, words in (
        (RED, "not healthy: "),
        (RED, "1 given up"),
        (YELLOW, "db: user"),
        (GREEN, "done"),
        (RED, "failed"),
    ):
        assert f"{colour}{words}" in screen


@pytest.mark.parametrize(
    "env",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C"}, {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}],
    ids=["no colour", "dumb", "ascii", "latin"],
)
def test_it_degrades(desk: Desk, env: dict[str, str]) -> None:
    desk.configure(agent_name="编码员", max_retries=0)
    desk.shell("cat >/dev/null; exit 3")
    desk.send(thread="线程" * 20)
    desk.once()
    screen = shown(desk, env=env, width=60)
    assert "1 given up" in screen
    if "LC_ALL" not in env:
        assert "\x1b" not in screen
        assert "编码员" in screen
    assert all(cells(line) <= 60 for line in lines(screen))


@pytest.mark.parametrize("width", [20, 40, 60])
def test_it_fits_a_narrow_window(desk: Desk, width: int) -> None:
    troubled(desk)
    with terminal([COMMAND, "status"], desk.workdir, width=width, height=120) as window:
        assert window.until_ended() == 1
        # Lines that the terminal itself had to wrap would be joined here.
        assert all(cells(line) <= width for line in window.everything().splitlines())
        assert window.everything() == window.screen()


def test_live_it_follows_a_turn_and_leaves_the_terminal_as_it_was(desk: Desk) -> None:
    go = desk.base / "go"
    desk.configure(command_output="jsonl")
    desk.script(
        {"emit": {"type": "tool_start", "id": "1", "name": "Edit", "detail": "main.py"}},
        {"wait_for": str(go)},
        {"emit": {"type": "result", "outcome": "done", "text": "ok"}},
    )
    with terminal([COMMAND, "status", "--watch"], desk.workdir, width=80, height=30) as window:
        window.until("not running", LIVE)
        with desk.watching():
            window.until("healthy", "when mail comes")
            desk.send(thread="work")
            window.until("Edit main.py for ", "thread work", "when a turn ends")
            desk.send(thread="next")
            window.until("waiting  1, the oldest for ", "next")
            window.resize(40, 14)
            screen = window.until("more lines: make the window higher", LIVE)
            assert LIVE in screen.splitlines()[-1]
            window.resize(80, 30)
            go.touch()
            window.until("last ", "done", "when mail comes")
            desk.place().state.trouble.write(Trouble(TroubleWith.DISK, "no room", time.time(), "df -h"))
            window.until("trouble  disk: no room", "fix: df -h")
        window.until("not running")
        window.press("C-c")
        assert window.until_ended() == 0
        assert window.everything() == ""


def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(desk: Desk) -> None:
    script = f"{COMMAND} status --watch & echo $! >pid; wait $!; echo left with $?"
    with terminal(["sh", "-c", script], desk.workdir) as window:
        window.until(LIVE)
        os.kill(int((desk.workdir / "pid").read_text()), signal.SIGTERM)
        window.until("left with 143")
        assert "agent" not in window.everything()


def test_live_on_a_dumb_terminal_it_prints_what_has_changed(desk: Desk) -> None:
    with terminal(["env", "TERM=dumb", COMMAND, "status", "--watch"], desk.workdir, height=60) as window:
        window.until(LIVE)
        desk.send(thread="one")
        until(lambda: window.screen().count(LIVE) == 2, "the screen once more")
        first, second = window.screen().split(LIVE)[:2]
        assert ("waiting  0" in first, "waiting  1" in second) == (True, True)
        window.press("C-c")
        assert window.until_ended() == 0
        assert "\x1b" not in window.screen(escapes=True)


@pytest.mark.parametrize("width", [40, 120])
def test_all_workdirs_on_one_screen(tmp_path: Path, width: int) -> None:
    one, two = Desk(tmp_path / "a"), Desk(tmp_path / "b")
    one.configure(agent_name="planner")
    one.send()
    for desk in (one, two):
        remember(desk.workdir)
    with terminal([COMMAND, "status", "--all", "--watch"], tmp_path, width=width, height=80) as window:
        board = window.until("planner", "2 need you", "no watcher runs")
        assert all(cells(line) <= width for line in board.splitlines())
        window.press("C-c")
        assert window.until_ended() == 0
    with terminal([COMMAND, "status", "--all"], tmp_path, width=width, height=80) as window:
        _all(window, width)
        assert window.until_ended() == 1


def _all(window: Terminal, width: int) -> None:
    screen = window.until("planner", "coder", "2 of 2 not healthy")
    assert all(cells(line) <= width for line in screen.splitlines())
    assert screen.count("no watcher runs") == 2


def test_a_look_at_a_turn_that_was_left_open(desk: Desk) -> None:
    go = desk.base / "go"
    desk.script({"wait_for": str(go)})
    desk.send(thread="work")
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.TURN_STARTED), "the turn")
        watcher.kill()
        watcher.wait()
        assert "running, left open: the next watcher takes it up" in shown(desk, width=200)
        go.touch()
