"""`pause.json`: why nothing is started now."""

from __future__ import annotations

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import Pause, PauseReason

LONGEST_PAUSE = 8 * 86400.0
"""A weekly limit is the longest a provider names; a moment further ahead is a clock that jumped."""


class PauseFile:
    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "pause.json"

    def read(self) -> Pause | None:
        pause = self._folder.read(self._path, Pause | None, None)  # type: ignore[arg-type]
        if pause is None or pause.until is None:
            return pause
        return msgspec.structs.replace(pause, until=self._folder.clamp(pause.until, LONGEST_PAUSE))

    def write(self, pause: Pause) -> None:
        data = msgspec.json.format(msgspec.json.encode(pause), indent=2) + b"\n"
        # Lost in a power failure, the next turn meets the same limit and pauses again; not so a person's word.
        by_hand = pause.reason is PauseReason.BY_HAND
        self._folder.disk.replace(self._path, data, sync=Sync.FULL if by_hand else Sync.CONTENT)

    def clear(self, *, durable: bool = False) -> None:
        """`durable`: a crash does not bring it back. Otherwise the next turn that goes well ends it once more."""
        self._folder.disk.remove(self._path)
        if durable:
            self._folder.disk.sync_directory(self._folder.path)
