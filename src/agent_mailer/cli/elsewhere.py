"""A command in a folder without an agent: which agents there are, and the same command for one of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent_mailer.cli.overview import typed
from agent_mailer.errors import MailerError
from agent_mailer.names import printable

NAMED = 6

_SET_UP = frozenset(("watch", "config", "verify", "doctor", "service", "test-runtime", "test-claude", "test-notify"))
"""What is said of a folder that is meant to be an agent's: then the first advice is to make it one."""


def naming_agents(fault: MailerError, words: Sequence[str], environ: Mapping[str, str]) -> MailerError:
    """The fault with the agents of this user, where it is about the folder that a person happens to be in."""
    chosen = any(word in ("-C", "--workdir", "--maildir-root") or word.startswith("--workdir=") for word in words)
    if chosen or not words or words[0] == "init" or "AGENT_MAILER_TURN_DIR" in environ:
        return fault
    from agent_mailer.disk import Disk
    from agent_mailer.state.workdirs import known_workdirs

    try:
        here, known = Path.cwd(), known_workdirs(Disk()).all()
    except OSError:
        return fault
    if _config_of(here).exists():
        # It is this agent's; another one's folder mends nothing.
        return fault
    around = [workdir for workdir in known if here != workdir and here.is_relative_to(workdir)]
    again = shlex.join(["agent-mailer", *words])
    if around:
        workdir = max(around, key=lambda path: len(path.parts))
        message = f"{here} has no agent; {_address(workdir)} is in {workdir}"
        return type(fault)(fault.code, message, f"{again} -C {typed(str(workdir))}")
    others = [(workdir, _address(workdir)) for workdir in known if workdir != here and _may_be_meant(workdir, words[0])]
    # To whom a mail goes says whose folder is meant.
    others = [one for one in others if one[1] in words[1:]] or others
    if not others:
        return fault
    named = ", ".join(f"-C {typed(str(workdir))} ({address})" for workdir, address in others[:NAMED])
    more = f" and {len(others) - NAMED} more (agent-mailer)" if len(others) > NAMED else ""
    if words[0] in _SET_UP:
        fix = f"{fault.fix}; or, of an agent that is there: {again} {named}{more}"
    else:
        fix = f"{again} {named}{more}; or here: {fault.fix}"
    return type(fault)(fault.code, fault.message, fix)


def _config_of(workdir: Path) -> Path:
    from agent_mailer.state.folder import STATE_DIRECTORY

    return workdir / STATE_DIRECTORY / "config.toml"


def _may_be_meant(workdir: Path, command: str) -> bool:
    """Not for a second watcher: one runs there."""
    from agent_mailer.state.lock import holder_of

    return command != "watch" or holder_of(_config_of(workdir).with_name(".lock")) is None


def _address(workdir: Path) -> str:
    """Its address, read without looking at anything else there."""
    from agent_mailer.config_values import read_file

    try:
        found = read_file(_config_of(workdir))
    except (MailerError, OSError):
        found = {}
    name = found.get("address") or found.get("agent_name") or os.path.basename(workdir)  # noqa: PTH119
    return printable(str(name), 60)
