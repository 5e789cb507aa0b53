"""`mcp`: the mail tools of a turn, for an agent program that speaks MCP."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli import stays
from agent_mailer.cli.terminal.commands import FastCommand, single

app = single()


@app.command("mcp", cls=FastCommand)
def mcp(
    turn_dir: Annotated[
        str | None,
        typer.Argument(metavar="[TURN_DIR]", help="The turn's folder. Default: that of the turn it runs in."),
    ] = None,
) -> None:
    """Serve the mail tools of a turn over MCP, on standard input and output: for agent programs, not for people."""
    import os

    from agent_mailer.turn_tools.mcp import serve, turn_of

    stays()
    serve(turn_of(turn_dir, os.environ))
