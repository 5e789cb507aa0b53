"""Following one running turn: its events as they are written, its clocks, what it asks to send at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from agent_mailer.beneath import is_there
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Draft, MailboxUnavailable, Message, Refused
from agent_mailer.names import printable
from agent_mailer.outcomes import StopReason
from agent_mailer.process.holder import STDERR_FILE, STDOUT_FILE, Supervised
from agent_mailer.process.output import LineFramer, OutputTail
from agent_mailer.process.tree import end_tree
from agent_mailer.runtimes.port import Evidence, Observation, Progress, Result, ToolEnded, ToolStarted
from agent_mailer.state.records import TurnProgress, TurnRecord
from agent_mailer.state.turns import STOP, share_of
from agent_mailer.turn_tools.folder import TurnFolder
from agent_mailer.watch.claim import origin_of
from agent_mailer.watch.deciding import compose_for
from agent_mailer.watch.judging import ended_by_a_stop
from agent_mailer.watch.program import Program
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import Activity, Limits, verdict

FROZEN = 2.0
"""Who wakes so much later than he wanted was stopped: by a signal, with his container, or with his machine."""

BUSY_INTERVAL = 0.1
QUIET_INTERVAL = 1.0
PROGRESS_INTERVAL = 1.0
TOOL_SHOWN = 100
"""Which tool on which file; adapters leave out what a tool was told to write."""
"""How often a turn's files are looked at while it writes, and while it is quiet; its end is noticed at once."""


