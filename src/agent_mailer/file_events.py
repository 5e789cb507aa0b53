"""A wake when something arrives in a folder, and in any case now and then.

The wake is a level, not an event: whatever happened between two calls of `wait` makes the next one return at once, and
a burst makes it return once. Nothing is ever written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.beneath import opened, status

if TYPE_CHECKING:
    from asyncinotify import Inotify, Mask, Watch

RESCAN_SECONDS = 60.0
BLIND_SECONDS = 2.0

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

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
        self._watched.clear()

    def _drain(self) -> None:
        """Read every event that is there. A queue that overflowed is a wake like any other."""
        if self._inotify is None:
            return
        self._awake.set()
        lost = _lost()
        while (event := self._inotify.sync_get()) is not None:
            if event.mask & lost:
                for path in [path for path, entry in self._watched.items() if entry[1] is event.watch]:
                    self._forget(path)

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


def _wakes(*, changes: bool) -> Mask:
    from asyncinotify import Mask

    arrivals = Mask.CREATE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
    return arrivals | Mask.MODIFY if changes else arrivals


def _lost() -> Mask:
    from asyncinotify import Mask

    return Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT
