"""Installing an agent as a service: its programs found, checked in the service's surroundings, then put in place."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.checks import CheckResult, Level, failed, first_failure, ok
from agent_mailer.checks.agent import named_program, program_of
from agent_mailer.checks.verify import Report, examined
from agent_mailer.config import RuntimeKind
from agent_mailer.disk import Disk, read_regular
from agent_mailer.errors import BusyFault, ConfigFault, MailerError, UsageFault, quoted
from agent_mailer.names import printable
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.service.manager import UserManager, problems_of
from agent_mailer.service.unit import Instance, check_name, drop_in, name_for

SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_COMMAND = "agent-mailer"
_HASH_BANG = re.compile(rb"#!\s*(\S+)(?:[ \t]+(?:-S[ \t]+)?([A-Za-z0-9][A-Za-z0-9._+-]*))?")


def own_program(path: str) -> Path:
    """The command of this installation, by the name in `path` that outlives an upgrade where there is one.

    Raises ConfigFault where this installation has no command.
    """
    beside = Path(sys.executable).parent / _COMMAND
    found = shutil.which(_COMMAND, path=path)
    if found is not None and beside.exists() and Path(found).resolve() == beside.resolve():
        return Path(found).absolute()
    if os.access(beside, os.X_OK):
        return beside.absolute()
    raise ConfigFault("no_program", f"{beside} is not there", "reinstall agent-mailer")


def interpreter_of(program: Path, path: str) -> Path | None:
    """What runs the script `program`, where the script leaves it to PATH (`#!/usr/bin/env node`)."""
    try:
        match = _HASH_BANG.match(read_regular(program, 256, follow=True))
    except OSError:
        return None
    if match is None or not match[1].endswith(b"/env") or match[2] is None:
        return None
    found = shutil.which(match[2].decode("ascii"), path=path)
    return None if found is None else Path(found).absolute()


def needed_programs(agent: Path, path: str, *, node: bool) -> tuple[Path, ...]:
    """The agent program and what it runs on; `node`: it, or what it starts, may be written for node."""
    found = [agent]
    if (interpreter := interpreter_of(agent, path)) is not None:
        found.append(interpreter)
    if node and (program := shutil.which("node", path=path)) is not None:
        found.append(Path(program).absolute())
    return tuple(dict.fromkeys(found))


def search_path(programs: Sequence[Path], more: Sequence[Path] = ()) -> tuple[str, ...]:
    """The folders of `programs`, then `more`, then the system's. Raises ConfigFault for one that PATH cannot hold."""
    folders = tuple(dict.fromkeys([*(str(p.parent) for p in programs), *map(str, more), *SYSTEM_PATH]))
    for folder in folders:
        if ":" in folder:
            raise ConfigFault("bad_path", f"{folder} cannot be in PATH: it has a colon", "use another folder")
    return folders


class NotReady(MailerError):
    """What `verify` found in the service's surroundings; ends as `verify` would."""

    def __init__(self, check: CheckResult, exit_code: int) -> None:
        text = f"in the service's surroundings: {check.text}"
        super().__init__("not_ready", text, f"{check.fix}, then agent-mailer service install")
        self.exit_code = exit_code  # type: ignore[assignment]


def plan(
    place: Workplace, units: Units, *, name: str | None, more: Sequence[Path] | None, allow_sudo: bool | None
) -> Instance:
    """What is to be installed; None = as it is installed already.

    Raises MailerError where the workdir is not ready or the name is another's.
    """
    place.require_complete()
    place.folder.check()
    known = units.of(place.workdir)
    chosen = check_name(name) if name else known.name if known else name_for(place.config.agent_name or place.handle)
    other = units.named(chosen)
    if other is not None and other != known:
        raise UsageFault(
            "name_taken",
            f"the service {chosen} is that of {other.workdir}",
            "give another name: agent-mailer service install --name NAME",
        )
    if known is not None and known.name != chosen:
        raise UsageFault(
            "installed_already",
            f"{place.workdir} is installed as {known.name}",
            f"agent-mailer service uninstall {known.name}, then install it anew",
        )
    more = tuple(known.more if known else ()) if more is None else tuple(more)
    path = place.surroundings().get("PATH", os.defpath)
    program = own_program(path)
    agent = Path(named_program(program_of(place).launch))
    node = place.config.runtime in (RuntimeKind.CLAUDE, RuntimeKind.CODEX, RuntimeKind.ACP)
    needs = needed_programs(agent, path, node=node)
    # A program that was named by its path needs no PATH, and its folder may be one that the agent writes in.
    searched = needs if _found_by_name(place) else needs[1:]
    return Instance(
        name=chosen,
        workdir=place.workdir,
        program=program,
        path=search_path((program, *searched), more),
        needs=needs,
        more=more,
        allow_sudo=bool(known and known.allow_sudo) if allow_sudo is None else allow_sudo,
    )


def require_nobody_else(place: Workplace, manager: UserManager, instance: Instance) -> None:
    """Raises BusyFault where a watcher runs that is not the service's own: they cannot both."""
    from agent_mailer.state.lock import holder_of

    holder = holder_of(place.folder.path / ".lock")
    if holder is not None and holder.process.pid != manager.state(instance.unit).pid:
        raise _runs(holder.process.pid, place.workdir, "install")


