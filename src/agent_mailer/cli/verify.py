"""`verify`: is this workdir ready to be watched? Starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.screen import Ink, pad, paint
from agent_mailer.cli.terminal.tables import hanging
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.checks.verify import Report

app = single()


@app.command("verify", cls=LightCommand)
def verify(workdir: Workdir = None, as_json: Json = False) -> None:
    """Check what a watcher needs: configuration, identity, mailbox, agent program. Starts nothing.

    Exits 0 if nothing failed, else as the first failure says: 78 configuration, 69 not to be had, 77 refused.
    """
    from agent_mailer.checks.verify import verified

    show(verified(workplace(workdir)), as_json=as_json)


def show(report: Report, *, as_json: bool) -> None:
    """Print what was found, and leave with its exit status."""
    from agent_mailer.checks import Level

    if as_json:
        json_out(report)
        raise typer.Exit(report.exit_code)
    inks = {Level.OK: Ink.GREEN, Level.WARNING: Ink.YELLOW, Level.FAILED: Ink.RED}
    for result in report.checks:
        seen = f"  [{printable(result.looked_at)}]" if result.looked_at not in result.text else ""
        level = pad(paint(result.result.value, inks[result.result]), 8)
        say(hanging(f"{level} {result.name:<13} ", f"{printable(result.text, 600)}{seen}"))
        if result.fix:
            say(f"{'':<8} {'':<13} mend: {printable(result.fix, 600)}")
    levels = [result.result for result in report.checks]
    bad, doubtful = levels.count(Level.FAILED), levels.count(Level.WARNING)
    warnings = f", {doubtful} warning{'' if doubtful == 1 else 's'}" if doubtful else ""
    say(f"\n{bad or 'nothing'} failed{warnings}")
    raise typer.Exit(report.exit_code)
