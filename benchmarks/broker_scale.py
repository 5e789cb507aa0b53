"""What the broker costs as it grows: more watchers, more processes, more mail; on a file and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, select, text, update
from tests.broker_process import Account, BrokerProcess, join, register
from tests.databases import Postgres, postgres

from agent_mailer.broker.migrations.v0009_totals import FILL as TOTALS
from agent_mailer.broker.migrations.v0011_threads import FILL as THREADS
from agent_mailer.broker.search.rows import note_words
from agent_mailer.broker.tables import agents, messages
from benchmarks.broker import register_by
from benchmarks.measuring import cpu_seconds, percentile, row
from benchmarks.wire import line

FEW, MANY = 100, 2_000
"""Watchers."""
WAKES = 300
SENDS = 2_000
ROUNDS = 5
SENDERS = 8
"""At each process."""
SMALL, BIG = 10_000, 1_000_000
"""Messages of one tenant."""
IN_A_THREAD = 50
LOOKS = 60
PORTION = 5_000
SECRET = {"AGENT_MAILER_SECRET_KEY": "s" * 40}
BODY = "What is the state of the build? " * 8


class Tenant:
    """The processes of a broker, and a user of it."""

    def __init__(self, database: str, processes: list[BrokerProcess], account: Account) -> None:
        self.database = database
        self.processes = processes
        self.account = account

    def register(self, name: str) -> dict[str, Any]:
        return register(self.processes[0].url, self.account, name)


_Place = tuple[Tenant, dict[str, Any], dict[str, Any], int]
"""A tenant, a sender and a reader of its, and how many messages it has."""


@contextmanager
def tenant(server: Postgres | None, processes: int = 1) -> Iterator[Tenant]:
    """Of a broker on that server, on a file without."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder, ExitStack() as stack:
        base = Path(folder)
        database = server.url(base) if server is not None else f"sqlite:///{base / 'p0' / 'broker.db'}"
        given = ("--database", database) if server is not None else ()
        started = []
        for number in range(processes):
            process = BrokerProcess(base / f"p{number}")
            stack.callback(process.end)
            process.start(*given, env=SECRET)
            started.append(process)
        yield Tenant(database, started, join(started[0].url, "ann", started[0].invite))


def wakes() -> None:
    """From before a send to the word at the recipient's stream, with few and with many watchers; then across two."""
    _wakes(None, 1, "")
    with postgres() as server:
        _wakes(server, 2, ", at another process")


def _wakes(server: Postgres | None, processes: int, where: str) -> None:
    with tenant(server, processes) as there:
        few, many = asyncio.run(_woken(there))
    text = f"{many / few:.2f} x that with {FEW} ({many * 1e3:.1f} / {few * 1e3:.1f} ms)"
    row(f"broker: a wake-up's p95 with {MANY:,} watchers{where}", text, "within 1.5 x", met=many / few <= 1.5)


async def _woken(there: Tenant) -> tuple[float, float]:
    first, last = there.processes[0], there.processes[-1]
    async with AsyncExitStack() as stack:
        sending = await stack.enter_async_context(line(first.url, there.account.key))
        sender = await register_by(sending, there.account, "sender")
        watchers: list[tuple[dict[str, Any], asyncio.StreamReader]] = []

        async def grow(count: int) -> None:
            while len(watchers) < count:
                agent = await register_by(sending, there.account, f"agent{len(watchers)}")
                wire = await stack.enter_async_context(line(last.url, there.account.key))
                path = f"/messages/inbox/{agent['address']}/stream?agent_id={agent['id']}"
                reader = await wire.listen(path, {"X-Agent-Mailer-Watcher": f"w{len(watchers)}"})
                await reader.readuntil(b"hello")
                watchers.append((agent, reader))

        async def measure() -> float:
            chosen, waits = random.Random(1), []
            for _ in range(WAKES):
                agent, reader = chosen.choice(watchers)
                form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": agent["address"]}
                began = time.perf_counter()
                _, _ = await asyncio.gather(
                    sending.ask("POST", "/messages/send?html=false", {**form, "body": "b"}),
                    reader.readuntil(b"event: mail"),
                )
                waits.append(time.perf_counter() - began)
            return percentile(waits, 0.95)

        await grow(FEW)
        few = await measure()
        await grow(MANY)
        return few, await measure()


def processes() -> None:
    """The CPU of a send, the database's included, with one process and with two."""
    used: tuple[list[float], list[float]] = ([], [])
    with postgres() as server, tenant(server) as one, tenant(server, 2) as two:
        for number in range(ROUNDS):
            for there, sums in zip((one, two), used, strict=True):
                asyncio.run(_send(there, 200, f"w{number}"))
                before = _cpu(there, server)
                asyncio.run(_send(there, SENDS, f"r{number}"))
                sums.append((_cpu(there, server) - before) / SENDS)
    alone, together = map(statistics.median, used)
    text = f"{together / alone:.2f} x that with one ({together * 1e3:.2f} / {alone * 1e3:.2f} ms)"
    row("broker: CPU a send with two processes, database too", text, "within 1.15 x", met=together / alone <= 1.15)


def _cpu(there: Tenant, server: Postgres) -> float:
    """What the broker and the database have used; the connections of both are kept."""
    database = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
    return sum(map(cpu_seconds, (*(process.pid for process in there.processes), *database)))


