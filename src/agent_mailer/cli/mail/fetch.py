"""`fetch`: a message as it lies in the agent's mailbox."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli.mail.options import show
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, single

app = single()


@app.command("fetch", cls=LightCommand)
def fetch(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="The message's id, or as much of it as is unique.")],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Print a message from the agent's mailbox without claiming it."""
    from agent_mailer.people import agent_of

    message, _ = agent_of(configured(workdir)).find(message_id)
    show(message, as_json=as_json)
