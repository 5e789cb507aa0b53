"""`logs`: what happened in a workdir."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import say
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.views.log import Line, LogReader, Wanted


app = single()


@app.command("logs", cls=LightCommand)
def logs(
    tail: Annotated[int, typer.Option("--tail", metavar="N", help="How many of the last lines.")] = 50,
    grep: Annotated[
        str | None,
        typer.Option("--grep", metavar="PATTERN", help="Only lines whose JSON matches this regular expression."),
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option("--thread", metavar="THREAD", help="Only what belongs to a thread: its messages and turns."),
    ] = None,
    turn: Annotated[str | None, typer.Option("--turn", metavar="TURN", help="Only what belongs to a turn.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show the last events, oldest first. A thread or turn may be named by its beginning or its end."""
    from agent_mailer.views.log import LogReader

    if tail < 0:
        raise UsageFault("bad_value", "--tail is a number of lines", "")
    place = configured(workdir)
    with LogReader(place.folder.log) as reader:
        reader.wanted = _wanted(place, reader, grep, thread, turn, follow=follow)
        for line in reader.tail(tail):
            _show(line, as_json=as_json)
        if follow:
            import asyncio

            asyncio.run(_follow(reader, as_json=as_json))


async def _follow(reader: LogReader, *, as_json: bool) -> None:
    async for line in reader.follow():
        _show(line, as_json=as_json)


def _wanted(
    place: Workplace, reader: LogReader, grep: str | None, thread: str | None, turn: str | None, *, follow: bool
) -> Wanted | None:
    """What the options choose; None = every line."""
    if grep is None and thread is None and turn is None:
        return None
    from agent_mailer.views.log import Names, all_of, meant, of_pattern, of_thread, of_turn

    chosen: list[Wanted] = []
    names = Names(reader.lines() if thread is not None or turn is not None else ())
    if thread is not None:
        # First, for it learns from every line which turns are the thread's.
        threads = [*names.threads, *(name for name, _ in place.state.sessions.all())]
        chosen.append(of_thread(meant(thread, threads, "thread", "agent-mailer logs", to_come=follow), names))
    if turn is not None:
        turns = [*names.turns, *place.state.turns.ids()]
        chosen.append(of_turn(meant(turn, turns, "turn", "agent-mailer turns list", to_come=follow)))
    if grep is not None:
        chosen.append(of_pattern(grep))
    return all_of(chosen)


def _show(line: Line, *, as_json: bool) -> None:
    from agent_mailer.views.log import sentence

    if as_json:
        if line.record:
            sys.stdout.write(line.raw.decode("utf-8", "replace") + "\n")
            sys.stdout.flush()
    else:
        say(sentence(line.record) if line.record else printable(line.raw.decode("utf-8", "replace"), 300))
