"""`turns/<turn-id>/`: one folder a turn, `turn.json` its redo log; `inflight.json` is the index of the open ones."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.beneath import is_folder, is_there, names_in, opened
from agent_mailer.disk import Sync, of_the_moment, read_regular
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import is_turn_id
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.records import Batched, Phase, StopAsked, TurnProgress, TurnRecord, is_sound
from agent_mailer.turn_tools.folder import TurnFolder

PROGRESS = "progress.json"
STOP = "stop.json"
SETTLED = "settled"
"""Marker file. Its loss in a power failure makes the settlement apply once more, which changes nothing."""

STOPPING = "stopping"
"""In the state folder while a watcher stops: whoever ends it then, ends its turns too, and none of them is to blame."""

GONE = ".gone."
"""What the name of a turn begins with while its folder is being removed."""

_MOST_PROGRESS = 64 * 1024

MOST_OPEN = 65
"""So many turns may run side by side, the urgent one included."""


class OpenTurn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the index; enough to find its messages again should its turn.json be unreadable."""

    turn_id: str
    msg_id: str
    thread_id: str
    phase: Phase
    started_at: float
    envelope: Envelope
    batch: tuple[Envelope, ...] = ()
    """The other messages of a turn that was handed several."""

    @property
    def envelopes(self) -> tuple[Envelope, ...]:
        return (self.envelope, *self.batch)


class _Index(msgspec.Struct, omit_defaults=True):
    turns: list[OpenTurn] = msgspec.field(default_factory=list)


