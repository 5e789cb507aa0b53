"""What one client may take of a broker, so that there is some for the others."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.desk import until
from tests.sizes import LONG

from agent_mailer.broker.connections import RESERVE
from agent_mailer.broker.data import Quota

pytestmark = pytest.mark.usefixtures("each_database")


class Listeners:
    """Streams of one person's agents, each with a watcher of its own."""

    def __init__(self, desk: BrokerDesk, person: Person, stack: ExitStack) -> None:
        self.desk = desk
        self.person = person
        self.stack = stack
        self.count = 0

    def open(self, header: dict[str, str] | None = None, agent: dict[str, Any] | None = None) -> httpx.Response:
        self.count += 1
        agent = agent or self.desk.agent(self.person, f"a{self.count}-{self.person.name}")
        headers = {**(header or self.person.header), "X-Agent-Mailer-Watcher": f"w-{agent['id']}"}
        path = f"/messages/inbox/{agent['address']}/stream"
        return self.stack.enter_context(
            self.desk.http.stream("GET", path, params={"agent_id": agent["id"]}, headers=headers)
        )


def test_a_key_has_so_many_streams(tmp_path: Path) -> None:
    with running_broker(tmp_path, streams_per_key=2) as desk, ExitStack() as stack:
        alice, bob = desk.person("alice"), desk.person("bob")
        own = Listeners(desk, alice, stack)
        agent = desk.agent(alice, "first")
        first = own.open(agent=agent)
        assert [first.status_code, own.open().status_code] == [200, 200]
        refused = own.open()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        assert "2 streams" in refused.read().decode()
        assert Listeners(desk, bob, stack).open().status_code == 200, "another key's"
        # The same watcher once more takes the place of its own.
        again = own.open(agent=agent)
        assert again.status_code == 200
        assert own.open().status_code == 429
        again.close()
        until(lambda: own.open().status_code == 200, "room for another")


def test_a_host_has_so_many_streams(tmp_path: Path) -> None:
    with running_broker(tmp_path, streams_per_host=2) as desk, ExitStack() as stack:
        statuses = [Listeners(desk, desk.person(name), stack).open().status_code for name in ("ann", "bea", "cal")]
        assert statuses == [200, 200, 429]


@pytest.fixture
def raw() -> Iterator[Any]:
    with ExitStack() as stack:

        def connect(desk: BrokerDesk, said: bytes = b"") -> socket.socket:
            _, _, port = desk.url.rpartition(":")
            made = stack.enter_context(socket.create_connection(("127.0.0.1", int(port)), timeout=20))
            made.sendall(said)
            return made

        yield connect


HALVES = {
    "nothing": b"",
    "half a head": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    "half a body": b"POST /users/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{",
    "a whole one, and half": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /he",
}


@LONG
def test_half_a_request_does_not_hold_its_connection(tmp_path: Path, raw: Any) -> None:
    with running_broker(tmp_path, request_seconds=1.0) as desk, ExitStack() as stack:
        listener = Listeners(desk, desk.person("alice"), stack)
        stream = listener.open()
        opened = [raw(desk, said) for said in HALVES.values()]
        ends = []
        for one in opened:
            got = b""
            while some := one.recv(65_536):
                got += some
            ends.append(got[:15])
        assert ends == [b"", b"", b"", b"HTTP/1.1 200 OK"]
        # Who has said all there is to say is not hurried.
        desk.send(listener.person, agent := desk.agent(listener.person, "x"), agent["address"])
        lines = stream.iter_lines()
        assert next(lines) == "event: hello"
        assert desk.call("GET", "/health") == {"status": "ok"}


def test_where_there_is_no_room_health_answers_still(tmp_path: Path, raw: Any) -> None:
    with running_broker(tmp_path, room=4) as desk:
        desk.call("GET", "/health")
        # Nor can those fill the rest who are told so.
        idle = [raw(desk) for _ in range(3 + 2 * RESERVE)]
        for path, status in (("/health", 200), ("/ready", 200), ("/users/registration-config", 503)):
            with httpx.Client(base_url=desk.url, trust_env=False) as stranger:
                answer = stranger.get(path)
                assert (answer.status_code, answer.headers["connection"]) == (status, "close")
                assert ("retry-after" in answer.headers) == (status == 503)
        assert desk.call("GET", "/users/registration-config"), "who was there before"
        for one in idle:
            one.close()

        def has_room() -> bool:
            with httpx.Client(base_url=desk.url, trust_env=False) as stranger:
                return stranger.get("/users/registration-config").status_code == 200

        until(has_room, "room")


