"""What TAB offers for names that many commands have; files only where one is meant, else what is to be typed there."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, NamedTuple, cast

import typer

from agent_mailer.cli import completion as some

if TYPE_CHECKING:
    from typer._click import Context, Parameter

_WORD = re.compile(r"\w[\w|-]*")

Offers = Callable[[typer.Context, str], list[str]]


def _of(*values: str) -> Offers:
    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        del ctx
        return some.any_of(*values)(incomplete)

    return offer


def _of_port(name: str) -> Offers:
    """The values of an enumeration of the mailbox's port."""

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        del ctx
        from agent_mailer.mailbox import port

        return [str(one) for one in getattr(port, name) if str(one).startswith(incomplete)]

    return offer


def _template(ctx: typer.Context, incomplete: str) -> list[str]:
    del ctx
    from agent_mailer.teams.reading import templates

    return [name for name in templates() if name.startswith(incomplete)]


_MODES = _of("plan", "acceptEdits", "bypassPermissions")
_HOOK_KINDS = _of("generic", "github")
_HOOK_ENDS = _of("sent", "counted", "resolved", "ignored", "failed")
_RUNTIMES = _of("claude", "codex", "infiniti", "command")

BY_NAME: Mapping[str, Offers] = {
    "whose": some.some_address,
    "sender": some.some_address,
    "thread": some.some_thread,
    "turn": some.some_turn,
    "message_id": some.some_mail,
    "refs": some.some_mail,
    "what": some.some_mail,
    "kind": _of_port("Kind"),
    "priority": _of_port("Priority"),
    "permission_mode": _MODES,
    "runtime": _RUNTIMES,
    "team": some.some_team,
    "names": some.some_service,
    "change": some.some_change,
    "question": some.some_approval,
    "log_format": _of("text", "json"),
    "held senders": some.some_held_sender,
    "held sender": some.some_held_sender,
    "mail thread name": some.some_thread,
    "mail receipts message_id": some.some_sent,
    "fetch message_id": some.some_mail_of_the_agent,
    "take message": some.some_mail_of_the_agent,
    "wait_for": _of("drained", "dlq"),
    "schedules name": some.some_schedule,
    "limits limit": some.some_limit,
    "config value": some.some_value,
    "service name": some.some_service,
    "service install name": _of(),
    "team name": some.some_team,
    "team role": some.some_role,
    "team template": _template,
    "init adapter_file": _of("claude", "codex", "cursor", "openclaw", "dreamfactory", "infiniti"),
    "init command_output": _of("text", "jsonl"),
    "init auto_reply": _of("if-silent", "never", "always"),
    "plugin which": _of("claude", "codex", "skill"),
    "plugin program": _of("claude", "codex"),
    "hook kind": _HOOK_KINDS,
    "broker hook kind": _HOOK_KINDS,
    "hook outcome": _HOOK_ENDS,
    "broker hook outcome": _HOOK_ENDS,
}
"""By the name of a parameter, alone or behind that of the command or group it is in; the longest name counts."""

FILES = frozenset(
    (
        *("password_file", "maildir_root", "project_dir", "body_file", "context", "source", "paths", "turn_dir"),
        *("claude_command", "codex_command", "infiniti_command", "command"),
    )
)
"""What is a file, or begins with one, although it is no path to typer."""


class Offer(NamedTuple):
    """What typer's shells look at."""

    value: str
    type: str = "plain"
    help: str = ""


def offers_of(path: str, param: Parameter) -> Offers | None:
    """What is offered for a parameter of the command at `path`, which says nothing of it itself."""
    words = path.split(" ")
    for end in range(len(words), -1, -1):
        if (found := BY_NAME.get(" ".join([*words[:end], param.name or ""]))) is not None:
            return found
    return None


def takes_files(param: Parameter) -> bool:
    annotation = str(getattr(getattr(param, "type_descriptor", None), "annotation", ""))
    return "Path" in annotation or param.name in FILES


_meant = [""]
"""The parameter that was completed last, as help calls it; empty where it is a file."""


def prepare(ctx: Context, params: Sequence[Parameter]) -> None:
    """The command's parameters offer what they say themselves, or what is offered for their names."""
    path = ctx.command_path.partition(" ")[2]
    path = f"team {path}" if ctx.command_path.startswith("amp ") else path
    _meant[:] = ["COMMAND" if hasattr(ctx.command, "list_commands") else "OPTION"]
    for param in params:
        _prepare(path, param)


def _prepare(path: str, param: Parameter) -> None:
    own = param.shell_complete
    offers = offers_of(path, param) if getattr(param, "_custom_shell_complete", None) is None else None

    def complete(ctx: typer.Context, incomplete: str) -> list[object]:
        _meant[:] = ["" if takes_files(param) else _WORD.findall(param.metavar or (param.name or "").upper())[-1]]
        if offers is not None and not takes_files(param):
            return [Offer(value) for value in offers(ctx, incomplete)]
        return [*own(cast("Context", ctx), incomplete)]

    param.shell_complete = complete  # type: ignore[method-assign, assignment]


def asked_by(environ: Mapping[str, str]) -> str:
    """The shell that asks after TAB: `bash`, `zsh`, `fish`; empty where none does."""
    for name in ("_AGENT_MAILER_COMPLETE", "_AMP_COMPLETE"):
        word, _, shell = environ.get(name, "").partition("_")
        if word == "complete":
            return shell
    return ""


def answer(program: Callable[[], object], shell: str) -> int:
    """Have the program answer, and see to it that the shell puts no files where nothing is known and none is meant."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            program()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    text, hint = said.getvalue(), _meant[-1]
    if hint and shell == "bash" and not text.strip():
        # Of two words with nothing in common none is put in, and readline takes no file instead: it shows them.
        text = f"<{hint}>\n \n"
    elif hint and shell == "zsh" and text.strip() in ("", "_files"):
        text = f"_message '{hint}'\n"
    elif hint and shell == "fish" and os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        status = 0
    sys.stdout.write(text)
    sys.stdout.flush()
    return status
