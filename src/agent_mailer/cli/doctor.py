"""`verify` and `doctor`: is this workdir ready to be watched, what around it can be wrong, and what mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.amounts import counted
from agent_mailer.cli.options import Json, Quiet, Workdir, workplace
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.progress import shown
from agent_mailer.cli.terminal.screen import Ink, pad, paint, width
from agent_mailer.cli.terminal.tables import READABLE, hanging
from agent_mailer.errors import ExitCode, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.checks import CheckResult
    from agent_mailer.checks.repair import RepairReport
    from agent_mailer.checks.verify import Report


app = single()


@app.command("doctor", cls=FastCommand)
def doctor(
    workdir: Workdir = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Repair damaged state instead, one line for each thing done. No watcher may run."
        ),
    ] = False,
    as_service: Annotated[
        bool,
        typer.Option(
            "--as-service", help="Check in the surroundings of the installed service: its PATH, its user manager."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also each check that is well.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check everything: what verify checks, the state, the machine, the mail tools, the agent program's own word.

    What is wrong comes first, with what was looked at and the command that fixes it; what is well is one line. Changes
    nothing without --repair; exits 1 if a check failed, or if --repair left something to you.
    """

    place = workplace(workdir)
    if as_service and repair:
        raise UsageFault("one_of_both", "--as-service and --repair are two commands", "give one of them")
    if repair:
        from agent_mailer.checks.repair import repair_workdir

        with shown("repairs the state", quiet=quiet or as_json) as tell:
            mended = repair_workdir(place, tell)
        _show_repaired(mended, as_json=as_json)
    elif as_service:
        from agent_mailer.service.install import examined_as_service

        with shown("asks in the service's surroundings", quiet=quiet or as_json):
            report = examined_as_service(place)
        show(report, as_json=as_json, brief=not verbose)
    else:
        from agent_mailer.checks.verify import examined

        with shown("looks at the configuration", quiet=quiet or as_json) as tell:
            report = examined(place, tell=tell)
        show(report, as_json=as_json, brief=not verbose)


def _show_repaired(report: RepairReport, *, as_json: bool) -> None:
    """Print what was done, and leave with the exit status."""
    if as_json:
        json_out(report)
    else:
        for done in report.repaired:
            say(f"repaired  {printable(done.path)}: {printable(done.text, 600)}")
        for open_ in report.left:
            say(f"left      {printable(open_.path)}: {printable(open_.text, 600)}")
            if open_.fix:
                say(f"          fix: {printable(open_.fix, 600)}")
        if not report.repaired and not report.left:
            say("nothing to repair")
    raise typer.Exit(ExitCode.OK if report.ok else ExitCode.FAILED)


verify_app = single()


@verify_app.command("verify", cls=FastCommand)
def verify(workdir: Workdir = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Check what a watcher needs: configuration, identity, mailbox, agent program. Starts nothing.

    Exits 0 if nothing failed, else as the first failure says: 78 configuration, 69 not to be had, 77 refused.
    """
    from agent_mailer.checks.verify import verified

    place = workplace(workdir)
    with shown("looks at the configuration", quiet=quiet or as_json) as tell:
        report = verified(place, tell)
    show(report, as_json=as_json)


def show(report: Report, *, as_json: bool, brief: bool = False) -> None:
    """Print what was found, and leave with its exit status.

    `brief`: of what is well one line, and what a turn may touch.
    """
    from agent_mailer.checks import Level

    if as_json:
        json_out(report)
        raise typer.Exit(report.exit_code)
    inks = {Level.OK: Ink.GREEN, Level.WARNING: Ink.YELLOW, Level.FAILED: Ink.RED}
    found = list(report.checks)
    if brief:
        order = [Level.FAILED, Level.WARNING]
        found = sorted((one for one in found if one.result in order), key=lambda one: order.index(one.result))
    told = [one for one in report.checks if brief and one.result is Level.OK and one.name.startswith("sandbox")]

    room = width()
    indent = 23 if room is None or room - 23 >= READABLE else 2

    def line(result: CheckResult) -> None:
        looked_at = printable(result.looked_at).removeprefix("[").removesuffix("]")
        seen = f"  [{looked_at}]" if result.looked_at not in result.text else ""
        level = pad(paint(result.result.value, inks[result.result]), 8)
        say(hanging(f"{level} {result.name:<13} ", f"{printable(result.text, 600)}{seen}"))
        if result.fix:
            say(f"{' ' * indent}fix: {printable(result.fix, 600)}")

    for result in found:
        line(result)
    well = [result.name for result in report.checks if result.result is Level.OK and result not in told]
    if brief and well:
        level = pad(paint(Level.OK.value, inks[Level.OK]), 8)
        say(hanging(f"{level} {f'{len(well)} checks':<13} ", f"{', '.join(dict.fromkeys(well))} (each: --verbose)"))
    for result in told:
        line(result)
    levels = [result.result for result in report.checks]
    bad, doubtful = levels.count(Level.FAILED), levels.count(Level.WARNING)
    warnings = f", {counted(doubtful, 'warning')}" if doubtful else ""
    say(f"\n{bad or 'nothing'} failed{warnings}")
    raise typer.Exit(report.exit_code)
