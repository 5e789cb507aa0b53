"""`dead-letter`: messages that were given up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import OUTCOMES, any_of, some_dead_letter
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import in_its_colour, json_out, local_iso, local_time, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import pick, printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.state.requests import Verb
    from agent_mailer.views.values.history import DeadLetterView

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
def list_letters(reason: Reason = None, workdir: Workdir = None, as_json: Json = False) -> None:
    """List what was given up and why, the newest at the end."""
    from agent_mailer.views.kept import dead_letters

    letters = dead_letters(configured(workdir).state, reason).values()
    if as_json:
        json_out({"dead_letters": list(letters)})
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
        say(columns(rows, head, ids=("message",), whole=("given up at", "outcome")))
        note("\nlook: agent-mailer dead-letter show ID; have it tried again: agent-mailer dead-letter retry ID")


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
    say(fields(_facts(letter)))
    if letter.history:
        rows = [
            (local_time(attempt.at), attempt.turn_id, attempt.outcome, printable(attempt.detail, 200))
            for attempt in letter.history
        ]
        head = ("ended", "turn", "outcome", "detail")
        say("\n" + columns(rows, head, ids=("turn",), whole=("ended", "outcome")))
    name = printable(letter.message_id, 128)
    note(f"\nits text: agent-mailer fetch {name}")
    if letter.turn_id:
        note(f"what the agent did: agent-mailer turns show {printable(letter.turn_id, 64)}")
    note(f"once more: agent-mailer dead-letter retry {name}")


@app.command("retry", cls=FastCommand)
def retry(ids: Ids = None, every: Every = False, reason: Reason = None, workdir: Workdir = None) -> None:
    """Have messages tried again from the beginning."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.DEAD_LETTER_RETRY, ids, reason, workdir, every=every)


@app.command("purge", cls=FastCommand)
def purge(ids: Ids = None, every: Every = False, reason: Reason = None, workdir: Workdir = None) -> None:
    """Forget dead letters; the messages stay in the mailbox, settled."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.DEAD_LETTER_PURGE, ids, reason, workdir, every=every)


def _ask(verb: Verb, ids: list[str] | None, reason: str | None, workdir: Path | None, *, every: bool) -> None:
    from agent_mailer.cli.requests import ask_and_tell
    from agent_mailer.state.requests import Request
    from agent_mailer.views.kept import dead_letters

    place = configured(workdir)
    if bool(ids) == every:
        raise UsageFault("which", "name messages, or give --all", LIST)
    if reason is not None and ids:
        raise UsageFault("which", "--reason chooses among all: it goes with --all", f"{LIST} --reason {reason}")
    known = dead_letters(place.state, reason) if ids or reason is not None else {}
    if reason is not None and not known:
        raise MailerError("unknown", f"no dead letter ended as {reason}", LIST)
    chosen = tuple(pick(typed, known, "dead letter", LIST) for typed in ids) if ids else tuple(known)
    ask_and_tell(place, Request(verb, chosen))


def _facts(letter: DeadLetterView) -> Iterator[tuple[str, str]]:
    yield "message", printable(letter.message_id, 128)
    yield "from", printable(letter.sender or "", 80)
    yield "thread", printable(letter.thread, 300)
    yield "sent", local_iso(letter.created) if letter.created else ""
    yield "given up", local_iso(letter.stuck_at)
    yield "outcome", in_its_colour(letter.outcome or "")
    yield "last error", printable(letter.last_error, 600)
    yield "attempts", str(len(letter.history) or letter.retries or "")
