"""A wake when something arrives in a folder, and in any case now and then.

The wake is a level, not an event: whatever happened between two calls of `wait` makes the next one return at once, and
a burst makes it return once. Nothing is ever written.

Whoever keeps what lies in a folder asks `touched` before he relies on it. What cannot be told for certain is told as
"list it": that the queue overflowed, that the folder is another by now, that others than our kernel write to it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary, WeakSet

from agent_mailer.arriving import is_elsewhere
from agent_mailer.beneath import opened, status
from agent_mailer.meanwhile import in_passing

if TYPE_CHECKING:
    import asyncio

    from asyncinotify import Inotify, Mask, Watch

RESCAN_SECONDS = 60.0
GOES_WITH_IT = 0.2
BLIND_SECONDS = 2.0
MOST_RENAMED = 10_000
MOST_TOUCHED = 10_000
_Identity = tuple[int, int]
_Times = tuple[int, int]


class FileEvents:
    """Watches the given folders, each for itself (not what lies below).

    The watches are set before the constructor returns, so that a listing made afterwards misses nothing. Needs a
    running loop. With `changes` a file that is written to is a wake as well, with `removals` one that goes. For `names`
    see `touched`. A folder that is missing, replaced or deleted is looked for again at every `wait`; while one is not
    watched, or where the system has no file events, `wait` returns every `blind_seconds`.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        changes: bool = False,
        removals: bool = False,
        names: bool = False,
        rescan_seconds: float = RESCAN_SECONDS,
        blind_seconds: float = BLIND_SECONDS,
    ) -> None:
        import asyncio  # a command that waits for nothing does without

        self._paths = tuple(paths)
        self._names = names
        self._changes = changes
        self._removals = removals
        self._rescan_seconds = rescan_seconds
        self._blind_seconds = min(blind_seconds, rescan_seconds)
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._awake.set()
        self._watched: dict[Path, tuple[_Identity, Watch]] = {}
        self._renamed: set[str] = set()
        self._touched: dict[Path, set[str]] = {}
        """Of each folder that was listed since it is watched: what has changed after that."""
        self._times: dict[Path, _Times] = {}
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._kernel: _Kernel | None = None
        self._watch_again()

    @property
    def sees(self) -> bool:
        """Every folder is watched now."""
        return len(self._watched) == len(set(self._paths))

    async def wait(self) -> None:
        """Return when something may have changed, at the latest after `rescan_seconds`; the first call at once."""
        import asyncio

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

    def touched(self, path: Path) -> Collection[str] | None:
        """Which names in the folder `path` may stand for something else than when this was last asked; None: list it.

        Whatever had happened before the call is told, a wake or not, or told as None. It is always None without
        `names`, and on a file system to which other machines write. A folder that was not watched yet is from here on.
        """
        if path not in self._paths:
            self._paths = (*self._paths, path)
        found = self._watch_one(path)
        if self._kernel is not None:
            self._kernel.drain()
        if found is None or not self._names or path not in self._watched or is_elsewhere(found.st_dev):
            self._touched.pop(path, None)
            return None
        names = self._touched.get(path)
        self._touched[path] = set()
        if names:
            with suppress(OSError):
                # That it has changed was to be expected.
                found = status(path)
        before, self._times[path] = self._times.get(path), (found.st_mtime_ns, found.st_ctime_ns)
        # That a folder's time stands still proves nothing; but where it has moved for no reason, something was missed.
        unexplained = not names and before != self._times[path]
        return None if names is None or unexplained or len(names) > MOST_TOUCHED else names

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._later is not None:
            self._later.cancel()
        self._closed = True
        for path in list(self._watched):
            self._forget(path)
        if self._kernel is not None:
            self._kernel.leave(self._loop, self)
            self._kernel = None

    def hear(self, watch: Watch | None, mask: Mask, name: str | None) -> None:
        """What the kernel says of one folder; without `watch`, of all: its queue overflowed."""
        if watch is None:
            self._awake.set()
            self._touched.clear()
            return
        if mask & _lost():
            for path in [path for path, entry in self._watched.items() if entry[1] is watch]:
                self._forget(path)
            # What the folder lay in may go with it, a moment later, and nothing tells of that.
            self.wake_after(GOES_WITH_IT)
            return
        if self._names and name is not None:
            for path, known in self._touched.items():
                if self._watched[path][1] is watch and len(known) <= MOST_TOUCHED:
                    known.add(name)
        if mask & self._wakes:
            self._awake.set()
            if mask & _moved() and name is not None and len(self._renamed) < MOST_RENAMED:
                self._renamed.add(name)

    def _watch_again(self) -> None:
        """Watch what is not watched, or no longer what the path names; a watch that is new is a wake."""
        for path in self._paths:
            self._watch_one(path)

    def _watch_one(self, path: Path) -> os.stat_result | None:
        """What the folder is that is watched now; None where none is."""
        if self._kernel is None and not self._closed:
            # Whoever raises a limit need not start us again.
            self._kernel = _Kernel.join(self._loop, self)
        kernel = self._kernel
        if kernel is None:
            return None
        try:
            found = status(path)
        except OSError:
            self._forget(path)
            return None
        known = self._watched.get(path)
        if known is not None and known[0] == (found.st_dev, found.st_ino):
            return found
        self._forget(path)
        try:
            # By its descriptor: a link that lies on the way by now leads nowhere.
            with opened(path) as fd:
                found = os.fstat(fd)
                watch = kernel.watch(self, fd, self._wakes | (_changes() if self._names else _nothing()))
        except OSError:
            return None
        self._watched[path] = ((found.st_dev, found.st_ino), watch)
        self._awake.set()
        return found

    @cached_property
    def _wakes(self) -> Mask:
        return _wakes(changes=self._changes, removals=self._removals)

    def _forget(self, path: Path) -> None:
        self._touched.pop(path, None)
        known = self._watched.pop(path, None)
        if known is None:
            return
        self._awake.set()
        if self._kernel is not None and all(entry[1] is not known[1] for entry in self._watched.values()):
            self._kernel.forget(self, known[1])


