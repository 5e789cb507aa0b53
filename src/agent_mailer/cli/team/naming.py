"""What a new team is called, by what was typed or the folder one stands in; one that is changed is told."""

from __future__ import annotations

import os
from pathlib import Path

from agent_mailer.cli.terminal.printing import note
from agent_mailer.names import printable


def meant(said: str, directory: Path | None) -> tuple[str, Path | None]:
    """Without a word the team of this folder, if there is one; else a new one that is called as the folder."""
    from agent_mailer.teams.place import team_here

    if not said and directory is None and (here := team_here(os.environ, Path.home())) is not None:
        return here.name, here
    return name_of(said, directory), directory


def name_of(given: str, directory: Path | None, suffix: str = "") -> str:
    """As the launcher names a team: NAME, else the current folder's name, with the runtime behind it. Raises UsageFault
    where nothing of it can be a name.
    """
    from agent_mailer.teams.place import is_path, known_name, new_directory
    from agent_mailer.teams.plan import LONGEST_NAME, names_of

    if given and is_path(given):
        return given
    text = given or Path.cwd().name
    bases = names_of(text)
    room = LONGEST_NAME - len(suffix)
    names = [base if base.endswith(suffix) else base[:room].rstrip("-_") + suffix for base in bases]
    name = known_name(names, os.environ, Path.home())
    _tell(text, bases[0], new_directory(name, directory, os.environ, Path.home()))
    return name


def name_of_path(where: Path) -> str:
    """Of a team whose folder was named by its path. Raises UsageFault."""
    from agent_mailer.teams.plan import team_name

    _tell(where.name, called := team_name(where.name), where)
    return called


def _tell(text: str, name: str, where: Path) -> None:
    """Who has typed another name than the team gets looks for that one later."""
    from agent_mailer.teams.kept import has_team

    if text != name and not has_team(where):
        what = f"the team is called {name}, not {printable(text, 60)!r}: its name has a-z, 0-9, - and _, at most 31"
        note(f"{what}; for another one: --team NAME")
