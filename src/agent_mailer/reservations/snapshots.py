"""What lies at reserved paths at a moment, and what has changed there since, by what the system says of each file."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.git_guard import NOT_LOOKED_INTO
from agent_mailer.path_patterns import names_path
from agent_mailer.reservations.port import How

MOST_FILES: Final = 5_000
"""Of one look: what lies beyond is not compared."""

_MOST_SEEN: Final = 50_000
"""Names that one look goes over, whether they are reserved or not."""


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """Of a file or link itself, never of what it leads to. `written`, `touched`: its mtime and ctime, nanoseconds."""

    device: int
    inode: int
    size: int
    written: int
    touched: int


class Snapshot(msgspec.Struct, frozen=True):
    """`at`: seconds since the epoch. `files` by their paths from the project; not `whole`: there are more."""

    at: float
    files: dict[str, FileState]
    whole: bool = True


class Change(msgspec.Struct, frozen=True):
    """`at`: when the file was touched last, by its own word; 0 where it is gone."""

    path: str
    how: How
    at: float = 0.0


def taken(project: Path, patterns: Sequence[str], now: float, most: int = MOST_FILES) -> Snapshot:
    """The files that the patterns name. What cannot be looked at, or has a name that is no UTF-8, is not there."""
    files: dict[str, FileState] = {}
    for number, (path, found) in enumerate(_below(project, patterns)):
        if stat.S_ISDIR(found.st_mode) or not any(names_path(pattern, path) for pattern in patterns):
            continue
        if len(files) == most or number >= _MOST_SEEN:
            return Snapshot(now, files, whole=False)
        files[path] = FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return Snapshot(now, files)


def changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """Pure. Of a look that was cut only what both have seen can be told."""
    found = []
    for path, state in before.files.items():
        now = after.files.get(path)
        if now is None:
            if after.whole:
                found.append(Change(path, How.REMOVED))
        elif now != state:
            found.append(Change(path, How.CHANGED, now.touched / 1e9))
    if before.whole:
        new = ((path, state) for path, state in after.files.items() if path not in before.files)
        found += [Change(path, How.MADE, state.touched / 1e9) for path, state in new]
    return sorted(found, key=lambda one: one.path)


def _below(project: Path, patterns: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Paths from the project, each once and folders before what they hold; no link is followed on the way down."""
    left = deque(_starts(patterns))
    top = os.fspath(project)
    while left:
        path = left.popleft()
        with suppress(OSError, UnicodeEncodeError):
            path.encode()
            found = os.lstat(f"{top}/{path}" if path else top)
            if path:
                yield path, found
            if stat.S_ISDIR(found.st_mode):
                inner = sorted(name for name in os.listdir(f"{top}/{path}") if name not in NOT_LOOKED_INTO)
                left.extend(f"{path}/{name}" if path else name for name in inner)


def _starts(patterns: Sequence[str]) -> list[str]:
    """The folders or files below which all lies that the patterns can name; none of them lies below another."""
    found: list[str] = []
    for pattern in patterns:
        plain: list[str] = []
        for name in pattern.split("/"):
            if "*" in name or "?" in name:
                break
            plain.append(name)
        if NOT_LOOKED_INTO.isdisjoint(plain):
            found.append("/".join(plain))
    outer: list[str] = []
    for start in sorted(set(found)):
        if not any(not one or start == one or start.startswith(f"{one}/") for one in outer):
            outer.append(start)
    return outer
