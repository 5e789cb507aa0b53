"""`agent`: remove an agent from its folder, move it, give it another address."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.amounts import counted
from agent_mailer.cli.options import Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import note, say
from agent_mailer.errors import ExitCode, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_mailer.assemble import Workplace

app = group("agent", "Remove an agent, move it, give it another address.")


@app.command("remove", cls=FastCommand)
def remove(
    workdir: Workdir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without being asked.")] = False,
) -> None:
    """Take the agent out of its folder. What it had is laid aside, not deleted: its mail, turns, sessions and notes.

    Nobody may be at work there: a watcher or a service that is, is named with the command that ends it.
    """
    from agent_mailer.setup.leaving import remove as take_out
    from agent_mailer.trust.workdir import refuse_in_a_turn

    place = configured(workdir)
    refuse_in_a_turn("agent remove", os.environ)
    for line in _waits(place):
        note(line)
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            again = f"agent-mailer agent remove --yes -C {shlex.quote(str(place.workdir))}"
            raise UsageFault("not_asked", "nobody can be asked here; nothing was changed", again)
        if not typer.confirm(f"Remove {printable(place.handle) or 'the agent'} from {place.workdir}?", default=False):
            raise typer.Exit(ExitCode.FAILED)
    done = take_out(place, os.environ)
    say(f"removed   {printable(place.handle)} from {place.workdir}")
    what = "its mail, turns, sessions and notes" if done.mail else "its turns, sessions and notes"
    say(f"kept      {what} in {done.kept}")
    if not place.in_folder:
        note(f"{place.config.broker_url or 'the server'} still takes mail for {printable(place.handle)}: end it there")


@app.command("move", cls=FastCommand)
def move(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it is to be; not there yet.")],
    workdir: Workdir = None,
) -> None:
    """Move the agent's folder, with everything in it. Its address, its mail and what you trust of it stay."""
    from agent_mailer.config import RuntimeKind
    from agent_mailer.setup.leaving import move as go
    from agent_mailer.trust.workdir import refuse_in_a_turn

    place = configured(workdir)
    refuse_in_a_turn("agent move", os.environ)
    wanted = Path(os.path.abspath(target.expanduser()))  # noqa: PTH100
    there = place.project_dir() or place.workdir
    lines = go(place, wanted, os.environ)
    for line in lines:
        say(line)
    if place.config.runtime is RuntimeKind.CLAUDE and there.is_relative_to(place.workdir):
        note("claude keeps sessions by folder: threads begin a new one here, with their mail and the agent's notes")


@app.command("rename", cls=FastCommand)
def rename(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="By which it is written to from now on.")],
    workdir: Workdir = None,
) -> None:
    """Give the agent another address in its folder of mail. Its mail goes along; who writes to the old one is told."""
    from agent_mailer.setup.leaving import rename as change
    from agent_mailer.trust.workdir import refuse_in_a_turn

    place = configured(workdir)
    refuse_in_a_turn("agent rename", os.environ)
    for line in change(place, address, os.environ):
        say(line)


def _waits(place: Workplace) -> Iterator[str]:
    """What is not done yet, a line each."""
    from agent_mailer.views.local import look

    view = look(place)
    waiting = view.mailbox.waiting
    found = (
        (waiting or 0, "message", "not worked on yet"),
        (len(view.retries), "message", "to be tried again"),
        (sum(one.count for one in view.held), "message", "held"),
        (sum(one.count for one in view.stuck), "message", "stuck"),
        (len(view.asked), "question", "not answered by you"),
        (len(view.running) + len(view.settling), "turn", "not settled"),
    )
    for count, what, how in found:
        if count:
            yield f"waits     {counted(count, what)} {how}"
