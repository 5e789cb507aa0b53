"""`verify`: is this workdir ready to be watched? Starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import typer

from agent_mailer.checks.result import CheckResult
from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.screen import Ink, pad, paint
from agent_mailer.cli.terminal.tables import hanging
from agent_mailer.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_mailer.assemble import Workplace
    from agent_mailer.checks.agent import Program
    from agent_mailer.checks.mailbox import FolderMailbox


class Report(msgspec.Struct, frozen=True):
    """What `verify --json` and `doctor --json` print; `ok` means that nothing failed, warnings allowed."""

    workdir: str
    ok: bool
    exit_code: int
    checks: tuple[CheckResult, ...]


app = single()


@app.command("verify", cls=LightCommand)
def verify(workdir: Workdir = None, as_json: Json = False) -> None:
    """Check what a watcher needs: configuration, identity, mailbox, agent program. Starts nothing.

    Exits 0 if nothing failed, else as the first failure says: 78 configuration, 69 not to be had, 77 refused.
    """
    from agent_mailer.checks.result import first_failure

    place = workplace(workdir)
    results = verify_checks(place)
    raise typer.Exit(report(place, results, first_failure(results), as_json=as_json))


def verify_checks(place: Workplace) -> list[CheckResult]:
    """Whatever can be looked at, in the order in which one needs the other."""
    from agent_mailer.checks.agent import check_runtime
    from agent_mailer.checks.workdir import check_config, check_folder, check_identity

    results = [
        check_folder(place.folder),
        check_config(place.folder.config, lambda: place.loaded, place.missing),
    ]
    if not loads(place):
        return results
    config = place.config
    values = {"agent_id": config.agent_id, "address": place.handle, "agent_name": config.agent_name}
    results.append(check_identity(place.workdir, values))
    if place.handle or config.broker_url:
        results += _mailbox_checks(place)
    if config.runtime is not None:
        results.append(check_runtime(config.runtime.value, lambda: program_of(place)))
    return results


def loads(place: Workplace) -> bool:
    """Whether there is a configuration to look at."""
    from agent_mailer.errors import MailerError

    try:
        return bool(place.loaded)
    except MailerError:
        return False


def program_of(place: Workplace) -> Program:
    """The agent program as a turn of this workdir would start it. Raises RuntimeMissing or ConfigFault."""
    from agent_mailer.checks.agent import SCRATCH_TURN, find_program

    turn_dir = place.folder.turns / SCRATCH_TURN
    return find_program(place.runtime(), place.workdir, place.project_dir(), place.tools, turn_dir)


def report(place: Workplace, results: Sequence[CheckResult], exit_code: int, *, as_json: bool) -> int:
    """Print what was found; returns `exit_code`."""
    from agent_mailer.checks.result import Level

    bad = sum(result.result is Level.FAILED for result in results)
    doubtful = sum(result.result is Level.WARNING for result in results)
    if as_json:
        json_out(Report(str(place.workdir), not bad, exit_code, tuple(results)))
        return exit_code
    inks = {Level.OK: Ink.GREEN, Level.WARNING: Ink.YELLOW, Level.FAILED: Ink.RED}
    for result in results:
        seen = f"  [{printable(result.looked_at)}]" if result.looked_at not in result.text else ""
        level = pad(paint(result.result.value, inks[result.result]), 8)
        say(hanging(f"{level} {result.name:<13} ", f"{printable(result.text, 600)}{seen}"))
        if result.fix:
            say(f"{'':<8} {'':<13} mend: {printable(result.fix, 600)}")
    warnings = f", {doubtful} warning{'' if doubtful == 1 else 's'}" if doubtful else ""
    say(f"\n{bad or 'nothing'} failed{warnings}")
    return exit_code


def _mailbox_checks(place: Workplace) -> list[CheckResult]:
    from agent_mailer.checks.mailbox import check_mailbox
    from agent_mailer.config import MailboxKind
    from agent_mailer.state.lock import holder_of

    config = place.config
    if config.mailbox_kind is MailboxKind.AMP:
        if not (config.broker_url and config.api_key and config.agent_id):
            return []  # the configuration's check names them
        from agent_mailer.checks.broker import check_broker, see_broker
        from agent_mailer.names import shown_url

        return check_broker(shown_url(config.broker_url), config.address, lambda: see_broker(place))
    holder = holder_of(place.folder.path / ".lock")
    pid = holder.process.pid if holder else None
    return check_mailbox(place.handle, lambda: _folder_mailbox(place), pid, place.clock.now())


def _folder_mailbox(place: Workplace) -> FolderMailbox:
    """Raises ConfigFault where there is no such mailbox."""
    from agent_mailer.checks.mailbox import FolderMailbox
    from agent_mailer.errors import ConfigFault
    from agent_mailer.mailbox.maildir import layout

    root, handle = place.maildir_root(), place.handle
    layout.check_handle(handle)
    layout.require_root(root)
    paths = layout.Paths(root, handle)
    if not layout.known(root, handle):
        fix = f"agent-mailer init --maildir-root {root} --address {handle}"
        raise ConfigFault("no_mailbox", f"{root} has no mailbox for {handle!r}", fix)
    return FolderMailbox(
        root, handle, paths.home, tuple(layout.check_mailbox(root, handle)), paths.lock, paths.pid_file
    )
