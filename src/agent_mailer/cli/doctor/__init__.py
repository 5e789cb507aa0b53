"""`doctor`: everything around an agent that can be wrong, looked at one by one; with `--repair`, mended."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.errors import UsageFault

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.checks.result import CheckResult

app = single()


@app.command("doctor", cls=LightCommand)
def doctor(
    workdir: Workdir = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend damaged state instead, one line for each thing done. No watcher may run."),
    ] = False,
    as_service: Annotated[
        bool,
        typer.Option(
            "--as-service", help="Check in the surroundings of the installed service: its PATH, its user manager."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check everything: what verify checks, the state, the machine, the mail tools, the agent program's own word.

    Each line names what was looked at, and the command that mends it. Changes nothing without --repair; exits 1 if a
    check failed, or if --repair left something to you.
    """
    from agent_mailer.checks.result import Level
    from agent_mailer.cli.verify import report
    from agent_mailer.errors import ExitCode

    place = workplace(workdir)
    if as_service and repair:
        raise UsageFault("one_of_both", "--as-service and --repair are two commands", "give one of them")
    if as_service:
        from agent_mailer.cli.service.status import check_as_service

        raise typer.Exit(check_as_service(place, as_json=as_json))
    if repair:
        from agent_mailer.cli.doctor.mend import repair as mend
        from agent_mailer.cli.doctor.mend import show

        raise typer.Exit(show(mend(place), as_json=as_json))
    results = doctor_checks(place)
    bad = any(result.result is Level.FAILED for result in results)
    raise typer.Exit(report(place, results, ExitCode.FAILED if bad else ExitCode.OK, as_json=as_json))


def doctor_checks(place: Workplace) -> list[CheckResult]:
    from agent_mailer.cli.verify import loads, verify_checks

    results = verify_checks(place)
    if os.path.isdir(place.folder.path):  # noqa: PTH112 - a folder that may not be entered is no error here
        results += _state_checks(place)
    if loads(place):
        results += _place_checks(place) + _agent_checks(place)
    return results


def _state_checks(place: Workplace) -> list[CheckResult]:
    from agent_mailer import __version__
    from agent_mailer.checks.machine import check_lock
    from agent_mailer.checks.state import (
        check_clock,
        check_format,
        check_pause,
        check_permissions,
        check_state_files,
    )

    folder, state = place.folder, place.state
    return [
        check_permissions(folder),
        check_format(folder),
        *check_state_files(state),
        check_clock(state, place.clock.now()),
        check_pause(state),
        check_lock(folder.path / ".lock", __version__),
    ]


def _place_checks(place: Workplace) -> list[CheckResult]:
    from agent_mailer.checks.machine import check_disk, check_file_events
    from agent_mailer.checks.workdir import check_agent_md, check_git, check_templates

    state = next((path for path in (place.folder.path, place.workdir) if os.access(path, os.R_OK)), place.workdir)
    root = _maildir_root(place)
    kept = [place.folder.path, *([root] if root is not None else [])]
    return [
        *check_disk([state, *kept, Path(tempfile.gettempdir())]),
        check_file_events(state),
        *check_templates(place.folder.templates),
        check_agent_md(place.workdir, place.config.api_key),
        *check_git(place.workdir, kept),
    ]


def _agent_checks(place: Workplace) -> list[CheckResult]:
    """Only where the program is found: `verify` says so where it is not."""
    from agent_mailer.checks.agent import check_environment, check_probes, check_tools, no_scratch
    from agent_mailer.checks.machine import check_turn_memory
    from agent_mailer.checks.state import check_sessions
    from agent_mailer.cli.verify import program_of
    from agent_mailer.errors import MailerError

    passed = check_environment(place.config.env.pass_, place.config.env.set, os.environ)
    try:
        program = program_of(place)
        runtime = place.runtime()
    except (MailerError, OSError):
        return [passed]
    results = [
        passed,
        *check_probes(runtime, program),
        check_sessions(
            place.folder.path / "sessions.json",
            lambda: dict(place.state.sessions.all()),
            runtime,
            place.policy(),
            place.clock.now(),
        ),
    ]
    if (size := place.config.turn_memory) != "":
        results.append(check_turn_memory(size, place.policy().turn_memory, program.launch.env))
    try:
        with tempfile.TemporaryDirectory(prefix="agent-mailer-check-") as scratch:
            results += check_tools(program.launch.env, place.tools, Path(scratch).resolve(), place.clock.now())
    except OSError as error:
        results.append(no_scratch(tempfile.gettempdir(), error))
    return results


def _maildir_root(place: Workplace) -> Path | None:
    from agent_mailer.config import MailboxKind
    from agent_mailer.errors import MailerError

    try:
        return place.maildir_root() if place.config.mailbox_kind is MailboxKind.MAILDIR else None
    except MailerError:
        return None
