"""One turn as a story: claim, start behind the gate, follow, judge, decide, send, settle, forget."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path

import msgspec

from agent_mailer.beneath import status
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MailboxUnavailable, Message
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.holder import STDOUT_FILE, Supervised
from agent_mailer.runtimes.port import Observation, RuntimeMissing
from agent_mailer.state.records import Pause, Phase, SessionEntry, StopAsked, TurnRecord
from agent_mailer.turn_tools.commands import PROGRESS
from agent_mailer.turn_tools.folder import SEALED, Sealed, TurnFolder
from agent_mailer.watch.claim import Vanished, open_turn, origin_of, pass_over, take
from agent_mailer.watch.deciding import TurnEnd, decide_settlement, wants_auto_reply
from agent_mailer.watch.following import AtOnce, Follower
from agent_mailer.watch.judging import NOTHING_RAN, judge_end
from agent_mailer.watch.room import Room, Stage
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.sending import send_items
from agent_mailer.watch.settling import settle
from agent_mailer.watch.start import start

CLOCKS_APART = 300.0
"""How far the clock of another machine, which dates a mailbox's messages, may be behind ours."""

NO_RECORD = "its turns left no record of their end"
VANISHED = "the message's file has vanished from the mailbox"


async def run_turn(room: Room, candidate: Candidate, turn_id: str, claimed: Callable[[], None]) -> Outcome | None:
    """One turn for one message; None where the message was not ours to take. `claimed` is called once it is ours.

    Raises OSError where the claim could not be made durable, MailboxUnavailable where the mailbox did not answer, and
    BusyFault where the workdir's lock is no longer ours.
    """
    record = await open_turn(room, candidate, turn_id)
    try:
        message = await take(room, record)
    except MailboxUnavailable as fault:
        # It may be ours already: only our record can say that it is still to be done.
        await pass_over(room, record, fault.message, answered=False)
        await give_back(room, record, f"the claim failed: {fault.message}")
        raise
    except Vanished:
        await _end(room, record, Message(record.envelope), Judgement(Outcome.FAILED, VANISHED), Observation())
        return None
    if message is None:
        return None
    claimed()
    if record.starts > room.policy.max_starts:
        # Turns that left no record to settle them are counted by nobody else.
        return await _end(room, record, message, Judgement(Outcome.INTERRUPTED, NO_RECORD), Observation())
    try:
        supervised = await start(room, record, message)
    except (RuntimeMissing, OSError) as fault:
        # Nothing ran: whatever is missing, the message is innocent.
        detail = f"{fault.message} ({fault.fix})" if isinstance(fault, RuntimeMissing) else f"cannot start: {fault}"
        record.process = None
        return await _end(room, record, message, Judgement(Outcome.UNAVAILABLE, detail), Observation())
    return await _see_through(room, record, supervised, message)


async def adopt_turn(room: Room, record: TurnRecord, supervised: Supervised) -> Outcome:
    """Follow a turn that an earlier watcher started, running or ended, to its settlement."""
    return await _see_through(room, record, supervised, await origin_of(room, record), adopted=True)


async def give_back(room: Room, record: TurnRecord, detail: str = NOTHING_RAN) -> Outcome:
    """Settle a claimed turn in which nothing ran: the message is pending again."""
    record.process = None
    return await _end(
        room, record, await origin_of(room, record), Judgement(Outcome.INTERRUPTED, detail), Observation()
    )


async def carry_out(room: Room, record: TurnRecord, *, again: bool = False) -> None:
    """Apply `record.settlement` to the end. `again`: an earlier watcher may have applied some of it.

    Returns only when all of it is done; what the mailbox or the disk cannot take now is tried again, while other
    threads go on.
    """
    room.enter(record.turn_id, Stage.SETTLING)
    try:
        await send_items(room, record)
        await settle(room, record, again=again)
    finally:
        if room.troubles.lasting:
            room.troubles.over(record.turn_id)


async def _see_through(
    room: Room, record: TurnRecord, supervised: Supervised, message: Message, *, adopted: bool = False
) -> Outcome:
    folder = TurnFolder(supervised.turn_dir, room.state.folder.disk)
    follower = Follower(room, record, supervised, AtOnce(room, record, message, folder))
    evidence = await follower.follow()
    judgement = judge_end(record, evidence, room.runtime, released=follower.released, adopted=adopted)
    return await _end(room, record, message, judgement, evidence.observation, folder)


