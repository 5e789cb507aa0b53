"""Clients of one inbox at several processes of a broker, at once: who sends, who claims and settles; all is noted."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
from tests.broker_process import Account
from tests.crash.history import Act, Kind, Stored, Told

UNCLEAR = (httpx.TransportError,)


class Clients:
    """`urls`: of the processes; each request goes to one by lot."""

    def __init__(self, urls: Sequence[str], account: Account, reader: dict[str, Any], seed: int) -> None:
        self.acts: list[Act] = []
        self.statuses: set[int] = set()
        self.answered_at = time.monotonic()
        """When somebody was answered with 200 last."""
        self._chance = random.Random(seed)
        self._reader = reader
        limits = httpx.Limits(max_connections=100)
        self._lines = [
            httpx.AsyncClient(base_url=url, headers=account.as_agent, trust_env=False, timeout=30, limits=limits)
            for url in urls
        ]

    async def close(self) -> None:
        for line in self._lines:
            await line.aclose()

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The answer; None where it is not known what became of the request."""
        try:
            answer = await self._chance.choice(self._lines).request(method, path, **request)
        except UNCLEAR:
            await asyncio.sleep(0.02)
            return None
        self.statuses.add(answer.status_code)
        if answer.status_code == 503:
            await asyncio.sleep(0.05)
            return None
        if answer.status_code == 200:
            self.answered_at = time.monotonic()
        return answer

    async def send(self, sender: dict[str, Any], count: int) -> None:
        """So many messages, each under one key until it is answered."""
        for number in range(count):
            key = f"{sender['name']}-{number}"
            form = {"agent_id": sender["id"], "from_agent": sender["address"], "to_agent": self._reader["address"]}
            thread = f"t{self._chance.randrange(20)}"
            began = time.monotonic()
            while True:
                answer = await self._ask(
                    "POST",
                    "/messages/send",
                    json={**form, "body": key, "thread_id": thread},
                    headers={"Idempotency-Key": key},
                )
                if answer is not None:
                    break
            self._note(sender["name"], Kind.SEND, key, began, answer)

    async def work(self, name: str, over: asyncio.Event) -> None:
        """Claim some of what comes next, and settle what was given."""
        headers = {"X-Agent-Mailer-Watcher": name}
        inbox = f"/messages/inbox/{self._reader['address']}"
        query = {"agent_id": self._reader["id"], "heads": "true", "limit": 8}
        while not over.is_set():
            listed = await self._ask("GET", inbox, params=query)
            messages = [] if listed is None else listed.json()["messages"]
            if not messages:
                await asyncio.sleep(0.02)
            for message in self._chance.sample(messages, min(3, len(messages))):
                began = time.monotonic()
                claimed = await self._ask("POST", f"/messages/{message['id']}/claim", headers=headers, json={})
                self._note(name, Kind.CLAIM, message["id"], began, claimed)
                if claimed is not None and claimed.status_code == 200:
                    await self._settle(name, message["id"])

    async def _settle(self, name: str, message_id: str) -> None:
        receipt = {"stage": "settled", "turn_id": f"{name}-{message_id}", "outcome": "done", "final": True}
        began = time.monotonic()
        answer = None
        while answer is None:
            answer = await self._ask("POST", f"/messages/{message_id}/receipts", json=receipt)
        self._note(name, Kind.SETTLE, message_id, began, answer)

    def _note(self, client: str, kind: Kind, what: str, began: float, answer: httpx.Response | None) -> None:
        if answer is None:
            told = Told.UNKNOWN
        else:
            assert answer.status_code in (200, 201, 409), answer.text
            told = Told.NO if answer.status_code == 409 else Told.YES
        self.acts.append(Act(client, kind, what, began, time.monotonic(), told))

    async def stored(self) -> list[Stored]:
        """The whole inbox, in its order."""
        found: list[Stored] = []
        after, more = 0, True
        while more:
            query = {"agent_id": self._reader["id"], "after": after, "limit": 1000, "all": "true", "html": "false"}
            answer = await self._ask("GET", f"/messages/inbox/{self._reader['address']}", params=query)
            if answer is None:
                continue
            page = answer.raise_for_status().json()
            found += [Stored(message["id"], message["body"], message["cursor"]) for message in page["messages"]]
            after, more = page["cursor"], page["more"]
        return found
