"""`watch`: run the agent unattended."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent_mailer.cli.options import ApiKey, Workdir, absolute, read_key, tell_damage, workplace
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.watch.running import begin, ready, watch_at
from agent_mailer.names import split_words

Flag = Annotated[str | None, typer.Option(help="Overrides the configuration file.", show_default=False)]
Number = Annotated[int | None, typer.Option(help="Overrides the configuration file.", show_default=False)]


app = single()


@app.command("watch", cls=FastCommand)
def watch(
    workdir: Workdir = None,
    once: Annotated[
        bool, typer.Option("--once", help="Run each due message once, then exit; 1 if any failed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; change nothing.")] = False,
    no_interactive: Annotated[bool, typer.Option("--no-interactive", help="Never ask; exit 78 instead.")] = False,
    ignore_mismatch: Annotated[
        bool, typer.Option("--ignore-agent-md-mismatch", help="Run although AGENT.md names another agent.")
    ] = False,
    address: Flag = None,
    agent_id: Flag = None,
    broker_url: Flag = None,
    api_key: ApiKey = None,
    runtime: Flag = None,
    agent: Flag = None,
    claude_command: Flag = None,
    codex_command: Flag = None,
    infiniti_command: Flag = None,
    command: Flag = None,
    permission_mode: Flag = None,
    maildir_root: Flag = None,
    poll_interval_idle: Number = None,
    poll_interval_active: Number = None,
    max_retries: Number = None,
    max_parallel_turns: Number = None,
) -> None:
    """Wait for mail, run one turn of the agent for each message, settle it. One watcher per folder."""
    import asyncio

    notifier = begin()
    place = workplace(
        workdir,
        {
            "address": address,
            "agent_id": agent_id,
            "broker_url": broker_url,
            "api_key": read_key(api_key),
            "runtime": runtime,
            "agent": agent,
            "claude_command": claude_command,
            "codex_command": codex_command,
            "infiniti_command": infiniti_command,
            "command": split_words(command, "--command") if command is not None else None,
            "permission_mode": permission_mode,
            "maildir_root": absolute(maildir_root),
            "poll_interval_idle": poll_interval_idle,
            "poll_interval_active": poll_interval_active,
            "max_retries": max_retries,
            "max_parallel_turns": max_parallel_turns,
        },
        damaged=tell_damage if dry_run else None,
    )
    if not (dry_run or no_interactive) and sys.stdin.isatty() and sys.stdout.isatty():
        from agent_mailer.cli.init import set_up_to_watch
        from agent_mailer.cli.trusting import ask_whether_trusted

        place = ask_whether_trusted(place)
        place = set_up_to_watch(place) if place.missing() and not place.trust.verdict.stopping else place
    if dry_run:
        from agent_mailer.cli.watch.plan import show_plan

        ready(place, ignore_mismatch=ignore_mismatch)
        asyncio.run(show_plan(place))
        return
    raise typer.Exit(watch_at(place, notifier, once=once, ignore_mismatch=ignore_mismatch))
