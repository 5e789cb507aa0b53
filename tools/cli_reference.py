"""Writes docs/cli.md from the commands themselves; `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup
from typer.main import get_command

from agent_mailer.cli.app import app
from agent_mailer.cli.examples import examples_of
from agent_mailer.cli.terminal.commands import required_arguments
from agent_mailer.errors import ExitCode

if TYPE_CHECKING:
    from typer._click import Command

TARGET = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
PROGRAM = "agent-mailer"

HEAD = """\
# Commands

Written by `python tools/cli_reference.py` from the commands themselves; do not edit.

Every command that reads has `--json`; then errors are JSON too: `{"error": {"code": …, "message": …, "fix": …}}`.
Ids, threads and turns can be shortened to what is unique. `agent-mailer COMMAND --help` prints what stands here.

| exit status | means |
|---|---|
"""

MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "the command line cannot be understood",
    ExitCode.UNAVAILABLE: "the agent program or the mailbox cannot be reached",
    ExitCode.BUSY: "another watcher holds the workdir",
    ExitCode.REFUSED: "credentials were refused",
    ExitCode.CONFIG: "configuration, permissions or identity are wrong",
}


def render() -> str:
    rows = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in MEANINGS.items())
    sections = "\n".join(_section(path, command, context) for path, command, context in _walk())
    return f"{HEAD}{rows}\n{sections}"


def _walk() -> Iterator[tuple[str, Command, typer.Context]]:
    """Every command that is no group, in the order of the help."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    waiting: list[tuple[str, Command, typer.Context]] = [(PROGRAM, program, _context(program, PROGRAM, None))]
    while waiting:
        path, command, context = waiting.pop(0)
        if not isinstance(command, TyperGroup):
            yield path, command, context
            continue
        inner = []
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            inner.append((f"{path} {name}", child, _context(child, name, context)))
        waiting[:0] = inner


def _context(command: Command, name: str, parent: typer.Context | None) -> typer.Context:
    return typer.Context(command, info_name=name, parent=parent, terminal_width=10_000, max_content_width=10_000)


def _section(path: str, command: Command, context: typer.Context) -> str:
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [
        f"| `{_cell(name)}` | {_cell(text)} |" for name, text in filter(None, records) if "--help" not in name.split()
    ]
    usage = " ".join(piece.strip() for piece in command.collect_usage_pieces(context))
    table = "\n".join(["| | |", "|---|---|", *rows]) + "\n" if rows else ""
    arguments = required_arguments(command.get_params(context))
    examples = "".join(f"{line}\n" for line in examples_of(path.removeprefix(f"{PROGRAM} "), arguments))
    head = f"## {path}\n\n{(command.help or '').strip()}\n\n```\n{path} {usage}\n```\n\n"
    return f"{head}{table}\n```\n{examples}```\n" if table else f"{head}```\n{examples}```\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    text = render()
    if "--check" not in sys.argv[1:]:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text, "utf-8")
    elif not TARGET.exists() or TARGET.read_text("utf-8") != text:
        sys.stderr.write("docs/cli.md is not what the commands say: python tools/cli_reference.py\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
