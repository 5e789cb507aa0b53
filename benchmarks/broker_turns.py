"""A turn at our broker: what it asks, what it costs beside one in a folder, and beside a loop of three requests."""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from tests.broker_process import broker
from tests.crash.broker_mail import BrokerMailDesk
from tests.desk import Desk

from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.amp.answers import Answer
from agent_mailer.mailbox.amp.transport import Query, Transport
from agent_mailer.watch.watcher import Watcher
from benchmarks.measuring import row

TURNS = 40
ROUNDS = 3
AGENT = ["/bin/sh", "-c", "cat >/dev/null; echo done"]
SIDE_BY_SIDE = 4
LOOK_EVERY = 0.05


class Cost(NamedTuple):
    """Of so many turns, in seconds: CPU of this process and of all that it started."""

    wall: float
    cpu: float


def turns() -> None:
    """Waiting messages, one turn each, one after the other; each answers."""
    ratios: list[float] = []
    for _ in range(ROUNDS):
        with _at_broker() as desk, _counted() as asked:
            at_broker = asyncio.run(_settle(desk))
        with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
            plain = Desk(Path(folder))
            plain.configure(command=AGENT, guards={"turns_per_hour": 0})
            _fill(plain)
            in_folder = asyncio.run(_settle(plain))
        ratios.append(at_broker.cpu / in_folder.cpu)
    requests, ratio = len(asked) / TURNS, sorted(ratios)[ROUNDS // 2]
    row("a turn at our broker: requests", f"{requests:.2f}", "4", met=requests <= 4.5)
    text = f"{ratio:.2f} x ({at_broker.cpu / TURNS * 1e3:.1f} / {in_folder.cpu / TURNS * 1e3:.1f} ms)"
    row("a turn at our broker: CPU over a folder turn", text, "1.15 x", met=ratio <= 1.15)


def beside_a_loop() -> None:
    """Four at a time. The public client is not here: a loop plays what it asks of a broker for each message (the inbox,
    an answer, the mark) and starts the same program.
    """
    with _at_broker() as desk:
        ours = asyncio.run(_settle(desk, SIDE_BY_SIDE))
        _fill(desk)
        began = _now()
        asyncio.run(_play(desk))
        theirs = _since(began)
    text = f"{theirs.wall / ours.wall:.2f} x ({TURNS / ours.wall:.0f} / {TURNS / theirs.wall:.0f})"
    met = ours.wall <= theirs.wall
    row(f"turns a second, {SIDE_BY_SIDE} side by side, over a loop of three requests", text, "1 x", met=met)
    text = f"{ours.cpu / theirs.cpu:.2f} x ({ours.cpu / TURNS * 1e3:.1f} / {theirs.cpu / TURNS * 1e3:.1f} ms)"
    row("CPU of such a turn over that of the loop", text, "2.5 x", met=ours.cpu <= 2.5 * theirs.cpu)


@contextmanager
def _at_broker() -> Iterator[BrokerMailDesk]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder,
        broker(Path(folder) / "data") as process,
    ):
        desk = BrokerMailDesk(Path(folder), process)
        desk.configure(command=AGENT, guards={"turns_per_hour": 0})
        _fill(desk)
        yield desk
        desk.close()


def _fill(desk: Desk) -> None:
    for number in range(TURNS):
        desk.send(thread=f"t{number}-{time.time_ns()}")


@contextmanager
def _counted() -> Iterator[list[str]]:
    """What is asked meanwhile, but for the stream, which stays open."""
    asked: list[str] = []
    once = Transport._once

    async def counted(
        self: Transport,
        method: str,
        path: str,
        query: Query | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        asked.append(f"{method} {path}")
        return await once(self, method, path, query, content, headers)

    Transport._once = counted  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        Transport._once = once  # type: ignore[method-assign]


async def _settle(desk: Desk, side_by_side: int = 1) -> Cost:
    """What a watcher takes from its first claim to the end of the last turn."""
    desk.configure(max_parallel_turns=side_by_side)
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    place.prepare()
    over = asyncio.Event()
    settled = 0

    def heard(record: LogRecord) -> None:
        nonlocal settled
        settled += record.event is EventName.TURN_SETTLED
        if settled == TURNS:
            over.set()

    place.log.listen(heard)
    watcher = Watcher(place.room(lock))
    began = _now()
    running = asyncio.create_task(watcher.run())
    await over.wait()
    cost = _since(began)
    watcher.stop(0.0)
    await running
    lock.release()
    return cost


async def _play(desk: BrokerMailDesk) -> None:
    """Whoever is free takes the oldest that nobody has."""
    taken: set[str] = set()
    me = {"agent_id": desk.coder["id"]}
    async with httpx.AsyncClient(
        base_url=desk.process.url, headers=desk.account.as_agent, trust_env=False, timeout=60.0
    ) as client:

        async def work() -> None:
            while len(taken) < TURNS:
                listed = (await client.get(f"/messages/inbox/{desk.coder['address']}", params=me)).json()
                message = next((one for one in listed if one["id"] not in taken), None)
                if message is None:
                    await asyncio.sleep(LOOK_EVERY)
                    continue
                taken.add(message["id"])
                agent = await asyncio.create_subprocess_exec(
                    *AGENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
                )
                words, _ = await agent.communicate(message["body"].encode())
                form = {
                    **me,
                    "from_agent": desk.coder["address"],
                    "to_agent": message["from_agent"],
                    "action": "reply",
                    "subject": f"Re: {message['subject']}",
                    "body": words.decode(),
                    "parent_id": message["id"],
                }
                (await client.post("/messages/send", json=form)).raise_for_status()
                (await client.patch(f"/messages/{message['id']}/read")).raise_for_status()

        await asyncio.gather(*(work() for _ in range(SIDE_BY_SIDE)))


def _now() -> Cost:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Cost(time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used))


def _since(began: Cost) -> Cost:
    now = _now()
    return Cost(now.wall - began.wall, now.cpu - began.cpu)
