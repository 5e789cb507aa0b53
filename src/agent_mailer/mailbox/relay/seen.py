"""What of an inbox was taken, and whether it is finished: a file of ours, since direct mail has no claim there."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault

MOST_KEPT: Final = 10_000
"""With more, what is finished is left to the server's own mark."""


class _File(msgspec.Struct):
    """By id, or the locator of what is no message: whether it is finished."""

    taken: dict[str, bool] = {}


class Seen:
    """Read once; every change is durable before it returns. Raises ConfigFault, OSError."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._read: dict[str, bool] | None = None

    @property
    def _taken(self) -> dict[str, bool]:
        if self._read is None:
            try:
                self._read = msgspec.json.decode(read_regular(self._path), type=_File).taken
            except FileNotFoundError:
                self._read = {}
            except (OSError, msgspec.DecodeError, RecursionError) as error:
                # Without it all is listed once more; what the watcher has settled it knows itself.
                raise ConfigFault("bad_seen", f"{self._path}: {error}", f"mv {self._path} {self._path}.old") from None
        return self._read

    def forget(self) -> None:
        """Read the file again when it is next needed."""
        self._read = None

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def add(self, name: str, *, finished: bool = False) -> None:
        if self._taken.get(name) is not True and self._taken.get(name) is not finished:
            over = len(self._taken) - MOST_KEPT
            old = {one for one, done in self._taken.items() if done} if over > 0 else ()
            self._write({**{k: v for k, v in self._taken.items() if k not in old}, name: finished})

    def remove(self, name: str) -> bool:
        """List it again; whether it was taken."""
        if name not in self._taken:
            return False
        self._write({one: finished for one, finished in self._taken.items() if one != name})
        return True

    def finished(self) -> frozenset[str]:
        return frozenset(name for name, finished in self._taken.items() if finished)

    def drop(self, names: Collection[str]) -> None:
        """What is finished, and listed no more."""
        if names:
            self._write({one: finished for one, finished in self._taken.items() if one not in names})

    def _write(self, taken: dict[str, bool]) -> None:
        self._disk.make_directory(self._path.parent, sync=Sync.FULL)
        self._disk.replace(self._path, msgspec.json.encode(_File(taken)) + b"\n", sync=Sync.FULL)
        self._read = taken
