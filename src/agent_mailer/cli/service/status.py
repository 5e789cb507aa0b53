"""`service status`: is the service well?"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import ExitCode
from agent_mailer.service.manager import Problem, UnitState, UserManager, lingers, problems_of, user_name
from agent_mailer.service.unit import Instance


class ServiceReport(msgspec.Struct, frozen=True):
    """What `service status --json` prints of each service."""

    name: str
    unit: str
    workdir: str
    state: UnitState
    problems: tuple[Problem, ...]


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
            say(f"  fix: {problem.fix}")
    if not lasting:
        user = user_name(os.environ)
        note(f"Services of {user} end with the last session of {user}; to keep them: loginctl enable-linger {user}")
    return ExitCode.OK if healthy else ExitCode.FAILED


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
