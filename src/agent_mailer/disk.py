"""Every durable write of state, outbox and folder mailbox goes through here.

`Disk` holds the procedures (write, flush, publish by rename); `SystemCalls` holds the calls they are made of, so that a
fault can be put under all of them at once. What lies below a root is reached by `beneath`, without a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from itertools import islice
from pathlib import Path

from agent_mailer import beneath

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
TEMPORARY_PREFIX = ".tmp."

_MOST_COPIED = 64 * 1024 * 1024
"""What is larger, and has another name that an agent may have given it, is not copied to be ours alone."""
_DEEPEST = 8
"""Folders within folders that are gone into; with the longest names more would be no path any more."""
_AT_ONCE = 500
"""Files and folders that are removed between two moments of others: some milliseconds."""

_OF_THE_FILE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.ENODEV, errno.EMLINK),
)


def of_the_moment(error: OSError) -> bool:
    """Whether the system could not read just now (no descriptor, no memory, a sick disk): the file may be whole."""
    return error.errno not in _OF_THE_FILE


class Sync(Enum):
    """How far a write must have got before the call returns. SPEC section 4 names the level of every write."""

    FULL = "content and name"
    CONTENT = "content"
    NONE = "nothing: its loss is harmless"


class SystemCalls:
    """The calls that change the disk, one method each; the layer under which a fault is injected."""

    def open(self, path: Path, flags: int, mode: int = FILE_MODE) -> int:
        return beneath.open_file(path, flags, mode)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def close(self, fd: int) -> None:
        os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        beneath.rename(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        beneath.rename_noreplace(source, target)

    def unlink(self, path: Path) -> None:
        beneath.unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        beneath.mkdir(path, mode)

    def chmod(self, path: Path, mode: int) -> None:
        beneath.chmod(path, mode)

    def rmdir(self, path: Path) -> None:
        beneath.rmdir(path)


class Displaced(OSError):
    """What was written durably is no longer what the path names: whether it counts is not known."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ESTALE, "somebody put something else in its place", str(path))


