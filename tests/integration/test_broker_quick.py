"""A send that is answered past the framework, or past the server's layers, too, is answered as the framework would, to
the byte; all else it leaves.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.integration.test_broker_database import lost_once

from agent_mailer.broker.app import create_app
from agent_mailer.broker.data import Settings
from agent_mailer.broker.messages.quick import LARGEST, Quick
from agent_mailer.broker.tables import agents, users
from agent_mailer.broker.users.rows import add_key, new_raw_key

pytestmark = pytest.mark.usefixtures("each_database")
JSON = "application/json"
_NEW = re.compile(rb'"(id|thread_id|created_at)":"[^"]*"|"(cursor)":\d+')


class Scene(NamedTuple):
    """An agent with a key, another of the same user, one of a stranger, and a message to answer."""

    desk: BrokerDesk
    ann: Person
    coder: dict[str, Any]
    tester: dict[str, Any]
    stranger: dict[str, Any]
    parent: str
    thread: str
    """Of that message."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Scene]:
    with running_broker(tmp_path_factory.mktemp("quick")) as desk:
        ann, bob = desk.person("ann"), desk.person("bob")
        coder, tester, stranger = desk.agent(ann, "coder"), desk.agent(ann, "tester"), desk.agent(bob, "other")
        form = {"agent_id": tester["id"], "from_agent": tester["address"], "to_agent": coder["address"], "body": "?"}
        parent = desk.call("POST", "/messages/send", json=form, headers=ann.header)
        yield Scene(desk, ann, coder, tester, stranger, parent["id"], parent["thread_id"])


def forms(scene: Scene) -> dict[str, dict[str, Any]]:
    """What differs from a send that says nothing but whom to; None takes a field away."""
    return {
        "nothing else": {},
        "a text": {"subject": "state", "body": "**How** is the `build`?\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"},
        "every script": {"subject": "\N{SNOWMAN} 邮箱", "body": "\N{GRINNING FACE} مرحبا \u2028 \x7f \x85"},
        "all fields": {
            "priority": "urgent",
            "kind": "question",
            "labels": ["a", "b"],
            "hops": 7,
            "automatic": "notice",
            "visited": ["x@y"],
            "thread_id": "t-1",
            "parent_id": None,
            "forward_scope": None,
        },
        "a list of one": {"to_agent": [scene.tester["address"]]},
        "a list of two": {"to_agent": [scene.tester["address"], scene.coder["address"]]},
        "an empty list": {"to_agent": []},
        "an answer": {"action": "reply", "parent_id": scene.parent, "body": "yes"},
        "an answer to nothing": {"action": "reply"},
        "an answer to what there is not": {"action": "reply", "parent_id": "none"},
        "passed on": {"action": "forward", "parent_id": scene.parent, "forward_scope": "message", "body": "look"},
        "a thread of an answer": {"action": "reply", "parent_id": scene.parent, "thread_id": "t"},
        "nobody": {"to_agent": "nobody@ann.amp.localhost"},
        "somebody else's": {"to_agent": scene.stranger["address"]},
        "for another": {"agent_id": scene.stranger["id"]},
        "from another": {"from_agent": scene.stranger["address"]},
        "of nobody": {"agent_id": "none"},
        "a number in a text": {"hops": "3"},
        "a whole float": {"hops": 3.0},
        "a yes for a number": {"hops": True},
        "too many hops": {"hops": 1001},
        "fewer than none": {"hops": -1},
        "a long subject": {"subject": "x" * 998},
        "too long a subject": {"subject": "x" * 999},
        "a NUL": {"body": "a\0b"},
        "a lone half": {"body": "\ud83d"},
        "a picture": {"attachments": ["picture.png", {"url": "x", "n": [1, None, 2.5]}]},
        "no attachments": {"attachments": []},
        "labels on lines": {"labels": ["a\nb"]},
        "labels of others": {"labels": ["straße"]},
        "too many labels": {"labels": ["x"] * 21},
        "an odd thread": {"thread_id": "a\u202eb"},
        "a thread in a script": {"thread_id": "потік"},
        "an empty thread": {"thread_id": ""},
        "a thread that there is": {"thread_id": scene.thread},
        "an unknown action": {"action": "shout"},
        "an unknown priority": {"priority": "now"},
        "an unknown kind": {"kind": "sonnet"},
        "an unknown field": {"more": {"x": 1}},
        "a number for a body": {"body": 5},
        "nothing for a body": {"body": None},
        "no sender": {"from_agent": None},
        "an empty parent": {"parent_id": ""},
    }