class Follower:
    """Follows one turn to its end and returns the evidence; ends it when a clock runs out or the watcher stops."""

    def __init__(
        self, room: Room, record: TurnRecord, supervised: Supervised, at_once: AtOnce, program: Program
    ) -> None:
        self._room = room
        self._runtime, self._traits = program.runtime, program.traits
        self._record = record
        self._supervised = supervised
        self._at_once = at_once
        self._sending: asyncio.Task[None] | None = None
        """What is to leave at once: no clock of the turn, and no stop, waits for a mailbox."""
        self._tail = OutputTail(supervised.turn_dir / STDOUT_FILE)
        self._framer = LineFramer()
        self._observation = Observation()
        clock = room.clock
        # Wall to monotonic, for a turn that another watcher started; a start in the future counts as now.
        age = max(0.0, clock.now() - (record.started_at or clock.now()))
        self._started = clock.monotonic() - age
        self._last_event: float | None = None
        self._result_at: float | None = None
        self._tool_since: dict[str, float] = {}
        self.released = False
        """Whether the gate was opened: else nothing ran. Known at the turn's end."""
        self._noted_events = 0
        self._noted_at = -PROGRESS_INTERVAL

    async def follow(self) -> Evidence:
        """Returns when no process of the turn is left, the holder neither."""
        loop = asyncio.get_running_loop()
        ended = asyncio.create_task(self._until_ended())
        stopping = asyncio.create_task(self._room.stopping.wait())
        try:
            interval, looked = BUSY_INTERVAL, loop.time()
            while not ended.done():
                waits = {ended} if stopping.done() else {ended, stopping}
                await asyncio.wait(waits, timeout=interval, return_when=asyncio.FIRST_COMPLETED)
                looked = self._looked(looked + interval)
                grew, reason = False, None
                # What cannot be read or staged now, for want of a descriptor say, is there the next time.
                with suppress(OSError):
                    grew = self._read()
                    self._note_progress()
                    self._send_what_waits()
                interval = BUSY_INTERVAL if grew else min(QUIET_INTERVAL, interval * 1.5)
                looked = self._looked(looked)
                with suppress(OSError):
                    reason = self._why_stop()
                if reason is not None and not ended.done():
                    await self._end(reason)
                    looked = loop.time()
            await ended
        finally:
            # What was under way the settlement sends, and looks for it before where it may have left.
            tasks = (stopping, ended, *([self._sending] if self._sending is not None else []))
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
        return await self._room.until_system_lets(self._record.turn_id, self._evidence)

    def _send_what_waits(self) -> None:
        """Raises OSError where what was staged cannot be read just now."""
        if self._sending is None or self._sending.done():
            before, self._sending = self._sending, asyncio.create_task(self._at_once.send_what_waits())
            if before is not None:
                before.result()

    def _looked(self, due: float) -> float:
        """The loop's time now; what is beyond `due` we were frozen, whatever we were just at."""
        now = asyncio.get_running_loop().time()
        self._leave_out(now - due)
        return now

    def _leave_out(self, late: float) -> None:
        """We were frozen, and perhaps the agent with us: no clock of the turn has run meanwhile."""
        if late < FROZEN:
            return
        now = self._room.clock.monotonic()

        def later(moment: float) -> float:
            # What was seen after it has lost nothing by it.
            return min(moment + late, now)

        self._started = later(self._started)
        self._last_event = None if self._last_event is None else later(self._last_event)
        self._result_at = None if self._result_at is None else later(self._result_at)
        self._tool_since = {tool: later(since) for tool, since in self._tool_since.items()}

    async def _until_ended(self) -> None:
        """A system that cannot tell whether the agent runs is asked again: its turn is not over until it says so."""
        await self._room.until_system_lets(self._record.turn_id, self._supervised.wait_ended)

    async def _evidence(self) -> Evidence:
        """Raises OSError where something cannot be read just now; what was read already is kept."""
        report = await end_tree(
            self._record.turn_id, self._supervised.holder, left_nothing=self._supervised.left_nothing
        )
        if report.survivors:
            self._room.log.emit(
                EventName.SURVIVORS, turn_id=self._record.turn_id, pids=" ".join(str(p.pid) for p in report.survivors)
            )
        while self._read():  # noqa: ASYNC110 - other turns get their time between two pieces
            await asyncio.sleep(0)
        self.released = self._supervised.released
        last = self._framer.finish()
        if last:
            self._take(last)
        self._observation.lines_skipped = self._framer.skipped
        directory = self._supervised.turn_dir
        return Evidence(
            observation=self._observation,
            exit=self._supervised.exit(),
            stdout=directory / STDOUT_FILE,
            stderr=directory / STDERR_FILE,
            resume=self._record.resume,
            stopped=self._record.stopped or self._stopped_by_another() or self._stopped_with_us(),
        )

    def _stopped_by_another(self) -> StopReason | None:
        """A command that found no watcher has ended the tree itself. What ended well before that has ended well."""
        asked = self._asked_to_stop()
        return StopReason.BY_HAND if asked and self._supervised.exit().status != 0 else None

    def _stopped_with_us(self) -> StopReason | None:
        """Whoever stops us, a container engine say, may have signalled everybody."""
        with_us = self._room.stopping.is_set() and ended_by_a_stop(self._supervised.exit())
        return StopReason.SHUTDOWN if with_us else None

    def _asked_to_stop(self) -> bool:
        return is_there(self._supervised.turn_dir / STOP)

    async def _end(self, reason: StopReason) -> None:
        if reason is not StopReason.FINISHED and self._record.stopped is None:
            # Written before the first signal: should we die now, the next watcher knows that it was us.
            self._record.stopped = reason
            with suppress(OSError):
                self._room.state.turns.save(self._record)
        self._room.log.emit(EventName.TURN_STOPPING, turn_id=self._record.turn_id, reason=reason.value)
        stop_signal = self._traits.stop_signal
        # Where the system does not let us look now, the next round of the clock tries again.
        with suppress(OSError):
            await end_tree(self._record.turn_id, self._supervised.holder, first_signal=stop_signal)

    def _why_stop(self) -> StopReason | None:
        room, now = self._room, self._room.clock.monotonic()
        if self._record.stopped is not None:
            # An earlier watcher had decided so and may have sent a signal: what it began is finished.
            return self._record.stopped
        if room.stop_at is not None and now >= room.stop_at:
            return StopReason.SHUTDOWN
        if self._result_at is None and self._asked_to_stop():
            return StopReason.BY_HAND
        doomed = self._observation.doomed
        if doomed is not None and (doomed.for_good or self._result_at is None):
            return StopReason.DOOMED
        policy, events = room.policy, self._traits.has_events
        limits = Limits(
            policy.turn_timeout,
            policy.tool_timeout,
            policy.first_output_timeout if events else None,
            policy.silence_timeout if events else None,
            policy.finish_grace,
        )
        oldest = min(self._tool_since.values(), default=None)
        return verdict(limits, Activity(self._started, self._last_event, self._result_at, oldest), now)

    def _read(self) -> bool:
        data = self._tail.read()
        if not self._traits.has_events:
            return bool(data)
        for line in self._framer.feed(data):
            self._take(line)
        return bool(data)

    def _take(self, line: bytes) -> None:
        now = self._room.clock.monotonic()
        for event in self._runtime.parse(line):
            self._observation.add(event)
            self._last_event = now
            match event:
                case ToolStarted(tool_id=tool_id, name=name, detail=detail):
                    if tool_id in self._observation.open_tools:
                        self._tool_since[tool_id] = now
                    # A command line, say, may quote mail or a key.
                    text = printable(f"{name} {detail}".strip(), TOOL_SHOWN)
                    self._room.log.show(EventName.TURN_PROGRESS, turn_id=self._record.turn_id, tool=name, text=text)
                case ToolEnded(tool_id=tool_id):
                    self._tool_since.pop(tool_id, None)
                case Progress(text=text):
                    self._room.log.show(EventName.TURN_PROGRESS, turn_id=self._record.turn_id, text=text[:200])
                case Result():
                    self._result_at = now
                case _:
                    pass

    def _note_progress(self) -> None:
        now, seen = self._room.clock.monotonic(), self._observation
        if seen.events == self._noted_events or now - self._noted_at < PROGRESS_INTERVAL:
            return
        self._noted_events, self._noted_at = seen.events, now
        wall = self._room.clock.now()
        oldest = min(self._tool_since, key=self._tool_since.__getitem__, default=None)
        tool = seen.open_tools.get(oldest) if oldest is not None else None
        self._room.uses(self._record.turn_id, tool.name if tool else "", wall)
        progress = TurnProgress(
            at=wall,
            doing=printable(seen.progress),
            tool=printable(f"{tool.name} {tool.detail}".strip()) if tool else "",
            tool_since=wall - (now - self._tool_since[tool.tool_id]) if tool else None,
            usage=seen.usage,
        )
        self._room.state.turns.note_progress(self._record.turn_id, progress)


