"""`test-claude`: `test-runtime` with Claude Code, whatever the agent's runtime is."""

from __future__ import annotations

from agent_mailer.cli.options import Json, Workdir
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.test.runtime import DEFAULT_SECONDS, Keep, Timeout, run_trial

app = single()


@app.command("test-claude", cls=LightCommand)
def claude(
    workdir: Workdir = None, keep: Keep = False, timeout: Timeout = DEFAULT_SECONDS, as_json: Json = False
) -> None:
    """As test-runtime, with Claude Code whatever the agent's runtime is."""
    run_trial(workdir, {"runtime": "claude"}, keep=keep, timeout=timeout, as_json=as_json)
