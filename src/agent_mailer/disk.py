"""Every durable write of state, outbox and folder mailbox goes through here.

`Disk` holds the procedures (write, flush, publish by rename); `SystemCalls` holds the calls they are made of, so that a
fault can be put under all of them at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from contextlib import suppress
from enum import Enum
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
TEMPORARY_PREFIX = ".tmp."

_DEEPEST = 8
"""Folders within folders that are gone into; with the longest names more would be no path any more."""

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


_OF_THE_FILE = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM, errno.ENODEV),
    )
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
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def close(self, fd: int) -> None:
        os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        _rename_noreplace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        os.mkdir(path, mode)

    def chmod(self, path: Path, mode: int) -> None:
        os.chmod(path, mode)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)


class Disk:
    """Durable procedures over `SystemCalls`. Every method raises OSError and leaves the old content readable.

    `syncs` counts the fsync calls made, for the figures in SPEC section 4.
    """

    def __init__(self, system: SystemCalls | None = None) -> None:
        self.system = system or SystemCalls()
        self.syncs = 0

    def make_directory(self, path: Path, *, sync: Sync = Sync.NONE) -> None:
        """Make `path` and its missing parents, 0700 whatever the umask; an existing directory is left as it is."""
        missing: list[Path] = []
        current = path
        while not current.is_dir():
            missing.append(current)
            if current.parent == current:
                break
            current = current.parent
        for directory in reversed(missing):
            try:
                self.system.mkdir(directory, DIRECTORY_MODE)
            except FileExistsError:
                if not directory.is_dir():
                    raise
                continue
            self.system.chmod(directory, DIRECTORY_MODE)
            if sync is Sync.FULL:
                self.sync_directory(directory.parent)

    def create(self, path: Path, data: bytes, *, sync: Sync) -> None:
        """Write a file that must not exist yet (FileExistsError). A crash may leave it torn: use where that is read."""
        fd = self.system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self._write_all(fd, data)
            if sync is not Sync.NONE:
                self._fsync(fd)
        except OSError:
            with suppress(OSError):
                self.system.unlink(path)
            raise
        finally:
            self.system.close(fd)
        if sync is Sync.FULL:
            self.sync_directory(path.parent)

    def replace(self, path: Path, data: bytes, *, sync: Sync) -> None:
        """Publish `data` at `path` by rename: readers see the old content or the new, never a mixture."""
        temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}.{secrets.token_hex(6)}"
        try:
            self.create(temporary, data, sync=Sync.NONE if sync is Sync.NONE else Sync.CONTENT)
            self.system.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                self.system.unlink(temporary)
            raise
        if sync is Sync.FULL:
            self.sync_directory(path.parent)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Write in place, unsynced: for files that nobody relies on and a crash may leave torn or empty."""
        # Without waiting for the reader of a FIFO that somebody put there.
        fd = self.system.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            self._write_all(fd, data)
        finally:
            self.system.close(fd)

    def append_line(self, path: Path, line: bytes, *, sync: Sync) -> None:
        """Append one line. An unterminated last line (a torn write) is terminated first, never cut.

        A write that failed, or could not be synced, is taken back: what is tried again is not there twice. The name of
        a file is made durable before its first line: a file with content has one, whoever began it.
        """
        fd = self.system.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            if size == 0 and sync is Sync.FULL:
                self.sync_directory(path.parent)
            try:
                self._write_all(fd, (b"\n" if torn else b"") + line + b"\n")
                if sync is not Sync.NONE:
                    self._fsync(fd)
            except OSError:
                with suppress(OSError):
                    self.system.truncate(fd, size)
                raise
        finally:
            self.system.close(fd)

    def end_last_line(self, path: Path) -> bool:
        """Terminate a last line that has no end, durably; False where it has one."""
        fd = self.system.open(path, os.O_RDWR | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
                return False
            self._write_all(fd, b"\n")
            self._fsync(fd)
        finally:
            self.system.close(fd)
        return True

    def move(self, source: Path, target: Path, *, sync: Sync) -> None:
        """Rename, never replacing: FileExistsError if `target` is there, FileNotFoundError if `source` is gone."""
        self.system.rename_noreplace(source, target)
        if sync is Sync.FULL:
            self.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """Unlink; what is already gone is removed."""
        with suppress(FileNotFoundError):
            self.system.unlink(path)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all in it, never following a link; what is already gone is removed.

        An agent may have filled it: folders that nobody may enter are opened, however deep they lie.
        """
        while self._remove_tree(path, path, _DEEPEST):
            pass

    def _remove_tree(self, path: Path, top: Path, levels: int) -> bool:
        """True where something lay so deep that it was only moved up, into `top`."""
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            self.remove(path)
            return False
        if not levels:
            self.system.rename_noreplace(path, top / f"deep-{secrets.token_hex(8)}")
            return True
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            self.system.chmod(path, DIRECTORY_MODE)
        with os.scandir(path) as entries:
            inner = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
        moved = False
        for child, is_folder in inner:
            if is_folder:
                moved = self._remove_tree(child, top, levels - 1) or moved
            else:
                self.remove(child)
        if not moved or path != top:
            with suppress(FileNotFoundError):
                self.system.rmdir(path)
        return moved

    def sync_directory(self, path: Path) -> None:
        fd = self.system.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._fsync(fd)
        finally:
            self.system.close(fd)

    def _write_all(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.system.write(fd, view) :]

    def _fsync(self, fd: int) -> None:
        self.syncs += 1
        self.system.fsync(fd)


def read_regular(path: Path, limit: int | None = None, *, follow: bool = False) -> bytes:
    """Read a file that somebody else may have put there.

    Opened without blocking on a FIFO and, unless `follow`, without following a link; at most `limit` + 1 bytes are
    read, so that the caller can tell "too large". Raises OSError, with EINVAL for what is not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(fd, "rb", closefd=False) as stream:
            return stream.read() if limit is None else stream.read(limit + 1)
    finally:
        os.close(fd)


def _rename_noreplace(source: Path, target: Path) -> None:
    if _renameat2 is not None:
        result = _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if result == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    # A system or file system without RENAME_NOREPLACE: a hard link refuses to replace as well. A crash between the two
    # calls leaves one file under both names, which every reader here recognises by its inode.
    os.link(source, target, follow_symlinks=False)
    os.unlink(source)


def _find_renameat2() -> ctypes._FuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function


_renameat2 = _find_renameat2()
