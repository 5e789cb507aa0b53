"""No call reads all the mail there is: the plan of every statement, at 100,000 messages of one user."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from tests.broker_desk import BrokerDesk, Person
from tests.sizes import LONG

from agent_mailer.broker.migrations.v0005_waiting import FILL
from agent_mailer.broker.migrations.v0009_totals import FILL as TOTALS
from agent_mailer.broker.migrations.v0011_threads import FILL as THREADS
from agent_mailer.broker.search.rows import note_words

pytestmark = [pytest.mark.usefixtures("each_database"), LONG]
MANY = 100_000
_READS_ALL = re.compile(
    r"(SCAN|Seq Scan on) (messages|receipts|waiting_threads|threads|searchable|team_memories|channel\w*)"
    # By the user's index and the user alone: all mail of that user.
    r"|\(user_id=\?\)|ix_messages_user_id.*\n\s*Index Cond: \(user_id = [^()]*\)$",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    """The user who has them: 20 in a thread, one in ten in the coder's inbox, a receipt each."""
    alice = desk.person("alice")
    planner, coder, archive = (desk.agent(alice, name) for name in ("planner", "coder", "archive"))
    model = desk.send(alice, planner, coder["address"], body="x")
    engine = create_engine(desk.settings.database)
    with engine.begin() as connection:
        row = connection.execute(text("SELECT * FROM messages WHERE id = :id"), {"id": model["id"]}).mappings().one()
        own = {"id", "thread_id", "seq", "idempotency_key", "to_agent_id"}
        names = [name for name in row if name not in own]
        numbers = (
            f"SELECT n FROM generate_series(2, {MANY}) AS n"
            if engine.dialect.name == "postgresql"
            else f"WITH RECURSIVE up(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM up WHERE n < {MANY}) SELECT n FROM up"
        )
        connection.execute(
            text(
                f"INSERT INTO messages (id, thread_id, seq, to_agent_id, {', '.join(names)})"
                f" SELECT 'bulk-' || n, 'thread-' || (n / 20), n,"
                f" CASE n % 10 WHEN 0 THEN m.to_agent_id ELSE :archive END, {', '.join(f'm.{name}' for name in names)}"
                f" FROM ({numbers}) AS numbers, messages AS m WHERE m.id = :id"
            ),
            {"id": model["id"], "archive": archive["id"]},
        )
        connection.execute(
            text(
                "INSERT INTO receipts (message_id, stage, turn_id, detail, final, watcher, created_at)"
                " SELECT id, 'started', 't', '', is_read, 'w', created_at FROM messages"
            )
        )
        _fill_beside(connection, numbers, alice.id, coder, archive)
        connection.execute(text("UPDATE agents SET inbox_seq = :many"), {"many": MANY})
        connection.execute(text("DELETE FROM waiting_threads"))
        connection.execute(text("DELETE FROM threads"))
        connection.execute(text(THREADS))
        connection.execute(text(FILL))
        connection.execute(text(TOTALS))
        rows = connection.execute(text("SELECT id, user_id, subject, body FROM messages WHERE id LIKE 'bulk-%'"))
        # A word that most have is looked for among the newest, until there are enough: no plan to look at.
        for some in rows.mappings().partitions(10_000):
            note_words(connection, [{**row, "body": "x" * (at % 20 == 0)} for at, row in enumerate(some)])
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))  # as the server does by itself; in a file nobody does
    engine.dispose()
    return alice


def plan(connection: Connection, statement: str, parameters: Any) -> str:
    if connection.dialect.name == "postgresql":
        return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
    return "\n".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))


