"""`trouble.json`: what keeps the watcher from its work just now, for whoever asks. Nothing relies on it."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum

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


class TroubleFile:
    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "trouble.json"

    def read(self) -> Trouble | None:
        trouble: Trouble | None = self._folder.read(self._path, Trouble | None, None)  # type: ignore[arg-type]
        return trouble

    def write(self, trouble: Trouble) -> None:
        """Where even this cannot be written, the log and the terminal tell it."""
        with suppress(OSError):
            self._folder.disk.replace(self._path, msgspec.json.encode(trouble) + b"\n", sync=Sync.NONE)

    def clear(self) -> None:
        with suppress(OSError):
            if self._path.exists():
                self._folder.disk.remove(self._path)
