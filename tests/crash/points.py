"""Named points of a watcher's life: just before and just after each call that changes the disk or asks a broker.

The layer names the calls of one process and, at the chosen one, does what the point says: the process dies by SIGKILL,
or is sent the signal that stops it or makes it hand over.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.disk import SystemCalls

T = TypeVar("T")

_VARIABLE = (
    (re.compile(r"(?<=/workdirs/)[^/]+|(?<=/approvals/)[^/]+|(?<=/agent-mailer/remote/)[^/]+"), "ID"),
    (re.compile(r"(?<=/agent-mailer/guards/)[^/]+"), "ID"),
    (re.compile(r"(?<=/requests/)\d+$"), "N"),
    (re.compile(r"\b\d{10}\.\d{6}-[0-9a-f]{8,16}(?=\.)"), "N"),
    (re.compile(r"\bq-[0-9a-f]{12}\b"), "QUESTION"),
    (re.compile(r"(?<=/)(coder|planner)\d+(?=@|%40)"), r"\1"),
    (re.compile(r"(?<=/trust/)[^/]+(?=\.json)|(?<=/\.tmp\.)[^/]+(?=\.[0-9a-f]{16}\.json)"), "ID"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}"), "TURN"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9-]+\.\d+Z_pid\d+_[0-9a-f]+"), "ID"),
    (re.compile(r"(\.tmp-|\.)[0-9][0-9a-f-]{11,}"), ""),
    (re.compile(r"\.[0-9a-f]{12}\b"), ""),
)


class Moment(StrEnum):
    BEFORE = "before"
    AFTER = "after"


class Act(StrEnum):
    """What befalls the process at the point."""

    DIE = "KILL"
    STOP = "TERM"
    HAND_OVER = "USR1"


class Point(msgspec.Struct, frozen=True):
    """The `at`-th call (from 1) of those of one process that are named `of`; none, for a trace, where that is empty."""

    of: str = ""
    at: int = 1
    moment: Moment = Moment.BEFORE
    act: Act = Act.DIE

    def __str__(self) -> str:
        return f"{self.act.value} {self.moment.value} {self.of} ({self.at})"


def points(names: Sequence[str], act: Act = Act.DIE) -> list[Point]:
    """Just before and just after each call of a life that was traced.

    By name and not by number: another life makes a call more or less here and there, and all after it would be others.
    """
    seen: Counter[str] = Counter()
    found: list[Point] = []
    for name in names:
        seen[name] += 1
        if name.startswith("truncate "):
            # Whether what is written in place is shorter than what was there is chance.
            continue
        found += [Point(name, seen[name], moment, act) for moment in Moment]
    return found


class PointedSystem(SystemCalls):
    """Acts at `point`; with `trace` it appends the name of every call to that file."""

    def __init__(self, point: Point, trace: Path | None = None) -> None:
        self._point = point
        self._trace = trace
        self._met = 0

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if not flags & os.O_CREAT:
            return super().open(path, flags, mode)  # a folder that is to be synced: nothing changes yet
        return self._around("open", path, lambda: super(PointedSystem, self).open(path, flags, mode))

    def write(self, fd: int, data: memoryview) -> int:
        return self._around("write", fd, lambda: super(PointedSystem, self).write(fd, data))

    def fsync(self, fd: int) -> None:
        self._around("fsync", fd, lambda: super(PointedSystem, self).fsync(fd))

    def truncate(self, fd: int, length: int) -> None:
        self._around("truncate", fd, lambda: super(PointedSystem, self).truncate(fd, length))

    def replace(self, source: Path, target: Path) -> None:
        self._around("replace", target, lambda: super(PointedSystem, self).replace(source, target))

    def rename_noreplace(self, source: Path, target: Path) -> None:
        self._around("rename", target, lambda: super(PointedSystem, self).rename_noreplace(source, target))

    def unlink(self, path: Path) -> None:
        self._around("unlink", path, lambda: super(PointedSystem, self).unlink(path))

    def mkdir(self, path: Path, mode: int) -> None:
        self._around("mkdir", path, lambda: super(PointedSystem, self).mkdir(path, mode))

    def chmod(self, path: Path, mode: int) -> None:
        self._around("chmod", path, lambda: super(PointedSystem, self).chmod(path, mode))

    def rmdir(self, path: Path) -> None:
        self._around("rmdir", path, lambda: super(PointedSystem, self).rmdir(path))

    async def request(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """A request to a broker; "after" is when its answer has begun to arrive: nobody has heard of it yet."""
        here = self._count("request", name)
        self._act_if(here, Moment.BEFORE)
        result = await call()
        self._act_if(here, Moment.AFTER)
        return result

    def _around(self, what: str, where: Path | int, call: Callable[[], T]) -> T:
        here = self._count(what, os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else str(where))
        self._act_if(here, Moment.BEFORE)
        result = call()
        self._act_if(here, Moment.AFTER)
        return result

    def _count(self, what: str, path: str) -> bool:
        """Whether this call is the one."""
        name = f"{what} {_shown(path)}"
        if self._trace is not None:
            with self._trace.open("a") as stream:
                stream.write(name + "\n")
        if name != self._point.of:
            return False
        self._met += 1
        return self._met == self._point.at

    def _act_if(self, here: bool, moment: Moment) -> None:
        if here and self._point.moment is moment:
            self._act()

    def _act(self) -> None:
        os.kill(os.getpid(), signal.Signals[f"SIG{self._point.act.value}"])


def _shown(path: str) -> str:
    """The last two parts of a path without what differs from run to run."""
    for pattern, word in _VARIABLE:
        path = pattern.sub(word, path)
    return "/".join(path.split("/")[-2:])
