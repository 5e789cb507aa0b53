"""`agent-mailer` alone and a new user's mistakes, on a real terminal: each ends in what helps."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.e2e.kept_screens import compare
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND

from agent_mailer.cli.terminal.screen import cells
from agent_mailer.state.lock import holder_of
from agent_mailer.state.workdirs import remember

pytestmark = LONG


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    remember(found.workdir)
    return found


def home_of(desk: Desk) -> dict[str, str]:
    """The workdir is shown from the home on; what is remembered of workdirs lies where it lay."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path(os.environ["HOME"]) / ".local" / "state")
    return {"HOME": str(desk.base), "XDG_STATE_HOME": state}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_alone_with_something_given_up_and_a_question(desk: Desk, width: int) -> None:
    desk.shell("agent-mailer mail finish --blocked 'Which colour shall the rain have, and how much of it?'")
    desk.send("x", thread="one")
    desk.once()
    desk.configure(max_retries=0)
    desk.shell("echo 'there is no rain' >&2; exit 3")
    desk.send("x", thread="two")
    desk.once()
    with terminal([COMMAND], desk.workdir, home_of(desk), width=width) as screen:
        assert screen.until_ended() == 0
        shown = screen.screen()
    assert max(map(cells, shown.splitlines())) <= width
    for words in ("agent-mailer dead-letter list", "agent-mailer inbox", "agent-mailer watch", "agent-mailer help"):
        assert words in " ".join(shown.split())
    if width >= 80:
        compare(f"alone-{width}", shown + "\n")


def test_two_hundred_agents_leave_what_needs_somebody_on_the_screen(desk: Desk, tmp_path: Path) -> None:
    for number in range(200):
        folder = tmp_path / "many" / f"agent-{number:03}"
        (folder / ".agent-mailer").mkdir(parents=True, mode=0o700)
        (folder / ".agent-mailer" / "config.toml").write_text(f"address = 'agent-{number:03}'\n")
        (folder / ".agent-mailer" / "config.toml").chmod(0o600)
        remember(folder)
    with terminal([COMMAND], desk.workdir, home_of(desk), width=80, height=40) as screen:
        assert screen.until_ended() == 0
        shown = screen.screen()
    for words in ("Agents", "more: agent-mailer status --all", "Needs you", "Next", 'agent-mailer send coder "TEXT"'):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "status", "helps"),
    [
        (("wacth",), 2, "did you mean watch?"),
        (("send", "coder", "hello", "there"), 2, "agent-mailer send coder 'hello there'"),
        (("send", "codr", "hello"), 2, "known are: coder, planner, user"),
        (("config", "set", "permision_mode", "plan"), 2, "did you mean permission_mode"),
        (("help", "thread"), 2, "did you mean threads?"),
        (("turns", "show", "nothing"), 1, "agent-mailer turns list"),
        (("mail", "read", "nothing"), 1, "agent-mailer mail inbox --all"),
        (("mail", "thread", "nothing"), 1, "there is no thread and no message 'nothing'"),
        (("init", "--address", "poet"), 2, "agent-mailer agent rename poet"),
    ],
)
@pytest.mark.parametrize("width", [40, 80])
def test_a_mistake_ends_in_what_helps(desk: Desk, words: tuple[str, ...], status: int, helps: str, width: int) -> None:
    with terminal([COMMAND, *words], desk.workdir, home_of(desk), width=width) as screen:
        assert screen.until_ended() == status
        shown = " ".join(screen.everything().split())
    assert shown.startswith("error:")
    assert helps in shown


def test_a_mistake_with_the_agent_ends_in_what_helps(desk: Desk) -> None:
    """The wrong folder, no program, a key with a typing error, no mode, a terminal that is closed."""
    elsewhere = desk.base / "elsewhere"
    elsewhere.mkdir()

    def look(*words: str, cwd: Path = desk.workdir) -> str:
        with terminal([COMMAND, *words], cwd, home_of(desk), width=40) as screen:
            screen.until_ended()
            return " ".join(screen.everything().split())

    assert "agent-mailer turns list -C ~/coder (coder)" in look("turns", "list", cwd=elsewhere)
    config = desk.state / "config.toml"
    before = config.read_text()
    desk.configure(command=["no-such-program"])
    assert "fix: install no-such-program" in look("verify")
    config.write_text(f"permision_mode = 'plan'\n{before}")
    assert "did you mean permission_mode?" in look("watch", "--once", "--no-interactive")
    assert "permission_mode (--permission-mode:" in look("watch", "--no-interactive", cwd=elsewhere)
    config.write_text(before)
    with terminal([COMMAND, "watch", "--no-interactive"], desk.workdir, home_of(desk)) as screen:
        screen.until("Ctrl-C stops")
        watcher = holder_of(desk.state / ".lock")
        assert watcher is not None
    # Whoever closes the terminal ends what watched in it; what comes next can watch at once.
    until(lambda: holder_of(desk.state / ".lock") is None, "the watcher ends with its terminal")


def test_watch_twice_without_colours_and_into_a_pipe(desk: Desk) -> None:
    plain = {**home_of(desk), "NO_COLOR": "1"}
    with terminal([COMMAND, "watch", "--no-interactive"], desk.workdir, plain, width=80) as first:
        first.until("Ctrl-C stops")
        until(lambda: holder_of(desk.state / ".lock"), "the first watcher")
        with terminal([COMMAND, "watch", "--no-interactive"], desk.workdir, plain, width=80) as second:
            assert second.until_ended() == 75
            assert "fix: agent-mailer status" in second.screen()
        piped = ["/bin/sh", "-c", f"{COMMAND} turns list --json | head -n 1; {COMMAND} status | cat"]
        with terminal(piped, desk.workdir, plain, width=80) as pipe:
            assert pipe.until_ended() == 0
            assert re.search(r"^health\s+healthy$", pipe.screen(), re.MULTILINE)
        assert "\x1b[3" not in first.screen(escapes=True)
        first.press("C-c")
        assert first.until_ended() == 0
