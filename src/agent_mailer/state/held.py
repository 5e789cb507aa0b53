"""`held.jsonl`: mail that is ours and is not worked on until a person says so.

Appended to, and folded at the first look: a line that ends a hold stands behind the one that began it. Memory holds
ids and names alone, however long the mail's envelopes are; an idle watcher never reads the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import printable
from agent_mailer.state.folder import GARBLED, StateFolder

MOST = 100_000
"""So much is held. Beyond it the oldest of `who` is only counted: its mail stays where the mailbox has put it."""

SPARED = 10_000
"""So many go at once, and so many ended lines stand before the file is written anew."""

_FIRST = b'{"message_id":'
"""How a line of ours begins."""


class Guard(StrEnum):
    """Who holds it."""

    WHO = "who"
    HOPS = "hops"
    PAIR = "pair"
    RING = "ring"
    THREAD = "thread"
    FAN_OUT = "fan-out"
    DAY = "day"
    BUDGET = "budget"


class Ended(StrEnum):
    """How a hold ended."""

    RELEASED = "released"
    DROPPED = "dropped"


class HeldEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `question` is the same for all that one question to the operator is about.

    With `ended` it says no more than that; with no `envelope`, how many `older` ones are only counted.
    """

    message_id: str
    at: float = 0.0
    guard: Guard = Guard.WHO
    why: str = ""
    question: str = ""
    envelope: Envelope | None = None
    ended: Ended | None = None
    older: int = 0


class _Known(NamedTuple):
    """What memory keeps of a line."""

    message_id: str
    guard: Guard
    ended: Ended | None
    older: int


class Held:
    def __init__(self, folder: StateFolder, most: int = MOST, spared: int = SPARED) -> None:
        self._folder = folder
        self._path = folder.path / "held.jsonl"
        self._most, self._spared = most, spared
        self._older = 0
        self._ended = 0

    @cached_property
    def waiting(self) -> dict[str, Guard]:
        """Ids of messages that wait for a person, oldest first: no candidates until then. Not to be changed."""
        found: dict[str, Guard] = {}
        self._older = self._ended = 0
        decoder = msgspec.json.Decoder(HeldEntry)
        for line in self._folder.read_lines(self._path, lambda line: _known(decoder.decode(line))):
            self._older += line.older
            if line.ended is not None:
                found.pop(line.message_id, None)
                self._ended += 1
            elif line.message_id:
                found[line.message_id] = line.guard
        return found

    def counts(self) -> Counter[Guard]:
        """With those that are only counted."""
        found = Counter(self.waiting.values())
        found[Guard.WHO] += self._older
        return +found

    def add(self, entries: Iterable[HeldEntry]) -> None:
        """Durable when it returns, all by one write; what is held already stays as it is. Raises OSError.

        Call it before the mailbox hands anything over, and again after a crash.
        """
        known = self.waiting
        new = {entry.message_id: entry for entry in entries if entry.message_id not in known}
        if not new:
            return
        self._append(map(_bounded, new.values()))
        known.update({message_id: entry.guard for message_id, entry in new.items()})
        if len(known) > self._most:
            self._count_oldest(known)

    def all(self) -> Iterator[HeldEntry]:
        """Oldest first, read from the file: those that are only counted are not among them."""
        known = self.waiting
        # Whoever was let go and is held once more has two lines: the later one counts.
        last = {entry.message_id: entry for entry in self._entries() if entry.envelope and not entry.ended}
        yield from (entry for message_id, entry in last.items() if message_id in known)

    def find(self, message_ids: Collection[str]) -> dict[str, HeldEntry]:
        """Those of them that are held."""
        wanted = set(message_ids) & self.waiting.keys()
        if not wanted:
            return {}
        marks = {_FIRST + msgspec.json.encode(message_id) + b"," for message_id in wanted}
        if any(b"\\" in mark for mark in marks):
            return {entry.message_id: entry for entry in self.all() if entry.message_id in wanted}
        # Looking at how a line begins costs a tenth of reading it.
        longest = max(map(len, marks))
        found: dict[str, HeldEntry] = {}
        for line in self._folder.lines_of(self._path):
            start = line[:longest]
            if start[: start.find(b'",', len(_FIRST) + 1) + 2] in marks:
                with suppress(*GARBLED):
                    entry = msgspec.json.decode(line, type=HeldEntry)
                    if entry.envelope is not None and not entry.ended:
                        found[entry.message_id] = entry
        return found

    def released(self) -> list[Envelope]:
        """What was let go, as far as the file still tells: its retry may be lost before its first turn."""
        envelopes: dict[str, Envelope] = {}
        let_go: dict[str, Envelope] = {}
        for entry in self._entries():
            if entry.envelope is not None:
                envelopes[entry.message_id] = entry.envelope
            if entry.ended is Ended.RELEASED and entry.message_id in envelopes:
                let_go[entry.message_id] = envelopes[entry.message_id]
        return [envelope for message_id, envelope in let_go.items() if message_id not in self.waiting]

    def end(self, message_ids: Iterable[str], how: Ended) -> int:
        """Durable when it returns; how many were held. What becomes of the mail is durable before. Raises OSError."""
        known = self.waiting
        gone = [message_id for message_id in dict.fromkeys(message_ids) if message_id in known]
        if gone:
            self._append(HeldEntry(message_id, ended=how) for message_id in gone)
            for message_id in gone:
                del known[message_id]
            self._ended += len(gone)
        return len(gone)

    def tidy(self, is_settled: Callable[[str], bool]) -> None:
        """Write the file without what ended, once that is much. `is_settled`: no crash can lose what became of it."""
        known = self.waiting
        if self._ended < self._spared:
            return
        kept = [e for e in self._entries() if e.message_id in known or not is_settled(e.message_id)]
        self._write(kept)
        self._ended = sum(entry.ended is not None for entry in kept)

    def _count_oldest(self, known: dict[str, Guard]) -> None:
        """What a loop or a budget has stopped is never among them: it may be work that somebody waits for."""
        going = set([message_id for message_id, guard in known.items() if guard is Guard.WHO][: self._spared])
        if not going:
            return
        older = self._older + len(going)
        rest = (e for e in self._entries() if e.message_id and e.message_id not in going)
        self._write([HeldEntry("", older=older), *rest])
        self._older = older
        for message_id in going:
            del known[message_id]

    def _append(self, entries: Iterable[HeldEntry]) -> None:
        self._folder.clear_way(self._path)
        self._folder.disk.append_line(self._path, b"\n".join(map(msgspec.json.encode, entries)), sync=Sync.FULL)

    def _write(self, entries: Iterable[HeldEntry]) -> None:
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        self._folder.disk.replace(self._path, data, sync=Sync.FULL)

    def _entries(self) -> Iterator[HeldEntry]:
        for line in self._folder.lines_of(self._path):
            with suppress(*GARBLED):
                yield msgspec.json.decode(line, type=HeldEntry)


def _known(entry: HeldEntry) -> _Known:
    return _Known(entry.message_id, entry.guard, entry.ended, entry.older)


def _bounded(entry: HeldEntry) -> HeldEntry:
    return msgspec.structs.replace(entry, why=printable(entry.why, 600))
