"""A watcher, its broker, those who write to it and who sits there for the answers, in one loop whose order a seed
decides: streams that break, answers that are lost on the way, a broker that is stopped and begun again, watchers and
doorbells that are killed at any step.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
from contextlib import suppress
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import httpx
import msgspec
from tests.crash.bells import BelledSession, waiting_in_the_loop
from tests.crash.broker_loop import URL, BrokerLoop, Made, RunningBroker, app_at
from tests.crash.schedule import VirtualSky
from tests.crash.seeded import left_running, life_of, others_now
from tests.crash.world import Weather
from tests.desk import Desk

from agent_mailer import people
from agent_mailer.broker import directory
from agent_mailer.broker.protocol import CLOCK
from agent_mailer.process.tree import sweep
from agent_mailer.watch.watcher import Watcher

SOON = 4.0
"""Seconds, of the loop's clock, within which everything that is drawn for a life happens."""
NET = 400.0
"""Seconds within which a stream that was lost is there again; what no stream told is looked for after 600."""
LOOK = 1.0
MOST_STEPS = 60_000
BELLS = 1000
"""From which number on lives are hooks of sessions, a thousand for each."""
_AGENT = r"""
cat >/dev/null
base=$1 turn=$AGENT_MAILER_TURN_ID message=$AGENT_MAILER_MESSAGE_ID
exec 9>"$base/thread-$AGENT_MAILER_THREAD_ID"
flock -n 9 || echo "two turns at once: $turn" >>"$base/faults"
echo "$message" >>"$base/witness"
mkfifo "$base/gate-$turn" && read -r word <"$base/gate-$turn"
echo "answer $message"
"""


class End(Enum):
    """How a watcher's life ends."""

    DRAINED = "when nothing is left"
    HANDED_OVER = "handed over"
    DEAD = "dead at a step"


class Act(IntEnum):
    """What befalls those who are connected."""

    MAIL = 0
    BREAK = 1
    """Connections are cut, whatever is on its way in them."""
    RESTART = 2
    """The broker is stopped, and is there again some time later."""
    KILL_BELL = 3
    """The hook that waits beside a session is killed."""
    END = 4


