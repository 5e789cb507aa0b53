"""The broker's database: how it comes to its tables, and what happens where it cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import Pool
from tests.broker_desk import PASSWORD, running_broker
from tests.sizes import LONG

from agent_mailer.broker.app import create_app
from agent_mailer.broker.data import Settings
from agent_mailer.broker.database import Executor, Store
from agent_mailer.broker.migrate import HEAD, MIGRATIONS, bring_to_head, upgrade
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.remote.rows import beside
from agent_mailer.broker.tables import metadata, system_settings
from agent_mailer.errors import BusyFault, ConfigFault, MailerError
from agent_mailer.remote.port import Report, Spent, Working


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def bring(path: Path) -> None:
    asyncio.run(bring_to_head(url_of(path)))


def at_version(path: Path, version: str) -> None:
    """A new database as that version made it."""

    async def make() -> None:
        database = Executor(url_of(path), writes=True, stores=False)
        try:
            await database.run(lambda connection: upgrade(connection, path.name, version))
        finally:
            await database.close()

    asyncio.run(make())


def refused(path: Path, kind: type[MailerError] = ConfigFault, url: str = "") -> MailerError:
    """What `bring_to_head` says; the file must be what it was, to the last byte."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind) as caught:
        asyncio.run(bring_to_head(url or url_of(path)))
    assert (path.read_bytes() if path.is_file() else None) == before
    assert caught.value.fix
    return caught.value


def sql(path: Path, *statements: str) -> list[Any]:
    rows: list[Any] = []
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        connection.commit()
    return rows


def tables_of(path: Path) -> set[str]:
    return {name for (name,) in sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}


# To the tables of this version


def test_the_migrations_make_what_the_code_expects(tmp_path: Path) -> None:
    bring(tmp_path / "new.db")

    def differences(connection: Connection) -> list[Any]:
        opts = {
            "compare_type": True,
            "compare_server_default": True,
            # The index of words is FTS5's own.
            "include_name": lambda name, _kind, _parents: not str(name).startswith("message_words"),
        }
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, metadata))

    def checks(connection: Connection) -> set[str]:
        found = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql LIKE '%CHECK%'")).scalars()
        names = {part.split()[0] for row in found for part in row.split("CONSTRAINT ") if "CHECK" in part}
        partial = text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%WHERE%'")
        return names | {" ".join(row.split()) for row in connection.execute(partial).scalars()}

    async def look() -> list[Any]:
        migrated, made = (
            Executor(url_of(tmp_path / name), writes=True, stores=False) for name in ("new.db", "other.db")
        )
        try:
            await made.run(metadata.create_all)
            # Alembic does not compare what a CHECK says, nor of what rows an index is.
            assert await migrated.run(checks) == await made.run(checks) != set()
            return await migrated.run(differences)
        finally:
            await migrated.close()
            await made.close()

    assert asyncio.run(look()) == []


def test_the_head_is_the_newest_version() -> None:
    assert ScriptDirectory(MIGRATIONS, version_locations=[MIGRATIONS]).get_heads() == [HEAD]


