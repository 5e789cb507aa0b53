"""One turn as a story: claim, start behind the gate, follow, judge, decide, send, settle, forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path

import msgspec

from agent_mailer.approvals import APPROVALS
from agent_mailer.approvals.calls import Call
from agent_mailer.approvals.turn import asked_in, used_in
from agent_mailer.beneath import holding, is_there, status
from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.identity import differing
from agent_mailer.mailbox.port import Automatic, Draft, Envelope, MailboxUnavailable, Message, Route
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.holder import STDOUT_FILE, Supervised
from agent_mailer.runtimes.port import Observation, RuntimeMissing
from agent_mailer.state import State
from agent_mailer.state.folder import GARBLED
from agent_mailer.state.records import Pause, Phase, SessionEntry, StopAsked, TurnRecord
from agent_mailer.state.turns import ids_of, shares
from agent_mailer.turn_tools.commands import PROGRESS
from agent_mailer.turn_tools.folder import DOCUMENTS, SEALED, TURN_TMP, Sealed, TurnFolder
from agent_mailer.watch.batch import settle_each
from agent_mailer.watch.claim import Vanished, open_turn, origin_of, pass_over, take, take_batch
from agent_mailer.watch.deciding import TurnEnd, decide_settlement, wants_auto_reply
from agent_mailer.watch.following import AtOnce, Follower
from agent_mailer.watch.judging import NOTHING_RAN, ended_at, judge_end, judge_unstarted
from agent_mailer.watch.occasions import of_documents
from agent_mailer.watch.program import Program
from agent_mailer.watch.room import Room, Stage
from agent_mailer.watch.rules import Candidate, WatchPolicy
from agent_mailer.watch.sending import send_items
from agent_mailer.watch.settling import settle
from agent_mailer.watch.start import WeLeave, documents_of, start

CLOCKS_APART = 300.0
"""How far the clock of another machine, which dates a mailbox's messages, may be behind ours."""

MOST_READ = 1024 * 1024
MOST_NAMED = 10

NO_RECORD = "its turns left no record of their end"
VANISHED = "the message is no longer in the mailbox"


async def run_turn(
    room: Room, candidate: Candidate, turn_id: str, claimed: Callable[[], None], batch: Sequence[Envelope] = ()
) -> Outcome | None:
    """One turn for one message, or for those of `batch` as well; None where the message was not ours to take. `claimed`
    is called once it is ours.

    Raises OSError where the claim could not be made durable, MailboxUnavailable where the mailbox did not answer, and
    BusyFault where the workdir's lock is no longer ours.
    """
    story = partial(_run, room, candidate, turn_id, claimed, batch)
    try:
        if room.reserving is None:
            return await story()
        return await room.reserving.around(room, candidate.envelope, turn_id, story)
    finally:
        # However it ends: what has no record by now has taken nothing.
        room.gate.put_back(candidate.envelope)


async def _run(
    room: Room,
    candidate: Candidate,
    turn_id: str,
    claimed: Callable[[], None],
    batch: Sequence[Envelope] = (),
    refused: str = "",
) -> Outcome | None:
    """`refused`: why nothing may run of what is claimed."""
    # The turn's own until its end: the configuration may name another one meanwhile.
    program = room.program_of(candidate.taker)
    record = await open_turn(room, candidate, turn_id, program.traits.name, batch)
    if record is None:
        return None
    others: tuple[Message, ...] = ()
    try:
        message = await take(room, record)
        if message is not None:
            others = await take_batch(room, record)
    except MailboxUnavailable as fault:
        # It may be ours already: only our record can say that it is still to be done.
        pass_over(room, record, fault.message, answered=False)
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
    if refused:
        return await _end(room, record, message, Judgement(Outcome.FAILED, refused), Observation())
    if room.reserving is not None:
        await room.reserving.begin(room, turn_id, live=record.live is not None)
    try:
        supervised = await start(room, record, (message, *others), program)
    except WeLeave:
        return await give_back(room, record)
    except (RuntimeMissing, OSError) as fault:
        record.process = None
        judgement = judge_unstarted(record, fault)
        if room.offers is not None:
            room.offers.not_begun(record, judgement.detail)
        return await _end(room, record, message, judgement, Observation())
    return await _see_through(room, record, supervised, message, program)


async def adopt_turn(room: Room, record: TurnRecord, supervised: Supervised) -> Outcome:
    """Follow a turn that an earlier watcher started, running or ended, to its settlement."""
    program = _program_then(room, record)
    if room.reserving is not None:
        room.reserving.tend(room, record.turn_id, adopted=True, live=record.live is not None)
    return await _see_through(room, record, supervised, await origin_of(room, record), program, adopted=True)


