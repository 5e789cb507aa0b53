"""`team`, which is also the program `amp`: several agents of one machine as one thing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from agent_mailer.cli.home import settle_home
from agent_mailer.cli.terminal.commands import LazyGroup, Version, group


class _Commands(LazyGroup):
    aliases: ClassVar[Mapping[str, str]] = {"new": "init"}
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "claude-code": (
            "agent_mailer.cli.team.making:claude_app",
            "Make a team of Claude Code for this folder, and start it.",
        ),
        "codex": ("agent_mailer.cli.team.making:codex_app", "The same with Codex."),
        "up": ("agent_mailer.cli.team.making:up_app", "Make a team, or take over what changed in team.yaml; start it."),
        "init": ("agent_mailer.cli.team.making:init_app", "Make a team; start nothing."),
        "start": ("agent_mailer.cli.team.running:start_app", "Start the team's watchers."),
        "stop": ("agent_mailer.cli.team.running:stop_app", "Stop them."),
        "restart": ("agent_mailer.cli.team.running:restart_app", "Stop and start them; running turns go on."),
        "attach": ("agent_mailer.cli.team.running:attach_app", "See the team in its tmux session."),
        "status": ("agent_mailer.cli.team.looking:status_app", "Who works on what, and what needs a person."),
        "list": ("agent_mailer.cli.team.looking:list_app", "The teams that there are."),
        "logs": ("agent_mailer.cli.team.looking:logs_app", "What happened, of all its agents in order."),
        "send": ("agent_mailer.cli.team.mail:send_app", "Send mail to one of its agents."),
        "ask": ("agent_mailer.cli.team.mail:ask_app", "Give the team a task, and wait for the answer."),
        "rm": ("agent_mailer.cli.team.running:rm_app", "Delete a team's folder."),
        "login": ("agent_mailer.cli.team.login:login_app", "Log in at a broker."),
        "logout": ("agent_mailer.cli.team.login:logout_app", "Log out there."),
        "whoami": ("agent_mailer.cli.team.login:whoami_app", "Who is logged in, and where."),
    }


app = group("team", "Several agents of one machine as one thing; also as the program amp.", _Commands)
amp = group("amp", "A team of coding agents that hand work to each other by mail.", _Commands, completion=True)


@app.callback()
def _root() -> None:
    """Several agents of one machine as one thing."""
    settle_home(os.environ)


@amp.callback()
def _amp(version: Version = False) -> None:
    """A team of coding agents that hand work to each other by mail."""
    del version
    settle_home(os.environ)
