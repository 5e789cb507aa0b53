"""Turns and threads, read from a workdir's state and, for a thread's messages, its mailbox."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.beneath import open_file
from agent_mailer.clock import iso
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.port import Message
from agent_mailer.names import is_turn_id, pick
from agent_mailer.state.records import ItemState, SettledItem, TurnRecord
from agent_mailer.state.turns import shares
from agent_mailer.views.values.history import (
    MessageView,
    SentView,
    SpentView,
    ThreadView,
    TurnView,
    WaitingView,
    WholeTurnView,
)
from agent_mailer.views.values.status import ResultView, RunningView, SettlingView

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace
    from agent_mailer.state import State
    from agent_mailer.state.turns import OpenTurn


LIST = "agent-mailer turns list"
LAST_RESULTS = 5
LOG_SEARCHED = 128 * 1024
"""Bytes at the end of a log file in which the last results are looked for, before all turns are listed."""


def newest_turns(state: State, limit: int, thread: str | None, outcome: str | None) -> tuple[TurnView, ...]:
    """The newest that are of the thread and ended so, where those are given; the very newest is the last."""
    newest = filter(None, map(state.turns.load, reversed(state.turns.ids())))
    matching = (
        record
        for record in newest
        if (thread is None or record.envelope.thread == thread)
        and (outcome is None or (record.settlement is not None and record.settlement.outcome == outcome))
    )
    # Ids tell seconds only.
    found = sorted(islice(matching, limit), key=lambda record: record.claimed_at)
    return tuple(_turn(state, record) for record in found)


def whole_turn(state: State, typed: str) -> WholeTurnView:
    """The turn whose id is, begins or ends so. Raises MailerError, UsageFault."""
    chosen = pick(typed, state.turns.ids(), "turn", LIST)
    record = state.turns.load(chosen)
    if record is None:
        fix = "agent-mailer doctor --repair"
        raise MailerError("damaged", f"{state.turns.path(chosen) / 'turn.json'} cannot be read", fix)
    return _whole(state, record)


def spent(turns: Iterable[TurnView]) -> SpentView:
    """The sum over those that have ended."""
    ended = [turn for turn in turns if turn.outcome is not None]
    return SpentView(
        turns=len(ended),
        seconds=round(sum(turn.seconds or 0.0 for turn in ended), 3),
        input_tokens=sum(turn.input_tokens or 0 for turn in ended),
        output_tokens=sum(turn.output_tokens or 0 for turn in ended),
        cost_usd=round(sum(turn.cost_usd or 0.0 for turn in ended), 6),
    )


def find_thread(state: State, typed: str) -> str:
    """The thread whose name begins so, or that of the message whose id does. Raises MailerError, UsageFault."""
    messages = {one.envelope.id: one.envelope.thread for record in _records(state) for one in shares(record)}
    messages |= {entry.envelope.id: entry.envelope.thread for entry in state.retries.all()}
    messages |= {letter.msg_id: letter.thread_id for letter in state.dead_letters.all()}
    threads = list(state.sessions.bound())
    try:
        return pick(typed, [*threads, *filter(None, messages.values())], "thread", LIST)
    except MailerError as fault:
        if fault.code != "unknown":
            raise
        return messages[pick(typed, messages, "thread", LIST)]


def thread_story(place: Workplace, thread: str) -> ThreadView:
    """All that the state and the mailbox know of the thread; a mailbox that does not answer only lacks its part."""
    from agent_mailer.people import agent_of
    from agent_mailer.views.kept import tried_again  # a list of turns has nothing of it

    state, problem = place.state, ""
    messages: Sequence[Message] = ()
    try:
        messages = agent_of(place).thread(thread)
    except MailerError as fault:
        problem = "" if fault.code == "unknown" else fault.message
    records = [record for record in _records(state) if record.envelope.thread == thread]
    listed = {message.envelope.id for message in messages}
    known = [one.envelope for record in records for one in shares(record)]
    unlisted = {envelope.id: Message(envelope) for envelope in known if envelope.id not in listed}
    turns = tuple(_whole(state, record) for record in records)
    return ThreadView(
        thread=thread,
        messages=tuple(map(message_view, messages)),
        mailbox_problem=problem or None,
        turns=turns,
        waiting=tuple(
            WaitingView(entry.envelope.id, entry.attempts, entry.not_before or None)
            for entry in tried_again(state)
            if entry.envelope.thread == thread
        ),
        dead_letters=tuple(letter.msg_id for letter in state.dead_letters.all() if letter.thread_id == thread),
        spent=spent(turns),
        unlisted=tuple(map(message_view, unlisted.values())),
    )


def message_view(message: Message) -> MessageView:
    envelope, named = message.envelope, dict(message.named)
    return MessageView(
        id=envelope.id,
        thread=envelope.thread,
        sender=envelope.sender,
        to=envelope.to,
        created=iso(envelope.created),
        subject=message.subject,
        kind=envelope.kind.value if envelope.kind else None,
        priority=envelope.priority.value,
        automatic=envelope.automatic.value,
        refs=message.refs,
        labels=message.labels,
        reply_to=named.get("reply_to", ""),
        reply_project=named.get("reply_project", ""),
        from_project=named.get("from_project", ""),
    )


def last_results(place: Workplace) -> tuple[ResultView, ...]:
    """The turns settled last, the last one first."""
    ended = ((r, r.settlement) for r in filter(None, map(place.state.turns.load, _settled_last(place))))
    found = (
        ResultView(
            record.turn_id,
            record.envelope.id,
            record.envelope.thread,
            record.envelope.sender,
            settlement.outcome.value,
            settlement.decided_at,
            settlement.seconds,
            settlement.usage.cost_usd if settlement.usage is not None else 0.0,
            settlement.question or settlement.detail,
        )
        for record, settlement in ended
        if settlement is not None
    )
    return tuple(sorted(found, key=lambda result: -result.at))


def running_turn(state: State, turn: OpenTurn, now: float) -> RunningView:
    """A turn whose agent may run, with what it does as far as that is known."""
    found = RunningView(
        turn.turn_id,
        turn.msg_id,
        turn.thread_id,
        turn.envelope.sender,
        turn.phase.value,
        round(now - turn.started_at, 1),
        batch=tuple(envelope.id for envelope in turn.batch),
    )
    progress = state.turns.progress(turn.turn_id)
    if progress is None:
        return found
    usage = progress.usage
    return msgspec.structs.replace(
        found,
        doing=progress.doing,
        tool=progress.tool,
        tool_seconds=round(now - progress.tool_since, 1) if progress.tool_since is not None else None,
        tokens=usage.input_tokens + usage.output_tokens if usage else None,
        cost_usd=usage.cost_usd if usage else None,
    )


def settling_turn(state: State, turn: OpenTurn) -> SettlingView | None:
    """None where it has not ended."""
    record, progress = state.turns.load(turn.turn_id), state.turns.progress(turn.turn_id)
    settlement = record.settlement if record is not None else None
    waits = progress is not None and progress.waits
    if settlement is None and not waits:
        return None
    return SettlingView(
        turn.turn_id,
        turn.msg_id,
        turn.thread_id,
        turn.envelope.sender,
        settlement.decided_at if settlement is not None else progress.at if progress is not None else 0.0,
        progress.waits_for if progress is not None else "",
        progress.waits if progress is not None else "",
    )


def _settled_last(place: Workplace) -> list[str]:
    """Ids of turns. The end of the log tells them at once; where it does not, the newest folders do."""
    turns, found = place.state.turns, list[str]()
    for file in (place.folder.log, place.folder.log.with_name(f"{place.folder.log.name}.1")):
        named = dict.fromkeys(reversed(list(_settled_by_log(file))))
        found += [turn_id for turn_id in named if is_turn_id(turn_id) and turns.is_settled(turn_id)]
        if len(found) >= LAST_RESULTS:
            return found[:LAST_RESULTS]
    return turns.newest_settled(LAST_RESULTS)


def _settled_by_log(file: Path) -> Iterator[str]:
    from agent_mailer.views.log import parse  # as above

    with suppress(OSError), os.fdopen(open_file(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_SEARCHED))
        for line in stream.read(LOG_SEARCHED).split(b"\n"):
            if b'"turn_settled"' in line:
                yield str(parse(line).record.get("turn_id", ""))


def _records(state: State) -> Iterator[TurnRecord]:
    return filter(None, map(state.turns.load, state.turns.ids()))


def _turn(state: State, record: TurnRecord) -> TurnView:
    settlement = record.settlement
    usage = settlement.usage if settlement else None
    settled = state.turns.is_settled(record.turn_id)
    return TurnView(
        turn_id=record.turn_id,
        message_id=record.envelope.id,
        thread=record.envelope.thread,
        sender=record.envelope.sender,
        runtime=record.runtime,
        attempt=record.attempt,
        phase=record.phase.value,
        settled=settled,
        outcome=settlement.outcome.value if settlement else None,
        detail=settlement.detail if settlement else None,
        seconds=settlement.seconds if settlement else None,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cost_usd=usage.cost_usd if usage else None,
        claimed_at=record.claimed_at,
        batch=tuple(one.envelope.id for one in record.batch),
        waits="" if settled else _waits(state, record.turn_id),
    )


def _waits(state: State, turn_id: str) -> str:
    progress = state.turns.progress(turn_id)
    if progress is None or not progress.waits:
        return ""
    return (f"to {progress.waits_for}: " if progress.waits_for else "") + progress.waits


def _whole(state: State, record: TurnRecord) -> WholeTurnView:
    turn, settlement = _turn(state, record), record.settlement
    touched = settlement.touched if settlement else ()
    if touched:
        from agent_mailer.reservations.touched import as_line  # few turns have any
    return WholeTurnView(
        **msgspec.structs.asdict(turn),
        resumed=record.resume,
        pid=record.process.pid if record.process else None,
        stopped=record.stopped.value if record.stopped else None,
        session=settlement.session.entry.session_id if settlement and settlement.session else None,
        question=settlement.question if settlement else None,
        sent=tuple(_sent(entry, turn) for entry in settlement.items) if settlement else (),
        folder=str(state.turns.path(record.turn_id)),
        started_at=record.started_at,
        touched=as_line(touched) if touched else "",
    )


def _sent(entry: SettledItem, turn: TurnView) -> SentView:
    """A settled turn has delivered whatever was not refused, and need not have noted it."""
    fate = ItemState.DELIVERED if entry.state is ItemState.PENDING and turn.settled else entry.state
    return SentView(entry.item.id, entry.item.recipient, fate.value, entry.why)