class TurnStore:
    """Every turn there is, open and settled."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._index_path = folder.path / "inflight.json"
        self._stopping = folder.path / STOPPING
        self._known: dict[str, OpenTurn] | None = None
        self._sent: dict[str, set[str]] = {}
        """By thread, of the turns in `_sent_of`."""
        self._sent_of: set[str] = set()
        self._gone: list[str] = []
        """Folders of turns that are removed, and not empty yet."""

    def path(self, turn_id: str) -> Path:
        return self._folder.turns / turn_id

    def folder(self, turn_id: str) -> TurnFolder:
        return TurnFolder(self.path(turn_id), self._folder.disk)

    def create(self, record: TurnRecord) -> None:
        """The claim, durable when it returns (I3)."""
        path = self.path(record.turn_id)
        self._folder.disk.make_directory(path)
        self._folder.disk.create(path / "turn.json", encode_record(record), sync=Sync.FULL)
        self._folder.disk.sync_directory(self._folder.turns)
        self._note(record)

    def save(self, record: TurnRecord) -> None:
        """Durable when it returns."""
        self._folder.disk.replace(self.path(record.turn_id) / "turn.json", encode_record(record), sync=Sync.FULL)
        if record.phase is not Phase.SETTLING:
            self._note(record)

    def note_progress(self, turn_id: str, progress: TurnProgress) -> None:
        """For those who look on; never relied on."""
        with suppress(OSError):
            self._folder.disk.overwrite(self.path(turn_id) / PROGRESS, msgspec.json.encode(progress))

    def progress(self, turn_id: str) -> TurnProgress | None:
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(read_regular(self.path(turn_id) / PROGRESS, _MOST_PROGRESS), type=TurnProgress)
        return None

    def ask_stop(self, turn_id: str, asked: StopAsked) -> None:
        """Durable when it returns: whoever follows the turn ends it, and its settlement does what was asked."""
        self._folder.disk.replace(self.path(turn_id) / STOP, msgspec.json.encode(asked), sync=Sync.FULL)

    def stop_asked(self, turn_id: str) -> StopAsked | None:
        """Raises OSError where that cannot be told just now."""
        try:
            data = read_regular(self.path(turn_id) / STOP)
        except OSError as error:
            if of_the_moment(error):
                raise
            return None
        with suppress(*GARBLED):
            return msgspec.json.decode(data, type=StopAsked)
        return None

    def stop_begins(self) -> None:
        """Durable when it returns."""
        self._folder.disk.replace(self._stopping, b"", sync=Sync.FULL)

    def stop_was_cut_off(self) -> bool:
        """Whether the last watcher was ended while it stopped."""
        return os.path.lexists(self._stopping)

    def stop_is_over(self) -> None:
        if self.stop_was_cut_off():
            self._folder.disk.remove(self._stopping)

    def load(self, turn_id: str) -> TurnRecord | None:
        """None where there is no such turn or its record is damaged; OSError where it cannot be read just now."""
        with suppress(*GARBLED):
            try:
                data = read_regular(self.path(turn_id) / "turn.json")
            except OSError as error:
                if of_the_moment(error):
                    raise
                return None
            record = msgspec.json.decode(data, type=TurnRecord)
            # Its id becomes a path: only the folder's own name may.
            return record if record.turn_id == turn_id and is_sound(record) else None
        return None

    def sent_into(self, thread: str) -> set[str]:
        """Ids of what turns have sent into the thread, or are about to. What a settled one sent is read once.

        Raises OSError where one cannot be read just now.
        """
        about_to: set[str] = set()
        for turn_id in self.ids():
            if turn_id in self._sent_of:
                continue
            settled = self.is_settled(turn_id)
            record = self.load(turn_id)
            for entry in record.settlement.items if record is not None and record.settlement is not None else ():
                if settled:
                    self._sent.setdefault(entry.item.thread, set()).add(entry.item.id)
                elif entry.item.thread == thread:
                    about_to.add(entry.item.id)
            if settled:
                self._sent_of.add(turn_id)
        return about_to | self._sent.get(thread, set())

    def is_settled(self, turn_id: str) -> bool:
        return is_there(self.path(turn_id) / SETTLED)

    def mark_settled(self, turn_id: str, *, durable: bool = False) -> None:
        marker = self.path(turn_id) / SETTLED
        if durable or not is_there(marker):
            if durable:
                self._folder.disk.replace(marker, b"", sync=Sync.FULL)
            else:
                self._folder.disk.overwrite(marker, b"")
        self._index.pop(turn_id, None)
        self._write_index()

    def drop(self, turn_id: str) -> None:
        """Forget a turn whose message was never ours."""
        self.remove([turn_id])
        # There is little in it, and claims that a full disk refuses come again and again.
        self.sweep()
        self._index.pop(turn_id, None)
        self._write_index()

    def ids(self) -> list[str]:
        """Every turn's id, oldest first."""
        if not is_folder(self._folder.turns):
            return []
        with opened(self._folder.turns) as fd, os.scandir(fd) as entries:
            return sorted(e.name for e in entries if is_turn_id(e.name) and e.is_dir(follow_symlinks=False))

    def newest_settled(self, count: int) -> list[str]:
        """The newest turns that are settled, the last one first. Reads no more than their names, however many."""
        from heapq import nlargest

        if not is_folder(self._folder.turns):
            return []
        # Of the newest a few may be open still, or no turns at all.
        newest = nlargest(count + MOST_OPEN, names_in(self._folder.turns))
        return [name for name in newest if is_turn_id(name) and self.is_settled(name)][:count]

    def open_ids(self) -> list[str]:
        ids = self.ids()
        if not ids:
            return []
        with opened(self._folder.turns) as fd:
            return [turn_id for turn_id in ids if not _has(fd, f"{turn_id}/{SETTLED}")]

    def indexed(self) -> list[OpenTurn]:
        """The index as the last writer left it; where it cannot be read, the folders tell the same."""
        try:
            return msgspec.json.decode(read_regular(self._index_path), type=_Index).turns
        except FileNotFoundError:
            return []
        except (OSError, *GARBLED):
            records = (self.load(turn_id) for turn_id in self.open_ids())
            return [_index_row(record) for record in records if record is not None]

    def remake_index(self) -> bool:
        """Write the index anew where it does not name the open turns. False where it did."""
        found = {r.turn_id: r for r in map(self.load, self.open_ids()) if r is not None}
        if {row.turn_id for row in self._rows_written()} == set(found):
            return False
        self._known = {turn_id: _index_row(record) for turn_id, record in found.items()}
        self._write_index()
        return True

    def vanished(self) -> list[OpenTurn]:
        """Open turns by the index whose folder is gone altogether."""
        return [row for row in self._rows_written() if not is_there(self.path(row.turn_id))]

    def index_is_damaged(self) -> str:
        """Why the index cannot be read; empty where it can, or is not there."""
        try:
            msgspec.json.decode(read_regular(self._index_path), type=_Index)
        except FileNotFoundError:
            return ""
        except OSError as error:
            if of_the_moment(error):
                raise
            return "not a file"
        except GARBLED as error:
            return str(error)
        return ""

    def _rows_written(self) -> list[OpenTurn]:
        with suppress(FileNotFoundError, *GARBLED):
            rows = msgspec.json.decode(read_regular(self._index_path), type=_Index).turns
            return [row for row in rows if is_turn_id(row.turn_id)]
        return []

    def remove(self, turn_ids: list[str]) -> None:
        """Whole or not at all: a crash must not bring back a record without the marker that it was settled.

        The names are gone durably before anything in the folders is; what a crash leaves of those goes the next time.
        """
        turns, disk = self._folder.turns, self._folder.disk
        for turn_id in turn_ids:
            with suppress(FileNotFoundError):
                disk.move(turns / turn_id, turns / f"{GONE}{turn_id}", sync=Sync.NONE)
        self._gone = [name for name in names_in(turns) if name.startswith(GONE)]
        if self._gone:
            disk.sync_directory(turns)

    def sweep(self) -> bool:
        """A part of what is in those folders; True once none is left. Raises OSError."""
        disk = self._folder.disk
        while self._gone and disk.remove_some(self._folder.turns / self._gone[-1]):
            self._gone.pop()
        return not self._gone

    @property
    def _index(self) -> dict[str, OpenTurn]:
        """What is open, at first as the last writer left it: a row must outlive what happens to its turn's record."""
        if self._known is None:
            rows = (row for row in self.indexed() if is_turn_id(row.turn_id))
            self._known = {
                row.turn_id: row
                for row in rows
                if is_folder(self.path(row.turn_id)) and not self.is_settled(row.turn_id)
            }
        return self._known

    def _note(self, record: TurnRecord) -> None:
        self._index[record.turn_id] = _index_row(record)
        self._write_index()

    def drop_empty_index(self) -> None:
        """Another AMP client looks into every one that it finds."""
        if not self._index:
            self._write_index()

    def _write_index(self) -> None:
        if not self._index:
            with suppress(OSError):
                self._folder.disk.remove(self._index_path)
            return
        data = msgspec.json.format(msgspec.json.encode(_Index(list(self._index.values()))), indent=2) + b"\n"
        with suppress(OSError):
            self._folder.disk.overwrite(self._index_path, data)


