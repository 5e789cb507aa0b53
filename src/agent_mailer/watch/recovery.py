"""What an earlier watcher left open: each turn folder is adopted, judged, finished or given back. Idempotent (I7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from operator import attrgetter

import msgspec

from agent_mailer.beneath import is_there
from agent_mailer.disk import of_the_moment
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MAX_WAITING, Envelope, Mailbox
from agent_mailer.process.holder import adopt
from agent_mailer.process.tree import sweep
from agent_mailer.state import State
from agent_mailer.state.records import Phase, RetryEntry, TurnRecord
from agent_mailer.watch.room import Room
from agent_mailer.watch.turn import adopt_turn, carry_out, give_back

Task = Callable[[], Awaitable[object]]


class OpenWork:
    """One open turn and how to bring it to its end. Its thread is busy until then."""

    def __init__(self, record: TurnRecord, finish: Task) -> None:
        self.record = record
        self.finish = finish


async def recover(room: Room) -> list[OpenWork]:
    """The open turns that nobody sees through, oldest first. One whose record is damaged becomes a retry.

    Other turns of a message that we have in work wait. Raises OSError where the disk does not let us look.
    """
    at_work = {work.envelope.id for work in room.work.values()}
    restore_retries(room.state)
    found: list[TurnRecord] = []
    for turn_id in room.state.turns.open_ids():
        if turn_id in room.work:
            continue
        record = room.state.turns.load(turn_id)
        if record is None:
            await salvage(room.state, turn_id)
        elif record.resends or record.envelope.id not in at_work:
            found.append(record)
    work = [OpenWork(record, _finisher(room, record)) for record in found]
    room.state.requests.tidy()
    return work


def _finisher(room: Room, record: TurnRecord) -> Task:
    if record.settlement is not None:
        return lambda: _carry_out(room, record)
    if record.phase is Phase.RUNNING and record.process is not None:
        supervised = adopt(record.process, room.state.turns.path(record.turn_id), record.turn_id)
        room.log.emit(
            EventName.TURN_ADOPTED,
            turn_id=record.turn_id,
            message_id=record.envelope.id,
            thread=record.envelope.thread,
            running=supervised.running,
        )
        return lambda: adopt_turn(room, record, supervised)
    return lambda: _return_claim(room, record)


async def _carry_out(room: Room, record: TurnRecord) -> None:
    """A settlement of a message that nobody has ever taken was written by no watcher: it counts for nothing."""
    if not await _was_never_taken(room.mailbox, record):
        await carry_out(room, record, again=True)
        return
    await sweep(record.turn_id)
    _put_away(room.state, record.turn_id, record.envelope, "it settles a message that waits still")


async def _was_never_taken(mailbox: Mailbox, record: TurnRecord) -> bool:
    settlement = record.settlement
    if settlement is None or record.resends or not mailbox.capabilities.keeps_claimed:
        return False
    # What is neither gave a claim back that may have failed.
    if not settlement.finished and not settlement.items:
        return False
    if await mailbox.settled(record.envelope) is not None:
        return False
    listing = await mailbox.pending(MAX_WAITING)
    return record.envelope.id in map(attrgetter("id"), listing.envelopes)


async def _return_claim(room: Room, record: TurnRecord) -> None:
    """Claimed, but the gate was never opened: nothing ran, the message is pending as before."""
    await sweep(record.turn_id)
    await give_back(room, record)


async def salvage(state: State, turn_id: str) -> Envelope | None:
    """End what runs of an open turn whose record is damaged, and keep its message pending; which, where that is known.

    Raises OSError where the disk does not let us look.
    """
    await sweep(turn_id)
    envelope = _envelope_of(state, turn_id)
    if envelope is not None and envelope.id not in state.processed:
        known = state.retries.get(envelope.id) or RetryEntry(envelope)
        state.retries.put(msgspec.structs.replace(known, starts=known.starts + 1), force=True)
    _put_away(state, turn_id, envelope, "the turn's record cannot be read")
    return envelope


def _put_away(state: State, turn_id: str, envelope: Envelope | None, why: str) -> None:
    path = state.turns.path(turn_id) / "turn.json"
    if is_there(path):
        state.folder.set_aside(path, why)
    state.log.emit(EventName.TURN_DROPPED, turn_id=turn_id, message_id=envelope.id if envelope else None)
    state.turns.mark_settled(turn_id, durable=True)


def _envelope_of(state: State, turn_id: str) -> Envelope | None:
    """What its folder or the index tells. Raises OSError where neither can be read just now: that is no answer."""
    try:
        return state.turns.folder(turn_id).message().envelope
    except MailerError:
        pass
    except OSError as error:
        if of_the_moment(error):
            raise
    return next((turn.envelope for turn in state.turns.indexed() if turn.turn_id == turn_id), None)


def restore_retries(state: State) -> None:
    """Read retries.json now: a damaged one is made anew from the turn folders before anything is added to it."""
    len(state.retries)
