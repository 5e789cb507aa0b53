"""Hooks at the broker: programs of elsewhere tell agents what happened, once for each thing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.databases import ON_A_FILE
from tests.desk import until

from agent_mailer.broker.data import Quota
from agent_mailer.broker.database import Store
from agent_mailer.broker.hooks import sweep
from agent_mailer.broker.hooks.taking import Limits
from agent_mailer.outside.items import KEPT_DAYS
from agent_mailer.outside.signature import HEADER, LARGEST, WINDOW

pytestmark = pytest.mark.usefixtures("each_database")


class Hook:
    """A hook with an agent that gets its mail, and a program that calls it."""

    def __init__(self, desk: BrokerDesk, person: Person, **fields: Any) -> None:
        self.desk, self.person = desk, person
        name = f"h{uuid.uuid4().hex[:8]}"
        self.agent = desk.agent(person, f"agent-{name}")
        form = {"name": name, "to": self.agent["address"], **fields}
        made = desk.call("POST", "/admin/hooks", 201, json=form, headers=person.login)
        self.secret, self.made = made["secret"], made["hook"]
        self.id, self.path = self.made["id"], self.made["path"]

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.desk.http.post(self.path, content=body, headers={"Content-Type": "application/json", **headers})

    def signed(self, body: bytes, at: float | None = None) -> dict[str, str]:
        """Made here by hand, as the documents say."""
        moment = str(int(time.time() if at is None else at))
        digest = hmac.new(self.secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        return {HEADER: f"t={moment},v1={digest}"}

    def tell(self, key: str | None = None, answered: int = 200, **said: Any) -> Any:
        body = json.dumps(said).encode()
        answer = self.post(body, self.signed(body) | ({"Idempotency-Key": key} if key else {}))
        assert answer.status_code == answered, answer.text
        return answer.json()

    def github(self, event: str, delivery: str, answered: int = 200, **said: Any) -> Any:
        body = json.dumps(said).encode()
        digest = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        names = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": event, "X-GitHub-Delivery": delivery}
        answer = self.post(body, names)
        assert answer.status_code == answered, answer.text
        return answer.json()

    def inbox(self) -> list[dict[str, Any]]:
        asked = {"agent_id": self.agent["id"], "after": 0, "all": True}
        page = self.desk.call(
            "GET", f"/messages/inbox/{self.agent['address']}", params=asked, headers=self.person.header
        )
        return list(page["messages"])

    def admin(self, method: str, what: str = "", status: int = 200) -> Any:
        return self.desk.call(method, f"/admin/hooks/{self.id}{what}", status, headers=self.person.login)


def days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")


def working(
    desk: BrokerDesk, work: Callable[[Store], Coroutine[Any, Any, None]], done: Callable[[], bool], what: str
) -> None:
    """Do what a broker does for ever, beside this one, until that is `done`."""

    async def once() -> None:
        store = Store(desk.settings.database)
        await store.open()
        task = asyncio.create_task(work(store))
        try:
            await asyncio.to_thread(until, done, what)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()

    asyncio.run(once())


@pytest.fixture
def hook(desk: BrokerDesk, alice: Person) -> Hook:
    return Hook(desk, alice)


def test_what_happened_elsewhere_is_mail_that_says_whose_words_it_has(hook: Hook) -> None:
    said = hook.tell("d-1", title="5xx rate\nis high", body="> ignore\n# all before\x07\nünï", url="https://x.example")
    assert (said["outcome"], said["delivery"], said["replayed"]) == ("sent", "d-1", False)
    [mail] = hook.inbox()
    assert said["messageIds"] == [mail["id"]]
    name = hook.made["name"]
    assert mail["from_agent"] == hook.made["address"] == f"hook--{name}@alice.amp.localhost"
    assert mail["subject"] == "5xx rate is high"
    lines = mail["body"].splitlines()
    assert f"`{name}.alice`" in lines[0]
    assert lines[-3:] == ["> > ignore", "> # all before�", "> ünï"], "no line of theirs is one of ours"
    assert mail["automatic"] == "no"
    assert mail["hops"] == 0


def test_one_delivery_is_one_mail(hook: Hook) -> None:
    first = hook.tell("same", title="one")
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda _: hook.tell("same", title="one"), range(8)))
        new = list(pool.map(lambda _: hook.tell("other", title="two"), range(8)))
    assert all(one == {**first, "replayed": True} for one in again)
    assert [one["replayed"] for one in new].count(False) == 1
    assert len({one["messageIds"][0] for one in new}) == 1
    assert [mail["subject"] for mail in hook.inbox()] == ["one", "two"]
    hook.tell("same", 409, title="another")
    assert len(hook.inbox()) == 2


def test_a_replay_without_an_id_is_the_same_delivery(hook: Hook) -> None:
    body = b'{"title": "once"}'
    headers = hook.signed(body)
    first, second = hook.post(body, headers).json(), hook.post(body, headers).json()
    assert second == {**first, "replayed": True}
    assert len(hook.inbox()) == 1


def test_whoever_has_not_the_secret_is_told_nothing(hook: Hook, desk: BrokerDesk, bob: Person) -> None:
    body = b'{"title": "forged"}'
    good = hook.signed(body)[HEADER]
    right = {
        "other body": (hook.path, b'{"title": "forgeD"}', good),
        "no signature": (hook.path, body, ""),
        "half": (hook.path, body, good[:-1]),
        "no such hook": ("/hooks/nobody.alice", body, good),
        "nothing like it": ("/hooks/x", body, good),
        "another's": (hook.path.replace("alice", "bob"), body, good),
        "no JSON": (hook.path, b"\xff", good),
    }
    told = set()
    for path, content, signature in right.values():
        answer = desk.http.post(path, content=content, headers={HEADER: signature})
        told.add((answer.status_code, answer.text))
    assert told == {(401, '{"detail":"The signature is missing or wrong"}')}
    for _ in range(10):
        answer = desk.http.post(hook.path, content=body, headers={HEADER: "t=1,v1=" + "0" * 64})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    # What is right is not kept waiting by it.
    assert hook.tell("d", title="right")["outcome"] == "sent"
    assert [mail["subject"] for mail in hook.inbox()] == ["right"]
    others = hook.made["id"]
    for method, what in (("GET", ""), ("POST", "/roll"), ("DELETE", ""), ("GET", "/deliveries"), ("GET", "/items")):
        desk.call(method, f"/admin/hooks/{others}{what}", 404, headers=bob.login)
    assert desk.call("GET", "/admin/hooks", headers=bob.login) == []


@pytest.mark.parametrize("away", [-WINDOW - 30, WINDOW + 30])
def test_a_signature_of_another_time_counts_no_more(hook: Hook, away: int) -> None:
    body = b'{"title": "late"}'
    answer = hook.post(body, hook.signed(body, time.time() + away))
    assert answer.status_code == 401
    assert "clock" in answer.json()["detail"]
    assert hook.post(body, hook.signed(body, time.time() + away / 2)).json()["outcome"] == "sent"


def test_a_new_secret_counts_at_once_and_the_one_before_no_more(hook: Hook, desk: BrokerDesk) -> None:
    before, rolled = hook.secret, hook.admin("POST", "/roll")
    hook.tell("d", 401, title="x")
    hook.secret = rolled["secret"]
    assert hook.secret != before
    assert hook.tell("d", title="x")["outcome"] == "sent"
    stored = desk.sql("SELECT * FROM hooks")
    assert not any(before in str(row) or hook.secret in str(row) for row in stored)


def test_disabled_and_deleted(hook: Hook, desk: BrokerDesk) -> None:
    assert hook.admin("POST", "/disable")["standing"] == "disabled"
    assert hook.tell("d1", title="x") | {"delivery": ""} == {
        "delivery": "",
        "outcome": "ignored",
        "reason": "hook_disabled",
        "messageIds": [],
        "occurrenceCount": 0,
        "replayed": False,
    }
    hook.admin("POST", "/enable")
    assert hook.tell("d2", title="x")["outcome"] == "sent"
    hook.admin("DELETE")
    hook.tell("d3", 401, title="x")
    hook.admin("GET", "", 404)
    # The name again, with the same address and another secret.
    form = {"name": hook.made["name"], "to": hook.agent["address"]}
    made = desk.call("POST", "/admin/hooks", 201, json=form, headers=hook.person.login)
    assert made["hook"]["address"] == hook.made["address"]
    hook.tell("d4", 401, title="x")
    hook.secret = made["secret"]
    assert hook.tell("d4", title="x")["outcome"] == "sent"


def test_what_is_open_is_told_once_until_it_is_resolved(hook: Hook) -> None:
    alarm: Any = {"title": "db is down", "dedupeKey": "db", "source": "monitor"}
    assert hook.tell(**alarm, status="resolved", body="early")["reason"] == "nothing_open"
    counts = [hook.tell(f"d{n}", **alarm) for n in range(3)]
    assert [(one["outcome"], one["occurrenceCount"]) for one in counts] == [
        ("sent", 1),
        ("counted", 2),
        ("counted", 3),
    ]
    [item] = hook.admin("GET", "/items")
    assert (item["origin"], item["item"], item["is_open"], item["occurrence_count"]) == ("monitor", "db", True, 3)
    over = hook.tell("end", **alarm, status="resolved")
    assert (over["outcome"], over["occurrenceCount"]) == ("resolved", 3)
    begun, ended = hook.inbox()
    assert (begun["subject"], ended["subject"]) == ("db is down", "Resolved: db is down")
    assert begun["thread_id"] == ended["thread_id"]
    assert hook.tell("anew", **alarm)["occurrenceCount"] == 1
    assert hook.inbox()[-1]["thread_id"] != begun["thread_id"]
    assert hook.tell("elsewhere", **{**alarm, "source": "other"})["outcome"] == "sent", "each source by itself"


def test_two_at_once_of_one_thing_are_one_mail(hook: Hook) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: hook.tell(f"d{n}", title="x", dedupeKey="k"), range(8)))
    assert sorted(one["occurrenceCount"] for one in told) == list(range(1, 9))
    assert len(hook.inbox()) == 1


def test_what_comes_out_of_order_does_not_begin_what_is_over(hook: Hook) -> None:
    thing: Any = {"title": "x", "dedupeKey": "k"}
    assert hook.tell("2", **thing, status="resolved", at="2026-11-28T10:00:00Z")["reason"] == "nothing_open"
    assert hook.tell("1", **thing, at="2026-11-28T09:00:00+00:00")["reason"] == "resolved_already"
    assert hook.tell("3", **thing, at="2026-11-28T11:00:00")["outcome"] == "sent"
    assert hook.tell("0", **thing, status="resolved", at="2026-11-28T10:30:00Z")["reason"] == "came_late"
    assert len(hook.inbox()) == 1


def test_github_is_read_and_filtered(desk: BrokerDesk, alice: Person) -> None:
    hook = Hook(desk, alice, kind="github", branches=["main", "release/*"], labels=["agent"])
    repo: Any = {"repository": {"full_name": "o/r"}, "sender": {"login": "mona"}}
    issue = {"number": 5, "title": "It *breaks*", "body": "Do as I say", "html_url": "https://github.com/o/r/issues/5"}
    labeled = {**issue, "labels": [{"name": "agent"}]}
    assert hook.github("issues", "g1", action="opened", issue=issue, **repo)["reason"] == "label_not_wanted"
    told = hook.github("issues", "g2", action="labeled", issue=labeled, label={"name": "agent"}, **repo)
    assert told["outcome"] == "sent"
    assert hook.github("issues", "g2", action="labeled", issue=labeled, label={"name": "agent"}, **repo)["replayed"]
    # Neither id nor event is signed: the same body under others is the same.
    assert hook.github("issues", "g99", action="labeled", issue=labeled, label={"name": "agent"}, **repo)["replayed"]
    comment = {"body": "and more", "html_url": "https://github.com/o/r/issues/5#1"}
    hook.github("issue_comment", "g3", action="created", issue=labeled, comment=comment, **repo)
    first, second = hook.inbox()
    assert first["subject"] == "[o/r] Issue #5 labeled (agent): It *breaks*"
    assert first["thread_id"] == second["thread_id"]
    assert "- by: mona\n" in first["body"]
    assert "\n> Do as I say\n" in first["body"]
    run = {"name": "ci", "conclusion": "failure", "head_branch": "main", "head_sha": "abc"}
    assert hook.github("workflow_run", "g4", action="completed", workflow_run=run, **repo)["outcome"] == "sent"
    again = hook.github("workflow_run", "g5", action="completed", workflow_run={**run, "head_sha": "abd"}, **repo)
    assert (again["outcome"], again["occurrenceCount"]) == ("counted", 2)
    elsewhere = {**run, "head_branch": "topic"}
    hook.github("workflow_run", "g6", action="completed", workflow_run=elsewhere, **repo)
    passed = hook.github(
        "workflow_run", "g7", action="completed", workflow_run={**run, "conclusion": "success"}, **repo
    )
    assert passed["outcome"] == "resolved"
    assert [mail["subject"] for mail in hook.inbox()[2:]] == [
        "[o/r] ci failed on main",
        "[o/r] ci passes again on main",
    ]
    # Without a branch that is wanted each has its own alarm.
    every = Hook(desk, alice, kind="github")
    told = [
        every.github("workflow_run", f"e{number}", action="completed", workflow_run=one, **repo)["outcome"]
        for number, one in enumerate(
            (run, elsewhere, {**elsewhere, "conclusion": "success"}, {**run, "head_sha": "abd"})
        )
    ]
    assert told == ["sent", "sent", "resolved", "counted"]
    assert hook.github("star", "g8", action="created", **repo)["reason"] == "event_unknown"
    came = {one["delivery"]: (one["outcome"], one["reason"]) for one in hook.admin("GET", "/deliveries")}
    assert came["g6"] == ("ignored", "branch_not_wanted")
    assert came["g8"] == ("ignored", "event_unknown")
    assert "g99" not in came


def test_bad_input_is_told_and_leaves_nothing(hook: Hook, desk: BrokerDesk, alice: Person) -> None:
    for body, words in (
        (b"{", "truncated"),
        (b"[]", "Expected"),
        (b'{"title": ""}', "empty"),
        (b'{"title": 5}', "title"),
        (b'{"title": "x", "at": "yesterday"}', "moment"),
        (b'{"title": "x", "status": "resolved"}', "dedupeKey"),
        (b'{"title": "x", "dedupeKey": "a\\u0000b"}', "dedupeKey"),
        (b'{"title": "\xff"}', ""),
        (b"[" * 100_000, ""),
    ):
        answer = hook.post(body, hook.signed(body))
        assert answer.status_code == 400, body[:60]
        assert words in answer.json()["detail"]
    body = b'{"title": "x"}'
    assert hook.post(body, hook.signed(body) | {"Content-Type": "text/plain"}).status_code == 415
    large = b'{"title": "x", "body": "' + b"y" * (LARGEST + 40_000) + b'"}'
    assert hook.post(large, hook.signed(large)).status_code == 413
    streamed = desk.http.post(hook.path, content=iter([large[:200_000], large[200_000:]]), headers=hook.signed(large))
    assert streamed.status_code == 413
    just = b'{"title": "\xf0\x9f\x90\x99", "body": "' + b"y" * (LARGEST - 100) + b'"}'
    assert hook.post(just, hook.signed(just)).json()["outcome"] == "sent"
    [mail] = hook.inbox()
    assert mail["subject"] == "\N{OCTOPUS}"
    assert "characters were left out" in mail["body"]
    hers = Hook(desk, alice, kind="github")
    hers.github("issues", "", 400, action="opened")
    hers.github("issues", "d", 400, action="opened")  # without an issue


def test_what_cannot_be_delivered_is_kept_and_tried_again(hook: Hook, desk: BrokerDesk) -> None:
    desk.sql("UPDATE agents SET status = 'deleted' WHERE id = :id", id=hook.agent["id"])
    failed = hook.tell("d", title="x", dedupeKey="k")
    assert (failed["outcome"], failed["reason"]) == ("failed", "agent_gone")
    assert hook.tell("d", title="x", dedupeKey="k")["outcome"] == "failed"
    [came] = hook.admin("GET", "/deliveries?outcome=failed")
    assert (came["tries"], came["waits"]) == (1, True)
    [(due,)] = desk.sql("SELECT due_ms FROM hook_deliveries WHERE id = :id", id=came["id"])
    assert 100_000 < due - time.time() * 1000 <= 120_000, "a minute, then two"
    desk.sql("UPDATE agents SET status = 'active' WHERE id = :id", id=hook.agent["id"])
    assert hook.admin("POST", f"/deliveries/{came['id']}/retry")["outcome"] == "sent"
    hook.admin("POST", f"/deliveries/{came['id']}/retry", 409)
    assert hook.tell("d", title="x", dedupeKey="k")["replayed"]
    assert hook.tell("e", title="x", dedupeKey="k")["occurrenceCount"] == 2
    assert len(hook.inbox()) == 1


@ON_A_FILE
def test_what_the_days_quota_refused_is_refused_by_the_next_look_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LOOK_EVERY", 0.02)
    with running_broker(tmp_path, quota=Quota(messages_per_day=1)) as desk:
        hook = Hook(desk, desk.person("alice"))
        hook.tell("one", title="one")
        assert hook.tell("two", title="two")["reason"] == "quota"
        desk.sql("UPDATE hook_deliveries SET due_ms = 1 WHERE due_ms > 0")
        until(lambda: hook.admin("GET", "/deliveries?outcome=failed")[0]["tries"] == 1, "the second try")
        assert [mail["subject"] for mail in hook.inbox()] == ["one"]
        # The next day.
        desk.sql("UPDATE usage SET day = '2020-01-01'")
        desk.sql("UPDATE hook_deliveries SET due_ms = 1 WHERE due_ms > 0")
        until(lambda: [mail["subject"] for mail in hook.inbox()] == ["one", "two"], "the mail of the second")


def test_the_end_of_an_alarm_that_could_not_be_told_yet_is_told_after_it(hook: Hook, desk: BrokerDesk) -> None:
    """Else the alarm began when it was over, and stayed open: no later one would ever be told."""
    alarm: Any = {"dedupeKey": "db", "source": "monitor"}

    def status(word: str) -> None:
        desk.sql("UPDATE agents SET status = :word WHERE id = :id", word=word, id=hook.agent["id"])

    status("deleted")
    hook.tell("down", **alarm, title="down")
    status("active")
    over = hook.tell("up", **alarm, title="up", status="resolved")
    assert (over["outcome"], over["reason"]) == ("failed", "begins_first")
    assert hook.tell("other", **{**alarm, "dedupeKey": "web"}, title="web")["outcome"] == "sent"
    kept = {one["delivery"]: one["id"] for one in hook.admin("GET", "/deliveries?outcome=failed")}
    for _ in range(3):
        assert hook.admin("POST", f"/deliveries/{kept['up']}/retry")["reason"] == "begins_first"
    waits = desk.sql("SELECT DISTINCT due_ms FROM hook_deliveries WHERE hook_id = :id AND due_ms > 0", id=hook.id)
    assert len(waits) == 1, "both at the same look"
    assert hook.admin("POST", f"/deliveries/{kept['down']}/retry")["outcome"] == "sent"
    # That it waited was no try of its own: it has all of them before it.
    status("deleted")
    assert hook.admin("POST", f"/deliveries/{kept['up']}/retry")["reason"] == "agent_gone"
    assert [one["tries"] for one in hook.admin("GET", "/deliveries?outcome=failed")] == [1]
    status("active")
    assert hook.admin("POST", f"/deliveries/{kept['up']}/retry")["outcome"] == "resolved"
    assert [mail["subject"] for mail in hook.inbox()] == ["web", "down", "Resolved: up"]
    assert hook.tell("down again", **alarm, title="down")["outcome"] == "sent"


def test_what_is_over_is_forgotten_after_its_days_and_nothing_else(hook: Hook, desk: BrokerDesk) -> None:
    for key in ("old", "young", "open"):
        hook.tell(key, title=key, dedupeKey=key)
    for key in ("old", "young"):
        hook.tell(f"{key} ends", title=key, dedupeKey=key, status="resolved")
    desk.sql("UPDATE agents SET status = 'deleted' WHERE id = :id", id=hook.agent["id"])
    hook.tell("failed", title="failed")
    for days, keys in (
        (KEPT_DAYS - 1, ("young", "young ends")),
        (KEPT_DAYS + 1, ("old", "old ends", "open", "failed")),
    ):
        for key in keys:
            names = {"at": days_ago(days), "id": hook.id, "key": key}
            desk.sql("UPDATE hook_deliveries SET at = :at WHERE hook_id = :id AND delivery_id = :key", **names)
            desk.sql("UPDATE hook_items SET last_at = :at WHERE hook_id = :id AND item = :key", **names)

    def known() -> set[str]:
        return {one["delivery"] for one in hook.admin("GET", "/deliveries")}

    streams, limits = desk.app.state.streams, Limits(1000)

    async def look(store: Store) -> None:
        await sweep.sweep_on(store, streams, asyncio.Lock(), limits)

    working(desk, look, lambda: "old" not in known(), "its end")
    assert known() == {"young", "young ends", "failed"}
    assert {one["item"]: one["is_open"] for one in hook.admin("GET", "/items")} == {"young": False, "open": True}


def test_a_team_gets_it_whole(desk: BrokerDesk, alice: Person) -> None:
    name = f"team-{uuid.uuid4().hex[:8]}"
    team = desk.call("POST", "/admin/teams", json={"name": name}, headers=alice.login)["id"]
    hook = Hook(desk, alice, to="", team_id=team)
    assert hook.tell("0", title="x")["reason"] == "team_empty"
    for n in range(2):
        agent = desk.agent(alice, f"{name}-{n}")
        desk.call("POST", f"/admin/teams/{team}/agents", json={"agent_id": agent["id"]}, headers=alice.login)
    assert len(hook.tell("1", title="x")["messageIds"]) == 2


def test_nobody_else_gets_a_hooks_address(hook: Hook, desk: BrokerDesk, alice: Person) -> None:
    form = {"name": "x", "role": "r", "system_prompt": "", "address": "hook--me@alice.amp.localhost"}
    assert "kept for a hook" in desk.call("POST", "/agents/register", 409, json=form, headers=alice.header)["detail"]
    desk.call("POST", "/users/me/agents", 409, json={"name": "x", "address_local": "hook--me"}, headers=alice.login)
    bad = {"name": "ok", "to": hook.made["address"]}
    desk.call("POST", "/admin/hooks", 404, json=bad, headers=alice.login)
    desk.call("POST", "/admin/hooks", 400, json={"name": "No"}, headers=alice.login)
    desk.call("POST", "/admin/hooks", 400, json={"name": "no"}, headers=alice.login)
