"""What the broker does, and what it costs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.broker_process import Account, BrokerProcess, broker, join, register
from tests.crash.broker_mail import BrokerMailDesk
from tests.desk import until

from agent_mailer.broker.migrations.v0005_waiting import FILL
from agent_mailer.broker.migrations.v0009_totals import FILL as TOTALS
from agent_mailer.events import EventName
from agent_mailer.mailbox.amp.adapter import AmpMailbox
from agent_mailer.mailbox.amp.client import Credentials
from agent_mailer.watch.backlog import LIST_LIMIT
from benchmarks.measuring import cpu_seconds, percentile, resident_mib, row
from benchmarks.wire import Line, line

SENDERS = 8
SENDS = 500
"""Of each sender."""
BODY = "What is the state of the build? " * 8
STREAMS = 500
STREAM_SECONDS = 60.0
LATENCY_MESSAGES = 60
UNREAD = (0, 1_000, 10_000, 100_000)
POLLS = 30
IDLE_SECONDS = 60.0


@contextmanager
def running() -> Iterator[tuple[BrokerProcess, Account]]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder,
        broker(Path(folder) / "data") as process,
    ):
        yield process, join(process.url, "ann", process.invite)


def throughput() -> None:
    """Eight senders with idempotency keys to one inbox each, beside what the disk alone can do."""
    with running() as (process, account):
        senders = [register(process.url, account, f"sender{n}") for n in range(SENDERS)]
        readers = [register(process.url, account, f"reader{n}") for n in range(SENDERS)]
        asyncio.run(_send_all(process.url, account, senders, readers, 50, "warm"))
        before = _syncs_a_second(process.data)
        cpu, began = cpu_seconds(process.pid), time.perf_counter()
        asyncio.run(_send_all(process.url, account, senders, readers, SENDS, "run"))
        took, used = time.perf_counter() - began, cpu_seconds(process.pid) - cpu
        after = _syncs_a_second(process.data)
        memory = resident_mib(process.pid)
    count = SENDERS * SENDS
    rate, disk = count / took, (before + after) / 2
    text = f"{rate:.0f}/s ({rate / disk:.1f} x the disk's {disk:.0f} flushes/s)"
    row(f"broker: sends by {SENDERS} senders, durable", text, "at least 1,000/s", met=rate >= 1000)
    text = f"{used / count * 1e3:.2f} ms ({used / took * 100:.0f} % of a core)"
    row("broker: CPU a message sent", text, "under 1 ms", met=used / count < 1e-3)
    row("broker: memory after that", f"{memory:.0f} MiB", "at most 150 MiB", met=memory <= 150)


async def _send_all(
    url: str, account: Account, senders: list[dict[str, Any]], readers: list[dict[str, Any]], count: int, name: str
) -> None:
    async def one(sender: dict[str, Any], reader: dict[str, Any]) -> None:
        body = {
            "agent_id": sender["id"],
            "from_agent": sender["address"],
            "to_agent": reader["address"],
            "subject": "state",
            "body": BODY,
        }
        async with line(url, account.key) as wire:
            for n in range(count):
                await wire.ask("POST", "/messages/send", body, {"Idempotency-Key": f"{name}-{n}"})

    await asyncio.gather(*(one(sender, reader) for sender, reader in zip(senders, readers, strict=True)))


def _syncs_a_second(folder: Path, seconds: float = 1.5) -> float:
    """4 KiB appended and flushed, again and again, as a commit to the log does."""
    path = folder / "bare"
    data = b"x" * 4096
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    count, began = 0, time.perf_counter()
    try:
        while time.perf_counter() - began < seconds:
            os.write(fd, data)
            os.fdatasync(fd)
            count += 1
        return count / (time.perf_counter() - began)
    finally:
        os.close(fd)
        path.unlink()


def streams() -> None:
    """Many idle watchers, each with the stream that holds its agent."""
    with running() as (process, account):
        process.stop()
        process.start()  # as it runs from day to day: the first start has made the database
        idle = resident_mib(process.pid)
        row("broker: memory when idle", f"{idle:.0f} MiB", "at most 110 MiB", met=idle <= 110)
        asyncio.run(_listen_all(process, account, idle))


async def _listen_all(process: BrokerProcess, account: Account, idle: float) -> None:
    async with AsyncExitStack() as stack:
        asking = await stack.enter_async_context(line(process.url, account.key))
        agents = [await register_by(asking, account, f"agent{n}") for n in range(STREAMS)]
        registered = resident_mib(process.pid)
        for n, agent in enumerate(agents):
            wire = await stack.enter_async_context(line(process.url, account.key))
            path = f"/messages/inbox/{agent['address']}/stream?agent_id={agent['id']}"
            reader = await wire.listen(path, {"X-Agent-Mailer-Watcher": f"w{n}"})
            await reader.readuntil(b"hello")
        await asyncio.sleep(2)
        cpu = cpu_seconds(process.pid)
        memory = resident_mib(process.pid)
        await asyncio.sleep(STREAM_SECONDS)
        used = (cpu_seconds(process.pid) - cpu) * 60 / STREAM_SECONDS
    each = (memory - registered) / STREAMS * 1024
    text = f"{memory:.0f} MiB ({memory - idle:+.0f}, {each:.0f} KiB each)"
    met = memory <= 200 and each < 30
    row(f"broker: memory with {STREAMS} idle watchers", text, "at most 200 MiB, each under 30 KiB", met=met)
    row(f"broker: CPU a minute with {STREAMS} idle watchers", f"{used:.2f} s", "at most 3 s", met=used <= 3)


async def register_by(asking: Line, account: Account, name: str) -> dict[str, Any]:
    body = {"name": name, "role": "", "system_prompt": "", "address": f"{name}@{account.name}.amp.localhost"}
    agent: dict[str, Any] = await asking.ask("POST", "/agents/register", body)
    return agent


def latency() -> None:
    """From just before a message is sent to the first instruction of the agent, woken by the broker's stream."""
    with _watched() as (desk, _):
        starts = desk.base / "starts"
        desk.configure(command=["/bin/sh", "-c", f"date +%s%N >>{starts}"])
        waits: list[float] = []
        with desk.watching():
            desk.send()
            until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 1, "the first turn")
            for n in range(LATENCY_MESSAGES):
                began = time.time_ns()
                desk.send(thread=f"t{n}")
                until(lambda n=n: len(desk.log(EventName.TURN_SETTLED)) == n + 2, "a turn")
                waits.append((int(starts.read_text().split()[-1]) - began) / 1e6)
    middle, high = statistics.median(waits), percentile(waits, 0.95)
    row("broker: send to child start, median", f"{middle:.1f} ms", "under 60 ms", met=middle < 60)
    row("broker: send to child start, p95", f"{high:.1f} ms", "under 150 ms", met=high < 150)


