"""Applying a settlement record, once its mail has left. Every step is idempotent; nothing is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Progress, Stage
from agent_mailer.reservations.touched import as_line
from agent_mailer.state.records import UNSENT, Batched, Settlement, TurnRecord
from agent_mailer.state.turns import began_at, shares
from agent_mailer.watch import asking
from agent_mailer.watch.room import Room
from agent_mailer.watch.unsent import take_over_resent

MOST_NAMED = 10


async def settle(room: Room, record: TurnRecord, *, again: bool) -> None:
    """`again`: an earlier watcher may have applied some of it."""
    settlement, turn_id, state = record.settlement, record.turn_id, room.state
    assert settlement is not None
    if record.resends:
        await room.until_disk_takes_it(turn_id, take_over_resent, state, record)
        return
    await room.until_disk_takes_it(turn_id, _apply_files, room, record, settlement, again)
    finished = True
    each: tuple[TurnRecord | Batched, ...] = (record, *record.batch)
    for one in each:
        finished = await _settle_message(room, turn_id, one) and finished
    if finished:
        # While the turn is still open: nobody comes back to a settled one whose mail a crash has left in it.
        strip = partial(state.retention.strip_message, record, room.policy.keep_transcripts)
        if not strip():
            await room.in_portions(strip)
    await room.until_disk_takes_it(turn_id, state.turns.mark_settled, turn_id)
    if finished:
        with suppress(OSError):
            state.retention.summarise(record)
    elif record.process is None:
        # Nothing ran: the mail is where it was, and nobody looks for a copy here.
        with suppress(OSError):
            state.retention.strip(turn_id, room.policy.keep_transcripts)
    room.log.emit(EventName.TURN_SETTLED, turn_id=turn_id, outcome=settlement.outcome.value, seconds=settlement.seconds)


async def _settle_message(room: Room, turn_id: str, one: TurnRecord | Batched) -> bool:
    """Whether it is finished, and now counts so."""
    settlement, envelope = one.settlement, one.envelope
    assert settlement is not None
    ending = _ending(turn_id, settlement)
    if not settlement.finished:
        room.mailbox.report(envelope, ending)
        return False
    await room.until_mailbox_takes_it(turn_id, lambda: room.mailbox.done(envelope, ending))
    await room.until_disk_takes_it(turn_id, room.state.retention.finish_message, envelope.id)
    room.log.emit(EventName.MESSAGE_DONE, turn_id=turn_id, message_id=envelope.id, thread=envelope.thread)
    return True


def _ending(turn_id: str, settlement: Settlement) -> Progress:
    detail = settlement.question or settlement.detail
    return Progress(turn_id, Stage.SETTLED, settlement.outcome.value, detail, settlement.finished)


def _apply_files(room: Room, record: TurnRecord, settlement: Settlement, again: bool) -> None:  # noqa: FBT001
    state = room.state
    if record.process is not None:
        moment, seconds = settlement.decided_at, settlement.seconds
        state.usage.add(record.turn_id, moment, seconds, settlement.usage)
    change = settlement.session
    if change is not None and state.sessions.put(change.thread, change.entry):
        turn_id, session = record.turn_id, change.entry.session_id
        if session:
            room.log.emit(EventName.SESSION_BOUND, turn_id=turn_id, thread=change.thread, session=session)
        else:
            room.log.emit(EventName.SESSION_DROPPED, turn_id=turn_id, thread=change.thread)
    if settlement.touched and not (again and room.log.has_of(EventName.RESERVATION_TOUCHED, record.turn_id)):
        room.log.emit(
            EventName.RESERVATION_TOUCHED,
            turn_id=record.turn_id,
            thread=record.envelope.thread,
            file=" ".join(one.path for one in settlement.touched[:MOST_NAMED]),
            why=as_line(settlement.touched),
        )
    ended_well = settlement.outcome.settles
    state.notes.write(record, settlement.notes if ended_well else (), fixed=room.policy.global_note_fixed)
    if not ended_well:
        state.notes.keep(record, settlement.notes)
    if not settlement.finished or settlement.dead is not None:
        _apply_to_message(room, record.turn_id, record, again)
    for other in record.batch:
        _apply_to_message(room, record.turn_id, other, again)
    if settlement.asked or (record.rerun is not None and record.rerun.asked):
        asking.apply(state, record, settlement)
    if not UNSENT.isdisjoint(map(attrgetter("state"), settlement.items)):
        state.unsent.note(record)
    each = shares(record) if record.batch else (record,)
    state.questions.settled(_asking(each) if record.batch else record)
    if not again:
        # A pause of an earlier life may be over; the next turn finds out.
        state.pause.settled(settlement, began_at(record))
    if room.notices.channels or settlement.asked:
        for one in each:
            room.notices.settled(one)


def _apply_to_message(room: Room, turn_id: str, one: TurnRecord | Batched, again: bool) -> None:  # noqa: FBT001
    """What becomes of it: to be tried again, or given up."""
    state, envelope, settlement = room.state, one.envelope, one.settlement
    assert settlement is not None
    if settlement.retry is not None and envelope.id not in state.processed:
        state.retries.put(settlement.retry)
        if not settlement.asked:
            room.log.emit(
                EventName.RETRY_SCHEDULED,
                turn_id=turn_id,
                message_id=envelope.id,
                thread=envelope.thread,
                outcome=settlement.outcome.value,
                attempts=settlement.retry.attempts,
                in_seconds=round(max(0.0, settlement.retry.not_before - room.clock.now()), 1),
            )
    if settlement.dead is not None:
        state.dead_letters.add(settlement.dead, again=again)
        room.log.emit(
            EventName.DEAD_LETTER,
            turn_id=turn_id,
            message_id=envelope.id,
            thread=envelope.thread,
            why=settlement.dead.last_error,
        )


def _asking(each: Sequence[TurnRecord]) -> TurnRecord:
    """A question of one of its messages stands, though the others are done."""
    return next((one for one in each if one.settlement is not None and one.settlement.question), each[0])
