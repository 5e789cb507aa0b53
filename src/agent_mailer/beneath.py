"""Files below a root, reached without a link: an agent that puts one in our way leads nobody out.

`anchor` names a root: a workdir, a mailbox. From then on whatever lies below it is opened from its top for each call,
and a link on the way is an error (ELOOP), for reading as for writing. The root itself, and what lies above, may be
links: those are the user's. No handle is kept, so that a folder that was replaced by another is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

Place = Path | str

BY_STEPS: Final = 64
"""So many files a process opens a folder at a time, which is as safe: what a short command reads is read before the
quicker call is loaded.
"""
_ONLY_NAME: Final = getattr(os, "O_PATH", os.O_RDONLY)
_FOLDER: Final = _ONLY_NAME | os.O_DIRECTORY
_PROC_FD: Final = "/proc/self/fd"


class Roots:
    """What `anchor` has named; none lies in another. `latest`: that of the last path, mostly that of the next, too."""

    all: tuple[str, ...] = ()
    latest = "/\0"


class Opened:
    """How many of those were."""

    by_steps = 0


class Held(threading.local):  # by a `Holding`
    folder: str | None = None
    fd = -1


_roots = Roots()
_held = Held()
_opened = Opened()


def anchor(root: Path) -> None:
    """Whatever lies below `root` is from now on reached without a link. Of roots in each other the outer counts."""
    text = _absolute(root).rstrip("/") + "/"
    if not text.startswith(_roots.all):
        _roots.all = (*(inner for inner in _roots.all if not inner.startswith(text)), text)
        _roots.latest = text


def is_anchored(path: Place) -> bool:
    """Whether `path` lies below a root."""
    return _root_of(_absolute(path)) is not None


def open_file(path: Place, flags: int, mode: int = 0o600) -> int:
    """As os.open, close-on-exec. Raises OSError, ELOOP for a link on the way or at the end."""
    text = _absolute(path)
    root = _root_of(text)
    if root is None:
        return os.open(text, flags | os.O_CLOEXEC, mode)
    held = _held.folder
    if held is not None and (text == held or text.startswith(f"{held}/")):
        name = text[len(held) + 1 :] or "."
        if "/" not in name:
            try:
                return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=_held.fd)
            except OSError as error:
                error.filename = text
                raise
    if _opened.by_steps < BY_STEPS or not has_openat2():
        _opened.by_steps += 1
        return _step_by_step(root, text[len(root) :], flags, mode)
    from agent_mailer.linux_calls import AT_FDCWD, BENEATH, NO_MAGICLINKS, NO_SYMLINKS, openat2

    try:
        # Mostly there is no link at all, above the root neither: one call tells.
        return openat2(AT_FDCWD, text, flags, mode, NO_SYMLINKS | NO_MAGICLINKS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    above = os.open(root, _FOLDER | os.O_CLOEXEC)
    try:
        return openat2(above, text[len(root) :], flags, mode, BENEATH | NO_SYMLINKS | NO_MAGICLINKS)
    except OSError as error:
        raise OSError(error.errno, error.strerror, text) from None
    finally:
        os.close(above)


def has_openat2() -> bool:
    """Whether the kernel has it: before 5.6, and where a container forbids what it does not know, it has not."""
    from agent_mailer.linux_calls import has_openat2 as has

    return has()


def status(path: Place) -> os.stat_result:
    """As os.lstat: of what lies there, a link included. Raises OSError."""
    text = _absolute(path)
    if _root_of(text) is None:
        return os.lstat(text)
    if _ONLY_NAME == os.O_RDONLY or _held.folder == text.rpartition("/")[0]:
        with _At(text) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
    fd = open_file(text, _ONLY_NAME | os.O_NOFOLLOW)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def is_there(path: Place) -> bool:
    """Whether anything has that name, a link included; what cannot be told is a no."""
    return _mode(path) != 0


def is_folder(path: Place) -> bool:
    """A real one: a link is none."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: Place) -> bool:
    """A real one: a link is none."""
    return stat.S_ISREG(_mode(path))


def names_in(folder: Place) -> list[str]:
    """As os.listdir. Raises OSError."""
    with opened(folder) as fd:
        return os.listdir(fd)


def rename(source: Place, target: Place) -> None:
    with _Both(source, target) as (from_folder, old, to_folder, new):
        os.rename(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder)


