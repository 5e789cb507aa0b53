"""A wake when something arrives in a folder, and in any case now and then.

The wake is a level, not an event: whatever happened between two calls of `wait` makes the next one return at once, and
a burst makes it return once. Nothing is ever written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary, WeakSet

from agent_mailer.beneath import opened, status
from agent_mailer.meanwhile import in_passing

if TYPE_CHECKING:
    from asyncinotify import Inotify, Mask, Watch

RESCAN_SECONDS = 60.0
BLIND_SECONDS = 2.0
MOST_RENAMED = 10_000
_Identity = tuple[int, int]


class FileEvents:
    """Watches the given folders, each for itself (not what lies below).

    The watches are set before the constructor returns, so that a listing made afterwards misses nothing. Needs a
    running loop. With `changes` a file that is written to is a wake as well, with `removals` one that goes. A folder
    that is missing, replaced or deleted is looked for again at every `wait`; while one is not watched, or where the
    system has no file events, `wait` returns every `blind_seconds`.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        changes: bool = False,
        removals: bool = False,
        rescan_seconds: float = RESCAN_SECONDS,
        blind_seconds: float = BLIND_SECONDS,
    ) -> None:
        self._paths = tuple(paths)
        self._changes = changes
        self._removals = removals
        self._rescan_seconds = rescan_seconds
        self._blind_seconds = min(blind_seconds, rescan_seconds)
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._awake.set()
        self._watched: dict[Path, tuple[_Identity, Watch]] = {}
        self._renamed: set[str] = set()
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
            return
        if mask & _lost():
            for path in [path for path, entry in self._watched.items() if entry[1] is watch]:
                self._forget(path)
        elif mask & _wakes(changes=self._changes, removals=self._removals):
            self._awake.set()
            if mask & _moved() and name is not None and len(self._renamed) < MOST_RENAMED:
                self._renamed.add(name)

    def _watch_again(self) -> None:
        """Watch what is not watched, or no longer what the path names; a watch that is new is a wake."""
        if self._kernel is None and not self._closed:
            # Whoever raises a limit need not start us again.
            self._kernel = _Kernel.join(self._loop, self)
        kernel = self._kernel
        if kernel is None:
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
                    watch = kernel.watch(self, fd, _wakes(changes=self._changes, removals=self._removals))
            except OSError:
                continue
            self._watched[path] = ((found.st_dev, found.st_ino), watch)
            self._awake.set()

    def _forget(self, path: Path) -> None:
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
            loop.add_reader(kernel._inotify.fd, kernel._drain)
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

    def _drain(self) -> None:
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


def _lost() -> Mask:
    from asyncinotify import Mask

    return Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT


def _moved() -> Mask:
    from asyncinotify import Mask

    return Mask.MOVED_TO
