"""What a person is told of a configuration that will not do: what it lacks, what cannot stand there, what was meant."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from re import escape, match
from typing import Any, NamedTuple, Protocol, get_origin

import msgspec
from msgspec import Meta, Struct

from agent_mailer.config import Config, Loaded, MailboxKind, RuntimeKind, Source, keys, leaves
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import did_you_mean, printable

_LARGEST = 1024 * 1024
EDIT = "agent-mailer config edit"


_PLACEHOLDERS = {
    "mailbox": "KIND",
    "address": "NAME",
    "runtime": "RUNTIME",
    "command": "'PROGRAM ARGUMENTS'",
    "agent": "AGENT",
    "permission_mode": "MODE",
    "broker_url": "URL",
    "agent_id": "ID",
    "api_key": "-",
}
STARTS = frozenset(("runtime", "command", "agent", "permission_mode"))
"""What is started, and how: without these no turn can be, wherever the mail is."""


def missing_in(config: Config, handle: str) -> list[tuple[str, str]]:
    """The keys `watch` cannot do without, each with the flag that gives it."""
    found: list[str] = []
    match config.mailbox_kind:
        case MailboxKind.AMP:
            found += _empty(config, "broker_url", "api_key", "agent_id", "address")
        case MailboxKind.MCP_AGENT_MAIL:
            found += _empty(config, "broker_url", "address")
        case MailboxKind.RELAY:
            found += _empty(config, "address")
        case _:
            found += [] if handle else ["address"]
    found += _empty(config, "runtime")
    if config.runtime is RuntimeKind.COMMAND:
        found += _empty(config, "command")
    if config.runtime is RuntimeKind.ACP:
        found += _empty(config, "agent")
    found += _empty(config, "permission_mode")
    return [(key, flag_of(key)) for key in found]


def _empty(config: Config, *needed: str) -> list[str]:
    return [key for key in needed if not getattr(config, key)]


def incomplete(path: Path, loaded: Loaded, lacking: Sequence[tuple[str, str]]) -> ConfigFault:
    """What is said where keys are missing: first the one that was mistyped for them."""
    wrong = mistyped(loaded.unknown, [key for key, _ in lacking])
    named = ", ".join(f"{key} ({flag}{_among(key)})" for key, flag in lacking)
    if wrong:
        return ConfigFault("incomplete", f"{told(path, wrong)}; so it is missing {named}", EDIT)
    config = loaded.config
    given = [
        key
        for key in _PLACEHOLDERS
        if loaded.source(key) is Source.FLAG and key != "api_key" and getattr(config, key) not in ("", MailboxKind.AMP)
    ]
    return ConfigFault("incomplete", f"{path}: missing {named}", mend_missing(config, lacking, given))


def mend_missing(config: Config, lacking: Sequence[tuple[str, str]], given: Sequence[str] = ()) -> str:
    """The command that gives what is missing: as far as the rest of the configuration says which value is meant.

    What was `given` as flags is said again.
    """
    kind = RuntimeKind.COMMAND if config.command else RuntimeKind.ACP if config.agent else None
    if kind is not None and [key for key, _ in lacking] == ["runtime"]:
        return f"agent-mailer config set runtime {kind.value}"
    said = {**_PLACEHOLDERS, **({"runtime": kind.value} if kind is not None else {})}
    said |= {key: _as_word(getattr(config, key)) for key in given}
    named = {*given, *(key for key, _ in lacking)}
    return " ".join(["agent-mailer init", *(f"{flag_of(key)} {word}" for key, word in said.items() if key in named)])


def flag_of(key: str) -> str:
    return "--" + key.replace("_", "-")


def _as_word(value: object) -> str:
    return shlex.quote(shlex.join(value) if isinstance(value, tuple) else str(value))


def is_mistyped(path: Path, loaded: Loaded, names: Iterable[str]) -> ConfigFault | None:
    """Where one of the keys `names`, which are gone from the file, was mistyped there."""
    wrong = mistyped(loaded.unknown, names)
    return ConfigFault("mistyped", told(path, wrong), EDIT) if wrong else None


def gone_by_mistake(loaded: Loaded, gone: Sequence[str]) -> tuple[str, ...]:
    """Of the keys that are gone from the file those that stand there mistyped."""
    meant = {head for one in mistyped(loaded.unknown, gone) for head in one.meant} if gone and loaded.unknown else set()
    return tuple(name for name in gone if name.partition(".")[0] in meant)


def told(path: Path, wrong: Sequence[Mistyped]) -> str:
    """In which line of the file what was mistyped."""
    return "; ".join(f"{in_line(path, one.name)}: {one.text}" for one in wrong)


def _among(key: str) -> str:
    choices = list(_choices(Config.__annotations__[key].__origin__))
    return f": {', '.join(choices[:-1])} or {choices[-1]}" if choices else ""


class Hint(Protocol):
    """An annotation as `Annotated` makes it: of which type, and what else is said of that."""

    __origin__: Any
    __metadata__: tuple[object, ...]


class Mistyped(NamedTuple):
    """A key of the file that nothing here knows, and those that look like it."""

    name: str
    meant: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"nothing here knows the key {printable(self.name, 60)}{did_you_mean(self.meant)}"


def mistyped(unknown: Iterable[str], wanted: Iterable[str] | None = None) -> list[Mistyped]:
    """Of the keys that nothing knows those that look like a known one, or like one of `wanted`."""
    found = [Mistyped(name, look_alikes(name)) for name in unknown]
    heads = {name.partition(".")[0] for name in wanted or ()}
    return [one for one in found if (one.meant if wanted is None else heads.intersection(one.meant))]


def look_alikes(key: str) -> tuple[str, ...]:
    """The known keys that `key` looks like, at most two."""
    from difflib import get_close_matches

    known = dict.fromkeys([*keys(), *(leaf.name for leaf in leaves())])
    # A table's key may be there without the table's name.
    close = get_close_matches(key, known, n=2) or [name for name in known if name.rpartition(".")[2] == key][:2]
    return tuple(close)


def meant(key: str) -> str:
    """`; did you mean max_retries?` for a key that nobody knows, where one looks like it."""
    return did_you_mean(look_alikes(key))


def no_key(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, 1)
    return f"there is no such key; {close[0]} was meant?" if close else f"there is no such key: {', '.join(known)}"


def in_line(path: Path, key: str) -> str:
    """The file, with the line in which `key`, or one of a table's own as `retry.first`, has its value."""
    line = line_of(path, key)
    return f"{path}, line {line}" if line else str(path)


