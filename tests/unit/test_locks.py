"""A lock holds the file that the path names, by one who can be told, and leaves nothing open where it is not had."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.locks import FileLock
from agent_mailer.state.lock import WorkdirLock, holder_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_that_cannot_be_had_leaves_no_descriptor_open(path: Path) -> None:
    held = FileLock(path)
    assert held.acquire()
    before = os.listdir("/dev/fd")
    assert not FileLock(path).acquire()
    folder = path.with_name("folder")
    folder.mkdir()
    (path.with_name("link")).symlink_to(path)
    os.mkfifo(path.with_name("fifo"))
    for other in ("folder", "link", "fifo"):
        with pytest.raises(ConfigFault, match="not a file of ours alone"):
            FileLock(path.with_name(other)).acquire()
    assert os.listdir("/dev/fd") == before
    held.release()


def test_what_has_another_name_is_not_written_into(path: Path) -> None:
    path.write_text("somebody's words")
    os.link(path, path.with_name("theirs"))
    with pytest.raises(ConfigFault, match="not a file of ours alone"):
        FileLock(path).acquire()


def test_what_was_replaced_while_it_was_locked_is_not_what_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, replaced = fcntl.flock, path.with_name("other")
    replaced.touch()

    def then_replaced(fd: int, how: int) -> None:
        flock(fd, how)
        if replaced.exists():
            replaced.replace(path)

    monkeypatch.setattr(fcntl, "flock", then_replaced)
    lock = FileLock(path)
    assert lock.acquire()
    assert lock.stands
    assert not FileLock(path).acquire()
    path.unlink()
    assert not lock.stands
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_without_a_lock_nothing_is_held(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    lock = FileLock(path)
    with pytest.raises(OSError if code == errno.EIO else ConfigFault):
        lock.acquire()
    assert not lock.stands


def test_whoever_reads_while_it_is_written_never_finds_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FileLock(path)
    assert lock.acquire()
    lock.write(b"the first, by its long name")
    found = []

    def then_read(call: Callable[..., object]) -> Callable[..., None]:
        def both(*words: object) -> None:
            call(*words)
            found.append(path.read_bytes())

        return both

    for name in ("pwrite", "ftruncate"):
        monkeypatch.setattr(os, name, then_read(getattr(os, name)))
    lock.write(b"the other")
    assert found[-1] == path.read_bytes() == b"the other"
    assert all(seen.startswith((b"the first", b"the other")) for seen in found)
    lock.release()


def test_who_holds_a_workdir_says_when_he_is_about_to_leave(path: Path) -> None:
    lock = WorkdirLock(path)
    lock.acquire()
    for leaves in (False, True):
        if leaves:
            lock.leaving()
        holder = holder_of(path)
        assert holder is not None
        assert holder.leaving is leaves
    lock.release()
    assert holder_of(path) is None


def test_who_holds_a_workdir_for_a_moment_and_says_nowhere_who_he_is_refuses_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command that asks whether it is watched, or what a watcher that was killed was about to start."""
    held = FileLock(path)
    assert held.acquire()

    def looked_for(path: Path) -> None:
        assert path.exists()
        held.release()

    monkeypatch.setattr("agent_mailer.state.lock.holder_of", looked_for)
    lock = WorkdirLock(path)
    lock.acquire()
    assert lock.still_ours()
    lock.release()


def test_who_says_that_he_holds_a_workdir_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WorkdirLock(path)
    lock.acquire()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it was waited"))
    with pytest.raises(BusyFault, match=f"pid {os.getpid()}"):
        WorkdirLock(path).acquire()
    lock.release()
