"""Several processes of a broker over one database of PostgreSQL: one address, whichever of them is asked."""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from tests.broker_process import Account, BrokerProcess, join, register
from tests.databases import AS_OF_0008, Postgres, postgres
from tests.desk import until
from tests.hook_desk import signed
from tests.integration.test_broker_streams import Listener
from tests.sizes import LONG

from agent_mailer.broker import leases
from agent_mailer.broker.leases import LOST_MS
from agent_mailer.broker.migrations.v0005_waiting import FILL
from agent_mailer.broker.migrations.v0009_totals import COUNTED
from agent_mailer.broker.peers import BEAT_SECONDS

pytestmark = LONG
SECRET = {"AGENT_MAILER_SECRET_KEY": "s" * 40}
AT_ONCE = 1.5
"""Seconds within which what is told must be there: well below the time after which a process looks by itself."""
assert AT_ONCE < BEAT_SECONDS


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


class Pair(NamedTuple):
    """Two processes, and a user with two agents."""

    url: str
    processes: list[BrokerProcess]
    ann: Account
    planner: dict[str, Any]
    coder: dict[str, Any]

    def client(self, number: int) -> httpx.Client:
        return httpx.Client(base_url=self.processes[number].url, trust_env=False, timeout=30, headers=self.ann.as_agent)

    def send(self, number: int, body: str = "b", **headers: str) -> Any:
        form = {"agent_id": self.planner["id"], "from_agent": self.planner["address"]}
        with self.client(number) as client:
            said = client.post(
                "/messages/send", json={**form, "to_agent": self.coder["address"], "body": body}, headers=headers
            )
        assert said.status_code == 200, said.text
        return said.json()

    def opened(self, stack: ExitStack, number: int, watcher: str = "", expected: int = 200) -> httpx.Response:
        """A stream of the coder's inbox at that process."""
        headers = {"X-Agent-Mailer-Watcher": watcher, "X-Agent-Mailer-Watcher-Name": watcher} if watcher else {}
        client = stack.enter_context(self.client(number))
        path = f"/messages/inbox/{self.coder['address']}/stream"
        response = stack.enter_context(
            client.stream("GET", path, params={"agent_id": self.coder["id"]}, headers=headers)
        )
        assert response.status_code == expected
        return response

    def claim(self, number: int, message: str, watcher: str) -> int:
        with self.client(number) as client:
            return client.post(f"/messages/{message}/claim", headers={"X-Agent-Mailer-Watcher": watcher}).status_code


@pytest.fixture
def pair(server: Postgres, tmp_path: Path) -> Iterator[Pair]:
    url = server.url(tmp_path)
    processes = [BrokerProcess(tmp_path / f"p{number}") for number in range(2)]
    try:
        # At once, on an empty database.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda process: process.start("--database", url, env=SECRET), processes))
        assert processes[0].invite == processes[1].invite
        ann = join(processes[0].url, "ann", processes[1].invite)
        yield Pair(url, processes, ann, *(register(processes[1].url, ann, name) for name in ("planner", "coder")))
    finally:
        for process in processes:
            process.end()


def test_mail_at_one_wakes_the_watcher_at_the_other(pair: Pair) -> None:
    with ExitStack() as stack:
        listener = Listener(pair.opened(stack, 1, "w"))
        assert listener.next().name == "hello"
        for _ in range(3):
            begun = time.monotonic()
            pair.send(0)
            assert (listener.next().name, time.monotonic() - begun < AT_ONCE) == ("mail", True)


def test_a_link_acts_once_whichever_process_is_asked_and_wakes_the_watcher_at_the_other(pair: Pair) -> None:
    for _ in range(5):
        token = secrets.token_urlsafe(32)
        digest = hashlib.sha256(token.encode()).hexdigest()
        form = {"agent_id": pair.coder["id"], "token_sha256": digest, "seconds": 60, "act": "Bash: git push"}
        with pair.client(0) as client:
            assert client.post("/approvals/links", json=form).status_code == 200
        with ExitStack() as stack:
            listener = Listener(pair.opened(stack, 1, "w"))
            listener.next()

            def act(number: int) -> int:
                url = f"{pair.processes[number % 2].url}/approve/{token}"  # noqa: B023
                return httpx.post(url, data={"answer": "allow"}, trust_env=False).status_code

            with ThreadPoolExecutor(8) as pool:
                said = list(pool.map(act, range(8)))
            assert sorted(said) == [200, *[404] * 7]
            # What waited before is told of, too.
            assert listener.next().name == "mail"
    path = f"/messages/inbox/{pair.coder['address']}"
    with pair.client(1) as client:
        bodies = [one["body"] for one in client.get(path, params={"agent_id": pair.coder["id"]}).json()]
    assert len(bodies) == len(set(bodies)) == 5


