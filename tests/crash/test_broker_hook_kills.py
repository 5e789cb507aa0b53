"""kill -9 of the broker while hooks are called, channels talk and memories grow: what was answered is there, once."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tests.broker_process import BrokerProcess, join, register
from tests.desk import until
from tests.hook_desk import signed
from tests.sizes import LONG

pytestmark = LONG
CALLERS, ROUNDS, SEED = 3, 2, 20261128


class Storm:
    """Callers that send each thing again under its id until they are answered; `answered`: by kind, what each was."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.over = False
        self.answered: dict[str, list[Any]] = {"hook": [], "memory": [], "channel": []}

    def until_answered(self, call: Callable[[], httpx.Response]) -> Any:
        while True:
            try:
                answer = call()
            except httpx.TransportError:
                time.sleep(0.05)  # it is being started again
                continue
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                return answer.json()

    def go_on(self, kind: str, call: Callable[[int], httpx.Response]) -> None:
        for n in itertools.count():
            if self.over:
                return
            self.answered[kind].append(self.until_answered(lambda: call(n)))  # noqa: B023 - called at once


def test_a_killed_broker_loses_nothing_that_it_answered_and_has_no_delivery_twice(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path / "data")
    chance = random.Random(SEED)
    try:
        broker.start()
        ann = join(broker.url, "ann", broker.invite)
        coder, planner = (register(broker.url, ann, name) for name in ("coder", "planner"))
        client = httpx.Client(base_url=broker.url, trust_env=False, timeout=10)
        person, key = ann.as_person, ann.as_agent
        form = {"name": "monitor", "to": coder["address"]}
        made = client.post("/admin/hooks", json=form, headers=person).json()
        team = client.post("/admin/teams", json={"name": "t"}, headers=person).json()["id"]
        token = client.post("/channels", json={"agent_id": coder["id"]}, headers=key).json()["join_token"]
        client.post(f"/channels/{token}/join", json={"agent_id": planner["id"]}, headers=key).raise_for_status()

        def deliver(name: str, n: int) -> httpx.Response:
            # Every third is of one thing, which is told once and counted.
            said = {"title": f"{name}-{n}"} if n % 3 else {"title": "alarm", "dedupeKey": f"alarm {name}"}
            body = json.dumps(said | {"body": str(n)}).encode()
            headers = signed(made["secret"], body) | {"Idempotency-Key": f"{name}-{n}"}
            return client.post(made["hook"]["path"], content=body, headers=headers)

        def remember(n: int) -> httpx.Response:
            said = {"title": "notes", "content": f"<{n}>"}
            return client.post(f"/admin/teams/{team}/memories/upsert", json=said, headers=person)

        def talk(n: int) -> httpx.Response:
            said = {"agent_id": (coder, planner)[n % 2]["id"], "body": str(n)}
            answer = client.post(f"/channels/{token}/messages", json=said, headers=key)
            if answer.status_code == 409:  # ten turns are over: a person lets them go on
                client.post(f"/admin/channels/{token}/continue", json={"extend_turns": 100}, headers=person)
                return httpx.Response(503, request=answer.request)
            return answer

        storm = Storm(broker)
        with ThreadPoolExecutor(CALLERS + 2) as pool:
            running: list[Future[None]] = [
                *(pool.submit(storm.go_on, "hook", partial(deliver, f"c{at}")) for at in range(CALLERS)),
                pool.submit(storm.go_on, "memory", remember),
                pool.submit(storm.go_on, "channel", talk),
            ]
            try:
                for _ in range(ROUNDS):
                    wanted = {kind: len(done) + chance.randrange(1, 6) for kind, done in storm.answered.items()}
                    until(
                        lambda: (
                            all(len(storm.answered[kind]) >= many for kind, many in wanted.items())  # noqa: B023
                            or any(one.done() for one in running)
                        ),
                        "some answers of each kind",
                    )
                    broker.kill()
                    broker.start()
            finally:
                storm.over = True
            for one in running:
                one.result()
        asked: dict[str, Any] = {"agent_id": coder["id"], "after": 0, "limit": 1000, "all": True}
        page = client.get(f"/messages/inbox/{coder['address']}", params=asked, headers=key).json()
        assert not page["more"]
        [memory] = client.get(f"/admin/teams/{team}/memories", headers=person).json()
        said = client.get(f"/channels/{token}/messages?agent_id={coder['id']}", headers=key).json()["messages"]
        items = client.get(f"/admin/hooks/{made['hook']['id']}/items", headers=person).json()
        client.close()
    finally:
        broker.end()
    told = storm.answered["hook"]
    sent = [name for one in told if one["outcome"] == "sent" for name in one["messageIds"]]
    assert sorted(sent) == sorted(mail["id"] for mail in page["messages"]), "each delivery's mail, once"
    subjects = Counter(mail["subject"] for mail in page["messages"])
    assert subjects.pop("alarm") == CALLERS, "what is open was told once"
    assert set(subjects.values()) == {1}
    counted = Counter(one["delivery"].partition("-")[0] for one in told if one["occurrenceCount"])
    assert sorted(item["occurrence_count"] for item in items) == sorted(counted.values()), "no occurrence counted twice"
    for n in range(len(storm.answered["memory"])):
        assert f"<{n}>" in memory["content"], "what was remembered is there"
    assert [one["seq"] for one in said] == list(range(1, len(said) + 1))
    assert {one["seq"] for one in storm.answered["channel"]} <= {one["seq"] for one in said}
