"""What git obeys in a tree, and runs code from: kept from a confined turn, and compared around every turn."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.git_tree import tree_at, work_of

ITSELF = b".\n"
"""In `commondir`: the git folder itself, as without the file. For the time of a turn, so that no other can be made."""

MOST_REPOSITORIES = 100
"""Submodules of a tree, its worktrees, and the worktrees of its submodules: where there are more, none of them is named
but the folder that holds them, so that no number of them hides one.
"""
_MOST_BETWEEN = 1000
"""Folders that are looked into for submodules."""
MOST_LOOKED_AT = 256
"""Folders in which repositories of an agent's own are looked for, those near the top first."""

_AGAIN = 0.02
_TRIES = 5
_NESTED = 4
_LONGEST = 1 << 20
NOT_LOOKED_INTO = frozenset((".git", ".agent-mailer", ".agent-mail", "node_modules", ".venv", "__pycache__"))


class Kept(msgspec.Struct, frozen=True):
    """A file or folder that a turn must not write. `missing`: what stands in its place where it is not there; with
    `folder` an empty one; None where nothing can.
    """

    path: Path
    missing: bytes | None = None
    folder: bool = False


def kept_in(top: Path) -> Iterator[Kept]:
    """Of the tree whose top, or whose git folder, that is; nothing of one that is not surely its own."""
    tree = tree_at(top)
    if tree is None:
        if top.name == ".git" and top.is_dir() and not top.is_symlink():
            yield from _of_all(top)
        return
    if tree.broken:
        return
    if tree.git != top / ".git":
        yield Kept(top / ".git")
    yield from _of_all(tree.common)


def put_in_place(disk: Disk, tops: Iterable[Path]) -> list[int]:
    """What is missing of it: so that there is something that can be kept. What we cannot make no turn can, either.

    Returns descriptors: while they are open no other watcher of a tree takes away what was put into it.
    """
    held: list[int] = []
    for kept in _of_tops(tops):
        for _ in range(_TRIES):
            _make(disk, kept)
            if kept.missing != ITSELF or not _is_ours(kept.path):
                break
            if (fd := _shared(kept.path)) is not None:
                held.append(fd)
                break
            # Another watcher takes it away at this very moment.
            time.sleep(_AGAIN)
    return held


def take_away(disk: Disk, tops: Iterable[Path], held: Iterable[int] = ()) -> None:
    """What nobody else would have put there, once no turn runs, ours or another watcher's. Closes what was `held`."""
    for fd in held:
        os.close(fd)
    for kept in _of_tops(tops):
        if kept.missing == ITSELF and _is_ours(kept.path):
            with suppress(OSError), _opened(kept.path) as fd:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                disk.remove(kept.path)


def _make(disk: Disk, kept: Kept) -> None:
    if os.path.lexists(kept.path):
        return
    with suppress(OSError):
        if kept.folder:
            disk.make_directory(kept.path)
            disk.system.chmod(kept.path, 0o755)
        elif kept.missing is not None:
            disk.create(kept.path, kept.missing, sync=Sync.NONE)
            disk.system.chmod(kept.path, 0o644)


def _shared(path: Path) -> int | None:
    """Held open under a lock that several may have; None where that was not to be had, or of what is gone by now."""
    with suppress(OSError), _opened(path) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return os.dup(fd)
    return None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def obeyed_in(folder: Path) -> Iterator[Path]:
    """What git would read below `folder` of its own: also of repositories that an agent has made itself."""
    for place in _folders(folder):
        dot = place / ".git"
        if dot.is_symlink() or dot.is_file():
            yield dot
            tree = tree_at(place)
            if tree is not None and not tree.broken:
                yield from _there(_of_all(tree.common))
        elif dot.is_dir():
            yield from _there(_of_all(dot))
        if (place / "HEAD").is_file() and any(os.path.lexists(place / name) for name in ("objects", "commondir")):
            yield from _there(_of_all(place))


def _of_tops(tops: Iterable[Path]) -> Iterator[Kept]:
    for top in dict.fromkeys(tops):
        yield from kept_in(top)


def _of_all(common: Path) -> Iterator[Kept]:
    """Of a repository, its worktrees and its submodules."""
    try:
        repositories = _repositories(common)
    except _TooManyError:
        repositories = [common]
        yield Kept(common / "modules")
    left = MOST_REPOSITORIES
    for repository in repositories:
        yield from _of_one(repository)
        work = None if repository == common else work_of(repository)
        if work is not None and (work / ".git").is_file():
            yield Kept(work / ".git")
        worktrees = _names(repository / "worktrees")
        left -= len(worktrees)
        if left < 0:
            yield Kept(repository / "worktrees")
            left = 0
            continue
        for worktree in worktrees:
            yield from (Kept(worktree / name) for name in ("commondir", "gitdir", "config.worktree"))


def _of_one(repository: Path) -> Iterator[Kept]:
    yield Kept(repository / "hooks", folder=True)
    config = repository / "config"
    yield Kept(config)
    text = b""
    with suppress(OSError):
        text = read_regular(config, _LONGEST)
    yield Kept(repository / "config.worktree", b"" if b"worktreeconfig" in text.lower() else None)
    yield Kept(repository / "info" / "attributes")
    yield Kept(repository / "commondir", ITSELF)


class _TooManyError(Exception):
    pass


def _repositories(common: Path) -> list[Path]:
    """The submodules' lie in `modules`, by names that may have several parts, and have such of their own.

    Raises _TooManyError.
    """
    found, looked, left = [common], 0, deque((one, 1) for one in _names(common / "modules"))
    while left:
        folder, deep = left.popleft()
        looked += 1
        is_one = (folder / "HEAD").is_file()
        if is_one:
            found.append(folder)
        inner = _names(folder / "modules" if is_one else folder)
        if inner and deep < _NESTED:
            left += [(one, deep + 1) for one in inner]
        if looked > _MOST_BETWEEN or len(left) > _MOST_BETWEEN or len(found) > MOST_REPOSITORIES:
            raise _TooManyError
    return found


def _names(folder: Path) -> list[Path]:
    """Its folders, in order; of very many the first that the system tells, and more than anybody may have."""
    with suppress(OSError), os.scandir(folder) as entries:
        folders = (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        return sorted(islice(folders, _MOST_BETWEEN + 1))
    return []


def _there(kept: Iterator[Kept]) -> Iterator[Path]:
    for one in kept:
        if _is_ours(one.path) or (one.missing == b"" and _is_empty(one.path)):
            continue
        if one.folder and not one.path.is_symlink():
            with suppress(OSError), os.scandir(one.path) as entries:
                yield from sorted(Path(entry.path) for entry in entries if not entry.name.endswith(".sample"))
        elif os.path.lexists(one.path):
            yield one.path


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        return path.name == "commondir" and read_regular(path, len(ITSELF)) == ITSELF
    return False


def _is_empty(path: Path) -> bool:
    with suppress(OSError):
        return path.lstat().st_size == 0
    return False


def _folders(top: Path) -> Iterator[Path]:
    looked, left = 0, deque([top])
    while left and looked < MOST_LOOKED_AT:
        folder = left.popleft()
        looked += 1
        yield folder
        with suppress(OSError), os.scandir(folder) as entries:
            inner = [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.name not in NOT_LOOKED_INTO]
            left += [Path(path) for path in sorted(inner)[:MOST_LOOKED_AT]]
