"""The first run on a real terminal: what a person sees, types, and has on disk afterwards."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.terminal import Terminal, terminal
from tests.typed import COMMAND, type_in

pytestmark = LONG

CLAUDE = """#!/bin/sh
case "$*" in
  --version) echo '2.1.300 (Claude Code)' ;;
  'auth status') echo '{"loggedIn": true, "authMethod": "claude.ai"}' ;;
  *) exit 9 ;;
esac
"""
CODEX = """#!/bin/sh
case "$*" in *--version) echo 'codex-cli 0.200.0' ;; *) echo 'Not logged in'; exit 1 ;; esac
"""


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "helper"
    path.mkdir()
    return path


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """claude, logged in, and codex, which is not, in the PATH; both do no work."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"claude": CLAUDE, "codex": CODEX}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def answer(screen: Terminal, *pairs: tuple[str, str]) -> None:
    """Wait for each question and type its answer."""
    for question, text in pairs:
        screen.until(question)
        screen.type(text)


def test_init_shows_what_is_here_and_writes_what_the_flags_would(
    workdir: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    with terminal([COMMAND, "init"], workdir, programs) as screen:
        screen.until("Setting up", "Ctrl-C leaves everything as it is", "Mailbox [folder]:")
        screen.press("Enter")
        answer(screen, ("Its address", "Not A Handle"), ("cannot name a folder mailbox", ""))
        screen.until("claude 2.1.300", "claude has a login", "codex 0.200.0", "codex login", "Runtime [claude]:")
        screen.press("Enter")
        screen.until("acceptEdits", "would ask is denied", "bypassPermissions", "no default")
        if os.geteuid() == 0:
            screen.until("root, which you are")
            answer(screen, ("Permission mode:", "bypassPermissions"))
            screen.until("claude refuses permission_mode bypassPermissions to root", "IS_SANDBOX")
        answer(screen, ("Permission mode:", "acceptEdits"))
        assert screen.until_ended() == 0
        last = screen.everything()
    assert "agent-mailer watch" in last.partition("Next:")[2]
    written = (workdir / ".agent-mailer" / "config.toml").read_text()
    for words in ("agent-mailer config show", "# the agent program", 'runtime = "claude"', '"acceptEdits"'):
        assert words in written
    other = tmp_path / "other" / "helper"
    other.mkdir(parents=True)
    flags = ("--address", "helper", "--runtime", "claude", "--permission-mode", "acceptEdits")
    assert type_in(other, "init", "--no-interactive", *flags).status == 0
    assert (other / ".agent-mailer" / "config.toml").read_text() == written


def test_what_the_folder_has_is_shown_and_not_asked(tmp_path: Path, programs: dict[str, str]) -> None:
    desk = Desk(tmp_path)
    shutil.rmtree(desk.state)
    (desk.workdir / ".amqrc").write_text(json.dumps({"root": str(desk.root)}))
    with terminal([COMMAND, "init"], desk.workdir, programs, width=200) as screen:
        screen.until(str(desk.root), "coder, planner, user", "Mailbox [folder]")
        screen.press("C-c")
        assert screen.until_ended() == 130
    (desk.workdir / "AGENT.md").write_text("# Agent Identity\n\n- **Name**: coder\n- **Address**: coder\n")
    with terminal([COMMAND, "init"], desk.workdir, programs, width=200) as screen:
        shown = screen.until("AGENT.md names coder", "Runtime [claude]")
        assert "Its address" not in shown
        screen.press("C-d")
        assert screen.until_ended() == 130
    assert not desk.state.exists()


def test_in_a_narrow_window_without_colour_or_utf8_it_can_still_be_read(
    workdir: Path, programs: dict[str, str]
) -> None:
    plain = {**programs, "LC_ALL": "C", "TERM": "dumb", "NO_COLOR": "1"}
    with terminal([COMMAND, "init"], workdir, plain, width=46, height=60) as screen:
        answer(screen, ("Mailbox [folder]:", ""), ("Its address", ""), ("Runtime [claude]:", "codex"))
        screen.until("no network", "Permission mode:")
        assert "\x1b" not in screen.screen(escapes=True)
        assert max(map(len, screen.screen().splitlines())) <= 46
        answer(screen, ("Permission mode:", "plan"))
        assert screen.until_ended() == 0


def test_a_full_disk_leaves_no_half_configuration(workdir: Path, programs: dict[str, str]) -> None:
    """No file may grow: what a full disk says when a write is due."""
    argv = ["/bin/sh", "-c", f"ulimit -f 0; exec {COMMAND} init"]
    with terminal(argv, workdir, programs) as screen:
        answer(screen, ("Mailbox", ""), ("Its address", ""), ("Runtime", ""), ("Permission mode", "plan"))
        assert screen.until_ended() == 1
        assert "error:" in screen.everything()
    assert not (workdir / ".agent-mailer" / "config.toml").exists()
    flags = ("--address", "helper", "--runtime", "claude", "--permission-mode", "plan")
    assert type_in(workdir, "init", "--no-interactive", *flags).status == 0


def test_watch_asks_the_same_and_goes_on(workdir: Path, programs: dict[str, str]) -> None:
    argv = [COMMAND, "watch", "--runtime", "command", "--command", "cat"]
    with terminal(argv, workdir, programs) as screen:
        answer(screen, ("Mailbox", ""), ("Its address", ""))
        screen.until("said, not enforced")
        answer(screen, ("Permission mode", "plan"))
        screen.until("Next, in another terminal:", "agent-mailer send", " watches ")
        screen.press("C-c")
        assert screen.until_ended() in (0, 130)
    until((workdir / ".agent-mailer" / "config.toml").exists, "the configuration")
