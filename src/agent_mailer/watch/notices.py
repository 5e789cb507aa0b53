"""What a person is told, once for each change: a question, a message given up, a pause and its end, lasting trouble.

What is to be told is durable (`guards.json`) before anybody is told, and stays there until he was: so a crash forgets
nothing. Telling is done beside the loop, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Delivered, Delivery, Envelope, Mailbox, Refused
from agent_mailer.names import printable
from agent_mailer.state import State
from agent_mailer.state.held import Guard
from agent_mailer.state.notices import Apprised, Channel, Notice, NoticeKind
from agent_mailer.state.records import Pause, TurnRecord
from agent_mailer.state.stuck import StuckEntry
from agent_mailer.watch.guards.alarm import Silence
from agent_mailer.watch.occasions import (
    MANY,
    lasts_from,
    of_questions,
    of_settlement,
    of_touched,
    of_unsent,
    worth_telling,
)
from agent_mailer.watch.rules import WatchPolicy, backoff
from agent_mailer.watch.telling import Teller
from agent_mailer.watch.trouble import Troubles

TRIES = 4
"""Of a command, and of Apprise."""

MAIL_PATIENCE = 7 * 86400.0
LEAVE_PATIENCE = 2.0
"""How long a watcher that leaves waits for what is being told; the next one tells the rest."""

ONCE_PATIENCE = 120.0

STRANGERS_A_DAY = 20
"""So many senders of held mail are told of one by one: who renames itself for each message is not heard for each."""

QUESTIONS_A_DAY = 20
"""So many questions are told one by one. What comes then is told together, and sooner: threads wait for it."""

HOUR, DAY = 3600.0, 86400.0


class Notices:
    """Does nothing at all where nobody is to be told."""

    def __init__(
        self,
        mailbox: Mailbox,
        state: State,
        policy: WatchPolicy,
        clock: Clock,
        guard: Callable[[], None],
        troubles: Troubles,
    ) -> None:
        self._book = state.notices
        self._approvals = state.approvals
        self._all_stuck = state.stuck
        self._log = state.log
        self._policy = policy
        self._clock = clock
        self._guard = guard
        self._troubles = troubles
        self._teller = Teller(policy, mailbox, state.approvals)
        self.channels = policy.notify.channels
        # To whom a message came from is written about what he is asked, or has answered, only.
        self._wakes = {channel: asyncio.Event() for channel in (*self.channels, Channel.SENDER)}
        self._quiet = {channel: asyncio.Event() for channel in self._wakes}
        """Set while a channel has nothing to tell just now."""
        self._due: dict[tuple[str, Channel], float] = {}
        self._failures: dict[tuple[str, Channel], int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        troubles.listen(self.wake)

    def settled(self, record: TurnRecord) -> None:
        """Remember what this turn has to tell, once however often it is called. Raises OSError."""
        settlement = record.settlement
        assert settlement is not None
        for notice in (
            of_settlement(record, settlement),
            of_unsent(record, settlement),
            of_touched(record, settlement),
        ):
            if notice is not None:
                self._tell_of(notice)
        for question in of_questions(record, settlement) if settlement.asked else ():
            if self._approvals.answer_to(question.question) is None:
                self._ask(question)

    def tell(self, notice: Notice) -> None:
        """Remember to tell of it, once however often it is called. Raises OSError."""
        self._tell_of(notice)

    def _stuck(self, entry: StuckEntry) -> None:
        """Remember to tell of it, once however often it is called. Raises OSError."""
        digest = hashlib.sha256(f"{entry.kind}\0{entry.key}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._tell_of(
            Notice(
                id=f"{NoticeKind.STUCK}-{digest}",
                kind=NoticeKind.STUCK,
                at=entry.at,
                reason=entry.kind.value,
                message_id=entry.message_id,
                thread=entry.thread,
                sender=entry.sender,
                stuck=entry.key,
            )
        )

    def held(self, guard: Guard, question: str, envelope: Envelope, why: str) -> None:
        """Remember to tell of it, once for each question; where there are many strangers, of them all once a day."""
        if not self.channels or not question:
            return
        now, told = self._clock.now(), self._book.told
        digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        name = f"{NoticeKind.HELD}-{digest}"
        if name in told.turns:
            return
        today = [moment for moment in told.held if 0 <= now - moment < DAY]
        many = guard is Guard.WHO and len(today) >= STRANGERS_A_DAY
        if many:
            name = f"{NoticeKind.HELD}-many-{int(now // DAY)}"
        self._tell_of(
            Notice(
                id=name,
                kind=NoticeKind.HELD,
                at=now,
                reason=guard.value,
                message_id="" if many else envelope.id,
                thread="" if many else envelope.thread,
                sender="" if many else envelope.sender,
                why=why,
            ),
            held=(*today, now) if guard is Guard.WHO and not many else None,
        )

    def tell_sender(self, notice: Notice) -> None:
        """Remember to tell whom its message came from, once however often it is called. Raises OSError."""
        self._book.add(msgspec.structs.replace(notice, left=(Channel.SENDER,)))
        self.wake()

    def _ask(self, question: Notice) -> None:
        """Once for each question; where an agent asks without end, of all of them once an hour. Raises OSError."""
        now, told = self._clock.now(), self._book.told
        if question.id in told.turns:
            return
        today = tuple(moment for moment in told.asked if 0 <= now - moment < DAY)
        if len(today) < QUESTIONS_A_DAY:
            self._tell_of(question, asked=(*today, now))
        else:
            if self._teller.asks_sender(question):
                self.tell_sender(question)
            self._tell_of(Notice(f"{NoticeKind.APPROVAL}-many-{int(now // HOUR)}", NoticeKind.APPROVAL, now, MANY))

    def _tell_of(
        self, notice: Notice, *, held: tuple[float, ...] | None = None, asked: tuple[float, ...] | None = None
    ) -> None:
        channels = tuple(c for c in self.channels if c is not Channel.MAIL or not self._teller.has_it(notice))
        if notice.question and self._teller.asks_sender(notice):
            channels = (*channels, Channel.SENDER)
        if not channels and not self.channels:
            return
        self._book.add(msgspec.structs.replace(notice, left=channels), held=held, asked=asked)
        self.wake()

    def look(self, pause: Pause | None) -> None:
        """Called after a look at the mailbox that went well: what has begun or ended since. Raises OSError."""
        if not self.channels:
            return
        while untold := self._all_stuck.untold:
            self._stuck(untold[0])
            untold.popleft()
        told = self._book.told
        if pause is None and told.pause:
            self._begin(Notice("", NoticeKind.RESUMED, self._clock.now(), told.pause), pause="")
        elif pause is not None and pause.reason.value != told.pause and worth_telling(pause):
            reason = pause.reason.value
            self._begin(Notice("", NoticeKind.PAUSED, pause.since, reason, until=pause.until), pause=reason)
        if told.trouble and self._troubles.oldest is None:
            self._begin(Notice("", NoticeKind.TROUBLE_OVER, self._clock.now(), told.trouble), trouble="")

    def hear(self, silent: Sequence[tuple[Silence, float]]) -> None:
        """Tell of each silence once while it lasts. Raises OSError."""
        told = tuple(one for one in self._book.told.silent if one in {what for what, _ in silent})
        if told != self._book.told.silent:
            self._book.still_silent(told)
        for what, since in silent:
            if what not in told:
                told = (*told, what.value)
                self._begin(Notice("", NoticeKind.ALARM, since, what.value), silent=told)

    def wake(self) -> None:
        for channel, wake in self._wakes.items():
            self._quiet[channel].clear()
            wake.set()

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Tell from now on; `failed` is told of a fault of ours."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(error)

        for channel in self._wakes:
            task = asyncio.create_task(self._tell_all(channel))
            task.add_done_callback(ended)
            self._tasks.append(task)

    async def end(self, patience: float) -> None:
        """Tell what can be told within `patience` seconds, and leave the rest to the next watcher."""
        if not self._tasks:
            return
        self.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                for task, quiet in zip(self._tasks, self._quiet.values(), strict=True):
                    if not task.done():
                        await quiet.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _tell_all(self, channel: Channel) -> None:
        wake, quiet = self._wakes[channel], self._quiet[channel]
        try:
            while True:
                wake.clear()
                quiet.clear()
                wait = await self._round(channel)
                if wait == 0.0:
                    continue
                quiet.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await wake.wait()
        except MailerError:
            # The workdir is another watcher's now, and so is what waits here.
            return
        finally:
            quiet.set()

    async def _round(self, channel: Channel) -> float | None:
        """Tell what is due; returns the seconds until there may be more, None = until somebody wakes us."""
        try:
            next_look = self._see_trouble()
            waiting = [notice for notice in self._book.told.waiting if channel in notice.left]
        except OSError:
            return self._policy.trouble_longest
        moments = [] if next_look is None else [next_look]
        for notice in waiting:
            remaining = self._due.get((notice.id, channel), 0.0) - self._clock.monotonic()
            if remaining > 0:
                moments.append(remaining)
                continue
            self._guard()
            self._take(notice, channel, await self._teller.tell(notice, channel))
            # Others may have come meanwhile, and this one may have to be told again.
            moments.append(0.0)
        return min(moments, default=None)

    def _see_trouble(self) -> float | None:
        """Begin to tell of trouble that lasts; returns the seconds until it does. Raises OSError."""
        trouble = self._troubles.oldest if self.channels else None
        if trouble is None or trouble.what.value == self._book.told.trouble:
            return None
        remaining = lasts_from(trouble, self._policy.notify.trouble_after) - self._clock.now()
        if remaining > 0:
            return remaining
        what = trouble.what.value
        self._begin(
            Notice("", NoticeKind.TROUBLE, trouble.since, what, why=printable(trouble.why), fix=trouble.fix),
            trouble=what,
        )
        return None

    def _begin(
        self,
        notice: Notice,
        *,
        pause: str | None = None,
        trouble: str | None = None,
        silent: tuple[str, ...] | None = None,
    ) -> None:
        """It is to be told; what is told to last from here on is `pause`, `trouble`, `silent`. Raises OSError."""
        name = f"{notice.kind}-{int(notice.at * 1000)}-{self._book.told.serial}"
        self._book.add(
            msgspec.structs.replace(notice, id=name, left=self.channels),
            pause=pause,
            trouble=trouble,
            silent=silent,
            # Where the disk is the trouble, this watcher tells of it all the same.
            even_if_refused=notice.kind is NoticeKind.TROUBLE,
        )
        self.wake()

    def _take(self, notice: Notice, channel: Channel, delivery: Delivery) -> None:
        """What came of telling it once."""
        key, why = (notice.id, channel), ""
        if isinstance(delivery, Delivered):
            self._log.emit(
                EventName.NOTICE_SENT,
                kind=notice.kind.value,
                by=channel.value,
                reason=notice.reason,
                turn_id=notice.turn_id or None,
                thread=notice.thread or None,
            )
        else:
            before = notice.apprise.tries if channel is Channel.APPRISE else notice.tries
            failures = self._failures.get(key, before) + 1
            if not isinstance(delivery, Refused) and not self._is_hopeless(notice, channel, failures):
                self._again(notice, channel, failures, delivery.why)
                return
            why = delivery.why
            self._log.emit(
                EventName.NOTICE_GIVEN_UP,
                kind=notice.kind.value,
                by=channel.value,
                reason=notice.reason,
                turn_id=notice.turn_id or None,
                thread=notice.thread or None,
                why=why,
            )
        self._due.pop(key, None)
        self._failures.pop(key, None)
        self._book.done(self._as_it_is(notice), channel, why)

    def _is_hopeless(self, notice: Notice, channel: Channel, failures: int) -> bool:
        if channel in (Channel.COMMAND, Channel.APPRISE):
            return failures >= TRIES
        return self._clock.now() - notice.at > MAIL_PATIENCE

    def _again(self, notice: Notice, channel: Channel, failures: int, why: str) -> None:
        policy, key = self._policy, (notice.id, channel)
        self._failures[key] = failures
        known = self._as_it_is(notice)
        if channel in (Channel.MAIL, Channel.SENDER):
            wait = backoff(failures - 1, policy.trouble_first, policy.trouble_longest)
        else:
            wait = backoff(failures - 1, policy.notify.again_after, policy.trouble_longest)
            if channel is Channel.COMMAND:
                known = msgspec.structs.replace(known, tries=failures)
            else:
                reached = Apprised(tuple(sorted(self._teller.apprised(notice))), failures)
                known = msgspec.structs.replace(known, apprise=reached)
            self._book.put(known)
        if channel in (Channel.COMMAND, Channel.APPRISE) or failures == 1:
            self._log.emit(
                EventName.NOTICE_FAILED,
                kind=notice.kind.value,
                by=channel.value,
                reason=notice.reason,
                turn_id=notice.turn_id or None,
                thread=notice.thread or None,
                why=why,
                in_seconds=round(wait, 1),
            )
        self._due[key] = self._clock.monotonic() + wait

    def _as_it_is(self, notice: Notice) -> Notice:
        """The other channel may have told it meanwhile."""
        return next((one for one in self._book.told.waiting if one.id == notice.id), notice)