class _Kernel:
    """The one inotify instance of a loop: a user may have 128 of them in all, and dozens of watchers."""

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Kernel]] = WeakKeyDictionary()

    def __init__(self, inotify: Inotify) -> None:
        self._inotify = inotify
        self._members: WeakSet[FileEvents] = WeakSet()
        self._heard: dict[Watch, WeakSet[FileEvents]] = {}

    @classmethod
    def join(cls, loop: asyncio.AbstractEventLoop, member: FileEvents) -> _Kernel | None:
        """None where the system has no inotify, or no instance of it left."""
        kernel = cls._of.get(loop)
        if kernel is None:
            try:
                from asyncinotify import Inotify

                kernel = cls(Inotify(sync_timeout=0))
            except (ImportError, RuntimeError, AttributeError, OSError):
                return None
            cls._of[loop] = kernel
            loop.add_reader(kernel._inotify.fd, kernel.drain)
        kernel._members.add(member)
        return kernel

    def leave(self, loop: asyncio.AbstractEventLoop, member: FileEvents) -> None:
        self._members.discard(member)
        if not self._members:
            del self._of[loop]
            loop.remove_reader(self._inotify.fd)
            # The kernel waits up to 10 ms until nobody reads it any more; nobody need wait with it.
            in_passing(self._inotify.close)

    def watch(self, member: FileEvents, folder: int, wakes: Mask) -> Watch:
        """Several may watch one folder, each for its own. Raises OSError."""
        from asyncinotify import Mask

        watch = self._inotify.add_watch(Path(f"/proc/self/fd/{folder}"), wakes | Mask.MASK_ADD)
        self._heard.setdefault(watch, WeakSet()).add(member)
        return watch

    def forget(self, member: FileEvents, watch: Watch) -> None:
        heard = self._heard.get(watch)
        if heard is None:
            return
        heard.discard(member)
        if not heard:
            del self._heard[watch]
            with suppress(OSError):
                self._inotify.rm_watch(watch)

    def drain(self) -> None:
        """Read every event that is there. A queue that overflowed is a wake for everybody."""
        while (event := self._inotify.sync_get()) is not None:
            watch, name = event.watch, None if event.name is None else str(event.name)
            for member in list(self._members if watch is None else self._heard.get(watch, ())):
                member.hear(watch, event.mask, name)


def _wakes(*, changes: bool, removals: bool) -> Mask:
    from asyncinotify import Mask

    wakes = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
    wakes |= Mask.MODIFY if changes else Mask(0)
    return wakes | Mask.DELETE | Mask.MOVED_FROM if removals else wakes


def _changes() -> Mask:
    """All by which a name may come to stand for something else, or its file to say something else."""
    from asyncinotify import Mask

    return _wakes(changes=True, removals=True) | Mask.ATTRIB


def _nothing() -> Mask:
    from asyncinotify import Mask

    return Mask(0)


def _lost() -> Mask:
    from asyncinotify import Mask

    return Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT


def _moved() -> Mask:
    from asyncinotify import Mask

    return Mask.MOVED_TO
