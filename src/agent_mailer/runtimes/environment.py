"""What of the watcher's environment an agent may see: an allow-list, and what `[env]` adds to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.port import TurnRequest

_BASICS = frozenset({"HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "TZ", "TMPDIR"})
_BASIC_PREFIXES = ("LC_", "XDG_")
_RESERVED = "AGENT_MAILER_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def build_env(environ: Mapping[str, str], pass_names: Iterable[str], set_values: Mapping[str, str]) -> dict[str, str]:
    """The environment of every turn, before the turn's own variables.

    The basics of `environ`, then those in `pass_names`, then `set_values`. Nothing named AGENT_MAILER_* comes through
    in any way (the broker's key may be among them), and of a parent agent's own variables (CLAUDE*, CODEX*) only what
    `pass_names` names. Raises ConfigFault for a name or value that no environment can carry.
    """
    allowed = set(pass_names)
    for name in (*allowed, *set_values):
        if not _NAME.fullmatch(name):
            raise ConfigFault("bad_env_name", f"[env] names {name!r}, which is no variable", "agent-mailer config edit")
    for name, value in set_values.items():
        if "\0" in value:
            raise ConfigFault("bad_env_value", f"[env] set.{name} holds a NUL character", "agent-mailer config edit")
    passed = {
        name: value
        for name, value in environ.items()
        if name in _BASICS or name in allowed or (name.startswith(_BASIC_PREFIXES) and _NAME.fullmatch(name))
    }
    return {name: value for name, value in (passed | dict(set_values)).items() if not name.startswith(_RESERVED)}


def turn_variables(request: TurnRequest) -> dict[str, str]:
    """What every agent sees of its turn; `agent-mailer mail` works from these."""
    variables = {
        "AGENT_MAILER_WORKDIR": str(request.workdir),
        "AGENT_MAILER_TURN_ID": request.turn_id,
        "AGENT_MAILER_TURN_DIR": str(request.turn_dir),
        "AGENT_MAILER_MESSAGE_ID": request.message_id,
        "AGENT_MAILER_THREAD_ID": request.thread_id,
        "AGENT_MAILER_FROM": request.sender,
        "AGENT_MAILER_ATTEMPT": str(request.attempt),
    }
    if request.project_dir is not None:
        variables["AGENT_MAILER_PROJECT_DIR"] = str(request.project_dir)
    return variables
