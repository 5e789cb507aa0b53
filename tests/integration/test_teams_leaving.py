"""A watcher of a team that has been told to end: it is told again only by who means that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from tests.desk import Desk

from agent_mailer.teams.running import Where, dismiss, start, stop

LEAVES = """import os, signal, sys
from pathlib import Path
from agent_mailer.state.lock import WorkdirLock
lock = WorkdirLock(Path(sys.argv[1]))
lock.acquire()
lock.leaving()
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"told again\\n"))
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"told to hand over\\n"))
print("leaves", flush=True)
sys.stdin.read()
"""


HEARS_LATE = """import os, signal, sys
from pathlib import Path
from agent_mailer.state.lock import WorkdirLock
lock = WorkdirLock(Path(sys.argv[1]))
lock.acquire()
def hear(*_):
    lock.leaving()
    os.write(1, b"told\\n")
signal.signal(signal.SIGTERM, hear)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("at work", flush=True)
os.read(0, 1)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
sys.stdin.read()
"""


@contextmanager
def watching(desk: Desk, script: str) -> Iterator[tuple[IO[str], IO[str]]]:
    """Who holds the workdir, once it has said so: its input and its output."""
    words = [sys.executable, "-c", script, str(desk.state / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == {LEAVES: "leaves\n", HEARS_LATE: "at work\n"}[script]
        yield watcher.stdin, watcher.stdout


def test_who_is_to_end_at_once_hears_it_twice_however_late_he_hears_it_first(tmp_path: Path) -> None:
    """The first word gives turns their time. Of a signal that waits to be heard a second one is no other."""
    desk, directory = Desk(tmp_path), tmp_path / "shop"
    directory.mkdir()
    with watching(desk, HEARS_LATE) as (say, heard_of):
        lines = stop("shop", directory, {"coder": desk.place()}, now=True)
        assert next(lines) == "coder ends now"
        say.write("x")
        say.flush()
        assert heard_of.readline() == "told\n"
        assert "waiting for coder" in next(lines)
        say.close()
        assert heard_of.read() == "told\n"
        assert [*lines] == []


@pytest.mark.parametrize(
    ("how", "said", "told"),
    [
        ({}, "ends already", ""),
        ({"now": True}, "ends now", "told again\n"),
        ({"hand_over": True}, "hands over", "told to hand over\n"),
    ],
)
def test_who_ends_already_is_only_hurried_by_a_word(tmp_path: Path, how: dict[str, bool], said: str, told: str) -> None:
    """A second signal would end the turns that still have time."""
    desk, directory = Desk(tmp_path), tmp_path / "shop"
    directory.mkdir()
    with watching(desk, LEAVES) as (say, heard_of):
        lines = stop("shop", directory, {"coder": desk.place()}, **how)
        assert next(lines) == f"coder {said}"
        heard = heard_of.readline() if told else ""
        say.close()
        assert heard + heard_of.read() in (told, told * 2)
        assert [*lines] == []


@pytest.mark.parametrize(
    ("script", "said"),
    [(LEAVES, "is started anew"), (LEAVES.replace("lock.leaving()\n", ""), "coder watches already")],
    ids=["leaves", "stays"],
)
def test_a_watcher_that_has_still_a_turn_and_then_ends_is_none_that_watches_already(
    tmp_path: Path, script: str, said: str
) -> None:
    desk, directory = Desk(tmp_path), tmp_path / "shop"
    directory.mkdir()
    words = [sys.executable, "-c", script, str(desk.state / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "leaves\n"
        lines = start("shop", directory, {"coder": desk.place()}, Where.DETACHED)
        heard, _ = watcher.communicate()
        assert next(lines).endswith(said)
    assert heard == "", "whoever has ended by himself is not hurried, and whoever watches is let alone"


def test_who_ends_already_as_it_leaves_the_team_is_not_hurried(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with watching(desk, LEAVES) as (say, heard_of):
        assert "its watcher ends" in next(dismiss(tmp_path, {"coder": desk.place()}))
        say.close()
        assert heard_of.read() == ""
