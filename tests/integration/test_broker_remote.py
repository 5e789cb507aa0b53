"""Reports and requests from afar at the broker: who tells, who asks, each number once, and no tenant sees another's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.databases import ON_A_FILE
from tests.integration.test_broker_streams import Listener

from agent_mailer.broker.remote.rows import MOST_WAITING
from agent_mailer.remote.port import Question, Report, Resting, Working

pytestmark = pytest.mark.usefixtures("each_database")

REPORT = Report(
    "1.0",
    "operate",
    working=(Working("t1", "m1", "thread", 5.0, "Bash", 6.0),),
    questions=(Question("q-1", "thread", "m0", 4.0, tool="Bash"),),
    waiting=3,
    oldest=2.5,
)


def _epoch(epoch: int | None) -> dict[str, str]:
    return {} if epoch is None else {"X-Agent-Mailer-Epoch": str(epoch)}


class Watched:
    """An agent of a person's, as its watcher and as its operator."""

    def __init__(self, desk: BrokerDesk, person: Person) -> None:
        self.desk, self.person = desk, person
        self.agent = desk.own_agent(person, f"coder-{secrets.token_hex(4)}")
        self.id: str = self.agent["id"]
        self.key = {"X-API-Key": self.agent["api_key_plaintext"]}

    def report(self, report: Report = REPORT, expected: int = 200, epoch: int | None = None) -> Any:
        content = msgspec.json.encode(report)
        return self.desk.call(
            "PUT", f"/agents/{self.id}/report", expected, content=content, headers=self.key | _epoch(epoch)
        )

    def seen(self) -> dict[str, Any]:
        [found] = [
            one
            for one in self.desk.call("GET", "/admin/watchers", headers=self.person.login)
            if one["agent_id"] == self.id
        ]
        return dict(found)

    def ask(self, expected: int = 201, key: str = "", **form: Any) -> Any:
        headers = self.person.login | ({"Idempotency-Key": key} if key else {})
        return self.desk.call("POST", f"/admin/agents/{self.id}/requests", expected, json=form, headers=headers)

    def asked(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.desk.call("GET", f"/agents/{self.id}/requests", headers=self.key)
        return found

    def tell(self, number: int, became: str, *lines: str, expected: int = 200, epoch: int | None = None) -> Any:
        path = f"/agents/{self.id}/requests/{number}"
        form = {"became": became, "lines": list(lines)}
        return self.desk.call("PUT", path, expected, json=form, headers=self.key | _epoch(epoch))

    def requests(self) -> list[dict[str, Any]]:
        path = f"/admin/agents/{self.id}/requests"
        found: list[dict[str, Any]] = self.desk.call("GET", path, headers=self.person.login)
        return found

    @contextmanager
    def watching(self, watcher: str = "w") -> Iterator[Listener]:
        path = f"/messages/inbox/{self.agent['address']}/stream?agent_id={self.id}"
        headers = {**self.key, "X-Agent-Mailer-Watcher": watcher}
        with self.desk.http.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, response.read()
            listener = Listener(response)
            name, _, data = listener.next()
            assert name == "hello"
            listener.epoch = data["epoch"]
            yield listener


@pytest.fixture
def watched(desk: BrokerDesk, alice: Person) -> Watched:
    return Watched(desk, alice)


def test_a_report_is_shown_to_its_operator_until_another_takes_its_place(watched: Watched, bob: Person) -> None:
    assert (watched.seen()["report"], watched.seen()["standing"], watched.seen()["lost"]) == (None, None, False)
    with watched.watching() as listener:
        assert watched.report(epoch=listener.epoch) == {"asked": 0}
        seen = watched.seen()
        assert msgspec.convert(seen["report"], Report) == REPORT
        assert (seen["standing"], seen["lost"], seen["watcher"]["name"]) == ("asks", False, "another watcher")
        paused = msgspec.structs.replace(REPORT, working=(), pause=Resting("limited", 7.0, 9.0))
        watched.report(paused)
        assert watched.seen()["standing"] == "limited"
        everybody = watched.desk.call("GET", "/admin/watchers", headers=bob.login)
        assert watched.id not in {one["agent_id"] for one in everybody}


def test_who_is_away_without_a_word_is_lost_and_who_said_so_is_not(watched: Watched) -> None:
    watched.report()
    assert watched.seen()["lost"] is True
    watched.report(msgspec.structs.replace(REPORT, ended="stopped"))
    assert (watched.seen()["lost"], watched.seen()["standing"]) == (False, "ended")


def test_a_watcher_that_another_has_followed_reports_and_answers_nothing(watched: Watched) -> None:
    number = watched.ask(verb="pause")["number"]
    with watched.watching() as first, watched.watching() as second:
        assert watched.report(expected=409, epoch=first.epoch)["reason"] == "stale"
        assert watched.tell(number, "done", expected=409, epoch=first.epoch)["reason"] == "stale"
        assert watched.report(epoch=second.epoch) == {"asked": number}
        watched.tell(number, "done", epoch=second.epoch)
    assert watched.requests()[0]["state"] == "done"


def test_what_is_asked_is_told_over_the_stream_and_answered_once(watched: Watched) -> None:
    with watched.watching() as listener:
        asked = watched.ask(verb="stop", targets=["t1"], then="drop", reason="wrong repository")
        assert listener.next()[::2] == ("asked", {"number": asked["number"]})
        [waiting] = watched.asked()
        assert 3590 < waiting.pop("seconds") <= 3600
        assert waiting == {
            "number": asked["number"],
            "verb": "stop",
            "person": "alice",
            "targets": ["t1"],
            "reason": "wrong repository",
            "then": "drop",
        }
    assert watched.seen()["requests_waiting"] == 1
    watched.tell(asked["number"], "done", "t1: is being stopped")
    watched.tell(asked["number"], "refused", "a second word")
    assert watched.asked() == []
    [became] = watched.requests()
    assert (became["state"], became["lines"]) == ("done", ["t1: is being stopped"])
    assert watched.seen()["requests_waiting"] == 0
    rows = watched.desk.sql("SELECT act, via FROM audit_log WHERE about LIKE :about", about=f"{watched.id} %")
    assert [(act, via.split()[0]) for act, via in rows] == [("remote_asked", "login"), ("remote_answered", "key")]


def test_a_time_that_has_run_out_asks_nothing_more_unless_it_was_done(watched: Watched) -> None:
    number = watched.ask(verb="pause")["number"]
    watched.desk.sql("UPDATE remote_requests SET ends_ms = 1 WHERE agent_id = :agent", agent=watched.id)
    assert watched.asked() == []
    assert watched.requests()[0]["state"] == "expired"
    watched.tell(number, "done")
    assert watched.requests()[0]["state"] == "done"


def test_the_same_key_asks_once_and_for_one_thing(watched: Watched) -> None:
    first = watched.ask(verb="pause", key="form-1")
    assert watched.ask(200, verb="pause", key="form-1") == first
    watched.ask(409, verb="resume", key="form-1")
    with ThreadPoolExecutor(8) as pool:
        numbers = [one["number"] for one in pool.map(lambda n: watched.ask(verb="pause", reason=str(n)), range(24))]
    assert sorted(numbers) == list(range(2, 26))
    assert len(watched.asked()) == 25


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_whoever_repeats_an_answer_under_its_key_is_told_that_it_was_taken(watched: Watched, verb: str) -> None:
    first = watched.ask(verb=verb, targets=["q-1"], key="form-1")
    assert watched.ask(200, verb=verb, targets=["q-1"], key="form-1") == first
    refused = watched.ask(409, verb=verb, targets=["q-1"], key="form-2")
    assert refused["detail"].endswith("your answer was not taken")
    watched.tell(first["number"], "done")
    assert watched.ask(200, verb=verb, targets=["q-1"], key="form-1")["state"] == "done"


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_an_answer_that_came_to_nothing_is_nobodys_and_another_may_be_given(watched: Watched, verb: str) -> None:
    watched.ask(verb=verb, targets=["q-1"])
    watched.desk.sql("UPDATE remote_requests SET ends_ms = 1 WHERE agent_id = :agent", agent=watched.id)
    second = watched.ask(verb=verb, targets=["q-1"])
    assert [one["number"] for one in watched.asked()] == [second["number"]]
    watched.tell(second["number"], "refused", "the turn goes on")
    third = watched.ask(verb="deny", targets=["q-1"])
    watched.ask(409, verb=verb, targets=["q-1"])
    watched.tell(third["number"], "done")
    watched.ask(409, verb=verb, targets=["q-1"])
    assert [one["state"] for one in watched.requests()] == ["done", "refused", "expired"]


def test_numbers_go_on_from_what_the_watcher_has_had(watched: Watched) -> None:
    """A database that was put back has forgotten some: given again they would be taken for done."""
    watched.report(msgspec.structs.replace(REPORT, seen=41))
    assert watched.ask(verb="pause")["number"] == 42
    watched.report(msgspec.structs.replace(REPORT, seen=7))
    assert watched.ask(verb="pause")["number"] == 43
    watched.report(msgspec.structs.replace(REPORT, seen=50))
    assert watched.ask(verb="pause")["number"] == 51, "it knew some, but not the newest"


def test_only_the_agents_own_person_asks(watched: Watched, bob: Person) -> None:
    desk, path = watched.desk, f"/admin/agents/{watched.id}/requests"
    other = Watched(desk, watched.person)
    for headers, expected in (
        (watched.key, 401),
        (other.key, 401),
        (watched.person.header, 401),
        (bob.login, 404),
        ({}, 401),
    ):
        desk.call("POST", path, expected, json={"verb": "resume"}, headers=headers)
        desk.call("GET", path, expected, headers=headers)
    number = watched.ask(verb="pause")["number"]
    for key, expected in ((other.key, 403), (bob.header, 404)):
        desk.call("GET", f"/agents/{watched.id}/requests", expected, headers=key)
        desk.call("PUT", f"/agents/{watched.id}/report", expected, content=msgspec.json.encode(REPORT), headers=key)
        one = f"/agents/{watched.id}/requests/{number}"
        desk.call("PUT", one, expected, json={"became": "done"}, headers=key)
    assert [one["state"] for one in watched.requests()] == ["waiting"]


@ON_A_FILE
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"verb": "trust"}, 422),
        ({"verb": "pause", "targets": ["x"]}, 422),
        ({"verb": "approve"}, 422),
        ({"verb": "approve", "targets": ["a", "b"]}, 422),
        ({"verb": "release"}, 422),
        ({"verb": "stop", "targets": ["t"], "then": "run"}, 422),
        ({"verb": "retry", "targets": ["x" * 5000]}, 422),
        ({"verb": "pause", "seconds": 0}, 422),
        ({"verb": "pause", "reason": "a\0b"}, 422),
    ],
)
def test_what_nobody_could_do_is_refused_at_once(watched: Watched, form: dict[str, Any], expected: int) -> None:
    watched.ask(expected, **form)
    assert watched.requests() == []


@ON_A_FILE
def test_what_is_no_report_is_refused_and_the_last_one_stays(watched: Watched) -> None:
    watched.report()
    path = f"/agents/{watched.id}/report"
    for content in (
        b"",
        b"{}",
        b"[1]",
        b'{"version":1,"remote":"all"}',
        b'{"version":"' + b"x" * 65 + b'","remote":""}',
    ):
        watched.desk.call("PUT", path, 422, content=content, headers=watched.key)
    large = b'{"version":"1","remote":"all","more":"' + b"x" * 300_000 + b'"}'
    watched.desk.call("PUT", path, 413, content=large, headers=watched.key)
    assert msgspec.convert(watched.seen()["report"], Report) == REPORT
    # A newer watcher says more.
    watched.desk.call("PUT", path, content=b'{"version":"9","remote":"all","novel":[1]}', headers=watched.key)
    assert watched.seen()["report"]["version"] == "9"


@ON_A_FILE
def test_so_many_wait_and_no_more(watched: Watched) -> None:
    for _ in range(MOST_WAITING):
        watched.ask(verb="pause")
    watched.ask(429, verb="resume")
    watched.tell(1, "done")
    watched.ask(verb="resume")
