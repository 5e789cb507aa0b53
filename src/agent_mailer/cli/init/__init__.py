"""`init`: set up a folder as an agent's workdir."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import any_of
from agent_mailer.cli.init.wizard import ask_what_is_missing, on_terminal
from agent_mailer.cli.options import ApiKey, Workdir, absolute, read_key, workplace
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import note, say, screen_text, told_when_done
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.errors import UsageFault, quoted
from agent_mailer.names import one_of, printable, shown_url, split_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_mailer.assemble import Workplace
    from agent_mailer.setup import Wishes
    from agent_mailer.setup.documents import Change

LARGEST_PROMPT = 256 * 1024

app = single()


@app.command("init", cls=FastCommand)
def init(
    workdir: Workdir = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="The agent's address; in a folder mailbox its handle, at a broker also its name."
        ),
    ] = None,
    agent_name: Annotated[str | None, typer.Option("--agent-name", help="Its name, where that differs.")] = None,
    mailbox: Annotated[
        str | None,
        typer.Option(
            "--mailbox",
            metavar="KIND",
            help="Where its mail is: maildir (a folder), amp (a broker), mcp_agent_mail or relay.",
            autocompletion=any_of("maildir", "amp", "mcp_agent_mail", "relay"),
        ),
    ] = None,
    broker_url: Annotated[
        str | None,
        typer.Option(
            "--broker-url", metavar="URL", help="Its mail is at this broker, or server: it is registered there."
        ),
    ] = None,
    api_key: ApiKey = None,
    from_login: Annotated[
        bool, typer.Option("--from-amp-login", help="Register it as the person that `amp login` has logged in.")
    ] = False,
    agent_id: Annotated[
        str | None, typer.Option("--agent-id", help="Its id at the broker, where it is registered already.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="NAME",
            help="Make it a reviewer, maintainer, triager or docs: role, instructions, mode, limits, a first mail.",
            autocompletion=any_of("reviewer", "maintainer", "triager", "docs"),
        ),
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
            help="What does the work: claude, codex, infiniti, acp (any agent that is described), command.",
            autocompletion=any_of("claude", "codex", "infiniti", "acp", "command"),
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", help="With --runtime acp: which agent; see agent-mailer runtime list.")
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
    sandbox: Annotated[
        str | None,
        typer.Option(
            "--sandbox",
            metavar="KIND",
            help="What stands around a turn: bwrap, landlock, srt, command or off. Default: the first of bwrap and "
            "landlock that holds here.",
            autocompletion=any_of("bwrap", "landlock", "srt", "command", "off"),
        ),
    ] = None,
    no_interactive: Annotated[bool, typer.Option("--no-interactive", help="Never ask; exit 78 instead.")] = False,
    gitignore: Annotated[
        bool | None,
        typer.Option(
            "--gitignore/--no-gitignore",
            help="Keep state and mail out of the git tree around them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Set up this folder for an agent: its configuration, its mailbox, its documents."""
    from agent_mailer.config import GitCare

    given: dict[str, object] = {
        "address": address,
        "agent_name": agent_name,
        "mailbox": mailbox.replace("-", "_") if mailbox is not None else None,
        "broker_url": broker_url,
        "api_key": read_key(api_key),
        "agent_id": agent_id,
        "runtime": runtime,
        "agent": agent,
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
        "git": None if gitignore is None else (GitCare.KEEP_OUT if gitignore else GitCare.LEAVE).value,
    }
    from agent_mailer.confine.port import Kind
    from agent_mailer.setup import Wishes, mailbox_meant, missing
    from agent_mailer.setup.documents import ADAPTERS
    from agent_mailer.setup.roles import ROLES, settings_of

    chosen = ROLES[one_of(template, ROLES, "--template")] if template is not None else None
    wishes = Wishes(
        first_mail=chosen.mail if chosen else "",
        sandbox=Kind(one_of(sandbox, [kind.value for kind in Kind], "--sandbox")) if sandbox is not None else None,
        from_login=from_login,
        role=role or (chosen.role if chosen else ""),
        description=description or (chosen.about if chosen else ""),
        system_prompt=_read_prompt(system_prompt_file) or (chosen.prompt if chosen else ""),
        adapter=one_of(adapter_file, ADAPTERS, "--adapter-file") if adapter_file is not None else "",
        replace_protocol=replace_protocol,
    )
    asking = on_terminal() and not no_interactive
    values = {key: value for key, value in given.items() if value is not None}
    place = workplace(workdir, values, anew=True)
    if chosen is not None:
        values |= settings_of(chosen, place)
        place = workplace(workdir, values, anew=True)
    values |= mailbox_meant(place, values, wishes)
    place = workplace(place.workdir, values, anew=True)
    if asking and missing(place, wishes):
        values |= ask_what_is_missing(place)
        place = workplace(place.workdir, values, anew=True)
    _set_up(place, values, wishes, {}, asking=asking)


