"""What was read in messages, for the next life: a copy on disk that nobody relies on, in the mailbox's own folder.

A line holds some messages of one folder and its own checksum. What it says of a file counts only where the folder's
device and inode are those of the folder, and device, inode, name, size and the time of its last change those of the
file: any other copy, an old, torn or foreign one, is as none.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from agent_mailer.beneath import opened
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.lying import SETTLED_NS

WORTH_A_LINE: Final = 1000
"""So many new ones are worth a line: fewer are read again in some milliseconds."""

INODE_BYTES: Final = 8

_MOST_BYTES: Final = 256 * 1024 * 1024
_Entry = tuple[int, int, int, str, bytes]
"""Inode, time of the last change (ns), size, name, and the inode's bytes with what was found behind them."""

_Line = tuple[int, int, list[_Entry]]
"""Device and inode of the folder that they lie in, and they."""


class Remembered:
    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._known: dict[tuple[int, int], list[list[_Entry]]] = {}
        self._read = 0
        self._met = 0
        self._is_of_another_version = False

    def load(self) -> None:
        """Damaged lines are passed over, and so is a file that cannot be read."""
        with suppress(OSError):
            decoder = msgspec.json.Decoder(_Line)
            for line in read_regular(self._path, _MOST_BYTES).split(b"\n"):
                check, _, data = line.partition(b" ")
                if check != b"%08x" % crc32(data):
                    continue
                try:
                    device, inode, entries = decoder.decode(data)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    self._is_of_another_version = True
                    continue
                self._read += len(entries)
                self._known.setdefault((device, inode), []).append(entries)

    def of(self, folder: Path, names: Collection[str]) -> dict[str, bytes] | None:
        """A line of it: of those among `names` whose file is what it was, its inode's bytes and what was found in it.

        Each line is given once; None: there is no more of this folder.
        """
        if not self._known:
            return None
        same: dict[str, bytes] = {}
        with suppress(OSError), opened(folder) as fd:
            held = os.fstat(fd)
            lines = self._known.get((held.st_dev, held.st_ino))
            if not lines:
                return None
            stat_of = os.stat
            for inode, changed, size, name, known in lines.pop():
                if name not in names:
                    continue
                try:
                    found = stat_of(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue
                if (
                    found.st_ctime_ns == changed
                    and found.st_ino == inode
                    and found.st_size == size
                    and found.st_dev == held.st_dev
                ):
                    same[name] = known
            self._met += len(same)
            return same
        return None

    def is_begun_anew(self) -> bool:
        """To be asked once all is read: what it held is known better now. Where most of it was of no use it is gone."""
        stale = self._is_of_another_version or self._read > 2 * self._met + WORTH_A_LINE
        self._known, self._read, self._met, self._is_of_another_version = {}, 0, 0, False
        if stale:
            with suppress(OSError):
                self._disk.remove(self._path)
        return stale

    def add(self, folder: Path, entries: Iterable[tuple[str, bytes]]) -> set[str]:
        """Name, and as `of` gives it: of what has not changed for a while. Returns the names that are written.

        The caller knows that each is what it was when it was read, or has changed but now.
        """
        line: list[_Entry] = []
        before = time.time_ns() - SETTLED_NS
        with suppress(OSError), opened(folder) as fd:
            held = os.fstat(fd)
            for name, known in entries:
                with suppress(OSError, UnicodeEncodeError):
                    name.encode()
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    same = found.st_ino == int.from_bytes(known[:INODE_BYTES]) and found.st_dev == held.st_dev
                    if same and found.st_ctime_ns < before and stat.S_ISREG(found.st_mode):
                        line.append((found.st_ino, found.st_ctime_ns, found.st_size, name, known))
            if line:
                data = msgspec.json.encode((held.st_dev, held.st_ino, line))
                self._disk.append_line(self._path, b"%08x %b" % (crc32(data), data), sync=Sync.NONE)
            return {entry[3] for entry in line}
        return set()
