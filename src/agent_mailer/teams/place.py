"""Which team is meant, and where its folder is: by name, by the folder one stands in, or the last one.

Names, variables and files are those of the existing launcher.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.clock import iso
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.teams.plan import FILE, team_name

LARGEST = 64 * 1024
START, STOP = "start-team.sh", "stop-team.sh"


class _Last(msgspec.Struct):
    name: str
    dir: str
    updated_at: str = ""


class _State(msgspec.Struct):
    last_team: _Last | None = None


def teams_folder(environ: Mapping[str, str], home: Path) -> Path:
    said = environ.get("AMP_TEAMS_DIR", "")
    return Path(said).expanduser().absolute() if said else home / "amp-teams"


def new_directory(name: str, given: Path | None, environ: Mapping[str, str], home: Path) -> Path:
    """Where a team of that name is to be; a name with a slash, or a dot before it, is a path."""
    if given is not None:
        return Path(os.path.abspath(given.expanduser()))  # noqa: PTH100 - a link in the path is the user's wish
    if is_path(name):
        return Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100
    return teams_folder(environ, home) / team_name(name)


def is_path(name: str) -> bool:
    return "/" in name or name.startswith((".", "~"))


def directory_meant(name: str, given: Path | None, environ: Mapping[str, str], home: Path) -> Path:
    """An existing team: the one named, else that of the current folder or one above, else the last one.

    Raises ConfigFault.
    """
    if given is not None or name:
        found = new_directory(name, given, environ, home)
        if not (found / FILE).is_file():
            fix = f"amp list, or make it: amp init {team_name(name)}" if name and not is_path(name) else "amp list"
            raise ConfigFault("no_team", f"there is no team in {found}", fix)
        return found
    with suppress(FileNotFoundError):
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / FILE).is_file() and (folder / "agents").is_dir():
                return folder
            if folder == home:
                break
    last = last_team(environ, home)
    if last is None:
        raise ConfigFault(
            "no_team", "this folder is no team, and none was made before", "amp claude-code, or amp codex"
        )
    if not (last / FILE).is_file():
        raise ConfigFault("no_team", f"the last team, in {last}, is not there any more", "amp list")
    return last


def last_team(environ: Mapping[str, str], home: Path) -> Path | None:
    with suppress(OSError, msgspec.MsgspecError, RecursionError, ValueError):
        state = msgspec.json.decode(read_regular(_state_file(environ, home), LARGEST, follow=True), type=_State)
        return Path(state.last_team.dir) if state.last_team is not None and state.last_team.dir else None
    return None


def remember_last(name: str, directory: Path, environ: Mapping[str, str], home: Path, disk: Disk, now: float) -> None:
    """Raises OSError."""
    path = _state_file(environ, home)
    disk.make_directory(path.parent)
    state = _State(_Last(name, str(directory), iso(now)))
    disk.replace(path, msgspec.json.format(msgspec.json.encode(state)) + b"\n", sync=Sync.NONE)


def all_teams(environ: Mapping[str, str], home: Path) -> list[Path]:
    """The folders of teams: below the usual one, and the last one wherever it is; by path."""
    found = set[Path]()
    with suppress(OSError):
        found.update(path.parent for path in teams_folder(environ, home).glob(f"*/{FILE}"))
    last = last_team(environ, home)
    if last is not None and (last / FILE).is_file():
        found.add(last)
    return sorted(found)


def _state_file(environ: Mapping[str, str], home: Path) -> Path:
    said = environ.get("AMP_STATE_PATH", "")
    return Path(said).expanduser().absolute() if said else home / ".agent-mailer" / "amp-state.json"
