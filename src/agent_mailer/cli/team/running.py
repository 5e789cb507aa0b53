"""`amp start`, `stop`, `restart`, `attach`, `rm`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.team.options import Detach, Dir, Found, Name, Systemd, Team_, found, moved, where_from
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import note, say
from agent_mailer.errors import BusyFault, ConfigFault, MailerError, UsageFault
from agent_mailer.teams.stopped import at

if TYPE_CHECKING:
    from agent_mailer.teams.running import Where

start_app, stop_app, restart_app, attach_app, rm_app = single(), single(), single(), single(), single()

NoAttach = Annotated[
    bool, typer.Option("--no-attach", help="Leave the terminal as it is, where it runs in tmux.", show_default=False)
]


@start_app.command("start", cls=FastCommand)
def start(
    name: Name = "",
    team: Team_ = "",
    directory: Dir = None,
    detach: Detach = False,
    systemd: Systemd = False,
    no_attach: NoAttach = False,
) -> None:
    """Start the team's watchers: in a tmux session where there is tmux and a terminal, else as processes."""
    start_and_show(found(name, team, directory), where_from(detach, systemd), attach=not no_attach)


@stop_app.command("stop", cls=FastCommand)
def stop(
    name: Name = "",
    team: Team_ = "",
    directory: Dir = None,
    now: Annotated[
        bool, typer.Option("--now", help="Running turns are ended at once, and run again later.", show_default=False)
    ] = False,
    hand_over: Annotated[
        bool,
        typer.Option("--hand-over", help="Running turns go on; the next start takes them over.", show_default=False),
    ] = False,
) -> None:
    """Stop the team's watchers: running turns get `stop_grace` seconds, and cost their message nothing."""
    from agent_mailer.teams.running import stop as stop_all

    if now and hand_over:
        raise UsageFault("two_choices", "--now ends turns, --hand-over leaves them", "give one of them")
    from agent_mailer.cli.team.own_broker import end
    from agent_mailer.disk import Disk
    from agent_mailer.teams.stopped import keep_stopped

    one = found(name, team, directory)
    told = False
    keep_stopped(one.directory, Disk())
    try:
        for line in stop_all(one.team.name, one.directory, one.places, now=now, hand_over=hand_over):
            say(line)
            told = True
    except KeyboardInterrupt:
        _tell_what_ends(one)
        raise
    if one.team.embedded and end(one.directory):
        say("its broker has ended")
        told = True
    say(f"{one.team.name} is stopped: amp start {at(one.directory)}" if told else f"{one.team.name} does not run")


def _tell_what_ends(one: Found) -> None:
    """Who waits no longer has told them to end, which takes nothing back."""
    from agent_mailer.teams.running import watchers

    this = at(one.directory)
    left = ", ".join(watchers(one.places))
    if left:
        note(f"\n{left}: still at work, and told to end then. Look: amp status {this}. At once: amp stop --now {this}")
    if one.team.embedded:
        note(f"its broker goes on; amp stop {this} ends it")


@restart_app.command("restart", cls=FastCommand)
def restart(
    name: Name = "", team: Team_ = "", directory: Dir = None, detach: Detach = False, systemd: Systemd = False
) -> None:
    """Start the watchers anew where they ran before; running turns are handed over, and lose nothing."""
    from agent_mailer.cli.team.own_broker import begin
    from agent_mailer.disk import Disk
    from agent_mailer.teams.kept import changing
    from agent_mailer.teams.running import require_possible, where_now, where_possible
    from agent_mailer.teams.running import stop as stop_all

    one = found(name, team, directory)
    where = where_from(detach, systemd) or where_now(one.team.name, one.directory, one.places)
    where = where_possible(one.directory, where, terminal=sys.stdout.isatty())
    # What could not be started again is not stopped.
    require_startable(one, where)
    _require_watchable(one)
    with changing(one.directory, Disk()):
        require_possible(one.team.name, one.directory, one.places, where)
        if one.team.embedded:
            begin(one.directory)
    for line in stop_all(one.team.name, one.directory, one.places, hand_over=True):
        say(line)
    start_and_show(one, where, attach=False)


def _require_watchable(one: Found) -> None:
    """A watcher goes on with what it was begun with, where its configuration has a fault by now; a new one does not.

    Raises MailerError.
    """
    from agent_mailer.cli.watch.running import ready
    from agent_mailer.errors import said_of

    for name, place in one.places.items():
        try:
            ready(place)
        except MailerError as fault:
            told = f"{name}: {fault.message}", said_of(fault.fix, str(place.workdir))
            raise type(fault)(fault.code, *told) from None


@attach_app.command("attach", cls=FastCommand)
def attach(name: Name = "", team: Team_ = "", directory: Dir = None) -> None:
    """Show the team's tmux session in this terminal; Ctrl-B D leaves it, and the team goes on."""
    one = found(name, team, directory)
    if not sys.stdout.isatty():
        raise UsageFault("no_terminal", "attach needs a terminal", f"amp status {at(one.directory)}")
    _attach(one)