class BrokerScene:
    """One schedule: `run` is the whole of it. `trail` says afterwards what ran in which order."""

    def __init__(self, base: Path, made: Made, seed: int) -> None:
        self.base, self.made, self.seed = base, made, seed
        self.lot = random.Random(seed)
        self.trail: list[str] = []
        self.lives: list[End] = []
        self.sent: list[tuple[str, str]] = []
        """Thread and id, in their order."""
        self.answers: dict[str, str] = {}
        self.sky = VirtualSky()
        self._others = others_now()
        shutil.copytree(made.folder, base / "broker")
        database = f"sqlite:///{base / 'broker' / 'broker.db'}"
        self._app, self._config = app_at(database, base / "broker" / "uploads")
        self._desk = Desk(base)
        self._desk.configure(
            address=made.coder["address"],
            agent_id=made.coder["id"],
            broker_url=URL,
            api_key=made.key,
            maildir_root="",
            # In memory all the machine writes to /dev, which is above us.
            git="leave",
            max_parallel_turns=self.lot.choice((1, 2)),
            command=["/bin/sh", "-c", _AGENT, "agent", str(base)],
        )
        self.sessions = [
            BelledSession(f"session-{one}", base, self._person, self.lot, BELLS * one)
            for one in range(1, self.lot.choice((1, 2, 2)) + 1)
        ]
        self._loop = BrokerLoop(self.lot.randrange(2**32), self._others)
        self._broker = RunningBroker(self._loop, self._app, self._config)
        self._shelf = [self.lot.choice(("red", "green")) for _ in range(self.lot.choice((1, 2, 2, 3)))]

    def run(self) -> None:
        random.seed(self.seed)
        loop = self.sky.loop = self._loop
        # When it comes is no matter of the seed, and it closes sockets.
        gc.collect()
        gc.disable()
        asyncio.set_event_loop(loop)
        try:
            with (
                patch.object(os, "urandom", random.Random(self.seed).randbytes),
                patch.object(CLOCK, "_wall", self.sky.now),
                patch.object(CLOCK, "_steady", self.sky.now),
                patch.object(CLOCK, "_ahead", 0.0),
                # How long it believes what it knows of a key.
                patch.object(directory, "time", SimpleNamespace(monotonic=self.sky.now)),
                waiting_in_the_loop(self.sky.now),
            ):
                try:
                    loop.run_until_complete(self._lives())
                finally:
                    self.trail += loop.trail
                    loop.before_step = lambda _: None
                    loop.cancel_all()
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            gc.enable()

    async def _lives(self) -> None:
        lot = self.lot
        await self._broker.start()
        beside = [asyncio.create_task(self._tell_agents()), *(asyncio.create_task(one.sit()) for one in self.sessions)]
        main = asyncio.current_task()
        assert main is not None
        for task in beside:
            task.add_done_callback(lambda task: None if task.cancelled() or not task.exception() else main.cancel())
        try:
            ends = [lot.choice((End.HANDED_OVER, End.DEAD, End.DEAD)) for _ in range(lot.choice((0, 0, 0, 1, 1, 2)))]
            for number, end in enumerate((*ends, End.DRAINED), 1):
                await self._life(number, end)
            await self._all_rung()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._broker.stop()
            for task in beside:
                if not task.cancelled():
                    task.result()

    def told(self) -> list[str]:
        """What was drawn, for whoever reads that it failed."""
        return [f"{len(self.sent)} messages", *(f"a watcher {end.value}" for end in self.lives)]

    def faults(self) -> list[str]:
        """What does not hold."""
        runs = _lines(self.base / "witness")
        found = _lines(self.base / "faults")
        ids = [message for _, message in self.sent]
        if sorted(runs) != sorted(ids):
            found.append(f"of {ids} ran {runs}")
        for thread in ("red", "green"):
            order = [message for of, message in self.sent if of == thread]
            if [message for message in runs if message in order] != order:
                found.append(f"in {thread} the order was {runs}")
        if sorted(self.answers.values()) != sorted(f"answer {message}" for message in ids):
            found.append(f"of {ids} came {self.answers}")
        rings = "\n".join(text for one in self.sessions for text in one.rings)
        found += [f"rung {many} times for {name}" for name in self.answers if (many := rings.count(name)) > 1]
        for one in self.sessions:
            found += one.faults
        if left := left_running(self._others):
            found.append(f"processes are left: {left}")
        return found

    def end(self) -> None:
        turns = self._desk.state / "turns"
        for turn in turns.iterdir() if turns.exists() else ():
            if not (turn / "settled").exists():
                asyncio.run(sweep(turn.name, grace=0.0))
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    async def _life(self, number: int, end: End) -> None:
        self.lives.append(end)
        loop, weather = self._loop, Weather()
        place = self._desk.place(self.sky)
        place.disk.system = weather
        lock = place.lock()
        lock.acquire()
        place.prepare()
        policy = msgspec.structs.replace(place.policy(), trouble_first=0.02, trouble_longest=0.04)
        watcher = Watcher(place.room(lock, policy))
        died = asyncio.Event()
        steps, dies_at = 0, self.lot.randrange(10, 600) if end is End.DEAD else MOST_STEPS

        def die() -> None:
            if not weather.dead:
                weather.dead = True
                loop.kill(number)
                died.set()

        def before_step(handle: asyncio.Handle) -> None:
            nonlocal steps
            steps += life_of(handle) == number
            if steps == dies_at:
                die()
            assert len(loop.trail) < MOST_STEPS, "it goes round and round"

        loop.before_step = before_step
        running = loop.begin(number, watcher.run())
        dead = asyncio.create_task(died.wait())
        hands = asyncio.create_task(self._hands(watcher, end))
        try:
            await asyncio.wait({running, dead, hands}, return_when=asyncio.FIRST_COMPLETED)
            if hands.done() and not hands.exception():
                if end is End.DEAD:
                    die()
                await asyncio.wait({running, dead}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            lock.release()
            dead.cancel()
            hands.cancel()
            await asyncio.gather(dead, hands, return_exceptions=True)
            if not hands.cancelled():
                hands.result()

    async def _hands(self, watcher: Watcher, end: End) -> None:
        """Everybody beside the watcher, in the order of the moments that are drawn for each."""
        lot, last, broker = self.lot, end is End.DRAINED, self._broker
        mails = len(self._shelf) if last else lot.randrange(len(self._shelf) + 1)
        acts = [(lot.uniform(0, SOON), Act.MAIL) for _ in range(mails)]
        acts += [(lot.uniform(0, SOON), Act.BREAK) for _ in range(lot.choice((0, 0, 1, 2)))]
        acts += [(lot.uniform(0, SOON), Act.RESTART)] * (lot.random() < 0.3)
        acts += [(lot.uniform(0, SOON), Act.KILL_BELL) for _ in range(lot.choice((0, 0, 1)))]
        if end is End.HANDED_OVER:
            acts.append((lot.uniform(0, SOON), Act.END))
        begun = self._loop.time()
        for moment, act in sorted(acts):
            await asyncio.sleep(max(0.0, begun + moment - self._loop.time()))
            match act:
                case Act.MAIL:
                    await self._send()
                case Act.BREAK:
                    broker.loop.cut(every=False)
                case Act.RESTART:
                    await broker.restart(lot.uniform(0, 1.0))
                case Act.KILL_BELL:
                    lot.choice(self.sessions).kill(self._loop)
                case Act.END:
                    watcher.hand_over()
        if not last:
            return
        begun = self._loop.time()
        while not self._all_done():
            await asyncio.sleep(LOOK)
            spent = self._loop.time() - begun
            assert spent < NET, f"after {spent:.0f} s something is left to do"
        listed = await self._asked("GET", f"/messages/inbox/{self.made.operator['address']}?all=true", {})
        self.answers = {one["id"]: one["body"].strip() for one in listed}
        watcher.stop(0.0)

    async def _all_rung(self) -> None:
        """No answer waits for somebody who was not told of it: but for what a killed hook has counted already."""
        begun = self._loop.time()
        while missing := self._not_rung():
            if self._loop.time() - begun > NET:
                break
            await asyncio.sleep(LOOK)
        excused = {name for one in self.sessions if one.kills for name in one.counted()}
        assert excused.issuperset(missing), f"nobody was rung for {missing}"

    def _not_rung(self) -> list[str]:
        said = "\n".join(text for one in self.sessions for text in one.rings)
        return [name for name in self.answers if name not in said]

    def _person(self) -> people.Person:
        return people.person_at(self._desk.place(self.sky), None, lambda _: None)

    async def _send(self) -> None:
        thread = self._shelf[0]
        form = {"from_agent": self.made.operator["address"], "to_agent": self.made.coder["address"], "body": "please"}
        sent = await self._asked("POST", "/messages/send", {**form, "thread_id": thread})
        # Who is cut off in the middle comes again with the same key.
        self.sent.append((thread, sent["id"]))
        self._shelf.pop(0)

    async def _asked(self, method: str, path: str, form: dict[str, str]) -> Any:
        """As a careful client does: again with the same key until it is answered."""
        headers = {"X-API-Key": self.made.key, "Idempotency-Key": f"k{len(self.sent)}"}
        mine = {"agent_id": self.made.operator["id"]}
        while True:
            async with httpx.AsyncClient(base_url=URL, trust_env=False, headers=headers) as client:
                with suppress(httpx.TransportError):
                    asked = {"json": {**form, **mine}} if form else {"params": {**mine, "all": "true"}}
                    answer = await client.request(method, path, **cast(Any, asked))
                    if answer.status_code == 200:
                        return answer.json()
                    assert answer.status_code == 503, answer.text
            await asyncio.sleep(self.lot.uniform(0.0, 0.5))

    async def _tell_agents(self) -> None:
        """Each agent that waits goes on, some time later."""
        while True:
            for gate in sorted(self.base.glob("gate-*")):
                with suppress(OSError):
                    fd = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
                    os.write(fd, b"on\n")
                    os.close(fd)
                    gate.unlink()
            await asyncio.sleep(self.lot.uniform(0.1, 1.5))

    def _all_done(self) -> bool:
        settled = set(_lines(self._desk.state / "processed.txt"))
        place = self._desk.place(self.sky)
        return settled >= {message for _, message in self.sent} and not place.state.turns.open_ids()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
