"""`init`: set up a folder as an agent's workdir."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.choosing import split_words
from agent_mailer.cli.light import LightCommand, single
from agent_mailer.cli.options import Workdir, absolute, workplace
from agent_mailer.cli.printing import say
from agent_mailer.errors import MailerError

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


app = single()


@app.command("init", cls=LightCommand)
def init(
    workdir: Workdir = None,
    address: Annotated[
        str | None, typer.Option("--address", help="The agent's address; in a folder mailbox its handle.")
    ] = None,
    agent_name: Annotated[str | None, typer.Option("--agent-name", help="Its name, where that differs.")] = None,
    agent_id: Annotated[str | None, typer.Option("--agent-id", help="Its id at a broker.")] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="What does the work: command, claude, codex.")
    ] = None,
    command: Annotated[
        str | None, typer.Option("--command", help="With --runtime command: the command line, quoted as one word.")
    ] = None,
    command_output: Annotated[
        str | None, typer.Option("--command-output", help="What it prints: text (its answer) or jsonl (events).")
    ] = None,
    claude_command: Annotated[str | None, typer.Option("--claude-command", help="The claude program.")] = None,
    codex_command: Annotated[str | None, typer.Option("--codex-command", help="The codex program.")] = None,
    permission_mode: Annotated[
        str | None, typer.Option("--permission-mode", help="acceptEdits, bypassPermissions or plan; never guessed.")
    ] = None,
    maildir_root: Annotated[
        str | None, typer.Option("--maildir-root", help="The folder mailbox's root; made where there is none.")
    ] = None,
    project_dir: Annotated[
        str | None, typer.Option("--project-dir", help="The folder it works on, where that is not the workdir.")
    ] = None,
    max_parallel_turns: Annotated[
        int | None, typer.Option("--max-parallel-turns", help="Threads worked on side by side.")
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option("--max-retries", help="Further attempts after a failed one.")
    ] = None,
    turn_timeout: Annotated[int | None, typer.Option("--turn-timeout", help="Seconds a turn may take.")] = None,
    stop_grace: Annotated[
        int | None, typer.Option("--stop-grace", help="Seconds running turns are given when the watcher is stopped.")
    ] = None,
    auto_reply: Annotated[
        str | None, typer.Option("--auto-reply", help="if-silent, never or always: send its final words as the answer.")
    ] = None,
    no_interactive: Annotated[bool, typer.Option("--no-interactive", help="Never ask; exit 78 instead.")] = False,
    gitignore: Annotated[
        bool, typer.Option("--gitignore/--no-gitignore", help="Keep state and mail out of git.")
    ] = True,
) -> None:
    """Set up this folder for an agent: its configuration and its mailbox."""
    given: dict[str, object] = {
        "address": address,
        "agent_name": agent_name,
        "agent_id": agent_id,
        "runtime": runtime,
        "command": split_words(command, "--command") if command is not None else None,
        "command_output": command_output,
        "claude_command": claude_command,
        "codex_command": codex_command,
        "permission_mode": permission_mode,
        "maildir_root": absolute(maildir_root),
        "project_dir": absolute(project_dir),
        "max_parallel_turns": max_parallel_turns,
        "max_retries": max_retries,
        "turn_timeout": turn_timeout,
        "stop_grace": stop_grace,
        "auto_reply": auto_reply,
    }
    values = {key: value for key, value in given.items() if value is not None}
    place = workplace(workdir, values)
    if place.missing() and not no_interactive and on_terminal():
        answers = ask(place)
        values |= answers
        place = workplace(place.workdir, values)
    _finish(place, values, gitignore=gitignore)


def ask_what_is_missing(place: Workplace) -> Workplace:
    """Ask what `watch` cannot do without, write it, and return the workplace as it is then; flags go on counting."""
    import msgspec

    from agent_mailer.config import Source

    plain = msgspec.to_builtins(place.config)
    flags = {key: plain[key] for key, source in place.loaded.sources.items() if source is Source.FLAG}
    answers = ask(place)
    _finish(workplace(place.workdir, flags | answers), answers, gitignore=True)
    return workplace(place.workdir, flags)


def on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(place: Workplace) -> dict[str, object]:
    """The missing values, asked one by one until each is valid."""
    answers: dict[str, object] = {}
    say(f"Setting up {place.workdir} for an agent. Ctrl-C leaves everything as it is.")
    missing = dict(place.missing())
    if "address" in missing:
        answers["address"] = _ask("Its address, a short name (a-z, 0-9, - and _)", _default_handle(place), _handle)
    if "runtime" in missing:
        say("\nWhat does the work:")
        say("  claude    Claude Code, logged in (claude auth login)")
        say("  codex     Codex, logged in (codex login)")
        say("  command   any program: it gets the prompt on standard input")
        found = next((name for name in ("claude", "codex") if shutil.which(name)), "command")
        answers["runtime"] = _ask("Runtime", found, lambda text: _valid("runtime", text))
    runs_command = answers.get("runtime", place.config.runtime) == "command"
    if "command" in missing or (runs_command and not place.config.command):
        answers["command"] = _ask("\nThe command line", None, _command)
    if "permission_mode" in missing:
        say("\nWhat the agent may do while nobody watches (there is no default; choose):")
        say("  plan               read and think only")
        say("  acceptEdits        change files in its folder; what else it may run is up to its own settings")
        say("  bypassPermissions  everything you may do; for a container or a throw-away machine")
        answers["permission_mode"] = _ask("Permission mode", None, lambda text: _valid("permission_mode", text))
    return answers


def _finish(place: Workplace, values: dict[str, object], *, gitignore: bool) -> None:
    place.require_complete()
    from agent_mailer.cli.setup import set_up

    done = set_up(place, values, gitignore=gitignore)
    for line in done.lines:
        say(line)
    here = [] if place.workdir == _cwd() else ["-C", str(place.workdir)]
    say("\nNext:")
    say("  " + shlex.join(["agent-mailer", "watch", *here]))
    words = ["agent-mailer", "send", *here, "--to", place.handle, "--subject", "Hello", "--body", "Who are you?"]
    say("  " + shlex.join([*words, "--wait", "60"]))


def _ask(question: str, default: str | None, check: object) -> object:
    assert callable(check)
    while True:
        text = typer.prompt(question, default=default)
        try:
            return check(str(text).strip())
        except MailerError as fault:
            say(f"  {fault.message}")


def _handle(text: str) -> str:
    from agent_mailer.cli.setup import require_handle

    require_handle(text)
    return text


def _command(text: str) -> list[str]:
    words = split_words(text, "command")
    if not words:
        raise MailerError("empty", "a command has at least one word")
    return words


def _valid(key: str, text: str) -> str:
    from agent_mailer.config import check_value

    check_value(key, text)
    return text


def _default_handle(place: Workplace) -> str | None:
    from agent_mailer.mailbox.maildir.layout import is_handle

    name = place.workdir.name.lower()
    return name if is_handle(name) else None


def _cwd() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None
