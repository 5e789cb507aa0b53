"""Which live sessions are there for a workdir's agent, and what is offered to them; in the user's state folder.

A session is there as long as a process of its holds a lock: no crash leaves it behind, and nothing has to beat. What is
offered lies beside, so that a watcher that comes after another goes on with what that one has begun to hold.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import MailerError
from agent_mailer.locks import FileLock
from agent_mailer.names import whole_digest
from agent_mailer.state.records import Sitter
from agent_mailer.state.workdirs import user_state

MOST_BYTES = 1024 * 1024
MOST_SITTERS = 64
OFFERS = "offers.json"


class Offer(msgspec.Struct, frozen=True):
    """A message that is held for `sitters` from `since` until the moment `until`, if none of them takes it before."""

    message: str
    until: float
    sitters: tuple[Sitter, ...]
    since: float = 0.0


class Presence:
    """Of one agent, by its workdir's path."""

    def __init__(self, workdir: Path, disk: Disk) -> None:
        self.folder = user_state() / "live" / "at" / whole_digest(os.path.realpath(workdir))[:32]
        self._disk = disk

    def sit(self, sitter: Sitter) -> FileLock:
        """Be there until the lock is released, or this process ends. Raises OSError, ConfigFault."""
        self._disk.make_directory(self.folder)
        lock = FileLock(self.folder / f"{sitter.process.pid}-{secrets.token_hex(4)}.lock")
        if lock.acquire(1.0):
            lock.write(msgspec.json.encode(sitter))
        return lock

    def leave(self, lock: FileLock) -> None:
        with suppress(OSError):
            self._disk.remove(lock.path)
        lock.release()

    def there(self) -> tuple[Sitter, ...]:
        """Who holds a lock now. What nobody holds any more is taken away. Raises nothing."""
        found: list[Sitter] = []
        with suppress(OSError, MailerError):
            for name in sorted(name for name in os.listdir(self.folder) if name.endswith(".lock"))[:MOST_SITTERS]:
                path = self.folder / name
                lock = FileLock(path)
                with suppress(OSError, MailerError, msgspec.DecodeError, UnicodeDecodeError):
                    if lock.acquire():
                        self.leave(lock)
                    else:
                        found.append(msgspec.json.decode(read_regular(path, MOST_BYTES), type=Sitter))
        return tuple(found)

    def offers(self) -> tuple[Offer, ...]:
        """What cannot be read is as good as none: it is offered anew, or worked on without a session."""
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(read_regular(self.folder / OFFERS, MOST_BYTES), type=tuple[Offer, ...])
        return ()

    def offer(self, offers: Sequence[Offer]) -> None:
        """In place of what was offered before. Raises OSError."""
        self._disk.make_directory(self.folder)
        self._disk.replace(self.folder / OFFERS, msgspec.json.encode(tuple(offers)), sync=Sync.NONE)
