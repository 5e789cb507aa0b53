"""`service`: the agent as a systemd user service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Quiet, Workdir, workplace
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import note, say, tell_error, told_when_done
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.errors import ConfigFault, ExitCode, MailerError, UnavailableFault, UsageFault, quoted

if TYPE_CHECKING:
    from agent_mailer.service.folder import Units
    from agent_mailer.service.manager import UnitState
    from agent_mailer.service.unit import Instance

app = group("service", "Run the agent as a systemd user service.")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Services by name. Default: that of the workdir.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="All services of this user.")]


@app.command("install", cls=FastCommand)
def install(
    workdir: Workdir = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The service's name. Default: the agent's.", show_default=False)
    ] = None,
    path: Annotated[
        list[Path] | None,
        typer.Option("--path", metavar="FOLDER", help="One more folder for the agent's PATH.", show_default=False),
    ] = None,
    allow_sudo: Annotated[
        bool | None,
        typer.Option(
            "--allow-sudo/--no-allow-sudo",
            help="Whether turns may use sudo, rootless containers and the like. Default: no.",
            show_default=False,
        ),
    ] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Install and enable it, and start nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Install this workdir's agent, and start it; again, to repair or change what is installed.

    The programs it needs are found as your shell finds them, and `verify` is run in the service's own surroundings
    before anything is put in place. What was installed with --name, --path and --allow-sudo stays until it is given
    otherwise.
    """
    from agent_mailer.service import install as service_install
    from agent_mailer.service.manager import UserManager

    manager = UserManager(os.environ)
    place, units = workplace(workdir), _units()
    more = [folder.expanduser().absolute() for folder in path] if path else None
    instance = service_install.plan(place, units, name=name, more=more, allow_sudo=allow_sudo)
    if not no_start:
        service_install.require_nobody_else(place, manager, instance)
    with told_when_done() as done, shown("installs the service", quiet=quiet):
        done.append(f"found     {', '.join(map(str, (instance.program, *instance.needs)))}")
        done.append(f"PATH      {service_install.shown_path(instance)}, then the system's")
        for line in service_install.install(manager, units, instance, start=not no_start):
            done.append(line)
    if place.config.env.pass_:
        named = ", ".join(place.config.env.pass_)
        note(
            f"[env] pass names {named}: a service has not your shell's variables; see agent-mailer doctor --as-service"
        )
    _tell_lingering()


@app.command("gone", cls=FastCommand)
def gone(workdir: Workdir = None) -> None:
    """Tell the operator that no watcher runs any more. systemd calls it, where the service has failed for good."""
    import asyncio

    from agent_mailer.assemble import workdir_at
    from agent_mailer.service.gone import tell_gone

    for line in asyncio.run(tell_gone(workdir_at(workdir), os.environ)):
        say(line)


@app.command("uninstall", cls=FastCommand)
def uninstall(names: Names = None, workdir: Workdir = None, every: All = False) -> None:
    """Stop services and remove them; the workdir and its mail stay. Running turns get their grace, as with `stop`."""
    from agent_mailer.service.install import forget
    from agent_mailer.service.install import uninstall as take_out
    from agent_mailer.service.manager import UserManager, booted

    units = _units()
    if not (installed := units.all()) and every and not names:
        say("no services here: nothing to uninstall")
        return
    try:
        manager = UserManager(os.environ)
    except UnavailableFault:
        if booted() or not installed:
            raise
        manager = None
    chosen = _chosen(units, names, workdir, every=every)
    with told_when_done() as done:
        done += forget(units, chosen) if manager is None else take_out(manager, units, chosen)


@app.command("start", cls=FastCommand)
def start(names: Names = None, workdir: Workdir = None, every: All = False) -> None:
    """Start services; returns once each has its workdir's lock and state."""
    _do("start", names, workdir, every=every)


@app.command("stop", cls=FastCommand)
def stop(names: Names = None, workdir: Workdir = None, every: All = False) -> None:
    """Stop services: running turns get `stop_grace` seconds, then they are interrupted and run again later."""
    _do("stop", names, workdir, every=every)


@app.command("restart", cls=FastCommand)
def restart(names: Names = None, workdir: Workdir = None, every: All = False) -> None:
    """Start services anew, as after an upgrade: running turns go on and are adopted."""
    _do("restart", names, workdir, every=every)