def _runs(pid: int, workdir: Path, verb: str) -> BusyFault:
    return BusyFault("workdir_busy", f"a watcher (pid {pid}) runs in {workdir}", f"kill {pid}, then {verb} again")


def require_ready(manager: UserManager, units: Units, instance: Instance) -> Report:
    """What `verify` says in the service's surroundings. Raises NotReady where it fails, MailerError."""
    report = _ask_inside(manager, units, instance, drop_in(instance), "verify")
    if not report.ok:
        bad = next(check for check in report.checks if check.result is Level.FAILED)
        raise NotReady(bad, first_failure(report.checks))
    return report


def install(manager: UserManager, units: Units, instance: Instance, *, start: bool) -> Iterator[str]:
    """Check it, put it in place, enable it; yields a line for each step that is done.

    With `start` it is started, or started again: running turns are handed over. Raises MailerError, and then everything
    is as it was; what was only not to be started stays, and systemd tries it again.
    """
    report = require_ready(manager, units, instance)
    yield f"verified  in the service's surroundings: {len(report.checks)} checks"
    yield from put_in_place(manager, units, instance, start=start)


def put_in_place(manager: UserManager, units: Units, instance: Instance, *, start: bool) -> Iterator[str]:
    """What `require_ready` has found ready; as `install`."""
    lines, undo = units.write(instance)
    try:
        manager.reload()
        manager.do("enable", instance.unit)
    except BaseException:
        undo()
        with suppress(MailerError):
            manager.reload()
        raise
    yield from lines
    yield f"enabled   {instance.unit}"
    if start:
        manager.do("restart", instance.unit)
        yield f"started   {instance.unit}: {manager.state(instance.unit).text}"


def uninstall(manager: UserManager, units: Units, instances: Sequence[Instance]) -> Iterator[str]:
    """Stop them and take them out; yields a line for each step that is done. Raises MailerError, OSError."""
    manager.do("disable", "--now", *(instance.unit for instance in instances))
    for instance in instances:
        lines = units.remove(instance.name)
        yield f"stopped   {instance.unit}"
        yield from lines
    manager.reload()


def forget(units: Units, instances: Sequence[Instance]) -> Iterator[str]:
    """Take out their files where there is no systemd to stop them; yields a line for each.

    Raises OSError, and BusyFault where a watcher runs: one home may be that of several systems, and another's systemd
    have started it.
    """
    from agent_mailer.state.folder import STATE_DIRECTORY
    from agent_mailer.state.lock import holder_of

    for instance in instances:
        if (holder := holder_of(instance.workdir / STATE_DIRECTORY / ".lock")) is not None:
            raise _runs(holder.process.pid, instance.workdir, "uninstall")
    for instance in instances:
        yield from units.disable(instance.unit)
        yield from units.remove(instance.name)


def examined_as_service(place: Workplace) -> Report:
    """What `doctor` says in the surroundings of the workdir's service, and what is wrong with the service itself.

    Raises MailerError where the workdir is not installed, or nothing could be started.
    """
    units = Units(units_folder(os.environ), Disk())
    instance, manager = units.of(place.workdir), UserManager(os.environ)
    if instance is None:
        fix = f"agent-mailer service install -C {quoted(place.workdir)}"
        raise ConfigFault("not_installed", f"{place.workdir} is not installed as a service", fix)
    problems = problems_of(instance, manager.state(instance.unit))
    own = [failed("service", instance.unit, problem.text, problem.fix) for problem in problems]
    own = own or [ok("service", instance.unit, f"runs; PATH {':'.join(instance.path)}")]
    return examined(place, [*own, *_ask_inside(manager, units, instance, None, "doctor").checks])


def _ask_inside(manager: UserManager, units: Units, instance: Instance, own: str | None, verb: str) -> Report:
    """What `verify` or `doctor` says in the service's surroundings; `own` is the drop-in to be, None the one there is.

    Raises MailerError where it could not be asked.
    """
    texts = units.texts(instance.name, own)
    said = manager.run_once(texts, instance.name, instance.program, (verb, "--json"), Disk())
    try:
        return msgspec.json.decode(said, type=Report)
    except msgspec.DecodeError:
        with suppress(msgspec.DecodeError):
            error = msgspec.json.decode(said, type=_Refusal).error
            raise MailerError(error.code, f"in the service's surroundings: {error.message}", error.fix) from None
    words = printable(said.decode("utf-8", "replace").strip(), 300)
    raise MailerError("trial_failed", f"{verb} as a service said: {words}", "agent-mailer verify")


class _Error(msgspec.Struct):
    code: str
    message: str
    fix: str = ""


class _Refusal(msgspec.Struct):
    error: _Error


def shown_path(instance: Instance) -> str:
    """The folders of PATH beyond the system's, for people."""
    return ":".join(folder for folder in instance.path if folder not in SYSTEM_PATH) or "the system's folders alone"


def _found_by_name(place: Workplace) -> bool:
    config = place.config
    match config.runtime:
        case RuntimeKind.CLAUDE:
            word = config.claude_command
        case RuntimeKind.CODEX:
            word = config.codex_command
        case RuntimeKind.INFINITI:
            word = config.infiniti_command
        case RuntimeKind.ACP:
            word = place.shelf().find(config.agent).descriptor.argv[0]
        case _:
            word = config.command[0] if config.command else ""
    return "/" not in word
