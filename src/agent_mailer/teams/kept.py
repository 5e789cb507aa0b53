"""What counts of `team.yaml`: as it was last taken over. One `amp` at a time changes a team.

Beside the team's folders lies what was last taken over, byte for byte; a file that was changed since, or is broken,
changes nothing of what runs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.locks import FileLock
from agent_mailer.teams.plan import FILE, LARGEST, Team
from agent_mailer.teams.reading import lacks, read_team
from agent_mailer.teams.stopped import FOLDER

_LOCK, _AT = "lock", "at"
PATIENCE = 120.0
"""Seconds for which one waits for another; a start waits for its watchers."""


class Standing(msgspec.Struct, frozen=True):
    """The team that counts. `fault`: what is wrong with the file as it is now; `changed`: it says otherwise by now."""

    team: Team
    fault: ConfigFault | None = None
    changed: bool = False


def has_team(directory: Path) -> bool:
    """Whether a team is there; of one that was taken over its file may be gone."""
    return (directory / FILE).is_file() or (directory / FOLDER / FILE).is_file()


def standing(directory: Path) -> Standing:
    """Raises ConfigFault where the file is broken and nothing was taken over before."""
    kept = _kept(directory)
    try:
        now = read_team(directory)
    except ConfigFault as fault:
        if kept is None:
            raise
        return Standing(kept, _with_the_way_back(directory, kept, fault))
    same = kept is None or _bytes(directory / FILE) == _bytes(directory / FOLDER / FILE)
    if (gone := lacks(now, directory)) is not None:
        if same or kept is None:
            return Standing(now, gone)
        return Standing(kept, _with_the_way_back(directory, kept, gone))
    return Standing(now if same or kept is None else kept, changed=not same)


def keep(directory: Path, disk: Disk) -> None:
    """What the file says is taken over. Raises OSError."""
    _folder(directory, disk)
    disk.replace(directory / FOLDER / FILE, read_regular(directory / FILE, LARGEST, follow=True), sync=Sync.NONE)
    disk.replace(directory / FOLDER / _AT, os.fsencode(directory) + b"\n", sync=Sync.NONE)


def moved_from(directory: Path, team: Team) -> Path | None:
    """Where its folder was when it was last taken over, if its agents still look for their mail there."""
    if not team.local or team.root is not None:
        return None
    found = _bytes(directory / FOLDER / _AT)
    before = Path(os.fsdecode(found.removesuffix(b"\n"))) if found else directory
    return None if os.path.realpath(before) == os.path.realpath(directory) else before


@contextmanager
def changing(directory: Path, disk: Disk, seconds: float = PATIENCE) -> Iterator[None]:
    """Nobody else makes, starts or stops it meanwhile. Raises BusyFault where another takes longer than `seconds`."""
    _folder(directory, disk)
    lock = FileLock(directory / FOLDER / _LOCK)
    if not lock.acquire(seconds):
        raise BusyFault("team_busy", f"another amp makes, starts or stops the team in {directory}", "amp list")
    try:
        yield
    finally:
        lock.release()


def _kept(directory: Path) -> Team | None:
    with suppress(ConfigFault):
        return read_team(directory, directory / FOLDER / FILE)
    return None


def _with_the_way_back(directory: Path, kept: Team, fault: ConfigFault) -> ConfigFault:
    """What was last taken over can be written back."""
    path = directory / FILE
    back = f"cp {shlex.quote(str(directory / FOLDER / FILE))} {shlex.quote(str(path))}"
    if fault.code == "no_team":
        return ConfigFault("file_gone", f"the file of the team {kept.name} is gone: {path}", back)
    return ConfigFault(fault.code, fault.message, f"{fault.fix}; or, as it was: {back}")


def _folder(directory: Path, disk: Disk) -> None:
    """What lies in it is nobody's to commit."""
    folder = directory / FOLDER
    if not folder.is_dir():
        disk.make_directory(folder)
        disk.replace(folder / ".gitignore", b"*\n", sync=Sync.NONE)


def _bytes(path: Path) -> bytes | None:
    with suppress(OSError):
        return read_regular(path, LARGEST, follow=True)
    return None