async def _end(
    room: Room,
    record: TurnRecord,
    message: Message,
    judgement: Judgement,
    observation: Observation,
    folder: TurnFolder | None = None,
) -> Outcome:
    """From here on the record holds every decision (SPEC 5.6)."""
    room.enter(record.turn_id, Stage.SETTLING)
    folder = folder or room.state.turns.folder(record.turn_id)
    end = await _gather(room, record, message, judgement, observation, folder)
    routes = (record.route,) if record.route is not None else ()
    settlement = decide_settlement(end, room.policy, partial(room.mailbox.compose, routes=routes))
    record.settlement = settlement
    record.phase = Phase.SETTLING
    await room.until_disk_takes_it(record.turn_id, room.state.turns.save, record)
    room.log.emit(
        EventName.TURN_ENDED,
        turn_id=record.turn_id,
        message_id=record.envelope.id,
        thread=record.envelope.thread,
        outcome=settlement.outcome.value,
        seconds=settlement.seconds,
        detail=settlement.detail or None,
        items=len(settlement.items),
        lines_skipped=observation.lines_skipped or None,
    )
    await carry_out(room, record)
    return settlement.outcome


async def _gather(
    room: Room,
    record: TurnRecord,
    message: Message,
    judgement: Judgement,
    observation: Observation,
    folder: TurnFolder,
) -> TurnEnd:
    state, envelope = room.state, record.envelope

    def read() -> tuple[Sealed, SessionEntry | None, Pause | None, StopAsked | None]:
        sealed = folder.seal()
        session, pause = state.sessions.get(envelope.thread), state.pause.read()
        return sealed, session, pause, state.turns.stop_asked(record.turn_id)

    sealed, session, pause, stop = await room.until_disk_takes_it(record.turn_id, read)
    if sealed.damaged:
        why = f"{sealed.damaged} staged items cannot be read; they are not sent"
        room.log.emit(EventName.STATE_DAMAGED, file=SEALED, why=why, turn_id=record.turn_id)
    end = TurnEnd(
        record=record,
        origin=message,
        judgement=judgement,
        observation=observation,
        sealed=sealed,
        resumes=room.traits.resumes,
        session=session,
        pause=pause,
        stop=stop,
        address=room.address,
        transcript_bytes=_size_of(folder.path / STDOUT_FILE),
        answered=False,
        now=room.clock.now(),
        jitter=room.jitter(),
    )
    if wants_auto_reply(end, judgement.outcome, room.policy) and await _answered(room, record, folder):
        return msgspec.structs.replace(end, answered=True)
    return end


async def _answered(room: Room, record: TurnRecord, folder: TurnFolder) -> bool:
    """Whether the agent has written into the thread since the claim by other ways than ours."""
    since, own = record.claimed_at, record.envelope.id
    shown = True
    try:
        before = set(map(attrgetter("envelope.id"), folder.thread()))
        since -= CLOCKS_APART if len(before) > 1 else 0.0
    except (OSError, MailerError):
        # What the turn was shown is lost, as in a power failure; what earlier turns sent is known, where their records
        # are not lost as well, and what answers another message is no answer to this one.
        shown = False
        before = _sent_by_turns(room, record.envelope.thread)
    # What another client had in work may have been answered before we claimed it.
    taken_over = record.rerun is not None and not record.rerun.history
    with suppress(MailboxUnavailable):
        return any(
            m.envelope.sender == room.address
            and PROGRESS not in m.labels
            and (
                (m.envelope.id not in before and m.envelope.created >= since and (shown or not m.refs or own in m.refs))
                or (taken_over and own in m.refs)
            )
            for m in await room.mailbox.thread(record.envelope.thread)
        )
    return False


def _sent_by_turns(room: Room, thread: str) -> set[str]:
    turns = room.state.turns
    settled = (known.settlement for turn_id in turns.ids() if (known := turns.load(turn_id)) is not None)
    items = (entry.item for settlement in settled if settlement is not None for entry in settlement.items)
    return {item.id for item in items if item.thread == thread}


def _size_of(path: Path) -> int:
    with suppress(OSError):
        return status(path).st_size
    return 0
