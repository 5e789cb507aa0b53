"""`trouble.json`: what keeps the watcher from its work just now, for whoever asks. Nothing relies on it."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.state.folder import StateFolder


class TroubleWith(StrEnum):
    MAILBOX = "mailbox"
    CREDENTIALS = "credentials"
    DISK = "disk"


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """`since`: seconds since the epoch. `fix`: what mends it, where a person has to."""

    what: TroubleWith
    why: str
    since: float
    fix: str = ""


def seen_from_outside(folder: Path, now: float) -> Trouble | None:
    """What keeps a watcher from writing, and with it from telling so; None where it seems able to."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return Trouble(TroubleWith.DISK, str(error), now, f"ls -ld {folder}")
    if found.f_flag & os.ST_RDONLY:
        return Trouble(TroubleWith.DISK, f"{folder} is on a read-only file system", now, f"findmnt -T {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Trouble(TroubleWith.DISK, f"{folder} cannot be written", now, f"chmod u+rwx {folder}")
    if found.f_bavail == 0 and found.f_blocks:
        return Trouble(TroubleWith.DISK, f"the disk of {folder} is full", now, f"make room: df -h {folder}")
    return None


class TroubleFile:
    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "trouble.json"

    def read(self) -> Trouble | None:
        trouble: Trouble | None = self._folder.read(self._path, Trouble | None, None)  # type: ignore[arg-type]
        return trouble

    def write(self, trouble: Trouble) -> bool:
        """False where even this cannot be written; the log and the terminal tell it then."""
        try:
            self._folder.disk.replace(self._path, msgspec.json.encode(trouble) + b"\n", sync=Sync.NONE)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        with suppress(OSError):
            if self._path.exists():
                self._folder.disk.remove(self._path)
