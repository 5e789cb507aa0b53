"""Applying a settlement record. Every step is idempotent; nothing is decided here."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Delivered, MailboxUnavailable, Progress, Refused, Stage
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.records import ItemState, SettledItem, Settlement, TurnRecord
from agent_mailer.watch.notes import write_notes
from agent_mailer.watch.pause import apply_pause
from agent_mailer.watch.room import Room
from agent_mailer.watch.trouble import until_disk_takes_it, until_mailbox_takes_it, wait


async def settle(room: Room, record: TurnRecord, *, again: bool = False) -> None:
    """Apply `record.settlement` to the end. `again`: an earlier watcher may have applied some of it.

    Returns only when all of it is done; what the mailbox or the disk cannot take now is tried again, while other
    threads go on.
    """
    room.settling.add(record.turn_id)
    try:
        await _apply(room, record, again=again)
    finally:
        room.settling.discard(record.turn_id)
        room.troubles.over(record.turn_id)


async def _apply(room: Room, record: TurnRecord, *, again: bool) -> None:
    settlement = record.settlement
    assert settlement is not None
    await _deliver_all(room, record, settlement)
    await until_disk_takes_it(room, record, lambda: _apply_files(room, record, settlement, again=again))
    if settlement.finished:
        await until_mailbox_takes_it(room, record, lambda: room.mailbox.done(record.envelope, _ending(record)))
        await until_disk_takes_it(room, record, lambda: _finish_message(room, record))
        room.log.emit(
            EventName.MESSAGE_DONE,
            turn_id=record.turn_id,
            message_id=record.envelope.id,
            thread=record.envelope.thread,
        )
    else:
        room.mailbox.report(record.envelope, _ending(record))
    if settlement.finished:
        # While the turn is still open: nobody comes back to a settled one whose mail a crash has left in it.
        _strip(room, record)
    await until_disk_takes_it(room, record, lambda: room.state.turns.mark_settled(record.turn_id))
    if settlement.finished:
        with suppress(OSError):
            room.state.turns.summarise(record)
    elif record.process is None:
        # Nothing ran: the mail is where it was, and nobody looks for a copy here.
        with suppress(OSError):
            room.state.turns.strip(record.turn_id, room.policy.keep_transcripts)
    room.log.emit(
        EventName.TURN_SETTLED, turn_id=record.turn_id, outcome=settlement.outcome.value, seconds=settlement.seconds
    )


def _ending(record: TurnRecord) -> Progress:
    settlement = record.settlement
    assert settlement is not None
    detail = settlement.question or settlement.detail
    return Progress(record.turn_id, Stage.SETTLED, settlement.outcome.value, detail, settlement.finished)


def _strip(room: Room, record: TurnRecord) -> None:
    """Remove the mail from every turn of a finished message. What cannot be removed now goes when turns are pruned."""
    earlier = record.rerun.history if record.rerun else ()
    for turn_id in {record.turn_id, *(attempt.turn_id for attempt in earlier)}:
        with suppress(OSError):
            room.state.turns.strip(turn_id, room.policy.keep_transcripts)


async def _deliver_all(room: Room, record: TurnRecord, settlement: Settlement) -> None:
    items = list(settlement.items)
    for index, entry in enumerate(items):
        if entry.state is not ItemState.PENDING:
            if entry.state is ItemState.REFUSED:
                _tell_refused(room, record, entry)
            continue
        items[index] = await _deliver(room, record, entry)
        settlement = msgspec.structs.replace(settlement, items=tuple(items))
        record.settlement = settlement
        if items[index].state is ItemState.REFUSED or not room.mailbox.capabilities.recognises_delivery:
            # Where the mailbox cannot tell what has arrived, our own record must.
            await until_disk_takes_it(room, record, lambda: room.state.turns.save(record))


async def _deliver(room: Room, record: TurnRecord, entry: SettledItem) -> SettledItem:
    item = entry.item
    tries = 0
    first_try = room.clock.monotonic()
    # Where a second delivery is not recognised, an earlier life or the turn itself may have made the first.
    doubtful = not room.mailbox.capabilities.recognises_delivery
    while True:
        try:
            if doubtful and await room.mailbox.look(item):
                result: Delivered | Refused | None = Delivered()
            else:
                answer = await room.mailbox.deliver(item)
                doubtful = doubtful or not isinstance(answer, Delivered | Refused)
                result = answer if isinstance(answer, Delivered | Refused) else None
                why = "" if isinstance(answer, Delivered) else answer.why
            reached = True
        except MailboxUnavailable as fault:
            result, why, reached = None, fault.message, await _answers(room)
            if not reached:
                room.troubles.begin(record.turn_id, fault)
        match result:
            case Delivered():
                room.log.emit(EventName.ITEM_DELIVERED, turn_id=record.turn_id, message_id=item.id, to=item.recipient)
                return msgspec.structs.replace(entry, state=ItemState.DELIVERED)
            case Refused(why=reason):
                refused = msgspec.structs.replace(entry, state=ItemState.REFUSED, why=reason)
                _tell_refused(room, record, refused)
                return refused
            case None:
                if reached and room.clock.monotonic() - first_try > room.policy.undeliverable_after:
                    refused = msgspec.structs.replace(entry, state=ItemState.REFUSED, why=f"not taken for a day: {why}")
                    _tell_refused(room, record, refused)
                    return refused
                if tries == 0:
                    room.log.emit(
                        EventName.ITEM_POSTPONED, turn_id=record.turn_id, message_id=item.id, to=item.recipient, why=why
                    )
        await wait(room, record, tries)
        tries += 1


async def _answers(room: Room) -> bool:
    """Whether the mailbox itself works: then it is this item that it does not take."""
    try:
        await room.mailbox.pending(1)
    except MailboxUnavailable:
        return False
    return True


def _tell_refused(room: Room, record: TurnRecord, entry: SettledItem) -> None:
    item = entry.item
    room.log.emit(EventName.ITEM_REFUSED, turn_id=record.turn_id, message_id=item.id, to=item.recipient, why=entry.why)


def _apply_files(room: Room, record: TurnRecord, settlement: Settlement, *, again: bool) -> None:
    state, envelope = room.state, record.envelope
    usage = settlement.usage or Usage()
    if record.process is not None:
        state.usage.add(record.turn_id, envelope.thread, settlement.decided_at, settlement.seconds, usage)
    change = settlement.session
    if change is not None and state.sessions.put(change.thread, change.entry):
        turn_id, session = record.turn_id, change.entry.session_id
        if session:
            room.log.emit(EventName.SESSION_BOUND, turn_id=turn_id, thread=change.thread, session=session)
        else:
            room.log.emit(EventName.SESSION_DROPPED, turn_id=turn_id, thread=change.thread)
    write_notes(room, record, settlement.notes)
    if settlement.retry is not None and envelope.id not in state.processed:
        state.retries.put(settlement.retry)
        room.log.emit(
            EventName.RETRY_SCHEDULED,
            turn_id=record.turn_id,
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
            turn_id=record.turn_id,
            message_id=envelope.id,
            thread=envelope.thread,
            why=settlement.dead.last_error,
        )
    state.questions.settled(record)
    room.notices.settled(record, settlement)
    if not again:
        # A pause of an earlier life may be over; the next turn finds out.
        apply_pause(room, settlement)


def _finish_message(room: Room, record: TurnRecord) -> None:
    state, message_id = room.state, record.envelope.id
    state.processed.add(message_id)
    state.retries.remove(message_id)
    state.cursor.move_to(message_id)
