"""`pause.json`: why nothing is started now; and the pause that all watchers on one provider account share.

One file an account in the user's state folder; who may probe it holds the lock beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, of_the_moment
from agent_mailer.names import path_name
from agent_mailer.state.folder import GARBLED, StateFolder
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


class AccountPause:
    """The pause of one account. `damaged` is told of a file that could not be read; it counts as no pause."""

    def __init__(
        self,
        folder: Path,
        account: str,
        disk: Disk,
        clamp: Callable[[float, float], float],
        damaged: Callable[[Path, str], None],
    ) -> None:
        from filelock import FileLock  # what only reads the state does without

        self.folder = folder
        self._path = folder / f"{path_name(account)}.json"
        self._probe = FileLock(folder / f"{path_name(account)}.probe", timeout=0, mode=0o600, fallback_to_soft=False)
        self._disk = disk
        self._clamp = clamp
        self._damaged = damaged
        disk.make_directory(folder)

    def read(self) -> Pause | None:
        try:
            pause = msgspec.json.decode(self._path.read_bytes(), type=Pause)
        except FileNotFoundError:
            return None
        except (OSError, *GARBLED) as error:
            if isinstance(error, OSError) and of_the_moment(error):
                raise
            self._damaged(self._path, str(error))
            return None
        if pause.until is None:
            return pause
        return msgspec.structs.replace(pause, until=self._clamp(pause.until, LONGEST_PAUSE))

    def write(self, pause: Pause) -> None:
        """Every watcher on the account sees it at once. A loss costs one more look at the limit."""
        self._disk.replace(self._path, msgspec.json.encode(pause) + b"\n", sync=Sync.NONE)

    def clear(self) -> None:
        self._disk.remove(self._path)

    def may_probe(self) -> bool:
        """Become the one that probes, or be it already; False while another watcher of this user is."""
        from filelock import Timeout

        if self._probe.is_locked:
            return True
        try:
            self._probe.acquire()
        except Timeout:
            return False
        return True

    def end_probe(self) -> None:
        if self._probe.is_locked:
            self._probe.release()