def _fill_beside(
    connection: Connection, numbers: str, user: str, coder: dict[str, Any], archive: dict[str, Any]
) -> None:
    """As many channels and memories: of the coder a few, of the archive all others."""
    names = {"user": user, "coder": coder["id"], "archive": archive["id"], "moment": "2026-11-21T08:15:00.000000+00:00"}
    few = f"n % {MANY // 20} = 3"
    for statement in (
        "INSERT INTO teams (id, name, description, user_id, created_at)"
        f" SELECT 'team-' || n, 'team-' || n, '', :user, :moment FROM ({numbers}) AS numbers WHERE n % 100 = 0",
        "INSERT INTO team_memories (id, team_id, title, content, user_id, created_at, updated_at, updated_by)"
        " SELECT 'memory-' || n, 'team-' || ((n / 100) * 100), 'title ' || n, 'c', :user, :moment, :moment, 'ann'"
        f" FROM ({numbers}) AS numbers WHERE n >= 100",
        "INSERT INTO channels (id, join_token, creator_agent, initial_prompt, status, max_turns, turn_count,"
        " ttl_expires_at, created_at) SELECT 'channel-' || n, 'token-' || n, 'a', '', 'open', 10, 1, '9', :moment"
        f" FROM ({numbers}) AS numbers",
        "INSERT INTO channel_members (channel_id, agent_id, agent_address, role, joined_at, user_id, opened_at)"
        " SELECT 'channel-' || n,"
        f" CASE WHEN {few} THEN CAST(:coder AS text) ELSE CAST(:archive AS text) END, 'a', 'creator', :moment,"
        " :user, :moment"
        f" FROM ({numbers}) AS numbers",
        "INSERT INTO channel_messages (id, channel_id, seq, from_agent, body, created_at)"
        f" SELECT 'said-' || n, 'channel-' || n, 1, 'a', 'b', :moment FROM ({numbers}) AS numbers",
    ):
        known = {name: value for name, value in names.items() if f":{name}" in statement}
        connection.execute(text(statement), known)


def test_no_statement_of_any_call_reads_all_mail(desk: BrokerDesk, alice: Person) -> None:
    seen: dict[str, Any] = {}

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE")):
            seen.setdefault(statement, parameters[0] if many else parameters)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        use(desk, alice)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    about_mail = {
        one: names
        for one, names in seen.items()
        if re.search("messages|receipts|threads|searchable|memories|channel", one)
    }
    assert len(about_mail) > 15, "too little was asked"
    engine = create_engine(desk.settings.database)
    with engine.connect() as connection:
        plans = {statement: plan(connection, statement, names) for statement, names in about_mail.items()}
    engine.dispose()
    scanned = {one: how for one, how in plans.items() if _READS_ALL.search(how)}
    assert not scanned, "\n\n".join(f"{one}\n{how}" for one, how in scanned.items())


