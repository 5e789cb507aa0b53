"""The configuration while the watcher runs: taken when a file has changed, and what of it nobody trusts is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.prompts import PromptRoom
from agent_mailer.runtimes.port import Runtime
from agent_mailer.state.notices import Notice, NoticeKind
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import WatchPolicy

UPGRADE = "upgrade"
REST = 0.3
"""Seconds. An editor that writes in place empties the file first: that is nobody's configuration."""


class Trusted(msgspec.Struct, frozen=True):
    """`basis`: why what counts does. `recorded`: it has been remembered just now, and is no older word of a person's.

    `others` names what stands in the workdir otherwise than it counts; `digest` tells such a state from another, and
    `subject` what is named and what counts in its place; `mistyped`: that a key of them is there under another name.
    """

    basis: str
    recorded: bool
    others: tuple[str, ...]
    digest: str
    subject: str
    mistyped: str = ""


class Taken(msgspec.Struct, frozen=True):
    """What counts from now on; and the keys that changed: taken now, by the next turn, at a start."""

    policy: WatchPolicy
    runtime: Runtime
    prompts: PromptRoom
    trusted: Trusted
    now: tuple[str, ...] = ()
    next_turn: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class Files(Protocol):
    """The files of a workdir's configuration, and what is trusted of them."""

    folders: tuple[Path, ...]

    def changed(self) -> bool:
        """Whether there may be something else in them than was taken last. Raises nothing."""

    def being_written(self) -> bool:
        """Whether somebody may be in the middle of writing one in its place. Raises nothing."""

    def take(self) -> Taken:
        """Raises MailerError where they cannot be acted on; then what was taken before goes on counting."""

    def trusted(self) -> Trusted:
        """Of what was taken last."""


class Settings:
    def __init__(self, room: Room, files: Files) -> None:
        self._room = room
        self._files = files
        self.folders = files.folders
        self.waiting = False
        """Something may have changed that nobody has taken."""
        self.wake: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._told = ""
        self._refused = ""

    def heed(self) -> bool:
        """Whether there is something to take. What is half written is looked at again, a little later."""
        if not self.waiting and self._files.changed():
            if self._files.being_written():
                self._look_again()
            else:
                self.waiting = True
        return self.waiting

    def _look_again(self) -> None:
        if self._timer is None or self._timer.cancelled():
            self._timer = asyncio.get_running_loop().call_later(REST, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.wake()

    def begin(self) -> None:
        """At a start. Raises OSError where what is to be told cannot be remembered."""
        trusted = self._files.trusted()
        if trusted.recorded:
            self._room.log.emit(EventName.TRUSTED, basis=trusted.basis, hash=trusted.digest)
            if trusted.basis == UPGRADE:
                self._notice(NoticeKind.TRUST_UPGRADE, trusted, "values that stood here before trust was remembered")
        self._tell(trusted)

    def take(self) -> None:
        """Raises OSError, and then it is still waiting."""
        room = self._room
        try:
            taken = self._files.take()
        except MailerError as fault:
            if fault.message != self._refused:
                room.log.emit(EventName.CONFIG_REFUSED, why=fault.message, fix=fault.fix or None)
                self._refused = fault.message
            self._tell(self._files.trusted())
            self.waiting = False
            return
        self._refused = ""
        room.take(taken.policy, taken.prompts, taken.runtime)
        if taken.now or taken.next_turn or taken.restart:
            room.log.emit(
                EventName.CONFIG_TAKEN,
                now=" ".join(taken.now) or None,
                next_turn=" ".join(taken.next_turn) or None,
                restart=" ".join(taken.restart) or None,
            )
        self._tell(taken.trusted)
        self.waiting = False

    def _tell(self, trusted: Trusted) -> None:
        """Once for each state that is not the trusted one."""
        if not trusted.others:
            self._told = ""
        elif trusted.digest != self._told:
            names = " ".join(trusted.others)
            wrong = trusted.mistyped
            self._notice(NoticeKind.UNTRUSTED, trusted, wrong or f"not as it was trusted: {names}")
            fix = "agent-mailer config edit" if wrong else "agent-mailer config trust"
            self._room.log.emit(EventName.UNTRUSTED, names=names, why=wrong or None, fix=fix)
            self._told = trusted.digest

    def _notice(self, kind: NoticeKind, trusted: Trusted, why: str) -> None:
        notice = Notice(
            # Who writes other values in the same keys again and again is told of once.
            id=f"{kind}-{trusted.subject[:16]}",
            kind=kind,
            at=self._room.clock.now(),
            reason=trusted.basis,
            why=why,
        )
        self._room.notices.tell(notice)
