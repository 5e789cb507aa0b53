"""`status`: what the agent of a workdir is doing, and whether somebody has to look at it."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.errors import ExitCode, UsageFault

app = single()


@app.command("status", cls=FastCommand)
def status(
    workdir: Workdir = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every workdir of yours, a line each; those that need a person first.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--watch", help="Show it live until Ctrl-C; with --all the board.", show_default=False)
    ] = False,
    as_json: Json = False,
) -> None:
    """Show whether the watcher runs, what it works on, and what waits. Exit status 1: somebody has to look at it."""
    if live:
        _show_live(workdir, every=every, as_json=as_json)
        return
    if every:
        if workdir is not None:
            raise UsageFault("two_choices", "--all means every workdir, --workdir one", "leave one of them out")
        from agent_mailer.cli.status.many import table
        from agent_mailer.views.local import everywhere

        found = everywhere()
        if as_json:
            json_out(found)
        else:
            say("\n".join(table(found)))
        healthy = found.healthy
    else:
        from agent_mailer.views.local import look

        place = configured(workdir)
        view = look(place)
        if as_json:
            json_out(view)
        else:
            from agent_mailer.cli.status.one import screen
            from agent_mailer.cli.terminal.screen import width

            say("\n".join(screen(view, place.clock.now(), width())))
        healthy = view.healthy
    raise typer.Exit(ExitCode.OK if healthy else ExitCode.FAILED)


def _show_live(workdir: Workdir, *, every: bool, as_json: bool) -> None:
    import sys

    if every:
        from agent_mailer.cli.status.live import watch_all

        if workdir is not None:
            raise UsageFault("two_choices", "--all means every workdir, --workdir one", "leave one of them out")
        watch_all(as_json=as_json)
        return
    if as_json:
        raise UsageFault(
            "two_choices", "--watch is for people, --json for programs", "agent-mailer logs --follow --json"
        )
    if not sys.stdout.isatty():
        raise UsageFault(
            "no_terminal", "--watch needs a terminal", "agent-mailer status, or agent-mailer logs --follow"
        )
    from agent_mailer.cli.status.live import watch_one

    watch_one(configured(workdir).workdir)
