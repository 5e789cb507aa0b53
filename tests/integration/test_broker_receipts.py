"""Claims and receipts at the broker: one watcher works on a message, and its sender can see what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import create_engine
from tests.broker_desk import BrokerDesk, running_broker

from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.messages.changing import Change, Changes, Locked, change_all
from agent_mailer.broker.messages.rows import claim_message, mark_read, mark_unread
from agent_mailer.broker.protocol import Fault

pytestmark = pytest.mark.usefixtures("each_database")

CLAIM_SECONDS = 3600.0


class Room:
    def __init__(self, desk: BrokerDesk) -> None:
        self.desk = desk
        self.alice = desk.person("alice")
        self.sender = desk.agent(self.alice, "sender")
        self.worker = desk.own_agent(self.alice, "worker")
        self.key = {"X-API-Key": self.worker["api_key_plaintext"]}
        self.other = {"X-API-Key": desk.own_agent(self.alice, "other")["api_key_plaintext"]}
        self.bob = desk.person("bob")

    def message(self) -> str:
        name: str = self.desk.send(self.alice, self.sender, self.worker["address"], body="work")["id"]
        return name

    def claim(
        self,
        name: str,
        expected: int = 200,
        *,
        watcher: str | None = "w",
        key: dict[str, str] | None = None,
        **form: Any,
    ) -> Any:
        headers = {**(key or self.key), **({"X-Agent-Mailer-Watcher": watcher} if watcher is not None else {})}
        body = {"json": form} if form else {}
        return self.desk.call("POST", f"/messages/{name}/claim", expected, headers=headers, **body)

    def tell(self, name: str, expected: int, *, key: dict[str, str] | None = None, **form: Any) -> Any:
        form = {"stage": "settled", "turn_id": "t", **form}
        return self.desk.call("POST", f"/messages/{name}/receipts", expected, json=form, headers=key or self.key)

    def told(self, name: str, expected: int = 200, key: dict[str, str] | None = None) -> Any:
        return self.desk.call("GET", f"/messages/{name}/receipts", expected, headers=key or self.key)

    def read(self, name: str) -> bool:
        message = self.desk.call("GET", f"/messages/{name}", headers=self.key)
        return bool(message["is_read"])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Room]:
    with running_broker(tmp_path_factory.mktemp("broker"), claim_seconds=CLAIM_SECONDS) as desk:
        yield Room(desk)


def test_what_is_wanted_of_one_message_at_once_happens_one_after_the_other(room: Room) -> None:
    """In one transaction: the second sees what became of it, and no other is kept from what it wants."""
    name, other = room.message(), room.message()
    caller = AgentCaller(room.alice.id, "alice", "", None)
    wanted = [
        Change(caller, name, mark_read),
        Change(caller, other, mark_read),
        Change(caller, name, mark_unread),
        Change(caller, name, mark_read),
        Change(caller, "unknown", mark_read),
        Change(msgspec.structs.replace(caller, user_id=room.bob.id), other, mark_read),
        Change(caller, other, mark_unread),
    ]
    engine = create_engine(room.desk.settings.database)
    with engine.begin() as connection:
        made = change_all(connection, wanted)
    engine.dispose()
    assert [one.status for one in made if isinstance(one, Fault)] == [404, 404]
    first, second, third, fourth, _, _, last = made
    assert (first.is_read, second.is_read, third.is_read, fourth.is_read, last.is_read) == (
        True,
        True,
        False,
        True,
        False,
    )
    assert third.cursor == fourth.cursor > first.cursor
    assert last.cursor == third.cursor + 1
    (kept,) = room.desk.sql("SELECT inbox_seq, inbox_unread FROM agents WHERE id = :id", id=room.worker["id"])
    (counted,) = room.desk.sql(
        "SELECT max(seq), sum(CASE WHEN is_read THEN 0 ELSE 1 END) FROM messages WHERE to_agent_id = :id",
        id=room.worker["id"],
    )
    assert tuple(kept) == tuple(counted)


def test_a_claim_brings_the_whole_message(room: Room) -> None:
    name = room.message()
    claimed = room.claim(name, turn_id="t1")
    assert claimed["claimed"] == "now"
    message = room.desk.call("GET", f"/messages/{name}", headers=room.key)
    assert claimed["message"] == message
    assert (message["body"], message["body_html"]) == ("work", "<p>work</p>\n")
    assert message["claimed_at"]
    assert message["is_read"] is False
    again = room.claim(name, turn_id="t1")
    assert again["claimed"] == "before"
    assert again["message"]["claimed_at"] > message["claimed_at"], "renewed"
    assert [receipt["turn_id"] for receipt in room.told(name)] == ["t1"]
    room.claim(name, turn_id="t2")
    assert [(receipt["stage"], receipt["turn_id"]) for receipt in room.told(name)] == [
        ("claimed", "t1"),
        ("claimed", "t2"),
    ]


def test_a_claim_brings_its_thread_and_says_that_the_turn_has_started(room: Room) -> None:
    first = room.message()
    thread = room.desk.call("GET", f"/messages/{first}", headers=room.key)["thread_id"]
    alone = room.claim(first, turn_id="t1", started=True, thread=True)
    assert [one["id"] for one in alone["thread"]] == [first]
    assert alone["message"]["body_html"] == "<p>work</p>\n"
    assert [(receipt["stage"], receipt["turn_id"]) for receipt in room.told(first)] == [
        ("claimed", "t1"),
        ("started", "t1"),
    ]
    assert room.tell(first, 200, stage="started", turn_id="t1")["turn_id"] == "t1", "told once"
    more = {"thread_id": thread, "body": "more"}
    second = room.desk.send(room.alice, room.sender, room.worker["address"], **more)["id"]
    claimed = room.claim(second, turn_id="t2", started=True, thread=True)
    shown = room.desk.call("GET", f"/messages/thread/{thread}?html=false", headers=room.key)
    assert [one["id"] for one in shown] == [first, second]
    assert claimed["thread"] == shown
    assert "thread" not in room.claim(second, turn_id="t2"), "who does not ask for it gets what was there before"
    long = {"thread_id": thread, "body": "x" * 300_000}
    third = room.desk.send(room.alice, room.sender, room.worker["address"], **long)["id"]
    assert "thread" not in room.claim(third, turn_id="t3", thread=True), "a long one is asked for by itself"


def test_the_turn_need_not_be_named(room: Room) -> None:
    name = room.message()
    assert room.claim(name)["claimed"] == "now"
    assert room.claim(name)["claimed"] == "before"
    assert [receipt["turn_id"] for receipt in room.told(name)] == [""]


def test_another_watcher_waits(room: Room) -> None:
    name = room.message()
    room.claim(name, watcher="one")
    said = room.claim(name, 409, watcher="two")
    assert said["reason"] == "claimed"
    assert "claimed by another watcher since" in said["detail"]
    old = "2020-01-01T00:00:00.000000+00:00"
    room.desk.sql("UPDATE messages SET claimed_at = :old WHERE id = :id", old=old, id=name)
    assert room.claim(name, watcher="two", turn_id="x")["claimed"] == "now"
    assert room.claim(name, 409, watcher="one")["reason"] == "claimed"
    room.desk.call("PATCH", f"/messages/{name}/unread", headers=room.key)
    assert room.claim(name, watcher="one")["claimed"] == "now", "unread again is free again"


def test_what_is_read_is_not_claimed(room: Room) -> None:
    name = room.message()
    room.claim(name)
    room.desk.call("PATCH", f"/messages/{name}/read", headers=room.key)
    assert room.claim(name, 409) == {"detail": "This message is read already", "reason": "read"}


def test_whoever_holds_the_stream_claims(room: Room) -> None:
    name = room.message()
    with httpx.Client(trust_env=False, timeout=30) as client:
        path = f"{room.desk.url}/messages/inbox/{room.worker['address']}/stream"
        headers = {**room.key, "X-Agent-Mailer-Watcher": "holder", "X-Agent-Mailer-Watcher-Name": "host h"}
        with client.stream("GET", path, params={"agent_id": room.worker["id"]}, headers=headers) as stream:
            assert stream.status_code == 200
            said = room.claim(name, 409, watcher="two")
            assert said["reason"] == "watched"
            assert said["watcher"]["name"] == "host h"
            assert room.claim(name, watcher="holder")["claimed"] == "now"


def test_one_of_ten_gets_it(room: Room) -> None:
    name = room.message()
    gate = threading.Barrier(10)

    def claim(number: int) -> int:
        gate.wait()
        headers = {**room.key, "X-Agent-Mailer-Watcher": f"w{number}"}
        return room.desk.http.post(f"/messages/{name}/claim", headers=headers).status_code

    with ThreadPoolExecutor(10) as crowd:
        statuses = sorted(crowd.map(claim, range(10)))
    assert statuses == [200] + [409] * 9


class Members:
    """Of a group, and who writes to it: each gets a copy, as our client sends them."""

    def __init__(self, room: Room, many: int) -> None:
        self.room = room
        self.agents = [room.desk.own_agent(room.alice, f"member{number}-{many}") for number in range(many)]
        self.keys = [{"X-API-Key": one["api_key_plaintext"]} for one in self.agents]

    def send(self, one_of: str, sender: dict[str, Any] | None = None) -> list[str]:
        form = {"labels": ["one-of:cap:work"], "one_of": one_of}
        sender = sender or self.room.sender
        return [self.room.desk.send(self.room.alice, sender, to["address"], **form)["id"] for to in self.agents]

    def claim(self, number: int, name: str) -> httpx.Response:
        headers = {**self.keys[number], "X-Agent-Mailer-Watcher": f"w{number}"}
        return self.room.desk.http.post(f"/messages/{name}/claim", headers=headers)

    def listed(self, number: int) -> list[str]:
        agent = self.agents[number]
        query = {"agent_id": agent["id"], "heads": "true"}
        path = f"/messages/inbox/{agent['address']}"
        found = self.room.desk.call("GET", path, params=query, headers=self.keys[number])
        return [one["id"] for one in found["messages"]]


def test_of_the_copies_of_a_groups_mail_one_is_taken(room: Room) -> None:
    group = Members(room, 2)
    first, second = group.send("s")
    assert group.claim(1, second).json()["claimed"] == "now"
    for _ in range(2):
        refused = group.claim(0, first)
        assert (refused.status_code, refused.json()["reason"]) == (409, "taken")
        assert group.agents[1]["address"] in refused.json()["detail"]
    assert group.listed(0) == []
    assert group.claim(1, second).json()["claimed"] == "before"
    late, _ = group.send("s")
    assert group.claim(0, late).json()["reason"] == "taken", "a copy that comes late"
    again, _ = group.send("s", sender=group.agents[1])
    assert group.claim(0, again).status_code == 200, "what another sender calls so is another"
    form = {"agent_id": room.sender["id"], "from_agent": room.sender["address"], "to_agent": group.agents[0]["address"]}
    refused = room.desk.http.post("/messages/send", json={**form, "one_of": "t"}, headers=room.alice.header)
    assert (refused.status_code, "one-of:GROUP" in refused.json()["detail"]) == (400, True)


def test_of_members_whose_claims_are_one_transaction_one_takes_it(room: Room) -> None:
    group = Members(room, 4)
    caller = AgentCaller(room.alice.id, "alice", "", None)

    def claimed(changes: Changes, locked: Locked) -> str:
        """By whom."""
        name, to = locked.message.id, locked.message.to_agent
        return changes.taken.by_another(name) or claim_message(changes, locked, to, "t").message.to_agent

    here, there = group.send("together"), group.send("another")
    engine = create_engine(room.desk.settings.database)
    with engine.begin() as connection:
        claims = [Change(caller, name, claimed) for name in (here[1], here[0], there[2], here[2], here[1], there[3])]
        made = change_all(connection, claims)
    engine.dispose()
    of = [one["address"] for one in group.agents]
    assert made == [of[1], of[1], of[2], of[1], of[1], of[2]]
    assert group.claim(0, here[0]).json()["reason"] == "taken"


def test_members_who_claim_at_once_take_each_once(room: Room) -> None:
    group = Members(room, 3)
    sends = [group.send(f"race{number}") for number in range(4)]
    gate = threading.Barrier(3)

    def claim_all(number: int) -> list[int]:
        order = sends[number:] + sends[:number]
        gate.wait()
        return [group.claim(number, copies[number]).status_code for copies in order]

    with ThreadPoolExecutor(3) as crowd:
        statuses = sorted(status for found in crowd.map(claim_all, range(3)) for status in found)
    assert statuses == [200] * 4 + [409] * 8


def test_who_may_claim(room: Room) -> None:
    name = room.message()
    assert room.claim("none", 404)["detail"] == "Message not found"
    assert room.claim(name, 404, key=room.bob.header)["detail"] == "Message not found"
    room.claim(name, 403, key=room.other)
    room.desk.call("POST", f"/messages/{name}/claim", 401)
    room.claim(name, 422, watcher=None)
    room.claim(name, 422, watcher="x" * 129)
    room.claim(name, 422, turn_id="x" * 65)
    room.claim(name, 422, turn_id="\0")
    assert room.told(name) == []
    assert room.claim(name, key=room.alice.header)["claimed"] == "now", "a key for all agents"


def test_the_way_of_a_message(room: Room) -> None:
    name = room.message()
    room.claim(name, turn_id="t")
    started = room.tell(name, 201, stage="started")
    assert started == {
        "message_id": name,
        "stage": "started",
        "turn_id": "t",
        "outcome": None,
        "detail": "",
        "final": False,
        "created_at": started["created_at"],
    }
    assert room.tell(name, 200, stage="started") == started, "told once"
    assert room.tell(name, 201, outcome="failed", detail="no disk")["outcome"] == "failed"
    assert not room.read(name)
    assert room.tell(name, 200, outcome="done", final=True)["outcome"] == "failed", "what was told stays"
    assert room.read(name), "final marks it read, also when it was told before"
    assert room.tell(name, 201, turn_id="t2", outcome="done", final=True)["final"] is True
    assert [(receipt["stage"], receipt["turn_id"]) for receipt in room.told(name)] == [
        ("claimed", "t"),
        ("started", "t"),
        ("settled", "t"),
        ("settled", "t2"),
    ]


def test_only_settled_is_final(room: Room) -> None:
    name = room.message()
    room.tell(name, 201, stage="started", final=True)
    assert not room.read(name)


def test_twenty_at_once_tell_it_once(room: Room) -> None:
    name = room.message()
    form = {"stage": "settled", "turn_id": "t", "final": True}
    with ThreadPoolExecutor(20) as crowd:
        answers = crowd.map(
            lambda _: room.desk.http.post(f"/messages/{name}/receipts", json=form, headers=room.key), range(20)
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len(room.told(name)) == 1


def test_who_may_tell_and_be_told(room: Room) -> None:
    name = room.message()
    room.tell("none", 404)
    room.tell(name, 404, key=room.bob.header)
    room.tell(name, 403, key=room.other)
    room.tell(name, 201, key=room.alice.header)
    for key in (room.key, room.alice.header, room.alice.login):
        assert len(room.told(name, key=key)) == 1
    for stranger in (room.bob.header, room.bob.login, room.other):
        assert room.told(name, 404, key=stranger)["detail"] == "Message not found"
    assert room.told("none", 404)["detail"] == "Message not found"
    room.desk.call("GET", f"/messages/{name}/receipts", 401)


@pytest.mark.parametrize(
    "form",
    [
        {"stage": "claimed"},
        {"stage": None},
        {"turn_id": ""},
        {"turn_id": "x" * 65},
        {"turn_id": "\0"},
        {"outcome": "x" * 33},
        {"detail": "x" * 601},
        {"detail": "\0"},
        {"final": "perhaps"},
    ],
    ids=repr,
)
def test_what_no_receipt_may_hold(room: Room, form: dict[str, Any]) -> None:
    name = room.message()
    (field,) = form
    assert room.tell(name, 422, **form)["detail"][0]["loc"] == ["body", field]
    assert room.told(name) == []
