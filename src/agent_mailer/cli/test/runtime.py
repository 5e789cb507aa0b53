"""`test-runtime`: one tiny real turn with the agent's settings, in a scratch folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, workplace
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import json_out, note, say, screen_text
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.checks.trial import TrialReport
    from agent_mailer.events import LogRecord

DEFAULT_SECONDS = 120
LONGEST_SECONDS = 86400

Keep = Annotated[bool, typer.Option("--keep", help="Leave the scratch folder where it is, to look around.")]
Timeout = Annotated[int, typer.Option("--timeout", help="Seconds the turn may take.")]

app = single()


@app.command("test-runtime", cls=LightCommand)
def runtime(
    workdir: Workdir = None, keep: Keep = False, timeout: Timeout = DEFAULT_SECONDS, as_json: Json = False
) -> None:
    """Have the agent program answer one mail, started just as a watcher starts it; say what is wrong if it does not.

    It works in a scratch folder with a mailbox of its own: the agent's mailbox and state are not touched. Exits 0 with
    an answer, 69 where the program or its service is not to be had, 77 where it is not logged in, else 1.
    """
    run_trial(workdir, {}, keep=keep, timeout=timeout, as_json=as_json)


def run_trial(workdir: Path | None, flags: Mapping[str, object], *, keep: bool, timeout: int, as_json: bool) -> None:
    """Run the trial turn and leave with its exit status."""
    from agent_mailer.checks.trial import try_turn

    if not 0 < timeout <= LONGEST_SECONDS:
        raise UsageFault("bad_timeout", f"--timeout {timeout}: give 1 to {LONGEST_SECONDS} seconds", "")
    listen = (lambda _: None) if as_json else _show
    found = try_turn(workplace(workdir, flags), timeout, listen, keep=keep)
    if found is None:
        note("stopped")
        raise typer.Exit(130)
    if as_json:
        json_out(found)
    else:
        _tell(found)
    raise typer.Exit(found.exit_code)


def _show(record: LogRecord) -> None:
    from agent_mailer.cli.terminal.event_lines import as_sentence
    from agent_mailer.events import EventName

    # What would follow for a message of the agent's own would be taken for news of the agent.
    if record.event not in (EventName.PAUSED, EventName.RETRY_SCHEDULED, EventName.DEAD_LETTER):
        say(as_sentence(record))


def _tell(found: TrialReport) -> None:
    from agent_mailer.checks.trial import WORD

    say()
    if not found.exit_code and found.answer is not None:
        say(f"{found.runtime} answered after {found.seconds:.1f} s:\n\n{screen_text(found.answer)}")
        if WORD not in found.answer.lower():
            say(f"\nIt was asked for the word {WORD}: perhaps it has not read the mail.")
    else:
        ended = (
            f"{found.runtime} ended as {found.outcome}" if found.outcome else f"{found.runtime} did not get to a turn"
        )
        say(f"{ended} after {found.seconds:.1f} s: {printable(found.detail, 600) or 'without a word'}")
        if found.answer:
            say(f"  it says: {printable(found.answer, 600)}")
        for line in found.stderr:
            say(f"  stderr: {line}")
        say(f"  mend: {found.fix}")
    if found.scratch:
        say(f"\nKept: {found.scratch}")
