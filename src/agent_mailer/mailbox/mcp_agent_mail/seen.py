"""What of an inbox was taken: the server keeps no claims, so a file of ours does, for each name at each server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.disk import Disk
from agent_mailer.mailbox.seen_file import SeenFile

OVERLAP: Final = 120.0
"""Seconds by which a message may become visible after a later one."""


class _File(msgspec.Struct, omit_defaults=True):
    """All before `floor` (seconds since the epoch, the server's clock) is taken, and no number up to `top` is missing;
    `taken` are ids, with their moments, from a little before the floor on.
    """

    floor: float = 0.0
    top: int = 0
    taken: dict[str, float] = {}


class Seen:
    """Every change is durable before it returns. Raises ConfigFault, OSError."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._kept = SeenFile(path, disk, _File)
        self.forget = self._kept.forget

    @property
    def _file(self) -> _File:
        return self._kept.content

    @property
    def since(self) -> float:
        """From where on the server has to be asked, seconds since the epoch."""
        return max(0.0, self._file.floor - OVERLAP)

    @property
    def top(self) -> int:
        return self._file.top

    def __contains__(self, name: str) -> bool:
        return name in self._file.taken

    def add(self, name: str, moment: float, floor: float, top: int) -> None:
        """`floor`: the moment of the oldest that still waits, or of the newest known."""
        file = self._file
        lowest = max(file.floor, floor)
        taken = {one: at for one, at in file.taken.items() if at >= lowest - 2 * OVERLAP}
        taken[name] = moment
        self._kept.write(_File(lowest, max(top, file.top), taken))

    def remove(self, name: str, number: int | None) -> bool:
        """List it again, and whatever else is not known to be taken any more; whether it was taken. By its `number` it
        is found beyond the window, too.
        """
        file = self._file
        if name not in file.taken:
            return False
        rest = {one: moment for one, moment in file.taken.items() if one != name}
        self._kept.write(_File(0.0, min(file.top, number - 1) if number else file.top, rest))
        return True