def idle_watcher() -> None:
    """A watcher that listens to its broker, after it has settled one message."""
    with _watched() as (desk, process), desk.watching() as watcher:
        desk.send()
        until(lambda: desk.log(EventName.TURN_SETTLED), "one turn")
        time.sleep(2)
        before = cpu_seconds(watcher.pid), cpu_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        used = (cpu_seconds(watcher.pid) - before[0]) * 1e3 * 60 / IDLE_SECONDS
        there = (cpu_seconds(process.pid) - before[1]) * 1e3 * 60 / IDLE_SECONDS
        memory = resident_mib(watcher.pid)
    row("broker: idle watcher, memory", f"{memory:.1f} MiB", "at most 48 MiB", met=memory <= 48)
    row("broker: idle watcher, CPU a minute", f"{used:.1f} ms", "at most 50 ms", met=used <= 50)
    row("broker: CPU a minute with one idle watcher", f"{there:.0f} ms", "at most 300 ms", met=there <= 300)


@contextmanager
def _watched() -> Iterator[tuple[BrokerMailDesk, BrokerProcess]]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder,
        broker(Path(folder) / "data") as process,
    ):
        desk = BrokerMailDesk(Path(folder), process)
        desk.configure(command=["/bin/sh", "-c", "cat >/dev/null; echo done"], guards={"turns_per_hour": 0})
        yield desk, process
        desk.close()


