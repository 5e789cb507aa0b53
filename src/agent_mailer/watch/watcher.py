"""The loop: wake, see what is pending, admit, start, and wait again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from typing import TypeVar

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, MailboxUnavailable, Presence
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import Pause
from agent_mailer.state.turns import ids_of
from agent_mailer.watch.backlog import Doer, Look, look
from agent_mailer.watch.batch import batch_of
from agent_mailer.watch.beside import beside_the_loop, going_on, pump_folders
from agent_mailer.watch.housekeeping import prune
from agent_mailer.watch.notices import LEAVE_PATIENCE, ONCE_PATIENCE
from agent_mailer.watch.pulse import Ear
from agent_mailer.watch.recovery import OpenWork, recover
from agent_mailer.watch.room import Room, Stage, Work
from agent_mailer.watch.rules import Candidate, may_start
from agent_mailer.watch.settings import Settings
from agent_mailer.watch.trouble import OWN
from agent_mailer.watch.turn import run_turn

SPREAD_SECONDS = 5.0
"""Watchers that waited for the same account start again within this long, each at a moment of its own."""

STOPPING_LOOKS = 0.5
PROBE_PATIENCE = 60.0
"""Another watcher probes the account: its result wakes us; this is the net should it never come."""
ONCE_LOOKS = 0.2

T = TypeVar("T")


class End(Enum):
    """Why the loop ended."""

    STOPPED = "stopped"
    HANDED_OVER = "handed over"
    DRAINED = "drained"


class Watcher:
    """Watches one mailbox for one workdir. The caller holds the workdir's lock."""

    def __init__(self, room: Room, *, once: bool = False, settings: Settings | None = None) -> None:
        self._room = room
        self._once = once
        self._wake = asyncio.Event()
        room.wake = self._wake.set
        self._settings = settings
        if settings is not None:
            settings.wake = self._wake.set
        self._doer = Doer(room)
        self._attempted: set[str] = set()
        """Messages that this run has tried: `once` tries each but once."""
        self._hold_until = 0.0
        self._prunes_first = once
        self._tries = 0
        self._look_for_open = True
        """There may be open turns that nobody sees through: an earlier watcher's, or one that a fault interrupted."""
        self._ear = Ear(room)
        self._paused = False
        self._fault: BaseException | None = None
        self.failed = False
        """Whether any turn of this run ended in an outcome other than done or blocked."""

    @property
    def in_work(self) -> int:
        return len(self._room.work)

    def stop(self, grace: float | None = None) -> None:
        """End running turns after `grace` seconds (None: as configured), then leave; of two the shorter counts."""
        self._room.request_stop(self._room.policy.stop_grace if grace is None else grace)
        self._wake.set()

    def hand_over(self) -> None:
        """Leave at once; running turns go on and are adopted by the next watcher."""
        self._room.hand_over()
        self._wake.set()

    async def run(self) -> End:
        """Raises BusyFault or ConfigFault where the mailbox or the workdir is not ours to watch."""
        self._room.troubles.forget()
        self._room.notices.start(self._fail)
        try:
            async with going_on(self._beside()):
                return await self._run()
        finally:
            await self._room.notices.end(LEAVE_PATIENCE)

    def _beside(self) -> Iterator[Coroutine[None, None, None]]:
        account = self._room.state.pause.account
        yield pump_folders(self._pump, [self._room.state.folder.requests], self._ear.heed)
        if account is not None:
            yield pump_folders(self._pump, [account.folder])
        if self._once:
            self._room.keep_out_of_git()
        else:
            yield from beside_the_loop(self._room, self._ear, self._pump, self._settings)

    async def _run(self) -> End:
        if not self._once:
            self._room.mailbox.announce(Presence.ACTIVE)
        if not await self._open_mailbox():
            return End.STOPPED
        pump = asyncio.create_task(self._pump(self._room.mailbox.wait))
        try:
            end = await self._loop()
        finally:
            left_open = bool(self._room.work)
            tasks = [pump, *(work.task for work in self._room.work.values() if work.task is not None)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Before the mailbox is closed: some of it leaves by mail.
            await self._room.notices.end(ONCE_PATIENCE if self._once else LEAVE_PATIENCE)
            if self._room.stopping.is_set() and self._fault is None:
                self._room.leaves()
            with suppress(MailboxUnavailable):
                await self._room.mailbox.close()
        if self._fault is not None:
            self._room.log.emit(EventName.WATCH_FAULT, why=f"{type(self._fault).__name__}: {self._fault}")
            raise self._fault
        if end is not End.HANDED_OVER:
            with suppress(OSError):
                if not left_open:
                    self._room.state.turns.stop_is_over()
                self._room.state.sessions.close()
        return end

    async def _loop(self) -> End:
        while True:
            self._wake.clear()
            if self._room.handing_over.is_set() or self._fault is not None:
                return End.HANDED_OVER
            if self._room.stopping.is_set():
                patience = self._room.stop_patience()
                if patience <= 0:
                    return End.STOPPED
                await self._sleep(min(patience, STOPPING_LOOKS))
                continue
            next_look = await self._room.unless_leaving(self._start_what_may())
            if not self._room.work:
                # Who was kept from probing by a guard or a fault holds up nobody on his account.
                self._room.state.pause.end_probe()
            if self._room.leaving:
                continue
            if self._once and next_look is None:
                if not self._room.work:
                    return End.DRAINED
                if all(work.stage is Stage.STUCK for work in self._room.work.values()):
                    # What waits for a mailbox or a disk, a later watcher settles.
                    self.failed = True
                    return End.DRAINED
                next_look = ONCE_LOOKS
            await self._sleep(next_look)

    async def _start_what_may(self) -> float | None:
        """Start turns for what is pending; returns when to look again without a wake, seconds from now."""
        room = self._room
        try:
            if self._settings is not None and self._settings.heed():
                self._settings.take()
            await self._take_up_open()
            if self._ear.asked:
                self._look_for_open = self._ear.apply_waiting() or self._look_for_open
                await self._take_up_open()
            pause = self._pause()
            if (held := self._hold_remaining()) > 0:
                return held
            if self._prunes_first:
                self._prunes_first = False
                await prune(room)
            # Before the look, so that it finds what has just left.
            next_due = await self._from_mailbox(room.send_due(pause))
            found = await self._from_mailbox(self._look())
            now = room.clock.now()
            plan = found.plan({work.envelope.thread for work in room.work.values()}, now)
            ready, taken = [candidate for candidate in plan.ready if self._is_due_once(candidate)], list[Candidate]()
            if room.offers is not None:
                ready, taken = room.offers.sift(found.candidates, ready, pause, now, holds=not self._once)
            keeps, passing = room.gate.past(pause, ready)
            urgent = sum(candidate.envelope.id in plan.urgent for candidate in passing)
            slots = may_start(keeps, now, self._at_work(), room.policy.max_parallel_turns, urgent)
            room.tell_of_urgent(found.candidates)
            if ready and slots and keeps is not None and not room.state.pause.may_probe(keeps):
                return self._give_up_or(PROBE_PATIENCE)
            others = found.candidates if pause is None and room.policy.batch_low else ()
            admitted = room.gate.admit([*taken, *passing[:slots]], now)
            with room.gate.until_begun(admitted.go) as left:
                if admitted.stops:
                    await room.held.hold(admitted.stops)
                if admitted.go:
                    room.keep_out_of_git()
                pause = room.gate.pause(pause, now, admitted.pause)
                while left:
                    candidate = left[0]
                    batch = batch_of(candidate, others, room.policy) if others and candidate.taker is None else ()
                    batch = room.gate.beside(candidate.envelope, batch, now) if batch else ()
                    turn_id, ids = new_turn_id(now), {candidate.envelope.id, *(envelope.id for envelope in batch)}
                    self._attempted |= ids
                    work = Work(candidate.envelope, Stage.CLAIMING, ids, candidate.taker)
                    self._spawn(turn_id, work, self._turn(candidate, turn_id, batch))
                    left.popleft()
        except (MailboxUnavailable, OSError) as fault:
            self._look_for_open = True
            return self._give_up_or(self._in_trouble(fault))
        if room.troubles.lasting:
            self._out_of_trouble()
        if room.notices.channels:
            with suppress(OSError):
                # At the next look once more.
                room.notices.look(pause)
        silence = room.hear(found.candidates, pause, now)
        if admitted.stops or self._once:
            return 0.0 if admitted.stops else None
        scheduled = now + next_due if next_due is not None else None
        moments = [moment for moment in (plan.next_due, silence, scheduled) if moment is not None]
        if ready and not self._at_work():
            # A probe that is due may have to wait for a guard.
            moments += [one.until for one in (pause, admitted.pause) if one and one.until and one.until > now]
        return max(0.0, min(moments) - now) if moments else None

    async def _look(self) -> Look:
        """Of one moment: a message that was open when the look began, and no longer is, may be the head of its thread.

        Raises MailboxUnavailable and OSError.
        """
        room = self._room
        while True:
            in_work = set(room.work)
            open_ids = {message_id for work in room.work.values() for message_id in work.message_ids}
            if room.state.stuck.wanted:
                await room.stuck.ask_again()
            found = await look(room.mailbox, room.state, room.policy, open_ids, woken=not self._once)
            none_to_run = await self._doer.do(found.actions)
            if self._doer.taken:
                continue
            if in_work <= set(room.work):
                return found.without(none_to_run) if none_to_run else found

    async def _take_up_open(self) -> None:
        """Before anything new is started: open turns are seen through, as after a start. Raises OSError."""
        if not self._look_for_open or self._hold_remaining() > 0:
            return
        # Before it: what is interrupted while others are looked for is looked for the next time.
        self._look_for_open = False
        for open_work in await recover(self._room):
            record = open_work.record
            stage = Stage.RUNNING if record.settlement is None else Stage.SETTLING
            work = Work(record.envelope, stage, ids_of(record), record.live)
            self._spawn(record.turn_id, work, self._finish(open_work))

    def _pause(self) -> Pause | None:
        pause = self._room.gate.pause(self._room.state.pause.current(), self._room.clock.now())
        if pause is None and self._paused and self._room.state.pause.account is not None:
            self._hold_off(SPREAD_SECONDS * self._room.jitter())
        before, self._paused = self._paused, pause is not None
        if self._paused != before and not self._once:
            status = Presence.PAUSED if self._paused else Presence.ACTIVE
            self._room.mailbox.announce(status, pause.reason.value if pause is not None else "")
        return pause

    def _hold_remaining(self) -> float:
        """Seconds for which nothing is started."""
        return max(0.0, self._hold_until - self._room.clock.monotonic())

    def _hold_off(self, seconds: float) -> None:
        """Start nothing for a while: a claim has just failed, say, and the next would."""
        self._hold_until = self._room.clock.monotonic() + seconds

    def _give_up_or(self, wait: float) -> float | None:
        if self._once:
            self.failed = True
            return None
        return wait

    def _at_work(self) -> int:
        """Turns that run or are about to; those that only have to be settled hold no place."""
        return sum(work.holds_place for work in self._room.work.values())

    def _is_due_once(self, candidate: Candidate) -> bool:
        reserving, one = self._room.reserving, candidate.envelope.id
        return (reserving is None or reserving.may_try(one)) and (not self._once or one not in self._attempted)

    async def _turn(self, candidate: Candidate, turn_id: str, batch: Sequence[Envelope]) -> None:
        def claimed() -> None:
            self._room.enter(turn_id, Stage.RUNNING)
            if self._room.troubles.lasting:
                self._wake.set()

        try:
            outcome = await run_turn(self._room, candidate, turn_id, claimed, batch)
        except (MailboxUnavailable, OSError) as fault:
            self._interrupted(fault)
        else:
            self.failed |= outcome is not None and not outcome.settles
            # What has left the turn, or its head was not to be had, was not tried.
            self._attempted -= {one.id for one in batch if self._room.state.retries.get(one.id) is None}

    async def _finish(self, work: OpenWork) -> None:
        try:
            outcome = await work.finish()
        except (MailboxUnavailable, OSError) as fault:
            self._interrupted(fault)
        else:
            self.failed |= isinstance(outcome, Outcome) and not outcome.settles

    def _interrupted(self, fault: MailboxUnavailable | OSError) -> None:
        """Whatever it has left open is taken up again, by this watcher once the trouble allows or by the next."""
        self._hold_off(self._in_trouble(fault))
        self._look_for_open = not self._once
        self.failed = True

    def _spawn(self, turn_id: str, work: Work, story: Coroutine[None, None, None]) -> None:
        self._room.work[turn_id] = work
        work.task = asyncio.create_task(story)
        work.task.add_done_callback(lambda task: self._ended(turn_id, task))

    def _ended(self, turn_id: str, task: asyncio.Task[None]) -> None:
        self._room.work.pop(turn_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault of ours: leave, so that the next watcher recovers from the files rather than from this memory.
            self._fail(error)
        self._wake.set()

    def _fail(self, error: BaseException) -> None:
        self._fault = self._fault or error
        self._wake.set()

    async def _open_mailbox(self) -> bool:
        """False where we were stopped before it could be opened."""
        while True:
            self._wake.clear()
            try:
                if not await self._room.unless_leaving(self._opened()):
                    return False
            except MailboxUnavailable as fault:
                if self._once:
                    raise
                wait = self._in_trouble(fault)
            else:
                self._out_of_trouble()
                return True
            await self._sleep(wait)
            if self._room.leaving:
                return False

    async def _opened(self) -> bool:
        await self._from_mailbox(self._room.mailbox.open())
        return True

    async def _from_mailbox(self, answer: Awaitable[T]) -> T:
        """Whoever asks the loop meanwhile hears that it waits for its mailbox."""
        self._ear.mailbox_since = self._room.clock.monotonic()
        try:
            return await answer
        finally:
            self._ear.mailbox_since = None

    async def _pump(self, wait: Callable[[], Awaitable[None]], heed: Callable[[], bool] | None = None) -> None:
        await self._room.pump(wait, heed, self._wake.set, self._fail)

    async def _sleep(self, seconds: float | None) -> None:
        if self._ear.pinged:
            self._ear.answer()
        self._ear.loop_rests = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._ear.loop_rests = False

    def _in_trouble(self, fault: MailboxUnavailable | OSError) -> float:
        """Tell what is wrong, once per kind of trouble; returns the seconds to wait."""
        self._room.troubles.begin(OWN, fault)
        self._tries += 1
        return self._room.trouble_wait(self._tries - 1)

    def _out_of_trouble(self) -> None:
        """The mailbox has answered; a claim that is under way may still tell otherwise."""
        claiming = any(work.stage is Stage.CLAIMING for work in self._room.work.values())
        if not claiming and self._room.troubles.over(OWN):
            self._tries = 0
            self._room.log.emit(EventName.MAILBOX_BACK)
