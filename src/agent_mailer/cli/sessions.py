"""`sessions`: the runtime's session of each thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import some_session
from agent_mailer.cli.options import Json, Limit, Workdir, configured, newest_of
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_iso, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import UsageFault
from agent_mailer.names import parse_age, pick, printable

if TYPE_CHECKING:
    from agent_mailer.views.values.history import SessionView

app = group("sessions", "Which session of the agent program belongs to which thread.")

LIST = "agent-mailer sessions list"


@app.command("list", cls=FastCommand)
def list_sessions(limit: Limit = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """List the threads that have a session, the one used last at the end."""
    from agent_mailer.views.kept import sessions

    state, newest = configured(workdir).state, newest_of(limit, as_json=as_json)
    found = sessions(state, newest).values()
    if as_json:
        json_out({"sessions": list(found)})
    elif not found:
        note("no sessions")
    else:
        rows = [
            (
                printable(one.thread, 48),
                printable(one.runtime, 12),
                printable(one.session_id, 40),
                str(one.turns),
                local_iso(one.last_used_at),
            )
            for one in found
        ]
        head = ("thread", "runtime", "session", "turns", "last used")
        say(columns(rows, head, ids=("thread", "session"), whole=("runtime", "turns", "last used")))
        if left := len(state.sessions.bound()) - len(found):
            note(f"\nand {left} more, not used since: --limit 0")


@app.command("show", cls=FastCommand)
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
    from agent_mailer.cli.turns.story import tell_story
    from agent_mailer.views.kept import sessions
    from agent_mailer.views.turns import thread_story

    place = configured(workdir)
    found = sessions(place.state)
    session = found[pick(thread, found, "session of a thread", LIST)]
    story = thread_story(place, session.thread)
    if as_json:
        json_out({"session": session, "story": story})
        return
    say(fields(_facts(session)))
    say()
    tell_story(story)


@app.command("invalidate", cls=FastCommand)
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
    from agent_mailer.views.kept import sessions

    place = configured(workdir)
    if bool(threads) == every:
        raise UsageFault("which", "name threads, or give --all", LIST)
    found = sessions(place.state)
    chosen = tuple(pick(thread, found, "session of a thread", LIST) for thread in threads or ())
    ask_and_tell(place, Request(Verb.SESSIONS_INVALIDATE, chosen))


@app.command("prune", cls=FastCommand)
def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Not used for this long: 14d, 36h.")],
    workdir: Workdir = None,
) -> None:
    """Forget sessions that were not used for a while."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    age = parse_age(older_than)
    ask_and_tell(configured(workdir), Request(Verb.SESSIONS_PRUNE, seconds=age))


def _facts(session: SessionView) -> Iterator[tuple[str, str]]:
    of_runtime = f" of {printable(session.runtime, 40)}" if session.runtime else ""
    yield "thread", printable(session.thread, 300)
    yield "session", printable(session.session_id) + of_runtime
    yield "turns", f"{session.turns}, which have printed {session.bytes / 1_000_000:.1f} MB"
    yield "since", local_iso(session.first_seen_at)
    yield "last used", local_iso(session.last_used_at)
