"""The sandbox port: what a turn is held to, how a kind of sandbox holds it, and what each kind cannot promise."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from agent_mailer.choices import Kind as Kind  # noqa: PLC0414 - of this port, where most look for it
from agent_mailer.choices import MailboxAccess as MailboxAccess  # noqa: PLC0414 - the same
from agent_mailer.choices import Network as Network  # noqa: PLC0414 - the same
from agent_mailer.runtimes.port import Launch, RuntimeMissing


class Access(IntEnum):
    HIDE = 0
    READ = 1
    WRITE = 2


class Rule(msgspec.Struct, frozen=True):
    """What may be done with `path` (absolute, without links) and all below it. The deepest rule decides.

    `firm`: a kind that cannot hold it cannot be used; of the others the guide says which kind holds them.
    """

    path: Path
    access: Access
    firm: bool = True


class TurnPlaces(msgspec.Struct, frozen=True):
    """What of one turn is its own: all of it may be read, `outbox` and `tmp` written."""

    folder: Path
    outbox: Path
    tmp: Path


class Bounds(msgspec.Struct, frozen=True):
    """All that one turn is held to. `rules` begin with `/` and have each folder before what lies in it.

    `tmp` is the turn's own folder for temporary files; `program` the agent's, by the name it is started with;
    `sockets`: of another program, named by the user; `fresh`: folders in whose place a kind that holds what is not firm
    gives each turn an empty one; `listed`: those whose names the agent may see even where some of what lies in them is
    hidden.
    """

    rules: tuple[Rule, ...]
    turn_dir: Path
    workdir: Path
    tmp: Path
    program: Path
    network: Network = Network.ON
    sockets: tuple[Path, ...] = ()
    fresh: tuple[Path, ...] = ()
    listed: tuple[Path, ...] = ()

    def access(self, path: Path) -> Access:
        """Of the deepest rule that holds `path`."""
        return [rule.access for rule in self.rules if path.is_relative_to(rule.path)][-1]


class Promise(StrEnum):
    """What a proof asks of a kind beyond the files."""

    FIRM = "guards settings and hooks in folders that may be written"
    TEMPORARY = "has a /tmp of its own"
    PROCESSES = "sees no process but its own"
    SIGNALS = "signals no process but its own"
    SOCKETS = "reaches no socket that was not named"
    ABSTRACT = "reaches no socket of others that has no path"
    PROXY = "reaches this machine by the proxy that it is told"
    TOP_LEVEL = "makes new names where something beside them is hidden"


class Unconfined(RuntimeMissing):
    """The sandbox that is configured cannot be had, or does not hold: nothing was started."""


class Sandbox(Protocol):
    """One kind. Starts nothing itself: it makes one process start inside of another."""

    @property
    def kind(self) -> Kind: ...

    def promises(self, bounds: Bounds) -> frozenset[Promise]:
        """What its proof asks, beyond the files of `bounds`."""

    def why_not(self, network: Network) -> str:
        """Why it cannot hold that network; empty where it can. Only looks."""

    def around(self, launch: Launch, bounds: Bounds) -> Launch:
        """The same process within. Raises Unconfined where that cannot be."""

    def programs(self) -> Sequence[Path]:
        """The files that do the confining, as they are started: they and all links that lead to them must lie where no
        turn can write, and a new one is proved anew.
        """

    def mend(self, output: str) -> str:
        """What mends a start that failed with `output`."""
