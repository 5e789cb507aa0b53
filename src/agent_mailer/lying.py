"""What lies in a folder of thousands, known again from look to look, and always as a new listing would find it.

A name whose inode is the one that was there before counts as what it was: what is kept so is never changed where it
lies. Where the system tells (`FileEvents.touched`), a file that was changed all the same is read again, and the folder
is not listed.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

AT_ONCE: Final = 100
"""Files that are read between two moments of others: some milliseconds."""


SETTLED_NS: Final = 2_000_000_000
"""So old a change has to be: on older kernels two within a tick have the same time."""

MOST_KEPT: Final = 512 * 1024
"""Bytes of files of which is kept what was read in them."""

T = TypeVar("T")
Looks = tuple[int, int, int, int, int]
"""Device, inode, size and the times of the last changes."""


class Listed(msgspec.Struct, frozen=True):
    """One name in a folder."""

    path: str
    name: str
    found: os.stat_result


def lies(folder: Path | str, name: str) -> Listed | None:
    """What has that name now. Raises OSError."""
    path = f"{folder}/{name}"  # a Path a file costs more than all the rest
    try:
        return Listed(path, name, os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return None


def at_rest(path: Path) -> Looks | None:
    """What a folder or a file looks like; None where it is missing, or may be changed again without looking otherwise.

    A folder that still looks so holds the same names. Take it before what is read there.
    """
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return _looks(found) if found.st_ctime_ns <= time.time_ns() - SETTLED_NS else None


def _looks(found: os.stat_result) -> Looks:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Lying(ABC):
    """One folder. What was found in each file is kept by whoever derives from this."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._due: set[str] | None = None
        """What is to be looked at; None: all, by a listing. What could not be looked at stays due."""
        self._rested: dict[str, int] | None = None
        """The last listing, where nothing was due by it and nothing has been forgotten since."""

    @abstractmethod
    def counts(self, name: str) -> bool:
        """Whether a file of this name is looked at."""

    @abstractmethod
    def inodes(self) -> Iterator[tuple[str, int]]:
        """Each name that is known, and the inode that it had."""

    @abstractmethod
    def note(self, name: str) -> None:
        """Look at the file; where there is none any more, nothing is known of it. May raise."""

    def recall(self, due: Collection[str]) -> Iterator[Collection[str]]:
        """Step by step those of which is known what they are without a look into them: from then on they are known."""
        del due
        return iter(())

    @abstractmethod
    def forget(self, name: str) -> None:
        """What was known of that name, if anything, counts no longer."""

    @property
    def is_listed(self) -> bool:
        """Whether it was, and but for what is due nothing has happened since."""
        return self._due is not None

    def hear(self, touched: Collection[str] | None) -> None:
        """What may be another than before; None: nobody can tell."""
        if touched is None or self._due is None:
            self._due = None
            return
        self._rested = None
        for name in filter(self.counts, touched):
            self.forget(name)
            self._due.add(name)

    def refresh(self) -> Iterator[None]:
        """Look at what is due. Between two steps others may go on; without any it was of one moment. Raises OSError."""
        if self._due is None and next(self.inodes(), None) is None:
            self._due = set(filter(self.counts, self.names()))
            self._rested = None if self._due else {}
        elif self._due is None:
            listed = self._listed(self._rested or {})
            if listed != self._rested:
                known = dict(self.inodes())
                for name in known.keys() - listed.keys():
                    self.forget(name)
                self._due = {name for name, inode in listed.items() if known.get(name) != inode}
                self._rested = None if self._due else listed
            else:
                self._due = set()
        for recalled in self.recall(self._due):
            self._due.difference_update(recalled)
            yield
        due = iter(list(self._due))
        while some := list(islice(due, AT_ONCE)):
            for name in some:
                self.forget(name)
                self.note(name)
                self._due.discard(name)
            if len(some) == AT_ONCE:
                yield

    def names(self) -> list[str]:
        """What lies there now, whatever it is. Raises OSError."""
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []

    def holds(self, count: int) -> bool:
        """Whether so many names lie there now, without a look at more of them. Raises OSError."""
        with suppress(FileNotFoundError), os.scandir(self.path) as lying:
            return len(list(islice(lying, count))) == count
        return count == 0

    def _listed(self, before: Mapping[str, int]) -> dict[str, int]:
        try:
            with os.scandir(self.path) as listed:
                return {item.name: item.inode() for item in listed if item.name in before or self.counts(item.name)}
        except FileNotFoundError:
            return {}


class Read(Generic[T]):
    """What was read in whole files, those that were asked for last: each is read once while it stays what it was.

    It does where device, inode, size and the times of its last changes are the same, and none of these of this moment.
    """

    def __init__(self, read: Callable[[Path], T | None]) -> None:
        self._read = read
        self._known: dict[str, tuple[Looks, T]] = {}
        self._bytes = 0

    def at(self, path: Path) -> T | None:
        """None where there is nothing that can be read."""
        name = str(path)
        try:
            found = os.stat(name, follow_symlinks=False)
        except OSError:
            return None
        looks = _looks(found)
        known = self._known.pop(name, None)
        if known is not None:
            self._bytes -= known[0][2]
        if known is None or known[0] != looks:
            value = self._read(path)
            if value is None or found.st_size > MOST_KEPT or found.st_ctime_ns > time.time_ns() - SETTLED_NS:
                return value
            known = (looks, value)
        self._known[name] = known
        self._bytes += found.st_size
        while self._bytes > MOST_KEPT:
            self._bytes -= self._known.pop(next(iter(self._known)))[0][2]
        return known[1]


async def until_at_rest(look: Callable[[], Iterator[None]]) -> None:
    """Look until there was nothing to be read: then nothing has happened since it began that is not known.

    While there is much, others go on between two steps.
    """
    import asyncio  # whoever only lists does without

    rests = False
    while not rests:
        rests = True
        for _ in look():
            rests = False
            await asyncio.sleep(0)
