"""`logs`: what happened in a workdir."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.light import LightCommand, single
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.printing import say
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.cli.log_lines import Line, Wanted


app = single()


@app.command("logs", cls=LightCommand)
def logs(
    tail: Annotated[int, typer.Option("--tail", metavar="N", help="How many of the last lines.")] = 50,
    grep: Annotated[
        str | None,
        typer.Option("--grep", metavar="PATTERN", help="Only lines whose JSON matches this regular expression."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show the last events, oldest first."""
    from agent_mailer.cli import log_lines

    if tail < 0:
        raise UsageFault("bad_value", "--tail is a number of lines", "")
    place = configured(workdir)
    wanted = _matcher(grep)
    for line in log_lines.tail(place.folder.log, tail, wanted) if tail else []:
        _show(line, as_json=as_json)
    if follow:
        for line in log_lines.follow(place.folder.log, wanted):
            _show(line, as_json=as_json)


def _matcher(pattern: str | None) -> Wanted | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageFault("bad_pattern", f"--grep: {error} in {printable(pattern)!r}", "") from None
    return lambda raw: compiled.search(raw.decode("utf-8", "replace")) is not None


def _show(line: Line, *, as_json: bool) -> None:
    from agent_mailer.cli.log_lines import sentence

    if as_json:
        if line.record:
            sys.stdout.write(line.raw.decode("utf-8", "replace") + "\n")
            sys.stdout.flush()
    else:
        say(sentence(line.record) if line.record else printable(line.raw.decode("utf-8", "replace"), 300))
