"""The agent's notes around a turn: a copy goes into its folder, and what it wrote with its tools comes out again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import Sync, read_regular
from agent_mailer.events import EventName
from agent_mailer.prompts import GLOBAL_NOTE, memory_file
from agent_mailer.state.lock import note_lock
from agent_mailer.state.records import TurnRecord
from agent_mailer.turn_tools.folder import MAX_NOTE_BYTES, NoteScope, NoteWrite
from agent_mailer.watch.room import Room

WRITTEN = "notes.written"
"""Marker file in the turn's folder: a settlement that is applied again leaves later texts alone."""


def copies(room: Room, thread: str) -> Mapping[NoteScope, bytes]:
    """What the notes of a turn hold now, at most MAX_NOTE_BYTES + 1 each; one that cannot be read is left out."""
    found: dict[NoteScope, bytes] = {}
    for scope in NoteScope:
        with suppress(OSError):
            found[scope] = read_regular(_file(room, scope, thread), MAX_NOTE_BYTES)
    return found


def write_notes(room: Room, record: TurnRecord, notes: Sequence[NoteWrite]) -> None:
    """Give the notes the texts that the turn left; the last writer wins. Raises OSError where the disk refuses.

    A text that is not the one the turn began with was written by somebody else meanwhile: it is kept beside the note.
    """
    marker = room.state.turns.path(record.turn_id) / WRITTEN
    if not notes or marker.exists():
        return
    for note in notes:
        try:
            _write(room, record, note)
        except PermissionError as error:
            # No waiting helps, and a note stops no settlement.
            kept = marker.with_name(f"unwritten-{note.scope}.md")
            room.state.folder.disk.overwrite(kept, note.text.encode("utf-8", "replace"))
            why = f"the {note.scope} note: {error}; its new text is in the turn's folder as {kept.name}"
            room.log.emit(EventName.STATE_TROUBLE, turn_id=record.turn_id, why=why)
    room.state.folder.disk.overwrite(marker, b"")


def _write(room: Room, record: TurnRecord, note: NoteWrite) -> None:
    folder, text = room.state.folder, note.text.encode("utf-8", "replace")
    if os.path.lexists(folder.memory) and not folder.memory.is_dir():
        folder.set_aside(folder.memory, "not a folder")
    folder.disk.make_directory(folder.memory)
    with note_lock(folder.memory):
        _replace(room, record, note.scope, text)


def _replace(room: Room, record: TurnRecord, scope: NoteScope, text: bytes) -> None:
    folder, path = room.state.folder, _file(room, scope, record.envelope.thread)
    now = _content(path)
    if now == text:
        return
    if os.path.lexists(path) and (now is None or now != _seen(room, record, scope)):
        aside = _free_name(path, record.turn_id)
        folder.disk.move(path, aside, sync=Sync.NONE)
        why = f"somebody else wrote it during the turn; that text is kept as {aside.name}"
        room.log.emit(EventName.STATE_DAMAGED, turn_id=record.turn_id, file=path.name, why=why)
    folder.disk.replace(path, text, sync=Sync.FULL)


def _seen(room: Room, record: TurnRecord, scope: NoteScope) -> bytes | None:
    """The text the turn began with; None where it was not seen whole."""
    content = _content(room.state.turns.folder(record.turn_id).note_copy(scope))
    return content if content is not None and len(content) <= MAX_NOTE_BYTES else None


def _content(path: Path) -> bytes | None:
    """None where there is no file that can be read."""
    with suppress(OSError):
        return read_regular(path, MAX_NOTE_BYTES)
    return None


def _file(room: Room, scope: NoteScope, thread: str) -> Path:
    memory = room.state.folder.memory
    return memory / f"{GLOBAL_NOTE}.md" if scope is NoteScope.GLOBAL else memory_file(memory, thread)


def _free_name(path: Path, turn_id: str) -> Path:
    names = (path.with_name(f"{path.name}.before-{turn_id}{suffix}") for suffix in _suffixes())
    return next(name for name in names if not os.path.lexists(name))


def _suffixes() -> itertools.chain[str]:
    return itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
