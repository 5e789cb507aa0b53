"""What the parts of the engine share: ports, state, policy, clock; and how they wait for what refuses just now."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from agent_mailer.clock import Clock
from agent_mailer.errors import MailerError, words_of
from agent_mailer.events import EventName
from agent_mailer.git_tree import Part, keep_out
from agent_mailer.mailbox.port import Envelope, Mailbox, MailboxUnavailable
from agent_mailer.names import printable
from agent_mailer.prompts import PromptRoom
from agent_mailer.runtimes.port import Runtime, RuntimeTraits
from agent_mailer.schedules.sending import Sending
from agent_mailer.state import State
from agent_mailer.state.records import Pause, Sitter, TurnProgress, TurnRecord
from agent_mailer.watch.guards.alarm import is_wished, listen
from agent_mailer.watch.guards.gate import Gate
from agent_mailer.watch.guards.holding import HeldMail
from agent_mailer.watch.notices import Notices
from agent_mailer.watch.program import Program
from agent_mailer.watch.rules import Candidate, WatchPolicy, backoff, urgent_beside
from agent_mailer.watch.stuck import StuckMail
from agent_mailer.watch.trouble import Troubles

if TYPE_CHECKING:
    from agent_mailer.confine.confinement import Confinement
    from agent_mailer.remote.port import Remote
    from agent_mailer.watch.offering import Offers
    from agent_mailer.watch.reserving import Reserving

STOP_PATIENCE = 15.0
"""After the grace: ending a tree takes at most 8 s. What cannot be settled then, the next watcher settles."""

SHORTEST_WAIT = 0.05
SETTLE_PATIENCE = 5.0
"""The same once no turn runs any more: a broker that does not answer, or a disk that refuses, is not waited for."""

SETTLED_SOON = 0.5
"""Seconds within which a turn that has ended is settled, where nothing keeps it from that."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Pump = Callable[[Callable[[], Awaitable[None]], Callable[[], bool] | None], Coroutine[None, None, None]]


class Stage(Enum):
    """How far a turn is in this process. One that settles holds its thread, but no place of a running turn."""

    CLAIMING = "claiming"
    RUNNING = "running"
    SETTLING = "settling"
    STUCK = "stuck"
    """Decided, and waiting for a mailbox or a disk."""


class Work:
    """A turn that a task of this process sees through."""

    def __init__(
        self, envelope: Envelope, stage: Stage, message_ids: Collection[str], live: Sitter | None = None
    ) -> None:
        self.envelope = envelope
        self.live = live
        self.stage = stage
        self.message_ids = message_ids
        """All that the turn was handed."""
        self.task: asyncio.Task[None] | None = None
        self.tool = ("", 0.0)
        """The tool that the turn's program waits for longest, and since when; empty where none."""
        self.urgent: tuple[Envelope, ...] = ()
        """What the turn was told to wait in its thread."""
        self.documents: dict[str, str] | None = None
        """What told agents what to do when the turn began; None where an earlier watcher saw it begin."""
        self.waits = ("", "")
        """Why it waits, and with an item for whom: as it was written down last."""

    @property
    def holds_place(self) -> bool:
        """A session's work takes nothing from the agent's own turns."""
        return self.live is None and self.stage in (Stage.CLAIMING, Stage.RUNNING)