def bodies(scene: Scene) -> dict[str, bytes]:
    least = {"agent_id": scene.coder["id"], "from_agent": scene.coder["address"], "to_agent": scene.tester["address"]}
    made: dict[str, bytes] = {}
    for name, fields in forms(scene).items():
        made[name] = json.dumps({**least, **fields}).encode()
    for name in ("every script", "a text"):
        made[f"{name}, not escaped"] = json.dumps({**least, **forms(scene)[name]}, ensure_ascii=False).encode()
    whole = made["a text"]
    return made | {
        "spaces around": b" \r\n\t" + whole + b"\n ",
        "a mark before": b"\xef\xbb\xbf" + whole,
        "twice the same name": whole[:-1] + b', "body": "the second"}',
        "no UTF-8": whole[:-1] + b', "kind": "\xff"}',
        "no UTF-8 in the body": whole.replace(b"build", b"\xc3\x28"),
        "no number": whole[:-1] + b', "hops": NaN}',
        "a number with a tail": whole[:-1] + b', "hops": 1e1}',
        "a comma too many": whole[:-1] + b",}",
        "cut off": whole[:-5],
        "more behind": whole + b"{}",
        "a list": b"[" + whole + b"]",
        "null": b"null",
        "empty": b"",
        "deep": whole[:-1] + b', "x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        "large": whole.replace(b"build", b"x" * LARGEST),
    }


class Way(Enum):
    """Who answers a send: the route (it comes in pieces, without its length); what is before the framework (it comes
    whole, and whose it is has to be looked up); the connection itself (that is known from just before).
    """

    ROUTE = auto()
    QUICK = auto()
    DIRECT = auto()


@contextmanager
def taken(scene: Scene) -> Iterator[list[bool]]:
    """What the connections were told when they asked for a direct answer."""
    told: list[bool] = []
    take = scene.desk.direct.take

    def noted(*asked: Any) -> bool:
        told.append(take(*asked))
        return told[-1]

    scene.desk.direct.take = noted  # type: ignore[method-assign, assignment]
    try:
        yield told
    finally:
        del scene.desk.direct.take


def asked(scene: Scene, raw: bytes, headers: dict[str, str], way: Way) -> tuple[int, list[Any], bytes]:
    """The answer, without what is new each time."""
    content: Any = iter([raw[:50], raw[50:]]) if way is Way.ROUTE else raw
    if way is Way.QUICK:
        scene.desk.app.state.directory.forget()
    elif way is Way.DIRECT:
        inbox = f"/messages/inbox/{scene.coder['address']}?agent_id={scene.coder['id']}&page=1"
        scene.desk.call("GET", inbox, headers=scene.ann.header)
    answer = scene.desk.http.post("/messages/send", content=content, headers=headers)
    named = [(name, value) for name, value in answer.headers.raw if name.lower() not in (b"date", b"x-request-id")]
    length = [(name, value if name.lower() != b"content-length" else b"") for name, value in named]
    return answer.status_code, length, _NEW.sub(rb'"\1\2":0', answer.content)


