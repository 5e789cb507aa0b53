"""Inboxes at the broker: by cursor, at a cost that does not grow with what lies there."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.databases import ON_A_FILE
from tests.sizes import LONG

from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.inbox import LISTINGS

pytestmark = pytest.mark.usefixtures("each_database")
inbox_end = 2**63 - 1
"""Beyond every cursor."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), claim_seconds=3600.0) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


@pytest.fixture(scope="module")
def planner(desk: BrokerDesk, alice: Person) -> dict[str, Any]:
    return desk.agent(alice, "planner")


class Box:
    """A new agent of alice, and what is in its inbox."""

    def __init__(self, desk: BrokerDesk, alice: Person, planner: dict[str, Any], name: str) -> None:
        self.desk = desk
        self.alice = alice
        self.planner = planner
        self.agent = desk.agent(alice, name)

    def fill(self, count: int, **fields: Any) -> list[Any]:
        send = self.desk.send
        return [send(self.alice, self.planner, self.agent["address"], body=f"n{n}", **fields) for n in range(count)]

    def get(self, expected: int = 200, **query: Any) -> Any:
        path = f"/messages/inbox/{self.agent['address']}"
        return self.desk.call(
            "GET", path, expected, params={"agent_id": self.agent["id"], **query}, headers=self.alice.header
        )

    def mark(self, message: dict[str, Any], how: str = "read") -> Any:
        return self.desk.call("PATCH", f"/messages/{message['id']}/{how}", headers=self.alice.header)

    def claim(self, message: dict[str, Any]) -> None:
        headers = {**self.alice.header, "X-Agent-Mailer-Watcher": "w"}
        self.desk.call("POST", f"/messages/{message['id']}/claim", headers=headers)


@pytest.fixture
def box(desk: BrokerDesk, alice: Person, planner: dict[str, Any], request: pytest.FixtureRequest) -> Box:
    return Box(desk, alice, planner, request.node.name.removeprefix("test_").replace("_", "-")[:60])


def ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["id"] for message in messages]


def test_the_plain_list(box: Box) -> None:
    assert box.get() == []
    sent = box.fill(3)
    assert box.get() == sent, "oldest first, and whole"
    read = box.mark(sent[1])
    assert read == {**sent[1], "is_read": True}
    assert box.mark(sent[1]) == read
    assert ids(box.get()) == ids([sent[0], sent[2]])
    assert ids(box.get(all=True)) == ids(sent)
    assert "body_html" not in box.get(html=False)[0]


def test_a_message_marked_unread_comes_back_at_the_end(box: Box) -> None:
    sent = box.fill(3)
    box.claim(sent[0])
    box.mark(sent[0])
    newest = box.get(after=0)["cursor"]
    unread = box.mark(sent[0], "unread")
    assert unread == {**sent[0], "cursor": newest + 1}
    assert (unread["is_read"], unread["claimed_at"]) == (False, None)
    assert ids(box.get(after=newest)["messages"]) == [sent[0]["id"]]
    assert ids(box.get()) == ids([sent[1], sent[2], sent[0]])


def test_a_long_list_is_written_in_portions(box: Box) -> None:
    sent = box.fill(60)
    assert box.get() == sent
    assert (
        "content-length"
        not in box.desk.http.get(
            f"/messages/inbox/{box.agent['address']}", params={"agent_id": box.agent["id"]}, headers=box.alice.header
        ).headers
    )
    assert [
        m["id"] for m in box.desk.call("GET", f"/admin/messages/inbox/{box.agent['address']}", headers=box.alice.login)
    ] == ids(sent)[::-1]


@pytest.mark.parametrize("more", [0, 1])
def test_a_list_of_whole_portions_is_a_list(box: Box, more: int) -> None:
    """An empty portion comes after them (found by killing everybody around a live session)."""
    ids = [sent["id"] for sent in box.fill(inbox.FIRST_PORTION + more)]
    assert [message["id"] for message in box.get()] == ids


