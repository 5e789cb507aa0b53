"""What lies in a folder of thousands, known again from look to look, and always as a new listing would find it.

A name whose inode is the one that was there before counts as what it was: what is kept so is never changed where it
lies. Where the system tells (`FileEvents.touched`), a file that was changed all the same is read again, and the folder
is not listed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

AT_ONCE: Final = 100
"""Files that are read between two moments of others: some milliseconds."""


class Lying(ABC):
    """One folder. What was found in each file is kept by whoever derives from this."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._due: set[str] | None = None
        """What is to be looked at; None: all, by a listing. What could not be looked at stays due."""

    @abstractmethod
    def counts(self, name: str) -> bool:
        """Whether a file of this name is looked at."""

    @abstractmethod
    def inodes(self) -> Iterator[tuple[str, int]]:
        """Each name that is known, and the inode that it had."""

    @abstractmethod
    def note(self, name: str) -> None:
        """Look at the file; where there is none any more, nothing is known of it. May raise."""

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
        for name in filter(self.counts, touched):
            self.forget(name)
            self._due.add(name)

    def refresh(self) -> Iterator[None]:
        """Look at what is due. Between two steps others may go on; without any it was of one moment. Raises OSError."""
        if self._due is None:
            listed = self._listed()
            known = dict(self.inodes())
            for name in known.keys() - listed.keys():
                self.forget(name)
            self._due = {name for name, inode in listed.items() if known.get(name) != inode}
        for number, name in enumerate(list(self._due), 1):
            self.forget(name)
            self.note(name)
            self._due.discard(name)
            if number % AT_ONCE == 0:
                yield

    def names(self) -> list[str]:
        """What lies there now, whatever it is. Raises OSError."""
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []

    def _listed(self) -> dict[str, int]:
        try:
            with os.scandir(self.path) as listed:
                return {item.name: item.inode() for item in listed if self.counts(item.name)}
        except FileNotFoundError:
            return {}


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
