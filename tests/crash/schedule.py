"""What a seeded schedule is of: mail, agents, hands and ends of watchers over a `World`, all drawn from the seed.

Everything that happens does so at a moment of the loop's own clock, in the loop that runs the watcher.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, IntEnum
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import msgspec
from tests.crash.seeded import SeededLoop, left_running, others_now
from tests.crash.world import THREADS, WAIT, Ending, World

from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.maildir.layout import USER
from agent_mailer.mailbox.port import Automatic, Mailbox, MailboxUnavailable, Priority
from agent_mailer.state.records import AfterStop
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.room import Room
from agent_mailer.watch.watcher import Watcher

SOON = 4.0
"""Seconds, of the loop's clock, within which everything that is drawn for a life of a watcher happens."""
NET = 55.0
"""Seconds after which what nobody was told of is found all the same: by then all must be done."""
LOOK = 0.5
MOST_STEPS = 20_000
WATCHER = 1
"""The watcher as a life of its loop."""

_PLANS = (*[Ending.DONE] * 3, *[WAIT] * 5, Ending.BLOCKED, Ending.FAILED, Ending.CRASHED)
_LAST = (*[Ending.DONE] * 4, Ending.SILENT, Ending.BLOCKED, Ending.FAILED, Ending.CRASHED)


class End(Enum):
    """How a watcher's life ends."""

    DRAINED = "when nothing is left"
    STOPPED = "stopped"
    HANDED_OVER = "handed over"
    DEAD = "dead at a step"


class Act(IntEnum):
    """What hands do beside a watcher."""

    MAIL = 0
    PAUSE = 1
    RESUME = 2
    STOP_TURN = 3
    FULL_DISK = 4
    END = 5


class VirtualSky:
    """The loop's clock as the engine's, across loops."""

    def __init__(self) -> None:
        self.base = float(int(time.time()))
        self.loop: SeededLoop | None = None
        self.ahead = 0.0
        self._looks = 0

    @property
    def moment(self) -> float:
        return self.base + (self.loop.time() if self.loop is not None else 0.0)

    @moment.setter
    def moment(self, value: float) -> None:
        self.base += value - self.moment

    def now(self) -> float:
        # No two looks at a clock of this world see the same.
        self._looks += 1
        return self.moment + self._looks * 1e-6

    def monotonic(self) -> float:
        return self.moment


