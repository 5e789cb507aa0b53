"""`service status`, and `doctor --as-service`: is the service well, and would it be in its own surroundings?"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.checks.result import CheckResult, Level, failed, ok
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.cli.verify import Report, report
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, ExitCode
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.service.install import vanished
from agent_mailer.service.manager import UnitState, UserManager, lingers, user_name
from agent_mailer.service.unit import Instance

_HOPELESS = {
    ExitCode.REFUSED.value: "credentials are refused",
    ExitCode.CONFIG.value: "configuration, permissions or identity are wrong",
}
"""Ends after which systemd does not start it again."""


class Problem(msgspec.Struct, frozen=True):
    text: str
    fix: str


class ServiceReport(msgspec.Struct, frozen=True):
    """What `service status --json` prints of each service."""

    name: str
    unit: str
    workdir: str
    state: UnitState
    problems: tuple[Problem, ...]


def problems_of(instance: Instance, state: UnitState) -> tuple[Problem, ...]:
    """What keeps the service from its work, or will at its next start."""
    found = []
    if not instance.workdir.is_dir():
        found.append(Problem(f"{instance.workdir} has vanished", f"agent-mailer service uninstall {instance.name}"))
    again = f"agent-mailer service install -C {instance.workdir}"
    found += [Problem(f"{path} has vanished", again) for path in vanished((instance.program, *instance.needs))]
    begin = f"agent-mailer service start {instance.name}"
    if state.sub.startswith("auto-restart"):
        text = f"not running: exit status {state.exit_status}, {state.restarts} times; it is started again and again"
        found.append(Problem(text, f"agent-mailer service logs {instance.name}"))
    elif state.active == "failed" and (meaning := _HOPELESS.get(state.exit_status)) is not None:
        text = f"not running: exit status {state.exit_status}: {meaning}"
        found.append(Problem(text, f"agent-mailer verify -C {instance.workdir}, then {begin}"))
    elif state.active not in ("active", "activating", "reloading"):
        found.append(Problem(f"not running: {state.active}{f', {state.result}' if _odd(state) else ''}", begin))
    return tuple(found)


def _odd(state: UnitState) -> bool:
    return state.result not in ("", "success")


def show(manager: UserManager, instances: Sequence[Instance], *, as_json: bool) -> int:
    """Print what there is; returns the exit status."""
    reports = []
    for instance in instances:
        state = manager.state(instance.unit)
        problems = problems_of(instance, state)
        reports.append(ServiceReport(instance.name, instance.unit, str(instance.workdir), state, problems))
    lasting = lingers(os.environ)
    healthy = not any(known.problems for known in reports)
    if as_json:
        json_out({"healthy": healthy, "lingering": lasting, "services": reports})
        return ExitCode.OK if healthy else ExitCode.FAILED
    if len(reports) == 1:
        _show_one(reports[0])
    else:
        rows = [(r.name, _shown(r.state), r.state.text or "-", r.workdir) for r in reports]
        say(columns(rows, ("name", "state", "doing", "workdir")))
    for known in reports:
        for problem in known.problems:
            say(f"{known.name}: {problem.text}")
            say(f"  mend: {problem.fix}")
    if not lasting:
        user = user_name(os.environ)
        note(f"Services of {user} end with the last session of {user}; to keep them: loginctl enable-linger {user}")
    return ExitCode.OK if healthy else ExitCode.FAILED


def check_as_service(place: Workplace, *, as_json: bool) -> int:
    """Run `doctor` in the service's surroundings and print what it says; returns the exit status.

    Raises MailerError where the workdir is not installed, or nothing could be started.
    """
    from agent_mailer.service.install import try_out

    units = Units(units_folder(os.environ), Disk())
    instance = units.of(place.workdir)
    if instance is None:
        fix = f"agent-mailer service install -C {place.workdir}"
        raise ConfigFault("not_installed", f"{place.workdir} is not installed as a service", fix)
    manager = UserManager(os.environ)
    own = [_as_check(instance, problem) for problem in problems_of(instance, manager.state(instance.unit))]
    if not own:
        own = [ok("service", instance.unit, f"runs; PATH {':'.join(instance.path)}")]
    found: Report = try_out(manager, units, instance, None, "doctor")
    results = [*own, *found.checks]
    bad = any(result.result is Level.FAILED for result in results)
    return report(place, results, ExitCode.FAILED if bad else ExitCode.OK, as_json=as_json)


def _as_check(instance: Instance, problem: Problem) -> CheckResult:
    return failed("service", instance.unit, problem.text, problem.fix)


def _show_one(known: ServiceReport) -> None:
    state = known.state
    say(
        fields(
            [
                ("service", f"{known.unit}, {state.enabled or 'not enabled'}"),
                ("workdir", known.workdir),
                ("state", f"{_shown(state)}{f' since {state.since}' if state.since else ''}"),
                ("doing", state.text if state.active == "active" else ""),
                ("pid", str(state.pid) if state.pid else ""),
                ("restarts", str(state.restarts) if state.restarts else ""),
            ]
        )
    )


def _shown(state: UnitState) -> str:
    return f"{state.active} ({state.sub})"
