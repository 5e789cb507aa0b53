"""The agent's notes (memory): where they lie, copies of them for a turn, and what the turn wrote coming back."""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agent_mailer.beneath import is_there, open_file
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.events import EventLog, EventName
from agent_mailer.names import GLOBAL_NOTE, memory_file, one_line
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import TurnRecord
from agent_mailer.state.turns import TurnStore
from agent_mailer.turn_tools.folder import MAX_NOTE_BYTES, NoteScope, NoteWrite

WRITTEN = "notes.written"
"""Marker file in the turn's folder: a settlement that is applied again leaves later texts alone."""

PATIENCE = 1.0
"""Seconds. The others hold it for two file operations; one that was stopped in between must not hold up a watcher."""

_LOOK_AGAIN = 0.01


class Notes:
    def __init__(self, folder: StateFolder, turns: TurnStore, log: EventLog) -> None:
        self._folder = folder
        self._turns = turns
        self._log = log

    def copies(self, thread: str) -> Mapping[NoteScope, bytes]:
        """What the notes hold now, at most MAX_NOTE_BYTES + 1 each; one that cannot be read is left out."""
        found: dict[NoteScope, bytes] = {}
        for scope in NoteScope:
            with suppress(OSError):
                found[scope] = read_regular(self._file(scope, thread), MAX_NOTE_BYTES)
        return found

    def write(self, record: TurnRecord, notes: Sequence[NoteWrite]) -> None:
        """Give the notes the texts that the turn left; the last writer wins. Raises OSError where the disk refuses.

        A text that is not the one the turn began with was written by somebody else meanwhile: it is kept beside it.
        """
        marker = self._turns.path(record.turn_id) / WRITTEN
        if not notes or is_there(marker):
            return
        for note in notes:
            try:
                self._write(record, note)
            except PermissionError as error:
                # No waiting helps, and a note stops no settlement.
                kept = marker.with_name(f"unwritten-{note.scope}.md")
                self._folder.disk.overwrite(kept, note.text.encode("utf-8", "replace"))
                why = f"the {note.scope} note: {error}; its new text is in the turn's folder as {kept.name}"
                self._log.emit(EventName.STATE_TROUBLE, turn_id=record.turn_id, why=why)
        self._folder.disk.overwrite(marker, b"")

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


def _free_name(path: Path, turn_id: str) -> Path:
    names = (path.with_name(f"{path.name}.before-{turn_id}{suffix}") for suffix in _suffixes())
    return next(name for name in names if not is_there(name))


def _suffixes() -> itertools.chain[str]:
    return itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
