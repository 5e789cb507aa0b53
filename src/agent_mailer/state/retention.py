"""What is kept of a settled message and its turns, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

import msgspec

from agent_mailer.beneath import holding, status
from agent_mailer.disk import Sync
from agent_mailer.names import turn_id_at
from agent_mailer.state.approvals import Approvals
from agent_mailer.state.dead_letters import DeadLetters
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Held
from agent_mailer.state.processed import Cursor, Processed
from agent_mailer.state.records import UNSENT, ItemState, SettledItem, TurnRecord
from agent_mailer.state.retries import Retries
from agent_mailer.state.stuck import Unsent, unsent_of
from agent_mailer.state.turns import PROGRESS, SETTLED, STOP, TurnStore, encode_record, ids_of

MAX_TOTAL_BYTES = 2 * 1024**3
COUNTED = 86400.0
"""So long a claim counts for the guards."""

_AT_ONCE = 20


class Files(Protocol):
    """What of a workdir's state this is about."""

    @property
    def folder(self) -> StateFolder: ...

    @property
    def turns(self) -> TurnStore: ...

    @property
    def processed(self) -> Processed: ...

    @property
    def retries(self) -> Retries: ...

    @property
    def cursor(self) -> Cursor: ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    @property
    def unsent(self) -> Unsent: ...

    @property
    def held(self) -> Held: ...

    @property
    def approvals(self) -> Approvals: ...


class Retention:
    def __init__(self, files: Files) -> None:
        self._folder = files.folder
        self._disk = files.folder.disk
        self._clock = files.folder.clock
        self._turns = files.turns
        self._processed = files.processed
        self._retries = files.retries
        self._cursor = files.cursor
        self._dead_letters = files.dead_letters
        self._unsent = files.unsent
        self._held = files.held
        self._approvals = files.approvals

    def finish_message(self, message_id: str) -> None:
        """From here on it counts as settled: of what was to be done nothing is kept but its id."""
        self._processed.add(message_id)
        self._retries.remove(message_id)
        self._cursor.move_to(message_id)

    def summarise(self, record: TurnRecord) -> None:
        """Take what was delivered and noted out of a settled turn's record; what did not leave stays for people.

        An item counts as delivered from then on: a settlement applied again never sends what is no longer there.
        """
        settlement = record.settlement
        if settlement is None or not (settlement.items or settlement.notes):
            return
        items = tuple(_without_body(entry) for entry in settlement.items)
        short = msgspec.structs.replace(record, settlement=msgspec.structs.replace(settlement, items=items, notes=()))
        # A crash may leave nothing of it: that costs the record of what is done, but what has not left is nowhere else.
        kept = any(entry.state in UNSENT for entry in items)
        sync = Sync.CONTENT if kept else Sync.NONE
        self._disk.replace(self._turns.path(record.turn_id) / "turn.json", encode_record(short), sync=sync)

    def strip_message(self, record: TurnRecord, keep_transcripts: int) -> bool:
        """Remove the mail from every turn of a finished message; False where there was so much that some is left.

        One that was handed several messages keeps it until the last of them is finished. What cannot be removed now
        goes with the turns.
        """
        for turn_id in self._over_with(record):
            with suppress(OSError):
                if not self.strip(turn_id, keep_transcripts):
                    return False
        return True

    def _over_with(self, record: TurnRecord) -> list[str]:
        """The turns of a finished message that no other needs."""
        earlier = record.rerun.history if record.rerun else ()
        found = []
        for turn_id in sorted({record.turn_id, *(attempt.turn_id for attempt in earlier)}):
            with suppress(OSError):
                turn = record if turn_id == record.turn_id else self._turns.load(turn_id)
                if turn is None or not turn.batch or ids_of(turn) == self._processed.among(ids_of(turn)):
                    found.append(turn_id)
        return found

    def strip(self, turn_id: str, keep_transcripts: int) -> bool:
        """Remove the mail from a settled turn, and the transcript where none is kept; False where some is left."""
        directory = self._turns.path(turn_id)
        transcript = ("stdout", "stderr", "exit", "started") if keep_transcripts == 0 else ()
        with holding(directory):
            if not self._turns.folder(turn_id).strip():
                return False
            left = self._folder.clear_interrupted(directory)
            for name in (PROGRESS, STOP, *transcript):
                if name in left:
                    self._disk.remove(directory / name)
        return True

    def prune(self, keep_days: int, still_needed: Callable[[], Collection[str]]) -> Iterator[None]:
        """Remove settled turns past their days, and the oldest ones past the total size. Between two steps, of some
        milliseconds each, others may go on.

        `still_needed`: message ids that are not settled; their turns stay, as retries can be rebuilt from them. So does
        the record of what waits for a person, with what could not be sent; the transcript beside it goes.
        """
        now = self._clock.now()
        with suppress(OSError):
            self._approvals.prune({one for entry in self._retries.all() for one in entry.asked})
        # Long where there are many, so that they are read for those turns alone that may be among them.
        given_up = cache(self._dead_letters.turn_ids)
        removed: list[tuple[str, frozenset[str]]] = []
        sizes: list[tuple[str, int, frozenset[str]]] = []
        for number, turn_id in enumerate(self._turns.ids()):
            if number % _AT_ONCE == 0:
                yield
                needed = frozenset(still_needed())
            path = self._turns.path(turn_id)
            try:
                age = now - status(path / SETTLED).st_mtime
            except FileNotFoundError:
                continue
            with suppress(OSError):
                # Of a watcher that was killed once the turn was settled: nobody else comes back to it.
                self._folder.clear_interrupted(path)
            record = self._turns.load(turn_id)
            ids = ids_of(record) if record is not None else frozenset[str]()
            if not ids.isdisjoint(needed):
                continue
            past = age > max(keep_days, 1) * 86400
            if (_may_be_given_up(record) and turn_id in given_up()) or (record is not None and unsent_of(record)):
                with suppress(OSError):
                    if record is not None:
                        self._unsent.note(record)
                    if past:
                        self.strip(turn_id, 0)
                continue
            if past:
                removed.append((turn_id, ids))
            else:
                sizes.append((turn_id, _size(path), ids))
        total = sum(size for _, size, _ in sizes)
        recent = turn_id_at(now - COUNTED)
        for turn_id, size, ids in sizes:
            if total <= MAX_TOTAL_BYTES:
                break
            total -= size
            if turn_id < recent:
                removed.append((turn_id, ids))
            else:
                # The guards count it still: only its output goes.
                with suppress(OSError):
                    self.strip(turn_id, 0)
        yield
        # Of what was looked at a while ago some may be wanted again.
        needed = frozenset(still_needed())
        self._turns.remove([turn_id for turn_id, ids in removed if ids.isdisjoint(needed)])
        while not self._turns.sweep():
            yield
        with suppress(OSError):
            self._held.tidy(self._processed.__contains__)


def _may_be_given_up(record: TurnRecord | None) -> bool:
    """Whether a message of that turn was given up by it; what cannot be read may be anything."""
    if record is None:
        return True
    settlements = (record.settlement, *(one.settlement for one in record.batch))
    return any(one is not None and one.dead is not None for one in settlements)


def _without_body(entry: SettledItem) -> SettledItem:
    if entry.state in UNSENT or entry.state is ItemState.DROPPED:
        return entry
    item = msgspec.structs.replace(entry.item, payload="")
    return SettledItem(item, ItemState.DELIVERED, about=entry.about)


def _size(path: Path) -> int:
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            with suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
