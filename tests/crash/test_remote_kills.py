"""kill -9 of the watcher and of the broker while people ask something from afar: each request is done once.

What is asked is to run again what was given up, because that can be counted: the agent runs once more for each.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests import procfs
from tests.broker_process import BrokerProcess
from tests.crash.broker_mail import BrokerMailDesk
from tests.crash.children import Children, nursery
from tests.crash.loop import SEED
from tests.crash.points import Point, points
from tests.desk import PATIENCE, until
from tests.proved import Harness, proved
from tests.sizes import LONG, SOAK

STRIDES = [pytest.param(12, id="long", marks=LONG), pytest.param(1, id="soak", marks=SOAK)]
ROUNDS = [pytest.param(8, id="long", marks=LONG), pytest.param(100, id="soak", marks=SOAK)]
KILLED = -signal.SIGKILL
FAILS = """cat >/dev/null; echo ran >>"$0"; exit 3"""


class AskedDesk(BrokerMailDesk):
    """Its one message was given up; each time that it is asked for again its agent runs and gives up once more."""

    def __init__(self, base: Path, process: BrokerProcess, children: Children) -> None:
        super().__init__(base, process)
        self._children = children
        self.runs = base / "runs"
        self.configure(
            command=["/bin/sh", "-c", FAILS, str(self.runs)], max_retries=0, guards={"turns_per_hour": 0}, stop_grace=1
        )
        self.message = self.send()
        self.watch()
        self.settle(1)
        self.end_watch()

    def watch(self, point: Point | None = None, trace: Path | None = None) -> int:
        argv = ("watch", "--no-interactive", "--workdir", str(self.workdir))
        point = Point() if trace is not None else point
        self.pid = self._children.start(*argv, stderr=self.base / "stderr", point=point, trace=trace)
        return self.pid

    def kill_watch(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._children.wait(self.pid)

    def end_watch(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        assert self._children.wait(self.pid).status == 0

    def ran(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0

    def settle(self, runs: int) -> None:
        """Until the message is given up for that time."""

        until(lambda: self.is_over(runs), f"run {runs}, and its end")

    def is_over(self, runs: int) -> bool:
        state = self.place().state
        return self.ran() >= runs and state.dead_letters.count() == 1 and not state.turns.open_ids()

    def ask(self, key: str) -> int:
        """As a careful page does: again with the same key until it is answered."""
        path = f"/admin/agents/{self.coder['id']}/requests"
        form = {"verb": "retry", "targets": [f"given-up {self.message}"]}
        headers = self.account.as_person | {"Idempotency-Key": key}
        return int(self._tried("POST", path, json=form, headers=headers)["number"])

    def became(self, number: int) -> str:
        path = f"/admin/agents/{self.coder['id']}/requests"
        listed = self._tried("GET", path, headers=self.account.as_person)
        return next(str(one["state"]) for one in listed if one["number"] == number)

    def _tried(self, method: str, path: str, **request: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.TransportError), httpx.Client(base_url=self.process.url, trust_env=False) as client:
                answer = client.request(method, path, timeout=PATIENCE, **request)
                if answer.status_code in (200, 201):
                    return answer.json()
                assert answer.status_code == 503, answer.text
            assert time.monotonic() < deadline, "the broker does not come back"
            time.sleep(0.02)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[AskedDesk]:
    process = BrokerProcess(tmp_path / "broker")
    try:
        process.start()
        with nursery() as children:
            desk = AskedDesk(tmp_path, process, children)
            yield desk
            desk.close()
    finally:
        process.end()


@pytest.mark.parametrize("stride", STRIDES)
def test_a_watcher_killed_at_any_point_of_a_request_has_done_it_once(
    desk: AskedDesk, tmp_path: Path, stride: int
) -> None:
    traced = tmp_path / "trace"
    asked = desk.ask("traced")
    desk.watch(trace=traced)
    until(lambda: desk.became(asked) == "done", "the first request")
    desk.settle(2)
    desk.end_watch()
    names = traced.read_text().splitlines()
    # What lies between what was asked and what its answer was.
    places = [place for place, name in enumerate(names) if "remote/ID" in name]
    chosen = points(names[: places[-1] + 1])[len(points(names[: places[0]])) :]
    assert {"replace remote/ID", "request requests/N"} <= {one.of for one in chosen}
    runs, met = 2, 0
    # Of the last ones a life that ends sooner has none.
    for number, point in enumerate(chosen[:: max(1, stride)]):
        asked = desk.ask(f"point-{number}")
        desk.watch(point)
        runs += 1
        until(lambda: desk.is_over(runs) or not procfs.runs(desk.pid), f"{point}: what came of it")  # noqa: B023
        if not procfs.runs(desk.pid):
            assert desk._children.wait(desk.pid).status == KILLED
            met += 1
            desk.watch()
        until(lambda: desk.became(asked) == "done", f"{point}: it is done")  # noqa: B023
        desk.settle(runs)
        desk.kill_watch()
        assert desk.ran() == runs, f"{point}: it was done {desk.ran() - runs + 1} times"
    assert met >= len(chosen[:: max(1, stride)]) / 2
    proved(Harness.KILL_POINTS, kills=met)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_watcher_and_broker_killed_at_random_do_what_was_asked_once(desk: AskedDesk, rounds: int) -> None:
    chance = random.Random(SEED + 19)
    runs = 1
    desk.watch()
    for number in range(rounds):
        asked = desk.ask(f"round-{number}")
        runs += 1
        time.sleep(chance.uniform(0.0, 0.15))
        if chance.random() < 0.5:
            desk.kill_watch()
            desk.watch()
        else:
            desk.process.kill()
            desk.process.start()
        until(lambda: desk.became(asked) == "done", f"round {number}: it is done")  # noqa: B023
        desk.settle(runs)
        assert desk.ran() == runs
    desk.end_watch()
    proved(Harness.KILL_LOOPS, kills=rounds, requests=runs)


@LONG
def test_what_is_delivered_twice_is_done_once(desk: AskedDesk) -> None:
    """The broker was put back to before the answer: it hands the request out once more."""
    asked = desk.ask("twice")
    desk.watch()
    until(lambda: desk.became(asked) == "done", "the request")
    desk.settle(2)
    desk.process.kill()
    _unanswered(desk.process.data / "broker.db", asked)
    desk.process.start()
    until(lambda: desk.became(asked) != "waiting", "what the watcher says of it")
    assert desk.became(asked) == "refused"
    desk.end_watch()
    assert desk.ran() == 2


def _unanswered(database: Path, number: int) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE remote_requests SET state = 'waiting', answered_at = NULL, lines = '[]' WHERE number = ?", (number,)
        )
