"""One turn: claim, start behind the gate, follow, judge, settle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Draft, Gone, MailboxUnavailable, Message, Outgoing, Progress, Refused, Stage
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.handle import boot_id
from agent_mailer.process.holder import PROMPT_FILE, Supervised
from agent_mailer.process.scope import start_turn
from agent_mailer.prompts import memory_file, words_of
from agent_mailer.runtimes.port import Evidence, Observation, RuntimeMissing, TurnRequest
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.turn_tools.commands import PROGRESS
from agent_mailer.turn_tools.folder import SEALED, Facts, Sealed
from agent_mailer.watch.deciding import TurnEnd, decide_settlement, wants_auto_reply
from agent_mailer.watch.following import Follower
from agent_mailer.watch.judging import judge
from agent_mailer.watch.notes import copies
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import Candidate, choose_session
from agent_mailer.watch.settling import settle
from agent_mailer.watch.trouble import until_disk_takes_it

NO_BEGIN = "the turn's holder ended before it could start the agent: is the workdir there, the disk full?"
NOTHING_RAN = "the watcher ended before anything was started"


T = TypeVar("T")

CLOCKS_APART = 300.0
"""How far the clock of another machine, which dates a mailbox's messages, may be behind ours."""

VANISHED = "the message's file has vanished from the mailbox"


async def run_turn(room: Room, candidate: Candidate, claimed: Callable[[], None] = lambda: None) -> Outcome | None:
    """One turn for one message; None where the message was not ours to take. `claimed` is called once it is ours.

    Raises OSError where the claim could not be made durable, MailboxUnavailable where the mailbox did not answer, and
    BusyFault where the workdir's lock is no longer ours.
    """
    turn_id = room.state.turns.new_id()
    room.in_hand.add(turn_id)
    try:
        return await _run(room, candidate, turn_id, claimed)
    finally:
        room.in_hand.discard(turn_id)


async def _run(room: Room, candidate: Candidate, turn_id: str, claimed: Callable[[], None]) -> Outcome | None:
    taken = await _claim(room, candidate, turn_id)
    if taken is None:
        return None
    claimed()
    record, message = taken
    try:
        supervised = await _start(room, record, message)
    except (RuntimeMissing, OSError) as fault:
        # Nothing ran: whatever is missing, the message is innocent.
        detail = f"{fault.message} ({fault.fix})" if isinstance(fault, RuntimeMissing) else f"cannot start: {fault}"
        judgement = Judgement(Outcome.UNAVAILABLE, detail)
        record.process = None
        return await _settle(room, record, message, judgement, Observation())
    return await _see_through(room, record, supervised, message)


async def adopt_turn(room: Room, record: TurnRecord, supervised: Supervised) -> Outcome:
    """Follow a turn that an earlier watcher started, running or ended, to its settlement."""
    return await _see_through(room, record, supervised, await origin_of(room, record), adopted=True)


async def give_back(room: Room, record: TurnRecord, detail: str = NOTHING_RAN) -> Outcome:
    """Settle a claimed turn in which nothing ran: the message is pending again."""
    record.process = None
    judgement = Judgement(Outcome.INTERRUPTED, detail)
    return await _settle(room, record, await origin_of(room, record), judgement, Observation())


async def origin_of(room: Room, record: TurnRecord) -> Message:
    """The turn's message: from its folder, else from the mailbox, else what the envelope tells."""
    with suppress(OSError, MailerError):
        return room.state.turns.folder(record.turn_id).message()
    with suppress(MailboxUnavailable):
        found = await room.mailbox.read(record.envelope)
        if isinstance(found, Message):
            return found
    return Message(record.envelope)