def test_twice_is_once(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    bring(path)
    sql(path, "INSERT INTO system_settings VALUES ('k', 'v', 'now')")
    bring(path)
    assert sql(path, "SELECT key FROM system_settings") == [("k",)]
    assert sql(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_two_programs_begin_at_once(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring, [path] * 4))
    assert "messages" in tables_of(path)


def test_an_older_one_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    # Older than the first version: nothing but the place where the version is kept.
    sql(path, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    bring(path)
    assert sql(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert {table.name for table in metadata.sorted_tables} <= tables_of(path)


def test_mail_that_there_is_counts_in_its_inbox_and_has_its_threads(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    at_version(path, "0008")
    moment = "2026-11-21T08:15:00.000000+00:00"
    sql(
        path,
        f"INSERT INTO users VALUES ('u', 'ann', 'x', 0, '{moment}', '[]', 0, 'active')",
        *(
            "INSERT INTO agents (id, name, address, role, description, system_prompt, created_at, tags, user_id,"
            " status, inbox_seq)"
            f" VALUES ('{name}', '{name}', '{name}@ann', '', '', '', '{moment}', '[]', 'u', 'active', 9)"
            for name in ("a", "b")
        ),
        *(
            "INSERT INTO messages (id, thread_id, user_id, from_agent_id, from_agent, to_agent_id, to_agent, action,"
            " subject, body, attachments, is_read, created_at, seq, hops, automatic, priority, labels, ordinal)"
            f" VALUES ('m{n}', 't', 'u', 'b', 'b@ann', 'a', 'a@ann', 'send', '', '{'Beta' * (n == 3)}', '[]', {n < 2},"
            f" '{moment}', {n}, 0, 'no', 'normal', '[]', 0)"
            for n in range(5)
        ),
    )
    bring(path)
    assert sql(path, "SELECT id, inbox_total, inbox_unread FROM agents ORDER BY id") == [("a", 5, 3), ("b", 0, 0)]
    found = sql(path, "SELECT rowid FROM message_words WHERE message_words MATCH 'uu AND beta'")
    assert found == sql(path, "SELECT number FROM searchable WHERE message_id = 'm3'")
    assert sql(path, "SELECT * FROM sent_counts") == [("b", "send", 5)]
    assert sql(path, "SELECT * FROM threads") == [("u", "t", moment, "open", None)]


def test_what_is_kept_beside_reports_follows_from_those_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    at_version(path, "0022")
    works = (Working("t", "m", "th", 5.0),)
    told = Report("1", "all", working=works, waiting=3, today=Spent("2026-11-21", 2, cost_usd=0.5), ended="stopped")
    well = Report("1", "all")
    sql(
        path,
        *(
            f"INSERT INTO reports VALUES ('{name}', {shown}, NULL, 0, NULL)"
            for name, shown in (
                ("told", f"'{msgspec.json.encode(told).decode()}'"),
                ("well", f"'{msgspec.json.encode(well).decode()}'"),
                ("none", "NULL"),
            )
        ),
    )
    bring(path)
    columns = ", ".join(beside(told))
    found = {row[0]: row[1:] for row in sql(path, f"SELECT agent_id, {columns} FROM reports")}
    wanted = {"told": tuple(beside(told).values()), "well": tuple(beside(well).values()), "none": (None,) * 7}
    assert found == wanted


VERSIONS = [f"{number:04d}" for number in range(1, int(HEAD) + 1)]


@pytest.mark.parametrize("version", [pytest.param(version, marks=LONG) for version in VERSIONS])
def test_a_database_of_each_version_keeps_what_it_has(tmp_path: Path, version: str) -> None:
    path = tmp_path / "broker.db"
    at_version(path, version)
    moment = "2026-11-21T08:15:00.000000+00:00"
    then = {
        "users": "id, username, password_hash, is_superadmin, created_at, filter_tags, token_version",
        "agents": "id, name, address, role, description, system_prompt, created_at, tags, user_id, status, inbox_seq",
        "messages": "id, thread_id, user_id, from_agent_id, from_agent, to_agent_id, to_agent, action, subject, body,"
        " attachments, is_read, created_at, seq, hops, automatic, priority, labels, ordinal",
        "receipts": "id, message_id, stage, turn_id, detail, final, watcher, created_at",
    }
    ann = f"'u', 'ann', 'x', 0, '{moment}', '[]', 3"
    agents = [f"'{name}', '{name}', '{name}@ann', 'r', 'd', 's', '{moment}', '[]', 'u', 'active', 9" for name in "ab"]
    mail = [
        f"'m{n}', 't{n % 2}', 'u', 'b', 'b@ann', 'a', 'a@ann', 'send', 'Grüße {n}', 'body {n}', '[]', {n < 2},"
        f" '{moment}', {n}, 0, 'no', 'normal', '[]', 0"
        for n in range(5)
    ]
    rows = {"users": [ann], "agents": agents, "messages": mail}
    rows["receipts"] = [f"7, 'm1', 'settled', 'turn', '', 1, 'w', '{moment}'"]
    for table, values in rows.items():
        sql(path, *(f"INSERT INTO {table} ({then[table]}) VALUES ({one})" for one in values))
    look = {table: f"SELECT {columns} FROM {table} ORDER BY id" for table, columns in then.items()}
    before = {table: sql(path, statement) for table, statement in look.items()}
    bring(path)
    assert {table: sql(path, statement) for table, statement in look.items()} == before
    assert [len(found) for found in before.values()] == [1, 2, 5, 1]
    assert sql(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert sql(path, "PRAGMA foreign_key_check") == []
    bring(tmp_path / "new.db")
    names = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_autoindex%' ORDER BY type, name"
    assert sql(path, names) == sql(tmp_path / "new.db", names)


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    sql(
        path,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "CREATE TABLE receipts (mine TEXT)",
    )
    assert "receipts" in refused(path).message
    assert tables_of(path) == {"alembic_version", "receipts"}
    sql(path, "DROP TABLE receipts")
    bring(path)
    assert "receipts" in tables_of(path)


def test_a_newer_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    bring(path)
    sql(path, "UPDATE alembic_version SET version_num = '9999'", "CREATE TABLE of_the_future (x TEXT)")
    fault = refused(path)
    assert fault.code == "database_newer"
    assert "newer agent-mailer" in fault.message
    assert "pip install" in fault.fix
    assert "of_the_future" in tables_of(path)

    async def start() -> None:
        app = create_app(Settings(url_of(path), tmp_path / "uploads", "s" * 32))
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(ConfigFault):
        asyncio.run(start())


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent_mailer.db"
    sql(path, "CREATE TABLE users (id TEXT)", "CREATE TABLE messages (id TEXT)")
    fault = refused(path)
    assert fault.code == "not_our_database"
    assert "messages, users" in fault.message


# A database that cannot be used


def test_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary,\n" * 1000)
    fault = refused(path)
    assert fault.code == "database_damaged"
    assert "mv " in fault.fix


def test_half_a_database(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    bring(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path).code == "database_damaged"


def test_a_database_that_nobody_can_open(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere" / "broker.db").code == "database_unreadable"
    assert refused(tmp_path).code == "database_unreadable"


def test_a_database_that_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    bring(path)
    # By the URL: for root there are no read-only files.
    fault = refused(path, url=f"sqlite:///file:{path}?mode=ro&uri=true")
    assert fault.code == "database_read_only"


@contextmanager
def room_for(pages: int) -> Iterator[None]:
    """SQLite's own limit in the place of a full disk."""

    def limit(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={pages}")
        cursor.close()

    event.listen(Pool, "connect", limit)
    try:
        yield
    finally:
        event.remove(Pool, "connect", limit)


def test_no_room_for_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with room_for(3):
        with pytest.raises(ConfigFault) as caught:
            bring(path)
        assert caught.value.code == "database_full"
        assert "df " in caught.value.fix
    assert tables_of(path) == set()
    bring(path)


def test_no_room_for_a_request(tmp_path: Path) -> None:
    bring(tmp_path / "broker.db")
    [(empty,)] = sql(tmp_path / "broker.db", "PRAGMA page_count")
    with room_for(empty + 30), running_broker(tmp_path) as desk:
        alice = desk.person("alice")
        before = desk.agent(alice, "small")
        big = {"name": "big", "role": "r", "system_prompt": "x" * 250_000}
        answers = [
            desk.http.post("/agents/register", json=big | {"name": f"big-{n}"}, headers=alice.header) for n in "ab"
        ]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].json() == {"detail": "database or disk is full"}
        assert answers[0].headers["retry-after"] == "1"
        assert desk.call("GET", "/agents", headers=alice.header) == [before]
        assert desk.agent(alice, "another")["name"] == "another", "what is small still goes in"


@LONG
def test_a_locked_database(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk, closing(sqlite3.connect(desk.database, isolation_level=None)) as other:
        alice = desk.person("alice")
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as pool:
            form = {"role": "r", "system_prompt": "p"}
            calls = [
                pool.submit(desk.http.post, "/agents/register", json=form | {"name": f"a{n}"}, headers=alice.header)
                for n in range(6)
            ]
            start = pool.submit(asyncio.run, bring_to_head(desk.settings.database))
            # Who only reads does not wait.
            assert desk.call("GET", "/agents", headers=alice.header) == []
            assert desk.call("GET", "/users/me", headers=alice.login)["id"] == alice.id
            login = pool.submit(desk.http.post, "/users/login", json={"username": "alice", "password": PASSWORD})
            assert login.result().status_code == 200
            answers = [call.result() for call in calls]
            with pytest.raises(BusyFault) as caught:
                start.result()
        assert caught.value.code == "database_locked"
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json() == {"detail": "database is locked"}
        other.execute("ROLLBACK")
        assert desk.call("GET", "/agents", headers=alice.header) == []
        assert desk.agent(alice, "later")["name"] == "later"


# The store


def with_store(tmp_path: Path, work: Callable[[Store], Any]) -> Any:
    async def run() -> Any:
        url = url_of(tmp_path / "broker.db")
        await bring_to_head(url)
        store = Store(url)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def put(key: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        if key == "refused":
            raise Fault(400, "refused")
        connection.execute(insert(system_settings).values(key=key, value="", updated_at=""))
        return key

    return work


def kept(connection: Connection) -> set[str]:
    return set(connection.execute(select(system_settings.c.key)).scalars())


def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    batches: list[int] = []

    def bulk(connection: Connection, keys: Sequence[str]) -> list[str | Fault]:
        batches.append(len(keys))
        results: list[str | Fault] = []
        for key in keys:
            results.append(Fault(400, key) if key == "refused" else put(key)(connection))
        return results

    async def work(store: Store) -> None:
        keys = [f"k{n}" for n in range(40)] + ["refused"]
        results = await asyncio.gather(*(store.write_each(bulk, key) for key in keys), return_exceptions=True)
        assert results[:-1] == keys[:-1]
        assert isinstance(results[-1], Fault)
        assert await store.read(kept) == set(keys[:-1])

    with_store(tmp_path, work)
    assert sum(batches) == 41
    assert len(batches) <= 3, batches


def test_one_that_fails_takes_nobody_along(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.write(put("there"))
        keys = ["a", "refused", "b", "there", "c"]
        results = await asyncio.gather(*(store.write(put(key)) for key in keys), return_exceptions=True)
        assert results[0::2] == ["a", "b", "c"]
        assert isinstance(results[1], Fault)
        assert isinstance(results[3], IntegrityError)
        assert await store.read(kept) == {"there", "a", "b", "c"}

    with_store(tmp_path, work)


@contextmanager
def lost_once(moment: str, *, committed: bool, finding: str = "SELECT 1") -> Iterator[None]:
    """The next connection that comes to this `moment`, and for which that statement finds something, ends there;
    `committed`: its commit is done, and nobody told.
    """
    lost: list[Any] = []

    def lose(connection: Connection, *_: object) -> None:
        own: Any = connection.connection.dbapi_connection
        if not lost and own.execute(finding).fetchone():
            lost.append(own)
            if committed:
                lost[0].commit()
            lost[0].close()

    event.listen(Engine, moment, lose)
    try:
        yield
    finally:
        event.remove(Engine, moment, lose)
    assert lost


@pytest.mark.parametrize(
    ("moment", "committed", "there"),
    [("before_cursor_execute", False, {"run 2"}), ("commit", False, set()), ("commit", True, {"run 1"})],
)
def test_what_may_have_been_committed_is_not_run_again(
    tmp_path: Path, moment: str, committed: bool, there: set[str]
) -> None:
    runs: list[str] = []

    def anew(connection: Connection) -> str:
        runs.append(f"run {len(runs) + 1}")
        return put(runs[-1])(connection)

    async def work(store: Store) -> None:
        with lost_once(moment, committed=committed):
            [result] = await asyncio.gather(store.write(anew), return_exceptions=True)
        assert await store.read(kept) == there
        if moment == "commit":
            assert isinstance(result, DBAPIError), "nobody is told that it is there, nor that it is not"
        else:
            assert result == "run 2"
        assert await store.write(put("next")) == "next"

    with_store(tmp_path, work)


def test_who_no_longer_waits_is_written_all_the_same(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        gone = asyncio.ensure_future(store.write(put("gone")))
        await asyncio.sleep(0)
        gone.cancel()
        await store.write(put("next"))
        assert await store.read(kept) == {"gone", "next"}

    with_store(tmp_path, work)


def test_what_was_asked_for_before_the_end_is_kept(tmp_path: Path) -> None:
    async def work(store: Store) -> list[asyncio.Task[str]]:
        waiting = [asyncio.ensure_future(store.write(put(f"k{n}"))) for n in range(300)]
        await asyncio.sleep(0)
        return waiting

    waiting = with_store(tmp_path, work)
    assert all(future.done() for future in waiting)
    assert len(sql(tmp_path / "broker.db", "SELECT key FROM system_settings")) == 300
    assert sql(tmp_path / "broker.db", "PRAGMA journal_mode") == [("wal",)]
