"""What an earlier watcher left open: each turn folder is adopted, judged, finished or given back. Idempotent (I7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from operator import attrgetter

import msgspec

from agent_mailer.beneath import is_there
from agent_mailer.disk import of_the_moment
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MAX_WAITING, Envelope, Mailbox, Progress, Stage
from agent_mailer.outcomes import StopReason
from agent_mailer.process.holder import adopt
from agent_mailer.process.tree import sweep
from agent_mailer.state import State
from agent_mailer.state.records import Phase, RetryEntry, TurnRecord
from agent_mailer.state.turns import envelopes_of, ids_of
from agent_mailer.watch.judging import ended_by_a_stop
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
    at_work = {message_id for work in room.work.values() for message_id in work.message_ids}
    found: list[TurnRecord] = []
    for turn_id in room.state.turns.open_ids():
        if turn_id in room.work:
            continue
        record = room.state.turns.load(turn_id)
        if record is None:
            await salvage(room.state, turn_id)
        elif record.resends or ids_of(record).isdisjoint(at_work):
            found.append(record)
    if not room.stopping.is_set() and room.state.turns.stop_was_cut_off():
        for record in found:
            _excuse(room, record)
        room.state.turns.stop_is_over()
    work = [OpenWork(record, _finisher(room, record)) for record in found]
    room.state.requests.tidy()
    return work


def _excuse(room: Room, record: TurnRecord) -> None:
    """Its watcher was ended while it stopped. What ended with it was stopped too; what runs on is judged as ever."""
    if record.phase is not Phase.RUNNING or record.process is None or record.stopped is not None:
        return
    supervised = adopt(record.process, room.state.turns.path(record.turn_id), record.turn_id)
    if not supervised.running and ended_by_a_stop(supervised.exit()):
        record.stopped = StopReason.SHUTDOWN
        room.state.turns.save(record)


def _finisher(room: Room, record: TurnRecord) -> Task:
    if record.settlement is not None:
        return lambda: _carry_out(room, record)
    if record.phase is Phase.RUNNING and record.process is not None:
        supervised = adopt(record.process, room.state.turns.path(record.turn_id), record.turn_id)
        running = supervised.running
        room.log.emit(
            EventName.TURN_ADOPTED,
            turn_id=record.turn_id,
            message_id=record.envelope.id,
            thread=record.envelope.thread,
            running=running,
        )
        if running:
            for envelope in envelopes_of(record):
                room.mailbox.report(envelope, Progress(record.turn_id, Stage.ADOPTED))
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
    if record.settlement is None or record.resends or not mailbox.capabilities.keeps_claimed:
        return False
    settled = (
        (record.envelope, record.settlement),
        *((other.envelope, other.settlement) for other in record.batch if other.settlement is not None),
    )
    # What is neither gave a claim back that may have failed.
    claimed = [envelope for envelope, settlement in settled if settlement.finished or settlement.items]
    doubtful = {envelope.id for envelope in claimed if await mailbox.settled(envelope) is None}
    if not doubtful:
        return False
    listing = await mailbox.pending(MAX_WAITING)
    return not doubtful.isdisjoint(map(attrgetter("id"), listing.envelopes))


async def _return_claim(room: Room, record: TurnRecord) -> None:
    """Claimed, but the gate was never opened: nothing ran, the message is pending as before."""
    await sweep(record.turn_id)
    await give_back(room, record)


async def salvage(state: State, turn_id: str) -> tuple[Envelope, ...]:
    """End what runs of an open turn whose record is damaged, and keep its messages pending; which, as far as known.

    Raises OSError where the disk does not let us look.
    """
    await sweep(turn_id)
    envelopes = _envelopes_of(state, turn_id)
    for envelope in envelopes:
        if envelope.id not in state.processed:
            known = state.retries.get(envelope.id) or RetryEntry(envelope)
            state.retries.put(msgspec.structs.replace(known, starts=known.starts + 1), force=True)
    _put_away(state, turn_id, envelopes[0] if envelopes else None, "the turn's record cannot be read")
    return envelopes


def _put_away(state: State, turn_id: str, envelope: Envelope | None, why: str) -> None:
    path = state.turns.path(turn_id) / "turn.json"
    if is_there(path):
        state.folder.set_aside(path, why)
    state.log.emit(EventName.TURN_DROPPED, turn_id=turn_id, message_id=envelope.id if envelope else None)
    state.turns.mark_settled(turn_id, durable=True)


def _envelopes_of(state: State, turn_id: str) -> tuple[Envelope, ...]:
    """What its folder or the index tells. Raises OSError where neither can be read just now: that is no answer."""
    try:
        return tuple(message.envelope for message in state.turns.folder(turn_id).messages())
    except MailerError:
        pass
    except OSError as error:
        if of_the_moment(error):
            raise
    return next((turn.envelopes for turn in state.turns.indexed() if turn.turn_id == turn_id), ())
