"""`logs`: what happened in a workdir."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import say
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.views.log import LogReader, Wanted
    from agent_mailer.views.values.history import LineView

app = single()


@app.command("logs", cls=FastCommand)
def logs(
    tail: Annotated[int, typer.Option("--tail", metavar="N", min=0, help="How many of the last lines.")] = 50,
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
    from agent_mailer.views.log import LogReader, choose

    if tail < 0:
        raise UsageFault("bad_value", "--tail is a number of lines", "")
    place = configured(workdir)
    with LogReader(place.folder.log) as reader:
        wanted = choose(place.state, reader, pattern=grep, thread=thread, turn=turn, to_come=follow)
        for line in reader.tail(tail, wanted):
            _show(line, as_json=as_json)
        if follow:
            import asyncio

            asyncio.run(_follow(reader, wanted, as_json=as_json))


async def _follow(reader: LogReader, wanted: Wanted, *, as_json: bool) -> None:
    async for line in reader.follow(wanted):
        _show(line, as_json=as_json)


def _show(line: LineView, *, as_json: bool) -> None:
    from agent_mailer.cli.terminal.event_lines import of_record

    if not as_json:
        say(of_record(line.record) if line.record else printable(line.raw.decode("utf-8", "replace"), 300))
    elif line.record:
        sys.stdout.write(line.raw.decode("utf-8", "replace") + "\n")
        sys.stdout.flush()