def set_up_to_watch(place: Workplace) -> Workplace:
    """Ask what `watch` cannot do without, write it, and return the workplace as it is then; flags go on counting."""
    from agent_mailer.setup import Wishes

    flags = place.flags
    answers = ask_what_is_missing(place)
    _set_up(workplace(place.workdir, flags | answers), answers, Wishes(), flags, asking=True, then_watch=True)
    return workplace(place.workdir, flags)


def _set_up(
    place: Workplace,
    values: dict[str, object],
    wishes: Wishes,
    flags: dict[str, object],
    *,
    asking: bool,
    then_watch: bool = False,
) -> None:
    """Register where that is due, then write: documents first, the configuration last.

    `values` are to be written; `flags` count besides. `asking`: there is a person to ask.
    """
    from agent_mailer.setup import before_it_is_there
    from agent_mailer.setup.documents import plan_documents
    from agent_mailer.setup.found import missing_program, refusal
    from agent_mailer.setup.sandbox import settle_sandbox
    from agent_mailer.setup.workdir import set_up

    with nullcontext() if place.configured else before_it_is_there(), told_when_done() as done:
        identity = ""
        if place.at_broker:
            from agent_mailer.setup.registering import is_due, register

            if is_due(place, values, wishes):
                made = register(place, wishes, by_login=wishes.from_login or (asking and not place.config.api_key))
                values |= made.values
                identity = made.identity
                place = workplace(place.workdir, {**flags, **values}, anew=True)
                where = printable(shown_url(place.config.broker_url), 100)
                done.append(f"{'registered' if made.is_new else 'found     '} {printable(made.me.address)} at {where}")
        place.require_complete()
        if not place.at_broker and not place.in_folder:
            from agent_mailer.setup.registering import register_name
            from agent_mailer.setup.workdir import require_nobodys

            require_nobodys(place, place.config.address)
            named = register_name(place, place.config.address)
            done.append(f"{'registered' if named.new else 'found     '} {named.name} at {named.where}")
        documents = plan_documents(place, identity, wishes)
        show, said = say if asking else done.append, wishes.replace_protocol
        chosen = [change for change in documents.replacements if _wanted(change, said, show, asking=asking)]
        done += set_up(place, values, documents, chosen)
        with shown("tries the sandbox"):
            line = settle_sandbox(place, {**flags, **values}, wishes.sandbox)
        if line:
            done.append(line)
    fault = refusal(place, {}) or missing_program(place)
    if fault is not None:
        note(f"\nwarning: {fault.message}\n  fix: {fault.fix}")
    here = [] if place.workdir == _cwd() else ["-C", str(place.workdir)]
    from agent_mailer.state.lock import holder_of

    holder = holder_of(place.folder.path / ".lock")
    if holder is not None:
        say(f"\nIts watcher runs (process {holder.process.pid}).")
    say("\nNext, in another terminal:" if then_watch else "\nNext:")
    if not then_watch and holder is None:
        say("  " + shlex.join(["agent-mailer", "watch", *here]))
    words = ["agent-mailer", "send", *here, "--to", place.handle, "--subject", "Hello", "--body", "Who are you?"]
    if wishes.first_mail:
        words = ["agent-mailer", "send", *here, place.handle, wishes.first_mail]
    say("  " + shlex.join([*words, "--wait", "60"]) + ("\n" if then_watch else ""))


def _wanted(change: Change, said: bool | None, show: Callable[[str], None], *, asking: bool) -> bool:
    """Show a replacement; it is wanted where that was `said`, or a person says so now."""
    if said or asking:
        for line in change.diff():
            show(screen_text(line))
    if said is not None or not asking:
        return bool(said)
    return typer.confirm(f"Replace {change.titles} in {change.path.name} like this?", default=True)


def _read_prompt(path: Path | None) -> str:
    """The text of `--system-prompt-file`. Raises UsageFault."""
    if path is None:
        return ""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_PROMPT + 1)
    except OSError as error:
        raise UsageFault(
            "bad_prompt", f"--system-prompt-file: {path}: {error.strerror}", f"ls -l {quoted(path)}"
        ) from None
    if len(data) > LARGEST_PROMPT:
        raise UsageFault("bad_prompt", f"--system-prompt-file: {path} has more than {LARGEST_PROMPT} bytes", "")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageFault("bad_prompt", f"--system-prompt-file: {path} is not UTF-8 text", "") from None


def _cwd() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None
