"""`.lock`: one watcher a workdir."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer import __version__
from agent_mailer.beneath import is_folder
from agent_mailer.disk import read_regular
from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.locks import HOLDS_ON, FileLock
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive
from agent_mailer.state.folder import GARBLED

LARGEST = 4096
"""Far more bytes than a holder writes."""


class LockHolder(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the holder writes into the lock file once it has it."""

    process: ProcessIdentity
    version: str
    leaving: bool = False
    """It was told to end, and takes up no mail any more."""


class WorkdirLock:
    """The workdir's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)
        self._folder: tuple[int, int] | None = None

    def acquire(self, *, briefly: bool = False) -> None:
        """Raises BusyFault naming the holder, or ConfigFault where the file system has no flock.

        `briefly`: who is about to let it go names himself nowhere, so that a watcher that comes meanwhile waits for it.
        """
        if not self._lock.acquire(HOLDS_ON, lambda: holder_of(self._path)):
            raise BusyFault("workdir_busy", *_busy_words(self._path))
        self._folder = _identity_of(self._path.parent)
        if not briefly:
            self._name_us(leaving=False)

    def leaving(self) -> None:
        """Others are told that we end: who wants the workdir watched waits for that, or has our turns handed over."""
        if self.still_ours():
            self._name_us(leaving=True)

    def _name_us(self, *, leaving: bool) -> None:
        identity = identify(os.getpid())
        assert identity is not None
        with suppress(OSError):  # only names us to others; the lock itself is held
            self._lock.write(msgspec.json.encode(LockHolder(identity, __version__, leaving)) + b"\n")

    def still_ours(self) -> bool:
        """Whether the path still names the file we hold; a removed or replaced one guards nothing."""
        return self._lock.stands

    def guard(self) -> None:
        """Raises BusyFault where another file lies in our lock's place, ConfigFault where the workdir has vanished, or
        another was made in its place.
        """
        if self.still_ours():
            return
        folder = self._path.parent
        if not is_folder(folder):
            raise ConfigFault("workdir_gone", f"{folder} has vanished", "put the folder back, then start")
        if self._folder is not None and self._folder != _identity_of(folder):
            raise ConfigFault(
                "workdir_gone", f"{folder} is another folder than the one we watch", "agent-mailer status"
            )
        raise BusyFault("lock_replaced", f"{self._path} is no longer the file we hold", "agent-mailer status")

    def release(self) -> None:
        """Let go; the file no longer names us."""
        if self.still_ours():
            with suppress(OSError):
                self._lock.write(b"")
        self._lock.release()


def holder_of(path: Path) -> LockHolder | None:
    """The living holder of a lock file, if its content says who that is."""
    with suppress(OSError, *GARBLED):
        holder = msgspec.json.decode(read_regular(path, LARGEST), type=LockHolder)
        if is_alive(holder.process):
            return holder
    return None


def _identity_of(folder: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.lstat(folder)
        return found.st_dev, found.st_ino
    return None


def _busy_words(path: Path) -> tuple[str, str]:
    """Who holds the lock, and what ends it."""
    holder = holder_of(path)
    if holder is None:
        return f"another process holds {path}", "agent-mailer status"
    pid = holder.process.pid
    return (
        f"another watcher (pid {pid}, agent-mailer {holder.version}) runs in {path.parent.parent}",
        f"agent-mailer status, or stop it with: kill {pid}",
    )
