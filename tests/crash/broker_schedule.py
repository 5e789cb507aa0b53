"""A watcher, its broker and those who write to it in one loop whose order a seed decides: streams that break, answers
that are lost on the way, a broker that is stopped and begun again.

The broker is the real application over its real database, and the client the real one. What lies between is a pair of
sockets instead of a network, and what threads would do is done in the loop, at a moment that the seed decides.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, IntEnum
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import httpx
import msgspec
import uvicorn
from fastapi import FastAPI
from tests.broker_desk import running_broker
from tests.crash.schedule import VirtualSky
from tests.crash.seeded import Others, SeededLoop, left_running, others_now
from tests.crash.world import Died, Weather
from tests.desk import Desk
from uvicorn.server import ServerState

from agent_mailer.broker import directory
from agent_mailer.broker.app import create_app
from agent_mailer.broker.connections import patient
from agent_mailer.broker.data import Settings
from agent_mailer.broker.messages.direct import Direct
from agent_mailer.broker.protocol import CLOCK
from agent_mailer.process.tree import sweep
from agent_mailer.watch.watcher import Watcher

PORT = 9
URL = f"http://127.0.0.1:{PORT}"
SOON = 4.0
"""Seconds, of the loop's clock, within which everything that is drawn for a life happens."""
NET = 400.0
"""Seconds within which a stream that was lost is there again; what no stream told is looked for after 600."""
LOOK = 1.0
MOST_STEPS = 60_000
SLOW = 0.05
"""Seconds that a piece of work of a thread may take."""
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
    END = 3


class BrokerLoop(SeededLoop):
    """Connections to `PORT` are pairs of sockets, whose other ends `server` has; refused where it is None."""

    def __init__(self, seed: int, others: Others) -> None:
        super().__init__(seed, others)
        self.server: Callable[[], asyncio.Protocol] | None = None
        self.theirs: list[asyncio.Transport] = []

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], host: str | None = None, port: int | None = None, **more: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        assert port == PORT, f"nobody here connects to {host}:{port}"
        if self.server is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setblocking(False)
        transport, _ = await self.connect_accepted_socket(self.server, theirs)
        self.theirs.append(transport)
        return await super().create_connection(factory, sock=ours)

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        told: asyncio.Future[Any] = self.create_future()

        def do() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:
                if not told.done():
                    told.set_exception(error)
            else:
                if not told.done():
                    told.set_result(result)

        if self.chance.random() < 0.5:
            self.call_soon(do)
        else:
            self.call_later(self.chance.uniform(0.0, SLOW), do)
        return told

    def cut(self, *, every: bool) -> None:
        alive = [one for one in self.theirs if not one.is_closing()]
        for one in alive:
            if every or self.chance.random() < 0.5:
                one.abort()
        self.theirs = [one for one in alive if not one.is_closing()]


class Made(NamedTuple):
    """A broker's database with a user, and two agents of his."""

    folder: Path
    key: str
    coder: dict[str, Any]
    planner: dict[str, Any]


def made_broker(folder: Path) -> Made:
    with running_broker(folder) as desk:
        ann = desk.person("ann")
        return Made(folder, ann.key, desk.agent(ann, "coder"), desk.agent(ann, "planner"))


@cache
def _app(database: str, uploads: Path) -> tuple[FastAPI, uvicorn.Config]:
    """Made once for a place: its state is made anew each time that it begins."""
    app = create_app(Settings(database, uploads, "s" * 32))
    protocol = cast(type[asyncio.Protocol], patient(120.0, 10_000, Direct(app, proxied=False)))
    config = uvicorn.Config(app, http=protocol, log_config=None, access_log=False, lifespan="off")
    config.load()
    return app, config