class AtOnce:
    """Sends, while a turn runs, what its agent staged to leave at once. A second delivery is recognised by its id."""

    def __init__(self, room: Room, record: TurnRecord, message: Message, folder: TurnFolder) -> None:
        self._room = room
        self._folder = folder
        self._record = record
        self._message = message
        self._origins: dict[str, Message] = {}
        self._done: set[str] = set()

    async def send_what_waits(self) -> None:
        for draft in self._folder.staged():
            if draft.at_once and draft.key not in self._done:
                await self._send(draft)

    async def _send(self, draft: Draft) -> None:
        mailbox, record = self._room.mailbox, share_of(self._record, draft.about)
        origin = self._message
        if record is not self._record:
            if draft.about not in self._origins:
                self._origins[draft.about] = await origin_of(self._room, record)
            origin = self._origins[draft.about]
        compose = partial(mailbox.compose, routes=(record.route,) if record.route is not None else ())
        composed, _ = compose_for(draft, origin, record.turn_id, compose, self._room.address)
        if isinstance(composed, Refused):
            self._done.add(draft.key)  # settlement records and reports it
            return
        try:
            for item in composed:
                # Where a second delivery is not recognised, an earlier watcher or try may have made the first.
                if mailbox.capabilities.recognises_delivery or not await mailbox.look(item):
                    await mailbox.deliver(item)
        except MailboxUnavailable:
            return  # settlement delivers it at the latest
        self._done.add(draft.key)
