"""Arrivals as server-sent events: nothing is missed, and an agent has one watcher."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from httpx_sse import EventSource
from sqlalchemy import Engine, event, insert, select, update
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.types import Message
from tests.broker_desk import BrokerDesk, running_broker
from tests.databases import ON_A_FILE
from tests.desk import until
from tests.sizes import LONG

from agent_mailer.broker import listening, streams
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import Directory
from agent_mailer.broker.listening import Stream
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.peers import Peers
from agent_mailer.broker.streams import Streams
from agent_mailer.broker.watch_tables import leases

pytestmark = pytest.mark.usefixtures("each_database")

HEARTBEAT = 0.3


class Event(NamedTuple):
    name: str
    id: str
    data: Any


class Listener:
    """An open stream, read in a thread of its own."""

    def __init__(self, response: httpx.Response) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.over = threading.Event()
        self.epoch: int | None = None
        self._response = response
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for event in EventSource(self._response).iter_sse():
                if event.data:  # the blank line after a heartbeat is an event to this library
                    self.events.put(Event(event.event, event.id, json.loads(event.data)))
        except (httpx.HTTPError, httpx.StreamError):
            pass
        finally:
            self.over.set()

    def next(self, patience: float = 20) -> Event:
        return self.events.get(timeout=patience)

    def hello(self) -> int:
        name, number, data = self.next()
        self.epoch = data.pop("epoch", None)
        assert (name, data) == ("hello", {"cursor": int(number), "heartbeat_seconds": HEARTBEAT})
        return int(number)

    def mail(self) -> int:
        name, number, data = self.next()
        assert (name, data) == ("mail", {"cursor": int(number)})
        return int(number)


class Room:
    def __init__(self, desk: BrokerDesk) -> None:
        self.desk = desk
        self.alice = desk.person("alice")
        self.sender = desk.agent(self.alice, "sender")
        self._serial = 0

    def agent(self) -> dict[str, Any]:
        self._serial += 1
        return self.desk.agent(self.alice, f"agent-{self._serial}")

    def send(self, agent: dict[str, Any]) -> int:
        cursor: int = self.desk.send(self.alice, self.sender, agent["address"])["cursor"]
        return cursor

    def open(self, client: httpx.Client, agent: dict[str, Any], key: str = "", **headers: str) -> httpx.Response:
        """The answer to a request for a stream, whatever it is."""
        names = {"last": "Last-Event-ID", "watcher": "X-Agent-Mailer-Watcher", "name": "X-Agent-Mailer-Watcher-Name"}
        request = client.build_request(
            "GET",
            f"{self.desk.url}/messages/inbox/{agent['address']}/stream",
            params={"agent_id": agent["id"]},
            headers={b"X-API-Key": (key or self.alice.key).encode()}
            | {names[n].encode(): v.encode() for n, v in headers.items()},
        )
        return client.send(request, stream=True)

    @contextmanager
    def listening(self, agent: dict[str, Any], key: str = "", **headers: str) -> Iterator[Listener]:
        with httpx.Client(trust_env=False, timeout=30) as client:
            response = self.open(client, agent, key, **headers)
            try:
                assert response.status_code == 200, response.read()
                assert response.headers["content-type"].startswith("text/event-stream")
                yield Listener(response)
            finally:
                response.close()

    def refused(self, agent: dict[str, Any], key: str = "", **headers: str) -> tuple[int, Any]:
        with httpx.Client(trust_env=False, timeout=30) as client:
            response = self.open(client, agent, key, **headers)
            response.read()
            return response.status_code, response.json()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Room]:
    with running_broker(tmp_path_factory.mktemp("broker"), heartbeat_seconds=HEARTBEAT) as desk:
        yield Room(desk)


def test_hello_and_then_each_arrival(room: Room) -> None:
    agent = room.agent()
    with room.listening(agent) as listener:
        assert listener.hello() == 0
        for expected in (1, 2, 3):
            assert room.send(agent) == expected
            assert listener.mail() == expected
        room.send(room.agent())
        room.send(agent)
        assert listener.mail() == 4, "nothing is told of other inboxes"


def test_what_waits_is_told_at_once(room: Room) -> None:
    agent = room.agent()
    for _ in range(3):
        room.send(agent)
    with room.listening(agent) as listener:
        assert (listener.hello(), listener.mail()) == (3, 3)
    with room.listening(agent, last="2") as listener:
        assert (listener.hello(), listener.mail()) == (3, 3)
    with room.listening(agent, last="3") as listener:
        assert listener.hello() == 3
        assert room.send(agent) == 4
        assert listener.mail() == 4, "nothing before it"
    for odd in ("x", "-1", "9" * 30, ""):
        with room.listening(agent, last=odd) as listener:
            assert (listener.hello(), listener.mail()) == (4, 4)


@LONG
def test_an_open_stream_keeps_nothing_of_its_request(room: Room) -> None:
    """There are thousands of them; what looked at the request is ten times as large as what goes on."""
    with room.listening(room.agent()) as listener:
        listener.hello()
        gc.collect()
        assert [one for one in gc.get_objects() if isinstance(one, Request)] == []


def test_a_client_that_takes_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "SEND_SECONDS", 0.05)

    async def play(stuck_at: int) -> list[Stream]:
        never = asyncio.Event()
        sent: list[Message] = []
        ended: list[Stream] = []

        class Keeper:
            def end(self, stream: Stream) -> None:
                ended.append(stream)

        async def receive() -> Message:
            await never.wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) > stuck_at:
                await never.wait()

        stream = Stream("agent", "key", "host", None)
        await asyncio.wait_for(listening.Events(Keeper(), stream, 3, 3, 0.01).go_on(receive, send), 10)
        assert len(sent) == stuck_at + 1
        return ended

    # At the head, the first event, a heartbeat.
    for stuck_at in range(4):
        assert len(asyncio.run(play(stuck_at))) == 1


def test_what_arrives_while_something_is_told_is_told_next() -> None:
    told: list[bytes] = []

    class Keeper:
        def end(self, stream: Stream) -> None:
            assert stream.over

    async def play() -> None:
        never = asyncio.Event()
        stream = Stream("agent", "key", "host", None)

        async def receive() -> Message:
            await never.wait()
            raise AssertionError

        async def send(message: Message) -> None:
            told.append(message.get("body", b""))
            if b"mail" in told[-1]:
                (stream.arrived if stream.newest == 1 else lambda _: stream.end())(2)

        stream.arrived(1)
        # Long before the next heartbeat.
        await asyncio.wait_for(listening.Events(Keeper(), stream, 0, 0, 60.0).go_on(receive, send), 10)

    asyncio.run(play())
    assert [one for one in told if b"mail" in one] == [
        b'event: mail\nid: %d\ndata: {"cursor":%d}\n\n' % (n, n) for n in (1, 2)
    ]


def test_read_mail_is_no_news_and_unread_again_is(room: Room) -> None:
    agent = room.agent()
    sent = room.desk.send(room.alice, room.sender, agent["address"])
    room.desk.call("PATCH", f"/messages/{sent['id']}/read", headers=room.alice.header)
    with room.listening(agent) as listener:
        assert listener.hello() == 1
        room.desk.call("PATCH", f"/messages/{sent['id']}/unread", headers=room.alice.header)
        assert listener.mail() == 2


def test_the_operator_wakes_them_too(room: Room) -> None:
    agent = room.agent()
    with room.listening(agent) as listener:
        listener.hello()
        room.desk.call("POST", "/admin/messages/send", json={"to_agent": agent["address"]}, headers=room.alice.login)
        assert listener.mail() == 1


def test_nothing_between_hello_and_the_first_wait_is_lost(room: Room) -> None:
    agent = room.agent()
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            room.send(agent)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(10):
            with room.listening(agent) as listener:
                newest = listener.hello()
                while listener.mail() <= newest:
                    pass
    finally:
        over.set()
        sender.join()
    newest = room.desk.call(
        "GET",
        f"/messages/inbox/{agent['address']}",
        params={"agent_id": agent["id"], "after": 0, "limit": 1000, "bodies": False},
        headers=room.alice.header,
    )["cursor"]
    with room.listening(agent, last=str(newest - 1)) as listener:
        assert (listener.hello(), listener.mail()) == (newest, newest)


def test_a_heartbeat_keeps_the_agent_online(room: Room) -> None:
    agent = room.agent()
    with httpx.Client(trust_env=False, timeout=30) as client:
        response = room.open(client, agent)
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")), "a comment"
        shown = room.desk.call("GET", f"/agents/{agent['id']}", headers=room.alice.header)
        assert shown["status"] == "online"
        response.close()


def test_whose_hold_was_followed_by_another_claims_settles_and_sends_nothing(room: Room) -> None:
    """Also where that was by the same watcher, as of a copied workdir, and also when that is over."""
    agent = room.agent()
    sent = room.desk.send(room.alice, room.sender, agent["address"])

    def claim(epoch: str, expected: int, watcher: str = "one") -> Any:
        headers = {**room.alice.header, "X-Agent-Mailer-Watcher": watcher, "X-Agent-Mailer-Epoch": epoch}
        return room.desk.call("POST", f"/messages/{sent['id']}/claim", expected, headers=headers)

    def settle(epoch: str, expected: int) -> Any:
        headers = {**room.alice.header, "X-Agent-Mailer-Epoch": epoch}
        receipt = {"stage": "settled", "turn_id": "t", "final": True}
        return room.desk.call("POST", f"/messages/{sent['id']}/receipts", expected, json=receipt, headers=headers)

    def answer(epoch: str, expected: int, key: str = "turn") -> Any:
        headers = {**room.alice.header, "X-Agent-Mailer-Epoch": epoch, "Idempotency-Key": key}
        form = {"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": room.sender["address"]}
        return room.desk.call("POST", "/messages/send", expected, json={**form, "body": key}, headers=headers)

    with room.listening(agent) as listener:
        listener.hello()
        assert listener.epoch is None, "who only listens holds nothing"
    with room.listening(agent, watcher="one") as first, room.listening(agent, watcher="one") as second:
        first.hello()
        second.hello()
        assert first.over.wait(20)
        assert claim(str(first.epoch), 409)["reason"] == "stale"
        assert claim(str(second.epoch), 409, "two")["reason"] == "watched"
        assert settle(str(first.epoch), 409)["reason"] == "stale"
        assert answer(str(first.epoch), 409)["reason"] == "stale"
        stored = answer(str(second.epoch), 200)["id"]
        assert answer(str(first.epoch), 200)["id"] == stored, "what is stored already is told to whoever asks again"
    assert second.over.wait(20)
    until(lambda: claim("0", 409)["reason"] == "stale", "the end of the hold")
    assert claim(str(first.epoch), 409)["reason"] == "stale"
    for odd in ("", "-1", "x", "1.5", "9" * 19):
        claim(odd, 422)
        settle(odd, 422)
        answer(odd, 422)
    shown = room.desk.call("GET", f"/messages/{sent['id']}", headers=room.alice.header)
    assert (shown["is_read"], shown["claimed_at"]) == (False, None), "nothing of it was done"
    assert claim(str(second.epoch), 200)["claimed"] == "now", "nobody has held it since"
    settle(str(second.epoch), 201)
    answer(str(second.epoch), 200, "another turn")


@LONG
@ON_A_FILE
def test_a_hold_that_cannot_be_noted_is_none(room: Room) -> None:
    agent = room.agent()
    with closing(sqlite3.connect(room.desk.database)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, _ = room.refused(agent, watcher="one")
        assert status == 503
    with room.listening(agent, watcher="two") as listener:
        listener.hello()


@ON_A_FILE
def test_a_hold_of_before_a_start_of_the_broker_is_none_of_those_after_it(room: Room) -> None:
    agent = room.agent()
    with room.listening(agent, watcher="one") as before:
        before.hello()

    async def hold_anew() -> Stream:
        store = Store(room.desk.settings.database)
        await store.open()
        started = Streams(store, Directory(store), room.desk.settings, None)
        try:
            stream = started.begin(agent["id"], agent["address"], "key", "host", "two", "two")
            await started.hold(stream, agent["address"])
        finally:
            await store.close()
        return stream

    after = asyncio.run(hold_anew()).epoch
    assert before.epoch is not None
    assert after is not None
    assert after > before.epoch, "or a later one would be the same"


def test_a_second_watcher_is_told_who_holds_the_agent(room: Room) -> None:
    agent = room.agent()
    with room.listening(agent, watcher="one", name="host a, pid 7") as first:
        first.hello()
        status, said = room.refused(agent, watcher="two")
        assert status == 409
        since = said["watcher"]["since"]
        assert said["detail"] == f"{agent['address']} is watched by host a, pid 7 since {since}"
        assert said["watcher"]["name"] == "host a, pid 7"
        with room.listening(agent) as silent:
            silent.hello()
            room.send(agent)
            assert (first.mail(), silent.mail()) == (1, 1), "who only listens needs no leave"
    until(lambda: not room.desk.app.state.streams.lease(agent["id"]), "the release")
    with room.listening(agent, watcher="two") as second:
        assert (second.hello(), second.mail()) == (1, 1)


def test_the_same_watcher_takes_over(room: Room) -> None:
    agent = room.agent()
    with room.listening(agent, watcher="one", name="früher") as first:
        first.hello()
        with room.listening(agent, watcher="one", name="später") as second:
            second.hello()
            name, _, said = first.next()
            assert (name, said["name"]) == ("replaced", "später"), "the earlier stream is told"
            assert first.over.wait(20), "and ends"
            room.send(agent)
            assert second.mail() == 1
            assert room.refused(agent, watcher="two")[1]["watcher"]["name"] == "später"


def test_what_is_refused(room: Room) -> None:
    agent = room.agent()
    assert room.refused({**agent, "id": "x"}) == (404, {"detail": "Agent 'x' not found"})
    assert room.refused({**agent, "address": room.sender["address"]})[0] == 403
    assert room.refused(agent, key="amk_0") == (401, {"detail": "Invalid API key"})
    bound = room.desk.own_agent(room.alice, "bound-one")
    assert room.refused(agent, key=bound["api_key_plaintext"])[0] == 403
    assert room.refused(agent, watcher="x" * 129)[0] == 422
    assert room.refused(agent, watcher="")[0] == 422
    assert room.refused(agent, watcher="x", name="n" * 201)[0] == 422
    until(lambda: not room.desk.app.state.streams.lease(agent["id"]), "no refusal holds the agent")


@contextmanager
def without(room: Room, table: str) -> Iterator[None]:
    """Whatever asks for that table fails meanwhile."""
    room.desk.sql(f"ALTER TABLE {table} RENAME TO away")
    try:
        yield
    finally:
        room.desk.sql(f"ALTER TABLE away RENAME TO {table}")


def seen(room: Room, agent: dict[str, Any]) -> str:
    """The moment of the last look at the streams: their agents count as seen then."""
    moment: str = room.desk.app.state.directory.last_seen(agent["id"], None)
    return moment


def test_a_stream_that_cannot_say_what_is_new_holds_nobody(room: Room) -> None:
    agent = room.agent()
    with without(room, "messages"):
        status, _ = room.refused(agent, watcher="one")
        assert status == 503
    with room.listening(agent, watcher="two") as listener:
        listener.hello()


def test_what_arrives_while_it_is_asked_what_is_new_is_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, news = room.agent(), inbox.news

    async def and_then(store: Store, agent_id: str, after: int) -> tuple[int, int]:
        found = await news(store, agent_id, after)
        room.desk.app.state.streams.wake([(agent_id, 7)])
        return found

    monkeypatch.setattr(inbox, "news", and_then)
    with room.listening(agent) as listener:
        assert (listener.hello(), listener.mail()) == (0, 7)


def test_a_revoked_key_ends_its_streams(room: Room) -> None:
    agent = room.agent()
    bob = room.desk.call("POST", "/users/api-keys", 201, json={"name": "short"}, headers=room.alice.login)
    with room.listening(agent) as kept, room.listening(agent, key=bob["raw_key"], watcher="w") as ended:
        assert (kept.hello(), ended.hello()) == (0, 0)
        with without(room, "api_keys"):
            # A look at the keys that fails is not the last one.
            for _ in range(2):
                before = seen(room, agent)
                until(lambda before=before: seen(room, agent) != before, "the next look")  # type: ignore[misc]
        room.desk.call("POST", f"/users/api-keys/{bob['id']}/deactivate", headers=room.alice.login)
        assert ended.over.wait(20)
        room.send(agent)
        assert kept.mail() == 1
    assert room.desk.app.state.streams.lease(agent["id"]) is None


def test_a_deleted_agent_is_listened_for_and_held_no_more(room: Room) -> None:
    agent, other = room.agent(), room.agent()
    with room.listening(other) as kept, room.listening(agent, watcher="w") as ended:
        assert (kept.hello(), ended.hello()) == (0, 0)
        room.desk.call("DELETE", f"/users/me/agents/{agent['id']}", headers=room.alice.login)
        assert ended.over.wait(20), "though its key is good for others"
        room.send(other)
        assert kept.mail() == 1
    assert room.desk.app.state.streams.lease(agent["id"]) is None


def test_a_gone_client_frees_the_agent(room: Room) -> None:
    agent = room.agent()
    streams = room.desk.app.state.streams
    for _ in range(5):
        with room.listening(agent, watcher="w") as listener:
            listener.hello()
            assert streams.lease(agent["id"])
        until(lambda: streams.lease(agent["id"]) is None, "the release")


class Several(NamedTuple):
    """One of several processes that serve a database: rows in it say who holds an agent."""

    store: Store
    process_id: str
    streams: Streams

    def begun(self, agent_id: str) -> Stream:
        """A stream that holds the agent, by that row."""
        stream = self.streams.begin(agent_id, "", "key", "host", "w", "w")
        stream.epoch = 1
        return stream

    async def held(self) -> set[str]:
        of_ours = select(leases.c.agent_id).where(leases.c.process_id == self.process_id)
        return await self.store.read(lambda c: set(c.execute(of_ours).scalars()))


def with_several(room: Room, agents: Sequence[str], play: Callable[[Several], Awaitable[None]]) -> None:
    """All these agents are held at it, by the rows."""

    async def run() -> None:
        store = Store(room.desk.settings.database)
        await store.open()
        peers = Peers(room.desk.settings.database, room.desk.settings.secret)
        ours = Streams(store, Directory(store), room.desk.settings, peers)
        await ours.open()
        row = {"process_id": peers.id, "epoch": 1, "watcher": "w", "name": "w", "since": ""}
        await store.write(lambda c: c.execute(insert(leases), [{"agent_id": one, **row} for one in agents]))
        try:
            await play(Several(store, peers.id, ours))
        finally:
            await ours.close()
            await peers.close()
            await store.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_could_not_be_given_back_is_given_back_with_the_next(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEYS_EVERY", 0.01)
    agents = [room.agent()["id"] for _ in range(2)]
    failed: list[str] = []

    def fail_once(_connection: object, _cursor: object, statement: str, values: object, *_rest: object) -> None:
        if statement.startswith("UPDATE leases") and agents[0] in str(values) and not failed:
            failed.append(statement)
            raise OperationalError(statement, None, sqlite3.OperationalError("disk I/O error"))

    async def play(several: Several) -> None:
        several.streams.end(several.begun(agents[0]))
        while not failed:
            await several.held()
        several.streams.end(several.begun(agents[1]))
        while agents[1] in await several.held():
            pass
        assert await several.held() == set()

    event.listen(Engine, "before_cursor_execute", fail_once)
    try:
        with_several(room, agents, play)
    finally:
        event.remove(Engine, "before_cursor_execute", fail_once)


def test_a_late_end_leaves_the_newer_hold_at_the_same_process(room: Room) -> None:
    anew, ended = agents = [room.agent()["id"] for _ in range(2)]
    is_newer = update(leases).where(leases.c.agent_id == anew).values(epoch=2)

    async def play(several: Several) -> None:
        late = several.begun(anew)
        await several.store.write(lambda c: c.execute(is_newer))
        several.streams.end(late)
        several.streams.end(several.begun(ended))
        while ended in await several.held():
            pass
        assert await several.held() == {anew}

    with_several(room, agents, play)


def test_an_agent_that_no_stream_holds_is_given_back_at_the_next_look(room: Room) -> None:
    """A commit whose answer was lost has taken it, and the stream for which it did was refused."""
    lost, held, asking = agents = [room.agent()["id"] for _ in range(3)]

    async def play(several: Several) -> None:
        several.begun(held)
        several.begun(asking).epoch = None
        await several.streams.look()
        assert several.streams.lease(held)
        while lost in await several.held():
            pass
        assert await several.held() == {held, asking}, "one whose stream is being begun, too"

    with_several(room, agents, play)


@LONG
def test_streams_do_not_keep_a_broker_from_its_end(tmp_path: Path) -> None:
    with running_broker(tmp_path, heartbeat_seconds=HEARTBEAT) as desk:
        room = Room(desk)
        agent = room.agent()
        client = httpx.Client(trust_env=False, timeout=30)
        listener = Listener(room.open(client, agent, watcher="w"))
        listener.hello()
    assert listener.over.wait(20)
    client.close()
