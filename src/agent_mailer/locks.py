"""A lock on an opened file, by flock: it ends with the process, and no crash leaves it behind."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from agent_mailer.beneath import open_file
from agent_mailer.errors import ConfigFault, put_aside

HOLDS_ON = 2.0
"""Seconds for which somebody may hold a lock who is not to keep it: a command that looks whether it is free, and what a
process that was killed meanwhile was about to start, until that is executed.
"""

_AGAIN = 0.02
_TRIES = 8
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class FileLock:
    """Held or not. The file is made where it is missing, 0600, and stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, seconds: float = 0.0, holder: Callable[[], object] = lambda: None) -> bool:
        """Whether it could be had within `seconds`, or before `holder` finds who has it. Raises ConfigFault where there
        can be none, OSError.
        """
        until = time.monotonic() + seconds
        for _ in range(_TRIES):
            fd = self._open()
            try:
                while not _take(fd, self.path):
                    if time.monotonic() >= until or holder() is not None:
                        return False
                    time.sleep(_AGAIN)
                if _identity(os.fstat(fd)) == self._named():
                    self._fd, fd = fd, -1
                    return True
            finally:
                if fd >= 0:
                    os.close(fd)
        # Somebody replaces it again and again.
        return False

    def write(self, text: bytes) -> None:
        """Who holds it, in place of what the file said. The lock must be held. Raises OSError.

        Whoever reads meanwhile finds the one or the other, where the text has grown, and never nobody.
        """
        assert self._fd is not None
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    @property
    def stands(self) -> bool:
        """Whether the path still names the file that is held; a removed or replaced one guards nothing."""
        return self._fd is not None and _identity(os.fstat(self._fd)) == self._named()

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        fd = -1
        try:
            fd = open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW)
            found = os.fstat(fd)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
        else:
            # What has another name is somebody else's, too, and we write into it.
            if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
                return fd
            os.close(fd)
        raise ConfigFault("no_lock_file", f"{self.path} is not a file of ours alone", put_aside(self.path))

    def _named(self) -> tuple[int, int] | None:
        try:
            return _identity(os.lstat(self.path))
        except OSError:
            return None


def _take(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        why = f"{path}: this file system cannot lock files ({error}), so two watchers could run at once"
        raise ConfigFault("no_flock", why, f"put {path.parent} on a local file system") from error
    return True


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
