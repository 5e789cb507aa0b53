"""`sessions`: the runtime's session of each thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, group
from agent_mailer.cli.terminal.completion import some_session
from agent_mailer.cli.terminal.printing import json_out, local_iso, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import UsageFault
from agent_mailer.names import parse_age, pick, printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.records import SessionEntry

app = group("sessions", "Which session of the agent program belongs to which thread.")

LIST = "agent-mailer sessions list"


@app.command("list", cls=LightCommand)
def list_sessions(workdir: Workdir = None, as_json: Json = False) -> None:
    """List the threads that have a session, the one used last at the end."""
    entries = sorted(_live(configured(workdir)).items(), key=lambda item: item[1].last_used_at)
    if as_json:
        json_out({"sessions": [_as_json(thread, entry) for thread, entry in entries]})
    elif not entries:
        note("no sessions")
    else:
        rows = [
            (
                printable(t, 48),
                printable(e.runtime, 12),
                printable(e.session_id, 40),
                str(e.turn_count),
                local_iso(e.last_used_at),
            )
            for t, e in entries
        ]
        head = ("thread", "runtime", "session", "turns", "last used")
        say(columns(rows, head, ids=("thread", "session"), whole=("runtime", "turns", "last used")))


@app.command("show", cls=LightCommand)
def show(
    thread: Annotated[
        str,
        typer.Argument(
            metavar="THREAD", help="The thread, or as much of it as is unique.", autocompletion=some_session
        ),
    ],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show one thread's session, and the thread's story: messages, turns, how each ended, what it cost."""
    from agent_mailer.views.turns import gather, story_json, story_lines

    place = configured(workdir)
    live = _live(place)
    chosen = pick(thread, live, "session of a thread", LIST)
    story = gather(place, chosen)
    if as_json:
        json_out({"session": _as_json(chosen, live[chosen]), "story": story_json(place.state, story)})
        return
    say(fields(_facts(chosen, live[chosen])))
    say()
    for line in story_lines(place.state, story):
        say(line)
    if story.problem:
        note(f"its messages cannot be listed: {printable(story.problem, 300)}")


@app.command("invalidate", cls=LightCommand)
def invalidate(
    threads: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[THREAD]...", help="Threads, or as much of each as is unique.", autocompletion=some_session
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every session.")] = False,
    workdir: Workdir = None,
) -> None:
    """Drop sessions: the next message of the thread starts fresh."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    place = configured(workdir)
    if bool(threads) == every:
        raise UsageFault("which", "name threads, or give --all", LIST)
    live = _live(place)
    chosen = tuple(pick(thread, live, "session of a thread", LIST) for thread in threads or ())
    ask_and_tell(place, Request(Verb.SESSIONS_INVALIDATE, chosen))


@app.command("prune", cls=LightCommand)
def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Not used for this long: 14d, 36h.")],
    workdir: Workdir = None,
) -> None:
    """Forget sessions that were not used for a while."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    age = parse_age(older_than)
    ask_and_tell(configured(workdir), Request(Verb.SESSIONS_PRUNE, seconds=age))


def _live(place: Workplace) -> dict[str, SessionEntry]:
    return {thread: entry for thread, entry in place.state.sessions.all() if entry.session_id}


def _facts(thread: str, entry: SessionEntry) -> Iterator[tuple[str, str]]:
    yield "thread", printable(thread, 300)
    yield "session", printable(entry.session_id) + (f" of {printable(entry.runtime, 40)}" if entry.runtime else "")
    yield "turns", f"{entry.turn_count}, which have printed {entry.transcript_bytes / 1_000_000:.1f} MB"
    yield "since", local_iso(entry.first_seen_at)
    yield "last used", local_iso(entry.last_used_at)


def _as_json(thread: str, entry: SessionEntry) -> dict[str, object]:
    return {
        "thread": thread,
        "session_id": entry.session_id,
        "runtime": entry.runtime,
        "turns": entry.turn_count,
        "bytes": entry.transcript_bytes,
        "generation": entry.generation,
        "first_seen_at": entry.first_seen_at,
        "last_used_at": entry.last_used_at,
    }