def use(desk: BrokerDesk, alice: Person) -> None:
    """Every call that has to do with messages."""
    agents = {agent["name"]: agent for agent in desk.call("GET", "/agents", headers=alice.header)}
    planner, coder = agents["planner"], agents["coder"]
    own = desk.own_agent(alice, "bound")
    key, login = alice.header, alice.login
    bound = {"X-API-Key": own["api_key_plaintext"]}
    sent = desk.send(alice, planner, coder["address"], body="b")
    name, thread = sent["id"], sent["thread_id"]
    keyed = {**bound, "Idempotency-Key": "k"}
    form = {"agent_id": own["id"], "from_agent": own["address"], "to_agent": coder["address"], "body": "b"}
    for _ in range(2):
        desk.call("POST", "/messages/send", json=form, headers=keyed)
    desk.call("POST", "/messages/send", 403, json={**form, "thread_id": "thread-7"}, headers=bound)
    desk.send(alice, coder, planner["address"], action="reply", parent_id=name)
    for scope in ("message", "thread"):
        forward = {"action": "forward", "parent_id": name, "forward_scope": scope}
        desk.send(alice, coder, own["address"], **forward)
    inbox = f"/messages/inbox/{coder['address']}?agent_id={coder['id']}"
    for query in ("after=0&limit=10", f"after={MANY - 5}", "after=0&limit=10&claimed=false&bodies=false"):
        for all_too in ("true", "false"):
            desk.call("GET", f"{inbox}&{query}&all={all_too}", headers=key)
    for limit in (5, 1000):
        desk.call("GET", f"{inbox}&heads=true&limit={limit}", headers=key)
    team = desk.call("POST", "/admin/teams", json={"name": "crew"}, headers=login)["id"]
    for page in ("page=1&page_size=5", "page=900&page_size=5", "page=1990&page_size=5"):
        for all_too in ("true", "false"):
            desk.call("GET", f"{inbox}&{page}&all={all_too}", headers=key)
            desk.call("GET", f"/admin/messages/inbox/{coder['address']}?{page}&all={all_too}", headers=login)
        desk.call("GET", f"/admin/messages/inbox/{coder['address']}?{page}&from_team_id={team}", headers=login)
    for all_too in ("true", "false"):
        desk.call("GET", f"{inbox}&before={MANY // 2}&limit=5&all={all_too}", headers=key)
    desk.call("GET", f"/messages/thread/{thread}?agent_id={coder['id']}", headers=key)
    desk.call("GET", "/messages/thread/thread-9?agent_id=" + own["id"], 404, headers=bound)
    desk.call("GET", f"/admin/messages/thread/{thread}", headers=login)
    desk.call("GET", f"/messages/{name}", headers=key)
    for where in ("", "&archived=true", "&trashed=true"):
        desk.call("GET", f"/admin/threads/summary?limit=5{where}", headers=login)
    for step in ("archive", "unarchive", "trash", "restore", "trash", "purge"):
        desk.call("POST", f"/admin/threads/thread-77/{step}", headers=login)
    for step in ("trash", "restore", "trash"):
        desk.call("POST", f"/admin/messages/bulk-4321/{step}", headers=login)
    desk.call("GET", "/admin/trash/messages?limit=5", headers=login)
    desk.call("GET", "/admin/trash/messages/bulk-4321", headers=login)
    desk.call("POST", "/admin/messages/bulk-4321/purge", headers=login)
    for asked in ("q=x", "q=x&page=300", "q=unheard", "q=unheard x"):
        desk.call("GET", f"/admin/search?{asked}", headers=login)
    desk.call("GET", "/admin/agents/stats", headers=login)
    operator = desk.call("GET", "/admin/human-operator", headers=login)["address"]
    desk.send(alice, planner, operator, body="b")
    desk.call("POST", f"/admin/messages/inbox/{operator}/read-all", json={}, headers=login)
    desk.call("GET", "/messages/bulk-77", 404, headers=bound)
    watcher = {**key, "X-Agent-Mailer-Watcher": "w", "X-Agent-Mailer-Epoch": "1"}
    desk.call("POST", f"/messages/{name}/claim", headers=watcher)
    desk.call(
        "POST",
        f"/messages/{name}/receipts",
        201,
        json={"stage": "settled", "turn_id": "t", "final": True},
        headers=watcher,
    )
    desk.call("GET", f"/messages/{name}/receipts", headers=key)
    about = f"agent_id={coder['id']}"
    desk.call("GET", f"/channels/token-3?{about}", headers=key)
    desk.call("GET", f"/channels/token-3/messages?{about}&since_seq=0", headers=key)
    desk.call("POST", "/channels/token-3/messages", json={"agent_id": coder["id"], "body": "b"}, headers=key)
    desk.call("POST", "/channels/token-4/join", json={"agent_id": coder["id"]}, headers=key)
    desk.call("POST", "/channels/token-3/close", json={"agent_id": coder["id"]}, headers=key)
    desk.call("GET", "/admin/channels/token-4", headers=login)
    page = desk.call("GET", "/admin/channels?limit=5", headers=login)
    desk.call("GET", "/admin/channels", params={"limit": 5, "after": page["next"]}, headers=login)
    memory = {"title": "m", "content": "c"}
    memories = "/admin/teams/team-500/memories"
    for path in (memories, f"{memories}/upsert"):
        desk.call("POST", path, 201 if path == memories else 200, json=memory, headers=login)
    for path in (memories, f"{memories}/memory-555"):
        desk.call("GET", path, headers=login)
    desk.call("PUT", f"{memories}/memory-555", json={"content": "d"}, headers=login)
    desk.call("GET", "/memories/memory-555", headers=key)
    desk.call("DELETE", f"{memories}/memory-555", headers=login)
    with desk.http.stream("GET", f"/messages/inbox/{coder['address']}/stream?agent_id={coder['id']}", headers=key):
        pass


def test_without_its_index_a_page_of_channels_reads_them_all(desk: BrokerDesk, alice: Person) -> None:
    """What the test above would see, were the index not there."""
    seen: dict[str, Any] = {}

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool) -> None:
        if "channel_members.opened_at" in statement:
            seen[statement] = parameters

    event.listen(Engine, "before_cursor_execute", note)
    try:
        desk.call("GET", "/admin/channels?limit=5", headers=alice.login)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    [(statement, parameters)] = seen.items()
    engine = create_engine(desk.settings.database)
    with engine.connect() as connection:
        assert not _READS_ALL.search(plan(connection, statement, parameters))
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # a file's driver begins nothing before a change of the schema
        connection.execute(text("DROP INDEX ix_channel_members_place"))
        # Another text, or a file's driver answers with the plan that it has made before.
        how = plan(connection, f"{statement} ", parameters)
        connection.rollback()
        assert _READS_ALL.search(how), how
        assert not _READS_ALL.search(plan(connection, statement, parameters)), "it is there again"
    engine.dispose()
