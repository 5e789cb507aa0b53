"""Typer commands that start fast.

typer loads pydantic, as much again as itself, for options that need no conversion: these do without. And only the
command that was asked for is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from importlib import import_module
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, cast

import typer
from typer._click import HelpFormatter
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_command_name, get_group

from agent_mailer import __version__
from agent_mailer.errors import UsageFault
from agent_mailer.names import did_you_mean, printable

if TYPE_CHECKING:
    from typer._click import Command, Context, Parameter
    from typer.models import CommandInfo


MOST_DIGITS = 15
"""Of a number on a command line: seconds of thirty million years, or a petabyte."""


class _Converter(Protocol):
    def coerce(self, value: object, param: object, ctx: object) -> object: ...


class _TyperParameter(Protocol):
    """What we use of typer's parameters; a version without these fields converts as it always did."""

    multiple: bool
    nargs: int
    _runtime_param: _Converter | None

    def get_runtime_param(self) -> _Converter: ...


class _Bounds(Protocol):
    min: float | None
    max: float | None


class _Direct:
    """Passes on what is absent or a string already, and leaves everything else, and every complaint, to typer."""

    def __init__(self, param: _TyperParameter, annotation: object, bounds: _Bounds) -> None:
        self._param = param
        self._annotation = annotation
        self._bounds = bounds

    def coerce(self, value: object, param: object, ctx: object) -> object:
        if value is None:
            return () if self._param.multiple or self._param.nargs == -1 else None
        if self._annotation is str and isinstance(value, str):
            return value
        if self._annotation is Path and isinstance(value, str | Path):
            return Path(value)
        if self._annotation is int and str(value).isdecimal():
            if len(str(value)) > MOST_DIGITS:
                raise typer.BadParameter(f"numbers have at most {MOST_DIGITS} digits")
            if self._is_within(number := int(str(value))):
                return number
        if self._annotation == list[str] and isinstance(value, list | tuple):
            return tuple(value)
        self._param._runtime_param = None
        return self._param.get_runtime_param().coerce(value, param, ctx)

    def _is_within(self, number: int) -> bool:
        least, most = self._bounds.min, self._bounds.max
        return (least is None or least <= number) and (most is None or number <= most)


def _hasten(params: list[Parameter]) -> None:
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is not None and getattr(param, "_runtime_param", ...) is None:
            plain = cast(_TyperParameter, param)
            plain._runtime_param = _Direct(plain, descriptor.annotation, descriptor.parameter_info)


def _offer(ctx: Context, params: list[Parameter]) -> None:
    """A shell asks what can stand there."""
    from agent_mailer.cli.offers import prepare

    prepare(ctx, params)


def required_arguments(params: list[Parameter]) -> list[str]:
    """Their names, as a person reads them."""
    return [(one.name or "").upper() for one in params if one.param_type_name == "argument" and one.required]


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"agent-mailer {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]
"""An option of a whole program."""


NARROWEST_HELP, WIDEST_HELP = 20, 80
_SENTENCE = 1000
LEAST_BESIDE = 24
"""With less room than this beside a command or an option, what it does stands below it."""


class _Help(HelpFormatter):
    """Help in as many columns as there are: no word is broken at the edge of a narrow terminal."""

    def __init__(self) -> None:
        room = min(get_terminal_size().columns, WIDEST_HELP)
        super().__init__(width=max(room, NARROWEST_HELP) - 2)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """A row each: what it is, and what it does beside it."""
        rows = list(rows)
        first = min(max(len(name.rstrip()) for name, _ in rows), col_max) + col_spacing
        if self.width - first - 2 >= LEAST_BESIDE:
            super().write_dl(rows, col_max, col_spacing)
            return
        indent = " " * self.current_indent
        for name, text in rows:
            self.write("".join(f"{line}\n" for line in _broken(name.rstrip(), self.width, indent)))
            self.write("".join(f"{line}\n" for line in _broken(text, self.width, indent + "    ")))


def _broken(text: str, room: int, indent: str) -> Iterator[str]:
    from agent_mailer.cli.terminal.screen import wrapped

    for line in wrapped(" ".join(text.split()), room - len(indent), whole=True):
        yield f"{indent}{line}".rstrip()


def _help_of(command: Command, ctx: Context) -> str:
    formatter = _Help()
    command.format_help(ctx, formatter)
    return formatter.getvalue().rstrip("\n")


