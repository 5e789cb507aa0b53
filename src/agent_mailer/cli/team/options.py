"""Options that the commands of a team share, and the team they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.cli.terminal.printing import note
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.teams.stopped import at

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.teams.plan import Team
    from agent_mailer.teams.running import Where


def _no_blank(ctx: typer.Context, param: typer.CallbackParam, value: str) -> str:
    """Who types an empty name has meant another. Raises UsageFault."""
    source = ctx.get_parameter_source(param.name or "")
    if not value.strip() and source is not None and source.name == "COMMANDLINE":
        what = f"{value!r} is no name of a team"
        raise UsageFault("bad_team_name", what, "give a name of a-z, 0-9, - and _; or none at all")
    return value


Name = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="The team's name, or the path of its folder. Default: the team of this folder, else the last one.",
        show_default=False,
        callback=_no_blank,
    ),
]
NewName = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="What the team is called, or the path of its folder. Default: as this folder.",
        show_default=False,
        callback=_no_blank,
    ),
]
Team_ = Annotated[
    str,
    typer.Option("--team", metavar="NAME", help="The same as NAME.", show_default=False, callback=_no_blank),
]
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
    """Of those agents that are set up."""


def named(name: str, team: str) -> str:
    """The one of the two that was given. Raises UsageFault for two that differ."""
    if name and team and name != team:
        raise UsageFault("two_names", f"{name} and --team {team} are two teams", "give one of them")
    return name or team


def found(name: str, team: str, directory: Path | None) -> Found:
    """The team meant, as it was last taken over, with its agents' folders. Raises ConfigFault, MailerError."""
    from agent_mailer.teams.kept import standing
    from agent_mailer.teams.making import workplaces
    from agent_mailer.teams.place import directory_meant
    from agent_mailer.teams.plan import FILE

    where = directory_meant(named(name, team), directory, os.environ, Path.home())
    now = standing(where)
    if now.fault is not None:
        note(
            f"warning: {now.fault.message}\n"
            f"what was last taken over of it counts until you fix it: {now.fault.fix}; then: amp up {at(where)}"
        )
    elif now.changed:
        note(f"{where / FILE} was changed since it was last taken over: amp up {at(where)}")
    if (fault := moved(where, now.team)) is not None:
        note(f"warning: {fault.message} ({fault.fix})")
    one = Found(where, now.team, workplaces(now.team, where))
    if gone := [member.name for member in now.team.members if member.name not in one.places]:
        note(f"warning: not set up, or no longer there: {', '.join(gone)} (amp up {at(where)})")
    return one


def moved(where: Path, team: Team) -> ConfigFault | None:
    """What is to be done about a folder that is not where it was."""
    from agent_mailer.teams.kept import moved_from

    before = moved_from(where, team)
    what = f"the team's folder was {before}, and its agents still look for their mail there"
    return ConfigFault("moved", what, f"amp up {at(where)}") if before is not None else None


def where_from(detach: bool, systemd: bool) -> Where | None:
    """None = as it fits. Raises UsageFault."""
    from agent_mailer.teams.running import Where

    if detach and systemd:
        raise UsageFault("two_choices", "--detach and --systemd are two places", "give one of them")
    return Where.DETACHED if detach else Where.SYSTEMD if systemd else None
