"""`memory`: the agent's own notes, one for everything and one a thread; edited while an agent may write them too."""

from __future__ import annotations

import difflib
import os
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.cli.completion import some_thread
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say, screen_text
from agent_mailer.cli.terminal.questions import compared, edited
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.disk import Sync, read_regular
from agent_mailer.errors import BusyFault, MailerError, quoted
from agent_mailer.names import GLOBAL_NOTE, memory_file, printable
from agent_mailer.process.handle import is_alive
from agent_mailer.state.lock import holder_of
from agent_mailer.state.notes import KEPT, note_lock
from agent_mailer.turn_tools.folder import MAX_NOTE_BYTES

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.records import TurnRecord
    from agent_mailer.views.values.history import NoteChangeView


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


Change = Annotated[str, typer.Argument(metavar="CHANGE", help="A change, as `memory log` names it.")]


@app.command("show", cls=FastCommand)
def show(thread: Thread = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """Print a note."""
    from agent_mailer.views.kept import note_text

    found = note_text(configured(workdir), thread)
    if as_json:
        json_out(found)
    else:
        say(screen_text(found.text).rstrip("\n"))


@app.command("edit", cls=FastCommand)
def edit(
    thread: Thread = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of a turn that may write the note, too.")
    ] = False,
    workdir: Workdir = None,
) -> None:
    """Open a note in $EDITOR; one that is missing is begun. While a turn runs that may write it, it is refused."""
    from agent_mailer.state.notes import seed_memory
    from agent_mailer.views.kept import meant_thread, note_path

    place = configured(workdir)
    path = note_path(place, thread)
    if thread is None:
        place.disk.make_directory(path.parent, sync=Sync.FULL)
        seed_memory(path.parent, place.config.agent_name or place.handle, place.disk)
    else:
        thread = meant_thread(place, thread)
    fresh = f"# Thread {printable(thread, 120)} Handoff Notes\n" if thread is not None else ""
    edit_note(place, thread, path, fresh, wait=wait)


@app.command("ls", cls=FastCommand)
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