def test_pages(box: Box) -> None:
    assert box.get(page=1) == {"messages": [], "total": 0, "page": 1, "page_size": 20, "total_pages": 1}
    sent = box.fill(5)
    first = box.get(page=1, page_size=2)
    assert ids(first["messages"]) == ids(sent)[::-1][:2]
    assert (first["total"], first["page"], first["page_size"], first["total_pages"]) == (5, 1, 2, 3)
    assert box.get(page=3, page_size=2)["messages"] == [sent[0]]
    assert box.get(page=9)["messages"] == []
    assert box.get(page=10**30)["messages"] == []
    box.mark(sent[4])
    assert box.get(page=1)["total"] == 4
    assert box.get(page=1, all=True)["total"] == 5
    for wrong in ({"page": 0}, {"page": 1, "page_size": 101}, {"page": 1, "page_size": 0}, {"page": "x"}):
        assert isinstance(box.get(422, **wrong)["detail"], list)


def test_every_page_from_either_end(box: Box) -> None:
    def look() -> None:
        for all_too in (False, True):
            whole = ids(box.get(after=0, limit=1000, all=all_too)["messages"])[::-1]
            for size in (1, 3, 4):
                pages = [box.get(page=number, page_size=size, all=all_too) for number in range(1, 14)]
                assert [ids(one["messages"]) for one in pages] == [
                    whole[(number - 1) * size : number * size] for number in range(1, 14)
                ]
                assert {(one["total"], one["total_pages"]) for one in pages} == {(len(whole), -(-len(whole) // size))}

    sent = box.fill(11)
    look()
    box.mark(sent[4])
    box.mark(sent[7])
    look()
    box.mark(sent[2], "unread")
    look()


def test_what_is_older_than_a_cursor(box: Box, desk: BrokerDesk) -> None:
    sent = box.fill(7)
    box.mark(sent[4])
    box.mark(sent[2], "unread")
    for all_too in (False, True):
        whole = box.get(after=0, limit=1000, all=all_too)["messages"][::-1]
        for limit in (1, 2, 3, 100):
            found: list[Any] = []
            before, more = inbox_end, True
            while more:
                part = box.get(before=before, limit=limit, all=all_too)
                assert len(part["messages"]) == limit or not part["more"]
                found += part["messages"]
                before, more = part["cursor"], part["more"]
            assert found == whole
        path, query = f"/admin/messages/inbox/{box.agent['address']}", {"before": whole[2]["cursor"], "limit": 2}
        shown = desk.call("GET", path, params={**query, "all": all_too}, headers=box.alice.login)
        assert (shown["messages"], shown["more"]) == (whole[3:5], True)
    # What arrives meanwhile pushes nothing from one portion into the next.
    first = box.get(before=inbox_end, limit=3)
    box.fill(2)
    assert ids(box.get(before=first["cursor"], limit=100)["messages"]) == [
        one for one in ids(sent)[::-1] if one not in (*ids(first["messages"]), sent[4]["id"])
    ]
    assert box.get(before=1) == {"messages": [], "cursor": 1, "more": False}
    assert "body_html" not in box.get(before=inbox_end, limit=1, html=False)["messages"][0]
    for wrong in ("0", "-1", "x", str(inbox_end + 1), ""):
        assert isinstance(box.get(422, before=wrong)["detail"], list)


@LONG
def test_large_bodies_come_in_smaller_portions_backwards_too(box: Box) -> None:
    sent = box.fill(8)
    large = box.fill(1, subject="large")[0]
    box.desk.sql("UPDATE messages SET body = :body WHERE subject = 'large'", body="x" * (inbox.PORTION_CHARACTERS + 1))
    first = box.get(before=inbox_end, limit=1000, html=False)
    assert (ids(first["messages"])[0], first["more"]) == (large["id"], len(first["messages"]) < 9)
    rest = box.get(before=first["cursor"], limit=1000, html=False)
    assert ids(first["messages"] + rest["messages"]) == [large["id"], *ids(sent)[::-1]]


@ON_A_FILE
@pytest.mark.parametrize("read_too", [False, True])
def test_a_deep_page_is_found_in_the_index_alone(box: Box, read_too: bool) -> None:
    plans = [explained(box.desk, inbox._PLACES[read_too, False, end]) for end in (False, True)]
    for plan in plans:
        assert "USING COVERING INDEX" in plan
        assert "USE TEMP B-TREE" not in plan
    total = explained(box.desk, inbox._TOTALS[read_too, False])
    assert "agents" in total
    assert "messages" not in total, "it is kept, and nobody counts"
    rows = explained(box.desk, inbox._NEWEST_FIRST[read_too, False])
    assert ("seq<?" in rows, "USE TEMP B-TREE" in rows) == (True, False)


def test_who_may_look(box: Box, desk: BrokerDesk) -> None:
    bob = desk.person("bob")
    path = f"/messages/inbox/{box.agent['address']}"
    desk.call("GET", path, 422, headers=box.alice.header)
    desk.call("GET", path, 401, params={"agent_id": box.agent["id"]})
    said = desk.call("GET", path, 404, params={"agent_id": "x"}, headers=box.alice.header)
    assert said["detail"] == "Agent 'x' not found"
    said = desk.call("GET", path, 404, params={"agent_id": box.agent["id"]}, headers=bob.header)
    assert said["detail"] == f"Agent '{box.agent['id']}' not found"
    said = desk.call("GET", path, 403, params={"agent_id": box.planner["id"]}, headers=box.alice.header)
    assert said["detail"] == f"Agent '{box.planner['id']}' does not own address '{box.agent['address']}'"
    bound = desk.own_agent(box.alice, "only-me")
    key = {"X-API-Key": bound["api_key_plaintext"]}
    desk.call("GET", path, 403, params={"agent_id": box.agent["id"]}, headers=key)
    own = f"/messages/inbox/{bound['address']}"
    assert desk.call("GET", own, params={"agent_id": bound["id"]}, headers=key) == []


def test_looking_makes_an_agent_online(box: Box, desk: BrokerDesk) -> None:
    def status() -> str:
        told: str = desk.call("GET", f"/agents/{box.agent['id']}", headers=box.alice.header)["status"]
        return told

    assert status() == "offline"
    box.get(after=0)
    assert status() == "online"


def test_by_cursor(box: Box) -> None:
    assert box.get(after=0) == {"messages": [], "cursor": 0, "more": False}
    sent = box.fill(5)
    assert [message["cursor"] for message in sent] == [1, 2, 3, 4, 5]
    assert box.get(after=0) == {"messages": sent, "cursor": 5, "more": False}
    assert box.get(after=0, limit=2) == {"messages": sent[:2], "cursor": 2, "more": True}
    assert box.get(after=2, limit=3) == {"messages": sent[2:], "cursor": 5, "more": False}
    assert box.get(after=5) == {"messages": [], "cursor": 5, "more": False}
    assert box.get(after=99)["cursor"] == 5, "a cursor that this inbox never gave"
    box.mark(sent[0])
    box.mark(sent[4])
    assert ids(box.get(after=0)["messages"]) == ids(sent[1:4])
    assert box.get(after=0)["cursor"] == 5, "past what is read"
    assert ids(box.get(after=0, all=True)["messages"]) == ids(sent)
    for wrong in (
        {"after": -1},
        {"after": "x"},
        {"after": 2**63},
        {"after": 0, "limit": 0},
        {"after": 0, "limit": 1001},
    ):
        box.get(422, **wrong)
    assert box.get(after=2**63 - 1)["messages"] == []


def test_what_arrives_while_it_is_listed_is_listed_next_and_not_twice(box: Box) -> None:
    sent = box.fill(1)
    arrived: list[Any] = []

    def arrive(_connection: object, _cursor: object, statement: str, values: object, *_rest: object) -> None:
        if not arrived and "messages.seq >" in statement and box.agent["id"] in str(values):
            arrived.extend(box.fill(1))

    event.listen(Engine, "before_cursor_execute", arrive)
    try:
        listed = box.get(after=0)
    finally:
        event.remove(Engine, "before_cursor_execute", arrive)
    assert len(arrived) == 1
    assert listed == {"messages": sent, "cursor": 1, "more": False}
    assert box.get(after=listed["cursor"])["messages"] == arrived


def test_without_bodies(box: Box) -> None:
    (sent,) = box.fill(1, attachments=["x"], labels=["l"])
    without = box.get(after=0, bodies=False)["messages"]
    left_out = {"body", "body_html", "attachments"}
    assert without == [{name: value for name, value in sent.items() if name not in left_out}]


def test_without_claimed_ones(box: Box) -> None:
    sent = box.fill(3)
    box.claim(sent[1])
    assert ids(box.get(after=0, claimed=False)["messages"]) == ids([sent[0], sent[2]])
    assert box.get(after=0)["messages"][1]["claimed_at"]
    old = "2020-01-01T00:00:00.000000+00:00"
    box.desk.sql("UPDATE messages SET claimed_at = :old WHERE id = :id", old=old, id=sent[1]["id"])
    assert ids(box.get(after=0, claimed=False)["messages"]) == ids(sent), "a claim does not last for ever"


def test_large_bodies_come_in_smaller_portions(box: Box) -> None:
    big = "x" * 1_000_000
    sent = ids([box.desk.send(box.alice, box.planner, box.agent["address"], body=big) for _ in range(7)])
    # The first portion is not known to be large.
    found, after = [], 0
    while True:
        part = box.get(after=after, html=False, limit=3)
        found += ids(part["messages"])
        after = part["cursor"]
        if not part["more"]:
            break
    assert found == sent
    assert len(box.get(html=False)) == 7


def test_a_thread(box: Box) -> None:
    desk = box.desk
    assert desk.call("GET", "/messages/thread/none", 404, headers=box.alice.header) == {"detail": "Thread not found"}
    (first,) = box.fill(1)
    path = f"/messages/thread/{first['thread_id']}"
    assert desk.call("GET", path, headers=box.alice.header) == [first]
    desk.call("GET", path, 404, headers=desk.person("carol").header)
    desk.call("GET", path, 401)
    outsider = desk.own_agent(box.alice, "outsider")
    desk.call("GET", path, 404, headers={"X-API-Key": outsider["api_key_plaintext"]})


def test_one_message(box: Box) -> None:
    desk = box.desk
    first, second = box.fill(2)
    path = f"/messages/{first['id']}"
    assert desk.call("GET", path, headers=box.alice.header) == first
    assert desk.call("GET", "/messages/none", 404, headers=box.alice.header) == {"detail": "Message not found"}
    desk.call("GET", path, 401)
    dave = desk.person("dave").header
    for method, what in (("GET", ""), ("PATCH", "/read"), ("PATCH", "/unread")):
        for name in (first["id"], "none"):
            said = desk.call(method, f"/messages/{name}{what}", 404, headers=dave)
            assert said == {"detail": "Message not found"}
    other = desk.own_agent(box.alice, "other")
    key = {"X-API-Key": other["api_key_plaintext"]}
    desk.call("GET", path, 404, headers=key)
    desk.call("PATCH", f"{path}/read", 403, headers=key)
    desk.send(box.alice, box.planner, other["address"], thread_id=first["thread_id"])
    assert desk.call("GET", path, headers=key) == first, "now it takes part in that thread"
    desk.call("GET", f"/messages/{second['id']}", 404, headers=key)


def test_a_poller_sees_each_message_once_while_many_send(box: Box) -> None:
    senders, each = 6, 15
    sent: list[str] = []

    def send(_: int) -> None:
        for _ in range(each):
            sent.append(box.desk.send(box.alice, box.planner, box.agent["address"])["id"])

    seen: list[str] = []
    over = threading.Event()

    def poll() -> None:
        after = 0
        while True:
            last = over.is_set()
            part = box.get(after=after, limit=4, bodies=False)
            seen.extend(ids(part["messages"]))
            after = part["cursor"]
            if last and not part["more"]:
                return

    with ThreadPoolExecutor(senders + 1) as pool:
        poller = pool.submit(poll)
        list(pool.map(send, range(senders)))
        over.set()
        poller.result(60)
    assert len(seen) == len(set(seen)) == senders * each
    assert set(seen) == set(sent)
    whole = box.get(after=0, limit=1000, bodies=False)["messages"]
    assert ids(whole) == seen, "the order of commits is the order of cursors"
    assert [message["cursor"] for message in whole] == list(range(1, senders * each + 1))


@ON_A_FILE
@pytest.mark.parametrize("form", LISTINGS, ids=str)
def test_a_listing_uses_the_index_and_sorts_nothing(box: Box, form: tuple[bool, bool, bool]) -> None:
    read_too, _, _ = form
    plan = explained(box.desk, LISTINGS[form])
    wanted = "to_agent_id=? AND seq>? AND seq<?" if read_too else "to_agent_id=? AND is_read=? AND seq>? AND seq<?"
    assert wanted in plan
    assert "USE TEMP B-TREE" not in plan
    assert "SCAN" not in plan


def explained(desk: BrokerDesk, statement: Any) -> str:
    compiled = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": False})
    names = {"agent": "a", "user": "u", "after": 5, "upto": 9, "most": 3, "claims_since": "2020"}
    with sqlite3.connect(desk.database) as database:
        rows = database.execute(
            "EXPLAIN QUERY PLAN " + str(compiled), [names.get(name, 0) for name in compiled.positiontup]
        ).fetchall()
    database.close()
    return "\n".join(row[3] for row in rows)


@ON_A_FILE
def test_the_news_of_an_inbox_cost_two_looks(box: Box) -> None:
    plan = explained(box.desk, inbox._NEWS)
    assert "SCAN" not in plan
    assert "to_agent_id=? AND is_read=? AND seq>?" in plan


@ON_A_FILE
def test_the_statements_are_for_postgresql_too() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for statement in (*LISTINGS.values(), inbox._NEWS, inbox._THREAD):
        assert "is_read IS" not in str(statement.compile(dialect=dialect)), "no index would be used"


@ON_A_FILE
@LONG
def test_a_poll_at_a_hundred_thousand_unread_costs_what_it_costs_when_empty(box: Box) -> None:
    (model,) = box.fill(1)
    with sqlite3.connect(box.desk.database) as database:
        row = dict(zip(*columns(database, model["id"]), strict=True))
        rows = ({**row, "id": f"bulk-{n}", "seq": n} for n in range(2, 100_001))
        names = ", ".join(f":{name}" for name in row)
        database.executemany(f"INSERT INTO messages ({', '.join(row)}) VALUES ({names})", rows)
        kept = "inbox_seq = 100000, inbox_total = 100000, inbox_unread = 100000"
        database.execute(f"UPDATE agents SET {kept} WHERE id = ?", (box.agent["id"],))
    database.close()
    steps = [rows_read(box, after=after) for after in (100_000, 99_999, 50_000, 0)]
    assert steps[0] < 500
    assert max(steps) < 4000, f"instructions of the database for a listing of 10: {steps}"
    assert box.get(after=100_000) == {"messages": [], "cursor": 100_000, "more": False}
    assert box.get(page=5000, page_size=20)["total"] == 100_000


def columns(database: sqlite3.Connection, message_id: str) -> tuple[list[str], tuple[Any, ...]]:
    cursor = database.execute("SELECT * FROM messages WHERE id = ?", (message_id,))
    return [column[0] for column in cursor.description], cursor.fetchone()


def rows_read(box: Box, after: int) -> int:
    """How many instructions SQLite needs for a listing of ten."""
    compiled = LISTINGS[False, False, False].compile(dialect=sqlite.dialect())
    names = {"agent": box.agent["id"], "user": box.alice.id, "after": after, "upto": 100_000, "most": 10}
    database = sqlite3.connect(box.desk.database)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    arguments = [names.get(name, 0) for name in compiled.positiontup or []]
    # What it costs to learn which tables there are is none of a listing's.
    database.execute("SELECT 1 FROM messages LIMIT 0")
    database.set_progress_handler(step, 1)
    database.execute(str(compiled), arguments).fetchall()
    database.close()
    return steps
