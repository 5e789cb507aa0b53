"""What waits for a person: `stuck.jsonl`, and `unsent.txt`, the answers that did not leave.

What is given up is in `dead_letter.jsonl`, what was refused in its turn's record. The first file holds only what has no
such record, the second is an index of what was refused.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from enum import StrEnum
from functools import cached_property

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import is_turn_id, printable
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import UNSENT, TurnRecord

MOST = 100_000
"""Lines of the file. Beyond them the oldest are only counted: their mail stays where the mailbox has put it."""

SPARED = 10_000
"""So many go at once, so that a full file is not written anew for each line."""

LARGEST_ENVELOPE = 64 * 1024
DAY = 86400.0


class StuckKind(StrEnum):
    """Why something waits for a person."""

    GIVEN_UP = "given-up"
    NOT_SENT = "not-sent"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    USED_ID = "used-id"
    NOT_FETCHED = "not-fetched"
    NO_WAY_BACK = "no-way-back"


STILL_LISTED = (StuckKind.NOT_FETCHED, StuckKind.NO_WAY_BACK)
"""The mail of these waits where it lies; it is passed over as long as its line stands."""


class StuckEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: what it is (`key` is unique within its kind), why, and since which moment.

    `locator` is the mailbox's own handle, `digest` that of the content where it is known. A line with no key tells of
    `older` ones that are only counted. `unheard`: its sender is to be told; `wanted`: its mailbox is to be asked for it
    again. The last line of its name tells of these two, and of `why` where it has one. `reply_to` is the way back that
    it names, where there is no `envelope`.
    """

    kind: StuckKind
    key: str
    at: float
    why: str = ""
    message_id: str = ""
    thread: str = ""
    sender: str = ""
    locator: str = ""
    digest: str = ""
    envelope: Envelope | None = None
    older: int = 0
    unheard: bool = False
    wanted: bool = False
    reply_to: str = ""


class Stuck:
    """Append-only but for retry and drop. An idle watcher never reads it."""

    def __init__(self, folder: StateFolder, most: int = MOST, spared: int = SPARED) -> None:
        self._folder = folder
        self._path = folder.path / "stuck.jsonl"
        self._most, self._spared = most, spared
        self._known: dict[tuple[StuckKind, str], StuckEntry] | None = None
        self._untold: deque[StuckEntry] = deque()
        self._unheard: set[tuple[StuckKind, str]] = set()
        self._wanted: dict[tuple[StuckKind, str], None] = {}

    def add(
        self,
        kind: StuckKind,
        key: str,
        envelope: Envelope | None,
        why: str,
        *,
        sender: str = "",
        thread: str = "",
        locator: str = "",
        digest: str = "",
        reply_to: str = "",
    ) -> bool:
        """Durable when it returns; False where it was there already. Raises OSError.

        Call it before the mailbox moves anything, and again after a crash.
        """
        known = self._load()
        if (kind, key) in known:
            return False
        if envelope is not None and len(msgspec.json.encode(envelope)) > LARGEST_ENVELOPE:
            envelope = None
        entry = StuckEntry(
            kind,
            key,
            self._folder.clock.now(),
            printable(why, 600),
            message_id=(envelope.id if envelope else "")[:1000],
            thread=(envelope.thread if envelope else thread)[:1000],
            sender=(envelope.sender if envelope else sender)[:1000],
            locator=envelope.locator if envelope else locator,
            digest=digest,
            envelope=envelope,
            # What the mailbox moves is listed until its sender was told; this one stays listed anyway.
            unheard=kind is StuckKind.NOT_FETCHED,
            reply_to="" if envelope else reply_to[:1000],
        )
        self._folder.clear_way(self._path)
        self._folder.disk.append_line(self._path, msgspec.json.encode(entry), sync=Sync.FULL)
        self._keep(known, entry)
        self._untold.append(entry)
        if kind in STILL_LISTED:
            self.waiting.add(key)
        if len(known) > self._most:
            self._count_oldest(known)
        return True

    def heard(self, entry: StuckEntry) -> None:
        """Its sender was told. Durable when it returns."""
        self._say(entry, wanted=entry.wanted)

    def want(self, entry: StuckEntry) -> None:
        """A person wants it asked for again. Durable when it returns."""
        if not entry.wanted:
            self._say(entry, unheard=entry.unheard, wanted=True)

    def refused(self, entry: StuckEntry, why: str) -> None:
        """It was asked for in vain. Durable when it returns."""
        self._say(entry, why=printable(why, 600), unheard=entry.unheard)

    def _say(self, entry: StuckEntry, *, why: str = "", unheard: bool = False, wanted: bool = False) -> None:
        line = StuckEntry(entry.kind, entry.key, entry.at, why, unheard=unheard, wanted=wanted)
        self._folder.disk.append_line(self._path, msgspec.json.encode(line), sync=Sync.FULL)
        self._keep(self._load(), line)

    def _keep(self, known: dict[tuple[StuckKind, str], StuckEntry], line: StuckEntry) -> None:
        name = (line.kind, line.key)
        first = known.get(name)
        if first is not None:
            why = line.why or first.why
            line = msgspec.structs.replace(first, why=why, unheard=line.unheard and first.unheard, wanted=line.wanted)
        known[name] = line
        (self._unheard.add if line.unheard else self._unheard.discard)(name)
        if line.wanted:
            self._wanted[name] = None
        else:
            self._wanted.pop(name, None)

    @property
    def unheard(self) -> list[StuckEntry]:
        """Whose senders are still to be told."""
        known = self._load()
        return [known[key] for key in self._unheard if key in known]

    @cached_property
    def wanted(self) -> dict[tuple[StuckKind, str], None]:
        """Names of what its mailbox is to be asked for again. Not to be changed."""
        self._load()
        return self._wanted

    def get(self, kind: StuckKind, key: str) -> StuckEntry | None:
        return self._load().get((kind, key))

    def all(self) -> list[StuckEntry]:
        """Oldest first, without those that are only counted."""
        return [entry for entry in self._load().values() if entry.key]

    def counts(self) -> Counter[StuckKind]:
        """How many there are, with those that are only counted."""
        found: Counter[StuckKind] = Counter()
        for entry in self._load().values():
            found[entry.kind] += entry.older or 1
        return found

    @cached_property
    def waiting(self) -> set[str]:
        """Ids of messages that the mailbox still lists and that wait for a person: no candidates until then."""
        return {key for kind, key in self._load() if kind in STILL_LISTED}

    @property
    def untold(self) -> deque[StuckEntry]:
        """What was added and is still to be taken out by who tells of it; at first also what an earlier watcher added
        within a day: it may not have told it.
        """
        self._load()
        return self._untold

    def remove(self, keys: Collection[tuple[StuckKind, str]]) -> int:
        """Durable when it returns; returns how many were there."""
        known = self._load()
        gone = [key for key in keys if key in known]
        if gone:
            without = set(gone)
            self._write({key: entry for key, entry in known.items() if key not in without})
            for key in gone:
                self._unheard.discard(key)
                self._wanted.pop(key, None)
            self.waiting.difference_update(key for kind, key in gone if kind in STILL_LISTED)
        return len(gone)

    def _count_oldest(self, known: dict[tuple[StuckKind, str], StuckEntry]) -> None:
        """Those that the mailbox still lists are never among them: without their line they would run."""
        movable = [key for key, entry in known.items() if entry.key and key[0] not in STILL_LISTED]
        going = movable[: self._spared]
        older = Counter(kind for kind, _ in going)
        for kind in older:
            before = known.get((kind, ""))
            older[kind] += before.older if before is not None else 0
        counts = {(kind, ""): StuckEntry(kind, "", 0.0, older=number) for kind, number in older.items()}
        gone = {*going, *counts}
        self._write(counts | {key: entry for key, entry in known.items() if key not in gone})

    def _write(self, entries: dict[tuple[StuckKind, str], StuckEntry]) -> None:
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries.values())
        self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        self._known = entries

    def _load(self) -> dict[tuple[StuckKind, str], StuckEntry]:
        if self._known is None:
            found: dict[tuple[StuckKind, str], StuckEntry] = {}
            for entry in self._folder.read_lines(self._path, msgspec.json.Decoder(StuckEntry).decode):
                self._keep(found, entry)
            self._known = found
            yesterday = self._folder.clock.now() - DAY
            self._untold = deque(entry for entry in found.values() if entry.key and entry.at > yesterday)
        return self._known


