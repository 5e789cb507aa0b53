"""`memory`: the agent's own notes, one for everything and one a thread."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli.completion import some_thread
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say, screen_text
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.names import printable

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


@app.command("show", cls=LightCommand)
def show(thread: Thread = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """Print a note."""
    from agent_mailer.views.kept import note_text

    found = note_text(configured(workdir), thread)
    if as_json:
        json_out(found)
    else:
        say(screen_text(found.text).rstrip("\n"))


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
    from agent_mailer.views.kept import meant_thread, note_path

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
    from agent_mailer.views.kept import notes

    found = notes(configured(workdir).folder.memory)
    if as_json:
        json_out({"notes": found})
    elif not found:
        note("no notes yet")
    else:
        rows = [(printable(one.name, 80), str(one.bytes), local_time(one.modified)) for one in found]
        say(columns(rows, ("note", "bytes", "changed"), ids=("note",), whole=("bytes", "changed")))
