"""Pauses of a provider's account, shared by every watcher of this user that runs on it.

One file an account in the user's state folder. When a pause has run out one watcher probes, holding a lock that ends
with its process; the others wait for what it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from agent_mailer.disk import Disk, Sync, of_the_moment
from agent_mailer.names import path_name
from agent_mailer.state.folder import GARBLED
from agent_mailer.state.pauses import LONGEST_PAUSE
from agent_mailer.state.records import Pause


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