def line_of(path: Path, key: str) -> int:
    """From 1; 0 where it is not seen: the file may have been written anew."""
    try:
        text = read_regular(path, _LARGEST, follow=True).decode("utf-8", "replace")
    except OSError:
        return 0
    table, _, own = key.rpartition(".")
    here, inline = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if (head := match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)) is not None:
            here = head[1]
            inline = inline or (number if here == key else 0)
        elif (here == table and _sets(line, own)) or (not here and _sets(line, key)):
            return number
        elif not here and _sets(line, table):
            inline = number
    return inline


def _sets(line: str, key: str) -> bool:
    return bool(key) and match(rf"\s*[\"']?{escape(key)}[\"']?\s*=", line) is not None


def in_plain_words(error: msgspec.ValidationError, hint: Hint, value: object) -> str:
    """Why `value` will not do for a key of the type `hint`."""
    text, shown, kind = str(error).replace("`", ""), as_toml(value), hint.__origin__
    bounds = next((part for part in hint.__metadata__ if isinstance(part, Meta)), None)
    if choices := list(_choices(kind)) or _alternatives(bounds):
        return f"{shown} is none of: {', '.join(choices)}{did_you_mean(_looks_like(value, choices))}"
    if isinstance(kind, type) and issubclass(kind, Struct):
        return "it is a table, with keys of its own"
    if kind is bool:
        return f"must be true or false, not {shown}"
    if bounds is not None and kind in (int, float):
        what = "a whole number" if kind is int else "a number"
        return f"must be {what} from {bounds.ge} to {bounds.le}, not {shown}"
    if kind is str and not isinstance(value, str):
        return "must be a text in quotes"  # which may be a key: it is not shown
    if get_origin(kind) is tuple and kind.__args__[0] is str and not isinstance(value, list | tuple):
        return 'must be a list of words, as ["one", "two"]'
    return text


def _choices(kind: object) -> Iterator[str]:
    for member in (kind, *getattr(kind, "__args__", ())):
        if isinstance(member, type) and issubclass(member, StrEnum):
            yield from (one.value for one in member)


def _alternatives(bounds: Meta | None) -> list[str]:
    """Those of a pattern that has nothing else."""
    found = match(r"\^\(([a-z|-]+)\)\?\\Z\Z", (bounds.pattern if bounds is not None else None) or "")
    return found[1].split("|") if found else []


def _looks_like(value: object, choices: Sequence[str]) -> tuple[str, ...]:
    from difflib import get_close_matches

    plain = {choice.lower().replace("_", "-"): choice for choice in choices}
    close = get_close_matches(str(value).lower().replace("_", "-"), plain, 1)
    return tuple(plain[one] for one in close)


def choice_meant(hint: Hint, value: object) -> str:
    """Of the values that can stand there the one that `value` looks like; empty where none does."""
    return next(iter(_looks_like(value, list(_choices(hint.__origin__)))), "")


def example(default: object) -> str:
    """A value that would do, for the command that mends a wrong one."""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if isinstance(default, int) and default else "VALUE"


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return printable(repr(value), 60)
