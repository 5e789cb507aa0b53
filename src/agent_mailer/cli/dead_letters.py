"""`dead-letter`: messages that were given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import OUTCOMES, any_of, some_dead_letter
from agent_mailer.cli.options import Json, Limit, Workdir, configured, newest_of
from agent_mailer.cli.stuck import ask_for, require_choice, tell_letter
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, local_iso, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import MailerError
from agent_mailer.names import pick, printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.state.requests import Verb

app = group("dead-letter", "Messages that were given up: look, have them tried again, forget them.")

LIST = "agent-mailer dead-letter list"

Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID]...", help="Messages' ids, or as much of each as is unique.", autocompletion=some_dead_letter
    ),
]
Every = Annotated[bool, typer.Option("--all", help="Every one.")]
Reason = Annotated[
    str | None,
    typer.Option(
        "--reason",
        metavar="OUTCOME",
        help="Only those whose last turn ended so: failed, timed_out, crashed …",
        autocompletion=any_of(*OUTCOMES),
    ),
]


@app.command("list", cls=FastCommand)
def list_letters(reason: Reason = None, limit: Limit = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """List what was given up and why, the newest at the end."""
    from agent_mailer.views.kept import dead_letters

    state, newest = configured(workdir).state, newest_of(limit, as_json=as_json)
    letters = list(dead_letters(state, reason, newest + 1 if newest else 0).values())
    left = newest and len(letters) > newest
    letters = letters[1:] if left else letters
    if as_json:
        json_out({"dead_letters": letters})
    elif not letters:
        note("no such dead letters" if reason else "no dead letters")
    else:
        rows = [
            (
                printable(letter.message_id, 64),
                printable(letter.sender or "", 24),
                local_iso(letter.stuck_at),
                letter.outcome or "",
                printable(letter.last_error, 100),
            )
            for letter in letters
        ]
        head = ("message", "from", "given up at", "outcome", "last error")
        say(columns(rows, head, endings=("message",), whole=("given up at", "outcome")))
        if left:
            note("\nand more, which are older: --limit 0")
        note("\nlook:       agent-mailer dead-letter show ID\ntry again:  agent-mailer dead-letter retry ID")


@app.command("show", cls=FastCommand)
def show(
    message_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A message's id, or as much of it as is unique.", autocompletion=some_dead_letter
        ),
    ],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: who sent it, every attempt and how it ended."""
    from agent_mailer.views.kept import dead_letters

    letters = dead_letters(configured(workdir).state)
    letter = letters[pick(message_id, letters, "dead letter", LIST)]
    if as_json:
        json_out({"dead_letter": letter})
        return
    tell_letter(letter)
    note(f"once more: agent-mailer dead-letter retry {printable(letter.message_id, 128)}")


@app.command("retry", cls=FastCommand)
def retry(ids: Ids = None, every: Every = False, reason: Reason = None, workdir: Workdir = None) -> None:
    """Have messages tried again from the beginning."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.STUCK_RETRY, ids, reason, workdir, every=every)


@app.command("purge", cls=FastCommand)
def purge(ids: Ids = None, every: Every = False, reason: Reason = None, workdir: Workdir = None) -> None:
    """Forget dead letters; the messages stay in the mailbox, settled."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.STUCK_DROP, ids, reason, workdir, every=every)


def _ask(verb: Verb, ids: list[str] | None, outcome: str | None, workdir: Path | None, *, every: bool) -> None:
    """As `stuck` does, among what was given up."""
    from agent_mailer.state.stuck import StuckKind
    from agent_mailer.views.kept import dead_letters

    place = configured(workdir)
    require_choice(ids, outcome, every=every, listing=LIST)
    known = dead_letters(place.state, outcome) if ids or outcome is not None else {}
    if outcome is not None and not known:
        raise MailerError("unknown", f"no dead letter ended as {outcome}", LIST)
    chosen = [pick(typed, known, "dead letter", LIST) for typed in ids] if ids else list(known)
    kind = StuckKind.GIVEN_UP
    ask_for(place, verb, [f"{kind} {message_id}" for message_id in chosen], kind)