class Disk:
    """Durable procedures over `SystemCalls`. Every method raises OSError and leaves the old content readable.

    Below a root what was made durable is looked at once more before a call returns: `Displaced` where the path names
    something else by then. `syncs` counts the fsync calls made, for the figures in SPEC section 4.
    """

    def __init__(self, system: SystemCalls | None = None) -> None:
        self.system = system or SystemCalls()
        self.syncs = 0

    def make_directory(self, path: Path, *, sync: Sync = Sync.NONE) -> None:
        """Make `path` and its missing parents, 0700 whatever the umask; an existing directory is left as it is."""
        missing: list[Path] = []
        current = path
        while not _is_folder(current):
            missing.append(current)
            if current.parent == current:
                break
            current = current.parent
        for directory in reversed(missing):
            try:
                self.system.mkdir(directory, DIRECTORY_MODE)
            except FileExistsError:
                if not _is_folder(directory):
                    raise
                continue
            self.system.chmod(directory, DIRECTORY_MODE)
            if sync is Sync.FULL:
                self.sync_directory(directory.parent)

    def create(self, path: Path, data: bytes, *, sync: Sync) -> None:
        """Write a file that must not exist yet (FileExistsError). A crash may leave it torn: use where that is read."""
        with beneath.holding(path.parent) as held:
            self._create(path, data, sync)
            if sync is Sync.FULL:
                self.sync_directory(path.parent)
        _require_standing(held, path, sync)

    def _create(self, path: Path, data: bytes, sync: Sync) -> None:
        fd = self.system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self._put(fd, path, data, sync)
        except OSError:
            with suppress(OSError):
                self.system.unlink(path)
            raise
        finally:
            self.system.close(fd)

    def replace(self, path: Path, data: bytes, *, sync: Sync) -> None:
        """Publish `data` at `path` by rename: readers see the old content or the new, never a mixture."""
        temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}.{os.urandom(6).hex()}"
        with beneath.holding(path.parent) as held:
            try:
                self._create(temporary, data, Sync.NONE if sync is Sync.NONE else Sync.CONTENT)
                try:
                    self.system.replace(temporary, path)
                except IsADirectoryError:
                    self._make_way(path)
                    self.system.replace(temporary, path)
            except OSError as error:
                with suppress(OSError):
                    self.system.unlink(temporary)
                if error.filename == str(temporary):
                    error.filename = str(path)  # that name is nobody's to look for
                raise
            if sync is Sync.FULL:
                self.sync_directory(path.parent)
        _require_standing(held, path, sync)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Write in place, unsynced: for files that nobody relies on and a crash may leave torn, empty, or part old.

        What is no file of ours alone there, a link or a FIFO say, makes way for one.
        """
        fd = self._own(path, os.O_WRONLY | os.O_CREAT)
        if fd is None:
            self._make_way(path)
            fd = self.system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            # Not to nothing: ext4 has what is written after that on the disk before it lets the file be closed.
            if os.fstat(fd).st_size > len(data):
                self.system.truncate(fd, len(data))
            self._put(fd, path, data, Sync.NONE)
        finally:
            self.system.close(fd)

    def _own(self, path: Path, flags: int) -> int | None:
        """A descriptor to write in place; None where that would write into what has another name, or is no file."""
        try:
            # Without waiting for the reader of a FIFO that somebody put there.
            fd = self.system.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR) or not beneath.is_folder(path.parent):
                raise
            return None
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and (found.st_nlink <= 1 or not beneath.is_anchored(path)):
            return fd
        self.system.close(fd)
        return None

    def append_line(self, path: Path, line: bytes, *, sync: Sync) -> int:
        """Append one line; returns the file's size then.

        An unterminated last line (a torn write) is terminated first, never cut.

        A write that failed, or could not be synced, is taken back: what is tried again is not there twice. The name of
        a file is made durable before its first line: a file with content has one, whoever began it.
        """
        fd = self._own_to_append(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            if size == 0 and sync is Sync.FULL:
                self.sync_directory(path.parent)
            try:
                self._put(fd, path, (b"\n" if torn else b"") + line + b"\n", sync)
            except OSError:
                with suppress(OSError):
                    self.system.truncate(fd, size)
                raise
            made = os.fstat(fd)
        finally:
            self.system.close(fd)
        if sync is not Sync.NONE:
            _require_named(path, made)
        return made.st_size

    def _own_to_append(self, path: Path, flags: int) -> int:
        """A file that has another name is copied, and the copy is ours; what is no file makes way. Raises OSError."""
        fd = self._own(path, flags)
        if fd is None:
            if beneath.is_file(path):
                content = read_regular(path, _MOST_COPIED)
                if len(content) > _MOST_COPIED:
                    raise OSError(errno.EMLINK, "it has another name, and is too large to be copied", str(path))
                self.replace(path, content, sync=Sync.FULL)
            else:
                self._make_way(path)
            fd = self.system.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        return fd

    def _make_way(self, path: Path) -> None:
        """What is no file, or has another name, leaves its place: a folder under a name beside it."""
        if not beneath.is_anchored(path):
            raise OSError(errno.EMLINK, "not a file of ours alone", str(path))
        if beneath.is_folder(path):
            self.move(path, path.with_name(f"{path.name}.odd-{os.urandom(4).hex()}"), sync=Sync.NONE)
        else:
            self.remove(path)

    def end_last_line(self, path: Path) -> bool:
        """Terminate a last line that has no end, durably; False where it has one."""
        fd = self._own_to_append(path, os.O_RDWR | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
                return False
            self._put(fd, path, b"\n", Sync.CONTENT)
        finally:
            self.system.close(fd)
        return True

    def move(self, source: Path, target: Path, *, sync: Sync) -> None:
        """Rename, never replacing: FileExistsError if `target` is there, FileNotFoundError if `source` is gone."""
        with beneath.holding(target.parent) as held:
            self.system.rename_noreplace(source, target)
            if sync is Sync.FULL:
                self.sync_directory(target.parent)
        _require_standing(held, target, sync)

    def remove(self, path: Path) -> bool:
        """Unlink; what is already gone is removed. Whether it was there."""
        with suppress(FileNotFoundError):
            self.system.unlink(path)
            return True
        return False

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all in it, never following a link; what is already gone is removed.

        An agent may have filled it: folders that nobody may enter are opened, however deep they lie.
        """
        while not self.remove_some(path):
            pass

    def remove_some(self, path: Path) -> bool:
        """The same for a part of it, so that others can go on meanwhile; True once nothing is left."""
        try:
            return not self._remove_tree(path, path, _DEEPEST, iter(range(_AT_ONCE)))
        except StopIteration:
            return False

    def _remove_tree(self, path: Path, top: Path, levels: int, portion: Iterator[int]) -> bool:
        """True where something lay so deep that it was only moved up, into `top`. StopIteration once it is enough."""
        try:
            mode = beneath.status(path).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            self.remove(path)
            return False
        if not levels:
            self.system.rename_noreplace(path, top / f"deep-{os.urandom(8).hex()}")
            return True
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            self.system.chmod(path, DIRECTORY_MODE)
        with beneath.opened(path) as fd, os.scandir(fd) as entries:
            found = [(path / one.name, one.is_dir(follow_symlinks=False)) for one in islice(entries, _AT_ONCE + 1)]
        with beneath.holding(path):
            for below, is_folder in found:
                if not is_folder:
                    next(portion)
                    self.remove(below)
        moved = False
        for below, is_folder in found:
            if is_folder:
                next(portion)
                moved = self._remove_tree(below, top, levels - 1, portion) or moved
        if not moved or path != top:
            with suppress(FileNotFoundError):
                self.system.rmdir(path)
        return moved

    def sync_directory(self, path: Path) -> None:
        fd = self.system.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._put(fd, path, b"", Sync.CONTENT)
        finally:
            self.system.close(fd)

    def _put(self, fd: int, path: Path, data: bytes, sync: Sync) -> None:
        """All of it, and synced; `path`: a call by a descriptor does not say itself what it was refused for."""
        try:
            view = memoryview(data)
            while view:
                view = view[self.system.write(fd, view) :]
            if sync is not Sync.NONE:
                self.syncs += 1
                self.system.fsync(fd)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise


