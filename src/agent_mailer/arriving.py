"""Which of what arrives in a folder is there as a whole: some are still being written."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path

STILL_SECONDS = 2.0
"""A file that nobody tells us about, and that has not changed for so long since we first saw it, is whole."""

OPEN_SECONDS = 600.0
"""The same where somebody still has it open for writing: over a line that stands still, or because he forgot."""

_ELSEWHERE = r"nfs|cifs|smb|9p|virtiofs|fuse|ceph|lustre|gluster|afs|gfs2|ocfs2|vboxsf|prl_fs|vmhgfs"
"""File systems that others write to as well, of whose writers our kernel knows nothing."""


class Writer(Enum):
    """Whether somebody has a file open for writing."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


class Arriving:
    """Which files of one folder are whole: by a rename, or because whoever wrote them has closed them.

    Where nobody can tell, a file is whole that has stood still for a while since we first saw it: its own time says
    nothing. `known` is a file beside the folder that is not written to, by which we learn whether the system tells.
    """

    def __init__(self, known: Path, monotonic: Callable[[], float]) -> None:
        self._known = known
        self._monotonic = monotonic
        self._seen: dict[str, tuple[tuple[int, int, int], float, float]] = {}
        """By path what was not whole: what it looked like, since when, and for how long it has to."""
        self._before = self._seen

    def look_anew(self) -> None:
        """Before each listing: what is not asked for in it is gone."""
        self._before, self._seen = self._seen, {}

    def is_whole(self, path: str, found: os.stat_result, *, renamed: bool) -> bool:
        """Whether a name that was just listed can be taken. A second answer may differ; a whole file stays whole."""
        if not stat.S_ISREG(found.st_mode):
            return True
        writer = Writer.UNKNOWN if is_elsewhere(found.st_dev) else writer_of(path)
        if renamed or (writer is Writer.NONE and found.st_size > 0):
            return True
        now, looks = self._monotonic(), (found.st_ino, found.st_mtime_ns, found.st_size)
        sure = writer is Writer.SOME and writer_of(self._known) is Writer.NONE
        before = self._before.get(path)
        since = before[1] if before is not None and before[0] == looks else now
        needs = OPEN_SECONDS if sure else STILL_SECONDS
        if now - since >= needs:
            return True
        self._seen[path] = (looks, since, needs)
        return False

    @property
    def next_look(self) -> float | None:
        """Seconds until one of those that were not whole may be, without an event; None where all were."""
        now = self._monotonic()
        return min((max(0.0, since + needs - now) for _, since, needs in self._seen.values()), default=None)


def writer_of(path: str | Path) -> Writer:
    """Asks the kernel for a read lease, which it gives only where nobody writes. It is given back at once."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return Writer.NONE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # Whoever reads it finds out why.
        return Writer.NONE
    try:
        # Should somebody begin to write just now we are told by a signal, which must be one that is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Writer.SOME if error.errno == errno.EAGAIN else Writer.UNKNOWN
    finally:
        os.close(fd)
    return Writer.NONE


_kinds: dict[int, bool] = {}


def is_elsewhere(device: int) -> bool:
    """Whether the file system may be written to by another machine."""
    known = _kinds.get(device)
    if known is None:
        known = _kinds[device] = re.match(_ELSEWHERE, _kind_of(device)) is not None
    return known


def _kind_of(device: int) -> str:
    """Its name for the system; empty where nothing says so."""
    named = f"{os.major(device)}:{os.minor(device)}".encode()
    with suppress(OSError), open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            before, _, after = line.partition(b" - ")
            if before.split(b" ", 3)[2] == named:
                return after.partition(b" ")[0].decode("ascii", "replace")
    return ""
