"""What holds at a PostgreSQL server only: it may be away, and other processes use it at the same time."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, update
from tests.broker_desk import BrokerDesk, running_broker
from tests.databases import Postgres, postgres
from tests.desk import until
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.broker.database import Executor, Store
from agent_mailer.broker.migrate import bring_to_head
from agent_mailer.broker.tables import metadata, system_settings
from agent_mailer.broker.users.rows import first_invite
from agent_mailer.errors import BusyFault, ConfigFault, MailerError, UnavailableFault

pytestmark = LONG
BACK_WITHIN = 10.0
"""Seconds from the database's return to an answer."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One that is stopped and started: not the one that others share."""
    with postgres() as server:
        yield server


# To the tables of this version


def test_the_migrations_make_what_the_code_expects(server: Postgres, tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[Any]:
        opts = {"compare_type": True, "compare_server_default": True, "include_object": is_everywhere}
        return list(compare_metadata(MigrationContext.configure(connection, opts=opts), metadata))

    def is_everywhere(_item: object, name: str, kind: str, *_: object) -> bool:
        """The words of messages are kept in a way of each database's own."""
        return (kind, name) not in (("column", "words"), ("index", "ix_searchable_words"))

    async def look() -> list[Any]:
        url = server.url(tmp_path)
        await bring_to_head(url)
        database = Executor(url, writes=True, stores=False)
        try:
            return await database.run(differences)
        finally:
            await database.close()

    assert asyncio.run(look()) == []


def test_processes_that_begin_at_once_on_an_empty_database(server: Postgres, tmp_path: Path) -> None:
    url = server.url(tmp_path)
    together = threading.Barrier(4)

    async def begin() -> str | None:
        together.wait(20)
        await bring_to_head(url)
        store = Store(url)
        await store.open()
        try:
            return await store.write(first_invite)
        finally:
            await store.close()

    with ThreadPoolExecutor(4) as pool:
        codes = {begun.result(60) for begun in [pool.submit(asyncio.run, begin()) for _ in range(4)]}
    assert len(codes) == 1, "one code for the first user, whichever process tells it"
    assert None not in codes


def _refused(url: str, kind: type[MailerError] = ConfigFault) -> MailerError:
    with pytest.raises(kind) as caught:
        asyncio.run(bring_to_head(url))
    assert caught.value.fix
    assert "***" in caught.value.message, "without its password"
    return caught.value


def _do(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_newer_one_and_one_of_another_program_are_left_alone(server: Postgres, tmp_path: Path) -> None:
    newer, others = server.url(tmp_path / "newer"), server.url(tmp_path / "others")
    asyncio.run(bring_to_head(newer))
    _do(newer, "UPDATE alembic_version SET version_num = 'v9999'")
    assert _refused(newer).code == "database_newer"
    _do(others, "CREATE TABLE users (id integer)", "INSERT INTO users VALUES (1)")
    assert _refused(others).code == "not_our_database"
    with psycopg.connect(others.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("users",)]


def test_one_that_takes_no_writes_and_one_that_cannot_hold_all_text(server: Postgres, tmp_path: Path) -> None:
    url = server.url(tmp_path)
    name = url.rpartition("/")[2]
    server.administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    for _ in range(2):  # empty, then with our tables
        said = _refused(url)
        assert (said.code, "psql" in said.fix, "ls -l" in said.fix) == ("database_read_only", True, False)
        _do(url, "SET default_transaction_read_only = off")
        server.administer(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        asyncio.run(bring_to_head(url))
        server.administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    server.administer(f"CREATE DATABASE latin_{name} TEMPLATE template0 ENCODING 'LATIN1'")
    assert _refused(url.replace(name, f"latin_{name}")).code == "database_encoding"


def test_who_is_not_let_in_is_told_so_and_need_not_try_again(server: Postgres, tmp_path: Path) -> None:
    url = server.url(tmp_path)
    name = url.rpartition("/")[2]
    user = f"low_{name}"
    server.administer(f"CREATE ROLE {user} LOGIN PASSWORD 'low'")
    place = f"127.0.0.1:{server.port}/{name}"
    for wrong, word in (
        (f"{url}x", "does not exist"),
        (f"postgresql+psycopg://{user}:wrong@{place}", "authentication failed"),
        (f"postgresql+psycopg://{user}:low@{place}", "permission denied"),
    ):
        said = _refused(wrong)
        assert said.code == "database_refused"
        assert word in said.message


def test_one_that_somebody_has_locked(server: Postgres, tmp_path: Path) -> None:
    url = server.url(tmp_path)
    asyncio.run(bring_to_head(url))
    with psycopg.connect(url.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE alembic_version, users IN ACCESS EXCLUSIVE MODE")
        said = _refused(url, BusyFault)
    assert (said.code, "pg_stat_activity" in said.fix) == ("database_locked", True)
    with running_broker(tmp_path / "b", database=url) as desk:
        alice = desk.person("alice")
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            answer = desk.http.get("/users/me", headers=alice.login)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        desk.call("GET", "/users/me", headers=alice.login)


def test_the_command_line_takes_its_url(server: Postgres, tmp_path: Path) -> None:
    # As people write it, without a driver.
    url = server.url(tmp_path).replace("+psycopg", "")
    given = {"AGENT_MAILER_PASSWORD": "correct horse"}
    made = type_in(tmp_path, "broker", "user", "add", "ann", "--database", url, env=given)
    assert made.status == 0, made
    assert "ann" in type_in(tmp_path, "broker", "user", "list", "--database", url).out


# Several at once


def settings_of(url: str, work: Any) -> Any:
    async def run() -> Any:
        await bring_to_head(url)
        stores = [Store(url), Store(url)]
        for store in stores:
            await store.open()
        try:
            return await work(*stores)
        finally:
            for store in stores:
                await store.close()

    return asyncio.run(run())


def test_who_gives_way_to_another_transaction_begins_anew(server: Postgres, tmp_path: Path) -> None:
    runs: list[str] = []
    met = threading.Barrier(2)

    def both(first: str, second: str) -> Any:
        def work(connection: Connection) -> str:
            runs.append(first)
            for key in (first, second):
                connection.execute(
                    update(system_settings).where(system_settings.c.key == key).values(value=f"of {first}")
                )
                if key == first and runs.count(first) == 1:
                    met.wait(20)  # each holds one of the two rows
            return first

        return work

    def make(connection: Connection) -> None:
        rows = [{"key": key, "value": "", "updated_at": ""} for key in "ab"]
        connection.execute(insert(system_settings), rows)

    def values(connection: Connection) -> set[str]:
        return set(connection.execute(select(system_settings.c.value)).scalars())

    async def work(one: Store, other: Store) -> set[str]:
        await one.write(make)
        await asyncio.gather(one.write(both("a", "b")), other.write(both("b", "a")))
        return await one.read(values)

    found = settings_of(server.url(tmp_path), work)
    assert len(found) == 1, "one after the other"
    # On a busy machine it may have to give way once more.
    assert len(runs) > 2, runs


def test_the_same_request_at_two_processes_is_one_message(server: Postgres, tmp_path: Path) -> None:
    with ExitStack() as stack:
        desks = [stack.enter_context(at(server, tmp_path)) for _ in range(2)]
        alice = desks[0].person("alice")
        planner, coder = (desks[0].agent(alice, name) for name in ("planner", "coder"))

        def send(number: int) -> tuple[int, str]:
            form = {"agent_id": planner["id"], "from_agent": planner["address"], "to_agent": coder["address"]}
            said = desks[number % 2].http.post(
                "/messages/send",
                json={**form, "body": str(number // 4)},
                headers={**alice.header, "Idempotency-Key": str(number // 4)},
            )
            assert said.status_code == 200, said.text
            return number // 4, said.json()["id"]

        with ThreadPoolExecutor(8) as pool:
            answers = set(pool.map(send, range(160)))
        assert len(answers) == 40, "each of the four that had one key got the same answer"
        found = desks[1].call(
            "GET",
            f"/messages/inbox/{coder['address']}?agent_id={coder['id']}&after=0&limit=1000",
            headers=alice.header,
        )["messages"]
        assert sorted(message["id"] for message in found) == sorted(name for _, name in answers)
        assert [message["cursor"] for message in found] == list(range(1, 41))


# A database that is away


def at(server: Postgres, place: Path, **settings: Any) -> Any:
    return running_broker(place, database=server.url(place), **settings)


def test_while_it_is_away_every_call_says_so_and_then_all_is_as_before(server: Postgres, tmp_path: Path) -> None:
    with at(server, tmp_path) as desk:
        alice = desk.person("alice")
        planner, coder = desk.agent(alice, "planner"), desk.agent(alice, "coder")
        desk.send(alice, planner, coder["address"], body="before")
        assert desk.call("GET", "/ready") == {"ready": True}
        server.stop()
        try:
            # What is kept of keys in memory is forgotten in a moment: with and without it there is one answer.
            until(lambda: statuses(desk, alice.header, planner, coder) == [503] * 4, "refusals of all calls")
            said = desk.http.get("/ready")
            assert (said.status_code, said.json()["ready"]) == (503, False)
            assert "127.0.0.1" not in said.text + desk.http.get("/agents", headers=alice.header).text
            assert desk.call("GET", "/health") == {"status": "ok"}
            with pytest.raises(UnavailableFault) as caught:
                asyncio.run(bring_to_head(desk.settings.database))
            assert caught.value.fix
            assert desk.settings.database.split("@")[0].rpartition(":")[2] not in caught.value.message
        finally:
            server.start()
        begun = time.monotonic()
        until(lambda: desk.http.get("/ready").status_code == 200, "its return")
        assert desk.send(alice, planner, coder["address"], body="after")
        assert time.monotonic() - begun < BACK_WITHIN


def statuses(desk: BrokerDesk, key: dict[str, str], planner: dict[str, Any], coder: dict[str, Any]) -> list[int]:
    form = {"agent_id": planner["id"], "from_agent": planner["address"], "to_agent": coder["address"], "body": "b"}
    inbox = f"/messages/inbox/{coder['address']}"
    answers = [
        desk.http.post("/messages/send", json=form, headers=key),
        desk.http.get(inbox, params={"agent_id": coder["id"], "after": 0}, headers=key),
        desk.http.get(f"{inbox}/stream", params={"agent_id": coder["id"]}, headers=key),
        desk.http.post("/users/login", json={"username": "alice", "password": "x" * 9}),
    ]
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    return [answer.status_code for answer in answers]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "by a crash"])
def test_what_was_accepted_while_it_ended_and_came_back_is_there_once(
    server: Postgres, tmp_path: Path, end: int
) -> None:
    with at(server, tmp_path) as desk:
        alice = desk.person("alice")
        planner, coder = desk.agent(alice, "planner"), desk.agent(alice, "coder")
        over = threading.Event()
        accepted: list[str] = []
        seen: set[int] = set()

        def send(sender: int) -> None:
            form = {"agent_id": planner["id"], "from_agent": planner["address"], "to_agent": coder["address"]}
            number = 0
            with httpx.Client(base_url=desk.url, trust_env=False, timeout=30, headers=alice.header) as client:
                while not over.is_set():
                    said = client.post("/messages/send", json=form, headers={"Idempotency-Key": f"{sender}-{number}"})
                    seen.add(said.status_code)
                    if said.status_code == 200:
                        accepted.append(said.json()["id"])
                        number += 1

        with ThreadPoolExecutor(4) as pool:
            senders = [pool.submit(send, number) for number in range(4)]
            try:
                for _ in range(2):
                    before = len(accepted)
                    until(lambda: len(accepted) > before + 20, "some mail")  # noqa: B023 - called in this round
                    server.administer(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent-mailer'"
                    )
                    server.stop(end)
                    server.start()
                before = len(accepted)
                until(lambda: len(accepted) > before + 20, "mail after the return", BACK_WITHIN)
            finally:
                over.set()
            for sender in senders:
                sender.result(60)
        assert seen <= {200, 503}
        rows = desk.sql("SELECT id, seq FROM messages ORDER BY seq")
        assert {row[0] for row in rows} == set(accepted)
        assert len(accepted) == len(set(accepted)) == len(rows)
        assert [row[1] for row in rows] == list(range(1, len(rows) + 1))


def test_what_listens_again_just_as_the_broker_ends_is_no_connection_that_stays(
    server: Postgres, tmp_path: Path
) -> None:
    def listeners() -> list[tuple[int]]:
        return server.administer("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")

    with at(server, tmp_path) as desk, ThreadPoolExecutor(1) as pool:
        [(listening,)] = listeners()
        url = desk.settings.database.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as watching, psycopg.connect(url) as holding:
            # Whoever logs in now waits for us.
            holding.execute("LOCK TABLE pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE")
            watching.execute("SELECT pg_terminate_backend(%s)", (listening,))
            waiting = "SELECT 1 FROM pg_locks WHERE relation = 'pg_authid'::regclass AND NOT granted"
            until(lambda: watching.execute(waiting).fetchone(), "a connection that would listen")
            ended = pool.submit(desk.stop)
            until(lambda: not watching.execute("SELECT 1 FROM processes").fetchone(), "the end of the broker")
            holding.rollback()
        ended.result(60)
        gc.collect()  # a connection that nobody has closed is told of here
    assert not listeners()


def test_mail_that_is_just_being_marked_unread_is_not_taken_for_its_age(server: Postgres, tmp_path: Path) -> None:
    with at(server, tmp_path) as desk, ThreadPoolExecutor(1) as pool:
        alice = desk.person("alice")
        coder = desk.agent(alice, "coder")
        sent = desk.send(alice, coder, coder["address"], body="old")["id"]
        desk.call("PATCH", f"/messages/{sent}/read", headers=alice.header)
        long_ago = "2020-01-01T00:00:00.000000+00:00"
        desk.sql("UPDATE messages SET created_at = :m WHERE id = :i", m=long_ago, i=sent)
        url = desk.settings.database
        plain = url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as watching, psycopg.connect(plain) as marking:
            marking.execute("UPDATE messages SET is_read = false WHERE id = %s", (sent,))
            env = {"AGENT_MAILER_DATABASE_URL": url, "AGENT_MAILER_UPLOAD_DIR": str(desk.settings.uploads)}
            pruned = pool.submit(type_in, tmp_path, "broker", "prune", "--keep-days", "30", env=env)
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
            until(lambda: watching.execute(waits).fetchone(), "prune, which waits for the mark")
            marking.commit()
        assert pruned.result(60).status == 0
        assert desk.sql("SELECT body, is_read FROM messages WHERE id = :i", i=sent) == [("old", False)]
