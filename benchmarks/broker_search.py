"""What a search costs in a million messages; on a file and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, insert, text
from tests.databases import Postgres, postgres

from agent_mailer.broker.engines import engine_of
from agent_mailer.broker.migrate import bring_to_head
from agent_mailer.broker.search.rows import find, note_words
from agent_mailer.broker.search.words import wanted_by
from agent_mailer.broker.tables import agents, messages, users
from benchmarks.measuring import percentile, row

MESSAGES = int(os.environ.get("BENCH_MESSAGES", "1000000"))
OTHERS = 10
"""Of so many messages one is another user's."""
VOCABULARY = 30_000
WORDS = 30
"""Of a message; as in a language, few words are in most messages and most words in few."""
BODIES = 50_000
"""Different ones."""
PORTION = 5_000
LOOKS = 25
WITHIN = 0.050
"""Seconds."""
LATER = 200
"""A later page begins after so many."""
MOMENT = "2026-11-21T08:15:00.000000+00:00"


def search() -> None:
    """Each question's first page, and a later one: words that nearly all have, that some have, that one has."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        _search(f"sqlite:///{Path(folder) / 'broker.db'}", "a file")
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        _search(_database(server, Path(folder)), "PostgreSQL")


def _database(server: Postgres, folder: Path) -> str:
    return server.url(folder)


def _search(database: str, where: str) -> None:
    asyncio.run(bring_to_head(database))
    _fill(database)
    reader = engine_of(database, writes=False, size=1, stores=True)
    questions = {
        "what all have": "w0",
        "what half have": "w3",
        "two common words": "w1 w5",
        "a common word and one message's": f"w0 n{MESSAGES // 2}",
        "what one in a hundred has": "w300",
        "what one has": f"n{MESSAGES // 2 + 1}",
        "a beginning of many words": "w100*",
        "what nobody has": "nobody",
    }
    with reader.connect() as connection:
        for name, asked in questions.items():
            for page, skip in (("first page", 0), ("a later page", LATER)):
                waits, total = _timed(connection, asked, skip)
                if skip and total <= skip:
                    continue
                middle, high = statistics.median(waits), percentile(waits, 0.95)
                said = f"{middle * 1e3:.1f} ms (p95 {high * 1e3:.1f}; {total} found)"
                what = f"search on {where}, {MESSAGES:,}: {name}, {page}"
                row(what, said, f"under {WITHIN * 1e3:.0f} ms", met=middle < WITHIN)
    reader.dispose()


def _timed(connection: Connection, asked: str, skip: int) -> tuple[list[float], int]:
    waits = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        _, total = find(connection, "ann", wanted_by(asked), skip, 20)
        waits.append(time.perf_counter() - began)
    return waits, total


def _fill(database: str) -> None:
    engine = create_engine(database)
    rows = _rows()
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA cache_size=-500000")  # it is filled, not measured
        for user in ("ann", "bob"):
            _user(connection, user)
        while portion := list(islice(rows, PORTION)):
            connection.execute(insert(messages), portion)
            note_words(connection, portion)
    _settle(engine)


def _settle(engine: Engine) -> None:
    if engine.dialect.name == "postgresql":
        # As the server does by itself some time after such a change.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _user(connection: Connection, name: str) -> None:
    person = {"id": name, "username": name, "password_hash": "", "is_superadmin": False, "created_at": MOMENT}
    connection.execute(insert(users), [{**person, "filter_tags": [], "token_version": 1}])
    agent = {"id": f"{name}-a", "name": name, "address": f"a@{name}", "role": "", "description": "", "tags": []}
    more = {"system_prompt": "", "created_at": MOMENT, "user_id": name, "status": "active", "inbox_seq": MESSAGES}
    connection.execute(insert(agents), [{**agent, **more}])


def _rows() -> Iterator[dict[str, Any]]:
    chosen = random.Random(1)
    words = [f"w{n}" for n in range(VOCABULARY)]
    weights = list(accumulate(1 / (n + 2) for n in range(VOCABULARY)))
    bodies = [" ".join(chosen.choices(words, cum_weights=weights, k=WORDS)) for _ in range(BODIES)]
    same = {"action": "send", "attachments": [], "is_read": True, "created_at": MOMENT, "hops": 0, "automatic": "no"}
    same |= {"priority": "normal", "labels": [], "ordinal": 0}
    for n in range(1, MESSAGES + 1):
        user = "bob" if n % OTHERS == 0 else "ann"
        ends = {"from_agent_id": f"{user}-a", "from_agent": f"a@{user}", "to_agent_id": f"{user}-a"}
        yield {
            **same,
            **ends,
            "id": f"m{n}",
            "seq": n,
            "thread_id": f"t{n // 50}",
            "user_id": user,
            "to_agent": f"a@{user}",
            "subject": f"w0 n{n}",
            "body": chosen.choice(bodies),
        }
