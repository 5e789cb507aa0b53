"""Reservations on one machine, or in one folder mailbox: a file, changed under a lock that nobody holds for long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import quoted
from agent_mailer.locks import FileLock
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.meanwhile import meanwhile
from agent_mailer.path_patterns import overlap
from agent_mailer.reservations.port import LONGEST, Owner, Reservation

LOCK_SECONDS: Final = 5.0
MOST_BYTES: Final = 16 * 1024 * 1024

T = TypeVar("T")


class Leases:
    """Implements `agent_mailer.reservations.port.Reservations`. `folder` is made where it is missing."""

    def __init__(self, folder: Path, disk: Disk, clock: Clock, *, project: str, address: str) -> None:
        self._path = folder / "reservations.json"
        self._lock = folder / "reservations.lock"
        self._disk = disk
        self._clock = clock
        self._project = project
        self._address = address

    async def take(self, turn: str, patterns: Sequence[str], seconds: float) -> Sequence[Reservation]:
        me, until = Owner(self._address, turn), self._clock.now() + seconds

        def change(known: list[Reservation]) -> tuple[list[Reservation], list[Reservation]]:
            others = [one for one in known if one.project == self._project and one.owner != me]
            way = [one for one in others if any(overlap(one.pattern, pattern) for pattern in patterns)]
            if way:
                return known, way
            mine = {one.pattern: one for one in known if one.owner == me and one.project == self._project}
            ours = {pattern: Reservation(me, self._project, pattern, until) for pattern in patterns}
            # What is asked for now for a short time takes nothing from what was to last longer.
            ours |= {name: msgspec.structs.replace(one, until=max(one.until, until)) for name, one in mine.items()}
            return [*(one for one in known if one not in mine.values()), *ours.values()], []

        return await self._change(change)

    async def renew(self, turn: str, seconds: float) -> bool:
        me, until = Owner(self._address, turn), self._clock.now() + seconds

        def change(known: list[Reservation]) -> tuple[list[Reservation], bool]:
            later = [
                msgspec.structs.replace(one, until=max(one.until, until)) if one.owner == me else one for one in known
            ]
            return later, any(one.owner == me for one in known)

        return await self._change(change)

    async def release(self, turn: str, patterns: Sequence[str] = ()) -> int:
        me = Owner(self._address, turn)

        def change(known: list[Reservation]) -> tuple[list[Reservation], int]:
            gone = [
                one
                for one in known
                if one.owner == me and one.project == self._project and (not patterns or one.pattern in patterns)
            ]
            return [one for one in known if one not in gone], len(gone)

        return await self._change(change)

    async def held(self) -> Sequence[Reservation]:
        return [one for one in await meanwhile(self._read) if one.project == self._project]

    def of_others(self, patterns: Sequence[str]) -> Sequence[Reservation]:
        """What stands in the way of any turn of this address, and takes nothing. Raises MailboxUnavailable."""
        others = [one for one in self._read() if one.project == self._project and one.owner.address != self._address]
        return [one for one in others if any(overlap(one.pattern, pattern) for pattern in patterns)]

    async def _change(self, change: Callable[[list[Reservation]], tuple[list[Reservation], T]]) -> T:
        def locked() -> T:
            lock = FileLock(self._lock)
            try:
                self._disk.make_directory(self._lock.parent, sync=Sync.FULL)
                if not lock.acquire(LOCK_SECONDS):
                    raise MailboxUnavailable("reservations_busy", f"{self._lock} is held for too long", "wait")
                before = self._read()
                after, result = change(list(before))
                if after != before:
                    self._disk.replace(self._path, msgspec.json.encode(after) + b"\n", sync=Sync.FULL)
                return result
            except OSError as error:
                raise _unavailable(self._path, error) from error
            finally:
                lock.release()

        return await meanwhile(locked)

    def _read(self) -> list[Reservation]:
        """What stands now: what has run out counts no more, and what can be no moment neither."""
        try:
            found = msgspec.json.decode(read_regular(self._path, MOST_BYTES), type=list[Reservation])
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, RecursionError):
            # Nobody can say who holds what: as if all had let go, and the next that reserves makes it anew.
            return []
        except OSError as error:
            raise _unavailable(self._path, error) from error
        now = self._clock.now()
        return [one for one in found if now < one.until <= now + LONGEST]


def _unavailable(path: Path, error: OSError) -> MailboxUnavailable:
    return MailboxUnavailable("reservations", f"{path}: {error.strerror or error}", f"ls -l {quoted(path.parent)}")
