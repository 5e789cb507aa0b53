"""What help shows: every command in one group, with examples that are understood as they stand there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, cast

import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from agent_mailer.cli.app import _Program, app
from agent_mailer.cli.examples import _OF, examples_of
from agent_mailer.cli.help import TOPICS
from agent_mailer.cli.team import amp
from agent_mailer.cli.terminal.commands import MOST_DIGITS, _hasten
from agent_mailer.errors import UsageFault


def commands(group: TyperGroup, context: typer.Context, path: str = "") -> Iterator[str]:
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        here = f"{path} {name}".strip()
        if isinstance(found, TyperGroup):
            yield from commands(found, typer.Context(found, info_name=name, parent=context), here)
        else:
            yield here


def test_no_command_is_in_two_groups_and_examples_are_of_commands() -> None:
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    in_groups = [name for names in _Program.sections.values() for name in names]
    # A command in no group stands below them all.
    assert len(set(in_groups)) == len(in_groups)
    assert set(in_groups) <= _Program.table.keys()
    assert _OF.keys() <= set(KNOWN)


def every_command() -> list[str]:
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    return list(commands(program, typer.Context(program, info_name="agent-mailer")))


KNOWN = every_command()


def test_a_command_without_an_entry_shows_what_it_must_have() -> None:
    assert examples_of("new thing", ["FILE"]) == ["agent-mailer new thing FILE"]


@pytest.mark.parametrize("path", _OF)
def test_an_example_is_understood(path: str) -> None:
    for line in examples_of(path):
        words = shlex.split(line.partition(" | ")[0], posix=True)[1:]
        assert words[: len(path.split())] == path.split()
        command = get_command(app)
        context = typer.Context(command, info_name="agent-mailer")
        while isinstance(command, TyperGroup):
            found = command.get_command(context, words[0])
            assert found is not None
            name, *words = words
            if isinstance(found, TyperGroup):
                context = typer.Context(found, info_name=name, parent=context)
            command = found
        # Raises for an option that is not there, and for an argument too many or too few.
        command.make_context(path, words, parent=context)


def context_of(path: str) -> typer.Context:
    command = get_command(app)
    context = typer.Context(command, info_name="agent-mailer")
    for word in path.split():
        assert isinstance(command, TyperGroup)
        found = command.get_command(context, word)
        assert found is not None
        command = found
        context = typer.Context(command, info_name=word, parent=context)
    return context


@pytest.mark.parametrize("path", ["", *KNOWN])
def test_every_help_ends_with_examples(path: str) -> None:
    context = context_of(path)
    assert "\nExamples:\n  agent-mailer " in context.command.get_help(context)


def test_a_number_beyond_its_bounds_is_refused_wherever_one_can_be_given() -> None:
    bounded = 0
    for path in KNOWN:
        context = context_of(path)
        params = [one for one in context.command.get_params(context) if isinstance(one, TyperOption | TyperArgument)]
        for param in params:
            descriptor = param.type_descriptor
            least, most = descriptor.parameter_info.min, descriptor.parameter_info.max
            beyond = [] if least is None else [int(least) - 1]
            beyond += [] if most is None else [int(most) + 1]
            if descriptor.annotation is int:
                beyond.append(10**MOST_DIGITS)
            for number in beyond:
                param._runtime_param = None
                _hasten(cast(Any, [param]))
                with pytest.raises(typer.BadParameter):
                    pytest.fail(f"{path} {param.opts}: {param.process_value(context, str(number))}")
            for bound in (least, most):
                if bound is not None and descriptor.annotation is int:
                    assert param.process_value(context, str(int(bound))) == bound
            bounded += len(beyond)
    assert bounded > 60


def test_under_amp_help_and_errors_name_amp() -> None:
    program = get_command(amp)
    assert isinstance(program, TyperGroup)
    context = typer.Context(program, info_name="amp")
    for name in ("", *program.list_commands(context)):
        command = program.get_command(context, name) if name else program
        assert command is not None
        inside = typer.Context(command, info_name=name, parent=context) if name else context
        shown = command.get_help(inside).partition("\nExamples:\n")[2]
        assert shown, name
        assert all(line.startswith("  amp ") for line in shown.splitlines() if line), shown
    with pytest.raises(UsageFault, match="did you mean logs or list") as caught:
        program.resolve_command(context, ["ls"])
    assert caught.value.fix == "amp --help"


def test_topics_are_no_commands() -> None:
    assert not TOPICS.keys() & _Program.table.keys()


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("path", ["", "watch", "config", "mail reply", "team"])
def test_help_breaks_no_word_at_the_edge_and_is_never_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, path: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    command = get_command(app)
    context = typer.Context(command, info_name="agent-mailer")
    for word in path.split():
        assert isinstance(command, TyperGroup)
        found = command.get_command(context, word)
        assert found is not None
        command, context = found, typer.Context(found, info_name=word, parent=context)
    text = command.get_help(context)
    # A line to be copied is one line.
    lines = [line for line in text.split("\n") if not line.startswith("  agent-mailer ")]
    assert [line for line in lines if len(line.rstrip()) > min(columns, 80)] == []
    assert not any(line.endswith("...") and "[" not in line for line in lines)
    monkeypatch.setenv("COLUMNS", "200")
    whole = set(command.get_help(context).split())
    assert set(text.split()) <= whole
