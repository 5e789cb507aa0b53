"""`sessions`: the runtime's session of each thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.choosing import parse_age, pick
from agent_mailer.cli.light import LightCommand, group
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.printing import json_out, note, say
from agent_mailer.cli.tables import columns
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

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
            (printable(t, 48), printable(e.session_id, 40), str(e.turn_count), printable(e.last_used_at, 24))
            for t, e in entries
        ]
        say(columns(rows, ("thread", "session", "turns", "last used")))


@app.command("show", cls=LightCommand)
def show(
    thread: Annotated[str, typer.Argument(metavar="THREAD", help="The thread, or as much of it as is unique.")],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show one thread's session."""
    live = _live(configured(workdir))
    chosen = pick(thread, live, "session of a thread", LIST)
    shape = _as_json(chosen, live[chosen])
    if as_json:
        json_out({"session": shape})
        return
    for name, value in shape.items():
        say(f"{name:<14}  {printable(str(value))}")


@app.command("invalidate", cls=LightCommand)
def invalidate(
    threads: Annotated[
        list[str] | None, typer.Argument(metavar="[THREAD]...", help="Threads, or as much of each as is unique.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every session.")] = False,
    workdir: Workdir = None,
) -> None:
    """Drop sessions: the next message of the thread starts fresh."""
    from agent_mailer.cli.asking import ask_and_tell
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
    from agent_mailer.cli.asking import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    age = parse_age(older_than)
    ask_and_tell(configured(workdir), Request(Verb.SESSIONS_PRUNE, seconds=age))


def _live(place: Workplace) -> dict[str, SessionEntry]:
    return {thread: entry for thread, entry in place.state.sessions.all() if entry.session_id}


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
