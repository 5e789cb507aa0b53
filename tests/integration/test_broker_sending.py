"""Sending at the broker: what is stored, what is refused, and that the same request is stored once."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from tests.broker_desk import BrokerDesk, running_broker

from agent_mailer.broker.data import Quota
from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.broker.messages.wire import LONGEST_MARKDOWN, body_html
from agent_mailer.broker.protocol import Fault

pytestmark = pytest.mark.usefixtures("each_database")

FIELDS = {
    "id",
    "thread_id",
    "from_agent",
    "to_agent",
    "action",
    "subject",
    "body",
    "body_html",
    "attachments",
    "is_read",
    "parent_id",
    "created_at",
    "cursor",
    "hops",
    "automatic",
    "priority",
    "kind",
    "labels",
    "visited",
    "claimed_at",
}


class Room:
    """Alice's planner and coder, and bob's stranger."""

    def __init__(self, desk: BrokerDesk) -> None:
        self.desk = desk
        self.alice = desk.person("alice")
        self.planner = desk.agent(self.alice, "planner")
        self.coder = desk.agent(self.alice, "coder")
        self.reviewer = desk.agent(self.alice, "reviewer")
        self.bob = desk.person("bob")
        self.stranger = desk.agent(self.bob, "stranger")

    def post(self, expected: int = 200, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        """The planner sends to the coder, but for `fields`; None leaves a field out."""
        form = {
            "agent_id": self.planner["id"],
            "from_agent": self.planner["address"],
            "to_agent": self.coder["address"],
            **fields,
        }
        form = {name: value for name, value in form.items() if value is not None}
        credentials = {**self.alice.header, **(headers or {})}
        return self.desk.call("POST", "/messages/send", expected, json=form, headers=credentials)

    def refused(self, status: int, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        """The detail of a refusal, after which nothing was stored."""
        before = self.count()
        said = self.post(status, headers, **fields)["detail"]
        assert self.count() == before
        return said

    def count(self) -> int:
        numbers = (
            self.desk.call(
                "GET",
                f"/messages/inbox/{agent['address']}",
                headers=self.alice.header,
                params={"agent_id": agent["id"], "all": True, "page": 1, "page_size": 1},
            )["total"]
            for agent in (self.planner, self.coder, self.reviewer)
        )
        return sum(numbers)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Room]:
    with running_broker(tmp_path_factory.mktemp("broker"), max_body_bytes=5000) as desk:
        yield Room(desk)


def test_a_message_as_it_is_answered(room: Room) -> None:
    sent = room.post(subject="hi", body="**bold**", attachments=["a/b.txt", {"name": "x", "size": 3}])
    assert set(sent) == FIELDS
    assert sent["from_agent"] == room.planner["address"]
    assert sent["to_agent"] == room.coder["address"]
    assert (sent["action"], sent["subject"], sent["body"]) == ("send", "hi", "**bold**")
    assert sent["body_html"] == "<p><strong>bold</strong></p>\n"
    assert sent["attachments"] == ["a/b.txt", {"name": "x", "size": 3}]
    assert sent["is_read"] is False
    assert sent["parent_id"] is None
    assert sent["created_at"].endswith("+00:00")
    assert (sent["hops"], sent["automatic"], sent["priority"], sent["kind"]) == (0, "no", "normal", None)
    assert sent["labels"] == []
    assert sent["claimed_at"] is None
    assert uuid.UUID(sent["id"]) != uuid.UUID(sent["thread_id"])


def test_everything_but_the_addresses_may_be_left_out(room: Room) -> None:
    sent = room.post()
    assert (sent["subject"], sent["body"], sent["body_html"], sent["attachments"]) == ("", "", "", [])


def test_several_recipients(room: Room) -> None:
    both = room.post(to_agent=[room.coder["address"], room.reviewer["address"]])
    assert [message["to_agent"] for message in both] == [room.coder["address"], room.reviewer["address"]]
    assert len({message["thread_id"] for message in both}) == 1
    assert len({message["id"] for message in both}) == 2
    assert isinstance(room.post(to_agent=[room.coder["address"]]), dict), "one is no list"
    assert room.post(to_agent=[]) == []


def test_one_bad_recipient_and_nobody_gets_it(room: Room) -> None:
    good = room.coder["address"]
    assert room.refused(404, to_agent=[good, "no@one.x"]) == "Recipient address 'no@one.x' not found"
    foreign = room.stranger["address"]
    assert room.refused(404, to_agent=[good, foreign]) == f"Recipient address '{foreign}' not found", "as if unknown"


def test_who_sends(room: Room) -> None:
    planner = room.planner
    assert room.refused(404, agent_id="nobody") == "Agent 'nobody' not found"
    foreign = room.stranger["id"]
    assert room.refused(404, agent_id=foreign) == f"Agent '{foreign}' not found", "as if unknown"
    said = room.refused(403, from_agent=room.coder["address"])
    assert said == f"Agent '{planner['id']}' does not own address '{room.coder['address']}'"
    desk = room.desk
    assert desk.call("POST", "/messages/send", 401, json={})["detail"] == "API key required"
    wrong = desk.call("POST", "/messages/send", 401, json={}, headers={"X-API-Key": "amk_0"})
    assert wrong["detail"] == "Invalid API key"
    desk.call("POST", "/messages/send", 401, json={}, headers=room.alice.login)


def test_a_bound_key_sends_for_its_agent_only(room: Room) -> None:
    bound = room.desk.own_agent(room.alice, "bound")
    key = {"X-API-Key": bound["api_key_plaintext"]}
    room.post(headers=key, agent_id=bound["id"], from_agent=bound["address"])
    assert "another agent" in room.refused(403, headers=key)
    foreign_talk = room.post(to_agent=room.reviewer["address"])
    mine = {"agent_id": bound["id"], "from_agent": bound["address"], "headers": key}
    said = room.refused(404, action="forward", parent_id=foreign_talk["id"], forward_scope="thread", **mine)
    assert said == "Parent message not found", "it takes no part in that thread"
    told = room.post(to_agent=bound["address"], thread_id=foreign_talk["thread_id"])
    assert told["thread_id"] == foreign_talk["thread_id"]
    room.post(action="reply", parent_id=foreign_talk["id"], **mine)


def test_reply_and_forward_stay_in_the_thread(room: Room) -> None:
    first = room.post(subject="task")
    answer = room.post(
        action="reply",
        parent_id=first["id"],
        agent_id=room.coder["id"],
        from_agent=room.coder["address"],
        to_agent=room.planner["address"],
    )
    assert (answer["thread_id"], answer["parent_id"], answer["action"]) == (first["thread_id"], first["id"], "reply")
    plain = room.post(action="forward", parent_id=first["id"], to_agent=room.reviewer["address"], body="look")
    assert (plain["thread_id"], plain["body"]) == (first["thread_id"], "look")
    thread = room.desk.call("GET", f"/messages/thread/{first['thread_id']}", headers=room.alice.header)
    assert [message["id"] for message in thread] == [first["id"], answer["id"], plain["id"]]


def test_what_answers_a_message_comes_after_it_whatever_the_clock_of_its_process_says(room: Room) -> None:
    first = room.post(subject="task")
    ahead = "9999-01-01T00:00:00.999999+00:00"
    room.desk.sql(f"UPDATE messages SET created_at = '{ahead}' WHERE id = '{first['id']}'")
    second = room.post(action="reply", parent_id=first["id"])
    third = room.post(action="forward", parent_id=second["id"], to_agent=room.reviewer["address"])
    assert second["created_at"] == "9999-01-01T00:00:01.000000+00:00"
    thread = room.desk.call("GET", f"/messages/thread/{first['thread_id']}", headers=room.alice.header)
    assert [message["id"] for message in thread] == [first["id"], second["id"], third["id"]]
    assert room.post()["created_at"] < ahead, "nothing else is drawn along"


def test_what_a_forward_quotes(room: Room) -> None:
    planner, coder = room.planner["address"], room.coder["address"]
    first = room.post(subject=" Task ", body="do it")
    second = room.post(action="reply", parent_id=first["id"], body="and that")
    block = f"From: {planner} → To: {coder}\nTime: {first['created_at']}\nAction: send\nSubject: Task\n\ndo it"
    other = f"From: {planner} → To: {coder}\nTime: {second['created_at']}\nAction: reply\n\nand that"
    forward = {"action": "forward", "parent_id": first["id"], "to_agent": room.reviewer["address"]}
    quoted = room.post(**forward, forward_scope="message", body=" see \n")
    assert quoted["body"] == f"see\n\n----------\n\n{block}"
    assert room.post(**forward, forward_scope="message")["body"] == block
    alone = room.post(subject="x", body="y")
    room.post(action="reply", parent_id=alone["id"], body="z")
    whole = room.post(action="forward", parent_id=first["id"], forward_scope="thread", to_agent=coder, body="all")
    assert whole["body"].startswith(f"all\n\n----------\n\n{block}\n\n---\n\n{other}\n\n---\n\n")


def test_a_forward_that_would_grow_too_large(room: Room) -> None:
    first = room.post(body="x" * 3000)
    room.post(action="reply", parent_id=first["id"], body="y" * 3000)
    forward = {"action": "forward", "parent_id": first["id"]}
    assert "too large" in room.refused(413, **forward, forward_scope="thread")
    assert "too large" in room.refused(413, **forward, forward_scope="message", body="z" * 4000)


def test_parents(room: Room) -> None:
    needed = "parent_id is required for reply/forward"
    assert room.refused(400, action="reply") == needed
    assert room.refused(400, action="forward", parent_id="") == needed
    foreign = room.desk.send(room.bob, room.stranger, room.stranger["address"], subject="secret")
    for action in ("send", "reply", "forward"):
        for parent in ("nothing", foreign["id"]):
            assert room.refused(404, action=action, parent_id=parent) == "Parent message not found"
    said = room.refused(404, action="forward", parent_id=foreign["id"], forward_scope="thread")
    assert said == "Parent message not found"
    scope = "forward_scope is only allowed when action is forward"
    assert room.refused(400, forward_scope="message") == scope
    first = room.post()
    assert room.refused(400, action="reply", parent_id=first["id"], forward_scope="thread") == scope
    fresh = room.post(parent_id=first["id"])
    assert fresh["parent_id"] == first["id"]
    assert fresh["thread_id"] != first["thread_id"], "a send begins a thread of its own"


def test_marks(room: Room) -> None:
    marks: dict[str, Any] = {
        "hops": 7,
        "automatic": "auto-reply",
        "priority": "urgent",
        "kind": "review_request",
        "labels": ["a", "b"],
    }
    sent = room.post(**marks, thread_id="p2p/planner__coder")
    assert {name: sent[name] for name in marks} == marks
    again = room.post(thread_id="p2p/planner__coder")
    thread = room.desk.call("GET", "/messages/thread/p2p/planner__coder", headers=room.alice.header)
    assert [message["id"] for message in thread] == [sent["id"], again["id"]]
    room.desk.call("GET", "/messages/thread/p2p/planner__coder", 404, headers=room.bob.header)
    said = room.refused(400, action="reply", parent_id=sent["id"], thread_id="other")
    assert said == "thread_id is only allowed when action is send"


@pytest.mark.parametrize(
    "fields",
    [
        {"agent_id": None},
        {"from_agent": None},
        {"to_agent": None},
        {"to_agent": 5},
        {"to_agent": ["a"] * 101},
        {"action": "delete"},
        {"subject": "s" * 999},
        {"subject": "a\0b"},
        {"body": "a\0b"},
        {"body": 5},
        {"attachments": ["x"] * 51},
        {"attachments": [5]},
        {"attachments": [{"deep": {"er": ["\0"]}}]},
        {"attachments": [{"a\0": 1}]},
        {"attachments": [{"n": 2**64}]},
        {"attachments": [{"n": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}]},
        {"forward_scope": "all"},
        {"thread_id": ""},
        {"thread_id": "x" * 129},
        {"thread_id": "a\nb"},
        {"hops": -1},
        {"hops": 1001},
        {"automatic": "maybe"},
        {"priority": "high"},
        {"kind": "poem"},
        {"labels": ["x"] * 21},
        {"labels": ["x" * 101]},
        {"labels": ["a\nb"]},
    ],
    ids=repr,
)
def test_what_no_request_may_hold(room: Room, fields: dict[str, Any]) -> None:
    issues = room.refused(422, **fields)
    (name,) = fields
    assert issues[0]["loc"][:2] == ["body", name]
    assert set(issues[0]) >= {"type", "loc", "msg", "input"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"agent_id": "\xff"}',
        b'{"agent_id": "\\ud800", "from_agent": "x", "to_agent": "x"}',
        b'{"agent_id": "x", "from_agent": "x", "to_agent": "x", "attachments": [{"a": NaN}]}',
        b'{"a":' * 5000,
        b"9" * 10000,
    ],
    ids=lambda raw: raw[:30],
)
def test_what_is_no_request_at_all(room: Room, raw: bytes) -> None:
    headers = {**room.alice.header, "Content-Type": "application/json"}
    assert isinstance(room.desk.call("POST", "/messages/send", 422, content=raw, headers=headers)["detail"], list)


def test_a_form_is_no_json(room: Room) -> None:
    room.desk.call(
        "POST", "/messages/send", 422, content=b"{}", headers={**room.alice.header, "Content-Type": "text/x"}
    )


def test_sizes(room: Room) -> None:
    assert room.refused(413, body="ä" * 2501) == "Message body too large: 5002 bytes. Maximum: 5000 bytes"
    assert len(room.post(body="ä" * 2500)["body"]) == 2500
    assert "Attachments too large" in room.refused(413, attachments=[{"x": "y" * 66_000}])
    assert len(room.post(subject="s" * 998)["subject"]) == 998
    assert len(room.post(to_agent=[room.coder["address"]] * 100)) == 100


ODD: tuple[tuple[dict[str, Any], dict[str, str]], ...] = (
    ({}, {}),
    ({"to_agent": []}, {}),
    ({"to_agent": ["nobody@nowhere"]}, {}),
    ({"action": "reply"}, {}),
    ({"action": "drop"}, {}),
    ({"priority": "urgent", "labels": ["l"], "visited": ["v"]}, {}),
    ({"body": None, "subject": None}, {}),
    ({"agent_id": None}, {}),
    ({"agent_id": "x"}, {}),
    ({"from_agent": "x"}, {}),
    ({"hops": -1}, {}),
    ({"more": 1}, {}),
    ({"parent_id": "x"}, {}),
    ({"body": "\0"}, {}),
    ({}, {"X-API-Key": ""}),
    ({}, {"X-API-Key": "amk_1"}),
    ({}, {"Content-Type": "text/plain"}),
    ({}, {"Content-Type": "application/json; charset=latin-1"}),
    ({}, {"Idempotency-Key": "k" * 201}),
    ({}, {"Host": "elsewhere.example"}),
)


def test_with_a_query_and_without_one_it_is_the_same_call(room: Room) -> None:
    """One goes past the framework: status, headers and body are the same."""
    own = {"id", "thread_id", "created_at", "cursor"}

    def said(path: str, content: bytes, headers: dict[str, str]) -> tuple[int, object, list[str]]:
        answer = room.desk.http.post(path, content=content, headers=headers)
        told = answer.json()
        if isinstance(told, dict):
            told = {name: value for name, value in told.items() if name not in own}
        return answer.status_code, told, sorted(name for name in answer.headers if name != "date")

    sender = {"agent_id": room.planner["id"], "from_agent": room.planner["address"], "to_agent": room.coder["address"]}
    for fields, headers in ODD:
        form = {**sender, "body": "b", "subject": "s", **fields}
        for content in (json.dumps(form).encode(), json.dumps(form).encode()[:-1]):
            both = {**room.alice.header, "Content-Type": "application/json", **headers}
            plain = said("/messages/send", content, both)
            assert plain == said("/messages/send?html=true", content, both), (fields, headers, plain)


def test_without_html(room: Room) -> None:
    form = {"agent_id": room.planner["id"], "from_agent": room.planner["address"], "to_agent": room.coder["address"]}
    sent = room.desk.call("POST", "/messages/send?html=false", json=form, headers=room.alice.header)
    assert set(sent) == FIELDS - {"body_html"}


def test_html_is_safe_and_soon() -> None:
    for word in ("script", "onerror", "javascript:", "<style", "<iframe"):
        html = body_html(
            "<script>alert(1)</script> <img src=x onerror=alert(1)> [x](javascript:alert(1))\n\n<style>*{}</style>\n"
            "<iframe src=x></iframe> <a href='javascript:alert(1)'>x</a>\n"
        )
        assert word not in html.replace("[x](javascript:alert(1))", ""), html
    assert body_html("a | b\n--|--\n1 | 2").startswith("<table>")
    assert body_html("plain words, no more. ") == "<p>plain words, no more.</p>\n"
    assert body_html("1. x").startswith("<ol>")
    for hostile in ("[" * 19_000, "|a" * 1000 + "\n" + "|-" * 1000 + "\n" + "|\n" * 7000, ">" * 19_000, "<b>" * 6000):
        assert body_html(hostile)
    assert body_html("<" * (LONGEST_MARKDOWN + 1)).startswith("<pre>&lt;")


# One key, one message.


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


def raw_post(room: Room, headers: dict[str, str], **fields: Any) -> Any:
    form = {"agent_id": room.planner["id"], "from_agent": room.planner["address"], **fields}
    return room.desk.http.post("/messages/send", json=form, headers={**room.alice.header, **headers})


def test_the_same_key_and_request_is_stored_once(room: Room) -> None:
    both = {"to_agent": [room.coder["address"], room.reviewer["address"]], "body": "once"}
    first = raw_post(room, key("k 1"), **both)
    assert first.status_code == 200
    assert "Idempotency-Replayed" not in first.headers
    before = room.count()
    again = raw_post(room, key("k 1"), **both)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.json() == first.json()
    assert room.count() == before
    planner = uuid.UUID(room.planner["id"])
    assert [message["id"] for message in first.json()] == [str(uuid.uuid5(planner, f"{n}:k 1")) for n in (0, 1)]
    assert len({message["thread_id"] for message in first.json()}) == 1


def test_the_same_key_with_another_request_is_refused(room: Room) -> None:
    room.post(headers=key("k2"), body="one")
    for change in ({"body": "two"}, {"body": "one", "hops": 1}, {"body": "one", "to_agent": room.reviewer["address"]}):
        said = room.refused(409, headers=key("k2"), **change)
        assert said == "This Idempotency-Key was used for another request"
    room.post(headers=key("k2"), body="one", action="send", subject="", to_agent=[room.coder["address"]])


def test_a_refused_request_uses_up_no_key(room: Room) -> None:
    room.refused(404, headers=key("k3"), to_agent="no@one.x")
    assert room.post(headers=key("k3"))["id"]


def test_keys_are_the_senders_own(room: Room) -> None:
    one = room.post(headers=key("k4"))
    other = room.post(headers=key("k4"), agent_id=room.coder["id"], from_agent=room.coder["address"])
    assert one["id"] != other["id"]


def test_what_a_key_may_be(room: Room) -> None:
    for bad in (b"", b"x" * 201, b"\xe4", b"a\tb"):
        answer = room.desk.http.post(
            "/messages/send",
            json={
                "agent_id": room.planner["id"],
                "from_agent": room.planner["address"],
                "to_agent": room.coder["address"],
            },
            headers=[(b"X-API-Key", room.alice.key.encode()), (b"Idempotency-Key", bad)],
        )
        assert answer.status_code == 422, bad
        assert answer.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]


def test_twenty_at_once_with_one_key(room: Room) -> None:
    before = room.count()
    gate = threading.Barrier(20)

    def post(_: int) -> Any:
        gate.wait()
        return raw_post(room, key("crowd"), to_agent=room.coder["address"], body="one of us")

    with ThreadPoolExecutor(20) as crowd:
        answers = list(crowd.map(post, range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert room.count() == before + 1


def test_a_key_outlives_the_broker(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk:
        room = Room(desk)
        first = room.post(headers=key("for ever"), body="x")
        alice, planner, coder = room.alice, room.planner, room.coder
    with running_broker(tmp_path) as desk:
        form = {"agent_id": planner["id"], "from_agent": planner["address"], "to_agent": coder["address"], "body": "x"}
        again = desk.http.post("/messages/send", json=form, headers={**alice.header, **key("for ever")})
        assert (again.json(), again.headers["Idempotency-Replayed"]) == (first, "true")
        form["body"] = "y"
        desk.call("POST", "/messages/send", 409, json=form, headers={**alice.header, **key("for ever")})


def test_a_request_hash_tells_what_differs_from_the_usual() -> None:
    def digest(**fields: Any) -> str:
        return Submission(NewMessage("a", ("b",), **fields), "u", "i", False, "k", 1).request_hash()

    assert digest(action="".join(["se", "nd"]), hops=0, labels=()) == digest()
    assert len({digest(), digest(body="x"), digest(subject="x"), digest(labels=("x",)), digest(priority="low")}) == 5


def test_what_is_asked_of_the_database_does_not_grow_with_what_is_sent_together(room: Room) -> None:
    def submission(number: int, key: str) -> Submission:
        new = NewMessage(room.planner["address"], (room.coder["address"],), body=str(number))
        return Submission(new, room.alice.id, room.planner["id"], bound=True, key=key, longest=1000)

    def asked(key: str, many: int) -> int:
        """How many statements it takes to send so many at once."""
        statements: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            statements.append(statement)

        engine = create_engine(room.desk.settings.database)
        event.listen(engine, "before_cursor_execute", note)
        with engine.begin() as connection:
            sent = send_all(connection, [submission(number, f"{key}-{number}") for number in range(many)])
        engine.dispose()
        assert all(isinstance(one, Sent) for one in sent)
        return len(statements)

    assert asked("one", 1) == asked("many", 50)


def test_who_reads_nothing_of_a_thread_that_another_begins_at_the_same_time(room: Room) -> None:
    """Both are in one transaction, so that the first is not stored when the second is looked at."""
    thread = str(uuid.uuid4())

    def submission(sender: dict[str, Any], to: dict[str, Any], key: str) -> Submission:
        new = NewMessage(sender["address"], (to["address"],), thread_id=thread)
        whose = (room.alice.id, sender["id"])
        return Submission(new, *whose, bound=True, key=key, longest=1000, quota=Quota(messages_per_day=2))

    engine = create_engine(room.desk.settings.database)
    with engine.begin() as connection:
        begun, refused, answered, beyond = send_all(
            connection,
            [
                submission(room.planner, room.coder, thread + "1"),
                submission(room.reviewer, room.coder, thread + "2"),
                submission(room.coder, room.planner, thread + "3"),
                submission(room.coder, room.planner, thread + "4"),
            ],
        )
    engine.dispose()
    assert isinstance(begun, Sent)
    assert isinstance(answered, Sent)
    assert isinstance(refused, Fault)
    # What is refused is not counted, what is sent is: in one transaction, too.
    assert isinstance(beyond, Fault)
    assert (refused.status, beyond.status) == (403, 429)
