"""`memory`: the agent's own notes, one for everything and one a thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.light import LightCommand, group
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.printing import json_out, local_time, note, say, screen_text
from agent_mailer.cli.tables import columns
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

app = group("memory", "The agent's notes: what it knows in general, and what it knows of each thread.")

Thread = Annotated[
    str | None, typer.Option("--thread", metavar="THREAD", help="The note of this thread. Default: the global one.")
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
def edit(thread: Thread = None, workdir: Workdir = None) -> None:
    """Open a note in $EDITOR; one that is missing is begun."""
    from agent_mailer.cli.editing import open_editor
    from agent_mailer.disk import Sync
    from agent_mailer.prompts import seed_memory

    place = configured(workdir)
    path = note_path(place, thread)
    place.disk.make_directory(path.parent)
    if thread is None:
        seed_memory(path.parent, place.config.agent_name or place.handle, place.disk)
    elif _read(path) is None:
        place.disk.replace(path, f"# Thread {printable(thread, 120)} Handoff Notes\n".encode(), sync=Sync.NONE)
    open_editor(path)


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
        say(columns(rows, ("note", "bytes", "changed")))


def note_path(place: Workplace, thread: str | None) -> Path:
    """The file of a thread's note, always right below memory/. Raises UsageFault for an empty thread."""
    from agent_mailer.prompts import memory_file

    if thread is None:
        return place.folder.memory / "global.md"
    if not thread.strip():
        raise UsageFault("no_thread", "the thread is empty", "agent-mailer memory ls")
    return memory_file(place.folder.memory, thread)


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