class Scene:
    """One schedule: `run` is the whole of it. `trail` says afterwards what ran in which order."""

    def __init__(self, base: Path, seed: int) -> None:
        self.lot = random.Random(seed)
        self.seed = seed
        # In memory all the machine writes to /dev, which is above us: trees of git around us are not the matter here.
        self.world = World(base, self.lot.choice((1, 2, 2)), git="leave")
        self.world.sky = self.sky = VirtualSky()  # type: ignore[assignment]
        self.distant = self.lot.random() < 0.6
        self.trail: list[str] = []
        self.lives: list[End] = []
        self._heard: deque[str] = deque(maxlen=12)
        """What the watchers said last, and when by the loop's clock."""
        self._shelf: list[tuple[Path, Path]] = []
        self._quiet_since = 0.0
        # The test run's own, which other tests need again.
        self._others = others_now()
        shelf = base / "shelf"
        shelf.mkdir()
        for number in range(self.lot.choice((1, 2, 2, 2, 3))):
            thread = THREADS[self.lot.randrange(2)]
            notice = number > 0 and self.lot.random() < 0.1
            urgent = Priority.URGENT if self.lot.random() < 0.15 else None
            sent = self.world.deliver(thread, urgent, Automatic.NOTICE if notice else Automatic.NO)
            self.world.plan(sent, self.lot.choice(_PLANS))
            if self.lot.random() < 0.3:
                draft = {"key": "k1", "action": "send", "created": self.sky.base, "to": ["user"], "at_once": True}
                draft |= {"body": f"on the way {sent}", "subject": "now", "labels": ["progress"]}
                (base / f"stage-{sent}").write_text(json.dumps(draft))
            name = f"{sent}.md"
            (self.world.new / name).rename(shelf / name)
            self._shelf.append((shelf / name, self.world.new / name))

    def run(self) -> None:
        random.seed(self.seed)
        # Of two turns of one second the ids say which is older.
        with patch.object(os, "urandom", random.Random(self.seed).randbytes):
            self._lives()

    def _lives(self) -> None:
        ends = [
            self.lot.choice((End.STOPPED, End.HANDED_OVER, End.DEAD))
            for _ in range(self.lot.choice((0, 0, 0, 1, 1, 2)))
        ]
        for end in (*ends, End.DRAINED):
            self._life(end)

    def told(self) -> list[str]:
        """What was drawn, for whoever reads that it failed."""
        plans = [path.read_text().strip() for path in sorted(self.world.base.glob("plan-*"))]
        last = f"last of all {', '.join(self._heard)}"
        return [f"{len(plans)} messages ({' '.join(plans)})", *(f"a watcher {end.value}" for end in self.lives), last]

    def left_running(self) -> list[int]:
        return left_running(self._others)

    def _life(self, end: End) -> None:
        self.lives.append(end)
        world, lot = self.world, self.lot
        loop = self.sky.loop = SeededLoop(lot.randrange(2**32), self._others)
        base = self.sky.base
        asyncio.set_event_loop(loop)
        place = world.desk.place(self.sky)
        place.disk.system = world.weather
        lock = place.lock()
        lock.acquire()
        place.prepare()
        dies_at = lot.randrange(20, 400) if end is End.DEAD else MOST_STEPS

        def before_step(_: asyncio.Handle) -> None:
            if len(loop.trail) == dies_at and not world.weather.dead:
                world.weather.dead = True
                loop.kill(WATCHER)
                died.set_result(None)
            assert len(loop.trail) < MOST_STEPS, "it goes round and round"

        mailboxes: list[Mailbox] = []
        died: asyncio.Future[None] = loop.create_future()

        async def live() -> None:
            mailbox = place.mailbox()
            mailboxes.append(mailbox)
            room = Room(
                mailbox=cast(Mailbox, Distant(mailbox, lot)) if self.distant else mailbox,
                persons=place.mailbox(USER),
                runtime=place.runtime(),
                confinement=None,
                state=place.state,
                policy=msgspec.structs.replace(place.policy(), trouble_first=0.02, trouble_longest=0.04),
                prompts=place.prompts(),
                clock=self.sky,
                guard=lock.guard,
            )
            watcher = Watcher(room)
            gates = Gatekeeper(world, room, loop, lot, stops=end is End.STOPPED)
            place.log.listen(gates.listen)
            place.log.listen(lambda event: self._heard.append(f"{event.event} at {loop.time():.2f}"))
            hands = asyncio.create_task(self._hands(watcher, end))
            hands.add_done_callback(lambda task: None if task.cancelled() or not task.exception() else main.cancel())
            running = loop.begin(WATCHER, watcher.run())
            try:
                await asyncio.wait({running, died}, return_when=asyncio.FIRST_COMPLETED)
                if not died.done():
                    running.result()
            finally:
                gates.close()
                hands.cancel()
                await asyncio.gather(hands, return_exceptions=True)
                if not hands.cancelled():
                    hands.result()

        main = loop.create_task(live())
        loop.before_step = before_step
        try:
            loop.run_until_complete(main)
        finally:
            self.trail += loop.trail
            world.died, world.weather.dies_in, world.weather.dead = world.weather.dead, None, False
            lock.release()
            loop.before_step = lambda _: None
            self.sky.base, self.sky.loop = base + loop.time(), None
            loop.cancel_all()
            asyncio.set_event_loop(None)
            loop.close()
            for mailbox in mailboxes:
                # Whose process is dead holds no lock.
                asyncio.run(mailbox.close())
        world.collect()

    async def _hands(self, watcher: Watcher, end: End) -> None:
        """Everybody beside the watcher, in the order of the moments that are drawn for each."""
        lot, last = self.lot, end is End.DRAINED
        mails = len(self._shelf) if last else lot.randrange(len(self._shelf) + 1)
        acts = [(lot.uniform(0, SOON), Act.MAIL) for _ in range(mails)]
        if lot.random() < 0.2:
            begin = lot.uniform(0, SOON / 2)
            acts += [(begin, Act.PAUSE), (lot.uniform(begin, SOON), Act.RESUME)]
        state = self.world.desk.state
        if last and ((state / "pause.json").exists() or any((state / "requests").iterdir())):
            # What an earlier watcher was asked for, or this one is still to apply, nobody has ended.
            acts.append((0.0, Act.RESUME))
        acts += [(lot.uniform(0, SOON), act) for act in (Act.STOP_TURN, Act.FULL_DISK) if lot.random() < 0.1]
        if end in (End.STOPPED, End.HANDED_OVER):
            acts.append((lot.uniform(0, SOON), Act.END))
        for moment, act in sorted(acts):
            await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
            self._do(act, watcher, end)
        if not last:
            return
        begun = asyncio.get_running_loop().time()
        while not self._all_done():
            await asyncio.sleep(LOOK)
            spent = asyncio.get_running_loop().time() - begun
            assert spent < NET, f"after {spent:.0f} s something is left to do"
        watcher.stop(0.0)

    def _do(self, act: Act, watcher: Watcher, end: End) -> None:
        world, lot = self.world, self.lot
        match act:
            case Act.MAIL:
                source, target = self._shelf.pop(0)
                source.rename(target)
            case Act.PAUSE:
                world.ask(Request(Verb.PAUSE), leave_it=True)
            case Act.RESUME:
                world.ask(Request(Verb.RESUME), leave_it=True)
            case Act.STOP_TURN:
                for turn in self._running()[:1]:
                    world.stop(turn, lot.choice(tuple(AfterStop)), leave_it=True)
            case Act.FULL_DISK:
                world.weather.full_after, world.weather.full_for = lot.randrange(60), lot.randrange(1, 5)
            case Act.END if end is End.STOPPED:
                watcher.stop(lot.choice((0.0, 1.0)))
            case Act.END:
                watcher.hand_over()

    def _running(self) -> list[str]:
        """Turns that are open, oldest first."""
        store = self.world.desk.place(self.sky).state.turns
        return sorted(store.open_ids())

    def _all_done(self) -> bool:
        path = self.world.desk.state / "processed.txt"
        settled = set(path.read_text().splitlines()) if path.exists() else set()
        return settled >= set(self.world.sent) and not self._running()


