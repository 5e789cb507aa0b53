"""kill -9 of the broker in the middle of sends: whoever was answered finds the message there, once, in its order."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sqlite3
import uuid
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests.broker_process import Account, BrokerProcess, join, register
from tests.desk import until
from tests.proved import Harness, proved
from tests.sizes import sizes

SENDERS = 4
SEED = int(os.environ.get("KILL_LOOP_SEED", "20261121"))
PAGE = 50


class Accepted(NamedTuple):
    key: str
    sender: str
    id: str


@pytest.mark.parametrize("rounds", sizes(quick=2, long=10, soak=100))
def test_a_killed_broker_loses_no_accepted_message_and_delivers_none_twice(tmp_path: Path, rounds: int) -> None:
    broker = BrokerProcess(tmp_path / "data")
    try:
        broker.start()
        ann = join(broker.url, "ann", broker.invite)
        reader = register(broker.url, ann, "reader")
        senders = [register(broker.url, ann, f"sender{n}") for n in range(SENDERS)]
        accepted, followed = asyncio.run(_storm(broker, ann, reader, senders, rounds))
        listed = _inbox(broker.url, ann, reader)
    finally:
        broker.end()
    assert len(accepted) > rounds, "something was accepted between the kills"
    ids = sorted(one.id for one in accepted)
    assert len(set(ids)) == len(ids), "no two sends share a message"
    assert sorted(message["id"] for message in listed) == ids, "every accepted message is there exactly once"
    assert sorted(message["body"] for message in listed) == sorted(one.key for one in accepted)
    assert [cursor for cursor, _ in followed] == list(range(1, len(ids) + 1)), "no gap, no step back for a follower"
    assert [message_id for _, message_id in followed] == [message["id"] for message in listed]
    for one in accepted:
        assert one.id == str(uuid.uuid5(uuid.UUID(one.sender), f"0:{one.key}"))
    with sqlite3.connect(tmp_path / "data" / "broker.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    proved(Harness.BROKER, kills=rounds, messages=len(accepted))


async def _storm(
    broker: BrokerProcess, account: Account, reader: dict[str, Any], senders: list[dict[str, Any]], rounds: int
) -> tuple[list[Accepted], list[tuple[int, str]]]:
    """Senders that retry under the same key until they are answered, a follower, and a killer."""
    over = asyncio.Event()
    accepted: list[Accepted] = []
    async with httpx.AsyncClient(base_url=broker.url, headers=account.as_agent, trust_env=False, timeout=10) as client:
        writing = asyncio.gather(*(_send_on(client, sender, reader["address"], accepted, over) for sender in senders))
        following = asyncio.create_task(_follow(client, reader, accepted, writing))
        chance = random.Random(SEED)
        for _ in range(rounds):
            before = len(accepted)
            moved_on = partial(_moved_on, accepted, before, writing)
            await asyncio.to_thread(until, moved_on, "an accepted message")
            await asyncio.sleep(chance.uniform(0.0, 0.4))  # the kill is to fall anywhere
            broker.kill()
            await asyncio.to_thread(broker.start)
        over.set()
        await writing
        return accepted, await following


def _moved_on(accepted: list[Accepted], before: int, writing: asyncio.Future[list[None]]) -> bool:
    return len(accepted) > before or writing.done()


async def _send_on(
    client: httpx.AsyncClient, sender: dict[str, Any], to: str, accepted: list[Accepted], over: asyncio.Event
) -> None:
    for n in itertools.count():
        if over.is_set():
            return
        key = f"{sender['name']}-{n}"
        body = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": to, "body": key}
        answer = await _until_answered(client, "POST", "/messages/send", json=body, headers={"Idempotency-Key": key})
        accepted.append(Accepted(key, sender["id"], answer["id"]))


async def _follow(
    client: httpx.AsyncClient, reader: dict[str, Any], accepted: list[Accepted], writing: asyncio.Future[list[None]]
) -> list[tuple[int, str]]:
    """Read by cursor while it rains, until everything that was accepted has been given."""
    found: list[tuple[int, str]] = []
    cursor = 0
    while not writing.done() or len(found) < len(accepted):
        asked = {"agent_id": reader["id"], "after": cursor, "limit": PAGE, "all": True, "bodies": False}
        page = await _until_answered(client, "GET", f"/messages/inbox/{reader['address']}", params=asked)
        found += [(message["cursor"], message["id"]) for message in page["messages"]]
        assert page["cursor"] >= cursor
        cursor = page["cursor"]
        await asyncio.sleep(0.01)
    return found


async def _until_answered(client: httpx.AsyncClient, method: str, path: str, **request: Any) -> Any:
    while True:
        try:
            answer = await client.request(method, path, **request)
        except httpx.TransportError:
            await asyncio.sleep(0.02)
            continue
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            return answer.json()
        await asyncio.sleep(0.02)


def _inbox(url: str, account: Account, reader: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx.Client(base_url=url, headers=account.as_agent, trust_env=False, timeout=60) as client:
        asked = {"agent_id": reader["id"], "after": 0, "limit": 1000, "all": True}
        found: list[dict[str, Any]] = []
        more = True
        while more:
            page = client.get(f"/messages/inbox/{reader['address']}", params=asked).raise_for_status().json()
            found += page["messages"]
            asked["after"], more = page["cursor"], page["more"]
        return found
