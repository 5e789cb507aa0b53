"""`init`: set up a folder as an agent's workdir."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import any_of
from agent_mailer.cli.init.wizard import on_terminal
from agent_mailer.cli.options import ApiKey, Workdir, absolute, read_key, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.names import one_of, split_words

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


app = single()


@app.command("init", cls=LightCommand)
def init(
    workdir: Workdir = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="The agent's address; in a folder mailbox its handle, at a broker also its name."
        ),
    ] = None,
    agent_name: Annotated[str | None, typer.Option("--agent-name", help="Its name, where that differs.")] = None,
    broker_url: Annotated[
        str | None,
        typer.Option("--broker-url", metavar="URL", help="Its mail is at this broker: it is registered there."),
    ] = None,
    api_key: ApiKey = None,
    from_login: Annotated[
        bool, typer.Option("--from-amp-login", help="Register it as the person that `amp login` has logged in.")
    ] = False,
    agent_id: Annotated[
        str | None, typer.Option("--agent-id", help="Its id at the broker, where it is registered already.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help="A new agent's role, for its colleagues.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What a new agent is for.")] = None,
    system_prompt_file: Annotated[
        Path | None, typer.Option("--system-prompt-file", metavar="FILE", help="A new agent's instructions.")
    ] = None,
    adapter_file: Annotated[
        str | None,
        typer.Option(
            "--adapter-file",
            help="The file that leads the agent program to AGENT.md: claude, codex, cursor, openclaw, dreamfactory or "
            "infiniti. Default: the runtime's.",
        ),
    ] = None,
    replace_protocol: Annotated[
        bool | None,
        typer.Option(
            "--replace-protocol-section/--keep-protocol-section",
            help="AGENT.md made for AMP tells the agent to use curl and its key: put our section in its place.",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="What does the work: claude, codex, infiniti, command.",
            autocompletion=any_of("claude", "codex", "infiniti", "command"),
        ),
    ] = None,
    command: Annotated[
        str | None, typer.Option("--command", help="With --runtime command: the command line, quoted as one word.")
    ] = None,
    command_output: Annotated[
        str | None, typer.Option("--command-output", help="What it prints: text (its answer) or jsonl (events).")
    ] = None,
    claude_command: Annotated[str | None, typer.Option("--claude-command", help="The claude program.")] = None,
    codex_command: Annotated[str | None, typer.Option("--codex-command", help="The codex program.")] = None,
    infiniti_command: Annotated[str | None, typer.Option("--infiniti-command", help="The infiniti program.")] = None,
    permission_mode: Annotated[
        str | None,
        typer.Option(
            "--permission-mode",
            help="acceptEdits, bypassPermissions or plan; never guessed.",
            autocompletion=any_of("plan", "acceptEdits", "bypassPermissions"),
        ),
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
    """Set up this folder for an agent: its configuration, its mailbox, its documents."""
    given: dict[str, object] = {
        "address": address,
        "agent_name": agent_name,
        "broker_url": broker_url,
        "api_key": read_key(api_key),
        "agent_id": agent_id,
        "runtime": runtime,
        "command": split_words(command, "--command") if command is not None else None,
        "command_output": command_output,
        "claude_command": claude_command,
        "codex_command": codex_command,
        "infiniti_command": infiniti_command,
        "permission_mode": permission_mode,
        "maildir_root": absolute(maildir_root),
        "project_dir": absolute(project_dir),
        "max_parallel_turns": max_parallel_turns,
        "max_retries": max_retries,
        "turn_timeout": turn_timeout,
        "stop_grace": stop_grace,
        "auto_reply": auto_reply,
    }
    from agent_mailer.cli.init.steps import Wishes, move_in
    from agent_mailer.setup.documents import ADAPTERS
    from agent_mailer.setup.registering import read_prompt

    wishes = Wishes(
        from_login=from_login,
        role=role or "",
        description=description or "",
        system_prompt=read_prompt(system_prompt_file),
        adapter=one_of(adapter_file, ADAPTERS, "--adapter-file") if adapter_file is not None else "",
        replace_protocol=replace_protocol,
        ask=on_terminal() and not no_interactive,
        gitignore=gitignore,
    )
    values = {key: value for key, value in given.items() if value is not None}
    move_in(workplace(workdir, values), values, wishes)


def set_up_to_watch(place: Workplace) -> Workplace:
    """Ask what `watch` cannot do without, write it, and return the workplace as it is then; flags go on counting."""
    import msgspec

    from agent_mailer.cli.init.steps import Wishes, finish
    from agent_mailer.cli.init.wizard import ask_what_is_missing
    from agent_mailer.config import Source

    plain = msgspec.to_builtins(place.config)
    flags = {key: plain[key] for key, source in place.loaded.sources.items() if source is Source.FLAG}
    answers = ask_what_is_missing(place)
    finish(workplace(place.workdir, flags | answers), answers, Wishes(ask=True, then_watch=True), flags)
    return workplace(place.workdir, flags)