def same_each_way(scene: Scene, raw: bytes, header: dict[str, str], name: str) -> int:
    """The status."""
    answers = []
    for way in Way:
        with taken(scene) as direct:
            answers.append(asked(scene, raw, header, way))
        assert way is Way.DIRECT or True not in direct
    assert answers[0] == answers[1] == answers[2], name
    return answers[0][0]


def test_each_request_is_answered_the_same_each_way(scene: Scene) -> None:
    statuses = set()
    for name, raw in bodies(scene).items():
        statuses.add(same_each_way(scene, raw, {**scene.ann.header, "Content-Type": JSON}, name))
    assert statuses >= {200, 400, 403, 404, 422}


def test_what_is_whole_and_known_is_answered_directly_and_nothing_else(scene: Scene) -> None:
    header = {**scene.ann.header, "Content-Type": JSON, "X-Request-Id": "mine"}
    with taken(scene) as direct:
        asked(scene, bodies(scene)["nothing else"], {**header, "Idempotency-Key": "direct"}, Way.DIRECT)
        again = asked(scene, bodies(scene)["nothing else"], {**header, "Idempotency-Key": "direct"}, Way.DIRECT)
        refused = asked(scene, bodies(scene)["all fields"], {**header, "Idempotency-Key": "direct"}, Way.DIRECT)
        assert direct == [True, True, True]
        assert (b"idempotency-replayed", b"true") in [(name.lower(), value) for name, value in again[1]]
        assert refused[0] == 409
        for name in ("passed on", "a number in a text", "a NUL", "for another", "not there"):
            raw = bodies(scene).get(name, b"{}")
            asked(scene, raw, header, Way.DIRECT)
        for more in ({"Expect": "100-continue"}, {"Connection": "close"}, {"Content-Type": "application/x+json"}):
            asked(scene, bodies(scene)["nothing else"], {**header, **more}, Way.DIRECT)
        assert True not in direct[3:]


@pytest.mark.parametrize("way", Way)
def test_what_may_have_been_stored_is_not_stored_again_whichever_way(scene: Scene, way: Way) -> None:
    body = f"committed, and nobody was told: {way.name}"
    raw = json.dumps({**json.loads(bodies(scene)["nothing else"]), "body": body}).encode()
    stored = f"SELECT id FROM messages WHERE body = '{body}'"
    with lost_once("commit", committed=True, finding=stored), taken(scene) as direct:
        status, _, _ = asked(scene, raw, {**scene.ann.header, "Content-Type": JSON}, way)
    assert (True in direct) == (way is Way.DIRECT)
    assert (status, len(scene.desk.sql(stored))) == (503, 1)


@pytest.mark.parametrize(("name", "status"), [("a thread that there is", 403), ("an answer", 404)])
def test_a_key_of_one_agent_gets_into_no_thread_of_others_whichever_way(scene: Scene, name: str, status: int) -> None:
    own = scene.desk.own_agent(scene.ann, f"bound-{status}")
    bound = scene._replace(ann=scene.ann._replace(key=own["api_key_plaintext"]), coder=own)
    raw, header = bodies(bound)[name], {**bound.ann.header, "Content-Type": JSON}
    assert same_each_way(bound, raw, header, name) == status
    with taken(bound) as direct:
        asked(bound, raw, header, Way.DIRECT)
    assert direct == [True], "it was tried there"


