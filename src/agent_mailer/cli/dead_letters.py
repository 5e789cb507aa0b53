"""`dead-letter`: messages that were given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.choosing import pick
from agent_mailer.cli.light import LightCommand, group
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.printing import json_out, note, say
from agent_mailer.cli.tables import columns
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.state.records import DeadLetter
    from agent_mailer.state.requests import Verb

app = group("dead-letter", "Messages that were given up: look, have them tried again, forget them.")

LIST = "agent-mailer dead-letter list"

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Messages' ids, or as much of each as is unique.")
]
Every = Annotated[bool, typer.Option("--all", help="Every one.")]


@app.command("list", cls=LightCommand)
def list_letters(workdir: Workdir = None, as_json: Json = False) -> None:
    """List what was given up and why, the newest at the end."""
    letters = configured(workdir).state.dead_letters.all()
    if as_json:
        json_out({"dead_letters": [_as_json(letter) for letter in letters]})
    elif not letters:
        note("no dead letters")
    else:
        rows = [
            (
                printable(letter.msg_id, 64),
                printable(letter.envelope.sender, 24) if letter.envelope else "",
                printable(letter.stuck_at, 24),
                letter.outcome.value if letter.outcome else "",
                printable(letter.last_error, 100),
            )
            for letter in letters
        ]
        say(columns(rows, ("message", "from", "given up at", "outcome", "last error")))


@app.command("retry", cls=LightCommand)
def retry(ids: Ids = None, every: Every = False, workdir: Workdir = None) -> None:
    """Have messages tried again from the beginning."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.DEAD_LETTER_RETRY, ids, workdir, every=every)


@app.command("purge", cls=LightCommand)
def purge(ids: Ids = None, every: Every = False, workdir: Workdir = None) -> None:
    """Forget dead letters; the messages stay in the mailbox, settled."""
    from agent_mailer.state.requests import Verb

    _ask(Verb.DEAD_LETTER_PURGE, ids, workdir, every=every)


def _ask(verb: Verb, ids: list[str] | None, workdir: Path | None, *, every: bool) -> None:
    from agent_mailer.cli.asking import ask_and_tell
    from agent_mailer.state.requests import Request

    place = configured(workdir)
    if bool(ids) == every:
        raise UsageFault("which", "name messages, or give --all", LIST)
    known = [letter.msg_id for letter in place.state.dead_letters.all()] if ids else []
    chosen = tuple(pick(typed, known, "dead letter", LIST) for typed in ids or ())
    ask_and_tell(place, Request(verb, chosen))


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "message_id": letter.msg_id,
        "thread": letter.thread_id,
        "from": letter.envelope.sender if letter.envelope else None,
        "retries": letter.retries,
        "outcome": letter.outcome.value if letter.outcome else None,
        "last_error": letter.last_error,
        "stuck_at": letter.stuck_at,
        "turn_id": letter.turn_id,
        "history": [
            {"turn_id": attempt.turn_id, "outcome": attempt.outcome.value, "detail": attempt.detail, "at": attempt.at}
            for attempt in letter.history
        ],
    }
