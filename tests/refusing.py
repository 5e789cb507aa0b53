"""A disk that refuses one file: there is no room for it, it is read-only, or whoever writes it is killed just then.

One that cannot read a file. And a system that has no descriptor left.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import pytest

from agent_mailer.disk import TEMPORARY_PREFIX, SystemCalls

ALWAYS = -1
_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r"(.+)\.[0-9a-f]{12}")


class On(Enum):
    MAKE = "opened, and made where it is not there"
    SYNC = "fsync, of a folder as of a file"
    WRITE = "write"
    TRUNCATE = "truncate"
    REPLACE = "renamed to this name, whatever had it"
    COME = "renamed to this name, which must be free"
    GO = "renamed from this name"
    UNLINK = "unlink"
    MKDIR = "mkdir"
    CHMOD = "chmod"
    RMDIR = "rmdir"


PUT = (On.MAKE, On.REPLACE, On.COME, On.MKDIR)
"""By each of these something new has that name."""
GONE = (On.GO, On.UNLINK, On.RMDIR)


class Died(BaseException):
    """The process is no more: it makes no further call."""


class Refusing(SystemCalls):
    """Refuses `calls` (`PUT`, unless said) for what is called `name`, and for all below it.

    `name`: the end of a path ("retries.json", "turns/*/settled", "*"). What is written aside under a temporary name
    counts as what it is to become. `code`: the error, None: the process dies there. `times`: so often, after it has
    been let through `after` times. `refused`: how often it was.
    """

    def __init__(
        self, name: str, *calls: On, code: int | None = errno.ENOSPC, times: int = ALWAYS, after: int = 0
    ) -> None:
        self.refused = 0
        self._name, self._calls, self._code = name, calls or PUT, code
        self._times, self._after = times, after

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_CREAT:
            self._ask(On.MAKE, path)
        return super().open(path, flags, mode)

    def write(self, fd: int, data: memoryview) -> int:
        self._ask(On.WRITE, _path_of(fd))
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._ask(On.SYNC, _path_of(fd))
        super().fsync(fd)

    def truncate(self, fd: int, length: int) -> None:
        self._ask(On.TRUNCATE, _path_of(fd))
        super().truncate(fd, length)

    def replace(self, source: Path, target: Path) -> None:
        self._ask(On.REPLACE, target)
        super().replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        self._ask(On.GO, source)
        self._ask(On.COME, target)
        super().rename_noreplace(source, target)

    def unlink(self, path: Path) -> None:
        self._ask(On.UNLINK, path)
        super().unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        self._ask(On.MKDIR, path)
        super().mkdir(path, mode)

    def chmod(self, path: Path, mode: int) -> None:
        self._ask(On.CHMOD, path)
        super().chmod(path, mode)

    def rmdir(self, path: Path) -> None:
        self._ask(On.RMDIR, path)
        super().rmdir(path)

    def _ask(self, call: On, path: Path) -> None:
        if self._code is None and self.refused:
            raise Died
        if call not in self._calls or not self._names(path):
            return
        if self._after:
            self._after -= 1
            return
        if self.refused == self._times:
            return
        self.refused += 1
        if self._code is None:
            raise Died
        raise OSError(self._code, os.strerror(self._code), str(path))

    def _names(self, path: Path) -> bool:
        if aside := _TEMPORARY.fullmatch(path.name):
            path = path.with_name(aside[1])
        return any(one.match(self._name) for one in (path, *path.parents))


def _path_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


@contextmanager
def unreadable(name: str, code: int = errno.EIO) -> Iterator[None]:
    """Whoever reads in a file that is called `name` (the end of a path) hears `code`, as of a sick disk."""
    read = os.read

    def refused(fd: int, length: int) -> bytes:
        if _path_of(fd).match(name):
            raise OSError(code, os.strerror(code))
        return read(fd, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "read", refused)
        yield


@contextmanager
def without_descriptors() -> Iterator[None]:
    """This process has all that it has, and can open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # None at all: what a thread closes meanwhile would make room below any other number.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