def test_each_header_is_answered_the_same_each_way(scene: Scene) -> None:
    raw = bodies(scene)["a text"]
    key = {"Idempotency-Key": "once"}
    cases: dict[str, dict[str, str]] = {
        "no key of ours": {"X-API-Key": "amk_" + "0" * 64},
        "a text": {"Content-Type": "text/plain"},
        "no type": {"Content-Type": ""},
        "in an alphabet": {"Content-Type": "application/json; charset=utf-8"},
        "in capitals": {"Content-Type": "Application/JSON"},
        "of a kind of JSON": {"Content-Type": "application/merge-patch+json"},
        "an odd key": {"Idempotency-Key": "a\tb"},
        "too long a key": {"Idempotency-Key": "x" * 201},
        "a watcher that holds nothing": {"X-Agent-Mailer-Watcher": "w", "X-Agent-Mailer-Epoch": "1"},
        "no epoch": {"X-Agent-Mailer-Watcher": "w", "X-Agent-Mailer-Epoch": "one"},
        "for another host": {"Host": "elsewhere.example"},
    }
    for name, fields in cases.items():
        same_each_way(scene, raw, {**scene.ann.header, "Content-Type": JSON, **fields}, name)
    header = {**scene.ann.header, "Content-Type": JSON, **key}
    first = asked(scene, raw, header, Way.QUICK)
    again = [asked(scene, raw, header, way) for way in Way]
    assert again[0] == again[1] == again[2]
    assert (first[0], again[0][2]) == (200, first[2])
    assert (b"idempotency-replayed", b"true") in [(name.lower(), value) for name, value in again[0][1]]
    other = bodies(scene)["nothing else"]
    refused = [asked(scene, other, header, way) for way in Way]
    assert refused[0] == refused[1] == refused[2]
    assert refused[0][0] == 409


def test_only_what_will_be_a_200_is_answered_there_and_all_else_comes_on_as_it_came(tmp_path: Path) -> None:
    """And so the corpus above compares two ways."""
    left: list[bytes] = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        left.append((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 418, "headers": []})

    async def run() -> dict[str, int]:
        app = create_app(Settings(f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "up", "s" * 32))
        found: dict[str, int] = {}
        async with app.router.lifespan_context(app):
            raw_key = new_raw_key()

            def fill(connection: Any) -> None:
                moment = "2026-11-21T08:15:00.000000+00:00"
                user: dict[str, Any] = {
                    "id": "u",
                    "username": "ann",
                    "password_hash": "",
                    "is_superadmin": True,
                    "created_at": moment,
                }
                connection.execute(users.insert(), [{**user, "filter_tags": [], "token_version": 1}])
                agent: dict[str, Any] = {
                    "id": "a",
                    "name": "a",
                    "address": "a@x",
                    "role": "",
                    "description": "",
                    "system_prompt": "",
                }
                agent |= {"created_at": moment, "tags": [], "user_id": "u", "status": "active", "inbox_seq": 0}
                connection.execute(agents.insert(), [agent])
                add_key(connection, "u", "k", raw_key)

            await app.state.store.write(fill)
            quick = Quick(route)
            least = {"agent_id": "a", "from_agent": "a@x", "to_agent": "a@x"}
            for name, fields, query in (
                ("a send", {}, b""),
                ("a list", {"to_agent": ["a@x", "a@x"]}, b""),
                ("a query", {}, b"html=false"),
                ("an attachment", {"attachments": ["x"]}, b""),
                ("nobody", {"to_agent": "b@x"}, b""),
                ("another's", {"agent_id": "b"}, b""),
                ("unknown", {"x": 1}, b""),
                ("wrong", {"hops": "1"}, b""),
            ):
                raw = json.dumps({**least, **fields}).encode()
                said: list[Message] = []

                async def receive(raw: bytes = raw) -> Message:
                    return {"type": "http.request", "body": raw, "more_body": False}

                async def send(message: Message, said: list[Message] = said) -> None:
                    said.append(message)

                headers = [(b"x-api-key", raw_key.encode()), (b"content-type", b"application/json")]
                scope = {"type": "http", "method": "POST", "path": "/messages/send", "query_string": query, "app": app}
                scope["headers"] = [*headers, (b"content-length", b"%d" % len(raw))]
                before = len(left)
                await quick(scope, receive, send)
                found[name] = said[0]["status"]
                assert left[before:] == ([raw] if found[name] == 418 else [])
        return found

    found = asyncio.run(run())
    assert {name for name, status in found.items() if status == 200} == {"a send", "a list"}
    assert set(found.values()) == {200, 418}