class Unsent:
    """`unsent.txt`: which items of settled turns were refused, as `<turn id>.<number>` a line. The records decide."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "unsent.txt"
        self._keys: dict[str, None] | None = None

    def all(self) -> list[str]:
        """Oldest first."""
        return list(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def note(self, record: TurnRecord) -> None:
        """Remember what of this turn did not leave. Raises OSError."""
        for key in unsent_of(record):
            if key not in self._load():
                self._folder.clear_way(self._path)
                # Lost with the power it is found again in the record, at the next start.
                self._folder.disk.append_line(self._path, key.encode(), sync=Sync.NONE)
                self._load()[key] = None

    def remove(self, keys: Iterable[str]) -> None:
        known, gone = self._load(), set(keys)
        if not gone.isdisjoint(known):
            left = {key: None for key in known if key not in gone}
            # What has left is not told of again.
            self._folder.disk.replace(self._path, b"".join(key.encode() + b"\n" for key in left), sync=Sync.FULL)
            self._keys = left

    def _load(self) -> dict[str, None]:
        if self._keys is None:
            lines = (self._folder.bytes_of(self._path) or b"").decode("ascii", "replace").split("\n")
            self._keys = {line: None for line in lines if split_key(line) is not None}
        return self._keys


def unsent_of(record: TurnRecord) -> list[str]:
    """The keys of what was written in this turn and did not leave. A record that sends again has none of its own."""
    if record.settlement is None or record.resends:
        return []
    return [
        f"{record.turn_id}.{number}"
        for number, entry in enumerate(record.settlement.items)
        if entry.state in UNSENT and not entry.own
    ]


def split_key(key: str) -> tuple[str, int] | None:
    """The turn and the item's number in it."""
    turn_id, dot, number = key.partition(".")
    plain = number.isascii() and number.isdecimal() and len(number) < 10
    return (turn_id, int(number)) if dot and is_turn_id(turn_id) and plain else None