def read_regular(path: beneath.Place, limit: int | None = None, *, follow: bool = False) -> bytes:
    """Read a file that somebody else may have put there.

    Opened without blocking on a FIFO and, unless `follow`, without following a link; at most `limit` + 1 bytes are
    read, so that the caller can tell "too large". Raises OSError, with EINVAL for what is not a regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags) if follow else beneath.open_file(path, flags | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG((found := os.fstat(fd)).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        # No layer between: every turn reads dozens, a listing thousands.
        data, piece = b"", found.st_size + 4096
        while part := os.read(fd, piece if limit is None else min(piece, limit + 1 - len(data))):
            data += part
        return data
    finally:
        os.close(fd)


def open_own(path: Path, flags: int, mode: int = FILE_MODE) -> int:
    """A descriptor of a file that has no other name, to be written in place. Raises OSError, EMLINK for another."""
    fd = beneath.open_file(path, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(errno.EMLINK, "not a file of ours alone", str(path))
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_folder(path: Path) -> bool:
    """Below a root a link is none."""
    return beneath.is_folder(path) if beneath.is_anchored(path) else path.is_dir()


def _require_standing(held: beneath.Holding, path: Path, sync: Sync) -> None:
    """That what was made durable lies where its path leads. It may have been taken on from there. Raises Displaced."""
    if sync is not Sync.NONE and not held.stands():
        raise Displaced(path)


def _require_named(path: Path, made: os.stat_result) -> None:
    """Raises Displaced."""
    if not beneath.is_anchored(path):
        return
    try:
        named = beneath.status(path)
    except OSError as error:
        if of_the_moment(error):
            raise
        raise Displaced(path) from error
    if (named.st_dev, named.st_ino) != (made.st_dev, made.st_ino):
        raise Displaced(path)