@rm_app.command("rm", cls=FastCommand)
def rm(
    name: Name = "",
    team: Team_ = "",
    directory: Dir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.", show_default=False)] = False,
) -> None:
    """Delete a stopped team's folder with its agents' state, notes and folder mail. The project and what is at a broker
    stay.
    """
    from agent_mailer.cli.team.own_broker import end
    from agent_mailer.disk import Disk
    from agent_mailer.setup.logins import find_login, forget_login
    from agent_mailer.teams.kept import changing
    from agent_mailer.teams.place import forget_last, lies_in
    from agent_mailer.teams.running import remove_services, watchers

    one = found(name, team, directory)
    if yes and not (name or team or directory):
        what = f"--yes asks nobody, and no team is named; here it would be {one.team.name}"
        raise UsageFault("which_team", what, f"amp rm {at(one.directory)} --yes")
    if running := watchers(one.places):
        raise BusyFault("team_runs", f"still watched: {', '.join(running)}", f"amp stop {at(one.directory)}")
    project = one.team.project
    if project is not None and lies_in(project, one.directory):
        fix = "move the project out, or delete what you want by hand"
        raise UsageFault("project_inside", f"the project {project} lies in {one.directory}", fix)
    mail = " and its mail" if one.team.keeps_mail else ""
    if not yes:
        if not sys.stdin.isatty():
            fix = f"amp rm {at(one.directory)} --yes"
            raise UsageFault("not_confirmed", f"this deletes {one.directory}{mail}", fix)
        typer.confirm(f"Delete {one.directory}: what its agents know{mail}?", abort=True)
    with changing(one.directory, Disk()):
        remove_services(one.places)
        if one.team.embedded:
            end(one.directory)
            with suppress(ConfigFault):
                forget_login(Path.home(), find_login(Path.home(), one.team.broker_url), Disk())
        Disk().remove_tree(one.directory)
    # Deleted it is in any case; a last one that is kept only makes the next command say less well what there is.
    with suppress(OSError):
        forget_last(one.directory, os.environ, Path.home(), Disk())
    say(f"deleted {one.directory}")
    if not one.team.keeps_mail:
        note(f"its agents and their mail are still at {one.team.root or one.team.broker_url}")


def require_startable(one: Found, where: Where) -> None:
    """Raises ConfigFault for a team whose folder was moved, UsageFault where nobody would start its broker anew,
    MailerError where an agent of it is not set up.
    """
    from agent_mailer.cli.team.own_broker import require_by_hand
    from agent_mailer.teams.making import require_set_up

    if (fault := moved(one.directory, one.team)) is not None:
        raise fault
    require_set_up(one.directory, one.team.members, one.places)
    if one.team.embedded:
        require_by_hand(where)


def start_and_show(one: Found, chosen: Where | None, *, attach: bool) -> None:
    """Start it, remember it as the last one, and show its session where it has one and somebody looks.

    Raises ConfigFault for one whose folder was moved, MailerError.
    """
    from agent_mailer.cli.team.own_broker import begin, ended_if_refused
    from agent_mailer.clock import SystemClock
    from agent_mailer.disk import Disk
    from agent_mailer.teams.kept import changing
    from agent_mailer.teams.place import remember_last
    from agent_mailer.teams.running import Where, where_now, where_possible
    from agent_mailer.teams.running import start as start_all
    from agent_mailer.teams.stopped import forget_stopped

    terminal = sys.stdout.isatty()
    with ended_if_refused(one.directory):
        where = where_possible(one.directory, chosen, terminal=terminal)
        require_startable(one, where)
        with changing(one.directory, Disk()):
            # Refused, it stays one that was stopped; what is tried and fails is missed.
            started = start_all(one.team.name, one.directory, one.places, where)
            forget_stopped(one.directory, Disk())
            if one.team.embedded:
                broker = begin(one.directory)
                say(f"its broker is at {broker.url} (pid {broker.pid})")
            for line in started:
                say(line)
    remember_last(one.team.name, one.directory, os.environ, Path.home(), Disk(), SystemClock().now())
    _tell_what_is_missing(one)
    # Where it ran already, not where this would have started it.
    where = where_now(one.team.name, one.directory, one.places) or where
    say(f"\n{one.team.name} runs ({where}). Give it a task: amp ask TASK")
    say("What it does: amp status --watch. To stop it: amp stop")
    if where is Where.TMUX and attach and terminal:
        _attach(one)


def _tell_what_is_missing(one: Found) -> None:
    """A watcher runs without its program, too, and waits for it; whoever starts the team is to know."""
    from agent_mailer.errors import said_of
    from agent_mailer.teams.plan import FILE
    from agent_mailer.views.pulse import program_here

    without: dict[tuple[str, str], list[str]] = {}
    for name, place in one.places.items():
        heard = program_here(place)
        if heard.missing:
            without.setdefault((heard.missing, heard.fix), []).append(name)
    for (what, fix), names in without.items():
        mend = said_of(fix, str(one.places[names[0]].workdir))
        for_all = f"; for all of them in {one.directory / FILE}, then: amp up {at(one.directory)}"
        note(f"warning: no turn of {', '.join(names)} can start: {what}\n  fix: {mend}{for_all if names[1:] else ''}")


def _attach(one: Found) -> None:
    from agent_mailer.process.commands import run_in_terminal
    from agent_mailer.teams.session import Session

    session = Session(one.team.name, one.directory)
    if not session.exists():
        raise MailerError("no_session", f"there is no tmux session {session.name}", f"amp start {at(one.directory)}")
    session.require_ours()
    raise typer.Exit(run_in_terminal(session.attach_words()))
