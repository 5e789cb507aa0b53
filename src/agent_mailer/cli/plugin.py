"""`plugin`: mail in the session that you sit at, in Claude Code, Codex, or any program that reads skills."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli import stays
from agent_mailer.cli.completion import any_of
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_text, note, say
from agent_mailer.errors import ExitCode
from agent_mailer.names import one_of

if TYPE_CHECKING:
    from agent_mailer.live.doorbell import Doorbell
    from agent_mailer.live.plugins import Plugins
    from agent_mailer.live.sessions import LiveSessions

app = group("plugin", "Mail in your own sessions of Claude Code and Codex.")

Which = Annotated[
    str,
    typer.Argument(
        metavar="WHICH",
        help="claude, codex, or skill: the skill alone, in ~/.agents/skills.",
        autocompletion=any_of("claude", "codex", "skill"),
    ),
]
Whose = Annotated[str, typer.Argument(metavar="PROGRAM", help="claude or codex.")]


@app.command("install", cls=FastCommand)
def install(which: Which) -> None:
    """Put the plugin into a program, from this installation and without a network. A second time renews it."""
    from agent_mailer.live.shipped import Target

    target = Target(one_of(which, Target, "WHICH"))
    for line in _plugins().install(target):
        say(line)
    if target is Target.CODEX:
        note("codex asks once whether it may run the two hooks: without them there is no doorbell")


@app.command("uninstall", cls=FastCommand)
def uninstall(which: Which) -> None:
    """Take the plugin out again, and nothing else."""
    from agent_mailer.live.heard import Program
    from agent_mailer.live.shipped import Target

    target = Target(one_of(which, Target, "WHICH"))
    for line in _plugins().uninstall(target):
        say(line)
    if target is not Target.SKILL:
        _sessions().end_all(Program(target.value))


@app.command("status", cls=FastCommand)
def status(
    which: Annotated[
        str | None,
        typer.Argument(metavar="[WHICH]", help="claude, codex or skill. Default: all.", show_default=False),
    ] = None,
) -> None:
    """Say what is installed. Ends with 1 where what was asked for is not in order."""
    from agent_mailer.live.shipped import Target

    targets = list(Target) if which is None else [Target(one_of(which, Target, "WHICH"))]
    plugins = _plugins()
    found = [(target, *plugins.standing(target)) for target in targets]
    for target, _, text in found:
        say(f"{target.value:<8}{text}")
    if which is not None and not found[0][1]:
        raise typer.Exit(ExitCode.FAILED)


@app.command("hook", cls=FastCommand)
def hook(program: Whose) -> None:
    """What the hooks of the plugins call: wait for mail beside a session, or say a line. Not for you."""
    from agent_mailer.live.doorbell import quietly
    from agent_mailer.live.heard import Program, heard

    whose = Program(one_of(program, Program, "PROGRAM"))
    call = heard(sys.stdin.buffer.read())
    if call is not None:
        stays()
        bell = _doorbell(_sessions())
        raise typer.Exit(quietly(lambda: bell.hear(whose, call, os.getppid())))


@app.command("listen", cls=FastCommand)
def listen(program: Whose, session: Annotated[str, typer.Argument(metavar="SESSION")]) -> None:
    """What waits for mail beside a session of Codex; the plugin's hook starts it. Not for you."""
    from agent_mailer.live.doorbell import quietly
    from agent_mailer.live.heard import Program

    sessions = _sessions()
    found = sessions.find(Program(one_of(program, Program, "PROGRAM")), session)
    if found is not None and found.process is not None:
        stays()
        bell = _doorbell(sessions)
        raise typer.Exit(quietly(lambda: bell.listen(found)))


def _plugins() -> Plugins:
    from platformdirs import user_data_path

    from agent_mailer import __version__
    from agent_mailer.disk import Disk
    from agent_mailer.live.plugins import Plugins
    from agent_mailer.service.install import own_program
    from agent_mailer.trust.workdir import refuse_in_a_turn

    refuse_in_a_turn("plugin", os.environ)
    program = own_program(os.environ.get("PATH", os.defpath))
    return Plugins(program, __version__, user_data_path("agent-mailer"), os.environ, Disk())


def _sessions() -> LiveSessions:
    from agent_mailer.disk import Disk
    from agent_mailer.live.sessions import LiveSessions
    from agent_mailer.state.workdirs import user_state

    return LiveSessions(user_state() / "live", Disk())


def _doorbell(sessions: LiveSessions) -> Doorbell:
    from agent_mailer.cli.mail.options import person_at
    from agent_mailer.disk import Disk
    from agent_mailer.live.doorbell import Doorbell
    from agent_mailer.live.taking import agents_folder
    from agent_mailer.state.presence import Presence

    presence = Presence(agents_folder(), Disk())
    return Doorbell(sessions, lambda: person_at(None, None, None), os.environ, _say_to_program, note, presence)


def _say_to_program(text: str) -> None:
    say(json_text({"hookSpecificOutput": {"hookEventName": "UserPromptSubmit", "additionalContext": text}}))
