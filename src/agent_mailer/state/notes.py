"""The agent's notes (memory): where they lie, copies of them for a turn, and what the turn wrote coming back."""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from operator import attrgetter
from pathlib import Path

import msgspec

from agent_mailer.beneath import is_there, open_file
from agent_mailer.disk import TEMPORARY_PREFIX, Disk, Sync, read_regular
from agent_mailer.events import EventLog, EventName
from agent_mailer.names import GLOBAL_NOTE, memory_file, new_turn_id, one_line, turn_id_at
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.records import TurnRecord
from agent_mailer.state.turns import TurnStore, began_at
from agent_mailer.turn_tools.folder import MAIL, MAX_NOTE_BYTES, NOTE_COPY, NoteScope, NoteWrite

WRITTEN = "notes.written"
"""Marker file in the turn's folder: a settlement that is applied again leaves later texts alone."""

PATIENCE = 1.0
"""Seconds. The others hold it for two file operations; one that was stopped in between must not hold up a watcher."""

_LOOK_AGAIN = 0.01


BY_HAND, TOOL, FILE, REFUSED, KEPT = "by-hand", "tool", "file", "refused", "kept"
"""How a note changed: by a person's `memory`, by a turn's tools, in the file itself, the same but undone, or not at
all: its turn ended badly.
"""

KEPT_CHANGES = 500
NEWEST = 8
LARGEST_CHANGE = 2 * 1024 * 1024


class NoteChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """`note` is its file's name; `before` and `after` are None where there was none, or none that is small enough.

    One that was REFUSED left it as it is in `before`. `began`: when its turn's program did.
    """

    id: str
    note: str
    at: float
    how: str
    before: str | None = None
    after: str | None = None
    turn_id: str = ""
    thread: str = ""
    sender: str = ""
    began: float = 0.0


