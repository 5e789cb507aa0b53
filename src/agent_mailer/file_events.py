"""A wake when something arrives in a folder, and in any case now and then; and which of it is there as a whole.

The wake is a level, not an event: whatever happened between two calls of `wait` makes the next one return at once, and
a burst makes it return once. Nothing is ever written.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from agent_mailer.beneath import opened, status

if TYPE_CHECKING:
    from asyncinotify import Inotify, Mask, Watch

RESCAN_SECONDS = 60.0
BLIND_SECONDS = 2.0
STILL_SECONDS = 2.0
"""A file that nobody tells us about, and that has not changed for so long since we first saw it, is whole."""

OPEN_SECONDS = 600.0
"""The same where somebody still has it open for writing: over a line that stands still, or because he forgot."""

MOST_RENAMED = 10_000
_ELSEWHERE = re.compile(r"nfs|cifs|smb|9p|virtiofs|fuse|ceph|lustre|gluster|afs|gfs2|ocfs2|vboxsf|prl_fs|vmhgfs")
"""File systems that others write to as well, of whose writers our kernel knows nothing."""

_Identity = tuple[int, int]


class FileEvents:
    """Watches the given folders, each for itself (not what lies below).

    The watches are set before the constructor returns, so that a listing made afterwards misses nothing. Needs a
    running loop. With `changes` a file that is written to is a wake as well. A folder that is missing, replaced or
    deleted is looked for again at every `wait`; while one is not watched, or where the system has no file events,
    `wait` returns every `blind_seconds`.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        changes: bool = False,
        rescan_seconds: float = RESCAN_SECONDS,
        blind_seconds: float = BLIND_SECONDS,
    ) -> None:
        self._paths = tuple(paths)
        self._changes = changes
        self._rescan_seconds = rescan_seconds
        self._blind_seconds = min(blind_seconds, rescan_seconds)
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._awake.set()
        self._watched: dict[Path, tuple[_Identity, Watch]] = {}
        self._renamed: set[str] = set()
        self._later: asyncio.TimerHandle | None = None
        self._inotify = _open_inotify()
        if self._inotify is not None:
            self._loop.add_reader(self._inotify.fd, self._drain)
        self._watch_again()

    @property
    def sees(self) -> bool:
        """Every folder is watched now."""
        return len(self._watched) == len(set(self._paths))

    async def wait(self) -> None:
        """Return when something may have changed, at the latest after `rescan_seconds`; the first call at once."""
        self._watch_again()
        seconds = self._rescan_seconds if self.sees else self._blind_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        self._awake.clear()

    def wake_after(self, seconds: float) -> None:
        """One more wake, at the moment that was named last."""
        if self._later is not None:
            self._later.cancel()
        self._later = self._loop.call_later(seconds, self._awake.set)

    def take_renamed(self) -> Collection[str]:
        """Names that came by a rename since this was last asked: nobody writes what lies under them."""
        found, self._renamed = self._renamed, set()
        return found

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._later is not None:
            self._later.cancel()
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            # The kernel waits up to 10 ms until nobody reads it any more; nobody need wait with it.
            _in_passing(self._inotify.close)
            self._inotify = None
        self._watched.clear()

    def _drain(self) -> None:
        """Read every event that is there. A queue that overflowed is a wake like any other."""
        if self._inotify is None:
            return
        self._awake.set()
        lost, moved = _lost(), _moved()
        while (event := self._inotify.sync_get()) is not None:
            if event.mask & lost:
                for path in [path for path, entry in self._watched.items() if entry[1] is event.watch]:
                    self._forget(path)
            elif event.mask & moved and event.name is not None and len(self._renamed) < MOST_RENAMED:
                self._renamed.add(str(event.name))

    def _watch_again(self) -> None:
        """Watch what is not watched, or no longer what the path names; a watch that is new is a wake."""
        if self._inotify is None:
            return
        for path in self._paths:
            try:
                found = status(path)
            except OSError:
                self._forget(path)
                continue
            known = self._watched.get(path)
            if known is not None and known[0] == (found.st_dev, found.st_ino):
                continue
            self._forget(path)
            try:
                # By its descriptor: a link that lies on the way by now leads nowhere.
                with opened(path) as fd:
                    found = os.fstat(fd)
                    watch = self._inotify.add_watch(Path(f"/proc/self/fd/{fd}"), _wakes(changes=self._changes))
            except OSError:
                continue
            self._watched[path] = ((found.st_dev, found.st_ino), watch)
            self._awake.set()

    def _forget(self, path: Path) -> None:
        known = self._watched.pop(path, None)
        if known is not None and self._inotify is not None:
            self._awake.set()
            with suppress(OSError):
                self._inotify.rm_watch(known[1])


def _open_inotify() -> Inotify | None:
    """None where the system has no inotify, or no instance of it left."""
    try:
        from asyncinotify import Inotify
    except (ImportError, RuntimeError, AttributeError, OSError):
        return None
    try:
        return Inotify(sync_timeout=0)
    except OSError:
        return None


def _in_passing(act: Callable[[], None]) -> None:
    try:
        Thread(target=act, daemon=True).start()
    except RuntimeError:
        act()


def _wakes(*, changes: bool) -> Mask:
    from asyncinotify import Mask

    arrivals = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
    return arrivals | Mask.MODIFY if changes else arrivals


def _lost() -> Mask:
    from asyncinotify import Mask

    return Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT


def _moved() -> Mask:
    from asyncinotify import Mask

    return Mask.MOVED_TO


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
        writer = Writer.UNKNOWN if _is_elsewhere(found.st_dev) else writer_of(path)
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


def _is_elsewhere(device: int) -> bool:
    """Whether the file system may be written to by another machine."""
    known = _kinds.get(device)
    if known is None:
        known = _kinds[device] = _ELSEWHERE.match(_kind_of(device)) is not None
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