def _has(folder: int, name: str) -> bool:
    """As `is_there`, for a name in one of thousands of folders."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _index_row(record: TurnRecord) -> OpenTurn:
    envelope = record.envelope
    batch = envelopes_of(record)[1:]
    return OpenTurn(record.turn_id, envelope.id, envelope.thread, record.phase, began_at(record), envelope, batch)


def encode_record(record: TurnRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def shares(record: TurnRecord) -> tuple[TurnRecord, ...]:
    """The turn as each of its messages sees it, its own first: that one has what is the turn's as a whole."""
    return (record, *(_beside(record, other) for other in record.batch))


def share_of(record: TurnRecord, message_id: str) -> TurnRecord:
    """The turn as this message of its batch sees it; as its own does where that is none."""
    return next((one for one in shares(record) if one.envelope.id == message_id), record)


def began_at(record: TurnRecord) -> float:
    """When its program did; of a turn that has not come so far, when it was claimed."""
    return record.started_at or record.claimed_at


def envelopes_of(record: TurnRecord) -> tuple[Envelope, ...]:
    """Of all the messages that the turn was handed, its own first."""
    return (record.envelope, *(one.envelope for one in record.batch))


def ids_of(record: TurnRecord) -> frozenset[str]:
    return frozenset(envelope.id for envelope in envelopes_of(record))


def _beside(record: TurnRecord, other: Batched) -> TurnRecord:
    return msgspec.structs.replace(
        record,
        envelope=other.envelope,
        digest=other.digest,
        content=other.content,
        route=other.route,
        settlement=other.settlement,
        counted=other.counted,
        attempt=1,
        starts=1,
        rerun=None,
        batch=(),
    )
