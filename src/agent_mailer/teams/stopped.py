"""Has a person stopped the team, or did its watchers end by themselves? Who has stopped it misses nobody there.

That stands in the team's folder, in which its agents work nowhere, and says nothing of a watcher that runs.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from agent_mailer.disk import Disk, Sync

AGENTS = "agents"
"""Below a team's folder: the workdirs of its agents."""

FOLDER = ".amp"
"""Below a team's folder: what `amp` knows of it."""

_STOPPED = "stopped"


def keep_stopped(directory: Path, disk: Disk) -> None:
    """A person has stopped it, or made it and started nothing yet. Raises OSError."""
    if (directory / FOLDER).is_dir():
        disk.replace(directory / FOLDER / _STOPPED, b"", sync=Sync.NONE)


def forget_stopped(directory: Path, disk: Disk) -> None:
    """It is to run from now on. Raises OSError."""
    path = directory / FOLDER / _STOPPED
    if path.exists():
        disk.remove(path)


def is_stopped(directory: Path) -> bool:
    return (directory / FOLDER / _STOPPED).exists()


def starts_again(workdir: Path) -> str:
    """The command that starts the team of that workdir, which was stopped; empty where it was not, or there is none."""
    directory = workdir.parent.parent
    if workdir.parent.name != AGENTS or not is_stopped(directory):
        return ""
    return f"amp start {at(directory)}"


def at(directory: Path) -> str:
    """The option that names this team and no other, as a shell takes it."""
    return f"--dir {shlex.quote(str(directory))}"
