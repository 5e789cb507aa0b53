"""A layer under all durable writes that fails at the n-th call."""

from __future__ import annotations

import errno
import os
import resource
from enum import Enum
from pathlib import Path

from agent_mailer.disk import SystemCalls


class Lasting(Enum):
    ONCE = "once"
    FROM_THEN_ON = "from then on"


class Kind(Enum):
    """What goes wrong. A short write is no error: less is written than was given."""

    ENOSPC = errno.ENOSPC
    EIO = errno.EIO
    EROFS = errno.EROFS
    EMFILE = errno.EMFILE
    EACCES = errno.EACCES
    SHORT = 0


class FaultySystem(SystemCalls):
    """Counts the calls that change the disk; call number `at` (from 1) fails with `code`. A write fails short.

    With `code` 0 only writes count, and number `at` is short without failing.
    """

    def __init__(self, at: int, code: int, lasting: Lasting) -> None:
        self.at = at
        self.code = code
        self.lasting = lasting
        self.calls = 0
        self.fired = False

    def _count(self, path: str = "") -> None:
        if self.code == 0:
            return
        if self._hit():
            raise OSError(self.code, os.strerror(self.code), path)

    def _hit(self) -> bool:
        self.calls += 1
        if self.calls == self.at or (self.calls > self.at and self.lasting is Lasting.FROM_THEN_ON):
            self.fired = True
            return True
        return False

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._count(str(path))
        return super().open(path, flags, mode)

    def write(self, fd: int, data: memoryview) -> int:
        if self.code == 0:
            return super().write(fd, data[: (len(data) + 1) // 2] if self._hit() else data)
        try:
            self._count()
        except OSError:
            super().write(fd, data[: len(data) // 2])
            raise
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._count()
        super().fsync(fd)

    def truncate(self, fd: int, length: int) -> None:
        self._count()
        super().truncate(fd, length)

    def replace(self, source: Path, target: Path) -> None:
        self._count(str(target))
        super().replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        self._count(str(target))
        super().rename_noreplace(source, target)

    def unlink(self, path: Path) -> None:
        self._count(str(path))
        super().unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        self._count(str(path))
        super().mkdir(path, mode)

    def chmod(self, path: Path, mode: int) -> None:
        self._count(str(path))
        super().chmod(path, mode)

    def rmdir(self, path: Path) -> None:
        self._count(str(path))
        super().rmdir(path)


class QuickFaultySystem(FaultySystem):
    """Does not wait for the disk: what is tested is what is done about a fault.

    With EMFILE from then on this process gets no new descriptor, for reading, listing and starting either, until
    `end`.
    """

    def __init__(self, at: int, kind: Kind, lasting: Lasting) -> None:
        super().__init__(at, kind.value, lasting)
        self._everywhere = kind is Kind.EMFILE and lasting is Lasting.FROM_THEN_ON
        self._limits: tuple[int, int] | None = None

    def fsync(self, fd: int) -> None:
        self._count()
        os.fstat(fd)

    def end(self) -> None:
        if self._limits is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
            self._limits = None

    def _hit(self) -> bool:
        hit = super()._hit()
        if hit and self._everywhere and self._limits is None:
            self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, self._limits[1]))
        return hit
