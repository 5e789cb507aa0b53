"""A message becomes a turn: its record is durable before the mailbox hands the message over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, Gone, MailboxUnavailable, Message, NoWay, Route, content_digest
from agent_mailer.names import text_digest
from agent_mailer.state.records import Batched, Phase, TurnRecord
from agent_mailer.state.turns import share_of
from agent_mailer.watch.backlog import is_owed_an_answer
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import Candidate, cannot_be_fetched, fetch_again

BATCH_CHARACTERS = 256 * 1024
"""Beyond so much text no further message goes into the same turn."""


async def open_turn(
    room: Room, candidate: Candidate, turn_id: str, runtime: str, batch: Sequence[Envelope] = ()
) -> TurnRecord | None:
    """The claim's record, durable, with the way that an answer will go; `batch`: what else it is to be handed. None
    where the message wants an answer and none can be delivered: it waits for a person.

    Raises OSError, MailboxUnavailable, and BusyFault where the workdir's lock is no longer ours.
    """
    way = await room.mailbox.way_back(candidate.envelope)
    if isinstance(way, NoWay) and is_owed_an_answer(candidate):
        room.guard()
        room.stuck.no_way_back(candidate.envelope, way.why)
        return None
    others = await _with_ways(room, () if isinstance(way, NoWay) else batch)
    state, envelope, retry = room.state, candidate.envelope, candidate.retry
    counted = room.gate.counted(envelope, retry)
    room.guard()
    session = state.sessions.get(envelope.thread)
    record = TurnRecord(
        turn_id=turn_id,
        envelope=envelope,
        phase=Phase.CLAIMED,
        runtime=runtime,
        claimed_at=room.clock.now(),
        attempt=(retry.attempts if retry else 0) + 1,
        starts=(retry.starts if retry else 0) + 1,
        generation=session.generation if session else 0,
        rerun=retry,
        route=way if isinstance(way, Route) else None,
        no_way=way.why if isinstance(way, NoWay) else "",
        batch=others,
        counted=counted,
        live=candidate.taker,
    )
    try:
        state.turns.create(record)
    except OSError:
        with suppress(OSError):
            state.turns.drop(turn_id)
        raise
    room.gate.claimed(record)
    return record


async def _with_ways(room: Room, batch: Iterable[Envelope]) -> tuple[Batched, ...]:
    """As far as answers can be delivered: what the tools say of that, they say of the whole turn."""
    found: list[Batched] = []
    for envelope in batch:
        way = await room.mailbox.way_back(envelope)
        if isinstance(way, NoWay):
            break
        found.append(Batched(envelope, route=way, counted=room.gate.counted(envelope, None)))
    return tuple(found)


async def take_batch(room: Room, record: TurnRecord) -> tuple[Message, ...]:
    """The further messages of the turn, now ours. What is not to be had, or is too much for one turn, leaves the record
    and waits for a turn of its own, durably before anything is started.

    Raises OSError, and MailboxUnavailable where the mailbox did not answer: each may be ours all the same.
    """
    taken: list[Message] = []
    kept: list[Batched] = []
    size = 0
    for one in record.batch:
        if size > BATCH_CHARACTERS:
            break
        try:
            message = await room.mailbox.claim(one.envelope)
        except MailboxUnavailable:
            record.batch = (*kept, one)
            raise
        if isinstance(message, Gone):
            continue
        size += len(message.body)
        share = share_of(record, one.envelope.id)
        share.digest = text_digest(message.envelope.sender, message.subject, message.body)
        share.content = content_digest(message)
        taken.append(room.gate.taken(share, message))
        kept.append(msgspec.structs.replace(one, digest=share.digest, content=share.content, counted=share.counted))
        _tell_claimed(room, record, one.envelope, message.subject)
    if len(kept) < len(record.batch):
        record.batch = tuple(kept)
        room.state.turns.save(record)
    record.batch = tuple(kept)
    return tuple(taken)


async def take(room: Room, record: TurnRecord) -> Message | None:
    """The message, now ours; None where it was never ours, and its turn is forgotten.

    Of one that was ours and has vanished, what an earlier turn kept serves; else Vanished is raised. Raises
    MailboxUnavailable where the mailbox did not answer: it may be ours all the same, and nothing else of the turn is.
    """
    retry = record.rerun
    ours = retry is not None and not retry.listed_only
    try:
        message = await room.mailbox.claim(record.envelope, again=ours, turn_id=record.turn_id)
    except MailboxUnavailable:
        record.batch = ()
        raise
    if isinstance(message, Gone):
        if not ours or message.elsewhere:
            if message.elsewhere:
                room.state.retries.remove(record.envelope.id)
                room.log.emit(EventName.MESSAGE_GONE, message_id=record.envelope.id, why=message.why)
            elif message.name_taken or message.unreadable is not None:
                if message.unreadable is not None:
                    await room.stuck.unreadable(message.unreadable)
                else:
                    await room.stuck.name_taken(record.envelope)
                room.log.emit(EventName.MESSAGE_GONE, message_id=record.envelope.id, why=message.why)
            else:
                pass_over(room, record, message.why, answered=True)
            room.state.turns.drop(record.turn_id)
            room.gate.nothing_ran(record)
            return None
        message = _kept_copy(room, record)
    if retry is not None and retry.fetches:
        record.rerun = msgspec.structs.replace(retry, fetches=0, fetching_since=0.0) if ours else None
    envelope = record.envelope
    record.digest = text_digest(message.envelope.sender, message.subject, message.body)
    record.content = content_digest(message)
    if not envelope.sender:
        # Another client's record names the message and no more.
        envelope = record.envelope = msgspec.structs.replace(message.envelope, id=envelope.id, thread=envelope.thread)
    _tell_claimed(room, record, envelope, message.subject)
    return room.gate.taken(record, message)


def _tell_claimed(room: Room, record: TurnRecord, envelope: Envelope, subject: str) -> None:
    room.log.emit(
        EventName.TURN_CLAIMED,
        subject,
        turn_id=record.turn_id,
        message_id=envelope.id,
        thread=envelope.thread,
        sender=envelope.sender,
        attempt=record.attempt,
    )


def pass_over(room: Room, record: TurnRecord, why: str, *, answered: bool) -> None:
    """Count, durably, a claim that gave no message: others go on, and in the end it waits for a person.

    Somebody else may have taken it: then it is not listed any more, and the count is forgotten. Raises OSError.
    """
    now, envelope, state = room.clock.now(), record.envelope, room.state
    entry = fetch_again(record.rerun, envelope, now, room.policy, answered=answered)
    record.rerun = entry
    if stuck := cannot_be_fetched(entry, now, room.policy, answered=answered):
        room.stuck.not_fetched(envelope, f"listed, but not to be fetched ({entry.fetches} tries): {why}")
    if answered:
        if stuck:
            state.retries.remove(envelope.id)
        else:
            state.retries.put(entry, force=True)
        room.log.emit(EventName.MESSAGE_GONE, message_id=envelope.id, why=why, tries=entry.fetches)


class Vanished(Exception):
    """A message that is ours is in the mailbox no longer, and no turn has kept it."""


async def origin_of(room: Room, record: TurnRecord) -> Message:
    """The turn's message: from its folder, else from the mailbox, else what the envelope tells."""
    with suppress(OSError, MailerError):
        return _in_folder(room, record.turn_id, record)
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
            return _in_folder(room, attempt.turn_id, record)
    raise Vanished


def _in_folder(room: Room, turn_id: str, record: TurnRecord) -> Message:
    """Of a turn that was handed several, the one that the record is of. Raises OSError, MailerError."""
    messages = room.state.turns.folder(turn_id).messages()
    found = next((one for one in messages if one.envelope.id == record.envelope.id), None)
    if found is None and len(messages) > 1:
        raise MailerError("unknown", f"the turn {turn_id} was not handed it", "")
    return found or messages[0]
