"""`amp claude-code`, `codex`, `up`, `init`: a team for the folder one stands in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.cli.team.login import BrokerUrl, Password, Username
from agent_mailer.cli.team.mailboxes import Mail, where_mail_is
from agent_mailer.cli.team.naming import meant, name_of, name_of_path
from agent_mailer.cli.team.options import Detach, Dir, Found, NewName, Systemd, Team_, named, where_from
from agent_mailer.cli.team.running import NoAttach, start_and_show
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import note, say
from agent_mailer.config import RuntimeKind
from agent_mailer.errors import BusyFault, ConfigFault, UsageFault
from agent_mailer.names import one_of
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.stopped import at

if TYPE_CHECKING:
    from agent_mailer.setup.logins import Login
    from agent_mailer.teams.plan import Team
    from agent_mailer.teams.running import Where

claude_app, codex_app, up_app, init_app = single(), single(), single(), single()

Local = Annotated[
    bool, typer.Option("--local", help="Mail in the team's folder; no broker is needed.", show_default=False)
]
Amq = Annotated[
    bool,
    typer.Option(
        "--amq", help="Mail in the tree that `amq coop init` made here; `amq coop exec` joins.", show_default=False
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--permission-mode", metavar="MODE", help="acceptEdits, bypassPermissions or plan.", show_default=False
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        "--runtime", metavar="KIND", help="claude (the default), codex, command or infiniti.", show_default=False
    ),
]
Command = Annotated[
    str | None,
    typer.Option("--command", metavar="LINE", help="With --runtime command: what is run.", show_default=False),
]
Template = Annotated[
    str | None,
    typer.Option("--template", metavar="NAME", help="Which agents. Default: four-roles.", show_default=False),
]


@claude_app.command("claude-code", cls=FastCommand)
@codex_app.command("codex", cls=FastCommand)
def of_one_program(
    ctx: typer.Context,
    name: NewName = "",
    team: Team_ = "",
    directory: Dir = None,
    local: Local = False,
    amq: Amq = False,
    broker_url: BrokerUrl = "",
    username: Username = "",
    password: Password = "",
    permission_mode: Mode = None,
    template: Template = None,
    detach: Detach = False,
    systemd: Systemd = False,
    no_attach: NoAttach = False,
) -> None:
    """Make a team for the project in this folder, and start it: planner, coder, reviewer and runner.

    Its name is NAME, else this folder's, with -claude-code or -codex behind it. Where a sandbox is proved to stand
    around each turn its agents may do everything; elsewhere you are asked, and without a terminal they may change
    files (acceptEdits).
    """
    where = where_from(detach, systemd)
    runtime = RuntimeKind.CODEX if ctx.info_name == "codex" else RuntimeKind.CLAUDE
    chosen = name_of(named(name, team), directory, f"-{ctx.info_name}")
    made = _make(
        chosen,
        directory,
        Mail(local, amq, broker_url, username, password),
        runtime,
        permission_mode,
        template,
        fenced=True,
        by_folder=not (name or team or directory),
        where_to_run=where,
    )
    start_and_show(made, where, attach=not no_attach)


@up_app.command("up", cls=FastCommand)
def up(
    name: NewName = "",
    team: Team_ = "",
    directory: Dir = None,
    local: Local = False,
    amq: Amq = False,
    broker_url: BrokerUrl = "",
    username: Username = "",
    password: Password = "",
    permission_mode: Mode = None,
    runtime: Runtime = None,
    command: Command = None,
    template: Template = None,
    detach: Detach = False,
    systemd: Systemd = False,
    no_attach: NoAttach = False,
) -> None:
    """Make the team where it is not there, take over what was changed in its team.yaml, and start what does not run."""
    where = where_from(detach, systemd)
    called, directory = meant(named(name, team), directory)
    made = _make(
        called,
        directory,
        Mail(local, amq, broker_url, username, password),
        _runtime(runtime),
        permission_mode,
        template,
        command=command,
        by_folder=not (name or team or directory),
        where_to_run=where,
    )
    start_and_show(made, where, attach=not no_attach)


@init_app.command("init", cls=FastCommand)
def init(
    name: NewName = "",
    team: Team_ = "",
    directory: Dir = None,
    local: Local = False,
    amq: Amq = False,
    broker_url: BrokerUrl = "",
    username: Username = "",
    password: Password = "",
    permission_mode: Mode = None,
    runtime: Runtime = None,
    command: Command = None,
    template: Template = None,
) -> None:
    """Make a team for the project in this folder; start nothing. Without a mode its agents may change files."""
    from agent_mailer.cli.team.own_broker import end
    from agent_mailer.teams.place import teams_folder
    from agent_mailer.teams.running import watchers

    called, directory = meant(named(name, team), directory)
    made = _make(
        called,
        directory,
        Mail(local, amq, broker_url, username, password),
        _runtime(runtime),
        permission_mode,
        template,
        command=command,
        by_folder=not (name or team or directory),
    )
    if made.team.embedded and not watchers(made.places):
        end(made.directory)
    usual = made.directory == teams_folder(os.environ, Path.home()) / made.team.name
    say(f"\nNext: amp start {made.team.name if usual else at(made.directory)}")


def _make(
    name: str,
    directory: Path | None,
    mail: Mail,
    runtime: RuntimeKind | None,
    mode: str | None,
    template: str | None,
    *,
    command: str | None = None,
    fenced: bool = False,
    by_folder: bool = False,
    where_to_run: Where | None = None,
) -> Found:
    """`fenced`: without a mode its agents may do everything where a sandbox is proved. `by_folder`: nobody named it.
    `where_to_run` = where it is to be started then.
    """
    from agent_mailer.cli.team.own_broker import log_in_there, require_by_hand
    from agent_mailer.clock import SystemClock
    from agent_mailer.disk import Disk
    from agent_mailer.teams.kept import changing, has_team, keep, standing
    from agent_mailer.teams.making import make, workplaces
    from agent_mailer.teams.place import new_directory, remember_last
    from agent_mailer.teams.plan import without
    from agent_mailer.teams.reading import read_team
    from agent_mailer.teams.running import dismiss
    from agent_mailer.teams.stopped import keep_stopped

    where = new_directory(name, directory, os.environ, Path.home())
    said = PermissionMode(one_of(mode, [one.value for one in PermissionMode], "--permission-mode")) if mode else None
    before = None
    if has_team(where):
        _require_sound(where)
        plan, before = read_team(where), standing(where).team
        if by_folder:
            _refuse_namesake(plan, where)
        _refuse_other(plan, mail, runtime, template, said, where)
        if plan.embedded:
            require_by_hand(where_to_run)
        login = None if plan.local else log_in_there(where) if plan.embedded else mail.login(plan.broker_url)
        if login is not None and plan.embedded:
            plan = msgspec.structs.replace(plan, broker_url=login.broker_url)
        wanted: PermissionMode | None = plan.mode
    else:
        _refuse_team_as_project(name)
        _refuse_place(where, named=directory is None)
        if mail.embedded:
            require_by_hand(where_to_run)
        login = log_in_there(where) if mail.embedded else mail.choose()
        plan = _new(name, where, login, runtime or RuntimeKind.CLAUDE, template, command, embedded=mail.embedded)
        plan = msgspec.structs.replace(plan, root=mail.tree())
        wanted = said or (None if fenced else PermissionMode.ACCEPT_EDITS)
    say(f"{plan.name} in {where}: {where_mail_is(plan)}")
    with changing(where, Disk()):
        for line in make(plan, where, login, Disk(), mode=wanted, unfenced=_ask_for_mode):
            say(line)
        keep(where, Disk())
        if before is None:
            keep_stopped(where, Disk())
        plan = standing(where).team
        for line in dismiss(where, workplaces(without(before, plan), where)) if before is not None else ():
            say(line)
    remember_last(plan.name, where, os.environ, Path.home(), Disk(), SystemClock().now())
    if before is None:
        _note_others(plan.project, where)
    return Found(where, plan, workplaces(plan, where))


def _new(
    name: str,
    where: Path,
    login: Login | None,
    runtime: RuntimeKind,
    template: str | None,
    command: str | None,
    *,
    embedded: bool,
) -> Team:
    from agent_mailer.names import split_words
    from agent_mailer.teams.place import is_path, lies_in
    from agent_mailer.teams.plan import LOCAL, Team, team_name
    from agent_mailer.teams.reading import template as members_of

    if (runtime is RuntimeKind.COMMAND) is (command is None):
        raise UsageFault("no_command", "--runtime command and --command LINE belong together", "give both, or neither")
    called = name_of_path(where) if is_path(name) else team_name(name)
    here = Path.cwd()
    project = None if lies_in(here, where) else here
    extra: dict[str, object] = {"command": split_words(command, "--command")} if command is not None else {}
    members = tuple(
        msgspec.structs.replace(one, name=f"{called}_{one.role}", values={**one.values, **extra})
        for one in members_of(template or "four-roles")
    )
    url = login.broker_url if login is not None else LOCAL
    return Team(called, runtime, PermissionMode.ACCEPT_EDITS, members, url, project, embedded)


def _refuse_other(
    plan: Team, mail: Mail, runtime: RuntimeKind | None, template: str | None, mode: PermissionMode | None, where: Path
) -> None:
    """What the team's file says counts. Raises UsageFault for flags that say otherwise."""
    said = {
        "--runtime": runtime is not None and runtime is not plan.runtime,
        "--permission-mode": mode is not None and mode is not plan.mode,
        "--template": template is not None,
        "--local": mail.local and (not plan.local or plan.root is not None),
        "--amq": mail.amq and plan.root is None,
        "--broker-url": bool(mail.broker_url)
        and not (mail.embedded and plan.embedded)
        and (plan.embedded or mail.broker_url.rstrip("/") != plan.broker_url.rstrip("/")),
    }
    if wrong := [flag for flag, differs in said.items() if differs]:
        fix = f"change {where / 'team.yaml'}, then: amp up {at(where)}"
        raise UsageFault("there_already", f"the team in {where} is there, and says otherwise: {', '.join(wrong)}", fix)


