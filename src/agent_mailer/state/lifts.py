"""What only a person may lift: his orders on their way, and what he has said for good.

They lie in the user's state folder, never in the workdir, which the agent writes. A request names an order and is
worth nothing without it. Whoever holds the workdir's lock carries out what was ordered.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.disk import Sync, of_the_moment, read_regular
from agent_mailer.names import path_name
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.workdirs import user_state

LARGEST = 16 * 1024 * 1024
LONGEST = 26 * 3600.0
"""Seconds for which a limit is raised at most: until a local day ends, also one on which the clock is put back."""

T = TypeVar("T")


class OrderVerb(StrEnum):
    RELEASE = "release"
    DROP = "drop"
    ALLOW = "allow"
    DISALLOW = "disallow"
    RAISE = "raise"
    RUN = "run"
    SKIP = "skip"


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """`targets` are message ids, senders, `key=value` of what is raised, or a schedule's name and line; `until` is when
    that ends, or the instant that is sent or skipped.
    """

    verb: OrderVerb
    targets: tuple[str, ...]
    until: float = 0.0


class Raised(msgspec.Struct, frozen=True):
    """A limit that a person has set aside until a moment."""

    value: float
    until: float


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """`allowed` are senders, as they write; `raised` is by key of the configuration."""

    allowed: tuple[str, ...] = ()
    raised: dict[str, Raised] = {}


class Lifts:
    """One workdir's. Nothing is read before somebody asks."""

    def __init__(self, folder: StateFolder) -> None:
        self._clock = folder.clock
        self._disk = folder.disk
        self._state = folder
        self._workdir = folder.workdir
        self._standing: Standing | None = None

    @property
    def standing(self) -> Standing:
        """What counts now. Raises OSError where the file cannot be read just now."""
        if self._standing is None:
            self._standing = self._read(self.folder / "standing.json", Standing) or Standing()
        return self._standing

    def give(self, order: Order) -> str:
        """Durable when it returns; its name. Raises OSError."""
        name = f"{self._clock.now():017.6f}-{secrets.token_hex(8)}"
        folder = self.folder
        self._disk.make_directory(folder, sync=Sync.FULL)
        self._disk.replace(folder / f"{name}.order", msgspec.json.encode(order), sync=Sync.FULL)
        return name

    def order(self, name: str) -> Order | None:
        """None where no person has given it. Raises OSError where it cannot be read just now."""
        if path_name(name) != name:
            return None
        return self._read(self.folder / f"{name}.order", Order)

    def done(self, name: str) -> None:
        """It was carried out; carried out again by a crash it changes nothing."""
        with suppress(OSError):
            self._disk.remove(self.folder / f"{name}.order")

    def allow(self, senders: tuple[str, ...]) -> None:
        """Durable when it returns."""
        self._write(
            msgspec.structs.replace(self.standing, allowed=tuple(dict.fromkeys((*self.standing.allowed, *senders))))
        )

    def disallow(self, senders: tuple[str, ...]) -> None:
        """Durable when it returns. What was worked on meanwhile stays so."""
        gone = set(senders)
        kept = tuple(one for one in self.standing.allowed if one not in gone)
        self._write(msgspec.structs.replace(self.standing, allowed=kept))

    def set_aside(self, raised: dict[str, Raised]) -> None:
        """Durable when it returns. What has ended is forgotten."""
        now = self._clock.now()
        kept = {key: one for key, one in self.standing.raised.items() if one.until > now}
        self._write(msgspec.structs.replace(self.standing, raised=kept | raised))

    def raised(self, key: str) -> float | None:
        """The value that a person has given a limit until a moment that is not over, nor of a clock that was wrong."""
        one, now = self.standing.raised.get(key), self._clock.now()
        return one.value if one is not None and now < one.until <= now + LONGEST else None

    def _write(self, standing: Standing) -> None:
        folder = self.folder
        self._disk.make_directory(folder, sync=Sync.FULL)
        data = msgspec.json.format(msgspec.json.encode(standing), indent=2) + b"\n"
        self._state.clear_way(folder / "standing.json")
        self._disk.replace(folder / "standing.json", data, sync=Sync.FULL)
        self._standing = standing

    def _read(self, path: Path, shape: type[T]) -> T | None:
        try:
            return msgspec.json.decode(read_regular(path, LARGEST), type=shape)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, *GARBLED) as error:
            if isinstance(error, OSError) and of_the_moment(error):
                raise
            if self._state.ours:
                # What is written next would take its place.
                self._state.set_aside(path, str(error))
            else:
                self._state.damaged(path, str(error))
            return None

    @property
    def folder(self) -> Path:
        return user_state() / "guards" / path_name(os.path.realpath(self._workdir))
