"""What an earlier watcher left open: each turn folder is adopted, judged, finished or given back. Idempotent (I7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from agent_mailer.disk import of_the_moment
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import StopReason
from agent_mailer.process.holder import adopt
from agent_mailer.process.tree import sweep
from agent_mailer.state import State
from agent_mailer.state.records import Phase, RetryEntry, TurnRecord
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
        return lambda: carry_out(room, record, again=True)
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


async def _return_claim(room: Room, record: TurnRecord) -> None:
    """Claimed, but the gate was never opened: nothing ran, the message is pending as before."""
    await sweep(record.turn_id)
    await give_back(room, record)


async def salvage(state: State, turn_id: str) -> Envelope | None:
    """End what runs of an open turn whose record is damaged, and keep its message pending; which, where that is known.

    Raises OSError where the disk does not let us look.
    """
    path = state.turns.path(turn_id) / "turn.json"
    await sweep(turn_id)
    envelope = _envelope_of(state, turn_id)
    if envelope is not None and envelope.id not in state.processed:
        known = state.retries.get(envelope.id) or RetryEntry(envelope)
        state.retries.put(msgspec.structs.replace(known, starts=known.starts + 1), force=True)
    if path.exists():
        state.folder.set_aside(path, "the turn's record cannot be read")
    state.log.emit(EventName.TURN_DROPPED, turn_id=turn_id, message_id=envelope.id if envelope else None)
    state.turns.mark_settled(turn_id, durable=True)
    return envelope


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
