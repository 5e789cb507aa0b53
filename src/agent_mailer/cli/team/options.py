"""Options that the commands of a team share, and the team they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.errors import UsageFault

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.teams.plan import Team
    from agent_mailer.teams.running import Where

Name = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="The team's name, or the path of its folder. Default: the team of this folder, else the last one.",
        show_default=False,
    ),
]
Team_ = Annotated[str, typer.Option("--team", metavar="NAME", help="The same as NAME.", show_default=False)]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="The team's folder. Default: NAME below $AMP_TEAMS_DIR, ~/amp-teams."),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="As processes that outlive the terminal, not in tmux.", show_default=False),
]
Systemd = Annotated[bool, typer.Option("--systemd", help="As systemd user services.", show_default=False)]


class Found(msgspec.Struct, frozen=True):
    """A team that is there."""

    directory: Path
    team: Team
    places: dict[str, Workplace]


def named(name: str, team: str) -> str:
    """The one of the two that was given. Raises UsageFault for two that differ."""
    if name and team and name != team:
        raise UsageFault("two_names", f"{name} and --team {team} are two teams", "give one of them")
    return name or team


def found(name: str, team: str, directory: Path | None) -> Found:
    """The team meant, with its agents' folders. Raises ConfigFault, MailerError."""
    from agent_mailer.teams.making import workplaces
    from agent_mailer.teams.place import directory_meant
    from agent_mailer.teams.plan import read_team

    where = directory_meant(named(name, team), directory, os.environ, Path.home())
    plan = read_team(where)
    return Found(where, plan, workplaces(plan, where))


def where_from(detach: bool, systemd: bool) -> Where | None:
    """None = as it fits. Raises UsageFault."""
    from agent_mailer.teams.running import Where

    if detach and systemd:
        raise UsageFault("two_choices", "--detach and --systemd are two places", "give one of them")
    return Where.DETACHED if detach else Where.SYSTEMD if systemd else None
