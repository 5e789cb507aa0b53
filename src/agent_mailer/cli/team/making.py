"""`amp claude-code`, `codex`, `up`, `init`: a team for the folder one stands in."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
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
from agent_mailer.errors import UsageFault
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
    from agent_mailer.cli.team.own_broker import ended_if_refused, log_in_there, require_by_hand
    from agent_mailer.cli.team.refusing import (
        refuse_namesake,
        refuse_other,
        refuse_place,
        refuse_team_as_project,
        require_sound,
    )
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
    with ended_if_refused(where), ExitStack() as alone:

        def log_in_at_its_own() -> Login:
            require_by_hand(where_to_run)
            # Before its broker begins: another who is refused would end it.
            alone.enter_context(changing(where, Disk()))
            return log_in_there(where)

        before = None
        if has_team(where):
            require_sound(where)
            plan, before = read_team(where), standing(where).team
            if by_folder:
                refuse_namesake(plan, where)
            refuse_other(plan, mail, runtime, template, command, said, where)
            login = None
            if plan.embedded:
                login = log_in_at_its_own()
                plan = msgspec.structs.replace(plan, broker_url=login.broker_url)
            elif not plan.local:
                login = mail.login(plan.broker_url)
            wanted: PermissionMode | None = plan.mode
        else:
            refuse_team_as_project(name)
            refuse_place(where, named=directory is None)
            login = log_in_at_its_own() if mail.embedded else mail.choose()
            plan = _new(name, where, login, runtime or RuntimeKind.CLAUDE, template, command, embedded=mail.embedded)
            plan = msgspec.structs.replace(plan, root=mail.tree())
            wanted = said or (None if fenced else PermissionMode.ACCEPT_EDITS)
        say(f"{plan.name} in {where}: {where_mail_is(plan)}")
        if not plan.embedded:
            alone.enter_context(changing(where, Disk()))
        if before is None:
            # First: nobody who is broken off later has a team that seems to run.
            keep_stopped(where, Disk())
        for line in make(plan, where, login, Disk(), mode=wanted, unfenced=_ask_for_mode):
            say(line)
        if before is not None:
            # Once the file is taken over nobody knows who was there before it.
            for line in dismiss(where, workplaces(without(before, read_team(where)), where)):
                say(line)
        keep(where, Disk())
        plan = standing(where).team
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
