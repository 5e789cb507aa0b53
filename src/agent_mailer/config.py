"""The typed configuration: its keys, where each value came from, and the file that holds them."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from agent_mailer.config_tables import Count, CountOrNone, DollarsOrOff, Guards, Limits, Retry, Seconds, SecondsOrOff
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.names import printable
from agent_mailer.process.scope import size_in_bytes
from agent_mailer.runtimes.port import CommandOutput, PermissionMode
from agent_mailer.watch.guards.who import bad_pattern
from agent_mailer.watch.rules import AutoReply

ENV_PREFIX = "AGENT_MAILER_"
SECRET_KEYS = frozenset({"api_key"})


class RuntimeKind(StrEnum):
    CLAUDE = "claude"
    CODEX = "codex"
    COMMAND = "command"
    INFINITI = "infiniti"


class MailboxKind(StrEnum):
    MAILDIR = "maildir"
    AMP = "amp"


class Source(StrEnum):
    """Where a value came from; the later wins."""

    DEFAULT = "default"
    AGENT_MD = "AGENT.md"
    FILE = "config.toml"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"pass_": "pass"}):
    """`[env]`: names the agent may see beyond the basics, and values set for it."""

    pass_: Annotated[tuple[str, ...], "names of variables that the agent may see beyond the basics"] = ()
    set: Annotated[dict[str, str], "variables set for the agent"] = {}


class Notify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[notify]`: who is told when the agent needs a person; neither command nor address = nobody."""

    command: Annotated[tuple[str, ...], "the program that tells you, and its arguments; empty = off"] = ()
    address: Annotated[str, "where a notice is mailed to; empty = off"] = ""
    trouble_after: Annotated[SecondsOrOff, "seconds that trouble lasts before it is told"] = 300
    timeout: Annotated[int, Meta(ge=1, le=600), "seconds that the command may take"] = 30


class Config(msgspec.Struct, frozen=True):
    """Every key, with its default and its sentence. The names of other AMP clients are kept."""

    agent_id: Annotated[str, "the agent's id at its broker; compared with AGENT.md"] = ""
    agent_name: Annotated[str, "the agent's name; the address where that is empty"] = ""
    address: Annotated[str, "where the agent gets its mail: its handle, or its address at the broker"] = ""
    broker_url: Annotated[str, "the broker's URL; empty = a folder mailbox"] = ""
    api_key: Annotated[str, "the broker's key; shown nowhere"] = ""
    mailbox: Annotated[MailboxKind | None, "maildir or amp; default: amp when broker_url is set, else maildir"] = None
    maildir_root: Annotated[
        str, "the folder mailbox's root; default: $AM_ROOT, .amqrc, .agent-mail at the top of the git tree"
    ] = ""
    runtime: Annotated[RuntimeKind | None, "the agent program: claude, codex, infiniti or command; must be chosen"] = (
        None
    )
    permission_mode: Annotated[PermissionMode | None, "acceptEdits, bypassPermissions or plan; never guessed"] = None
    claude_command: Annotated[str, "the claude program, by name or path"] = "claude"
    codex_command: Annotated[str, "the codex program, by name or path"] = "codex"
    infiniti_command: Annotated[str, "the infiniti program, by name or path"] = "infiniti-agent"
    model: Annotated[str, "the model for claude and codex; empty = theirs, which moves with their versions"] = ""
    extra_args: Annotated[tuple[str, ...], "further arguments for claude and codex, a list of words"] = ()
    max_budget_usd: Annotated[
        DollarsOrOff, "dollars one turn may cost, where the agent program can count them (claude); 0 = off"
    ] = 0.0
    config_home: Annotated[
        str, "the folder of claude's or codex's settings, login and sessions; empty = the user's own"
    ] = ""
    command: Annotated[tuple[str, ...], 'with runtime = "command": the program and its arguments, a list of words'] = ()
    command_output: Annotated[CommandOutput, "what the command prints: text (its answer) or jsonl (events)"] = (
        CommandOutput.TEXT
    )
    project_dir: Annotated[str, "the folder the agent works on, where that is not the workdir; named in the prompt"] = (
        ""
    )
    poll_interval_idle: Annotated[Seconds, "seconds between two looks at the mailbox without an event"] = 60
    poll_interval_active: Annotated[Seconds, "the same after there was mail, at a broker that cannot wake us"] = 10
    max_retries: Annotated[CountOrNone, "further attempts after a failed one before the message is given up"] = 3
    max_starts: Annotated[Count, "starts of whatever outcome before the message is given up"] = 10
    max_parallel_turns: Annotated[
        int, Meta(ge=1, le=64), "threads worked on side by side; urgent mail takes one place more"
    ] = 1
    session_max_age_days: Annotated[Count, "days since its last use after which a session is not resumed"] = 7
    session_max_turns: Annotated[Count, "turns after which a session is not resumed"] = 50
    session_max_megabytes: Annotated[
        CountOrNone, "megabytes of output of its turns after which a session is not resumed; 0 = off"
    ] = 20
    auto_reply: Annotated[
        AutoReply, "if-silent, never or always: whether the agent's final words are sent as the answer"
    ] = AutoReply.IF_SILENT
    turn_timeout: Annotated[Seconds, "seconds a turn may take"] = 3600
    tool_timeout: Annotated[SecondsOrOff, "seconds one tool call may take; 0 = the rest of the turn"] = 0
    first_output_timeout: Annotated[
        SecondsOrOff, "seconds until the first event; 0 = off (always off for text commands)"
    ] = 60
    silence_timeout: Annotated[
        SecondsOrOff, "seconds without an event while no tool runs; 0 = off (always off for text commands)"
    ] = 600
    stop_grace: Annotated[SecondsOrOff, "seconds running turns are given when the watcher is stopped"] = 20
    turn_memory: Annotated[
        str, "memory that all processes of a turn may use together, as 4G or 800M; empty = off; needs systemd"
    ] = ""
    keep_transcripts: Annotated[CountOrNone, "days a settled turn's output is kept; 0 = only the summary"] = 7
    retry: Annotated[Retry, "first, longest: seconds of backoff between attempts"] = Retry()
    env: Annotated[
        Environment, "pass (names) and set (values): what the agent sees of the environment beyond the basics"
    ] = Environment()
    allow_from: Annotated[
        tuple[str, ...],
        "whose mail is worked on: addresses, names, @domains, globs, kind:KIND; empty = everybody's; "
        "other mail is held for you, but for that of people",
    ] = ()
    deny_from: Annotated[tuple[str, ...], "whose mail is held for you, in the same words; people only by name"] = ()
    people: Annotated[
        tuple[str, ...], "addresses and globs of persons, beside `user` in a folder, the operator and notify.address"
    ] = ()
    guards: Annotated[
        Guards, "how far agents go among themselves before a person is asked: rounds, hops and turns; 0 = off"
    ] = Guards()
    limits: Annotated[
        Limits, "what turns may take of a local day: turns, minutes, tokens, dollars; whole, of a thread, for a sender"
    ] = Limits()
    notify: Annotated[
        Notify,
        "command (a list of words) and address (mail): who is told when the agent needs a person; "
        "trouble_after, timeout: seconds",
    ] = Notify()

    @property
    def mailbox_kind(self) -> MailboxKind:
        """`amp` where a broker is named, else the folder."""
        return self.mailbox or (MailboxKind.AMP if self.broker_url else MailboxKind.MAILDIR)