class BrokerScene:
    """One schedule: `run` is the whole of it. `trail` says afterwards what ran in which order."""

    def __init__(self, base: Path, made: Made, seed: int) -> None:
        self.base, self.made, self.seed = base, made, seed
        self.lot = random.Random(seed)
        self.trail: list[str] = []
        self.lives: list[End] = []
        self.sent: list[tuple[str, str]] = []
        """Thread and id, in their order."""
        self.answers: list[str] = []
        self.sky = VirtualSky()
        self._others = others_now()
        shutil.copytree(made.folder, base / "broker")
        database = f"sqlite:///{base / 'broker' / 'broker.db'}"
        self._app, self._config = _app(database, base / "broker" / "uploads")
        self._weather = Weather()
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
        self._shelf = [self.lot.choice(("red", "green")) for _ in range(self.lot.choice((1, 2, 2, 3)))]

    def run(self) -> None:
        random.seed(self.seed)
        with (
            patch.object(os, "urandom", random.Random(self.seed).randbytes),
            patch.object(CLOCK, "_wall", self.sky.now),
            patch.object(CLOCK, "_steady", self.sky.now),
            patch.object(CLOCK, "_ahead", 0.0),
            # How long it believes what it knows of a key.
            patch.object(directory, "time", SimpleNamespace(monotonic=self.sky.now)),
        ):
            ends = [self.lot.choice((End.HANDED_OVER, End.DEAD)) for _ in range(self.lot.choice((0, 0, 0, 1, 1, 2)))]
            for end in (*ends, End.DRAINED):
                self._life(end)

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
        if sorted(self.answers) != sorted(f"answer {message}" for message in ids):
            found.append(f"of {ids} came {self.answers}")
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

    def _life(self, end: End) -> None:
        self.lives.append(end)
        # When it comes is no matter of the seed, and it closes sockets.
        gc.collect()
        gc.disable()
        loop = self.sky.loop = BrokerLoop(self.lot.randrange(2**32), self._others)
        base = self.sky.base
        asyncio.set_event_loop(loop)
        place = self._desk.place(self.sky)
        place.disk.system = self._weather
        lock = place.lock()
        lock.acquire()
        place.prepare()
        dies_at = self.lot.randrange(100, 3000) if end is End.DEAD else MOST_STEPS

        def before_step(number: int) -> None:
            if number == dies_at:
                self._weather.dead = True
                main.cancel()
            assert number < MOST_STEPS, "it goes round and round"

        async def live() -> None:
            broker = _Broker(loop, self._app, self._config)
            await broker.start()
            policy = msgspec.structs.replace(place.policy(), trouble_first=0.02, trouble_longest=0.04)
            watcher = Watcher(place.room(lock, policy))
            hands = asyncio.create_task(self._hands(watcher, broker, end))
            hands.add_done_callback(lambda task: None if task.cancelled() or not task.exception() else main.cancel())
            gates = asyncio.create_task(self._tell_agents())
            try:
                await watcher.run()
            finally:
                for task in (hands, gates):
                    task.cancel()
                await asyncio.gather(hands, gates, return_exceptions=True)
                await broker.stop()
                if not hands.cancelled():
                    hands.result()

        main = loop.create_task(live())
        loop.before_step = before_step
        try:
            loop.run_until_complete(main)
        except (Died, asyncio.CancelledError):
            if not self._weather.dead:
                raise
        finally:
            self.trail += loop.trail
            self._weather.dead = False
            lock.release()
            loop.before_step = lambda _: None
            self.sky.base, self.sky.loop = base + loop.time(), None
            for task in asyncio.all_tasks(loop):
                task.cancel()
                with suppress(BaseException):
                    loop.run_until_complete(task)
            asyncio.set_event_loop(None)
            loop.close()
            gc.enable()

    async def _hands(self, watcher: Watcher, broker: _Broker, end: End) -> None:
        """Everybody beside the watcher, in the order of the moments that are drawn for each."""
        lot, last = self.lot, end is End.DRAINED
        mails = len(self._shelf) if last else lot.randrange(len(self._shelf) + 1)
        acts = [(lot.uniform(0, SOON), Act.MAIL) for _ in range(mails)]
        acts += [(lot.uniform(0, SOON), Act.BREAK) for _ in range(lot.choice((0, 0, 1, 2)))]
        acts += [(lot.uniform(0, SOON), Act.RESTART)] * (lot.random() < 0.3)
        if end is End.HANDED_OVER:
            acts.append((lot.uniform(0, SOON), Act.END))
        for moment, act in sorted(acts):
            await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
            match act:
                case Act.MAIL:
                    await self._send()
                case Act.BREAK:
                    broker.loop.cut(every=False)
                case Act.RESTART:
                    await broker.stop()
                    await asyncio.sleep(lot.uniform(0, 1.0))
                    await broker.start()
                case Act.END:
                    watcher.hand_over()
        if not last:
            return
        begun = asyncio.get_running_loop().time()
        while not self._all_done():
            await asyncio.sleep(LOOK)
            spent = asyncio.get_running_loop().time() - begun
            assert spent < NET, f"after {spent:.0f} s something is left to do"
        listed = await self._asked("GET", f"/messages/inbox/{self.made.planner['address']}?all=true", {})
        self.answers = [one["body"].strip() for one in listed]
        watcher.stop(0.0)

    async def _send(self) -> None:
        thread = self._shelf[0]
        form = {"from_agent": self.made.planner["address"], "to_agent": self.made.coder["address"], "body": "please"}
        sent = await self._asked("POST", "/messages/send", {**form, "thread_id": thread})
        # Who is cut off in the middle comes again with the same key.
        self.sent.append((thread, sent["id"]))
        self._shelf.pop(0)

    async def _asked(self, method: str, path: str, form: dict[str, str]) -> Any:
        """As a careful client does: again with the same key until it is answered."""
        headers = {"X-API-Key": self.made.key, "Idempotency-Key": f"k{len(self.sent)}"}
        mine = {"agent_id": self.made.planner["id"]}
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


class _Broker:
    """The application in a loop; stopped, all connections end."""

    def __init__(self, loop: BrokerLoop, app: FastAPI, config: uvicorn.Config) -> None:
        self.loop, self._app, self._config = loop, app, config
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._over = asyncio.Event()
        ready = asyncio.Event()

        async def serve() -> None:
            async with self._app.router.lifespan_context(self._app):
                ready.set()
                await self._over.wait()

        self._task = asyncio.create_task(serve())
        await ready.wait()
        state, protocol = ServerState(), cast(Any, self._config.http_protocol_class)
        self.loop.server = lambda: protocol(config=self._config, server_state=state, app_state={}, _loop=self.loop)

    async def stop(self) -> None:
        self.loop.server = None
        self.loop.cut(every=True)
        self._over.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
