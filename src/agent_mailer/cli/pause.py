"""`pause` and `resume`: no new turns for a while."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_mailer.cli.options import Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, single

app = single()


@app.command("pause", cls=FastCommand)
def pause(
    reason: Annotated[str, typer.Option("--reason", help="Why; `status` shows it.", show_default=False)] = "",
    workdir: Workdir = None,
) -> None:
    """Start no new turns until `resume`; running ones go on."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    ask_and_tell(configured(workdir), Request(Verb.PAUSE, reason=reason))


resume_app = single()


@resume_app.command("resume", cls=FastCommand)
def resume(workdir: Workdir = None) -> None:
    """End a pause, whatever its reason."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    ask_and_tell(configured(workdir), Request(Verb.RESUME))