class Room:
    """One watcher's surroundings. `guard` raises BusyFault when the workdir's lock is no longer ours; `persons` is the
    end from which a person's mail by the clock leaves, the agent's own where there is no other.
    """

    reserving: Reserving | None = None
    remote: Remote | None = None
    """The way to whoever operates the agent from elsewhere."""
    offers: Offers | None = None
    """To live sessions, where they come first."""
    live_runtime: Callable[[Sitter], Runtime]
    earlier_runtime: Callable[[TurnRecord], Runtime]
    """The one that an earlier watcher started a turn with. May raise MailerError and ValueError."""

    def __init__(
        self,
        *,
        mailbox: Mailbox,
        persons: Mailbox,
        runtime: Runtime,
        confinement: Confinement | None,
        state: State,
        policy: WatchPolicy,
        prompts: PromptRoom,
        clock: Clock,
        guard: Callable[[], None],
    ) -> None:
        self.mailbox = mailbox
        self.address = mailbox.address
        self.program = Program(runtime)
        """Of turns that start now: one that runs keeps its own."""
        self.confinement = confinement
        self.state = state
        self.log = state.log
        self.policy = policy
        self.prompts = prompts
        self.clock = clock
        self.guard = guard
        self.wake: Callable[[], None] = lambda: None
        """Has the loop look at once."""
        self.touched: Callable[[], None] = lambda: None
        """Something has changed that is told elsewhere, and is no event."""
        self.leaves: Callable[[], None] = lambda: None
        """The watcher was stopped, and is about to leave."""
        self.waiting: Collection[Candidate] = ()
        """What was to be done at the last look, in work or not."""
        self.work: dict[str, Work] = {}
        """By turn id: all that this process has in hand."""
        self.troubles = Troubles(state, clock)
        self.notices = Notices(mailbox, state, policy, clock, guard, self.troubles)
        self.stuck = StuckMail(mailbox, state)
        self.gate = Gate(state, lambda: self.policy, clock, mailbox.address)
        self.held = HeldMail(mailbox, state, self.notices, self.stuck, clock)
        self.scheduled = Sending(persons, mailbox.address, state.schedules, state.log, clock, self.notices.tell)
        self.handing_over = asyncio.Event()
        self.stopping = asyncio.Event()
        self.stop_at: float | None = None
        """Monotonic: when running turns are ended, once we are stopping."""
        self._until_we_leave: asyncio.Timeout | None = None
        self._last_ran = 0.0
        self._git_told = ""
        self._since: dict[str, float] = {}
        """By message id: since when it waits."""
        self._rests = False
        self._rested = 0.0
        """When a pause that somebody wanted was last seen, or seen to be over."""

    def keep_out_of_git(self) -> None:
        """Before each turn: an agent, or a person, may have made a tree, or undone what keeps us out of it."""
        whys = []
        for folder in self.policy.out_of_git:
            made, fault = keep_out(self.state.folder.disk, folder)
            if any(lack.part is not Part.IGNORES_ITSELF for lack in made):
                self.log.emit(EventName.GIT_KEPT_OUT, folder=str(folder), files=", ".join(str(x.path) for x in made))
            if fault is not None:
                whys.append((folder, fault))
        told = " ".join(fault.message for _, fault in whys)
        if told != self._git_told:
            for folder, fault in whys:
                self.log.emit(EventName.GIT_TROUBLE, folder=str(folder), why=fault.message, fix=fault.fix)
        self._git_told = told

    def look_at_once(self) -> None:
        self.wake()

    def program_of(self, live: Sitter | None) -> Program:
        """That of turns which start now, or of one that a live session has."""
        return self.program if live is None else Program(self.live_runtime(live))

    @property
    def runtime(self) -> Runtime:
        return self.program.runtime

    @property
    def traits(self) -> RuntimeTraits:
        return self.program.traits

    def tell_of_urgent(self, candidates: Collection[Candidate]) -> None:
        """To a running turn, through its tools' next answer; the message keeps its place and gets its own turn."""
        turns, self.waiting = self.work, candidates
        self.touched()
        running = {work.envelope.thread: turn_id for turn_id, work in turns.items() if work.stage is Stage.RUNNING}
        for turn_id, waiting in urgent_beside(candidates, running).items() if running else ():
            if waiting != turns[turn_id].urgent:
                with suppress(OSError):
                    self.state.turns.folder(turn_id).tell_urgent(waiting)
                    turns[turn_id].urgent = waiting

    def hear(self, candidates: Iterable[Candidate], pause: Pause | None, now: float) -> float | None:
        """Tell of mail that lies too long; when there may be more to tell, in seconds since the epoch."""
        if (policy := self.policy.guards.alarm) is None or not self.notices.channels:
            return None
        wished = is_wished(pause)
        if wished or self._rests:
            # The night's mail has waited for nobody until now.
            self._rested = now
        self._rests = wished
        in_work = {message_id for work in self.work.values() for message_id in work.message_ids}
        waiting = [one.envelope for one in candidates if one.envelope.id not in in_work]
        # What lies ahead, by a sender's clock or since ours was set back, has waited since it was first seen there.
        self._since = {one.id: min(one.created, self._since.get(one.id, now), now) for one in waiting}
        self._rested = min(self._rested, now)
        heard = listen(policy, self._since.values(), self.gate.last_turn(now), pause, now, self._rested)
        with suppress(OSError):
            # At the next look once more.
            self.notices.hear(heard.silent)
        return heard.next_look

    async def send_due(self, pause: Pause | None) -> float | None:
        """Send what is due by the clock; the seconds until more may be. During a pause nothing leaves, nor where hours
        or the machine would make it one. Raises MailboxUnavailable and OSError.
        """
        if pause is not None or not (self.policy.schedules or self.state.folder.has_sent):
            return None
        now = self.clock.now()
        calm = self.gate.calm(now)
        if calm is not None:
            return None if calm.until is None else max(0.0, calm.until - now)
        return await self.scheduled.send_due(self.policy.schedules)

    def jitter(self) -> float:
        return random.random()

    def take(self, policy: WatchPolicy, prompts: PromptRoom, runtime: Runtime) -> None:
        """Act on these from now on; a turn that runs keeps its program."""
        self.policy, self.prompts, self.program = policy, prompts, Program(runtime)

    def request_stop(self, grace: float) -> None:
        """End running turns after `grace` seconds. Asked again, the shorter time counts."""
        if not self.stopping.is_set():
            self.log.emit(EventName.WATCH_STOPPING, running=len(self.work), grace=grace)
            if self.work:
                with suppress(OSError):
                    self.state.turns.stop_begins()
        ends = self.clock.monotonic() + grace
        self.stop_at = ends if self.stop_at is None else min(self.stop_at, ends)
        self.stopping.set()
        self._hurry()

    def hand_over(self) -> None:
        self.handing_over.set()
        self._hurry()

    def _hurry(self) -> None:
        if self._until_we_leave is not None and not self._until_we_leave.expired():
            self._until_we_leave.reschedule(asyncio.get_running_loop().time())

    @property
    def leaving(self) -> bool:
        return self.stopping.is_set() or self.handing_over.is_set()

    async def unless_leaving(self, call: Awaitable[T]) -> T | None:
        """The result of `call`; None where we are to leave first: what it was about, the next watcher begins anew."""
        limit = self._until_we_leave = asyncio.timeout(None)
        try:
            async with limit:
                return await call
        except TimeoutError:
            if not limit.expired():
                raise
            return None
        finally:
            self._until_we_leave = None

    def stop_patience(self) -> float:
        """Seconds that are left for what is in hand, once we are stopping."""
        now, stages = self.clock.monotonic(), {work.stage for work in self.work.values()}
        if Stage.RUNNING in stages or not self._last_ran:
            self._last_ran = now
        if stages <= {Stage.STUCK}:
            return 0.0
        longest = (self.stop_at or 0.0) + STOP_PATIENCE
        return (longest if Stage.RUNNING in stages else min(longest, self._last_ran + SETTLE_PATIENCE)) - now

    def enter(self, turn_id: str, stage: Stage) -> None:
        work = self.work.get(turn_id)
        if work is None:
            return
        if stage is Stage.SETTLING and work.holds_place:
            asyncio.get_running_loop().call_later(SETTLED_SOON, self._place_is_free, turn_id)
        work.stage = stage

    def uses(self, turn_id: str, tool: str, since: float) -> None:
        """The turn's program waits for that tool; empty: for none."""
        work = self.work.get(turn_id)
        if work is not None and work.tool[0] != tool:
            work.tool = (tool, since)
            self.touched()

    def none_beside(self, turn_id: str) -> bool:
        """Whether no other turn runs, or is about to."""
        return not any(work.holds_place for other, work in self.work.items() if other != turn_id)

    def _place_is_free(self, turn_id: str) -> None:
        """A turn that is settled wakes the loop itself; of one whose end takes long nobody else would tell."""
        if turn_id in self.work:
            self.wake()

    async def pump(
        self,
        wait: Callable[[], Awaitable[None]],
        heed: Callable[[], bool] | None,
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Level-triggered: a wake says "maybe something", where `heed` agrees; a source that fails is tried again."""
        tries = 0
        while True:
            try:
                await wait()
                worth_it = heed is None or heed()
                tries = 0
            except (MailboxUnavailable, OSError):
                await asyncio.sleep(self.trouble_wait(tries))
                tries += 1
                worth_it = True
            except MailerError as fault:
                # The mailbox is another watcher's now.
                fail(fault)
                return
            if worth_it:
                wake()

    def trouble_wait(self, tries: int) -> float:
        """Anything up to the backoff: forty watchers of one broker do not come back at once."""
        wait = backoff(tries, self.policy.trouble_first, self.policy.trouble_longest)
        return max(SHORTEST_WAIT, wait * self.jitter())

    async def until_disk_takes_it(self, turn_id: str, write: Callable[[*Ts], T], *args: *Ts) -> T:
        """What `write` returns, once it raises no OSError. Raises what the guard raises."""
        for tries in count():
            # Where the workdir has vanished no waiting helps, and nothing may be made in its place.
            self.guard()
            try:
                result = write(*args)
            except OSError as error:
                self.troubles.begin(turn_id, error)
                why = words_of(error)
            else:
                if tries:
                    self.troubles.over(turn_id)
                return result
            await self.wait(turn_id, tries, why)
        raise AssertionError

    async def until_system_lets(self, turn_id: str, call: Callable[[], Awaitable[T]]) -> T:
        """The same for what is awaited, and needs descriptors or processes rather than the workdir."""
        return await self._until(turn_id, OSError, call)

    async def until_mailbox_takes_it(self, turn_id: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._until(turn_id, MailboxUnavailable, call)

    async def wait(self, turn_id: str, tries: int, why: str, to: str = "") -> None:
        """Between two tries. Whose agent has ended is stuck meanwhile; who looks on sees why, and whose item waits."""
        seconds = backoff(tries, self.policy.trouble_first, self.policy.trouble_longest)
        work = self.work.get(turn_id)
        if work is not None and work.stage is Stage.SETTLING:
            work.stage = Stage.STUCK
            if work.waits != (why, to):
                work.waits = (why, to)
                progress = TurnProgress(self.clock.now(), waits=printable(why, 600), waits_for=printable(to))
                self.state.turns.note_progress(turn_id, progress)
        try:
            await asyncio.sleep(seconds * (0.5 + self.jitter() / 2))
        finally:
            if work is not None and work.stage is Stage.STUCK:
                work.stage = Stage.SETTLING

    async def _until(
        self, turn_id: str, refusal: type[OSError] | type[MailboxUnavailable], call: Callable[[], Awaitable[T]]
    ) -> T:
        for tries in count():
            try:
                result = await call()
            except refusal as fault:
                self.troubles.begin(turn_id, fault)
                why = fault.message if isinstance(fault, MailboxUnavailable) else words_of(fault)
            else:
                if tries:
                    self.troubles.over(turn_id)
                return result
            await self.wait(turn_id, tries, why)
        raise AssertionError

    async def in_portions(self, remove: Callable[[], bool]) -> None:
        """What an agent has filled without bounds is removed while others go on; the disk may refuse, and keeps it."""
        with suppress(OSError):
            for _ in iter(remove, True):  # noqa: FBT003
                await asyncio.sleep(0)