def test_one_delivery_that_comes_at_both_at_once_is_one_mail(pair: Pair) -> None:
    form = {"name": "ci", "to": pair.coder["address"]}
    with pair.client(0) as client:
        made = client.post("/admin/hooks", json=form, headers=pair.ann.as_person).json()

    def deliver(number: int, name: str, said: dict[str, str]) -> Any:
        body = json.dumps(said).encode()
        headers = signed(made["secret"], body) | {"Idempotency-Key": name}
        url = f"{pair.processes[number % 2].url}{made['hook']['path']}"
        answer = httpx.post(url, content=body, headers=headers, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(8) as pool:
        for n in range(5):
            same = list(pool.map(lambda at: deliver(at, f"same-{n}", {"title": f"one {n}"}), range(8)))  # noqa: B023
            assert [one["replayed"] for one in same].count(False) == 1
            assert len({one["messageIds"][0] for one in same}) == 1
        alarm = {"title": "alarm", "dedupeKey": "db"}
        counts = [one["occurrenceCount"] for one in pool.map(lambda at: deliver(at, f"alarm-{at}", alarm), range(16))]
    assert sorted(counts) == list(range(1, 17)), "each is counted once, whichever process has it"
    with pair.client(1) as client:
        path = f"/messages/inbox/{pair.coder['address']}"
        subjects = [one["subject"] for one in client.get(path, params={"agent_id": pair.coder["id"]}).json()]
    assert sorted(subjects) == ["alarm", *(f"one {n}" for n in range(5))]


def test_a_token_of_one_counts_at_the_other_until_it_is_logged_out(pair: Pair) -> None:
    login = pair.ann.as_person
    with pair.client(1) as client:
        assert client.get("/users/me", headers=login).status_code == 200
        assert httpx.post(f"{pair.processes[0].url}/users/logout", headers=login).status_code < 300
        until(lambda: client.get("/users/me", headers=login).status_code == 401, "its end at the other process")


def test_guesses_at_one_count_at_the_other(pair: Pair) -> None:
    def attempt(number: int, password: str) -> int:
        form = {"username": "nobody-here", "password": password}
        return httpx.post(f"{pair.processes[number].url}/users/login", json=form, trust_env=False).status_code

    statuses = [attempt(number % 2, f"wrong password {number}") for number in range(14)]
    assert statuses == [401] * 10 + [429] * 4


def test_what_one_user_takes_at_both_at_once_is_counted_together(server: Postgres, tmp_path: Path) -> None:
    """No more gets through than may."""
    processes = [BrokerProcess(tmp_path / f"p{number}") for number in range(2)]
    options = ("--database", server.url(tmp_path), "--messages-per-day", "20", "--file-bytes", "2000")
    try:
        for process in processes:
            process.start(*options, env=SECRET)
        ann = join(processes[0].url, "ann", processes[0].invite)
        agents = [register(processes[0].url, ann, f"a{number}") for number in range(4)]
        picture = b"\x89PNG\r\n\x1a\n" + b"x" * 92

        def use(number: int) -> list[tuple[int, int]]:
            agent = agents[number % 4]
            form = {"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": agent["address"], "body": "b"}
            url = processes[number % 2].url
            with httpx.Client(base_url=url, headers=ann.as_agent, trust_env=False, timeout=60) as client:
                return [
                    (
                        client.post("/messages/send", json=form).status_code,
                        client.post("/files/upload", files={"file": ("a.png", picture)}).status_code,
                    )
                    for _ in range(6)
                ]

        with ThreadPoolExecutor(8) as pool:
            sent, stored = zip(*(pair for each in pool.map(use, range(8)) for pair in each), strict=True)
        assert set(sent) == {200, 429}
        assert sent.count(200) in (20, 40), "as many again after midnight"
        assert (set(stored), stored.count(200)) == ({200, 413}, 20)
    finally:
        for process in processes:
            process.end()


def test_a_second_watcher_is_refused_at_every_process(pair: Pair) -> None:
    with ExitStack() as stack:
        # Read here and not in a thread, so that the socket is closed when it is left.
        lines = pair.opened(stack, 0, "w1").iter_lines()
        assert next(lines) == "event: hello"
        refused = pair.opened(stack, 1, "w2", expected=409)
        assert b"watched by w1" in refused.read()
        message = pair.send(1)["id"]
        assert pair.claim(1, message, "w2") == 409
        assert pair.claim(1, message, "w1") == 200
    # Whoever ends gives it back, also to the other process.
    with ExitStack() as stack:
        until(lambda: may_watch(pair, stack), "the agent's release")


def may_watch(pair: Pair, stack: ExitStack) -> bool:
    client = stack.enter_context(pair.client(1))
    path = f"/messages/inbox/{pair.coder['address']}/stream"
    request = client.build_request(
        "GET", path, params={"agent_id": pair.coder["id"]}, headers={"X-Agent-Mailer-Watcher": "w2"}
    )
    response = client.send(request, stream=True)
    stack.callback(response.close)
    return response.status_code == 200


def test_what_is_said_late_of_an_old_lease_ends_no_newer_one(pair: Pair, server: Postgres, tmp_path: Path) -> None:
    """A process whose word was carried out, but that did not hear so, says it again."""
    agent, lease = pair.coder["id"], leases.Lease("w", "w", "now")
    engine = create_engine(server.url(tmp_path))
    with engine.begin() as connection:
        process = connection.execute(text("SELECT id FROM processes")).scalars().first() or ""
        epochs: list[int] = []
        for _ in range(3):
            held = leases.take(connection, agent, lease, process)
            assert isinstance(held, leases.Held)
            for epoch in epochs:
                leases.give_back(connection, process, [(agent, epoch)])
                assert leases.holder(connection, agent) == lease, "it is held by the newer one"
            epochs.append(held.epoch)
            leases.give_back(connection, process, [(agent, held.epoch)])
            assert leases.holder(connection, agent) is None
            assert leases.held_by(connection, process) == {}
        assert epochs == sorted(set(epochs))
        other = leases.take(connection, agent, leases.Lease("other", "other", "now"), process)
        assert isinstance(other, leases.Held), "nobody holds it"
    engine.dispose()


def test_the_same_watcher_takes_over_from_another_process(pair: Pair) -> None:
    with ExitStack() as stack:
        old = Listener(pair.opened(stack, 0, "w"))
        assert old.next().name == "hello"
        new = Listener(pair.opened(stack, 1, "w"))
        assert new.next().name == "hello"
        assert old.next(AT_ONCE).name == "replaced"
        assert old.over.wait(20)
        pair.send(0)
        assert new.next().name == "mail"
        # The end of the old one took nothing of the new one.
        pair.opened(stack, 0, "other", expected=409)


def test_the_agents_of_a_killed_process_are_free_after_a_while(pair: Pair) -> None:
    with ExitStack() as stack:
        assert Listener(pair.opened(stack, 0, "w1")).next().name == "hello"
        pair.processes[0].kill()
        pair.opened(stack, 1, "w2", expected=409)
        until(lambda: may_watch(pair, stack), "the end of what a dead process held", LOST_MS / 1000 + 10)


def test_a_process_that_stood_still_has_lost_its_agents(pair: Pair) -> None:
    with ExitStack() as stack:
        held = Listener(pair.opened(stack, 0, "w1"))
        assert held.next().name == "hello"
        message = pair.send(1)["id"]
        assert held.next().name == "mail"
        os.kill(pair.processes[0].pid, signal.SIGSTOP)
        try:
            until(lambda: may_watch(pair, stack), "the end of what it held", LOST_MS / 1000 + 10)
        finally:
            os.kill(pair.processes[0].pid, signal.SIGCONT)
        assert pair.claim(0, message, "w1") == 409
        assert held.over.wait(20), "it notices, and ends the stream"
        assert pair.claim(0, message, "w2") == 200


def test_mail_that_is_sent_and_settled_at_both_makes_nobody_give_way(pair: Pair, server: Postgres) -> None:
    """Everybody locks in one order. Who gives way waits a second before, and so does whoever is in the same batch."""
    everybody = [pair.planner, pair.coder, *(register(pair.processes[0].url, pair.ann, f"a{n}") for n in range(4))]
    held = {agent["id"]: 0 for agent in everybody}
    deadlocks = f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{pair.url.rpartition('/')[2]}'"

    def hold(number: int, agent: dict[str, Any]) -> None:
        """Takes it over from whoever holds it."""
        path, query = f"/messages/inbox/{agent['address']}/stream", {"agent_id": agent["id"]}
        with (
            pair.client(number) as client,
            client.stream("GET", path, params=query, headers={"X-Agent-Mailer-Watcher": "w"}) as response,
        ):
            held[agent["id"]] = Listener(response).next(60).data["epoch"]

    def take_over() -> None:
        for number in range(30):
            hold(number % 2, everybody[number % len(everybody)])

    def use(number: int) -> None:
        lot = random.Random(number)
        with pair.client(number % 2) as client:
            for _ in range(15):
                sender, reader = lot.choice(everybody), lot.choice(everybody)
                form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": reader["address"]}
                said = client.post(
                    "/messages/send",
                    json={**form, "body": "b", "thread_id": f"t{lot.randrange(4)}"},
                    headers={"X-Agent-Mailer-Epoch": str(held[sender["id"]])},
                )
                assert said.status_code in (200, 409), said.text
                query = {"agent_id": reader["id"], "heads": "true", "limit": 4}
                for message in client.get(f"/messages/inbox/{reader['address']}", params=query).json()["messages"]:
                    path = f"/messages/{message['id']}"
                    shown = {"X-Agent-Mailer-Watcher": f"w{number}", "X-Agent-Mailer-Epoch": str(held[reader["id"]])}
                    claimed = client.post(f"{path}/claim", headers=shown)
                    assert claimed.status_code in (200, 409)
                    client.patch(f"{path}/{lot.choice(('read', 'read', 'unread'))}").raise_for_status()

    for agent in everybody:
        hold(0, agent)
    with ThreadPoolExecutor(17) as pool:
        taking_over = pool.submit(take_over)
        list(pool.map(use, range(16)))
        taking_over.result()
    engine = create_engine(pair.url)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT id, inbox_total, inbox_unread FROM agents ORDER BY id")).all()
        assert kept == connection.execute(text(f"{COUNTED} ORDER BY a.id")).all()
        waiting = connection.execute(text("SELECT * FROM waiting_threads ORDER BY agent_id, thread_id")).all()
        follows = connection.execute(text(FILL[FILL.index("SELECT") :])).all()
        assert sorted(map(tuple, waiting)) == sorted(map(tuple, follows))
    engine.dispose()
    for process in pair.processes:
        process.stop()  # a server counts what a connection has met at its end, at the latest
    assert server.administer(deadlocks) == [(0,)]


def test_the_epoch_of_a_hold_counts_at_every_process(pair: Pair) -> None:
    message = pair.send(0)["id"]

    form = {"agent_id": pair.coder["id"], "from_agent": pair.coder["address"], "to_agent": pair.planner["address"]}
    acts: dict[str, dict[str, Any]] = {
        f"/messages/{message}/claim": {},
        f"/messages/{message}/receipts": {"stage": "settled", "turn_id": "t", "final": True},
        "/messages/send": {**form, "body": "b"},
    }

    def act(number: int, epoch: int, path: str) -> tuple[int, str]:
        headers = {"X-Agent-Mailer-Watcher": "w", "X-Agent-Mailer-Epoch": str(epoch), "Idempotency-Key": "turn"}
        with pair.client(number) as client:
            said = client.post(path, headers=headers, json=acts[path])
        return said.status_code, said.json().get("reason", "")

    with ExitStack() as stack:
        epochs = []
        for number in range(2):
            listener = Listener(pair.opened(stack, number, "w"))
            event = listener.next()
            assert event.name == "hello"
            epochs.append(event.data["epoch"])
        for path in acts:
            assert [act(number, epochs[0], path) for number in range(2)] == [(409, "stale")] * 2
        assert [act(0, epochs[1], path)[0] for path in acts] == [200, 201, 200]


def test_where_a_process_leaves_in_order_epochs_go_on(pair: Pair) -> None:
    """Else whoever held the agent there could act by the number of whoever holds it now."""
    form = {"agent_id": pair.coder["id"], "from_agent": pair.coder["address"], "to_agent": pair.planner["address"]}
    with ExitStack() as stack:
        hello = Listener(pair.opened(stack, 0, "w")).next()
        assert pair.processes[0].stop() == 0
        epochs = [hello.data["epoch"], Listener(pair.opened(stack, 1, "other")).next().data["epoch"]]
        with pair.client(1) as client:
            said = [
                client.post("/messages/send", json=form, headers={"X-Agent-Mailer-Epoch": str(epoch)})
                for epoch in epochs
            ]
    assert [one.status_code for one in said] == [409, 200]
    assert said[0].json()["reason"] == "stale"


def test_nobody_takes_over_in_the_middle_of_what_an_earlier_hold_does(pair: Pair) -> None:
    """What was let through is stored before the next hold begins."""
    agent, lease = pair.coder["id"], leases.Lease("w", "w", "now")
    engine = create_engine(pair.url)
    with engine.begin() as connection:
        first = leases.take(connection, agent, lease, "gone")
    with engine.connect() as earlier, engine.connect() as later:
        assert isinstance(first, leases.Held)
        assert leases.epochs(earlier, [agent]) == {agent: first.epoch}
        later.execute(text("SET lock_timeout = '200ms'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            leases.take(later, agent, lease, "gone")
        later.rollback()
        earlier.commit()
        second = leases.take(later, agent, lease, "gone")
        assert isinstance(second, leases.Held)
        assert second.epoch == first.epoch + 1
        later.commit()
    engine.dispose()


def test_the_tables_are_not_changed_under_older_processes(pair: Pair, tmp_path: Path) -> None:
    def make(*statements: str) -> None:
        engine = create_engine(pair.url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    newer = BrokerProcess(tmp_path / "newer")
    make("UPDATE alembic_version SET version_num = '0008'")
    with pytest.raises(AssertionError, match="stop all of them"):
        newer.start("--database", pair.url, env=SECRET)
    for process in pair.processes:
        assert process.stop() == 0
    make(*AS_OF_0008)
    newer.start("--database", pair.url, env=SECRET)
    newer.end()


def test_another_secret_is_refused_while_a_process_serves(pair: Pair, tmp_path: Path) -> None:
    other = BrokerProcess(tmp_path / "other")
    with pytest.raises(AssertionError, match="another AGENT_MAILER_SECRET_KEY"):
        other.start("--database", pair.url, env={"AGENT_MAILER_SECRET_KEY": "t" * 40})
    assert other.process is not None
    assert other.process.wait(20) == 78
    # To change it all of them are stopped first: what they leave behind keeps nobody from it.
    for process in pair.processes:
        assert process.stop() == 0
    other.start("--database", pair.url, env={"AGENT_MAILER_SECRET_KEY": "t" * 40})
    other.end()


def test_a_wake_up_that_is_not_told_comes_all_the_same(pair: Pair) -> None:
    with ExitStack() as stack:
        listener = Listener(pair.opened(stack, 1, "w"))
        assert listener.next().name == "hello"
        # Past the broker, so that nobody is told: as by a process that ended just after its commit.
        engine = create_engine(pair.url)
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE agents SET inbox_seq = inbox_seq + 1 WHERE id = :id"), {"id": pair.coder["id"]}
            )
        engine.dispose()
        assert listener.next(BEAT_SECONDS * 2 + 5).name == "mail"


def test_streams_live_on_while_the_database_is_away(pair: Pair, server: Postgres) -> None:
    with ExitStack() as stack:
        listener = Listener(pair.opened(stack, 1, "w"))
        assert listener.next().name == "hello"
        server.stop()
        server.start()
        pair.send(0)
        assert listener.next(10).name == "mail", "within 10 seconds of its return"
        # And by being told again, not only by looking.
        told = []
        for _ in range(6):
            begun = time.monotonic()
            pair.send(0)
            assert listener.next().name == "mail"
            told.append(time.monotonic() - begun)
        assert min(told) < AT_ONCE