def _write_examples(ctx: Context, formatter: HelpFormatter) -> None:
    from agent_mailer.cli.examples import AMP, examples_of

    program, _, path = ctx.command_path.partition(" ")
    program, path = (AMP, f"team {path}".rstrip()) if program == AMP else ("agent-mailer", path)
    if examples := examples_of(path, required_arguments(ctx.command.get_params(ctx)), program=program):
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _load_msgspec() -> None:
    """It takes typing_extensions where that is to be had, which takes as long again to load, and does as well without:
    since Python 3.11 all that we annotate with is in `typing`.
    """
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401 - nearly every command needs it
    finally:
        del sys.modules["typing_extensions"]


class FastCommand(TyperCommand):
    """A command; `cls` of every `app.command`."""

    def invoke(self, ctx: Context) -> object:
        _load_msgspec()
        return super().invoke(ctx)

    def get_help(self, ctx: Context) -> str:
        return _help_of(self, ctx)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        _write_examples(ctx, formatter)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        _hasten(self.get_params(ctx))
        if ctx.resilient_parsing:
            _offer(ctx, self.get_params(ctx))
        return super().parse_args(ctx, args)


class FastGroup(TyperGroup):
    """A group of commands; `cls` of every typer app."""

    def get_help(self, ctx: Context) -> str:
        return _help_of(self, ctx)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """A line each, with the whole first sentence of what it does."""
        found = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        rows = [(name, command.get_short_help_str(_SENTENCE)) for name, command in found if not command.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        _write_examples(ctx, formatter)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        _hasten(self.get_params(ctx))
        if ctx.resilient_parsing:
            _offer(ctx, self.get_params(ctx))
        return super().parse_args(ctx, args)


def _name_of(info: CommandInfo) -> str:
    return info.name or get_command_name(getattr(info.callback, "__name__", ""))


class LazyGroup(FastGroup):
    """The program: its commands are known by name and one line; each is made when it is called.

    A subclass fills `table`: the command's name -> the module that holds its typer `app`, or `module:name` where that
    is called otherwise, and that line. `aliases` are other words for some of them, `sections` what help shows together.
    """

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    table: ClassVar[Mapping[str, tuple[str, str]]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Context) -> list[str]:
        del ctx
        return list(self.table)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        del ctx
        if cmd_name not in self.table:
            return None
        known = self.commands.get(cmd_name)
        if known is None:
            known = get_command(self._app_of(cmd_name))
            known.name = cmd_name
            self.commands[cmd_name] = known
        return known

    def _app_of(self, name: str) -> typer.Typer:
        module, _, own = self.table[name][0].partition(":")
        app: typer.Typer = getattr(import_module(module), own or "app")
        return app

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Raises UsageFault for a word that is no command of this one, with those that look like it."""
        if args and args[0] in self.aliases:
            args = [self.aliases[args[0]], *args[1:]]
        if args and args[0] not in self.table and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            meant = did_you_mean(get_close_matches(args[0], self.table))
            what = f"there is no command {printable(args[0])!r}{meant}"
            raise UsageFault("usage", what, f"{ctx.command_path} --help")
        if len(args) > 1 and args[0] in self.table and args[0] not in self.commands and not ctx.resilient_parsing:
            self._make_one_of(*args[:2])
        return super().resolve_command(ctx, args)

    def _make_one_of(self, name: str, own: str) -> None:
        """A group with nothing in it but the command that is called: to make the others takes longer than it runs."""
        app: typer.Typer = self._app_of(name)
        called = [info for info in app.registered_commands if _name_of(info) == own]
        if len(called) == 1 and len(app.registered_commands) > 1 and not app._add_completion:
            alone = copy(app)
            alone.registered_commands, alone.registered_groups = called, []
            self.commands[name] = get_group(alone)
            self.commands[name].name = name

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        del ctx
        room = max(map(len, self.table))
        rest = [name for name in self.table if not any(name in names for names in self.sections.values())]
        for title, names in [*self.sections.items(), *([("Commands", rest)] if rest else [])]:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(room), self.table[name][1]) for name in names])


def group(
    name: str, text: str, cls: type[TyperGroup] = FastGroup, *, completion: bool = False, alone: bool = False
) -> typer.Typer:
    """An app for `name` with plain help: drawing it with rich would cost more than everything else in `--help`.

    `completion`: it is a program, which can complete itself in a shell; `alone`: it does something by its name alone.
    """
    return typer.Typer(
        name=name,
        help=text,
        cls=cls,
        no_args_is_help=not alone,
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def single() -> typer.Typer:
    """An app that is one command of the program."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
