"""What the watcher tells of its workdir to whoever operates it from elsewhere: when something has changed, and no more
than once a second. Nothing is written for it, and an idle watcher says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from agent_mailer import __version__
from agent_mailer.clock import from_iso
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import printable, turn_began
from agent_mailer.remote.port import (
    LONGEST_NAME,
    LONGEST_WORD,
    MOST_LISTED,
    Counted,
    Ended,
    Question,
    Remote,
    Report,
    Resting,
    Scheduled,
    Spent,
    Stuck,
    Trouble,
    Working,
)
from agent_mailer.schedules.told import Told
from agent_mailer.state import State
from agent_mailer.state.records import Pause
from agent_mailer.state.stuck import StuckKind, split_key
from agent_mailer.watch.errands import Errands
from agent_mailer.watch.room import Pump, Room, Stage

if TYPE_CHECKING:
    from agent_mailer.watch.pulse import Ear

EVERY = 1.0
"""Seconds between two reports."""

N = TypeVar("N", Question, Stuck)

STOPPED = "stopped"


def operated_from_afar(room: Room, ear: Ear, pump: Pump) -> list[Coroutine[None, None, None]]:
    """What runs beside the loop, where somebody elsewhere can be told and may ask. `pump` has the loop woken."""
    if room.remote is None:
        return []
    errands = ear.errands = Errands(room, room.remote, ear.listen_afar)
    reporting = Reporting(room, room.remote)
    room.touched, room.leaves = reporting.touch, reporting.leave
    return [reporting.go_on(), pump(errands.hear, errands.heed), errands.tell_on()]


class Reporting:
    def __init__(self, room: Room, remote: Remote) -> None:
        self._room = room
        self._remote = remote
        self._since = room.clock.now()
        self._changed = asyncio.Event()
        self._last: Report | None = None
        self._told = Told()
        room.log.listen(lambda _: self.touch())
        room.troubles.listen(self.touch)

    def touch(self) -> None:
        """Something may have changed."""
        self._changed.set()

    async def go_on(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            with suppress(OSError, MailboxUnavailable):
                self._tell(report_of(self._room, self._since, self._schedules()))
            await asyncio.sleep(EVERY)

    def leave(self) -> None:
        """The watcher was stopped: nobody has to look for it."""
        with suppress(OSError):
            self._tell(report_of(self._room, self._since, self._schedules(), STOPPED))

    def _schedules(self) -> tuple[Scheduled, ...]:
        """Raises OSError."""
        room = self._room
        return self._told.of(room.policy.schedules, room.state.schedules.all, room.clock.now())

    def _tell(self, report: Report) -> None:
        if report != self._last:
            self._last = report
            self._remote.tell(report)


def report_of(room: Room, since: float, schedules: tuple[Scheduled, ...], ended: str = "") -> Report:
    """As it is now. Raises OSError."""
    state, now = room.state, room.clock.now()
    pause, trouble, signed_out = room.state.pause.read(), room.troubles.oldest, state.login.read()
    busy = {message_id for work in room.work.values() for message_id in work.message_ids}
    waiting = [one for one in room.waiting if one.envelope.id not in busy and one.not_before <= now]
    later = [one.not_before for one in room.waiting if one.envelope.id not in busy and one.not_before > now]
    today = state.usage.today()
    stuck_counts = state.stuck.counts()
    stuck_counts[StuckKind.GIVEN_UP] += state.dead_letters.count()
    stuck_counts[StuckKind.NOT_SENT] += len(state.unsent)
    return Report(
        version=__version__,
        remote=room.policy.remote.value,
        runtime=room.traits.name[:LONGEST_WORD],
        since=since,
        working=tuple(_working(room)),
        pause=_resting(pause) if pause is not None else None,
        trouble=Trouble(trouble.what.value, trouble.since) if trouble is not None else None,
        signed_out=signed_out.at if signed_out is not None else None,
        waiting=len(waiting),
        oldest=min((max(0.0, one.envelope.created) for one in waiting), default=None),
        retries=len(later),
        next_retry=min(later, default=None),
        questions=_named(_questions(room)),
        stuck=_named(_stuck(state)),
        stuck_counts=tuple(Counted(kind.value, stuck_counts[kind]) for kind in StuckKind if stuck_counts[kind]),
        held=_named(_held(state)),
        held_counts=tuple(Counted(guard.value, many) for guard, many in state.held.counts().items()),
        schedules=schedules,
        last=_last(state),
        today=Spent(
            datetime.fromtimestamp(now, UTC).date().isoformat(),
            today.turns,
            today.seconds,
            today.usage.input_tokens,
            today.usage.output_tokens,
            round(today.usage.cost_usd, 6),
        ),
        seen=state.remote.seen,
        ended=ended,
    )


def _working(room: Room) -> Iterator[Working]:
    for turn_id, work in room.work.items():
        if work.stage is Stage.CLAIMING or max(len(work.envelope.id), len(work.envelope.thread)) > LONGEST_NAME:
            continue
        tool, tool_since = work.tool
        yield Working(
            turn_id,
            work.envelope.id,
            work.envelope.thread,
            turn_began(turn_id),
            printable(tool, LONGEST_WORD),
            tool_since if tool else None,
            settles=work.stage is not Stage.RUNNING,
            waits=work.stage is Stage.STUCK,
        )


def _resting(pause: Pause) -> Resting:
    return Resting(pause.reason.value, pause.since, pause.until, pause.guessed)


def _questions(room: Room) -> Iterator[Question]:
    """What an agent asks by mail, until its thread has moved on; and what waits for a yes."""
    state = room.state
    moving = {work.envelope.thread for work in room.work.values()} | {one.envelope.thread for one in room.waiting}
    for asked in state.questions.all():
        if asked.thread not in moving:
            yield Question(asked.turn_id, asked.thread, asked.message_id, asked.at, asked.asked)
    if any(entry.asked for entry in state.retries.all()):
        for one in state.approvals.open():
            tool = printable(one.call.tool, LONGEST_WORD) or "a tool"
            yield Question(one.id, one.thread, one.message_id, one.asked_at, tool=tool, until=one.expires_at)


def _stuck(state: State) -> Iterator[Stuck]:
    for letter in state.dead_letters.newest(MOST_LISTED):
        at = _moment(letter.stuck_at)
        yield Stuck(StuckKind.GIVEN_UP.value, letter.msg_id, at, letter.thread_id, letter.msg_id)
    for key in state.unsent.all()[-MOST_LISTED:]:
        turn_id, _ = split_key(key) or ("", 0)
        yield Stuck(StuckKind.NOT_SENT.value, key, turn_began(turn_id))
    for entry in state.stuck.all()[-MOST_LISTED:]:
        if entry.key:
            yield Stuck(entry.kind.value, entry.key, entry.at, entry.thread, entry.message_id)


def _held(state: State) -> Iterator[Stuck]:
    newest = list(state.held.waiting)[-MOST_LISTED:]
    for entry in state.held.find(newest).values() if newest else ():
        thread = entry.envelope.thread if entry.envelope is not None else ""
        yield Stuck(entry.guard.value, entry.message_id, entry.at, thread, entry.message_id)


def _moment(text: str) -> float:
    with suppress(ValueError):
        return max(0.0, from_iso(text))
    return 0.0


def _named(found: Iterable[N]) -> tuple[N, ...]:
    """The newest; without what has names that are too long to be told."""
    fits = (one for one in found if max(map(len, (one.thread, one.message_id, _name_of(one)))) <= LONGEST_NAME)
    return tuple(sorted(fits, key=lambda one: one.since)[-MOST_LISTED:])


def _name_of(one: Question | Stuck) -> str:
    return one.id if isinstance(one, Question) else one.key


def _last(state: State) -> Ended | None:
    for turn_id in state.turns.newest_settled(1):
        record = state.turns.load(turn_id)
        if record is None or record.settlement is None:
            break
        settlement, envelope = record.settlement, record.envelope
        cost = settlement.usage.cost_usd if settlement.usage is not None else 0.0
        if max(len(envelope.id), len(envelope.thread)) > LONGEST_NAME:
            break
        how = (settlement.outcome.value, settlement.decided_at, settlement.seconds, cost)
        return Ended(turn_id, envelope.id, envelope.thread, *how)
    return None
