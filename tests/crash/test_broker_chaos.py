"""Three processes of a broker over one PostgreSQL server, under sends and watchers, while parts of it break."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from tests.broker_process import BrokerProcess, join, register
from tests.crash.broker_history import Claim, History, Sent, Settled, faults
from tests.databases import Postgres, postgres
from tests.desk import until
from tests.sizes import LONG, SOAK

SECRET = {"AGENT_MAILER_SECRET_KEY": "s" * 40}
SENDERS = 4
WATCHERS = ("w1", "w2")
BACK_WITHIN = 10.0
"""Seconds from the return of what was away to an answer."""
AGAIN = 0.02
SIZES = [pytest.param(1_200, id="long", marks=LONG), pytest.param(10_000, id="soak", marks=SOAK)]

Transport = Callable[[], httpx.BaseTransport]


class Place:
    """The broker, its clients, and what they write down. `transport`: what lies between the clients and the broker."""

    def __init__(self, server: Postgres, base: Path, transport: Transport = httpx.HTTPTransport) -> None:
        self.server, self.url = server, server.url(base)
        self.processes = [BrokerProcess(base / f"p{number}") for number in range(3)]
        self.history = History()
        self.killing = False
        """Whether connections may be cut: that they are where no process dies is no answer."""
        self.over = threading.Event()
        self._transport = transport
        self._turn = count()

    def open(self) -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self.start, self.processes))
        url = self.processes[0].url
        ann = join(url, "ann", self.processes[0].invite)
        self.headers = ann.as_agent
        self.coder, *self.senders = (
            register(url, ann, name) for name in ("coder", *(f"sender{number}" for number in range(SENDERS)))
        )

    def start(self, process: BrokerProcess) -> None:
        process.start("--database", self.url, env=SECRET)

    def end(self) -> None:
        self.over.set()
        for process in self.processes:
            process.end()

    def client(self) -> httpx.Client:
        return httpx.Client(headers=self.headers, timeout=60, transport=self._transport())

    def ask(self, client: httpx.Client, method: str, path: str, ends: Sequence[int], **what: Any) -> httpx.Response:
        """The first answer that says more than that it cannot be had now; each try goes to the next process."""
        while True:
            try:
                said = client.request(method, f"{self.processes[next(self._turn) % 3].url}{path}", **what)
            except httpx.TransportError as error:
                if not self.killing:
                    self.history.note(f"{type(error).__name__} at {path}")
            else:
                if said.status_code in ends:
                    return said
                if said.status_code != 503 or "retry-after" not in said.headers:
                    self.history.note(f"{said.status_code} at {path}: {said.text[:200]}")
                    raise AssertionError(said.text)
            self.over.wait(AGAIN)

    def send(self, agent: dict[str, Any], orders: range) -> None:
        with self.client() as client:
            for number in orders:
                key = f"{agent['name']}-{number}"
                form = {"agent_id": agent["id"], "from_agent": agent["address"], "body": key}
                form["to_agent"] = self.coder["address"]
                begun = time.monotonic()
                said = self.ask(
                    client, "POST", "/messages/send?html=false", (200,), json=form, headers={"Idempotency-Key": key}
                )
                self.history.note(Sent(agent["name"], number, key, said.json()["id"], begun, time.monotonic()))

    def watch(self, watcher: str) -> None:
        """Take what is there, a few at a time, until everything has been sent and nothing is left."""
        with self.client() as client:
            while True:
                was_over = self.over.is_set()
                found = self.listed(client, after=0, limit=20, claimed=False)
                if not found and was_over:
                    return
                # Not in one order, so that both ask for the same.
                for one in random.Random(len(found)).sample(found, len(found)):
                    self._take(client, watcher, one)
                if not found:
                    self.over.wait(AGAIN)

    def _take(self, client: httpx.Client, watcher: str, one: str) -> None:
        headers = {"X-Agent-Mailer-Watcher": watcher}
        begun = time.monotonic()
        if self.ask(client, "POST", f"/messages/{one}/claim", (200, 409), headers=headers).status_code == 409:
            return
        claimed = time.monotonic()
        self.history.note(Claim(watcher, one, begun, claimed))
        told = {"stage": "settled", "turn_id": f"t-{one}", "outcome": "done", "final": True}
        self.ask(client, "POST", f"/messages/{one}/receipts", (200, 201), headers=headers, json=told)
        self.history.note(Settled(watcher, one, claimed, time.monotonic()))

    def listed(self, client: httpx.Client, **query: Any) -> list[str]:
        params = {"agent_id": self.coder["id"], "bodies": False, **query}
        said = self.ask(client, "GET", f"/messages/inbox/{self.coder['address']}", (200,), params=params)
        return [message["id"] for message in said.json()["messages"]]

    def inbox(self) -> list[str]:
        """All that was ever there, in its order."""
        found: list[str] = []
        with self.client() as client:
            params: dict[str, Any] = {"agent_id": self.coder["id"], "all": True, "bodies": False, "limit": 1000}
            cursor, more = 0, True
            while more:
                path = f"/messages/inbox/{self.coder['address']}"
                page = self.ask(client, "GET", path, (200,), params={**params, "after": cursor}).json()
                found += [message["id"] for message in page["messages"]]
                cursor, more = page["cursor"], page["more"]
        return found

    def back(self) -> None:
        """Every process answers again, in time."""
        with self.client() as client:
            for process in self.processes:
                ready = f"{process.url}/ready"

                def answers(ready: str = ready) -> bool:
                    try:
                        return client.get(ready).status_code == 200
                    except httpx.TransportError:
                        return False

                until(answers, "an answer", BACK_WITHIN)

    def run(self, sends: int, breaking: Callable[[Place, Callable[[float], None]], None]) -> list[str]:
        """`breaking` is told by its second argument how to wait until a share of all has been accepted."""

        def reached(share: float) -> None:
            until(lambda: len(self.history.sent) >= share * sends or failed(), "sends", 600)

        def failed() -> bool:
            return any(future.done() and future.exception() for future in working)

        each = range(sends // SENDERS)
        with ThreadPoolExecutor(SENDERS + len(WATCHERS)) as pool:
            working = [pool.submit(self.send, agent, each) for agent in self.senders]
            watching = [pool.submit(self.watch, watcher) for watcher in WATCHERS]
            try:
                breaking(self, reached)
                self.back()
                for future in working:
                    future.result(900)
            finally:
                self.over.set()
            for future in watching:
                future.result(300)
        return faults(self.history, self.inbox())


@pytest.fixture
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def place(server: Postgres, tmp_path: Path) -> Iterator[Place]:
    place = Place(server, tmp_path)
    try:
        place.open()
        yield place
    finally:
        place.end()


Reached = Callable[[float], None]


def a_killed_process(place: Place, reached: Reached) -> None:
    place.killing = True
    reached(0.2)
    place.processes[0].kill()
    reached(0.7)
    place.start(place.processes[0])


def killed_again_and_again(place: Place, reached: Reached) -> None:
    place.killing = True
    for number, process in enumerate((*place.processes, *place.processes)):
        reached(0.1 + number * 0.13)
        process.kill()
        place.start(process)


def a_database_that_is_started_again(place: Place, reached: Reached) -> None:
    for share, how in ((0.2, signal.SIGINT), (0.6, signal.SIGQUIT)):
        reached(share)
        place.server.stop(how)
        place.server.start()
        place.back()


def ended_backends(place: Place, reached: Reached) -> None:
    for number in range(10):
        reached(0.05 + number * 0.09)
        place.server.administer(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'of_%'"  # of the broker's
        )


def an_exhausted_pool(place: Place, reached: Reached) -> None:
    """Somebody holds the table for longer than anybody waits for a connection, and as many ask as have no place."""
    reached(0.2)
    address = place.url.replace("+psycopg", "")
    crowd = threading.Event()

    def ask() -> int:
        with place.client() as client:
            path = f"/messages/inbox/{place.coder['address']}"
            params = {"agent_id": place.coder["id"], "after": 0, "bodies": False, "limit": 1}
            place.ask(client, "GET", path, (200,), params=params)
            crowd.set()
        return 200

    with ThreadPoolExecutor(64) as pool:
        with psycopg.connect(address) as connection:
            connection.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            asked = [pool.submit(ask) for _ in range(64)]
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            until(lambda: place.server.administer(waiting)[0][0] >= 3, "those who wait for the table")
            assert not crowd.wait(8), "the table is held"
            connection.rollback()
        assert [one.result(BACK_WITHIN + 60) for one in asked] == [200] * 64


CASES = {
    breaking.__name__: breaking
    for breaking in (
        a_killed_process,
        killed_again_and_again,
        a_database_that_is_started_again,
        ended_backends,
        an_exhausted_pool,
    )
}


@pytest.mark.parametrize("sends", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_every_message_is_there_once_in_order_and_in_one_hand(place: Place, case: str, sends: int) -> None:
    assert place.run(sends, CASES[case]) == []


class Lying(httpx.BaseTransport):
    """What a broker with that fault would answer: it passes everything on but what it spoils."""

    def __init__(self) -> None:
        self._honest = httpx.HTTPTransport()

    def close(self) -> None:
        self._honest.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        said = self._honest.handle_request(request)
        said.read()
        return self.spoilt(request, said)

    def spoilt(self, request: httpx.Request, said: httpx.Response) -> httpx.Response:
        raise NotImplementedError


class GivesTwice(Lying):
    """Whoever claims gets it."""

    def spoilt(self, request: httpx.Request, said: httpx.Response) -> httpx.Response:
        if said.status_code == 409 and request.url.path.endswith("/claim"):
            return httpx.Response(200, json={})
        return said


class Loses(Lying):
    """A message that it has accepted is in no listing."""

    def spoilt(self, request: httpx.Request, said: httpx.Response) -> httpx.Response:
        if "/inbox/" in request.url.path and said.status_code == 200:
            page = said.json()
            page["messages"] = [one for one in page["messages"] if one["cursor"] != 7]
            return httpx.Response(200, json=page)
        return said


class Reorders(Lying):
    """Two messages lie the wrong way round."""

    def spoilt(self, request: httpx.Request, said: httpx.Response) -> httpx.Response:
        if "all=true" in str(request.url) and said.status_code == 200:
            page = said.json()
            found = page["messages"]
            found[5], found[-5] = found[-5], found[5]
            return httpx.Response(200, json=page)
        return said


class SaysWhatItMayNot(Lying):
    """Something breaks, and it says so as a fault of its own."""

    def spoilt(self, request: httpx.Request, said: httpx.Response) -> httpx.Response:
        if request.headers.get("idempotency-key", "").endswith("-9"):
            return httpx.Response(500, text="Internal Server Error")
        return said


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        pytest.param(GivesTwice, "was claimed by w", id="a double claim"),
        pytest.param(Loses, "and is lost", id="a lost message"),
        pytest.param(Reorders, "and lies before it", id="another order"),
        pytest.param(SaysWhatItMayNot, "a client saw 500", id="an answer that nobody may see"),
    ],
)
@LONG
def test_the_history_tells_a_broker_that_is_wrong(
    server: Postgres, tmp_path: Path, fault: Transport, found: str
) -> None:
    place = Place(server, tmp_path, fault)
    try:
        place.open()
        try:
            told = place.run(200, lambda place, reached: reached(1))
        except AssertionError:
            told = faults(place.history, [])
    finally:
        place.end()
    assert any(found in one for one in told), told[:5]
