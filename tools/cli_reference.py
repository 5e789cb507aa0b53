"""Writes docs/cli.md and packaging/man/ from the commands themselves; `--check` says whether they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup
from typer.main import get_command

from agent_mailer import __version__
from agent_mailer.cli.app import app
from agent_mailer.cli.examples import examples_of
from agent_mailer.cli.terminal.commands import required_arguments
from agent_mailer.errors import ExitCode

if TYPE_CHECKING:
    from typer._click import Command

PROJECT = Path(__file__).resolve().parents[1]
TARGET = PROJECT / "docs" / "cli.md"
MANUAL = PROJECT / "packaging" / "man"
PROGRAM = "agent-mailer"

Option = tuple[str, str]
"""How it is typed, and what it is."""


class Entry:
    """One command as a page shows it; `path` begins with the program's name."""

    def __init__(
        self, path: str, usage: str, text: str, options: Sequence[Option] = (), examples: Sequence[str] = ()
    ) -> None:
        self.path, self.usage, self.text, self.options, self.examples = path, usage, text, options, examples


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


def manual() -> Mapping[str, str]:
    """Manual pages by their file's name."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    context = _context(program, PROGRAM, None)
    by_word: dict[str, list[Entry]] = {}
    for path, command, inner in _walk():
        by_word.setdefault(path.split()[1], []).append(_for_manual(path, command, inner))
    statuses = [(str(code.value), f"{meaning}.") for code, meaning in MEANINGS.items()]
    pages = {}
    overview = []
    for word, commands in by_word.items():
        name = f"{PROGRAM}-{word}"
        summary = _first_sentence(program.get_command(context, word))
        overview.append((f"{PROGRAM} {word}", f"{summary}. See {name}(1)."))
        pages[f"{name}.1"] = manual_page(name, summary, commands, [PROGRAM], statuses)
    whole = Entry(
        PROGRAM,
        "[COMMAND] [OPTIONS]",
        f"{program.help}\n\nAlone it shows your agents, what needs you and what to type next.",
        overview,
    )
    summary = "a mailbox for every coding agent, run unattended"
    pages[f"{PROGRAM}.1"] = manual_page(PROGRAM, summary, [whole], [f"{PROGRAM}-{word}" for word in by_word], statuses)
    pages["amp.1"] = f".so man1/{PROGRAM}-team.1\n"
    return pages


def _for_manual(path: str, command: Command, context: typer.Context) -> Entry:
    params = command.get_params(context)
    options = [record for param in params if (record := param.get_help_record(context))]
    usage = " ".join(piece.strip() for piece in command.collect_usage_pieces(context))
    examples = examples_of(path.removeprefix(f"{PROGRAM} "), required_arguments(params))
    return Entry(path, usage, command.help or "", options, list(examples))


def _first_sentence(command: Command | None) -> str:
    text = " ".join(((command and command.help) or "").split())
    return text.partition(". ")[0].removesuffix(".")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def manual_page(
    name: str, summary: str, commands: Sequence[Entry], see: Sequence[str], statuses: Sequence[Option]
) -> str:
    """`name` as in `man NAME`; a page of one command has its options at the top, one of several a part for each."""
    return "\n".join(_page(name, summary, commands, see, statuses)) + "\n"


def _page(
    name: str, summary: str, commands: Sequence[Entry], see: Sequence[str], statuses: Sequence[Option]
) -> Iterator[str]:
    yield r".\" Written by tools/cli_reference.py from the commands themselves; do not edit."
    yield f'.TH {_text(name).upper()} 1 "" "agent\\-mailer {__version__}" "User commands"'
    yield from (".SH NAME", rf"{_text(name)} \- {_text(summary)}", ".SH SYNOPSIS", ".nf")
    yield from (_bold(command.path, command.usage) for command in commands)
    yield ".fi"
    if len(commands) == 1:
        yield from (".SH DESCRIPTION", *_paragraphs(commands[0].text))
        yield from _options(".SH COMMANDS" if name == PROGRAM else ".SH OPTIONS", commands[0].options)
    else:
        yield ".SH COMMANDS"
        for command in commands:
            yield from (f".SS {_text(command.path)}", *_paragraphs(command.text))
            yield from _options(".PP", command.options)
    shown = [line for command in commands for line in command.examples]
    if shown:
        yield from (".SH EXAMPLES", ".nf", *map(_text, shown), ".fi")
    yield from _options(".SH EXIT STATUS", statuses)
    yield from (".SH SEE ALSO", ", ".join(rf"\fB{_text(other)}\fR(1)" for other in see))


def _options(head: str, options: Sequence[Option]) -> Iterator[str]:
    if options:
        yield head
    for typed, means in options:
        yield from (".TP", rf"\fB{_text(typed)}\fR", *_paragraphs(means or "See above."))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _bold(path: str, usage: str) -> str:
    return rf"\fB{_text(path)}\fR {_text(usage)}".rstrip()


def _text(text: str) -> str:
    """Literal in roff: no escapes, no request at a line's beginning, and hyphens that can be copied."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    wanted = {TARGET: render(), **{MANUAL / name: text for name, text in manual().items()}}
    gone = set(MANUAL.glob("*")) - set(wanted)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale or gone:
            named = ", ".join(sorted(path.relative_to(PROJECT).as_posix() for path in {*stale, *gone}))
            sys.stderr.write(f"not what the commands say: {named}: python tools/cli_reference.py\n")
            sys.exit(1)
        return
    for path in stale:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(wanted[path], "utf-8")
    for path in gone:
        path.unlink()


if __name__ == "__main__":
    main()
