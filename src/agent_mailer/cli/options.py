"""Options that several commands share, and the workplace they lead to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.terminal.printing import note
from agent_mailer.errors import UsageFault

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.folder import Damaged

MOST_KEY = 4096

Workdir = Annotated[
    Path | None,
    typer.Option("--workdir", "-C", help="The agent's folder. Default: the current one.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts; errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No line about how far it is, on a terminal either.")]
MOST_KEPT_DAYS = 36_500
"""For which anything may be asked to be kept: dates end somewhere."""

SHOWN = 100
"""Rows of a list that may be long, unless more are asked for."""

Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=0, help=f"The newest N; 0 = all. Default: {SHOWN}, with --json all.", show_default=False
    ),
]


def newest_of(limit: int | None, *, as_json: bool) -> int:
    """How many are to be shown; 0 = all."""
    return (0 if as_json else SHOWN) if limit is None else limit


MaildirRoot = Annotated[
    str | None,
    typer.Option(
        "--maildir-root", help="The folder mailbox's root. Default: as configured, else as found.", show_default=False
    ),
]

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY|-",
        help="The broker's key; - asks for it, or reads it from standard input. "
        "Every user of the machine sees a key given here (ps): better $AGENT_MAILER_API_KEY, or -.",
        show_default=False,
    ),
]


def read_key(given: str | None) -> str | None:
    """A key as it was given: `-` is what is typed unseen on a terminal, else the first line of standard input. Raises
    UsageFault for what can be none.
    """
    if given is None:
        return None
    key = (_typed_key() if given == "-" else given).strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        what = "is no key (printable ASCII without blanks)" if key else "is empty"
        raise UsageFault("bad_key", f"the API key {what}", "give the key as the broker printed it, amk_...")
    return key


def _typed_key() -> str:
    if sys.stdin.isatty():
        typed: str = typer.prompt("API key", hide_input=True, err=True)
        return typed
    return sys.stdin.buffer.readline(MOST_KEY).decode("utf-8", "replace")


def workplace(
    workdir: Path | None,
    flags: Mapping[str, object] | None = None,
    *,
    damaged: Damaged | None = None,
    anew: bool = False,
) -> Workplace:
    """The workplace in `workdir` or the current folder. Raises ConfigFault where that folder does not exist."""
    from agent_mailer.assemble import Workplace, workdir_at

    return Workplace(workdir_at(workdir), flags, damaged=damaged, anew=anew)


def configured(workdir: Path | None, flags: Mapping[str, object] | None = None) -> Workplace:
    """The workplace of a folder that has been set up; its permissions and format are checked.

    For looking at it: a damaged file is told of, on stderr, and left as it is.
    """
    place = workplace(workdir, flags, damaged=tell_damage)
    place.folder.check()
    return place


def tell_damage(path: Path, why: str) -> None:
    note(f"warning: {path} cannot be read ({why}); the watcher sets it aside and makes it anew")


def absolute(path: str | None) -> str | None:
    """A path given as a flag: relative to where the person stands, not to the workdir."""
    return None if path is None else os.path.abspath(Path(path).expanduser())  # noqa: PTH100
