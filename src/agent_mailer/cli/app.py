"""The program: its command groups, and how an error reaches a person or a script."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar, NoReturn

import typer

from agent_mailer.cli.ending import status_of
from agent_mailer.cli.home import settle_home
from agent_mailer.cli.terminal.commands import LazyGroup, Version, group
from agent_mailer.cli.terminal.screen import prepare_streams
from agent_mailer.cli.terminal.streams import last_words, leave, open_what_is_closed


class _Program(LazyGroup):
    aliases: ClassVar[Mapping[str, str]] = {"quarantine": "held"}
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "init": ("agent_mailer.cli.init", "Set up this folder for an agent."),
        "config": ("agent_mailer.cli.config", "Show and change the agent's configuration."),
        "agent": ("agent_mailer.cli.agent", "Remove an agent, move it, give it another address."),
        "verify": ("agent_mailer.cli.doctor:verify_app", "Is this folder ready to be watched?"),
        "doctor": ("agent_mailer.cli.doctor", "Check everything around the agent, and say what fixes it."),
        "test-runtime": ("agent_mailer.cli.test", "One tiny real turn of the agent program."),
        "test-claude": ("agent_mailer.cli.test:claude_app", "The same with Claude Code."),
        "test-notify": ("agent_mailer.cli.test:notify_app", "One notice to the operator, now."),
        "watch": ("agent_mailer.cli.watch.command", "Run the agent on its mail, unattended."),
        "status": ("agent_mailer.cli.status", "What the agent is doing, and what waits."),
        "console": ("agent_mailer.cli.console", "Your agents in a browser, without a broker."),
        "logs": ("agent_mailer.cli.logs", "What happened."),
        "send": ("agent_mailer.cli.mail.send", "Send a message, and wait for the answer."),
        "inbox": ("agent_mailer.cli.mail.commands:inbox_app", "The mail that waits for you."),
        "mail": ("agent_mailer.cli.mail.commands", "Read and answer mail: the agent's, or yours."),
        "mcp": ("agent_mailer.cli.mcp", "The agent's mail tools during its turn, over MCP."),
        "plugin": ("agent_mailer.cli.plugin", "Mail in your own sessions of Claude Code and Codex."),
        "take": ("agent_mailer.cli.take", "A mail of the agent's, in your own session."),
        "turns": ("agent_mailer.cli.turns", "The runs of the agent."),
        "sessions": ("agent_mailer.cli.sessions", "The agent's session of each thread."),
        "memory": ("agent_mailer.cli.memory", "The agent's notes."),
        "stuck": ("agent_mailer.cli.stuck", "What was not worked on, and what did not leave."),
        "held": ("agent_mailer.cli.held", "Mail that waits until you say what becomes of it."),
        "approvals": ("agent_mailer.cli.approvals", "What the agent asks you before it does it."),
        "approve": ("agent_mailer.cli.approvals:approve_app", "Allow what the agent asks."),
        "deny": ("agent_mailer.cli.approvals:deny_app", "Deny it."),
        "cost": ("agent_mailer.cli.cost", "What turns took: by day, agent, thread, sender, model."),
        "metrics": ("agent_mailer.cli.metrics", "All your agents as numbers, for Prometheus."),
        "runtime": ("agent_mailer.cli.runtime", "The agents that are described, and a try of one."),
        "limits": ("agent_mailer.cli.limits", "What turns may take of a day, and what they took."),
        "schedules": ("agent_mailer.cli.schedules", "Mail that is sent by the clock."),
        "dead-letter": ("agent_mailer.cli.dead_letters", "Messages that were given up."),
        "fetch": ("agent_mailer.cli.mail.commands:fetch_app", "A message, without claiming it."),
        "pause": ("agent_mailer.cli.pause", "Start no new turns."),
        "resume": ("agent_mailer.cli.pause:resume_app", "Start turns again."),
        "hook": ("agent_mailer.cli.hook", "Let GitHub and other programs write to your agents."),
        "broker": ("agent_mailer.cli.broker", "A broker for agents on different machines."),
        "service": ("agent_mailer.cli.service", "Run the agent as a systemd user service."),
        "team": ("agent_mailer.cli.team", "Several agents as one thing; also as the program amp."),
        "drill": ("agent_mailer.cli.drill", "Kill it on this machine, and count."),
        "demo": ("agent_mailer.cli.demo", "Two agents at work, in under 20 seconds."),
        "help": ("agent_mailer.cli.help", "About a command, or about what a word means here."),
    }
    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Begin": (
            "init",
            "demo",
            "drill",
            "config",
            "runtime",
            "agent",
            "verify",
            "doctor",
            "test-runtime",
            "test-claude",
            "test-notify",
            "help",
        ),
        "Let it work": ("watch", "service", "status", "console", "logs", "pause", "resume"),
        "Mail": ("send", "inbox", "mail", "fetch", "schedules"),
        "What needs you": ("approvals", "approve", "deny", "held", "stuck", "dead-letter"),
        "What was done": ("turns", "sessions", "memory", "cost", "limits", "metrics"),
        "Beside it": ("team", "broker", "hook", "plugin", "take", "mcp"),
    }


app = group(
    "agent-mailer", "Give a coding agent a mailbox, and run it unattended.", _Program, completion=True, alone=True
)


@app.callback(invoke_without_command=True)
def _root(ctx: typer.Context, version: Version = False) -> None:
    del version
    settle_home(os.environ)
    if ctx.invoked_subcommand is None:
        from agent_mailer.cli.overview import show

        show()


def main() -> NoReturn:
    """Run a command. A user never sees a traceback; a bug leaves one where AGENT_MAILER_DEBUG is set."""
    _play(app)


def amp() -> NoReturn:
    """The same for the program `amp`, which is `agent-mailer team`."""
    from agent_mailer.cli.team import amp as program

    _play(program)


def _play(program: typer.Typer) -> NoReturn:
    open_what_is_closed()
    prepare_streams()
    try:
        status = _answer_shell(program) if any(name in os.environ for name in _SHELL_ASKS) else _status_of(program)
    finally:
        last_words()
    leave(status)


_SHELL_ASKS = ("_AGENT_MAILER_COMPLETE", "_AMP_COMPLETE")


def _answer_shell(program: typer.Typer) -> int:
    """A shell asks after TAB; or for the script by which it asks."""
    from agent_mailer.cli.offers import answer, asked_by

    shell = asked_by(os.environ)
    return answer(lambda: _status_of(program), shell) if shell else _status_of(program)


def _status_of(program: typer.Typer) -> int:
    def played() -> object:
        try:
            return program(standalone_mode=False)
        except typer.Abort:
            raise KeyboardInterrupt from None

    return status_of(played)


if __name__ == "__main__":
    main()
