"""What is no way to make a team, or to take one over: each is refused before anything is begun or changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.config import RuntimeKind
from agent_mailer.errors import BusyFault, ConfigFault, UsageFault
from agent_mailer.teams.stopped import at

if TYPE_CHECKING:
    from agent_mailer.cli.team.mailboxes import Mail
    from agent_mailer.runtimes.port import PermissionMode
    from agent_mailer.teams.plan import Team


def refuse_other(
    plan: Team,
    mail: Mail,
    runtime: RuntimeKind | None,
    template: str | None,
    command: str | None,
    mode: PermissionMode | None,
    where: Path,
) -> None:
    """What the team's file says counts. Raises UsageFault for flags that say otherwise."""
    said = {
        "--runtime": runtime is not None and runtime is not plan.runtime,
        "--permission-mode": mode is not None and mode is not plan.mode,
        "--command": command is not None and not _runs(plan, command),
        "--template": template is not None and not _is_of(plan, template),
        "--local": mail.local and (not plan.local or plan.root is not None),
        "--amq": mail.amq and plan.root is None,
        "--broker-url": bool(mail.broker_url)
        and not (mail.embedded and plan.embedded)
        and (plan.embedded or mail.broker_url.rstrip("/") != plan.broker_url.rstrip("/")),
    }
    if wrong := [flag for flag, differs in said.items() if differs]:
        fix = f"change {where / 'team.yaml'}, then: amp up {at(where)}"
        raise UsageFault("there_already", f"the team in {where} is there, and says otherwise: {', '.join(wrong)}", fix)


def _runs(plan: Team, command: str) -> bool:
    """Every agent of it that is a command is this one, and there is one. Raises UsageFault."""
    from agent_mailer.names import split_words

    words = split_words(command, "--command")
    found = [one.values.get("command") for one in plan.members if (one.runtime or plan.runtime) is RuntimeKind.COMMAND]
    return bool(found) and all(one == words for one in found)


def _is_of(plan: Team, template: str) -> bool:
    """It has the roles of that template. Raises UsageFault."""
    from agent_mailer.teams.reading import template as members_of

    return {one.role for one in members_of(template)} == {one.role for one in plan.members}


def refuse_namesake(plan: Team, where: Path) -> None:
    """The team that the current folder's name leads to works on another folder of that name. Raises UsageFault."""
    from agent_mailer.teams.place import is_one, lies_in

    here = Path.cwd()
    if plan.project is None or lies_in(here, where):
        return
    if not is_one(plan.project, here):
        fix = f"amp up NAME with another name for a new one; or: amp up {plan.name}"
        raise UsageFault("another_project", f"the team {plan.name} in {where} works on {plan.project}, not here", fix)


def require_sound(where: Path) -> None:
    """Raises ConfigFault where the team's file cannot be taken over, with what of it runs."""
    from agent_mailer.teams.kept import standing
    from agent_mailer.teams.making import workplaces
    from agent_mailer.teams.running import watchers

    now = standing(where)
    if now.fault is not None:
        running = len(watchers(workplaces(now.team, where)))
        runs = f"runs: {running} of its {len(now.team.members)} agents are watched" if running else "does not run"
        raise ConfigFault(now.fault.code, f"{now.fault.message}\nThe team {now.team.name} {runs}", now.fault.fix)


def refuse_place(where: Path, *, named: bool) -> None:
    """Raises UsageFault, BusyFault for a folder that no new team can be made in; `named`: a name has led there."""
    from agent_mailer.teams.place import lies_in
    from agent_mailer.teams.running import watchers_in
    from agent_mailer.teams.stopped import AGENTS

    if named and lies_in(Path.cwd(), where):
        what = f"{where} is the project, or above it; a team has a folder of its own"
        raise UsageFault("in_the_way", what, "amp init, or amp init NAME: below ~/amp-teams; or: amp init --dir DIR")
    if running := watchers_in(where):
        pids = " ".join(str(process.pid) for process in running.values())
        what = (
            f"agents in {where / AGENTS} are watched, and nothing says to which team they belong: {', '.join(running)}"
        )
        raise BusyFault("agents_watched", what, f"kill {pids}")


def refuse_team_as_project(name: str) -> None:
    """Raises UsageFault where a new team would work on another team's folder."""
    from agent_mailer.teams.kept import has_team

    here = Path.cwd()
    if any(has_team(folder) and (folder / "agents").is_dir() for folder in (here, *here.parents)):
        fix = f"cd to the project, then: amp up {name}"
        raise UsageFault("in_a_team", f"{here} is in a team's folder: a new team is made from its project's", fix)
