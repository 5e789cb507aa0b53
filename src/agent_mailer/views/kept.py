"""What a workdir keeps between turns, read from its state: sessions, dead letters, the agent's notes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.clock import iso
from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import memory_file, one_of, pick
from agent_mailer.outcomes import Outcome
from agent_mailer.views.values.history import AttemptView, DeadLetterView, NoteTextView, NoteView, SessionView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state import State
    from agent_mailer.state.records import DeadLetter

MOST_READ = 4 * 1024 * 1024
NOTES = "agent-mailer memory ls"


def sessions(state: State) -> dict[str, SessionView]:
    """Each thread's session, the one used last at the end."""
    found = [
        SessionView(
            thread=thread,
            session_id=entry.session_id,
            runtime=entry.runtime,
            turns=entry.turn_count,
            bytes=entry.transcript_bytes,
            generation=entry.generation,
            first_seen_at=entry.first_seen_at,
            last_used_at=entry.last_used_at,
        )
        for thread, entry in state.sessions.all()
        if entry.session_id
    ]
    return {session.thread: session for session in sorted(found, key=lambda session: session.last_used_at)}


def dead_letters(state: State, reason: str | None = None) -> dict[str, DeadLetterView]:
    """By message, the newest at the end; `reason`: whose last turn ended so. Raises UsageFault for no outcome."""
    wanted = one_of(reason, Outcome, "--reason") if reason is not None else None
    letters = (letter for letter in state.dead_letters.all() if wanted is None or letter.outcome == wanted)
    return {letter.msg_id: _dead_letter(letter) for letter in letters}


def _dead_letter(letter: DeadLetter) -> DeadLetterView:
    envelope = letter.envelope
    return DeadLetterView(
        message_id=letter.msg_id,
        thread=letter.thread_id,
        sender=envelope.sender if envelope else None,
        retries=letter.retries,
        outcome=letter.outcome.value if letter.outcome else None,
        last_error=letter.last_error,
        stuck_at=letter.stuck_at,
        turn_id=letter.turn_id,
        history=tuple(AttemptView(one.turn_id, one.outcome.value, one.detail, one.at) for one in letter.history),
        created=iso(envelope.created) if envelope and envelope.created else None,
    )


def notes(folder: Path) -> list[NoteView]:
    """By name."""
    files = [file for file in folder.iterdir() if file.suffix == ".md"] if folder.is_dir() else []
    found = [(file.stem, file.lstat()) for file in files if not file.name.startswith(".")]
    return [NoteView(name, stat.st_size, stat.st_mtime) for name, stat in sorted(found)]


def note_text(place: Workplace, thread: str | None) -> NoteTextView:
    """A thread's note, or the global one. A link is never followed: the agent may write in this folder.

    Raises MailerError where there is none or it cannot be read, UsageFault for an empty thread.
    """
    path = note_path(place, thread)
    try:
        text = read_regular(path, MOST_READ).decode("utf-8", "replace")
    except FileNotFoundError:
        raise MailerError("no_note", f"there is no note {path}", NOTES) from None
    except OSError as error:
        raise MailerError("bad_note", f"{path} cannot be read: {error.strerror}", f"ls -l {path}") from None
    return NoteTextView(thread, str(path), text)


def note_path(place: Workplace, thread: str | None) -> Path:
    """The file of a thread's note, always right below memory/. Raises UsageFault for an empty thread."""
    memory = place.folder.memory
    return memory / "global.md" if thread is None else memory_file(memory, meant_thread(place, thread))


def meant_thread(place: Workplace, typed: str) -> str:
    """The thread called so; else the one known thread whose name begins so; else a new one. Raises UsageFault."""
    if not typed.strip():
        raise UsageFault("no_thread", "the thread is empty", NOTES)
    if os.path.lexists(memory_file(place.folder.memory, typed)):
        return typed
    turns = filter(None, map(place.state.turns.load, place.state.turns.ids()))
    known = [*(thread for thread, _ in place.state.sessions.all()), *(turn.envelope.thread for turn in turns)]
    # A note whose name was made from the thread's has a tilde; others are called as their thread.
    known += [note.name for note in notes(place.folder.memory) if "~" not in note.name and note.name != "global"]
    meant = [name for name in known if name.startswith(typed)]
    return pick(typed, meant, "thread", NOTES) if meant else typed