def _program_then(room: Room, record: TurnRecord) -> Program:
    """What the turn was started with: the configuration may name another runtime since, or have it print otherwise."""
    program = room.program_of(record.live)
    now = program.traits
    same = record.runtime == now.name and record.has_events in (None, now.has_events)
    if record.live is None and not same:
        # What cannot be made any more is judged as well as it can be.
        with suppress(MailerError, ValueError):
            return Program(room.earlier_runtime(record))
    return program


async def give_back(room: Room, record: TurnRecord, detail: str = NOTHING_RAN) -> Outcome:
    """Settle a claimed turn in which nothing ran: the message is pending again."""
    record.process = None
    room.gate.nothing_ran(record)
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
    room: Room, record: TurnRecord, supervised: Supervised, message: Message, program: Program, *, adopted: bool = False
) -> Outcome:
    folder = TurnFolder(supervised.turn_dir, room.state.folder.disk)
    follower = Follower(room, record, supervised, AtOnce(room, record, message, folder), program)
    over = adopted and not supervised.running
    evidence = await follower.follow()
    ended = ended_at(supervised.turn_dir, room.clock.now(), unseen=over)

    async def judged() -> Judgement:
        return judge_end(record, evidence, program.runtime, released=follower.released, adopted=adopted)

    judgement = await room.until_system_lets(record.turn_id, judged)
    # Before it holds its place no longer: what it has found out may keep the next from starting.
    changed = await _changed_documents(room, record, folder.path)
    return await _end(room, record, message, judgement, evidence.observation, folder, changed, program, ended)


async def _end(
    room: Room,
    record: TurnRecord,
    message: Message,
    judgement: Judgement,
    observation: Observation,
    folder: TurnFolder | None = None,
    changed: Sequence[str] = (),
    program: Program | None = None,
    ended: float | None = None,
) -> Outcome:
    """From here on the record holds every decision (SPEC 5.6)."""
    touched = await room.reserving.end(room, record.turn_id) if room.reserving is not None else ()
    if room.confinement is not None:
        # Before it holds its place no longer: what its end tells may keep the next from starting.
        await room.confinement.let_go(lambda: room.none_beside(record.turn_id))
    room.enter(record.turn_id, Stage.SETTLING)
    folder = folder or room.state.turns.folder(record.turn_id)
    if changed:
        await room.until_disk_takes_it(record.turn_id, _tell_of_documents, room, record, changed)
    program = program or room.program_of(record.live)
    end = await _gather(room, record, message, judgement, observation, folder, program, ended)
    end = msgspec.structs.replace(end, touched=tuple(touched)) if touched else end
    answered = await _answered(room, record, folder) if _must_be_known(end, room.policy) else frozenset[str]()
    if record.batch:
        others = {one.envelope.id: await origin_of(room, one) for one in shares(record)[1:]}
        settlement, record.batch = settle_each(end, others, answered, room.policy, room.mailbox.compose)
    else:
        routes = (record.route,) if record.route is not None else ()
        end = msgspec.structs.replace(end, answered=bool(answered))
        settlement = decide_settlement(end, room.policy, partial(room.mailbox.compose, routes=routes))
    record.settlement = settlement
    record.phase = Phase.SETTLING
    await room.until_disk_takes_it(record.turn_id, room.state.turns.save, record)
    room.log.emit(
        EventName.TURN_ENDED,
        settlement.question,
        turn_id=record.turn_id,
        message_id=record.envelope.id,
        thread=record.envelope.thread,
        outcome=settlement.outcome.value,
        seconds=settlement.seconds,
        detail=settlement.detail or None,
        items=len(settlement.items),
        lines_skipped=observation.lines_skipped or None,
        cost_usd=(settlement.usage.cost_usd or None) if settlement.usage is not None else None,
    )
    await carry_out(room, record)
    room.gate.settled(record)
    if is_there(folder.path / TURN_TMP):
        await room.in_portions(partial(folder.shrink, TURN_TMP))
    return settlement.outcome


async def _changed_documents(room: Room, record: TurnRecord, directory: Path) -> list[str]:
    """Files that tell agents what to do and changed meanwhile: by them one mail reaches every later turn.

    Neither forbidden nor undone.
    """
    work = room.work.get(record.turn_id)
    before = work.documents if work is not None else None
    if before is None:
        with suppress(OSError, *GARBLED):
            before = msgspec.json.decode(read_regular(directory / DOCUMENTS, MOST_READ), type=dict[str, str])
    return differing(before, await documents_of(room)) if before is not None else []


def _tell_of_documents(room: Room, record: TurnRecord, changed: Sequence[str]) -> None:
    """Raises OSError."""
    room.notices.tell(of_documents(record, room.clock.now()))
    here = f"{room.policy.workdir}/"
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    room.log.emit(
        EventName.INSTRUCTIONS_CHANGED,
        turn_id=record.turn_id,
        thread=record.envelope.thread,
        sender=record.envelope.sender,
        file=" ".join(name.removeprefix(here) for name in changed[:MOST_NAMED]) + more,
    )