@app.command("status", cls=FastCommand)
def status(names: Names = None, workdir: Workdir = None, every: All = False, as_json: Json = False) -> None:
    """What systemd says of services, and what has vanished since they were installed; exits 1 if one is not well."""
    from agent_mailer.cli.service.status import show
    from agent_mailer.service.manager import UserManager

    units = _units()
    raise typer.Exit(show(UserManager(os.environ), _chosen(units, names, workdir, every=every), as_json=as_json))


@app.command("logs", cls=FastCommand)
def logs(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Default: that of the workdir.", show_default=False)
    ] = None,
    workdir: Workdir = None,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
) -> None:
    """What the service has written to the journal: starts and ends, and the watcher's events as JSON lines."""
    from agent_mailer.process.commands import run_in_terminal
    from agent_mailer.process.environment import find_tool
    from agent_mailer.service.manager import UserManager

    try:
        [instance] = _chosen(_units(), [name] if name else None, workdir, every=False)
    except ConfigFault:
        UserManager(os.environ)  # where nothing can be installed that comes first
        raise
    journalctl = find_tool("journalctl", [instance.workdir])
    if journalctl is None:
        raise ConfigFault(
            "no_journal", "this system has no journal", f"agent-mailer logs -C {quoted(instance.workdir)} --tail {tail}"
        )
    words = [journalctl, f"--user-unit={instance.unit}", f"--lines={tail}", *(["--follow"] if follow else [])]
    raise typer.Exit(run_in_terminal(words, [instance.workdir]))


def _do(verb: str, names: list[str] | None, workdir: Path | None, *, every: bool) -> None:
    """All at once: forty agents do not wait for one another's turns, and one that refuses holds up no other."""
    from agent_mailer.service.manager import UserManager

    units = _units()
    manager = UserManager(os.environ)
    chosen = _chosen(units, names, workdir, every=every)
    fault: MailerError | None = None
    try:
        manager.do(verb, *(instance.unit for instance in chosen))
    except UnavailableFault:
        raise
    except MailerError as refused:
        fault = refused
    told = False
    for instance in chosen:
        state = manager.state(instance.unit)
        why = _why_not(instance, state) if fault is not None and verb != "stop" else None
        if why is None:
            say(f"{instance.name}: {state.active} ({state.sub}){f': {state.text}' if state.text else ''}")
        elif len(chosen) == 1:
            raise why
        else:
            tell_error(why.message, why.fix)
            told = True
    if told:
        raise typer.Exit(ExitCode.FAILED)
    if fault is not None:
        raise fault


def _why_not(instance: Instance, state: UnitState) -> MailerError | None:
    """What is wrong with a service that did not start, as far as we know."""
    from agent_mailer.service.manager import problems_of

    known = next(iter(problems_of(instance, state)), None)
    return None if known is None else MailerError("not_started", f"{instance.name}: {known.text}", known.fix)


def _units() -> Units:
    from agent_mailer.disk import Disk
    from agent_mailer.service.folder import Units, units_folder

    return Units(units_folder(os.environ), Disk())


def _chosen(units: Units, names: list[str] | None, workdir: Path | None, *, every: bool) -> list[Instance]:
    """The services meant. Raises MailerError where one is not installed."""
    if every:
        if names:
            raise UsageFault("names_and_all", "give names, or --all", "agent-mailer service status --all")
        found = units.all()
        if not found:
            raise ConfigFault("not_installed", "no agent of this user is installed as a service", _INSTALL)
        return found
    if not names:
        from agent_mailer.assemble import workdir_at

        folder = workdir_at(workdir)
        instance = units.of(folder)
        if instance is None:
            raise ConfigFault(
                "not_installed", f"{folder} is not installed as a service", f"{_INSTALL} -C {quoted(folder)}"
            )
        return [instance]
    chosen = []
    for name in names:
        instance = units.named(name.removeprefix("agent-mailer@").removesuffix(".service"))
        if instance is None:
            known = ", ".join(known.name for known in units.all()) or "none"
            raise UsageFault("no_service", f"there is no service {name} (there are: {known})", _INSTALL)
        chosen.append(instance)
    return chosen


_INSTALL = "agent-mailer service install"


def _tell_lingering() -> None:
    from agent_mailer.service.manager import lingers, user_name

    if not lingers(os.environ):
        note(
            "It runs while you are logged in, and ends with your last session. To have it run from the machine's start "
            f"on: loginctl enable-linger {user_name(os.environ)}"
        )
