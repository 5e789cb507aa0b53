"""Two processes over one database of PostgreSQL that change the same at once: as if one had come after the other."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import pytest
from sqlalchemy import Connection, create_engine, insert, text
from tests.broker_desk import DOMAIN, BrokerDesk, Person, running_broker
from tests.databases import Postgres
from tests.desk import until
from tests.hook_desk import signed
from tests.sizes import LONG

from agent_mailer.broker.agents.rows import delete_agent, replace_key
from agent_mailer.broker.app import create_app
from agent_mailer.broker.data import Keep, Settings
from agent_mailer.broker.database import Store
from agent_mailer.broker.engines import NOW_MS
from agent_mailer.broker.hooks import rows as hooks
from agent_mailer.broker.hooks import sweep
from agent_mailer.broker.hooks.taking import Limits, retry
from agent_mailer.broker.leases import Lease, give_back, take
from agent_mailer.broker.messages.sending import send_all
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.broker.migrate import bring_to_head
from agent_mailer.broker.peers import Peers
from agent_mailer.broker.teams.rows import add_to_team
from agent_mailer.broker.threads.trash import erase_message, restore_message
from agent_mailer.broker.upkeep.retention import prune
from agent_mailer.broker.users.rows import new_raw_key
from agent_mailer.broker.users.standing import Standing, set_standing
from agent_mailer.broker.watch_tables import processes
from agent_mailer.errors import ConfigFault
from agent_mailer.outside.event import Source

pytestmark = LONG
T = TypeVar("T")


@pytest.fixture(scope="module")
def desk(shared_postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    place = tmp_path_factory.mktemp("races")
    with running_broker(place, database=shared_postgres.url(place)) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


def while_another(desk: BrokerDesk, does: Callable[[Connection], object], ours: Callable[[], T]) -> T:
    """What `ours` returns where another process has done something that it commits as soon as `ours` waits for it, or
    is over.
    """
    engine = create_engine(desk.settings.database)
    name = engine.url.database
    waits = text("SELECT 1 FROM pg_stat_activity WHERE datname = :name AND wait_event_type = 'Lock'")
    try:
        with ThreadPoolExecutor(1) as pool, engine.connect() as theirs, engine.connect() as watching:
            watching.execution_options(isolation_level="AUTOCOMMIT")
            does(theirs)
            answer = pool.submit(ours)
            until(lambda: answer.done() or watching.execute(waits, {"name": name}).first() is not None, "our turn")
            theirs.commit()
            return answer.result(60)
    finally:
        engine.dispose()


def do(url: str, work: Callable[[Connection], T]) -> T:
    """At another process, and committed."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def test_an_agent_that_another_process_is_just_taking_is_held_by_one(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.agent(alice, "held")
    one = Lease("one", "One", "2026-01-01")

    def another_process(connection: Connection) -> None:
        connection.execute(insert(processes).values(id="another", secret_digest="", seen_ms=NOW_MS + 600_000))
        # Somebody had it before: there is a row, and nobody in it.
        take(connection, coder["id"], one, "another")
        give_back(connection, "another", [(coder["id"], 1)])

    def opened() -> tuple[int, str]:
        path = f"/messages/inbox/{coder['address']}/stream"
        headers = {**alice.header, "X-Agent-Mailer-Watcher": "two"}
        with desk.http.stream("GET", path, params={"agent_id": coder["id"]}, headers=headers) as said:
            return said.status_code, said.read().decode() if said.status_code != httpx.codes.OK else ""

    do(desk.settings.database, another_process)
    status, words = while_another(desk, lambda c: take(c, coder["id"], one, "another"), opened)
    assert (status, "One" in words) == (409, True)
    assert desk.sql("SELECT watcher, epoch FROM leases WHERE agent_id = :a", a=coder["id"]) == [("one", 2)]


def trashed(desk: BrokerDesk, person: Person, message_id: str) -> None:
    desk.call("POST", f"/admin/messages/{message_id}/trash", headers=person.login)


