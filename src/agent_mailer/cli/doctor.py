"""`doctor`: everything around an agent that can be wrong, looked at one by one; with `--repair`, mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.errors import ExitCode, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.checks.repair import RepairReport

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
    from agent_mailer.cli.verify import show

    place = workplace(workdir)
    if as_service and repair:
        raise UsageFault("one_of_both", "--as-service and --repair are two commands", "give one of them")
    if repair:
        from agent_mailer.checks.repair import repair_workdir

        _show_repaired(repair_workdir(place), as_json=as_json)
    elif as_service:
        from agent_mailer.service.install import examined_as_service

        show(examined_as_service(place), as_json=as_json)
    else:
        from agent_mailer.checks.verify import examined

        show(examined(place), as_json=as_json)


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
                say(f"          mend: {printable(open_.fix, 600)}")
        if not report.repaired and not report.left:
            say("nothing to repair")
    raise typer.Exit(ExitCode.OK if report.ok else ExitCode.FAILED)
