"""A message becomes a turn: its record is durable before the mailbox hands the message over."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Gone, MailboxUnavailable, Message, NoWay, Route, content_digest
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import Candidate


async def open_turn(room: Room, candidate: Candidate, turn_id: str) -> TurnRecord:
    """The claim's record, durable, with the way that an answer will go.

    Raises OSError, MailboxUnavailable, and BusyFault where the workdir's lock is no longer ours.
    """
    way = await room.mailbox.way_back(candidate.envelope)
    room.guard()
    state, envelope, retry = room.state, candidate.envelope, candidate.retry
    session = state.sessions.get(envelope.thread)
    record = TurnRecord(
        turn_id=turn_id,
        envelope=envelope,
        phase=Phase.CLAIMED,
        runtime=room.traits.name,
        claimed_at=room.clock.now(),
        attempt=(retry.attempts if retry else 0) + 1,
        starts=(retry.starts if retry else 0) + 1,
        generation=session.generation if session else 0,
        rerun=retry,
        route=way if isinstance(way, Route) else None,
        no_way=way.why if isinstance(way, NoWay) else "",
    )
    try:
        state.turns.create(record)
    except OSError:
        with suppress(OSError):
            state.turns.drop(turn_id)
        raise
    return record


async def take(room: Room, record: TurnRecord) -> Message | None:
    """The message, now ours; None where it was never ours, and its turn is forgotten.

    Of one that was ours and has vanished, what an earlier turn kept serves; else Vanished is raised. Raises
    MailboxUnavailable where the mailbox did not answer: it may be ours all the same.
    """
    retry = record.rerun
    message = await room.mailbox.claim(record.envelope, again=retry is not None)
    if isinstance(message, Gone):
        if retry is None:
            if message.name_taken:
                await room.stuck.name_taken(record.envelope)
            elif message.unreadable is not None:
                await room.stuck.unreadable(message.unreadable)
            room.state.turns.drop(record.turn_id)
            room.log.emit(EventName.MESSAGE_GONE, message_id=record.envelope.id, why=message.why)
            return None
        message = _kept_copy(room, record)
    envelope = record.envelope
    record.digest = content_digest(message)
    if not envelope.sender:
        # Another client's record names the message and no more.
        envelope = record.envelope = msgspec.structs.replace(message.envelope, id=envelope.id, thread=envelope.thread)
    room.log.emit(
        EventName.TURN_CLAIMED,
        turn_id=record.turn_id,
        message_id=envelope.id,
        thread=envelope.thread,
        sender=envelope.sender,
        attempt=record.attempt,
    )
    return message


class Vanished(Exception):
    """A message that is ours is in the mailbox no longer, and no turn has kept it."""


async def origin_of(room: Room, record: TurnRecord) -> Message:
    """The turn's message: from its folder, else from the mailbox, else what the envelope tells."""
    with suppress(OSError, MailerError):
        return room.state.turns.folder(record.turn_id).message()
    with suppress(MailboxUnavailable):
        found = await room.mailbox.read(record.envelope)
        if isinstance(found, Message):
            return found
    return Message(record.envelope)


def _kept_copy(room: Room, record: TurnRecord) -> Message:
    """Raises Vanished."""
    history = record.rerun.history if record.rerun else ()
    for attempt in reversed(history):
        with suppress(OSError, MailerError):
            return room.state.turns.folder(attempt.turn_id).message()
    raise Vanished