async def _send(there: Tenant, count: int, name: str) -> None:
    """As many senders at each process: what waits together is stored together."""
    senders = SENDERS * len(there.processes)
    each = count // senders

    async def one(number: int) -> None:
        async with line(there.processes[number % len(there.processes)].url, there.account.key) as wire:
            names = [f"{name}-{number}-{end}" for end in ("from", "to")]
            sender, reader = [await register_by(wire, there.account, name) for name in names]
            form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": reader["address"]}
            for n in range(each):
                await wire.ask("POST", "/messages/send?html=false", {**form, "body": BODY}, {"Idempotency-Key": f"{n}"})

    await asyncio.gather(*map(one, range(senders)))


def million() -> None:
    """An inbox, a thread, a search and a send of a tenant with much mail, beside one with little."""
    _million(None, "a file")
    with postgres() as server:
        _million(server, "PostgreSQL")


def _million(server: Postgres | None, where: str) -> None:
    with tenant(server) as few, tenant(server) as many:
        places = []
        for there, count in ((few, SMALL), (many, BIG)):
            sender, reader = there.register("sender"), there.register("reader")
            _fill(there.database, sender, reader, count)
            places.append((there, sender, reader, count))
        small, big = asyncio.run(_compared(places))
    for name in small:
        text = f"{big[name] / small[name]:.2f} x that at {SMALL:,} ({big[name] * 1e3:.1f} / {small[name] * 1e3:.1f} ms)"
        met = big[name] / small[name] <= 1.5
        row(f"broker on {where}: {name} at {BIG:,} messages", text, "within 1.5 x", met=met)


def _fill(database: str, sender: dict[str, Any], reader: dict[str, Any], count: int) -> None:
    """Mail that has been read, put into the database past the broker: sending it would take half an hour."""
    moment = "2026-11-21T08:15:00.000000+00:00"
    engine = create_engine(database)
    with engine.begin() as connection:
        user = connection.execute(select(agents.c.user_id).where(agents.c.id == reader["id"])).scalar_one()
        same = {
            "user_id": user,
            "from_agent_id": sender["id"],
            "from_agent": sender["address"],
            "to_agent_id": reader["id"],
            "to_agent": reader["address"],
            "action": "send",
            "subject": "state",
            "body": BODY,
            "attachments": [],
            "is_read": True,
            "created_at": moment,
            "hops": 0,
            "automatic": "no",
            "priority": "normal",
            "labels": [],
            "ordinal": 0,
        }
        rows = (
            {**same, "id": f"m{n}", "seq": n, "thread_id": f"t{n // IN_A_THREAD}", "body": f"{BODY}Number n{n}."}
            for n in range(1, count + 1)
        )
        while portion := list(islice(rows, PORTION)):
            connection.execute(insert(messages), portion)
            note_words(connection, portion)
        connection.execute(text(THREADS))
        connection.execute(update(agents).where(agents.c.id == reader["id"]).values(inbox_seq=count))
        connection.execute(text(TOTALS))
    if engine.dialect.name == "postgresql":
        # As the server does by itself some time after such a change, and that is not what is measured; nobody does it
        # for a file.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
    engine.dispose()


async def _compared(places: Sequence[_Place]) -> Sequence[dict[str, float]]:
    """Medians, seconds. In turn, so that what else the machine does meets all of them."""
    async with AsyncExitStack() as stack:
        asks = [await _asks(stack, *place) for place in places]
        waits: list[dict[str, list[float]]] = [{name: [] for name in each} for each in asks]
        for _ in range(LOOKS):
            for name in asks[0]:
                for each, measured in zip(asks, waits, strict=True):
                    began = time.perf_counter()
                    await each[name]()
                    measured[name].append(time.perf_counter() - began)
    return [{name: statistics.median(each) for name, each in measured.items()} for measured in waits]


async def _asks(
    stack: AsyncExitStack, there: Tenant, sender: dict[str, Any], reader: dict[str, Any], count: int
) -> dict[str, Callable[[], Awaitable[object]]]:
    inbox = f"/messages/inbox/{reader['address']}?agent_id={reader['id']}&all=true&html=false"
    form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": reader["address"], "body": BODY}
    thread = f"/messages/thread/t{count // IN_A_THREAD // 2}?agent_id={reader['id']}&html=false"
    wire = await stack.enter_async_context(line(there.processes[0].url, there.account.key))
    login = there.account.as_person
    return {
        "the inbox's newest page": lambda: wire.ask("GET", f"{inbox}&page=1"),
        "a page in the middle, by its number": lambda: wire.ask("GET", f"{inbox}&page={count // 40}"),
        "a page in the middle, by a cursor": lambda: wire.ask("GET", f"{inbox}&before={count // 2}&limit=20"),
        "what comes after a cursor": lambda: wire.ask("GET", f"{inbox}&after={count // 2}&limit=20"),
        "a thread": lambda: wire.ask("GET", thread),
        "the first threads": lambda: wire.ask("GET", "/admin/threads/summary?limit=20", None, login),
        "a search for what one has": lambda: wire.ask("GET", f"/admin/search?q=n{count // 2}", None, login),
        "a search for what all have": lambda: wire.ask("GET", "/admin/search?q=state+build", None, login),
        "a send": lambda: wire.ask("POST", "/messages/send?html=false", form),
    }