class Distant:
    """A mailbox as from afar: each call takes its time, and now and then it, or its answer, is lost on the way."""

    CALLS: tuple[str, ...] = (
        "open",
        "pending",
        "claim",
        "read",
        "thread",
        "way_back",
        "deliver",
        "look",
        "done",
        "reject",
    )
    CALLS += ("set_aside", "settled")
    LOST = 0.02
    LONGEST = 0.2

    def __init__(self, mailbox: Mailbox, lot: random.Random) -> None:
        self._mailbox, self._lot = mailbox, lot

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._mailbox, name)
        return partial(self._over, call) if name in self.CALLS else call

    async def _over(self, call: Callable[..., Awaitable[object]], *args: object, **more: object) -> object:
        await self._way()
        answer = await call(*args, **more)
        await self._way()
        return answer

    async def _way(self) -> None:
        await asyncio.sleep(self._lot.choice((0.0, 0.0, self._lot.uniform(0.0, self.LONGEST))))
        if self._lot.random() < self.LOST:
            raise MailboxUnavailable("lost", "an answer was lost on the way")


class Gatekeeper:
    """Tells each agent that waits how to end, some time later; and looks whether what starts was free to."""

    def __init__(self, world: World, room: Room, loop: SeededLoop, lot: random.Random, *, stops: bool) -> None:
        """`stops`: the watcher will be stopped."""
        self._stops = stops
        self._world, self._room, self._loop, self._lot = world, room, loop, lot
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._before_the_pause: set[str] = set()
        """Messages that were let through before a person paused: theirs go on."""

    def listen(self, event: LogRecord) -> None:
        turn = str(event.fields.get("turn_id"))
        if event.event is EventName.PAUSED:
            self._before_the_pause = {message for work in self._room.work.values() for message in work.message_ids}
        if event.event is EventName.TURN_STARTED:
            message = str(event.fields["message_id"])
            paused = message not in self._before_the_pause
            self._world.check_start(self._room.state, message, paused=paused)
        if event.event in (EventName.TURN_STARTED, EventName.TURN_ADOPTED) and turn not in self._timers:
            if self._stops:
                self._world.under_a_stop.add(turn)
            self._later(turn, self._lot.choice(_LAST))

    def _later(self, turn: str, ending: Ending) -> None:
        def tell() -> None:
            ended = (self._world.desk.state / "turns" / turn / "exit").exists()
            if not ended and not self._world.tell(turn, ending):
                self._later(turn, ending)

        self._timers[turn] = self._loop.call_later(self._lot.uniform(0.0, 1.5), tell)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
