"""`turns`: the runs of the agent, open and settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.choosing import pick
from agent_mailer.cli.light import LightCommand, group
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.printing import duration, json_out, local_time, note, say
from agent_mailer.cli.tables import columns
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.records import SettledItem, TurnRecord

app = group("turns", "The runs of the agent: one for each message, or more where one failed.")


@app.command("list", cls=LightCommand)
def list_turns(
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="How many of the newest.")] = 20,
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """List turns, the newest at the end."""
    if limit < 1:
        raise UsageFault("bad_value", "--limit is a number of turns, at least 1", "")
    place = configured(workdir)
    records = [record for turn_id in place.state.turns.ids()[-limit:] if (record := place.state.turns.load(turn_id))]
    if as_json:
        json_out({"turns": [_summary(place, record) for record in records]})
    elif not records:
        note("no turns yet")
    else:
        rows = [
            (
                record.turn_id,
                local_time(record.claimed_at),
                _state(place, record),
                duration(record.settlement.seconds) if record.settlement else "",
                printable(record.envelope.sender, 24),
                printable(record.envelope.id, 64),
            )
            for record in records
        ]
        say(columns(rows, ("turn", "claimed", "state", "took", "from", "message")))


@app.command("show", cls=LightCommand)
def show(
    turn_id: Annotated[str, typer.Argument(metavar="TURN", help="A turn's id, or as much of it as is unique.")],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Show one turn: how it ended, what left from it, where its files are, and what the agent said and did."""
    place = configured(workdir)
    chosen = pick(turn_id, place.state.turns.ids(), "turn", "agent-mailer turns list")
    record = place.state.turns.load(chosen)
    if record is None:
        raise MailerError("damaged", f"{place.state.turns.path(chosen) / 'turn.json'} cannot be read", "")
    shape = _whole(place, record)
    if as_json:
        json_out({"turn": shape})
        return
    for name, value in shape.items():
        if isinstance(value, list):
            for entry in value:
                say(f"{name:<12}  {printable(', '.join(f'{k} {v}' for k, v in entry.items() if v), 300)}")
        elif value is not None and value != "":
            say(f"{name:<12}  {printable(str(value), 300)}")
    say()
    empty = True
    for line in _replay(place, record):
        empty = False
        say(line)
    if empty:
        note("no output of this turn is kept")


def _replay(place: Workplace, record: TurnRecord) -> Iterator[str]:
    """With the adapter that ran the turn, if it is still the one that is configured; else as it was printed."""
    from agent_mailer.cli.transcript import raw, replay

    directory = place.state.turns.path(record.turn_id)
    try:
        runtime = place.runtime()
    except MailerError:
        return raw(directory)
    return replay(directory, runtime) if runtime.traits.name == record.runtime else raw(directory)


def _state(place: Workplace, record: TurnRecord) -> str:
    """The outcome of a settled turn, the phase of an open one."""
    if record.settlement is not None and place.state.turns.is_settled(record.turn_id):
        return record.settlement.outcome.value
    return record.phase.value


def _fate(place: Workplace, record: TurnRecord, entry: SettledItem) -> str:
    """What became of an item: a settled turn has delivered whatever was not refused, and need not have noted it."""
    from agent_mailer.state.records import ItemState

    if entry.state is ItemState.PENDING and place.state.turns.is_settled(record.turn_id):
        return ItemState.DELIVERED.value
    return entry.state.value


def _summary(place: Workplace, record: TurnRecord) -> dict[str, object]:
    settlement = record.settlement
    return {
        "turn_id": record.turn_id,
        "message_id": record.envelope.id,
        "thread": record.envelope.thread,
        "from": record.envelope.sender,
        "runtime": record.runtime,
        "attempt": record.attempt,
        "phase": record.phase.value,
        "settled": place.state.turns.is_settled(record.turn_id),
        "outcome": settlement.outcome.value if settlement else None,
        "detail": settlement.detail if settlement else None,
        "seconds": settlement.seconds if settlement else None,
        "claimed_at": record.claimed_at,
    }


def _whole(place: Workplace, record: TurnRecord) -> dict[str, object]:
    settlement = record.settlement
    return {
        **_summary(place, record),
        "resumed": record.resume,
        "pid": record.process.pid if record.process else None,
        "stopped": record.stopped.value if record.stopped else None,
        "session": settlement.session.entry.session_id if settlement and settlement.session else None,
        "question": settlement.question if settlement else None,
        "sent": [
            {"id": entry.item.id, "to": entry.item.recipient, "state": _fate(place, record, entry), "why": entry.why}
            for entry in (settlement.items if settlement else ())
        ],
        "folder": str(place.state.turns.path(record.turn_id)),
    }
