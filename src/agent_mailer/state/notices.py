"""`guards.json`: what the operator was told already, and what he is still to be told. It outlives every crash."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.state.folder import StateFolder

REMEMBER_TURNS = 1024
"""A settlement may be applied again as long as its turn is kept; so many turns do not need a person in that time."""


class NoticeKind(StrEnum):
    """What a person is told of, once for each change."""

    BLOCKED = "blocked"
    DEAD_LETTER = "dead_letter"
    PAUSED = "paused"
    RESUMED = "resumed"
    TROUBLE = "trouble"
    TROUBLE_OVER = "trouble_over"
    TEST = "test"


class Channel(StrEnum):
    COMMAND = "command"
    MAIL = "mail"


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to be told. It holds names, moments and words of ours: nothing that a sender or an agent wrote.

    `reason` is an outcome, or what the pause or the trouble is; `at` and `until` are moments; `why` and `fix` belong to
    trouble. `left` are the channels by which it has not been told yet, `tries` how often the command has failed.
    """

    id: str
    kind: NoticeKind
    at: float
    reason: str
    turn_id: str = ""
    message_id: str = ""
    thread: str = ""
    sender: str = ""
    attempts: int = 0
    until: float | None = None
    why: str = ""
    fix: str = ""
    left: tuple[Channel, ...] = ()
    tries: int = 0


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """`turns`: those that were told of, the newest last; `pause`, `trouble`: what was told to last, empty = nothing."""

    turns: tuple[str, ...] = ()
    pause: str = ""
    trouble: str = ""
    waiting: tuple[Notice, ...] = ()
    serial: int = 0


class _Guards(msgspec.Struct, frozen=True, omit_defaults=True):
    notices: Told = Told()


class NoticeBook:
    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "guards.json"
        self._told: Told | None = None

    @property
    def told(self) -> Told:
        """Raises OSError where the file cannot be read now."""
        if self._told is None:
            self._told = self._folder.read(self._path, _Guards, _Guards()).notices
        return self._told

    def add(
        self, notice: Notice, *, pause: str | None = None, trouble: str | None = None, even_if_refused: bool = False
    ) -> None:
        """Remember that it is to be told; of a turn once. `pause`, `trouble`: what is told to last from here on.

        Raises OSError, and nothing is changed; with `even_if_refused` this watcher remembers what the disk refuses.
        """
        told = self.told
        if notice.turn_id and notice.turn_id in told.turns:
            return
        self._write(
            msgspec.structs.replace(
                told,
                turns=(*told.turns, notice.turn_id)[-REMEMBER_TURNS:] if notice.turn_id else told.turns,
                pause=told.pause if pause is None else pause,
                trouble=told.trouble if trouble is None else trouble,
                waiting=(*told.waiting, notice) if notice.left else told.waiting,
                serial=told.serial + 1,
            ),
            even_if_refused=even_if_refused,
        )

    def put(self, notice: Notice) -> None:
        """The new state of one that waits; it is told where nothing is left. A disk that refuses changes nothing."""
        waiting = tuple(notice if known.id == notice.id else known for known in self.told.waiting)
        kept = tuple(one for one in waiting if one.left)
        self._write(msgspec.structs.replace(self.told, waiting=kept), even_if_refused=True)

    def _write(self, told: Told, *, even_if_refused: bool) -> None:
        """Durable when it returns."""
        data = msgspec.json.format(msgspec.json.encode(_Guards(told)), indent=2) + b"\n"
        try:
            self._folder.clear_way(self._path)
            self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        except OSError:
            if not even_if_refused:
                raise
        self._told = told