async def _gather(
    room: Room,
    record: TurnRecord,
    message: Message,
    judgement: Judgement,
    observation: Observation,
    folder: TurnFolder,
    program: Program,
    ended: float | None,
) -> TurnEnd:
    state, envelope, now = room.state, record.envelope, room.clock.now()

    asked, used = tuple[Call, ...](), frozenset[str]()

    def read() -> tuple[Sealed, SessionEntry | None, Pause | None, StopAsked | None, tuple[Draft, ...]]:
        nonlocal asked, used
        with holding(folder.path):
            sealed = folder.seal()
            stop = state.turns.stop_asked(record.turn_id)
            may_ask = is_there(folder.path / APPROVALS)
        if may_ask:
            asked = asked_in(folder.path / SEALED)
        if record.rerun is not None and record.rerun.asked:
            used = used_in(folder.path / SEALED, record.rerun.asked)
        session, pause = state.sessions.get(envelope.thread), state.pause.read()
        earlier = () if judgement.outcome.settles else _staged_before(state, record)
        return sealed, session, pause, stop, earlier

    sealed, session, pause, stop, earlier = await room.until_disk_takes_it(record.turn_id, read)
    if sealed.damaged:
        why = f"{sealed.damaged} staged items cannot be read; they are not sent"
        room.log.emit(EventName.STATE_DAMAGED, file=SEALED, why=why, turn_id=record.turn_id)
    return TurnEnd(
        record=record,
        origin=message,
        judgement=judgement,
        observation=observation,
        sealed=sealed,
        resumes=program.traits.resumes,
        session=session,
        pause=pause,
        stop=stop,
        address=room.address,
        transcript_bytes=_size_of(folder.path / STDOUT_FILE),
        answered=False,
        earlier=earlier,
        left_asked=asked,
        used_up=used,
        went_through=room.gate.went_through,
        ended=now if ended is None else ended,
        now=now,
        jitter=room.jitter(),
    )


def _staged_before(state: State, record: TurnRecord) -> tuple[Draft, ...]:
    """What the last of the message's earlier turns that had staged anything for it had. Raises OSError."""
    message_id = record.envelope.id
    for attempt in reversed(record.rerun.history if record.rerun else ()):
        turn = state.turns.load(attempt.turn_id)
        if turn is None:
            continue
        first = turn.envelope.id == message_id
        drafts = state.turns.folder(attempt.turn_id).staged(sealed=True)
        mine = [d for d in drafts if d.about == message_id or (first and d.about not in ids_of(turn))]
        if found := [draft for draft in mine if not draft.at_once]:
            return tuple(msgspec.structs.replace(draft, about="") for draft in found)
    return ()


def _must_be_known(end: TurnEnd, policy: WatchPolicy) -> bool:
    """Whether it matters what the thread shows: only then its mailbox is asked."""
    return bool(end.record.batch) or wants_auto_reply(end, end.judgement.outcome, policy)


async def _answered(room: Room, record: TurnRecord, folder: TurnFolder) -> frozenset[str]:
    """To which of the turn's messages the agent has written into the thread since the claim by other ways than ours."""
    since = record.claimed_at
    shown = True
    try:
        before = set(map(attrgetter("envelope.id"), folder.thread()))
        since -= CLOCKS_APART if len(before) > 1 else 0.0
    except (OSError, MailerError):
        # What the turn was shown is lost, as in a power failure; what earlier turns sent is known, where their records
        # are not lost as well, and what answers another message is no answer to this one.
        shown = False
        before = room.state.turns.sent_into(record.envelope.thread)
    # What another client had in work may have been answered before we claimed it.
    taken_over = record.rerun is not None and not record.rerun.history
    ours = ids_of(record) if record.batch else frozenset((record.envelope.id,))
    found: dict[str, frozenset[str]] = {}
    with suppress(MailboxUnavailable):
        for m in await room.mailbox.thread(record.envelope.thread):
            one = m.envelope
            # A notice, of what else befell the agent, answers nobody; nor does what it is sent in its own name.
            if one.automatic is Automatic.NOTICE or one.to == (room.address,):
                continue
            if one.sender != room.address or PROGRESS in m.labels:
                continue
            if one.reply_to and isinstance(await room.mailbox.way_back(one), Route):
                # Who is called as we are, in another session or project.
                continue
            named = ours.intersection(m.refs)
            if one.id not in before and one.created >= since and (shown or not m.refs or named):
                found[one.id] = named or ours
            elif taken_over:
                found[one.id] = named
    if found and shown:
        # What turns beside this one have sent into its thread they have sent about their own messages.
        for item in room.state.turns.sent_into(record.envelope.thread):
            found.pop(item, None)
    return frozenset().union(*found.values())


def _size_of(path: Path) -> int:
    with suppress(OSError):
        return status(path).st_size
    return 0