def _refuse_namesake(plan: Team, where: Path) -> None:
    """The team that the current folder's name leads to works on another folder of that name. Raises UsageFault."""
    from agent_mailer.teams.place import is_one, lies_in

    here = Path.cwd()
    if plan.project is None or lies_in(here, where):
        return
    if not is_one(plan.project, here):
        fix = f"amp up NAME with another name for a new one; or: amp up {plan.name}"
        raise UsageFault("another_project", f"the team {plan.name} in {where} works on {plan.project}, not here", fix)


def _require_sound(where: Path) -> None:
    """Raises ConfigFault where the team's file cannot be taken over, with what of it runs."""
    from agent_mailer.teams.kept import standing
    from agent_mailer.teams.making import workplaces
    from agent_mailer.teams.running import watchers

    now = standing(where)
    if now.fault is not None:
        running = len(watchers(workplaces(now.team, where)))
        runs = f"runs: {running} of its {len(now.team.members)} agents are watched" if running else "does not run"
        raise ConfigFault(now.fault.code, f"{now.fault.message}\nThe team {now.team.name} {runs}", now.fault.fix)


def _refuse_place(where: Path, *, named: bool) -> None:
    """Raises UsageFault, BusyFault for a folder that no new team can be made in; `named`: a name has led there."""
    from agent_mailer.assemble import Workplace
    from agent_mailer.teams.place import lies_in
    from agent_mailer.teams.running import watchers
    from agent_mailer.teams.stopped import AGENTS

    if named and lies_in(Path.cwd(), where):
        what = f"{where} is the project, or above it; a team has a folder of its own"
        raise UsageFault("in_the_way", what, "amp init, or amp init NAME: below ~/amp-teams; or: amp init --dir DIR")
    found = {
        path.parent.parent.name: path.parent.parent for path in where.glob(f"{AGENTS}/*/.agent-mailer/config.toml")
    }
    if running := watchers({name: Workplace(path) for name, path in found.items()}):
        pids = " ".join(str(process.pid) for process in running.values())
        what = (
            f"agents in {where / AGENTS} are watched, and nothing says to which team they belong: {', '.join(running)}"
        )
        raise BusyFault("agents_watched", what, f"kill {pids}")