async def _claim(room: Room, candidate: Candidate, turn_id: str) -> tuple[TurnRecord, Message] | None:
    room.guard()
    state, envelope, retry = room.state, candidate.envelope, candidate.retry
    session = state.sessions.get(envelope.thread)
    record = TurnRecord(
        turn_id=turn_id,
        envelope=envelope,
        phase=Phase.CLAIMED,
        runtime=room.runtime.traits.name,
        claimed_at=room.clock.now(),
        attempt=(retry.attempts if retry else 0) + 1,
        starts=(retry.starts if retry else 0) + 1,
        generation=session.generation if session else 0,
        rerun=retry,
    )
    try:
        state.turns.create(record)
    except OSError:
        with suppress(OSError):
            state.turns.drop(record.turn_id)
        raise
    try:
        message = await room.mailbox.claim(envelope, again=retry is not None)
    except MailboxUnavailable as fault:
        # It may be ours already: only our record can say that it is still to be done.
        await give_back(room, record, f"the claim failed: {fault.message}")
        raise
    if isinstance(message, Gone):
        if retry is None:
            state.turns.drop(record.turn_id)
            room.log.emit(EventName.MESSAGE_GONE, message_id=envelope.id, why=message.why)
            return None
        # It was ours and its file has vanished: what an earlier turn kept of it still serves.
        kept = _kept_copy(room, candidate)
        if kept is None:
            await _settle(room, record, Message(envelope), Judgement(Outcome.FAILED, VANISHED), Observation())
            return None
        message = kept
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
    return record, message


def _kept_copy(room: Room, candidate: Candidate) -> Message | None:
    history = candidate.retry.history if candidate.retry else ()
    for attempt in reversed(history):
        with suppress(OSError, MailerError):
            return room.state.turns.folder(attempt.turn_id).message()
    return None


async def _start(room: Room, record: TurnRecord, message: Message) -> Supervised:
    """Prepare the folder, start the holder, make it known durably, open the gate (I3). RuntimeMissing, OSError."""
    state, policy, envelope = room.state, room.policy, record.envelope
    directory = state.turns.path(record.turn_id)
    choice = choose_session(
        state.sessions.get(envelope.thread),
        record.rerun,
        runtime=record.runtime,
        resumes=room.runtime.traits.resumes,
        now=room.clock.now(),
        policy=policy,
    )
    record.resume = choice.session_id
    words = words_of(record, policy.project_dir)
    launch = room.runtime.command(
        TurnRequest(
            turn_id=record.turn_id,
            turn_dir=directory,
            workdir=policy.workdir,
            project_dir=policy.project_dir,
            message_id=words.message,
            thread_id=words.thread,
            sender=words.sender,
            attempt=record.attempt,
            session_id=choice.session_id,
            tools=room.tools(directory),
        )
    )
    record.fresh = launch.session_id
    await _prepare(room, record, message)
    prompt = room.prompts.render(record, words, choice.prompt, why_lost=choice.why_lost)
    state.folder.disk.overwrite(directory / PROMPT_FILE, prompt.encode("utf-8", "replace"))
    start = await start_turn(
        launch.argv,
        env=launch.env,
        cwd=launch.cwd,
        turn_dir=directory,
        turn_id=record.turn_id,
        memory=policy.turn_memory,
    )
    with start.gated as gated:
        record.process = gated.identity
        record.phase = Phase.RUNNING
        record.started_at = room.clock.now()
        state.turns.save(record)
        supervised = gated.release()
    room.log.emit(
        EventName.TURN_STARTED,
        turn_id=record.turn_id,
        message_id=envelope.id,
        thread=envelope.thread,
        runtime=record.runtime,
        pid=gated.identity.pid,
        resumes=choice.session_id,
    )
    if start.unlimited:
        room.log.emit(EventName.TURN_UNLIMITED, turn_id=record.turn_id, why=start.unlimited)
    room.mailbox.report(envelope, Progress(record.turn_id, Stage.STARTED))
    return supervised


async def _prepare(room: Room, record: TurnRecord, message: Message) -> None:
    """The mail for the agent's tools. A mailbox that fails now costs the thread view, not the turn."""
    state, mailbox = room.state, room.mailbox
    thread, contacts = await asyncio.gather(
        _or_nothing(mailbox.thread(record.envelope.thread)), _or_nothing(mailbox.contacts())
    )
    memory = state.folder.memory
    state.turns.folder(record.turn_id).prepare(
        message,
        thread or [message],
        contacts,
        Facts(
            turn_id=record.turn_id,
            address=mailbox.address,
            max_message_bytes=mailbox.capabilities.max_message_bytes,
            memory_global=str(memory / "global.md"),
            memory_thread=str(memory_file(memory, record.envelope.thread)),
        ),
        copies(room, record.envelope.thread),
    )


async def _or_nothing(look: Awaitable[Sequence[T]]) -> Sequence[T]:
    with suppress(MailboxUnavailable):
        return await look
    return ()