class NoteHistory:
    """In `note-history/`, a file a change. Nothing relies on it; what is KEPT is nowhere else."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "note-history"

    def add(self, change: NoteChange, *, sync: Sync = Sync.NONE) -> bool:
        """False where it is known already. Raises OSError."""
        path = self._path / f"{change.id}.json"
        if os.path.lexists(path):
            return False
        self._folder.disk.make_directory(self._path, sync=sync)
        self._folder.disk.replace(path, msgspec.json.encode(change) + b"\n", sync=sync)
        for name in self._names()[:-KEPT_CHANGES]:
            with suppress(OSError):
                self._folder.disk.remove(self._path / name)
        return True

    def all(self, note: str = "") -> Iterator[NoteChange]:
        """Of one note, or of all; what began last comes first, to the second. What cannot be read is passed over."""
        for name in reversed(self._names()):
            if note and f"-{_stem(note)}-" not in name:
                continue
            with suppress(OSError, *GARBLED):
                change = msgspec.json.decode(read_regular(self._path / name, LARGEST_CHANGE), type=NoteChange)
                if change.id == name.removesuffix(".json") and note in ("", change.note):
                    yield change

    def accounts_for(self, note: str, text: str | None, since: float) -> bool:
        """Whether one of the newest changes known of a note made it read so, and stood, at or after `since`."""
        newest = (change for change in islice(self.all(note), NEWEST) if change.at >= since)
        return any(change.after == text for change in newest if change.how not in (REFUSED, KEPT))

    def last_of_others(self, note: str, since: float, began: float) -> NoteChange | None:
        """The newest change at or after `since` by which a turn that `began` then knows how the note is to read.

        What was undone of one that began before it may be what this one was shown; of a later one it is the other way.
        """
        first, older, newest = turn_id_at(since), NEWEST, list[NoteChange]()
        for change in self.all(note):
            older -= change.id < first
            if older < 0:
                break
            if change.at >= since and (change.began < began if change.how == REFUSED else change.how != KEPT):
                newest.append(change)
        return max(newest, key=attrgetter("at"), default=None)

    def kept(self, turn_id: str) -> list[str]:
        """The changes that a turn did not come to make, by id."""
        names = (name.removesuffix(".json") for name in self._names())
        return [name for name in names if name.startswith(f"{turn_id}-") and name.endswith(f"-{KEPT}")]

    def _names(self) -> list[str]:
        with suppress(OSError):
            found = os.listdir(self._path)
            return sorted(name for name in found if name.endswith(".json") and not name.startswith(TEMPORARY_PREFIX))
        return []


class Notes:
    def __init__(self, folder: StateFolder, turns: TurnStore, log: EventLog) -> None:
        self._folder = folder
        self._turns = turns
        self._log = log
        self.history = NoteHistory(folder)

    def copies(self, thread: str) -> Mapping[NoteScope, bytes]:
        """What the notes hold now, at most MAX_NOTE_BYTES + 1 each; one that cannot be read is left out."""
        found: dict[NoteScope, bytes] = {}
        for scope in NoteScope:
            with suppress(OSError):
                found[scope] = read_regular(self._file(scope, thread), MAX_NOTE_BYTES)
        return found

    def write(self, record: TurnRecord, notes: Sequence[NoteWrite], *, fixed: bool = False) -> None:
        """Give the notes the texts that the turn left; the last writer wins. Raises OSError where the disk refuses.

        A text that is not the one the turn began with was written by somebody else meanwhile: it is kept beside it.
        With `fixed` the note of all threads stays as it was, whatever the turn has made of it.
        """
        self._note_direct(record, fixed=fixed)
        marker = self._turns.path(record.turn_id) / WRITTEN
        if not notes or is_there(marker):
            return
        for note in notes:
            if fixed and note.scope is NoteScope.GLOBAL:
                continue
            try:
                self._write(record, note)
            except PermissionError as error:
                # No waiting helps, and a note stops no settlement.
                kept = marker.with_name(f"unwritten-{note.scope}.md")
                self._folder.disk.overwrite(kept, note.text.encode("utf-8", "replace"))
                why = f"the {note.scope} note: {error}; its new text is in the turn's folder as {kept.name}"
                self._log.emit(EventName.STATE_TROUBLE, turn_id=record.turn_id, why=why)
        self._folder.disk.overwrite(marker, b"")

    def keep(self, record: TurnRecord, notes: Sequence[NoteWrite]) -> None:
        """The texts that a turn left which did not end well: no later turn begins with them, unless a person wants it.

        Raises OSError where the disk refuses.
        """
        for note in notes:
            path = self._file(note.scope, record.envelope.thread)
            now = _content(path)
            if _text(now) != note.text:
                self.history.add(self._change(record, path, KEPT, _text(now), note.text), sync=Sync.FULL)

    def by_hand(self, path: Path, before: bytes | None, after: bytes | None) -> None:
        """A person has changed a note. What cannot be remembered is told by nobody, and that is all."""
        now = self._folder.clock.now()
        with suppress(OSError):
            name = f"{new_turn_id(now)}-{_stem(path.name)}-{BY_HAND}"
            self.history.add(NoteChange(name, path.name, now, BY_HAND, _text(before), _text(after)))

    def _note_direct(self, record: TurnRecord, *, fixed: bool) -> None:
        """What the turn, or somebody else while it ran, wrote into the files themselves."""
        if record.process is None or not (self._turns.path(record.turn_id) / MAIL).exists():
            # Nothing ran, or what the notes were is no longer known: this settlement is applied again.
            return
        for scope in NoteScope:
            # What a person just writes he writes down before he lets it go.
            with note_lock(self._folder.memory):
                self._look_at(record, scope, fixed=fixed)

    def _look_at(self, record: TurnRecord, scope: NoteScope, *, fixed: bool) -> None:
        path, copy = self._file(scope, record.envelope.thread), NOTE_COPY.format(scope)
        now, seen = _content(path), _content(self._turns.path(record.turn_id) / copy)
        if fixed and scope is NoteScope.GLOBAL:
            last = self.history.last_of_others(path.name, record.claimed_at, began_at(record))
            if last is not None:
                text = last.before if last.how == REFUSED else last.after
                if text == _text(now):
                    return
                seen = text.encode() if text is not None else None
            if now != seen and seen is not None and len(seen) <= MAX_NOTE_BYTES:
                self._remember(record, path, REFUSED, seen, now)
                self._undo(record, path, seen)
                return
        if now != seen and not self.history.accounts_for(path.name, _text(now), record.claimed_at):
            self._remember(record, path, FILE, seen, now)

    def _undo(self, record: TurnRecord, path: Path, text: bytes) -> None:
        try:
            self._folder.make_folder(self._folder.memory)
            if is_there(path) and _content(path) is None:
                # A folder in its place, as an example, would never let itself be replaced.
                self._folder.disk.move(path, _free_name(path, record.turn_id), sync=Sync.NONE)
            self._folder.disk.replace(path, text, sync=Sync.FULL)
        except PermissionError as error:
            why = f"{error}; what the turn wrote into it could not be undone: agent-mailer memory edit"
            self._log.emit(EventName.STATE_TROUBLE, turn_id=record.turn_id, why=why)

    def _remember(self, record: TurnRecord, path: Path, how: str, before: bytes | None, after: bytes | None) -> None:
        envelope = record.envelope
        with suppress(OSError):
            if not self.history.add(self._change(record, path, how, _text(before), _text(after))):
                return
        self._log.emit(
            EventName.NOTE_CHANGED,
            turn_id=record.turn_id,
            thread=envelope.thread,
            sender=envelope.sender,
            file=path.name,
            bytes=len(after) if after is not None else 0,
            how=how,
        )

    def _change(self, record: TurnRecord, path: Path, how: str, before: str | None, after: str | None) -> NoteChange:
        name, now, envelope = f"{record.turn_id}-{_stem(path.name)}-{how}", self._folder.clock.now(), record.envelope
        turn, thread, sender = record.turn_id, envelope.thread, envelope.sender
        return NoteChange(name, path.name, now, how, before, after, turn, thread, sender, began_at(record))

    def _write(self, record: TurnRecord, note: NoteWrite) -> None:
        folder, text = self._folder, note.text.encode("utf-8", "replace")
        folder.make_folder(folder.memory)
        with note_lock(folder.memory):
            self._replace(record, note.scope, text)

    def _replace(self, record: TurnRecord, scope: NoteScope, text: bytes) -> None:
        disk, path = self._folder.disk, self._file(scope, record.envelope.thread)
        now = _content(path)
        if now == text:
            return
        if is_there(path) and (now is None or now != self._seen(record, scope)):
            kept = _free_name(path, record.turn_id)
            disk.move(path, kept, sync=Sync.NONE)
            why = f"somebody else wrote it during the turn; that text is kept as {kept.name}"
            self._log.emit(EventName.STATE_DAMAGED, turn_id=record.turn_id, file=path.name, why=why)
        disk.replace(path, text, sync=Sync.FULL)
        self._remember(record, path, TOOL, now, text)

    def _seen(self, record: TurnRecord, scope: NoteScope) -> bytes | None:
        """The text the turn began with; None where it was not seen whole."""
        content = _content(self._turns.folder(record.turn_id).note_copy(scope))
        return content if content is not None and len(content) <= MAX_NOTE_BYTES else None

    def _file(self, scope: NoteScope, thread: str) -> Path:
        memory = self._folder.memory
        return memory / f"{GLOBAL_NOTE}.md" if scope is NoteScope.GLOBAL else memory_file(memory, thread)


def seed_memory(memory: Path, agent: str, disk: Disk) -> None:
    """Make the global note where there is none."""
    path = memory / f"{GLOBAL_NOTE}.md"
    if not is_there(path):
        text = f"# Global memory of {one_line(agent)}\n\n## Facts\n\n## Preferences\n\n## Open ends\n"
        disk.replace(path, text.encode(), sync=Sync.NONE)


@contextmanager
def note_lock(folder: Path) -> Iterator[None]:
    """For a moment. Where the file system has no locks, or somebody does not let go, the block runs all the same."""
    try:
        fd = open_file(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        until = time.monotonic() + PATIENCE
        with suppress(OSError):
            while not _take(fd) and time.monotonic() < until:
                time.sleep(_LOOK_AGAIN)
        yield
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _content(path: Path) -> bytes | None:
    """None where there is no file that can be read."""
    with suppress(OSError):
        return read_regular(path, MAX_NOTE_BYTES)
    return None


def _stem(note: str) -> str:
    return note.removesuffix(".md")[:60]


def _text(content: bytes | None) -> str | None:
    """None for what was not read whole."""
    whole = content is not None and len(content) <= MAX_NOTE_BYTES
    return content.decode("utf-8", "replace") if content is not None and whole else None


def _free_name(path: Path, turn_id: str) -> Path:
    names = (path.with_name(f"{path.name}.before-{turn_id}{suffix}") for suffix in _suffixes())
    return next(name for name in names if not is_there(name))


def _suffixes() -> itertools.chain[str]:
    return itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