def test_a_message_that_is_just_being_restored_is_not_deleted_for_good(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.agent(alice, "restored")
    sent = desk.send(alice, coder, coder["address"], body="precious")["id"]
    trashed(desk, alice, sent)

    def purge() -> int:
        return desk.http.post(f"/admin/messages/{sent}/purge", headers=alice.login).status_code

    assert while_another(desk, lambda c: restore_message(c, alice.id, sent), purge) == 400
    assert desk.call("GET", f"/messages/{sent}", headers=alice.header)["body"] == "precious"


def test_a_message_that_is_just_being_deleted_for_good_is_not_restored(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.agent(alice, "purged")
    first = desk.send(alice, coder, coder["address"])
    sent = desk.send(alice, coder, coder["address"], body="nothing", thread_id=first["thread_id"])["id"]
    trashed(desk, alice, sent)

    def restore() -> int:
        return desk.http.post(f"/admin/messages/{sent}/restore", headers=alice.login).status_code

    assert while_another(desk, lambda c: erase_message(c, alice.id, sent), restore) == 404
    assert desk.sql("SELECT inbox_total, inbox_unread FROM agents WHERE id = :a", a=coder["id"]) == [(1, 1)]


def writing(
    person: Person, agent: dict[str, Any], thread_id: str, to: dict[str, Any] | None = None
) -> Callable[[Connection], object]:
    """The agent sends mail in that thread, to itself where nobody is given."""
    new = NewMessage(agent["address"], ((to or agent)["address"],), body="new", thread_id=thread_id)
    submission = Submission(new, person.id, agent["id"], bound=False, key=None, longest=100)
    return lambda connection: send_all(connection, [submission])


def test_a_thread_in_which_somebody_is_just_writing_stays_listed(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.agent(alice, "listed")
    first = desk.send(alice, coder, coder["address"], body="first")
    trashed(desk, alice, first["id"])

    def purge() -> int:
        return desk.http.post(f"/admin/messages/{first['id']}/purge", headers=alice.login).status_code

    assert while_another(desk, writing(alice, coder, first["thread_id"]), purge) == 200
    listed = desk.call("GET", "/admin/threads/summary", headers=alice.login)
    assert [one["unread_count"] for one in listed if one["thread_id"] == first["thread_id"]] == [1]


def keys_that_count(desk: BrokerDesk, agent_id: str) -> int:
    [(many,)] = desk.sql("SELECT count(*) FROM api_keys WHERE agent_id = :a AND is_active", a=agent_id)
    return int(many)


def test_of_two_new_keys_that_an_agent_gets_at_once_the_last_alone_counts(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.own_agent(alice, "keyed")

    def anew() -> str:
        made = desk.call("POST", f"/users/me/agents/{coder['id']}/regenerate-key", headers=alice.login)
        return str(made["api_key_plaintext"])

    key = while_another(desk, lambda c: replace_key(c, alice.id, coder["id"], new_raw_key()), anew)
    assert keys_that_count(desk, coder["id"]) == 1
    desk.call("GET", f"/agents/{coder['id']}", headers={"X-API-Key": key})


@pytest.mark.parametrize("how", ["another", "started", "added"])
def test_an_agent_that_is_just_being_deleted_has_no_key_that_counts(desk: BrokerDesk, alice: Person, how: str) -> None:
    coder = desk.own_agent(alice, f"gone-{how}")
    keys = desk.call("GET", "/users/api-keys", headers=alice.login)
    [its] = [key["id"] for key in keys if key["agent_id"] == coder["id"]]
    path, expected = {
        "another": (f"/users/me/agents/{coder['id']}/regenerate-key", 409),
        "started": (f"/users/api-keys/{its}/reactivate", 409),
        "added": ("/users/api-keys", 404),
    }[how]
    if how == "started":
        desk.call("POST", f"/users/api-keys/{its}/deactivate", headers=alice.login)

    def ask() -> int:
        return desk.http.post(path, json={"agent_id": coder["id"]}, headers=alice.login).status_code

    assert while_another(desk, lambda c: delete_agent(c, alice.id, coder["id"]), ask) == expected
    assert keys_that_count(desk, coder["id"]) == 0


def test_an_agent_comes_into_one_of_two_teams(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.agent(alice, "wanted")
    one, other = (
        desk.call("POST", "/admin/teams", json={"name": name}, headers=alice.login)["id"] for name in ("one", "other")
    )

    def join() -> int:
        form = {"agent_id": coder["id"]}
        return desk.http.post(f"/admin/teams/{other}/agents", json=form, headers=alice.login).status_code

    assert while_another(desk, lambda c: add_to_team(c, alice.id, one, coder["id"]), join) == 409
    assert desk.sql("SELECT team_id FROM agents WHERE id = :a", a=coder["id"]) == [(one,)]


def test_a_user_who_is_just_being_deleted_is_not_enabled(desk: BrokerDesk, alice: Person) -> None:
    bob = desk.person("bob")

    def enable() -> int:
        return desk.http.post(f"/superadmin/users/{bob.id}/enable", headers=alice.login).status_code

    deleted = Standing.DELETED
    assert while_another(desk, lambda c: set_standing(c, bob.id, deleted), enable) == 404
    assert desk.sql("SELECT standing FROM users WHERE id = :u", u=bob.id) == [(deleted,)]


@pytest.fixture
def hook(desk: BrokerDesk, alice: Person, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of an agent of its own."""
    name = f"h{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    form = {"name": name, "to": desk.agent(alice, f"of-{name}")["address"]}
    made: dict[str, Any] = desk.call("POST", "/admin/hooks", 201, json=form, headers=alice.login)
    return {**made["hook"], "secret": made["secret"], "form": form}


def test_a_hook_that_is_just_being_deleted_is_not_enabled(
    desk: BrokerDesk, alice: Person, hook: dict[str, Any]
) -> None:
    def enable() -> int:
        return desk.http.post(f"/admin/hooks/{hook['id']}/enable", headers=alice.login).status_code

    gone = hooks.Standing.DELETED
    assert while_another(desk, lambda c: hooks.set_standing(c, alice.id, hook["id"], gone), enable) == 404
    assert desk.sql("SELECT standing FROM hooks WHERE id = :h", h=hook["id"]) == [(gone,)]


def test_a_hook_that_is_just_being_made_anew_is_made_once(
    desk: BrokerDesk, alice: Person, hook: dict[str, Any]
) -> None:
    desk.call("DELETE", f"/admin/hooks/{hook['id']}", headers=alice.login)
    other = desk.agent(alice, f"other-{hook['name']}")
    new = hooks.NewHook(hook["name"], Source.GENERIC, to=other["address"])

    def make() -> int:
        return desk.http.post("/admin/hooks", json=hook["form"], headers=alice.login).status_code

    assert while_another(desk, lambda c: hooks.add_hook(c, alice.id, "alice", DOMAIN, new), make) == 409
    assert desk.call("GET", f"/admin/hooks/{hook['id']}", headers=alice.login)["to"] == other["address"]


def test_what_failed_is_tried_again_once_by_two_that_look_at_once(
    shared_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LOOK_EVERY", 3600)
    limits = Limits(longest=1000)

    async def look(desk: BrokerDesk) -> int:
        store = Store(desk.settings.database)
        await store.open()
        try:
            return await sweep.sweep(store, desk.app.state.streams, asyncio.Lock(), limits)
        finally:
            await store.close()

    with running_broker(tmp_path, database=shared_postgres.url(tmp_path)) as desk:
        ann = desk.person("ann")
        coder = desk.agent(ann, "coder")
        made = desk.call("POST", "/admin/hooks", 201, json={"name": "h", "to": coder["address"]}, headers=ann.login)
        desk.call("DELETE", f"/users/me/agents/{coder['id']}", headers=ann.login)
        body = b'{"title": "x"}'
        said = desk.call("POST", made["hook"]["path"], content=body, headers=signed(made["secret"], body))
        assert (said["outcome"], said["reason"]) == ("failed", "agent_gone")
        desk.sql("UPDATE hook_deliveries SET due_ms = 0")
        [(row,)] = desk.sql("SELECT id FROM hook_deliveries")
        assert while_another(desk, lambda c: retry(c, row, limits), lambda: asyncio.run(look(desk))) == 1
        assert desk.sql("SELECT tries FROM hook_deliveries") == [(1,)]


@pytest.mark.parametrize("where", ["archive", "trash"])
def test_mail_that_comes_just_as_its_thread_is_put_away_opens_it(desk: BrokerDesk, alice: Person, where: str) -> None:
    coder = desk.agent(alice, f"writes-{where}")
    first = desk.send(alice, coder, coder["address"], body="old")
    thread = f"/admin/threads/{first['thread_id']}"

    def put_away() -> int:
        return desk.http.post(f"{thread}/{where}", headers=alice.login).status_code

    assert while_another(desk, writing(alice, coder, first["thread_id"]), put_away) == 200
    status = desk.call("GET", f"{thread}/status", headers=alice.login)
    assert (status["archived"], status["trashed"]) == (False, False)
    asked = {"agent_id": coder["id"], "after": 0}
    inbox = desk.call("GET", f"/messages/inbox/{coder['address']}", params=asked, headers=alice.header)
    assert [one["body"] for one in inbox["messages"]] == ["new"]


def test_a_message_that_comes_back_just_as_its_thread_is_put_away(desk: BrokerDesk, alice: Person) -> None:
    coder = desk.agent(alice, "back")
    first = desk.send(alice, coder, coder["address"], body="back")
    trashed(desk, alice, first["id"])
    thread = f"/admin/threads/{first['thread_id']}"

    def put_away() -> int:
        return desk.http.post(f"{thread}/archive", headers=alice.login).status_code

    assert while_another(desk, lambda c: restore_message(c, alice.id, first["id"]), put_away) == 200
    status = desk.call("GET", f"{thread}/status", headers=alice.login)
    [(is_in_inbox,)] = desk.sql("SELECT seq > 0 FROM messages WHERE id = :m", m=first["id"])
    assert status["archived"] is not is_in_inbox


def test_of_two_processes_with_secrets_of_their_own_that_begin_at_once_one_serves_at_most(
    shared_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = shared_postgres.url(tmp_path)
    together, beat = threading.Barrier(2), Peers._beat
    begun: set[str] = set()

    def at_once(self: Peers, connection: Connection) -> None:
        if self.id not in begun:
            begun.add(self.id)
            together.wait(20)
        beat(self, connection)

    async def begin(secret: str) -> bool:
        peers, nobody = Peers(url, secret), cast(Any, None)
        try:
            await peers.open(nobody)
        except ConfigFault as fault:
            return fault.code != "other_secret"
        finally:
            await peers.close()
        return True

    async def both() -> Sequence[bool]:
        return await asyncio.gather(begin("a" * 32), begin("b" * 32))

    asyncio.run(bring_to_head(url))
    monkeypatch.setattr(Peers, "_beat", at_once)
    assert sum(asyncio.run(both())) < 2


def test_a_process_that_begins_just_as_a_newer_one_changes_the_tables_does_not_serve_them(
    shared_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, joins = shared_postgres.url(tmp_path), Peers._join
    app = create_app(Settings(url, tmp_path / "uploads", "s" * 32, DOMAIN))

    def late(self: Peers, connection: Connection) -> None:
        # Nobody serves them yet, as far as the newer one sees.
        do(url, lambda c: c.execute(text("UPDATE alembic_version SET version_num = 'v9999'")))
        joins(self, connection)

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            pass

    monkeypatch.setattr(Peers, "_join", late)
    with pytest.raises(ConfigFault) as caught:
        asyncio.run(serve())
    assert caught.value.code == "database_newer"
    assert do(url, lambda c: c.execute(text("SELECT id FROM processes")).all()) == []


def test_old_mail_into_whose_thread_somebody_is_just_writing_stays(shared_postgres: Postgres, tmp_path: Path) -> None:
    with running_broker(tmp_path, database=shared_postgres.url(tmp_path)) as desk:
        ann = desk.person("ann")
        planner, coder = desk.agent(ann, "planner"), desk.agent(ann, "coder")
        asked = desk.send(ann, planner, coder["address"], body="old")
        desk.call("PATCH", f"/messages/{asked['id']}/read", headers=ann.header)
        desk.sql("UPDATE messages SET created_at = '2020-01-01T00:00:00.000000+00:00'")

        async def take() -> None:
            store = Store(desk.settings.database)
            await store.open()
            try:
                await prune(store, desk.settings.uploads, Keep(days=30))
            finally:
                await store.close()

        answers = writing(ann, coder, asked["thread_id"], planner)
        while_another(desk, answers, lambda: asyncio.run(take()))
        assert desk.sql("SELECT body FROM messages ORDER BY created_at") == [("old",), ("new",)]
