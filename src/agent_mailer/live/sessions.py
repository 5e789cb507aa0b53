"""The live sessions of this user: a small file each in the user's state folder, with what it was told.

A session lives as long as its file and its program do; nothing has to be taken back after a crash.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.live.heard import Program
from agent_mailer.live.telling import Known
from agent_mailer.locks import FileLock
from agent_mailer.names import path_name
from agent_mailer.process.handle import ProcessIdentity, is_alive

MOST_BYTES = 1024 * 1024
KEPT_SECONDS = 30 * 86400.0
"""How long a file stays whose session ended without a word."""


class LiveSession(msgspec.Struct, frozen=True):
    """`process`: the program that has it, as far as that is known."""

    program: Program
    session: str
    process: ProcessIdentity | None = None
    known: Known = Known()

    @property
    def name(self) -> str:
        return f"{self.program.value}-{path_name(self.session)}"


class LiveSessions:
    """The files in `folder`. Every method raises OSError."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self._disk = disk

    def path(self, session: LiveSession) -> Path:
        return self.folder / f"{session.name}.json"

    def lock(self, session: LiveSession) -> FileLock:
        """Held by whoever listens for it; one at a time."""
        self._disk.make_directory(self.folder)
        return FileLock(self.folder / f"{session.name}.lock")

    @contextmanager
    def telling(self, seconds: float) -> Iterator[None]:
        """One session after the other is told: what two listeners have heard of in one moment rings in one of them.

        Who cannot have it within `seconds` goes on without: told twice is better than never.
        """
        self._disk.make_directory(self.folder)
        lock = FileLock(self.folder / "telling.lock")
        lock.acquire(seconds)
        try:
            yield
        finally:
            lock.release()

    def is_listened_for(self, session: LiveSession) -> bool:
        lock = self.lock(session)
        if not lock.acquire():
            return True
        lock.release()
        return False

    def begun(self, session: LiveSession) -> LiveSession:
        """As it is known; written where it is not, or where it goes on in another process (`--resume`)."""
        found = self._read(self.path(session))
        if found is not None and (session.process is None or found.process == session.process):
            return found
        known = msgspec.structs.replace(found.known if found else Known(), before=None)
        whole = msgspec.structs.replace(session, known=known)
        self.keep(whole)
        return whole

    def find(self, program: Program, session: str) -> LiveSession | None:
        """None where it has ended."""
        return self._read(self.path(LiveSession(program, session)))

    def known(self, session: LiveSession) -> Known | None:
        """What it was told; None once it has ended."""
        found = self._read(self.path(session))
        return None if found is None else found.known

    def keep(self, session: LiveSession) -> None:
        self._disk.make_directory(self.folder)
        self._disk.replace(self.path(session), msgspec.json.encode(session), sync=Sync.NONE)

    def end(self, session: LiveSession) -> None:
        """Whoever listens for it leaves."""
        self._disk.remove(self.path(session))
        self._disk.remove(self.folder / f"{session.name}.lock")

    def end_all(self, program: Program) -> None:
        """Of that program, as its plugin goes."""
        for session in list(self._all()):
            if session.program is program:
                self.end(session)

    def told_elsewhere(self, session: LiveSession) -> frozenset[str]:
        """What other sessions were told that live."""
        return frozenset(
            one
            for other in self._all()
            if other.name != session.name and other.process is not None and is_alive(other.process)
            for one in other.known.told
        )

    def forget_old(self) -> None:
        """Files of sessions that ended long ago, and locks that nobody holds for them."""
        before = time.time() - KEPT_SECONDS
        for name in self._names((".json", ".lock")):
            path = self.folder / name
            with suppress(OSError):
                if path.lstat().st_mtime < before and not self._lives(path.with_suffix(".json")):
                    self._disk.remove(path)

    def _lives(self, path: Path) -> bool:
        found = self._read(path)
        return found is not None and found.process is not None and is_alive(found.process)

    def _all(self) -> Iterator[LiveSession]:
        for name in self._names((".json",)):
            found = self._read(self.folder / name)
            if found is not None and f"{found.name}.json" == name:
                yield found

    def _names(self, endings: tuple[str, ...]) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.folder) if name.endswith(endings))
        return []

    def _read(self, path: Path) -> LiveSession | None:
        """What cannot be read is as good as none: it is told of once more, and no mail is lost."""
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(read_regular(path, MOST_BYTES), type=LiveSession)
        return None
