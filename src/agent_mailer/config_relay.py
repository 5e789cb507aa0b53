"""What configures an agent at an Agent Relay server beside our own keys: the relay's variables, and its profiles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent_mailer.config_tables import RelayKeys
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, quoted
from agent_mailer.names import printable
from agent_mailer.runtimes.port import PermissionMode

DEFAULT_URL: Final = "http://127.0.0.1:4850"
MOST_BYTES: Final = 1024 * 1024

_VARIABLE: Final = "AGENT_RELAY_"
_LISTS: Final = ("caps", "tags", "channels")
_READ_ONLY, _GUARDED = "read-only", "guarded"


class _Profile(msgspec.Struct):
    """One of the relay's file: what is not ours is passed over."""

    label: str = ""
    tags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    approval: str = ""


def in_our_words(raw: Mapping[str, object]) -> dict[str, object]:
    """The file's `[relay] url, token`, read as the keys that say the same. Raises ConfigFault for two values."""
    table = raw.get("relay")
    if not isinstance(table, dict):
        return dict(raw)
    said = {"broker_url": table.get("url"), "api_key": table.get("token")}
    for key, name in (("broker_url", "url"), ("api_key", "token")):
        if raw.get("mailbox") == "relay" and said[key] and raw.get(key) and said[key] != raw[key]:
            # Which of the two is meant nobody can say, and the other would be passed over without a word.
            why = f"[relay] {name} and {key} say the same, and have two values: only one of them can stand there"
            raise ConfigFault("two_values", why, "agent-mailer config edit")
    found = {key: value for key, value in said.items() if value is not None and not raw.get(key)}
    rest = {key: value for key, value in table.items() if key not in ("url", "token")}
    return {**raw, "relay": rest, **found}


def with_defaults(values: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """The values that the relay's variables and a profile give, where ours say nothing. Raises ConfigFault."""
    keys = values.get("relay")
    keys = keys if isinstance(keys, RelayKeys) else RelayKeys()
    told: dict[str, str] = {}
    for name in ("url", "token", "caps", "tags", "label", "channels", "profile", "approval"):
        if text := environ.get(_VARIABLE + name.upper(), "").strip():
            told[name] = text
    name = keys.profile or told.get("profile", "")
    profile = _profile(name, environ) if name else _Profile()
    from_profile = {
        "caps": profile.capabilities or _named(values, "cap:"),
        "tags": profile.tags or _named(values, "tag:"),
        "label": profile.label or next(iter(_named(values, "label:")), ""),
        "channels": profile.channels,
        "approval": profile.approval,
    }
    table: dict[str, Any] = {"profile": name}
    for key, default in from_profile.items():
        said = told.get(key, "")
        given = tuple(one.strip() for one in said.split(",") if one.strip()) if key in _LISTS else said
        table[key] = getattr(keys, key) or given or default
    table["caps"] = table["caps"] or ("chat",)
    table["channels"] = () if table["channels"] == ("all",) else table["channels"]
    if table["approval"] not in ("", "open", _GUARDED, _READ_ONLY):
        variable = f"{_VARIABLE}APPROVAL"
        where, fix = f"the profile {printable(name, 60)}", f"$EDITOR {quoted(_profiles_in(environ)[1])}"
        if "approval" in told:
            where, fix = variable, f"unset {variable}"
        raise ConfigFault("bad_value", f"{where}: approval is open, guarded or read-only", fix)
    found: dict[str, object] = {"relay": table}
    if not values.get("broker_url"):
        found["broker_url"] = told.get("url", DEFAULT_URL)
    if not values.get("api_key") and "token" in told:
        found["api_key"] = told["token"]
    if (mode := _mode(table["approval"], values)) is not None:
        found["permission_mode"] = mode
    return found


def _named(values: Mapping[str, object], kind: str) -> tuple[str, ...]:
    """Of the groups of that kind that the agent is in anywhere."""
    groups = values.get("groups", ())
    return tuple(one.removeprefix(kind) for one in groups if one.startswith(kind)) if isinstance(groups, tuple) else ()


def _mode(approval: str, values: Mapping[str, object]) -> str | None:
    """The permission mode that an approval means, where none is set. Raises ConfigFault for one that is wider."""
    if approval not in (_GUARDED, _READ_ONLY):
        return None
    meant = PermissionMode.PLAN if approval == _READ_ONLY else PermissionMode.ACCEPT_EDITS
    chosen = values.get("permission_mode")
    if not chosen:
        return meant.value
    wider = chosen != PermissionMode.PLAN if approval == _READ_ONLY else chosen == PermissionMode.BYPASS_PERMISSIONS
    if wider:
        raise ConfigFault(
            "approval_and_mode",
            f"the relay's approval is {approval}, and permission_mode {chosen} allows more than that",
            f"agent-mailer config set permission_mode {meant.value}",
        )
    return None


def _profiles_in(environ: Mapping[str, str]) -> tuple[str, Path]:
    """The relay's file of them, as it was said and as a path."""
    told = environ.get(f"{_VARIABLE}PROFILES_FILE") or "~/.config/agent-relay/profiles.json"
    return told, Path(os.path.expanduser(told))  # noqa: PTH111 - it raises nothing


def _profile(name: str, environ: Mapping[str, str]) -> _Profile:
    told, path = _profiles_in(environ)
    try:
        found = msgspec.json.decode(read_regular(path, MOST_BYTES, follow=True), type=dict[str, msgspec.Raw])
        if name not in found:
            raise ConfigFault("no_profile", f"{path} has no profile {printable(name, 60)!r}", f"$EDITOR {quoted(path)}")
        return msgspec.json.decode(found[name], type=_Profile)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ConfigFault("bad_profile", f"{told}: {printable(str(error), 200)}", f"$EDITOR {quoted(path)}") from None
    except OSError as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigFault("bad_profile", f"the relay's profiles, {told}: {why}", f"ls -l {quoted(path)}") from None
