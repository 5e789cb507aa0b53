"""`runtime`: the agents that are described, what is known of each, and a try of one without an account."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import ConfigFault, ExitCode, MailerError, UsageFault

if TYPE_CHECKING:
    from agent_mailer.runtimes.acp.shelf import Known, Shelf

app = group("runtime", 'The agents that are described, for `runtime = "acp"`.')

_VERSION_SECONDS = 30.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `runtime list` names it.")]


class AgentView(msgspec.Struct, frozen=True):
    """`version` empty = it is not there, or does not tell; `problem` what is wrong with it here."""

    name: str
    title: str
    where: str
    version: str
    problem: str
    fix: str
    usage: str
    resumes: bool
    modes: tuple[str, ...]


@app.command("list", cls=FastCommand)
def list_(workdir: Workdir = None, as_json: Json = False) -> None:
    """List every agent that is described, and whether it is here."""
    shelf = _shelf(workdir)
    views = [_view_of_any(shelf, name) for name in shelf.names()]
    if as_json:
        json_out({"agents": views})
        return
    rows = [(view.name, view.title, view.version or view.problem, view.fix if view.problem else "") for view in views]
    say(columns(rows, ("name", "agent", "here", "what fixes it"), ids=(), whole=("name", "what fixes it")))
    note("\nagent-mailer init --runtime acp --agent NAME; agent-mailer runtime check NAME (without an account)")


@app.command("show", cls=FastCommand)
def show(name: Name, workdir: Workdir = None, as_json: Json = False) -> None:
    """Show how an agent is described, and what `runtime check` has found here."""
    shelf = _shelf(workdir)
    view, known = _view(shelf, name), shelf.find(name)
    measured = _measured(name)
    if as_json:
        json_out({"agent": view, "descriptor": known.descriptor, "measured": measured})
        return
    rows = [
        ("described in", view.where),
        ("started as", " ".join(known.descriptor.argv)),
        ("version here", view.version or f"{view.problem} ({view.fix})"),
        ("modes", ", ".join(view.modes)),
        ("mail", known.descriptor.mail.value),
        ("sessions", "taken up again" if view.resumes else "each turn begins a new one"),
        ("usage", view.usage),
    ]
    say(columns(rows, ("", ""), ids=(), whole=("",)))
    if measured:
        say(f"\n{measured}")
    else:
        note(f"\nnot tried here yet: agent-mailer runtime check {name}")


@app.command("check", cls=FastCommand)
def check(
    name: Name,
    patience: Annotated[
        int,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            help="For each turn; where the provider fails, and then is silent, for longer.",
        ),
    ] = 120,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Try an agent with a model server on this machine: no account, no key, a home folder of its own.

    It takes some minutes. What was found is kept in your configuration folder, for `runtime show`.
    """
    from agent_mailer.checks.agent_bench import Bench
    from agent_mailer.checks.agent_points import How, points

    shelf = _shelf(workdir)
    view, known = _view(shelf, name), shelf.find(name)
    if not known.descriptor.check.known:
        why = f"{known.where} does not say how {view.title} is pointed at a model server"
        raise UsageFault("no_check", why, "describe it there in [check]: docs/any-agent.md")
    if not view.version:
        raise MailerError("agent_missing", f"{view.title}: {view.problem}", view.fix)
    scratch = Path(tempfile.mkdtemp(prefix="agent-mailer-check-")).resolve()
    try:
        bench = Bench(known, scratch, _path(), float(patience))
        found = list(points(bench, known.descriptor, view.version, lambda what: note(f"{what} …")))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    signs = {How.GOOD: "ok", How.BAD: "NO", How.NOTED: "-"}
    table = columns(
        [(str(one.number), one.what, signs[one.how], one.found) for one in found],
        ("", "tried", "", "found"),
        ids=(),
        whole=("tried",),
    )
    if as_json:
        json_out({"agent": view, "points": found})
    else:
        say(table)
    _keep(name, f"{view.title} {view.version}, {time.strftime('%Y-%m-%d')}\n{table}\n")
    if any(one.how is How.BAD for one in found):
        raise typer.Exit(int(ExitCode.FAILED))


def _shelf(workdir: Path | None) -> Shelf:
    return workplace(workdir).shelf()


def _path() -> str:
    """As a turn has it: first this installation."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _view_of_any(shelf: Shelf, name: str) -> AgentView:
    """Also of one that is badly described: it hides no other."""
    try:
        return _view(shelf, name)
    except ConfigFault as fault:
        return AgentView(name, name, "", "", fault.message, fault.fix, "", resumes=False, modes=())


def _view(shelf: Shelf, name: str) -> AgentView:
    known = shelf.find(name)
    descriptor = known.descriptor
    version, problem, fix = _here(known)
    modes = tuple(mode for mode in descriptor.modes.__struct_fields__ if getattr(descriptor.modes, mode) is not None)
    return AgentView(
        name=name,
        title=descriptor.title or name,
        where=known.where,
        version=version,
        problem=problem,
        fix=fix,
        usage=descriptor.usage.value,
        resumes=descriptor.resume != "never",
        modes=modes,
    )


def _here(known: Known) -> tuple[str, str, str]:
    """Its own version, or what is wrong and what mends that. No model is asked."""
    from agent_mailer.process.commands import run_briefly
    from agent_mailer.runtimes.acp.adapter import AgentOptions, AgentRuntime
    from agent_mailer.runtimes.port import PermissionMode

    modes = known.descriptor.modes
    mode = next((mode for mode in PermissionMode if modes.of(mode) is not None), PermissionMode.PLAN)
    env = {"PATH": _path(), "HOME": os.environ.get("HOME", "")}
    try:
        runtime = AgentRuntime(known, AgentOptions(mode), env)
        told: list[str] = []
        for probe in runtime.probes(Path.cwd()):
            done = run_briefly(probe.argv, env=probe.env, cwd=probe.cwd, seconds=_VERSION_SECONDS)
            if done.status is None:
                words = shlex.join(probe.argv)
                return ", ".join(told), f"has not told its version in {_VERSION_SECONDS:.0f} seconds", words
            finding = runtime.read_probe(probe, done.status, done.output)
            if not finding.ok:
                return ", ".join(told), finding.text, finding.fix
            told.append(finding.text)
        return ", ".join(told), "", ""
    except MailerError as fault:
        return "", "not in PATH" if fault.code == "runtime_missing" else fault.message, fault.fix
    except OSError as error:
        return "", error.strerror or str(error), known.descriptor.install


def _measured_file(name: str) -> Path:
    from platformdirs import user_config_path

    return user_config_path("agent-mailer") / "measured" / f"{name}.txt"


def _measured(name: str) -> str:
    try:
        return _measured_file(name).read_text("utf-8", "replace").rstrip()
    except OSError:
        return ""


def _keep(name: str, text: str) -> None:
    """In the user's folder: what came with the package is not ours to write."""
    from agent_mailer.disk import Disk, Sync

    file = _measured_file(name)
    try:
        disk = Disk()
        disk.make_directory(file.parent)
        disk.replace(file, text.encode(), sync=Sync.NONE)
    except OSError as error:
        note(f"{file} cannot be written: {error.strerror}")
