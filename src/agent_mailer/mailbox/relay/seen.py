"""What of an inbox was taken, and whether it is finished: a file of ours, since direct mail has no claim there."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.disk import Disk
from agent_mailer.mailbox.seen_file import SeenFile

MOST_KEPT: Final = 10_000
"""With more, what is finished is left to the server's own mark."""


class _File(msgspec.Struct):
    """By id, or the locator of what is no message: whether it is finished."""

    taken: dict[str, bool] = {}


class Seen:
    """Every change is durable before it returns. Raises ConfigFault, OSError."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._file = SeenFile(path, disk, _File)
        self.forget = self._file.forget

    @property
    def _taken(self) -> dict[str, bool]:
        return self._file.content.taken

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def add(self, name: str, *, finished: bool = False) -> None:
        if self._taken.get(name) is not True and self._taken.get(name) is not finished:
            over = len(self._taken) - MOST_KEPT
            old = {one for one, done in self._taken.items() if done} if over > 0 else ()
            self._file.write(_File({**{k: v for k, v in self._taken.items() if k not in old}, name: finished}))

    def remove(self, name: str) -> bool:
        """List it again; whether it was taken."""
        if name not in self._taken:
            return False
        self._file.write(_File({one: finished for one, finished in self._taken.items() if one != name}))
        return True

    def finished(self) -> frozenset[str]:
        return frozenset(name for name, finished in self._taken.items() if finished)

    def drop(self, names: Collection[str]) -> None:
        """What is finished, and listed no more."""
        if names:
            self._file.write(_File({one: finished for one, finished in self._taken.items() if one not in names}))
