"""Values of the configuration: read from their places, typed and checked."""

from __future__ import annotations

import shlex
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from re import fullmatch
from typing import Any

import msgspec

from agent_mailer.choices import Kind
from agent_mailer.config import DOCS, ENV_PREFIX, HINTS, SECRET_KEYS, Config, Loaded, Source, keys, leaves, leaves_of
from agent_mailer.config_faults import EDIT, choice_meant, example, in_line, in_plain_words, meant, no_key
from agent_mailer.config_tables import SCHEDULE_NAME, Approve, Guards, SandboxKeys, ScheduleKeys, size_in_bytes
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, UsageFault, mend, put_aside, words_of
from agent_mailer.groups import KINDS
from agent_mailer.names import printable

LARGEST = 1024 * 1024
SCHEDULE = "schedule"
MOST_SCHEDULES = 100

Trusting = Callable[
    [Mapping[str, object], Mapping[str, str]], tuple[dict[str, object], Mapping[str, str], frozenset[str]]
]
"""From what file and AGENT.md say to what counts of it, and the keys whose value is another one."""


def load(
    path: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    identity: Mapping[str, str] | None = None,
    trusted: Trusting | None = None,
) -> Loaded:
    """Flags before environment before file before AGENT.md. Raises ConfigFault or UsageFault naming the bad key.

    `trusted` says what of the file and of AGENT.md counts.

    An empty text in the file is a key without a value: other clients write "" for what was not chosen.
    """
    raw, replaced = read_file(path), frozenset[str]()
    if trusted is not None:
        for key in (key for key in raw if key in keys() and raw[key] != ""):
            # A fault in the file is one, whatever counts instead.
            _checked(key, raw[key], Source.FILE, path)
        raw, identity, replaced = trusted(raw, identity or {})
    values: dict[str, object] = {}
    sources: dict[str, Source] = {}

    def take(found: Iterable[tuple[str, object]], source: Source) -> None:
        for key, value in found:
            values[key] = _checked(key, value, source, path)
            sources[key] = source

    take(((k, v) for k, v in (identity or {}).items() if v and k in keys()), Source.AGENT_MD)
    take(((k, v) for k, v in raw.items() if k in keys() and v != ""), Source.FILE)
    sources.update(dict.fromkeys(replaced, Source.TRUSTED))
    take(_from_environment(environ), Source.ENVIRONMENT)
    if (kind := kind_of_environment(environ)) is not None:
        table: dict[str, object] = msgspec.to_builtins(values.get("sandbox", SandboxKeys()))
        take([("sandbox", {**table, "kind": kind.value})], Source.ENVIRONMENT)
    take(((k, v) for k, v in flags.items() if v is not None), Source.FLAG)
    if values.get("mailbox") == "relay":
        from agent_mailer.config_relay import with_defaults

        take(with_defaults(values, environ).items(), Source.ENVIRONMENT)
    config = Config(**values)  # type: ignore[arg-type]
    return Loaded(config, sources, tuple(k for k in raw if k not in keys()))


def kind_of_environment(environ: Mapping[str, str]) -> Kind | None:
    """AGENT_MAILER_SANDBOX, the one key of a table that the environment may set. Raises ConfigFault."""
    text = environ.get(f"{ENV_PREFIX}SANDBOX")
    if not text:
        return None
    try:
        return Kind(text)
    except ValueError:
        kinds = ", ".join(kind.value for kind in Kind)
        why = f"{ENV_PREFIX}SANDBOX: {printable(text, 60)!r} is none of: {kinds}"
        raise ConfigFault("bad_value", why, f"unset {ENV_PREFIX}SANDBOX") from None


def read_file(path: Path) -> dict[str, object]:
    """The file as it is; absent = empty. Raises ConfigFault for what is not TOML."""
    try:
        data = read_regular(path, LARGEST, follow=True)
        if len(data) > LARGEST:
            # An agent may write it while the watcher that reads it runs.
            raise ConfigFault("too_large", f"{path} has more than {LARGEST} bytes", "agent-mailer config edit")
        return _in_our_words(tomllib.loads(data.decode("utf-8-sig")))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigFault(
            "bad_toml", f"{path} is not valid TOML: {words_of(error)}", "agent-mailer config edit"
        ) from error
    except NotADirectoryError as error:
        why = f"{path} cannot be read: {error.strerror}"
        raise ConfigFault("unreadable", why, put_aside(path.parent)) from error
    except OSError as error:
        raise ConfigFault("unreadable", f"{path} cannot be read: {error.strerror}", mend(error, path)) from error