def rename_noreplace(source: Place, target: Place) -> None:
    """Raises FileExistsError where `target` is there. Without RENAME_NOREPLACE a folder may replace an empty one."""
    with _Both(source, target) as (from_folder, old, to_folder, new):
        from agent_mailer.linux_calls import rename_noreplace as by_one_call

        code = by_one_call(from_folder, old, to_folder, new)
        if code == 0:
            return
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
        # A system or file system without RENAME_NOREPLACE: a hard link refuses to replace as well. A crash between the
        # two calls leaves one file under both names, which every reader here recognises by its inode.
        try:
            os.link(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
            os.unlink(old, dir_fd=from_folder)
        except PermissionError:
            if not stat.S_ISDIR(os.stat(old, dir_fd=from_folder, follow_symlinks=False).st_mode):
                raise
            os.rename(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder)


def unlink(path: Place) -> None:
    with _At(path) as (folder, name):
        os.unlink(name, dir_fd=folder)


def mkdir(path: Place, mode: int) -> None:
    with _At(path) as (folder, name):
        os.mkdir(name, mode, dir_fd=folder)


def rmdir(path: Place) -> None:
    with _At(path) as (folder, name):
        os.rmdir(name, dir_fd=folder)


def chmod(path: Place, mode: int) -> None:
    if not is_anchored(path):
        return os.chmod(path, mode)
    # By its descriptor: not every system changes what a name means without following it.
    by_name = os.path.exists(_PROC_FD)
    fd = open_file(path, (_ONLY_NAME if by_name else os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if by_name:
            os.chmod(f"{_PROC_FD}/{fd}", mode)
        else:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


class Holding:
    """For the calls of one procedure: its folder is opened once, and what lies right in it is reached from there.

    `stands` tells whether the folder still has its path. One that is not there is none; of two the inner counts.
    """

    __slots__ = ("_before", "_fd", "_folder", "_was")

    def __init__(self, folder: Place) -> None:
        self._folder = _absolute(folder)
        self._fd = -1
        self._was: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        if _root_of(self._folder + "/") is None:
            return self
        self._before = _held.folder, _held.fd
        if _held.folder != self._folder:
            try:
                self._fd = open_file(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                return self
            _held.folder, _held.fd = self._folder, self._fd
        found = os.fstat(_held.fd)
        self._was = (found.st_dev, found.st_ino)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            _held.folder, _held.fd = self._before
            os.close(self._fd)

    def stands(self) -> bool:
        """Whether its path names the same folder as at the beginning. Raises OSError."""
        if self._was is None:
            return True
        outer, _held.folder = _held.folder, None
        try:
            found = status(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        finally:
            _held.folder = outer
        return (found.st_dev, found.st_ino) == self._was


holding = Holding


@contextmanager
def opened(folder: Place) -> Iterator[int]:
    """A descriptor of the folder, for a listing. Raises OSError."""
    fd = open_file(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


class _At:
    """The descriptor of the folder in which `path` lies, None below no root; and the name to use there.

    An error names the whole path: a name alone is another file wherever it is read.
    """

    __slots__ = ("_fd", "above", "text")

    def __init__(self, path: Place) -> None:
        self.text = _absolute(path)
        self._fd: int | None = None
        self.above = ""

    def __enter__(self) -> tuple[int | None, str]:
        text = self.text
        if _root_of(text) is None:
            return None, text
        self.above, _, name = text.rpartition("/")
        if self.above == _held.folder:
            return _held.fd, name
        self._fd = open_file(self.above, _FOLDER)
        return self._fd, name

    def __exit__(self, _kind: object = None, error: object = None, _trace: object = None) -> None:
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = self.text
        if self._fd is not None:
            os.close(self._fd)


class _Both:
    """The folders of two names, opened once where it is the same."""

    __slots__ = ("_other", "_source", "_target")

    def __init__(self, source: Place, target: Place) -> None:
        self._source, self._target = _At(source), _absolute(target)
        self._other: _At | None = None

    def __enter__(self) -> tuple[int | None, str, int | None, str]:
        folder, old = self._source.__enter__()
        above, _, new = self._target.rpartition("/")
        if folder is not None and above == self._source.above:
            return folder, old, folder, new
        other = _At(self._target)
        try:
            there, new = other.__enter__()
        except OSError:
            self._source.__exit__()
            raise
        self._other = other
        return folder, old, there, new

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError) and error.filename2 is not None:
            error.filename2 = self._target
        self._source.__exit__(kind, error, trace)
        if self._other is not None:
            self._other.__exit__()


def _mode(path: Place) -> int:
    try:
        return status(path).st_mode
    except OSError:
        return 0


def _absolute(path: Place) -> str:
    text = os.fspath(path)
    # A path that goes up again would lead out of every root.
    return text if text.startswith("/") and "/../" not in f"{text}/" else os.path.abspath(text)


def _root_of(text: str) -> str | None:
    latest = _roots.latest
    if text.startswith(latest):
        return latest
    if not text.startswith(_roots.all):
        return None
    _roots.latest = found = next(root for root in _roots.all if text.startswith(root))
    return found


def _step_by_step(root: str, rest: str, flags: int, mode: int) -> int:
    """The same, a folder at a time."""
    *folders, name = rest.split("/")
    above = os.open(root, _FOLDER | os.O_CLOEXEC)
    try:
        for folder in filter(None, folders):
            below = _step(above, folder, _FOLDER, 0, root + rest)
            os.close(above)
            above = below
        return _step(above, name or ".", flags, mode, root + rest)
    finally:
        os.close(above)


def _step(above: int, name: str, flags: int, mode: int, path: str) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=above)
    except OSError as error:
        if error.errno == errno.ENOTDIR and stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        error.filename = path
        raise
