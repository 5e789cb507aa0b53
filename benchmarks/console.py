"""What the console costs: a page with much mail beside one with little, and pages that are open."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import httpx
import msgspec
from sqlalchemy import create_engine, insert, select, text, update
from tests.broker_process import PASSWORD

from agent_mailer.broker.migrations.v0009_totals import FILL as TOTALS
from agent_mailer.broker.migrations.v0011_threads import FILL as THREADS
from agent_mailer.broker.remote.rows import beside
from agent_mailer.broker.search.rows import note_words
from agent_mailer.broker.tables import agents, messages, receipts
from agent_mailer.broker.watch_tables import reports
from agent_mailer.remote.port import Counted, Report, Stuck
from benchmarks.broker_scale import PORTION, Tenant, tenant
from benchmarks.measuring import cpu_seconds, percentile, row

AGENTS = 40
SMALL, BIG = 1_000, 100_000
IN_A_THREAD = 6
LOOKS = 25
OPEN_PAGES = 50
CROWD = 10_000
CHANGES_A_SECOND = 20
SECONDS = 10.0
ARRIVALS = 20
BODY = "What is the state of the **build**? " * 12


def console() -> None:
    with tenant(None) as few, tenant(None) as many:
        found = [_fill(there, count) for there, count in ((few, SMALL), (many, BIG))]
        clients = [_signed_in(there) for there in (few, many)]
        _pages(clients, found)
        asyncio.run(_open(many, found[1][0], clients[1].cookies))
        for client in clients:
            client.close()
    with tenant(None) as there:
        _crowd(there)


def _crowd(there: Tenant) -> None:
    """Pages over very many agents, a tenth of which need somebody."""
    known = there.register("first")
    engine = create_engine(there.database)
    with engine.begin() as connection:
        like = dict(connection.execute(select(agents).where(agents.c.id == known["id"])).mappings().one())
        made, told = [], []
        for n in range(CROWD):
            address = f"agent{n}@{known['address'].partition('@')[2]}"
            made.append({**like, "id": f"a{n}", "name": f"agent {n}", "address": address})
            stuck = n % 10 == 0
            found = Report(
                "1",
                "operate",
                stuck=(Stuck("given_up", f"m{n}", 5.0),) * stuck,
                stuck_counts=(Counted("given_up", 1),) * stuck,
                ended="stopped",
            )
            row_of = {"agent_id": f"a{n}", "report": msgspec.json.encode(found).decode(), "asked_seq": 0}
            moment = datetime.now(UTC).isoformat()
            told.append({**row_of, "reported_at": moment, "well_since": None if stuck else moment} | beside(found))
        connection.execute(insert(agents), made)
        connection.execute(insert(reports), told)
    engine.dispose()
    client = _signed_in(there)
    for path in ("/console/needs", "/console/needs?page=20", "/console/agents", "/console/agents?page=200"):
        waits = []
        for _ in range(5):
            began = time.perf_counter()
            answer = client.get(path)
            waits.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
        text = f"{statistics.median(waits) * 1e3:.0f} ms, {answer.num_bytes_downloaded / 1000:.1f} kB"
        row(f"console: {path} at {CROWD:,} agents", text, "60 kB", met=answer.num_bytes_downloaded < 60_000)
    client.close()


def _signed_in(there: Tenant) -> httpx.Client:
    client = httpx.Client(base_url=there.processes[0].url, trust_env=False, timeout=60)
    form = {"username": there.account.name, "password": PASSWORD}
    answer = client.post("/console/login", data=form, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303, answer.text
    return client


def _fill(there: Tenant, count: int) -> list[dict[str, Any]]:
    """Mail of the last 90 days between the agents, put into the database past the broker; the agents."""
    known = [there.register(f"agent{number}") for number in range(AGENTS)]
    begun = datetime.now(UTC) - timedelta(days=90)
    engine = create_engine(there.database)
    with engine.begin() as connection:
        user = connection.execute(select(agents.c.user_id).limit(1)).scalar_one()
        seqs = [0] * AGENTS

        def made() -> Any:  # noqa: ANN401 - rows
            for n in range(count):
                thread = n // IN_A_THREAD
                one, other = (thread + n % 2) % AGENTS, (thread + 1 - n % 2) % AGENTS
                seqs[other] += 1
                yield {
                    "id": f"m{n}",
                    "thread_id": f"t{thread}",
                    "user_id": user,
                    "from_agent_id": known[one]["id"],
                    "from_agent": known[one]["address"],
                    "to_agent_id": known[other]["id"],
                    "to_agent": known[other]["address"],
                    "action": "send",
                    "subject": f"Thread {thread}",
                    "body": f"{BODY}Number n{n}.",
                    "attachments": [],
                    "is_read": True,
                    "created_at": (begun + timedelta(days=90 * n / count)).isoformat(timespec="microseconds"),
                    "seq": seqs[other],
                    "hops": 0,
                    "automatic": "no",
                    "priority": "normal",
                    "labels": [],
                    "ordinal": 0,
                }

        rows = made()
        while portion := list(islice(rows, PORTION)):
            connection.execute(insert(messages), portion)
            note_words(connection, portion)
            ended = [
                {"message_id": one["id"], "stage": stage, "turn_id": f"u{one['id']}", "outcome": outcome, "detail": ""}
                | {"final": True, "watcher": "w", "created_at": one["created_at"]}
                for one in portion
                for stage, outcome in (("started", None), ("settled", "done"))
            ]
            connection.execute(insert(receipts), ended)
        connection.execute(text(THREADS))
        for agent, newest in zip(known, seqs, strict=True):
            connection.execute(update(agents).where(agents.c.id == agent["id"]).values(inbox_seq=newest))
        connection.execute(text(TOTALS))
    engine.dispose()
    return known


def _pages(clients: list[httpx.Client], found: list[list[dict[str, Any]]]) -> None:
    for name, path in (
        ("the first page", "/console/threads"),
        ("threads of one agent", "/console/threads?agent={agent}"),
        ("unread threads", "/console/threads?only=unread"),
        ("a thread", "/console/thread?id=t100"),
        ("a search for what one has", "/console/search?q=n500"),
        ("a search for what all have", "/console/search?q=state+build"),
        ("a search by sender and word", "/console/search?q=from:agent3+n500"),
        ("statistics", "/console/stats"),
    ):
        waits: list[list[float]] = [[], []]
        size = 0
        for _ in range(LOOKS):
            for client, known, measured in zip(clients, found, waits, strict=True):
                began = time.perf_counter()
                answer = client.get(path.format(agent=known[7]["id"]))
                measured.append(time.perf_counter() - began)
                assert answer.status_code == 200, answer.text
                size = answer.num_bytes_downloaded
        small, big = map(statistics.median, waits)
        late = percentile(waits[1], 0.95)
        text = (
            f"{big / small:.2f} x that at {SMALL:,} ({big * 1e3:.1f} / {small * 1e3:.1f} ms; p95 {late * 1e3:.0f} ms)"
        )
        row(f"console: {name} at {BIG:,} messages", f"{text}, {size / 1000:.1f} kB", "under 100 ms", met=big < 0.1)
    whole, asked = 0, 0
    page = clients[1].get("/console/threads")
    whole += page.num_bytes_downloaded
    for part in page.text.split('"'):
        if part.startswith("/console/static/"):
            # A browser asks for the icon of its tab when it likes.
            asked, whole = asked + (not part.endswith(".svg")), whole + clients[1].get(part).num_bytes_downloaded
    row(
        "console: a first visit",
        f"{whole / 1000:.1f} kB, {asked} files beside the page",
        "60 kB, 4 requests",
        met=whole < 60_000 and asked < 4,
    )


async def _open(there: Tenant, known: list[dict[str, Any]] | dict[str, Any], cookies: httpx.Cookies) -> None:
    agent = known if isinstance(known, dict) else known[0]
    process = there.processes[0]
    told: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, cookies=cookies, limits=limits) as client:

        async def page(*, counted: bool = False, own: str = "") -> None:
            """`own`: what makes its address another than that of the other pages."""
            async with client.stream("GET", "/console/live", timeout=None) as stream:
                async for said in stream.aiter_lines():
                    if said == "event: changed":
                        if counted:
                            told.append(time.perf_counter())
                        await client.get(f"/console/threads{own}", headers={"HX-Request": "true"}, timeout=60)

        async def send() -> None:
            form = {"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": agent["address"], "body": "b"}
            await client.post("/messages/send?html=false", json=form, headers=there.account.as_agent)

        async def share(work: float) -> float:
            before, began = cpu_seconds(process.pid), time.perf_counter()
            await asyncio.sleep(work)
            return (cpu_seconds(process.pid) - before) / (time.perf_counter() - began)

        async def shown(bare: float, addresses: list[str]) -> float:
            """What pages at these addresses cost beyond `bare`."""
            open_pages = [asyncio.create_task(page(own=address)) for address in addresses]
            await asyncio.sleep(1.0)
            cost = await share(SECONDS) - bare
            for task in open_pages:
                task.cancel()
            await asyncio.gather(*open_pages, return_exceptions=True)
            return cost

        first = asyncio.create_task(page(counted=True))
        await asyncio.sleep(1.0)
        waits = []
        for _ in range(ARRIVALS):
            await asyncio.sleep(1.2)
            told.clear()
            began = time.perf_counter()
            await send()
            while not told:  # noqa: ASYNC110 - the moment itself is what is measured
                await asyncio.sleep(0.002)
            waits.append(told[0] - began)
        late = percentile(waits, 0.95)
        words = f"{statistics.median(waits) * 1e3:.0f} ms, p95 {late * 1e3:.0f} ms"
        row("console: from a send to the word at an open page", words, "within 300 ms", met=late < 0.3)
        alone = await share(SECONDS)
        others = [asyncio.create_task(page()) for _ in range(OPEN_PAGES - 1)]
        await asyncio.sleep(2.0)
        idle = await share(SECONDS) - alone
        row(f"console: {OPEN_PAGES} open pages, idle", f"{idle:.2%} of a core more", "0.5 %", met=idle < 0.005)

        async def keep_sending() -> None:
            while True:
                await send()
                await asyncio.sleep(1 / CHANGES_A_SECOND)

        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        first.cancel()
        sending = asyncio.create_task(keep_sending())
        bare = await share(SECONDS)
        each = await shown(bare, [f"?agent=&own={number}" for number in range(OPEN_PAGES)])
        busy = await shown(bare, [""] * OPEN_PAGES)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        words = f"{busy / each:.2f} x that of pages with an address each ({busy:.1%} / {each:.1%} of a core more than"
        words += f" the sends alone, {bare:.1%})"
        row(f"console: {OPEN_PAGES} open pages at {CHANGES_A_SECOND} changes a second", words, "15 %", met=busy < 0.15)
