"""`turns`: the runs of the agent, open and settled."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, group
from agent_mailer.cli.terminal.completion import OUTCOMES, any_of, some_thread, some_turn
from agent_mailer.cli.terminal.printing import json_out, local_time, note, say
from agent_mailer.cli.terminal.tables import columns, fields
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import one_of, pick, printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.records import TurnRecord

app = group("turns", "The runs of the agent: one for each message, or more where one failed.")


@app.command("list", cls=LightCommand)
def list_turns(
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="How many of the newest.")] = 20,
    thread: Annotated[
        str | None,
        typer.Option("--thread", metavar="THREAD", help="Only of this thread.", autocompletion=some_thread),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            "--outcome",
            metavar="OUTCOME",
            help="Only those that ended so: failed, timed_out …",
            autocompletion=any_of("done", "blocked", *OUTCOMES),
        ),
    ] = None,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """List turns, the newest at the end."""
    from agent_mailer.outcomes import Outcome
    from agent_mailer.views.turns import cost, painted, state_of, summary, took

    if limit < 1:
        raise UsageFault("bad_value", "--limit is a number of turns, at least 1", "")
    wanted = one_of(outcome, Outcome, "--outcome") if outcome is not None else None
    place = configured(workdir)
    if thread is not None:
        from agent_mailer.views.turns import find_thread

        thread = find_thread(place.state, thread)
    newest = (place.state.turns.load(turn_id) for turn_id in reversed(place.state.turns.ids()))
    matching = (
        record
        for record in newest
        if record is not None
        and (thread is None or record.envelope.thread == thread)
        and (wanted is None or (record.settlement is not None and record.settlement.outcome == wanted))
    )
    records = list(islice(matching, limit))[::-1]
    if as_json:
        json_out({"turns": [summary(place.state, record) for record in records]})
    elif not records:
        note("no such turns" if thread or wanted else "no turns yet")
    else:
        rows = [
            (
                record.turn_id,
                local_time(record.claimed_at),
                painted(state_of(place.state, record)),
                took(record),
                cost(record),
                printable(record.envelope.sender, 24),
                printable(record.envelope.thread, 64),
            )
            for record in records
        ]
        head = ("turn", "claimed", "state", "took", "cost", "from", "thread")
        say(columns(rows, head, ids=("turn",), whole=("claimed", "state", "took", "cost")))


@app.command("show", cls=LightCommand)
def show(
    turn_id: Annotated[
        str,
        typer.Argument(metavar="TURN", help="A turn's id, or as much of it as is unique.", autocompletion=some_turn),
    ],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show one turn: how it ended, what left from it, where its files are, and what the agent said and did."""
    place = configured(workdir)
    chosen = pick(turn_id, place.state.turns.ids(), "turn", "agent-mailer turns list")
    record = place.state.turns.load(chosen)
    if record is None:
        fix = "agent-mailer doctor --repair"
        raise MailerError("damaged", f"{place.state.turns.path(chosen) / 'turn.json'} cannot be read", fix)
    if as_json:
        json_out({"turn": _whole(place, record)})
        return
    say(fields(_facts(place, record)))
    say()
    empty = True
    for line in _replay(place, record):
        empty = False
        say(line)
    if empty:
        note("no output of this turn is kept")


@app.command("thread", cls=LightCommand)
def thread(
    name: Annotated[
        str,
        typer.Argument(
            metavar="THREAD",
            help="A thread, or a message in it: as much of the name as is unique.",
            autocompletion=some_thread,
        ),
    ],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Tell the story of a thread: its messages, the turns over them, how each ended, what it cost, what is open."""
    from agent_mailer.views.turns import find_thread, gather, story_json, story_lines

    place = configured(workdir)
    story = gather(place, find_thread(place.state, name))
    if as_json:
        json_out(story_json(place.state, story))
        return
    say(f"thread {printable(story.thread, 300)}\n")
    for line in story_lines(place.state, story):
        say(line)
    if story.problem:
        note(f"its messages cannot be listed: {printable(story.problem, 300)}")


def _replay(place: Workplace, record: TurnRecord) -> Iterator[str]:
    """With the adapter that ran the turn, if it is still the one that is configured; else as it was printed."""
    from agent_mailer.views.turns import raw, replay

    directory = place.state.turns.path(record.turn_id)
    try:
        runtime = place.runtime()
    except MailerError:
        return raw(directory)
    return replay(directory, runtime) if runtime.traits.name == record.runtime else raw(directory)


def _facts(place: Workplace, record: TurnRecord) -> Iterator[tuple[str, str]]:
    """Names and values for a terminal; those without a value are left out by who prints them."""
    from agent_mailer.views.turns import fate, painted, spent, state_of

    state, settlement, envelope = place.state, record.settlement, record.envelope
    yield "turn", record.turn_id
    yield "message", f"{printable(envelope.id, 128)} from {printable(envelope.sender, 80)}"
    yield "thread", printable(envelope.thread, 300)
    yield "outcome" if settlement else "phase", painted(state_of(state, record))
    yield "detail", printable(settlement.detail, 300) if settlement else ""
    yield "question", printable(settlement.question, 300) if settlement else ""
    yield "attempt", str(record.attempt) if record.attempt > 1 else ""
    yield "claimed", local_time(record.claimed_at)
    yield "spent", spent([record]).words.removeprefix("1 turn, ") if settlement else ""
    yield "stopped", record.stopped.value if record.stopped and settlement else ""
    yield "process", str(record.process.pid) if record.process and not settlement else ""
    yield "session", settlement.session.entry.session_id if settlement and settlement.session else record.resume or ""
    for entry in settlement.items if settlement else ():
        why = f": {entry.why}" if entry.why else ""
        yield "sent", printable(f"{entry.item.id} to {entry.item.recipient}, {fate(state, record, entry)}{why}", 300)
    yield "folder", str(state.turns.path(record.turn_id))


def _whole(place: Workplace, record: TurnRecord) -> dict[str, object]:
    from agent_mailer.views.turns import fate, summary

    state, settlement = place.state, record.settlement
    return {
        **summary(state, record),
        "resumed": record.resume,
        "pid": record.process.pid if record.process else None,
        "stopped": record.stopped.value if record.stopped else None,
        "session": settlement.session.entry.session_id if settlement and settlement.session else None,
        "question": settlement.question if settlement else None,
        "sent": [
            {
                "id": entry.item.id,
                "to": entry.item.recipient,
                "state": fate(state, record, entry),
                "why": entry.why,
            }
            for entry in (settlement.items if settlement else ())
        ],
        "folder": str(state.turns.path(record.turn_id)),
    }