def _note_others(project: Path | None, where: Path) -> None:
    """Two teams may work on one folder: which of them is meant is to be known from the beginning."""
    from agent_mailer.teams.place import all_teams, is_one, project_of

    if project is None:
        return
    here = Path(os.path.realpath(project))
    teams = [team for team in all_teams(os.environ, Path.home()) if not is_one(team, where)]
    others = [team.name for team in teams if project_of(team) == here]
    if others:
        note(
            f"{', '.join(others)} works on this folder, too. A command here without a name means the team that was "
            "made or started last; to name one: amp ask --team NAME TASK, amp status NAME"
        )


def _refuse_team_as_project(name: str) -> None:
    """Raises UsageFault where a new team would work on another team's folder."""
    from agent_mailer.teams.kept import has_team

    here = Path.cwd()
    if any(has_team(folder) and (folder / "agents").is_dir() for folder in (here, *here.parents)):
        fix = f"cd to the project, then: amp up {name}"
        raise UsageFault("in_a_team", f"{here} is in a team's folder: a new team is made from its project's", fix)


def _ask_for_mode(why: str) -> PermissionMode:
    careful = PermissionMode.ACCEPT_EDITS
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        note(f"{why}; so its agents may change files, and not run everything ({careful})")
        return careful
    say(f"{why}.")
    everything = typer.confirm("May its agents do everything that you may do, with nobody asked?", default=False)
    return PermissionMode.BYPASS_PERMISSIONS if everything else careful


def _runtime(given: str | None) -> RuntimeKind | None:
    return RuntimeKind(one_of(given, [kind.value for kind in RuntimeKind], "--runtime")) if given is not None else None
