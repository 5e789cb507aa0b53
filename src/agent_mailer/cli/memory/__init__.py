"""`memory`: the agent's own notes, one for everything and one a thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, group
from agent_mailer.cli.terminal.completion import some_thread
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say, screen_text
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

app = group("memory", "The agent's notes: what it knows in general, and what it knows of each thread.")

Thread = Annotated[
    str | None,
    typer.Option(
        "--thread",
        metavar="THREAD",
        help="The note of this thread, or of the one whose name begins so. Default: the global note.",
        autocompletion=some_thread,
    ),
]
MAX_NOTE_BYTES = 4 * 1024 * 1024


@app.command("show", cls=LightCommand)
def show(thread: Thread = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """Print a note."""
    path = note_path(configured(workdir), thread)
    text = _read(path)
    if text is None:
        raise MailerError("no_note", f"there is no note {path}", "agent-mailer memory ls")
    if as_json:
        json_out({"thread": thread, "file": str(path), "text": text})
    else:
        say(screen_text(text).rstrip("\n"))


@app.command("edit", cls=LightCommand)
def edit(
    thread: Thread = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of a turn that may write the note, too.")
    ] = False,
    workdir: Workdir = None,
) -> None:
    """Open a note in $EDITOR; one that is missing is begun. While a turn runs that may write it, it is refused."""
    from agent_mailer.cli.memory.editing import edit_note
    from agent_mailer.state.notes import seed_memory

    place = configured(workdir)
    path = note_path(place, thread)
    if thread is None:
        place.disk.make_directory(path.parent)
        seed_memory(path.parent, place.config.agent_name or place.handle, place.disk)
    else:
        thread = meant_thread(place, thread)
    fresh = f"# Thread {printable(thread, 120)} Handoff Notes\n" if thread is not None else ""
    edit_note(place, thread, path, fresh, wait=wait)


@app.command("ls", cls=LightCommand)
def ls(workdir: Workdir = None, as_json: Json = False) -> None:
    """List the notes."""
    folder = configured(workdir).folder.memory
    found = sorted(_notes(folder)) if folder.is_dir() else []
    if as_json:
        json_out({"notes": [{"name": name, "bytes": size, "modified": changed} for name, size, changed in found]})
    elif not found:
        note("no notes yet")
    else:
        rows = [(printable(name, 80), str(size), local_time(changed)) for name, size, changed in found]
        say(columns(rows, ("note", "bytes", "changed"), ids=("note",), whole=("bytes", "changed")))


def note_path(place: Workplace, thread: str | None) -> Path:
    """The file of a thread's note, always right below memory/. Raises UsageFault for an empty thread."""
    from agent_mailer.names import memory_file

    if thread is None:
        return place.folder.memory / "global.md"
    return memory_file(place.folder.memory, meant_thread(place, thread))


def meant_thread(place: Workplace, typed: str) -> str:
    """The thread called so; else the one known thread whose name begins so; else a new one. Raises UsageFault."""
    from agent_mailer.names import memory_file, pick

    if not typed.strip():
        raise UsageFault("no_thread", "the thread is empty", "agent-mailer memory ls")
    if os.path.lexists(memory_file(place.folder.memory, typed)):
        return typed
    turns = filter(None, map(place.state.turns.load, place.state.turns.ids()))
    known = [*(thread for thread, _ in place.state.sessions.all()), *(turn.envelope.thread for turn in turns)]
    meant = [name for name in (*known, *_plain_names(place.folder.memory)) if name.startswith(typed)]
    return pick(typed, meant, "thread", "agent-mailer memory ls") if meant else typed


def _plain_names(folder: Path) -> list[str]:
    """Of the notes whose thread is called as their file; a name that was mapped has a tilde."""
    names = [name for name, _, _ in _notes(folder)] if folder.is_dir() else []
    return [name for name in names if "~" not in name and name != "global"]


def _read(path: Path) -> str | None:
    """The text; None if there is none. A link is never followed: the agent may write in this folder."""
    from agent_mailer.disk import read_regular

    try:
        return read_regular(path, MAX_NOTE_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MailerError("bad_note", f"{path} cannot be read: {error.strerror}", f"ls -l {path}") from None


def _notes(folder: Path) -> list[tuple[str, int, float]]:
    found = []
    for entry in folder.iterdir():
        if entry.suffix == ".md" and not entry.name.startswith("."):
            stat = entry.lstat()
            found.append((entry.stem, stat.st_size, stat.st_mtime))
    return found
