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
    around = [workdir for workdir in known if here != workdir and here.is_relative_to(workdir)]
    others = [workdir for workdir in known if workdir != here]
    if not others:
        return fault
    again = shlex.join(["agent-mailer", *words])
    if around:
        workdir = max(around, key=lambda path: len(path.parts))
        message = f"{here} has no agent; {_address(workdir)} is in {workdir}"
        return type(fault)(fault.code, message, f"{again} -C {typed(str(workdir))}")
    named = ", ".join(f"-C {typed(str(workdir))} ({_address(workdir)})" for workdir in others[:NAMED])
    more = f" and {len(others) - NAMED} more (agent-mailer)" if len(others) > NAMED else ""
    return type(fault)(fault.code, fault.message, f"{again} {named}{more}; or here: {fault.fix}")


def _address(workdir: Path) -> str:
    """Its address, read without looking at anything else there."""
    from agent_mailer.config_values import read_file
    from agent_mailer.state.folder import STATE_DIRECTORY

    try:
        found = read_file(workdir / STATE_DIRECTORY / "config.toml")
    except (MailerError, OSError):
        found = {}
    name = found.get("address") or found.get("agent_name") or os.path.basename(workdir)  # noqa: PTH119
    return printable(str(name), 60)