class Loaded(msgspec.Struct, frozen=True):
    """A configuration, the source of each value that is no default, and the keys of the file that we do not know."""

    config: Config
    sources: Mapping[str, Source]
    unknown: tuple[str, ...] = ()

    def source(self, key: str) -> Source:
        return self.sources.get(key, Source.DEFAULT)


_HINTS = get_type_hints(Config, include_extras=True)


def _sentence(hint: object) -> str:
    return next(part for part in get_args(hint)[1:] if isinstance(part, str))


DOCS = {key: _sentence(hint) for key, hint in _HINTS.items()}
"""What each key is, in one sentence."""


def keys() -> tuple[str, ...]:
    return Config.__struct_fields__


class Leaf(msgspec.Struct, frozen=True):
    """A key that has a value of its own, those of the tables as `retry.first`. `hint` is its type, bounds included."""

    name: str
    hint: Any
    default: object
    sentence: str


def leaves() -> Iterator[Leaf]:
    """In the order of the file."""
    for key, table in msgspec.structs.asdict(Config()).items():
        if not isinstance(table, msgspec.Struct):
            yield Leaf(key, _HINTS[key], table, DOCS[key])
            continue
        inner = get_type_hints(type(table), include_extras=True)
        for own, shown in zip(table.__struct_fields__, table.__struct_encode_fields__, strict=True):
            yield Leaf(f"{key}.{shown}", inner[own], getattr(table, own), _sentence(inner[own]))


def load(
    path: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    identity: Mapping[str, str] | None = None,
) -> Loaded:
    """Flags before environment before file before AGENT.md. Raises ConfigFault or UsageFault naming the bad key.

    An empty text in the file is a key without a value: other clients write "" for what was not chosen.
    """
    raw = read_file(path)
    values: dict[str, object] = {}
    sources: dict[str, Source] = {}

    def take(found: Iterable[tuple[str, object]], source: Source) -> None:
        for key, value in found:
            values[key] = _checked(key, value, source, path)
            sources[key] = source

    take(((k, v) for k, v in (identity or {}).items() if v and k in keys()), Source.AGENT_MD)
    take(((k, v) for k, v in raw.items() if k in keys() and v != ""), Source.FILE)
    take(_from_environment(environ), Source.ENVIRONMENT)
    take(((k, v) for k, v in flags.items() if v is not None), Source.FLAG)
    config = Config(**values)  # type: ignore[arg-type]
    return Loaded(config, sources, tuple(k for k in raw if k not in keys()))