def _in_our_words(raw: dict[str, object]) -> dict[str, object]:
    """With `[capabilities.mail] adapter, endpoint`, and `[relay] url, token`, read as the keys that say the same."""
    if "relay" in raw:
        from agent_mailer.config_relay import in_our_words

        raw = in_our_words(raw)
    capabilities = raw.get("capabilities")
    mail = capabilities.get("mail") if isinstance(capabilities, dict) else None
    if not isinstance(mail, dict):
        return raw
    said = {"mailbox": mail.get("adapter"), "broker_url": mail.get("endpoint")}
    found = {key: value for key, value in said.items() if isinstance(value, str) and not raw.get(key)}
    return {**{key: value for key, value in raw.items() if key != "capabilities"}, **found}


def parse_value(key: str, text: str) -> object:
    """A value typed on a command line or in the environment, as the key's type. Raises UsageFault."""
    default = _field(key)[1]
    if key == SCHEDULE:
        why = f"each {SCHEDULE} is a table of the file: [[{SCHEDULE}]]"
        raise UsageFault("table_key", why, "agent-mailer config edit")
    if isinstance(default, msgspec.Struct | dict):
        inner = default.__struct_encode_fields__ if isinstance(default, msgspec.Struct) else ()
        names = ", ".join(f"{key}.{name}" for name in inner) or "edit it in the file"
        raise UsageFault("table_key", f"{key} is a table: {names}", "agent-mailer config edit")
    if isinstance(default, tuple):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.DecodeError as error:
            if text.lstrip().startswith('["'):
                why = f"{key} is a list in JSON, and this is not: {error}"
                raise UsageFault("bad_value", why, f'agent-mailer config set {key} \'["one", "two"]\'') from None
        try:
            return shlex.split(text)
        except ValueError as error:
            typed = "" if key in SECRET_KEYS else f": {text!r}"
            raise UsageFault("bad_value", f"{key}: {error}{typed}", "close the quote") from None
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise UsageFault("bad_value", f"{key} must be a number, not {text!r}", "") from None
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UsageFault("bad_value", f"{key} must be true or false, not {text!r}", "")
        return text == "true"
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
        raise UsageFault("bad_value", f"{key}: {_plain(error, key, value)}", f"{key} is {_sentence(key)}") from None


def plain(key: str, value: object) -> object:
    """A value as it stands in JSON, however it was written; what cannot be the key's value stays as it is."""
    try:
        return msgspec.json.decode(msgspec.json.encode(_convert(key, value)))
    except msgspec.ValidationError:
        return str(value)


def is_words(key: str) -> bool:
    """Whether its value is a list of words. Raises UsageFault where there is no such key."""
    return isinstance(_field(key)[1], tuple)


def _field(key: str) -> tuple[Any, object]:
    """Type and default of a key, or of a table's own as `retry.first`. Raises UsageFault where there is none."""
    if key in keys():
        return HINTS[key], getattr(Config(), key)
    table = key.partition(".")[0]
    for leaf in leaves_of(table) if table in keys() else ():
        if leaf.name == key:
            return leaf.hint, leaf.default
    raise UsageFault("unknown_key", f"there is no key {printable(key)!r}{meant(key)}", "agent-mailer config show")


def _convert(key: str, value: object) -> object:
    if key == "mailbox" and isinstance(value, str):
        value = value.replace("-", "_")  # as its server spells itself
    converted: object = msgspec.convert(value, type=_field(key)[0], strict=True)
    try:
        _require_sound(key, converted)
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from None
    return converted


def _require_sound(key: str, value: object) -> None:
    """What a type cannot say. Raises ValueError."""
    match key, value:
        case (("turn_memory" | "guards.min_memory" | "guards.min_disk"), str()):
            size_in_bytes(value)
        case "guards.quiet_hours", str():
            if value:
                from agent_mailer.watch.guards.calm import parse_hours

                parse_hours(value)
        case "guards", Guards():
            for name in ("quiet_hours", "min_memory", "min_disk"):
                _require_sound(f"guards.{name}", getattr(value, name))
        case (("allow_from" | "deny_from" | "people"), tuple()):
            from agent_mailer.watch.guards.who import bad_pattern

            if why := bad_pattern(value):
                raise ValueError(why)
        case "groups", tuple():
            if wrong := [one for one in value if not one.startswith(KINDS) or not one.partition(":")[2].strip()]:
                raise ValueError(f"a group is tag:NAME, cap:NAME or label:NAME, not {printable(wrong[0], 60)!r}")
        case "approve.tools", tuple():
            if value:
                _require_rules(value)
        case "approve", Approve():
            _require_sound("approve.tools", value.tools)
        case "schedule", tuple():
            if why := _bad_schedules(value):
                raise ValueError(why)


def _require_rules(rules: Sequence[str]) -> None:
    """Raises ValueError for one that names no tool."""
    from agent_mailer.approvals.calls import rule_of

    for one in rules:
        try:
            rule_of(one)
        except ConfigFault as fault:
            raise ValueError(fault.message.removeprefix("approve.tools ")) from None


