"""`resume`: the end of a pause."""

from __future__ import annotations

from agent_mailer.cli.options import Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, single

app = single()


@app.command("resume", cls=LightCommand)
def resume(workdir: Workdir = None) -> None:
    """End a pause, whatever its reason."""
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request, Verb

    ask_and_tell(configured(workdir), Request(Verb.RESUME))