def read_file(path: Path) -> dict[str, object]:
    """The file as it is; absent = empty. Raises ConfigFault for what is not TOML."""
    try:
        return tomllib.loads(read_regular(path, follow=True).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigFault("bad_toml", f"{path} is not valid TOML: {error}", "agent-mailer config edit") from error
    except NotADirectoryError as error:
        why = f"{path} cannot be read: {error.strerror}"
        raise ConfigFault("unreadable", why, f"mv {path.parent} {path.parent}.old") from error
    except OSError as error:
        raise ConfigFault("unreadable", f"{path} cannot be read: {error.strerror}", f"ls -l {path}") from error


def parse_value(key: str, text: str) -> object:
    """A value typed on a command line or in the environment, as the key's type. Raises UsageFault."""
    default = _field(key)[1]
    if isinstance(default, msgspec.Struct | dict):
        inner = default.__struct_encode_fields__ if isinstance(default, msgspec.Struct) else ()
        names = ", ".join(f"{key}.{name}" for name in inner) or "edit it in the file"
        raise UsageFault("table_key", f"{key} is a table: {names}", "agent-mailer config edit")
    if isinstance(default, tuple):
        try:
            return shlex.split(text)
        except ValueError as error:
            raise UsageFault("bad_value", f"{key}: {error}: {text!r}", "close the quote") from None
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise UsageFault("bad_value", f"{key} must be a number, not {text!r}", "") from None
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise UsageFault("bad_value", f"{key} must be a whole number, not {text!r}", "") from None
    return text


def check_value(key: str, value: object) -> None:
    """Raises UsageFault where `value` cannot be the value of `key`."""
    try:
        _convert(key, value)
    except msgspec.ValidationError as error:
        head = key.partition(".")[0]
        raise UsageFault("bad_value", f"{key}: {_plain(error, key, value)}", f"{head} is {DOCS[head]}") from None


def is_words(key: str) -> bool:
    """Whether its value is a list of words. Raises UsageFault where there is no such key."""
    return isinstance(_field(key)[1], tuple)


def _field(key: str) -> tuple[Any, object]:
    """Type and default of a key, or of a table's own as `retry.first`. Raises UsageFault where there is none."""
    if key in keys():
        return _HINTS[key], getattr(Config(), key)
    for leaf in leaves():
        if leaf.name == key:
            return leaf.hint, leaf.default
    raise UsageFault("unknown_key", f"there is no key {printable(key)!r}", "agent-mailer config show")


def _convert(key: str, value: object) -> object:
    converted: object = msgspec.convert(value, type=_field(key)[0], strict=True)
    if key == "turn_memory":
        try:
            size_in_bytes(str(converted))
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from None
    if (
        key in ("allow_from", "deny_from", "people")
        and isinstance(converted, tuple)
        and (why := bad_pattern(converted))
    ):
        raise msgspec.ValidationError(why)
    return converted


def _checked(key: str, value: object, source: Source, path: Path) -> object:
    try:
        return _convert(key, value)
    except msgspec.ValidationError as error:
        where, fix = {
            Source.FILE: (str(path), f"agent-mailer config set {key} {_example(key)}"),
            Source.ENVIRONMENT: (ENV_PREFIX + key.upper(), f"unset {ENV_PREFIX}{key.upper()}"),
            Source.FLAG: ("--" + key.replace("_", "-"), ""),
        }.get(source, ("AGENT.md", "edit AGENT.md"))
        raise ConfigFault("bad_value", f"{where}: {key}: {_plain(error, key, value)}", fix) from None


def _plain(error: msgspec.ValidationError, key: str, value: object) -> str:
    text = str(error).replace("`", "")
    hint = _field(key)[0]
    for member in (hint.__origin__, *getattr(hint.__origin__, "__args__", ())):
        if isinstance(member, type) and issubclass(member, StrEnum):
            return f"{text} (one of: {', '.join(m.value for m in member)})"
    bounds = next((part for part in hint.__metadata__ if isinstance(part, Meta)), None)
    if bounds is not None and hint.__origin__ is int:
        return f"must be a whole number from {bounds.ge} to {bounds.le}, not {_as_toml(value)}"
    return text


def _example(key: str) -> str:
    """A value that would do, for the command that mends a wrong one."""
    default = getattr(Config(), key)
    return str(default) if isinstance(default, int) and default else "VALUE"


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return printable(repr(value), 60)


def _from_environment(environ: Mapping[str, str]) -> Iterable[tuple[str, object]]:
    for key in keys():
        text = environ.get(ENV_PREFIX + key.upper())
        if text and key not in ("retry", "env", "guards", "limits", "notify"):
            try:
                yield key, parse_value(key, text)
            except UsageFault as fault:
                fix = f"unset {ENV_PREFIX}{key.upper()}"
                raise ConfigFault("bad_value", f"{ENV_PREFIX}{key.upper()}: {fault.message}", fix) from None


def expand(path: str, workdir: Path) -> Path:
    """A path of the configuration: `~` expanded, relative to the workdir, normalised without following links.

    Raises ConfigFault for what can be no path.
    """
    try:
        if "\0" in path:
            raise RuntimeError("a path holds no NUL")
        return Path(os.path.normpath(workdir / Path(path).expanduser()))
    except RuntimeError as error:
        raise ConfigFault("bad_path", f"{path!r} is no path: {error}", "agent-mailer config edit") from None
