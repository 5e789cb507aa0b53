"""Which team is meant, and where its folder is: by name, by the folder or the project one stands in, or the last one.

Names, variables and files are those of the existing launcher.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.clock import iso
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, MailerError, UsageFault
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.teams.kept import has_team, standing
from agent_mailer.teams.plan import names_of
from agent_mailer.teams.stopped import AGENTS, at

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
    return teams_folder(environ, home) / known_name(names_of(name), environ, home)


def known_name(names: Sequence[str], environ: Mapping[str, str], home: Path) -> str:
    """The first of these by which a team is there, else the first of all."""
    folder = teams_folder(environ, home)
    return next((name for name in names if has_team(folder / name)), names[0])


def is_path(name: str) -> bool:
    return "/" in name or name.startswith((".", "~"))


def directory_meant(name: str, given: Path | None, environ: Mapping[str, str], home: Path) -> Path:
    """An existing team: the one named, else `team_here`, else the last one. Raises ConfigFault, UsageFault."""
    if given is not None or name:
        found = new_directory(name, given, environ, home)
        if not has_team(found):
            called = found.name
            make = "" if given is not None or is_path(name) else f"; to make it: amp init {called}"
            raise ConfigFault("no_team", f"there is no team in {found}", _where_it_is(called, environ, home) + make)
        return found
    if (here := team_here(environ, home)) is not None:
        return here
    last = last_team(environ, home)
    if last is None:
        make = "amp claude-code, or amp codex"
        if all_teams(environ, home):
            what = "this folder is no team's project, and no team is the last one"
            raise ConfigFault("no_team", what, f"amp list shows what there is; a new one here: {make}")
        raise ConfigFault("no_team", "this folder is no team's project, and there is no team", make)
    if not has_team(last):
        what = f"the last team, in {last}, is not there any more"
        raise ConfigFault("no_team", what, _where_it_is(last.name, environ, home))
    return last


def team_here(environ: Mapping[str, str], home: Path) -> Path | None:
    """The team in whose folder, or in whose project, one stands; of several of one project the last one. None where
    there is none. Raises UsageFault where that does not say which.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return None
    for folder in (here, *here.parents):
        if has_team(folder) and (folder / AGENTS).is_dir():
            return folder
        if folder == home:
            break
    projects = {team: project for team in all_teams(environ, home) if (project := project_of(team)) is not None}
    around = (Path(os.path.realpath(here)), *Path(os.path.realpath(here)).parents)
    for folder in around:
        found = [team for team, project in projects.items() if project == folder]
        if len(found) > 1 and (last := last_team(environ, home)) is not None:
            found = [team for team in found if is_one(team, last)] or found
        if len(found) > 1:
            names = ", ".join(team.name for team in found)
            fix = f"name one of them: {' or '.join(map(at, found))}"
            raise UsageFault("which_team", f"several teams work on {folder}: {names}", fix)
        if found:
            return found[0]
    return None


def is_one(path: Path, other: Path) -> bool:
    """By whatever names one has come to the two."""
    return os.path.realpath(path) == os.path.realpath(other)


def lies_in(path: Path, folder: Path) -> bool:
    """Or is it; by whatever names one has come to the two."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def project_of(directory: Path) -> Path | None:
    """Where the team works, as its agents' folders have it; what its file says may be another by now."""
    with suppress(OSError):
        links = sorted((directory / AGENTS).glob("*/project"))
        return next((Path(os.path.realpath(link)) for link in links if link.is_symlink()), None)
    return None


def _where_it_is(called: str, environ: Mapping[str, str], home: Path) -> str:
    """The command that takes a folder that was moved over where it is now, as far as that can be found."""
    for team in all_teams(environ, home):
        with suppress(MailerError):
            if team.name != called and standing(team).team.name == called:
                return f"it was moved: amp up {at(team)}"
    return "amp list shows what there is; a folder that was moved: amp up --dir WHERE_IT_IS"


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


def forget_last(directory: Path, environ: Mapping[str, str], home: Path, disk: Disk) -> None:
    """If it is the one in that folder. Raises OSError."""
    if (last := last_team(environ, home)) is not None and is_one(last, directory):
        disk.remove(_state_file(environ, home))


def all_teams(environ: Mapping[str, str], home: Path) -> list[Path]:
    """The folders of teams, by path: below the usual one, the last one, and wherever an agent of one was set up."""
    places: list[Path] = []
    with suppress(OSError):
        places += teams_folder(environ, home).iterdir()
    if (last := last_team(environ, home)) is not None:
        places.append(last)
    with suppress(OSError):
        places += (workdir.parents[1] for workdir in known_workdirs(Disk()).all() if workdir.parent.name == AGENTS)
    # Each once, whatever names lead to it.
    found = {os.path.realpath(path): path for path in reversed(places) if has_team(path)}
    return sorted(found.values())


def _state_file(environ: Mapping[str, str], home: Path) -> Path:
    said = environ.get("AMP_STATE_PATH", "")
    return Path(said).expanduser().absolute() if said else home / ".agent-mailer" / "amp-state.json"
