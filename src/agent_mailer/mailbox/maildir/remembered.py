"""What was read in messages, for the next life: a copy on disk that nobody relies on, in the mailbox's own folder.

A line holds some messages and its own checksum. What it says of a file counts only where device, inode, name, size and
the time of its last change are those of the file: any other copy, an old, torn or foreign one, is as none.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
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

_MOST_BYTES: Final = 256 * 1024 * 1024
_Entry = tuple[int, int, int, str, bytes]
"""Inode, time of the last change (ns), size, name, and what was found."""

_NONE: Final[dict[int, _Entry]] = {}

_Line = tuple[int, list[_Entry]]
"""The device that they lie on, and they."""


class Remembered:
    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._known: dict[int, dict[int, _Entry]] = {}
        self._read = 0
        self._met = 0

    def load(self) -> None:
        """Damaged lines are passed over, and so is a file that cannot be read."""
        with suppress(OSError):
            for line in read_regular(self._path, _MOST_BYTES).split(b"\n"):
                check, _, data = line.partition(b" ")
                if check != b"%08x" % crc32(data):
                    continue
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    device, entries = msgspec.json.decode(data, type=_Line)
                    self._read += len(entries)
                    self._known.setdefault(device, {}).update((entry[0], entry) for entry in entries)

    def of(self, folder: Path, names: Iterable[str]) -> list[tuple[str, int, bytes]]:
        """Of names in a folder those whose file is what it was, with its inode and what was found in it.

        Each is asked for once.
        """
        same: list[tuple[str, int, bytes]] = []
        if not self._known:
            return same
        with suppress(OSError), opened(folder) as fd:
            for name in names:
                try:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue
                entry = self._known.get(found.st_dev, _NONE).pop(found.st_ino, None)
                if entry is not None and entry[1:4] == (found.st_ctime_ns, found.st_size, name):
                    same.append((name, found.st_ino, entry[4]))
        self._met += len(same)
        return same

    def is_begun_anew(self) -> bool:
        """To be asked once all is read: what it held is known better now. Where most of it was of no use it is gone."""
        stale = self._read > 2 * self._met + WORTH_A_LINE
        self._known, self._read, self._met = {}, 0, 0
        if stale:
            with suppress(OSError):
                self._disk.remove(self._path)
        return stale

    def add(self, folder: Path, entries: Iterable[tuple[str, int, bytes]]) -> set[str]:
        """Name, inode, and what was found: of what has not changed for a while. Returns the names that are written.

        The caller knows that each is what it was when it was read, or has changed but now.
        """
        lines: dict[int, list[_Entry]] = {}
        before = time.time_ns() - SETTLED_NS
        for name, inode, value in entries:
            with suppress(OSError, UnicodeEncodeError):
                name.encode()
                found = os.stat(f"{folder}/{name}", follow_symlinks=False)
                if found.st_ino == inode and found.st_ctime_ns < before and stat.S_ISREG(found.st_mode):
                    entry = (inode, found.st_ctime_ns, found.st_size, name, value)
                    lines.setdefault(found.st_dev, []).append(entry)
        with suppress(OSError):
            for line in lines.items():
                data = msgspec.json.encode(line)
                self._disk.append_line(self._path, b"%08x %b" % (crc32(data), data), sync=Sync.NONE)
            return {entry[3] for those in lines.values() for entry in those}
        return set()
