"""A home that is empty, relative or nobody's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.typed import COMMAND, type_in

from agent_mailer.cli.entry import WATCH
from agent_mailer.cli.home import settle_home
from agent_mailer.errors import ConfigFault, ExitCode


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"HOME": "/h"}, {"HOME": "/h"}),
        ({"HOME": ""}, {}),
        ({"XDG_STATE_HOME": "", "PATH": ""}, {"PATH": ""}),
        ({"HOME": "/h", "XDG_CACHE_HOME": "c", "XDG_DATA_HOME": "/d"}, {"HOME": "/h", "XDG_DATA_HOME": "/d"}),
    ],
)
def test_what_names_no_folder_counts_as_not_set(said: dict[str, str], left: dict[str, str]) -> None:
    settle_home(said)
    assert said == left


@pytest.mark.parametrize("home", ["rel", ".", "~", "a b/c"])
def test_a_relative_home_is_refused(home: str) -> None:
    with pytest.raises(ConfigFault, match="another folder wherever a command is typed"):
        settle_home({"HOME": home})


@pytest.mark.parametrize("words", [("watch", "--once"), ("doctor",), ("status",), ("init", "--address", "b")])
def test_a_command_says_so_in_its_own_words(tmp_path: Path, words: tuple[str, ...]) -> None:
    desk = Desk(tmp_path)
    done = type_in(desk.workdir, *words, env={"HOME": "rel"})
    assert done.status == ExitCode.CONFIG
    assert "HOME is rel" in done.err
    assert "fix: export HOME=" in done.err


def test_a_watcher_of_a_service_says_so_before_all_else(tmp_path: Path) -> None:
    """It begins by a way of its own."""
    desk = Desk(tmp_path)
    lock = desk.place().lock()
    lock.acquire()
    try:
        words, env = [COMMAND, *WATCH], {**os.environ, "HOME": "rel"}
        done = subprocess.run(words, cwd=desk.workdir, env=env, capture_output=True, text=True, timeout=60, check=False)
    finally:
        lock.release()
    assert (done.returncode, "HOME is rel" in done.stderr) == (ExitCode.CONFIG, True), done
    assert not (desk.workdir / "rel").exists()


def test_what_is_trusted_is_kept_at_home_where_a_folder_is_relative(tmp_path: Path) -> None:
    desk, home = Desk(tmp_path), tmp_path / "h"
    home.mkdir()
    env = {"HOME": str(home), "XDG_STATE_HOME": "state"}
    done = type_in(desk.workdir, "config", "set", "permission_mode", "plan", env=env)
    assert done.status == ExitCode.OK, done.err
    assert (home / ".local" / "state" / "agent-mailer" / "trust").is_dir()
    assert not (desk.workdir / "state").exists()