def _bad_schedules(schedules: tuple[ScheduleKeys, ...]) -> str:
    """What is wrong with the first that is wrong; empty where none is."""
    if len(schedules) > MOST_SCHEDULES:
        return f"there are {len(schedules)} of them; at most {MOST_SCHEDULES} are kept track of"
    names = set[str]()
    for one in schedules:
        if one.name in names:
            return f"{one.name}: there are two of this name"
        names.add(one.name)
        for key in ("subject", "body", "thread"):
            text: str = getattr(one, key)
            if text and (not text.isprintable() or text != text.strip()):
                return f"{one.name}: {key} is one line without blanks around it"
        if found := _bad_line(one.cron, one.zone):
            return f"{one.name}: {found[0]}: {found[1]}"
    return ""


@lru_cache(maxsize=256)
def _bad_line(cron: str, zone: str) -> tuple[str, str] | None:
    from agent_mailer.schedules.due import bad_line

    return bad_line(cron, zone, time.time())


def _checked(key: str, value: object, source: Source, path: Path) -> object:
    try:
        return _convert(key, value)
    except msgspec.ValidationError as error:
        name, why, mend = _what_is_wrong(error, key, value)
        where, fix = {
            Source.FILE: (in_line(path, name) if source is Source.FILE else "", mend),
            Source.ENVIRONMENT: (ENV_PREFIX + key.upper(), f"unset {ENV_PREFIX}{key.upper()}"),
            Source.FLAG: ("--" + key.replace("_", "-"), ""),
        }.get(source, ("AGENT.md", "edit AGENT.md"))
        told = where if source is Source.FLAG else f"{where}: {name}"
        raise ConfigFault("bad_value", f"{told}: {why}", fix) from None


def _what_is_wrong(error: msgspec.ValidationError, key: str, value: object) -> tuple[str, str, str]:
    """The key, of a table the first of its own that is wrong, with why; and the command that mends it."""
    table = getattr(Config(), key)
    if key == SCHEDULE:
        return key, _wrong_schedule(value) or _plain(error, key, value), EDIT
    if not isinstance(table, msgspec.Struct):
        return key, _plain(error, key, value), f"agent-mailer config set {key} {_value_for(key, value, table)}"
    if not isinstance(value, dict):
        return key, f"it is a table: [{key}], and below it a key a line", EDIT
    for name, own in value.items():
        inner = f"{key}.{printable(name, 60)}"
        if name not in table.__struct_encode_fields__:
            return inner, no_key(name, table.__struct_encode_fields__), EDIT
        try:
            _convert(inner, own)
        except msgspec.ValidationError as found:
            fix = f"agent-mailer config set {inner} {_value_for(inner, own, _field(inner)[1])}"
            return inner, _plain(found, inner, own), fix
    return key, _plain(error, key, value), EDIT


def _wrong_schedule(value: object) -> str:
    """A key too many or too few in one of them; empty where it is something else."""
    if isinstance(value, dict):
        return f"each is a table of its own, with two brackets: [[{SCHEDULE}]]"
    known, needed = ScheduleKeys.__struct_fields__, ("name", "cron", "subject", "body")
    for number, one in enumerate(value if isinstance(value, list) else (), 1):
        if not isinstance(one, dict):
            continue
        called = printable(str(one.get("name") or f"the {number}."), 60)
        if strange := [name for name in one if name not in known]:
            return f"{called}: {printable(strange[0], 60)}: {no_key(strange[0], known)}"
        if missing := [name for name in needed if name not in one]:
            return f"{called}: it lacks {', '.join(missing)}"
        if wrong := [name for name, text in one.items() if not isinstance(text, str)]:
            return f"{called}: {wrong[0]} must be a text in quotes"
        if empty := [name for name in ("subject", "body") if not one[name]]:
            return f"{called}: {empty[0]} is empty"
        if fullmatch(SCHEDULE_NAME, one["name"]) is None:
            return f"{called}: name is of a-z, 0-9, _ and -, at most 40 of them"
    return ""


def _value_for(key: str, value: object, default: object) -> str:
    return choice_meant(_field(key)[0], value) or example(default)


def _sentence(key: str) -> str:
    return DOCS.get(key) or next(leaf.sentence for leaf in leaves() if leaf.name == key)


def _plain(error: msgspec.ValidationError, key: str, value: object) -> str:
    hint = _field(key)[0]
    return str(error).replace("`", "") if key == SCHEDULE else in_plain_words(error, hint, value)


def _from_environment(environ: Mapping[str, str]) -> Iterable[tuple[str, object]]:
    for key in keys():
        text = environ.get(ENV_PREFIX + key.upper())
        if text and not isinstance(getattr(Config(), key), msgspec.Struct):
            try:
                yield key, parse_value(key, text)
            except UsageFault as fault:
                fix = f"unset {ENV_PREFIX}{key.upper()}"
                raise ConfigFault("bad_value", f"{ENV_PREFIX}{key.upper()}: {fault.message}", fix) from None