def polls() -> None:
    """What a watcher's look for mail costs with a full inbox, beside an empty one."""
    with running() as (process, account):
        sender = register(process.url, account, "sender")
        readers = [register(process.url, account, f"reader{count}") for count in UNREAD]
        for reader, count in zip(readers, UNREAD, strict=True):
            fill_inbox(process, sender, reader, count)
        asyncio.run(_poll_all(process, account, readers))


async def _poll_all(process: BrokerProcess, account: Account, readers: list[dict[str, Any]]) -> None:
    boxes = []
    for reader in readers:
        credentials = Credentials(process.url, reader["id"], account.key)
        boxes.append(AmpMailbox(lambda credentials=credentials: credentials, reader["address"]))
    first: list[list[float]] = [[] for _ in boxes]
    later: list[list[float]] = [[] for _ in boxes]
    for box in boxes:
        await box.open()
    for _ in range(POLLS):
        for box, beginnings, looks in zip(boxes, first, later, strict=True):
            box._inbox.forget()
            beginnings.append(await _timed(box))
            await box.pending(LIST_LIMIT)  # pays for what a large answer has left behind, in both programs
            looks.append(await _timed(box))
    for box in boxes:
        await box.close()
    empty, *full = (statistics.median(each) * 1e3 for each in later)
    for count, each in zip(UNREAD[1:], full, strict=True):
        text = f"{each / empty:.2f} x empty ({each:.1f} / {empty:.1f} ms)"
        row(f"broker: a poll at {count:,} unread", text, "within 1.5 x", met=each / empty <= 1.5)
    # It lists what can be worked on next, never all of it.
    _, some, *many = (statistics.median(each) * 1e3 for each in first)
    for count, each in zip(UNREAD[2:], many, strict=True):
        text = f"{each / some:.2f} x that at {UNREAD[1]:,} ({each:.0f} / {some:.0f} ms)"
        row(f"broker: a watcher's first look at {count:,} unread", text, "within 1.5 x", met=each / some <= 1.5)


async def _timed(box: AmpMailbox) -> float:
    began = time.perf_counter()
    await box.pending(LIST_LIMIT)
    return time.perf_counter() - began


def fill_inbox(process: BrokerProcess, sender: dict[str, Any], reader: dict[str, Any], count: int) -> None:
    """`count` unread messages, put into the database past the broker: sending 100,000 would take minutes."""
    with sqlite3.connect(process.data / "broker.db") as database:
        (user_id,) = database.execute("SELECT user_id FROM agents WHERE id = ?", (reader["id"],)).fetchone()
        names = (
            *("id", "thread_id", "user_id", "from_agent_id", "from_agent", "to_agent_id", "to_agent", "action"),
            *("subject", "body", "attachments", "is_read", "created_at", "seq", "hops", "automatic", "priority"),
            *("labels", "ordinal"),
        )
        moment = "2026-11-21T08:15:00.000000+00:00"
        base = (
            sender["id"],
            sender["address"],
            reader["id"],
            reader["address"],
            "send",
            "state",
            BODY,
            "[]",
            0,
            moment,
        )
        rows = (
            (f"{reader['name']}-{n}", f"t{n % 1000}", user_id, *base, n, 0, "no", "normal", "[]", 0)
            for n in range(1, count + 1)
        )
        marks = ", ".join("?" * len(names))
        database.executemany(f"INSERT INTO messages ({', '.join(names)}) VALUES ({marks})", rows)
        database.execute("UPDATE agents SET inbox_seq = ? WHERE id = ?", (count, reader["id"]))
        database.execute(TOTALS)
        database.execute("DELETE FROM waiting_threads")
        database.execute(FILL)
    database.close()