async def _see_through(
    room: Room, record: TurnRecord, supervised: Supervised, message: Message, *, adopted: bool = False
) -> Outcome:
    sender = _AtOnce(room, record, message)
    evidence: Evidence = await Follower(room, record, supervised, sender.send_what_waits).follow()
    same_boot = record.process is not None and record.process.boot == boot_id()
    if same_boot and not supervised.released:
        record.process = None
        # An earlier watcher died before it opened the gate; if it was open, the holder could not begin.
        judgement = Judgement(Outcome.INTERRUPTED, NOTHING_RAN) if adopted else Judgement(Outcome.UNAVAILABLE, NO_BEGIN)
    else:
        judgement = judge(evidence, room.runtime, same_boot=same_boot)
    return await _settle(room, record, message, judgement, evidence.observation)


async def _settle(
    room: Room, record: TurnRecord, message: Message, judgement: Judgement, observation: Observation
) -> Outcome:
    state, envelope = room.state, record.envelope
    sealed = Sealed((), None)

    def seal() -> None:
        nonlocal sealed
        sealed = state.turns.folder(record.turn_id).seal()

    await until_disk_takes_it(room, record, seal)
    if sealed.damaged:
        why = f"{sealed.damaged} staged items cannot be read; they are not sent"
        room.log.emit(EventName.STATE_DAMAGED, file=SEALED, why=why, turn_id=record.turn_id)
    end = TurnEnd(
        record=record,
        origin=message,
        judgement=judgement,
        observation=observation,
        sealed=sealed,
        resumes=room.runtime.traits.resumes,
        session=await until_disk_takes_it(room, record, lambda: state.sessions.get(envelope.thread)),
        pause=await until_disk_takes_it(room, record, state.pause.read),
        transcript_bytes=_size_of_transcript(room, record),
        answered=False,
        now=room.clock.now(),
        jitter=room.jitter(),
    )
    if wants_auto_reply(end, judgement.outcome, room.policy) and await _answered(room, record):
        end = msgspec.structs.replace(end, answered=True)
    settlement = decide_settlement(end, room.policy, room.mailbox.compose)
    record.settlement = settlement
    record.phase = Phase.SETTLING
    await until_disk_takes_it(room, record, lambda: state.turns.save(record))
    room.log.emit(
        EventName.TURN_ENDED,
        turn_id=record.turn_id,
        message_id=envelope.id,
        thread=envelope.thread,
        outcome=settlement.outcome.value,
        seconds=settlement.seconds,
        detail=settlement.detail or None,
        items=len(settlement.items),
        lines_skipped=observation.lines_skipped or None,
    )
    await settle(room, record)
    return settlement.outcome


async def _answered(room: Room, record: TurnRecord) -> bool:
    """Whether the agent has written into the thread since the claim by other ways than ours."""
    since, own = record.claimed_at, record.envelope.id
    shown = True
    try:
        before = {m.envelope.id for m in room.state.turns.folder(record.turn_id).thread()}
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
            m.envelope.sender == room.mailbox.address
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


def _size_of_transcript(room: Room, record: TurnRecord) -> int:
    with suppress(OSError):
        return (room.state.turns.path(record.turn_id) / "stdout").stat().st_size
    return 0


class _AtOnce:
    """Sends, while a turn runs, what its agent staged to leave at once. A second delivery is recognised by its id."""

    def __init__(self, room: Room, record: TurnRecord, message: Message) -> None:
        self._room = room
        self._record = record
        self._message = message
        self._done: set[str] = set()

    async def send_what_waits(self) -> None:
        for draft in self._room.state.turns.folder(self._record.turn_id).staged():
            if draft.at_once and draft.key not in self._done:
                await self._send(draft)

    async def _send(self, draft: Draft) -> None:
        composed = self._room.mailbox.compose(draft, self._message, self._record.turn_id)
        if isinstance(composed, Refused):
            self._done.add(draft.key)  # settlement records and reports it
            return
        try:
            for item in composed:
                await self._deliver(item)
        except MailboxUnavailable:
            return  # settlement delivers it at the latest
        self._done.add(draft.key)

    async def _deliver(self, item: Outgoing) -> None:
        await self._room.mailbox.deliver(item)
