"""Reading what an agent writes, in bounded memory however much it writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent_mailer.beneath import open_file
from agent_mailer.disk import of_the_moment

LINE_LIMIT = 4 * 1024 * 1024
READ_BUDGET = 1024 * 1024


class LineFramer:
    """Cuts a stream of bytes into lines. A line longer than `limit` bytes is skipped and counted in `skipped`."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self.skipped = 0
        self._limit = limit
        self._partial = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line ends (LF or CR LF)."""
        lines: list[bytes] = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._collect(piece)
            line = self._take()
            if line is not None:
                lines.append(line)
        self._collect(rest)
        return lines

    def finish(self) -> bytes | None:
        """The last line, if it has no line end; None if there is none. The framer is as new then."""
        return self._take() if self._partial or self._skipping else None

    def _collect(self, piece: bytes) -> None:
        # One byte more than the limit is kept: it may be the CR of a line end.
        if self._skipping or len(self._partial) + len(piece) > self._limit + 1:
            self._skipping = True
            self._partial.clear()
        else:
            self._partial += piece

    def _take(self) -> bytes | None:
        line = bytes(self._partial).removesuffix(b"\r")
        too_long = self._skipping or len(line) > self._limit
        self._partial.clear()
        self._skipping = False
        if too_long:
            self.skipped += 1
            return None
        return line


class OutputTail:
    """What is appended to a file, from call to call. A file cut short or replaced is read again from its beginning.

    `size` is the file's size in bytes when it was last looked at, `offset` how far it has been read.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.size = 0
        self._inode: int | None = None

    def read(self, budget: int = READ_BUDGET) -> bytes:
        """At most `budget` bytes that were not read yet; nothing if there is no such file (yet).

        Raises OSError where the system has no descriptor left: what is not read now is not the end.
        """
        fd = _open_regular(self.path)
        if fd is None:
            return b""
        try:
            status = os.fstat(fd)
            self.size = status.st_size
            if self.size < self.offset or self._inode not in (None, status.st_ino):
                self.offset = 0
            self._inode = status.st_ino
            data = os.pread(fd, budget, self.offset)
        except OSError:
            return b""
        finally:
            os.close(fd)
        self.offset += len(data)
        return data


def tail_text(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file as text, undecodable bytes replaced; empty if it cannot be read.

    Raises OSError where the system has no descriptor left: what is not read now is not nothing.
    """
    fd = _open_regular(path)
    if fd is None:
        return ""
    try:
        start = max(0, os.fstat(fd).st_size - limit)
        data = os.pread(fd, limit, start)
    except OSError:
        return ""
    finally:
        os.close(fd)
    if start:
        # The rest of a character that was cut in two is no text.
        cut = 0
        while cut < min(3, len(data)) and data[cut] & 0xC0 == 0x80:
            cut += 1
        data = data[cut:]
    return data.decode("utf-8", "replace")


def is_readable(path: Path) -> bool:
    """Whether it is a file still, and ours to read. Raises as `tail_text`."""
    fd = _open_regular(path)
    if fd is not None:
        os.close(fd)
    return fd is not None


def _open_regular(path: Path) -> int | None:
    """The agent may have put anything there: never through a link, never waiting for a FIFO's other end."""
    try:
        fd = open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if of_the_moment(error):
            raise
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None
