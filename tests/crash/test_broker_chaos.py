"""Three processes of a broker over one PostgreSQL, to which everything happens while mail is sent and settled."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from tests.broker_process import BrokerProcess, join, register
from tests.crash.history import Kind, Told, faults
from tests.crash.mail_clients import Clients
from tests.databases import Postgres, postgres
from tests.proved import Harness, proved
from tests.sizes import LONG, SOAK

SEED = int(os.environ.get("KILL_LOOP_SEED", "20261121"))
SECRET = {"AGENT_MAILER_SECRET_KEY": "s" * 40}
SENDERS = 6
WATCHERS = 4
BACK_WITHIN = 10.0
"""Seconds from the database's return to an answer."""


class Scene(NamedTuple):
    server: Postgres
    url: str
    processes: list[BrokerProcess]
    chance: random.Random

    def start(self, process: BrokerProcess) -> None:
        process.start("--database", self.url, env=SECRET)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def scene(server: Postgres, tmp_path: Path) -> Iterator[Scene]:
    processes = [BrokerProcess(tmp_path / f"p{number}") for number in range(3)]
    scene = Scene(server, server.url(tmp_path), processes, random.Random(SEED))
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(scene.start, scene.processes))
        yield scene
    finally:
        for process in scene.processes:
            process.end()


async def _one_is_killed(scene: Scene, _clients: Clients) -> None:
    process = scene.chance.choice(scene.processes)
    process.kill()
    await asyncio.to_thread(scene.start, process)


async def _again_and_again(scene: Scene, clients: Clients) -> None:
    for _ in range(4):
        await asyncio.sleep(scene.chance.uniform(0, 0.5))
        await _one_is_killed(scene, clients)


async def _the_database_restarts(scene: Scene, clients: Clients) -> None:
    await asyncio.to_thread(scene.server.stop)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(scene.server.start)
    back = time.monotonic()
    while clients.answered_at < back:
        assert time.monotonic() - back < BACK_WITHIN
        await asyncio.sleep(0.02)


async def _backends_end(scene: Scene, _clients: Clients) -> None:
    for _ in range(6):
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent-mailer'"
        await asyncio.to_thread(scene.server.administer, ended)
        await asyncio.sleep(scene.chance.uniform(0, 0.3))


async def _the_pool_is_exhausted(scene: Scene, clients: Clients) -> None:
    """Somebody else takes every connection that the server has left, and what the processes lose they do not get."""

    def take() -> None:
        taken: list[psycopg.Connection] = []
        address = scene.url.replace("+psycopg", "")
        try:
            while len(taken) < 500:
                taken.append(psycopg.connect(address, connect_timeout=5))
        except psycopg.OperationalError:
            pass
        try:
            assert taken
            taken[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent-mailer'"
                " AND usename = current_user"
            )
            for _ in range(20):
                time.sleep(0.05)
                try:
                    taken.append(psycopg.connect(address, connect_timeout=5))
                except psycopg.OperationalError:
                    continue
        finally:
            for one in taken:
                one.close()

    await asyncio.to_thread(take)


CHAOS: dict[str, Callable[[Scene, Clients], Awaitable[None]]] = {
    "a process is killed": _one_is_killed,
    "killed again and again": _again_and_again,
    "the database restarts": _the_database_restarts,
    "its backends end": _backends_end,
    "the pool is exhausted": _the_pool_is_exhausted,
}


@pytest.mark.parametrize("chaos", CHAOS.values(), ids=CHAOS)
@pytest.mark.parametrize(
    ("count", "again"), [pytest.param(100, 0, id="long", marks=LONG), pytest.param(1700, 20, id="soak", marks=SOAK)]
)
def test_every_accepted_message_is_there_once_and_in_order(
    scene: Scene, chaos: Callable[[Scene, Clients], Awaitable[None]], count: int, again: float
) -> None:
    """`count`: of each sender. `again`: after about so many seconds it happens again, as long as mail is sent."""
    ann = join(scene.processes[0].url, "ann", scene.processes[0].invite)
    reader, *senders = (
        register(scene.processes[number % 3].url, ann, name)
        for number, name in enumerate(["reader", *(f"s{n}" for n in range(SENDERS))])
    )

    async def play() -> tuple[Clients, list[str]]:
        clients = Clients([process.url for process in scene.processes], ann, reader, SEED)
        over = asyncio.Event()
        working = [asyncio.create_task(clients.work(f"w{number}", over)) for number in range(WATCHERS)]
        sending = asyncio.ensure_future(asyncio.gather(*(clients.send(sender, count) for sender in senders)))
        await asyncio.sleep(scene.chance.uniform(0.2, 0.8))  # in the middle of it
        await chaos(scene, clients)
        while again and not sending.done():
            await asyncio.wait([sending], timeout=scene.chance.uniform(0.5, 1.5) * again)
            if not sending.done():
                await chaos(scene, clients)
        await sending
        over.set()
        await asyncio.gather(*working)
        try:
            return clients, faults(clients.acts, await clients.stored())
        finally:
            await clients.close()

    clients, found = asyncio.run(play())
    assert found == []
    accepted = [act for act in clients.acts if act.kind is Kind.SEND and act.told is Told.YES]
    assert len(accepted) == SENDERS * count
    assert sum(act.kind is Kind.SETTLE for act in clients.acts) > 10
    assert clients.statuses <= {200, 201, 409, 503}, "a client sees nothing else"
    proved(Harness.BROKER, messages=len(accepted), acts_of_clients=len(clients.acts))
