"""The whole verification of a workdir, and of everything around it: which checks, and in which order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks import CheckResult, Level, first_failure, guarded, ok
from agent_mailer.checks.agent import check_runtime, program_of
from agent_mailer.checks.mailbox import mailbox_checks
from agent_mailer.checks.watched import check_watched
from agent_mailer.checks.workdir import check_approve, check_config, check_folder, check_identity, check_trust
from agent_mailer.errors import ExitCode, MailerError
from agent_mailer.progress import Step, Tell, untold

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


class Report(msgspec.Struct, frozen=True):
    """What `verify --json` and `doctor --json` print; `ok` means that nothing failed, warnings allowed."""

    workdir: str
    ok: bool
    exit_code: int
    checks: tuple[CheckResult, ...]


def verified(place: Workplace, tell: Tell = untold) -> Report:
    """What a watcher needs; ends as its first failure says."""
    results = verify_checks(place, tell)
    return _report(place, results, first_failure(results))


def examined(place: Workplace, results: Sequence[CheckResult] | None = None, tell: Tell = untold) -> Report:
    """Everything, or the `results` of somebody who has looked; ends with 1 if a check failed."""
    results = doctor_checks(place, tell) if results is None else results
    return _report(place, results, ExitCode.FAILED if first_failure(results) else ExitCode.OK)


def _report(place: Workplace, results: Sequence[CheckResult], exit_code: int) -> Report:
    bad = any(result.result is Level.FAILED for result in results)
    return Report(str(place.workdir), not bad, exit_code, tuple(results))


def verify_checks(place: Workplace, tell: Tell = untold) -> list[CheckResult]:
    """What a watcher needs, as far as it can be looked at, in the order in which one needs the other."""
    results = [check_folder(place.folder)]
    loads = _loads(place)
    if loads:
        # What cannot be read is neither trusted nor not.
        results.append(check_trust(place.folder.config, place.trust, lambda: place.loaded))
    results.append(check_config(place.folder.config, lambda: place.loaded, place.absent))
    if not loads:
        return results
    config = place.config
    values = {"agent_id": config.agent_id, "address": place.handle, "agent_name": config.agent_name}
    results.append(check_identity(place.workdir, values))
    results += check_approve(config)
    if config.reserves:
        results.append(_check_reserve(place))
    if place.handle or config.broker_url:
        tell(Step("looks at the mailbox"))
        results += mailbox_checks(place)
    if config.runtime is not None:
        tell(Step(f"looks for {config.runtime.value}"))
        results.append(check_runtime(config.runtime.value, lambda: program_of(place)))
    return results


def doctor_checks(place: Workplace, tell: Tell = untold) -> list[CheckResult]:
    """As `verify_checks`; then the state, the machine, the mail tools, and the agent program's own word."""
    results = verify_checks(place, tell)
    if os.path.isdir(place.folder.path):  # noqa: PTH112 - a folder that may not be entered is no error here
        tell(Step("looks at the state"))
        results += _state_checks(place)
    if _loads(place):
        if results[0].result is Level.OK:
            results.append(check_watched(place))
        tell(Step("looks at the machine"))
        results += _place_checks(place)
        results += _agent_checks(place, tell)
    return results


def _check_reserve(place: Workplace) -> CheckResult:
    """Whether its paths can be reserved where its mail is; nothing is."""
    from agent_mailer.at_server import project_of, reserving_of

    def look() -> CheckResult:
        reserving_of(place, place.handle)
        named = ", ".join(place.config.reserve) or "what the agent asks for"
        return ok("reserve", place.folder.config, f"reserved before a turn, in {project_of(place)}: {named}")

    return guarded("reserve", place.folder.config, look)


def _loads(place: Workplace) -> bool:
    """Whether there is a configuration to look at."""
    try:
        return bool(place.loaded)
    except MailerError:
        return False


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
    from agent_mailer.checks.git import check_git
    from agent_mailer.checks.limits import check_limits
    from agent_mailer.checks.machine import check_commands, check_disk, check_file_events, check_turn_end
    from agent_mailer.checks.workdir import check_agent_md, check_notify, check_templates

    state = next((path for path in (place.folder.path, place.workdir) if os.access(path, os.R_OK)), place.workdir)
    root = _maildir_root(place)
    kept = [place.folder.path, *([root] if root is not None else [])]
    return [
        *check_disk([state, *kept, Path(tempfile.gettempdir())]),
        *check_limits(place.config.max_parallel_turns),
        check_commands(os.environ.get("PATH", os.defpath)),
        check_file_events(state),
        check_turn_end(place.config.turn_memory),
        *check_templates(place.folder.templates),
        check_agent_md(place.workdir, place.config.api_key),
        *check_notify(place.config.notify, place.notify_program),
        *check_git(place.workdir, place.folders_in_git(), place.config.git),
    ]


def _agent_checks(place: Workplace, tell: Tell) -> list[CheckResult]:
    """Only where the program is found: `verify` says so where it is not."""
    from agent_mailer.checks.agent import check_environment, check_probes, check_tools, no_scratch
    from agent_mailer.checks.machine import check_turn_memory
    from agent_mailer.checks.sandbox import check_sandbox, within_of
    from agent_mailer.checks.state import check_sessions

    passed = check_environment(place.config.env.pass_, place.config.env.set, os.environ)
    try:
        program = program_of(place)
        runtime = place.runtime()
    except (MailerError, OSError):
        return [passed]
    tell(Step("asks the agent program"))
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
    tell(Step("tries every door of the sandbox"))
    results += check_sandbox(place, runtime, program.launch)
    if (size := place.config.turn_memory) != "":
        results.append(check_turn_memory(size, place.policy().turn_memory, program.launch.env))
    tell(Step("tries the mail tools"))
    try:
        with tempfile.TemporaryDirectory(prefix="agent-mailer-check-") as scratch:
            launch = program.launch
            within, empty = within_of(place, runtime), Path(scratch).resolve()
            results += check_tools(launch.env, launch.cwd, place.tools, empty, place.clock.now(), within)
    except OSError as error:
        results.append(no_scratch(tempfile.gettempdir(), error))
    return results


def _maildir_root(place: Workplace) -> Path | None:
    try:
        return place.maildir_root() if place.in_folder else None
    except MailerError:
        return None
