"""A layer under all durable writes that fails at the n-th call."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from agent_mailer.disk import SystemCalls


class Lasting(Enum):
    ONCE = "once"
    FROM_THEN_ON = "from then on"


class FaultySystem(SystemCalls):
    """Counts the calls that change the disk; call number `at` (from 1) fails with `code`. A write fails short."""

    def __init__(self, at: int, code: int, lasting: Lasting) -> None:
        self.at = at
        self.code = code
        self.lasting = lasting
        self.calls = 0
        self.fired = False

    def _count(self, path: str = "") -> None:
        self.calls += 1
        if self.calls == self.at or (self.calls > self.at and self.lasting is Lasting.FROM_THEN_ON):
            self.fired = True
            raise OSError(self.code, os.strerror(self.code), path)

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._count(str(path))
        return super().open(path, flags, mode)

    def write(self, fd: int, data: memoryview) -> int:
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