def test_who_it_is_comes_before_a_large_body(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk:
        alice = desk.person("alice")
        agent = desk.agent(alice, "a")
        form = {"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": agent["address"]}
        large = {**form, "body": "x" * 200_000}
        desk.call("POST", "/messages/send", 200, json=large, headers=alice.header)
        for headers in ({}, {"X-API-Key": "amk_no"}, {"Authorization": "Bearer no"}):
            for path in ("/messages/send", "/users/api-keys", "/agents/register", "/admin/messages/send"):
                desk.call("POST", path, 401, json=large, headers=headers)
            desk.call("POST", "/files/upload", 401, files={"file": b"x" * 200_000}, headers=headers)

        def pieces() -> Iterator[bytes]:
            yield b'{"body": "'
            yield b"x" * 200_000
            yield b'"}'

        kind = {"Content-Type": "application/json"}
        desk.call("POST", "/messages/send", 401, content=pieces(), headers=kind)
        desk.call("POST", "/users/login", 413, json={"username": "x" * 100_000, "password": "p"})
        desk.call("POST", "/users/login", 413, content=pieces(), headers=kind)


def test_a_body_counts_by_what_it_says_however_a_client_writes_it(tmp_path: Path) -> None:
    with running_broker(tmp_path, max_body_bytes=200_000) as desk:
        alice = desk.person("alice")
        agent = desk.agent(alice, "a")
        headers = {**alice.header, "Content-Type": "application/json"}
        # A new line is two bytes for one, a letter of most alphabets six for two, an escape of a terminal six for one.
        for sign in ("\n", '"', "\N{CYRILLIC SMALL LETTER ZHE}", "\N{CJK UNIFIED IDEOGRAPH-4E2D}", "\x1b"):
            longest = sign * (200_000 // len(sign.encode()))
            for body, status in ((longest, 200), (longest + sign, 413)):
                content = json.dumps({**form_of(agent), "body": body}, ensure_ascii=True)
                said = desk.call("POST", "/messages/send", status, content=content, headers=headers)
                assert status == 413 or said["body"] == longest


def test_a_user_sends_so_much_in_a_day(tmp_path: Path) -> None:
    with running_broker(tmp_path, quota=Quota(messages_per_day=5, bytes_per_day=100, file_bytes=250)) as desk:
        alice, bob = desk.person("alice"), desk.person("bob")
        agent, other = desk.agent(alice, "a"), desk.agent(bob, "b")

        def send(expected: int, person: Person = alice, sender: dict[str, Any] = agent, **fields: Any) -> Any:
            form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": sender["address"], **fields}
            headers = {**person.header, **fields.pop("headers", {})}
            form.pop("headers", None)
            return desk.call("POST", "/messages/send", expected, json=form, headers=headers)

        once = {"Idempotency-Key": "k"}
        first = send(200, body="x" * 40, headers=once)
        send(200, to_agent=[agent["address"]] * 2, body="x" * 10)
        said = send(429, body="x" * 41)
        assert (said["reason"], "100 bytes" in said["detail"]) == ("quota", True)
        send(200)
        said = send(429, to_agent=[agent["address"]] * 2)
        assert "5 messages" in said["detail"]
        send(200)
        answer = desk.http.post("/messages/send", json=form_of(agent), headers=alice.header)
        assert (answer.status_code, 0 < int(answer.headers["retry-after"]) <= 86_400) == (429, True)
        assert send(200, body="x" * 40, headers=once)["id"] == first["id"], "the stored answer costs nothing"
        send(200, bob, other)
        told = desk.call("GET", "/users/me/usage", headers=alice.login)
        assert (told["messages"], told["bytes"], told["file_bytes"]) == (5, 60, 0)
        # The next day.
        desk.sql("UPDATE usage SET day = '2020-01-01'")
        send(200)
        assert desk.sql("SELECT count(*) FROM usage WHERE day = '2020-01-01'") == [(1,)], "bob's"
        cursors = [one["cursor"] for one in desk.call("GET", inbox_of(agent), headers=alice.header)]
        assert cursors == [1, 2, 3, 4, 5, 6], "what was refused left no gap"
        # Files are counted for ever.
        picture = b"\x89PNG\r\n\x1a\n" + b"x" * 92
        for person, status in ((alice, 200), (alice, 200), (alice, 413), (bob, 200)):
            desk.call("POST", "/files/upload", status, files={"file": picture}, headers=person.header)
        assert desk.call("GET", "/users/me/usage", headers=alice.login)["file_bytes"] == 200
        kept = [path for path in desk.settings.uploads.rglob("*") if path.is_file()]
        assert len(kept) == 3, "what was refused is not kept"


def form_of(agent: dict[str, Any]) -> dict[str, Any]:
    return {"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": agent["address"]}


def inbox_of(agent: dict[str, Any]) -> str:
    return f"/messages/inbox/{agent['address']}?agent_id={agent['id']}"