@app.command("log", cls=FastCommand)
def log(thread: Thread = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """List the changes of notes, newest first: when, how, by which turn, for whose message."""
    from agent_mailer.views.kept import note_changes

    found = note_changes(configured(workdir), thread)
    if as_json:
        json_out({"changes": found})
    elif not found:
        note("no changes are known")
    else:
        rows = [
            (one.id, local_time(one.at), printable(one.note, 60), one.how, _grown(one), printable(one.sender, 40))
            for one in found
        ]
        names = ("change", "at", "note", "how", "bytes", "for")
        say(columns(rows, names, endings=("change",), whole=("at", "how", "bytes")))


@app.command("diff", cls=FastCommand)
def diff(change: Change, workdir: Workdir = None) -> None:
    """Show what a change did to a note."""
    from agent_mailer.views.kept import note_change

    _show_diff(note_change(configured(workdir), change))


@app.command("revert", cls=FastCommand)
def revert(change: Change, workdir: Workdir = None) -> None:
    """Give a note the text that it had before a change, where nothing has changed it since."""
    from agent_mailer.views.kept import note_change

    place = configured(workdir)
    found = note_change(place, change)
    if found.how == KEPT:
        raise MailerError("not_made", "this change was not made", f"agent-mailer memory apply {found.id}")
    _change(place, msgspec.structs.replace(found, before=found.after, after=found.before), "revert")


@app.command("apply", cls=FastCommand)
def apply(change: Change, workdir: Workdir = None) -> None:
    """Make a change that was `kept`, as its turn did not end well, or `refused`; where nothing has changed the note."""
    from agent_mailer.views.kept import note_change

    place = configured(workdir)
    _change(place, note_change(place, change), "apply")


def _change(place: Workplace, change: NoteChangeView, verb: str) -> None:
    """From what it was before to what it is to be after."""
    path = place.folder.memory / change.note
    if change.after is None or path.name != change.note:
        raise MailerError("unknown_text", "the text that it would get is not known", "agent-mailer memory edit")
    if (turn := _turn_at_work(place, path)) is not None:
        why = f"turn {turn.turn_id} runs, and may write this note when it ends"
        raise BusyFault("turn_running", why, f"agent-mailer memory {verb}, after it")
    place.disk.make_directory(path.parent, sync=Sync.FULL)
    with note_lock(path.parent):
        now = _content(path)
        text = None if now is None else now.decode("utf-8", "replace")
        if text == change.after:
            say(f"{path} has that text already")
            return
        if text != change.before:
            why = f"{path} has changed since; it was left so"
            raise MailerError("changed", why, f"agent-mailer memory diff {change.id}, then agent-mailer memory edit")
        after = change.after.encode()
        place.disk.replace(path, after, sync=Sync.FULL)
        place.state.notes.by_hand(path, now, after)
    _show_diff(change)
    say(f"{path} was changed")


def _show_diff(change: NoteChangeView) -> None:
    before, after = (text.split("\n") if text is not None else [] for text in (change.before, change.after))
    for line in difflib.unified_diff(before, after, "before", "after", lineterm=""):
        say(printable(line, 400))


def _grown(change: NoteChangeView) -> str:
    before, after = (len((text or "").encode()) for text in (change.before, change.after))
    return f"{after - before:+}"


LOOK_EVERY = 0.2


def edit_note(place: Workplace, thread: str | None, path: Path, fresh: str, *, wait: bool) -> None:
    """Open a copy of the note in the editor, and put it in the note's place unless that has changed meanwhile.

    `fresh` is what a note that is missing begins with. While a turn runs that may write the note this raises BusyFault,
    or with `wait` waits. MailerError where it was changed meanwhile or the editor failed; what was typed is kept then.
    """
    while (turn := _turn_at_work(place, path)) is not None:
        if not wait:
            again = "agent-mailer memory edit --wait" + (f" --thread {quote(printable(thread))}" if thread else "")
            why = f"turn {turn.turn_id} runs, and may write this note when it ends"
            raise BusyFault("turn_running", why, f"{again} (waits for its end)")
        note(f"waiting for the end of turn {turn.turn_id}; Ctrl-C leaves")
        while place.state.turns.path(turn.turn_id).is_dir() and _is_at_work(place, turn):
            time.sleep(LOOK_EVERY)
    before = _content(path)
    start = fresh.encode() if before is None else before
    copy = place.folder.path / f"note-{os.getpid()}.edit.md"
    place.disk.replace(copy, start, sync=Sync.NONE)
    if (after := edited(copy, path, start, place.disk)) is None:
        return
    place.disk.make_directory(path.parent, sync=Sync.FULL)
    with note_lock(path.parent):
        if _content(path) != before:
            why = f"{path} was changed while you edited it, and left so; your text is {copy}"
            raise MailerError("changed", why, compared(path, copy))
        place.disk.replace(path, after, sync=Sync.FULL)
        place.state.notes.by_hand(path, before, after)
    place.disk.remove(copy)
    say(f"{path} was changed")
    if len(after) > MAX_NOTE_BYTES:
        note(f"warning: it has {len(after)} bytes, and the agent sees only the first {MAX_NOTE_BYTES}")
    turn = _turn_at_work(place, path)
    if turn is not None:
        kept = f"{path.name}.before-{turn.turn_id}"
        note(f"turn {turn.turn_id} began meanwhile; should it write this note, too, your text is kept as {kept}")


def _turn_at_work(place: Workplace, path: Path) -> TurnRecord | None:
    """An open turn that may write the note: one of its thread; any, for the note of all threads."""
    records = filter(None, map(place.state.turns.load, place.state.turns.open_ids()))
    memory = place.folder.memory
    any_may = path == memory / f"{GLOBAL_NOTE}.md"
    # By the file: a change that a person has made names no thread.
    of_note = (record for record in records if any_may or memory_file(memory, record.envelope.thread) == path)
    return next((record for record in of_note if _is_at_work(place, record)), None)


def _is_at_work(place: Workplace, record: TurnRecord) -> bool:
    """What an interrupted watcher left open is not: nobody would end it while we wait."""
    if place.state.turns.is_settled(record.turn_id):
        return False
    if holder_of(place.folder.path / ".lock") is not None:
        return True
    return record.process is not None and is_alive(record.process)


def _content(path: Path) -> bytes | None:
    """None where there is none; MailerError for what is no file: the agent may write in this folder."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MailerError("bad_note", f"{path} cannot be read: {error.strerror}", f"ls -l {quoted(path)}") from None
