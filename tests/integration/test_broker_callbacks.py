"""What an agent answers to a hook's mail is told back: once taken never again, tried again until then, nowhere else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import create_engine, insert
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.desk import until
from tests.integration.test_broker_hooks import Hook, days_ago, working
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.broker.database import Store
from agent_mailer.broker.hooks import posting
from agent_mailer.broker.hooks.callbacks import AT_ONCE, LEASE_MS, ended, gather, has_news
from agent_mailer.broker.hooks.tables import hook_callbacks
from agent_mailer.broker.hooks.taking import in_ms
from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import NewMessage, Submission
from agent_mailer.outside.items import KEPT_DAYS, wait_ms
from agent_mailer.outside.signature import HEADER

pytestmark = pytest.mark.usefixtures("each_database")
VERIFY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""All that is called here answers without encryption."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    """One that looks by itself when it starts, and not again: `look` does it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(posting, "EVERY", 3600.0)
        with running_broker(tmp_path_factory.mktemp("broker")) as desk:
            yield desk


def look(desk: BrokerDesk) -> None:
    """Post what is due, as the broker does every two seconds."""

    async def once() -> None:
        store = Store(desk.settings.database)
        await store.open()
        try:
            await posting.post_due(store, desk.settings.secret, VERIFY)
        finally:
            await store.close()

    asyncio.run(once())


class Came(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Caller:
    """Who is called back. `answers`: the next statuses; 200 where there are none, 500 to the result `refuses`."""

    def __init__(self) -> None:
        self.came: list[Came] = []
        self.answers: list[int] = []
        self.refuses = ""
        caller = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                caller.came.append(Came(self.path, dict(self.headers), body))
                refused = json.loads(body)["result"] == caller.refuses
                self.send_response(caller.answers.pop(0) if caller.answers else 500 if refused else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def caller() -> Iterator[Caller]:
    found = Caller()
    yield found
    found.close()


@pytest.fixture
def hook(desk: BrokerDesk, alice: Person, caller: Caller, tmp_path: Path) -> Hook:
    """Made as an operator makes one that tells back to a private host."""
    found = Hook.__new__(Hook)
    found.desk, found.person = desk, alice
    name = f"h{abs(hash(caller)) % 10**8}"
    found.agent = desk.agent(alice, f"agent-{name}")
    add(found, name, caller, tmp_path)
    return found


def add(hook: Hook, name: str, caller: Caller, where: Path, path: str = "/told?x=1") -> None:
    settings = hook.desk.settings
    words = ("--user", hook.person.name, "--to", hook.agent["address"], "--database", settings.database, "--json")
    url = ("--callback", f"http://{caller.host}{path}", "--callback-host", caller.host)
    secret = {"AGENT_MAILER_SECRET_KEY": settings.secret}
    made = type_in(where, "broker", "hook", "add", name, *words, *url, env=secret).json
    hook.secret, hook.made = made["secret"], made["hook"]
    hook.id, hook.path = hook.made["id"], hook.made["path"]


def answered(hook: Hook, message: str, body: str) -> Any:
    form = {"agent_id": hook.agent["id"], "from_agent": hook.agent["address"], "to_agent": hook.made["address"]}
    form |= {"action": "reply", "parent_id": message, "body": body}
    return hook.desk.call("POST", "/messages/send", json=form, headers=hook.person.header)


def states(hook: Hook) -> list[tuple[str, int]]:
    return [(one["state"], one["tries"]) for one in hook.admin("GET", "/callbacks")]


def due(hook: Hook) -> list[int | None]:
    """In how many milliseconds each is tried, in the order of their tries; None: never."""
    rows = hook.desk.sql("SELECT due_ms FROM hook_callbacks WHERE hook_id = :id ORDER BY tries DESC", id=hook.id)
    return [None if row[0] is None else row[0] - in_ms(0) for row in rows]


def make_due(hook: Hook) -> None:
    hook.desk.sql("UPDATE hook_callbacks SET due_ms = 0 WHERE hook_id = :id AND due_ms IS NOT NULL", id=hook.id)


def test_an_answer_is_told_back_signed_and_until_it_is_taken(hook: Hook, desk: BrokerDesk, caller: Caller) -> None:
    alarm: Any = {"title": "db is down", "dedupeKey": "db", "source": "monitor"}
    sent = hook.tell("d1", **alarm)["messageIds"]
    hook.tell("d2", **alarm)
    caller.answers = [307, 500]
    answer = answered(hook, sent[0], "It is ünder repair")
    for tries in (1, 2):
        look(desk)
        assert states(hook) == [("waits", tries)], "a refusal"
        # After a minute, then after two.
        [wait] = due(hook)
        longest = wait_ms(tries - 1) or 0
        assert wait is not None
        assert longest - 5_000 < wait <= longest
        look(desk)
        assert len(caller.came) == tries, "not before its time"
        make_due(hook)
    look(desk)
    assert (states(hook), due(hook)) == ([("posted", 3)], [None]), "an answer that was taken"
    assert {one.path for one in caller.came} == {"/told?x=1"}, "no redirect is followed"
    last = caller.came[-1]
    assert {one.body for one in caller.came} == {last.body}
    assert json.loads(last.body) == {
        "type": "result",
        "hook": hook.path.rpartition("/")[2],
        "delivery": "d1",
        "source": "monitor",
        "dedupeKey": "db",
        "status": "open",
        "occurrenceCount": 2,
        "messageIds": sent,
        "threadId": answer["thread_id"],
        "resultId": answer["id"],
        "sender": hook.agent["address"],
        "subject": answer["subject"],
        "result": "It is ünder repair",
        "at": answer["created_at"],
    }
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", last.headers[HEADER])
    assert found
    digest = hmac.new(hook.secret.encode(), f"{found[1]}.".encode() + last.body, hashlib.sha256).hexdigest()
    assert (digest, last.headers["Idempotency-Key"], last.headers["Host"]) == (found[2], answer["id"], caller.host)
    hook.tell("d3", **alarm, status="resolved")
    second = answered(hook, sent[0], "done")
    look(desk)
    assert json.loads(caller.came[-1].body)["status"] == "resolved"
    # Marked unread it comes to the inbox again, and is not told twice.
    desk.call("PATCH", f"/messages/{second['id']}/unread", headers=hook.person.header)
    third = answered(hook, sent[0], "and more")
    look(desk)
    assert len(caller.came) == 5
    assert json.loads(caller.came[-1].body)["resultId"] == third["id"]
    # What is never taken is given up at the end.
    answered(hook, sent[0], "the last")
    caller.answers = [500, 500]
    look(desk)
    desk.sql("UPDATE hook_callbacks SET tries = 12 WHERE hook_id = :id AND state = 'waits'", id=hook.id)
    make_due(hook)
    look(desk)
    assert (states(hook)[0], due(hook)[0]) == (("failed", 13), None)


@LONG
def test_the_broker_looks_by_itself(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "EVERY", 0.1)
    with running_broker(tmp_path) as other:
        theirs = Hook.__new__(Hook)
        theirs.desk, theirs.person = other, other.person("alice")
        theirs.agent = other.agent(theirs.person, "agent")
        add(theirs, "own", caller, tmp_path)
        answered(theirs, theirs.tell("d1", title="x")["messageIds"][0], "y")
        until(lambda: states(theirs) == [("posted", 1)], "its answer")


def test_what_was_told_back_is_forgotten_after_its_days(hook: Hook, desk: BrokerDesk, caller: Caller) -> None:
    [message] = hook.tell("d", title="x")["messageIds"]
    old, young, waits = (answered(hook, message, body)["id"] for body in ("old", "young", "waits"))
    caller.refuses = "waits"
    look(desk)
    for one, days in ((old, KEPT_DAYS + 1), (young, KEPT_DAYS - 1), (waits, KEPT_DAYS + 1)):
        desk.sql("UPDATE hook_callbacks SET at = :at WHERE message_id = :id", at=days_ago(days), id=one)

    def known() -> set[str]:
        return {one["message_id"] for one in hook.admin("GET", "/callbacks")}

    working(desk, lambda store: posting.post_on(store, desk.settings.secret), lambda: old not in known(), "its end")
    assert known() == {young, waits}


def test_no_callback_reaches_into_the_network_of_the_broker(
    hook: Hook, desk: BrokerDesk, caller: Caller, alice: Person
) -> None:
    form = {"name": "inward", "to": hook.agent["address"], "callback": f"http://{caller.host}/x"}
    assert "by https" in desk.call("POST", "/admin/hooks", 400, json=form, headers=alice.login)["detail"]
    # A person at the broker lists nothing: only an operator does, at its database.
    form |= {"callback": f"https://{caller.host}/x", "callback_hosts": [caller.host]}
    made = desk.call("POST", "/admin/hooks", 201, json=form, headers=alice.login)["hook"]
    assert made["callback_hosts"] == []
    for url in (f"https://localhost:{caller.host.rpartition(':')[2]}/x", form["callback"]):
        desk.sql("UPDATE hooks SET callback = :url, callback_hosts = '[]' WHERE id = :id", url=url, id=hook.id)
        sent = hook.tell(url, title="x")["messageIds"]
        answer = answered(hook, sent[0], "secret")
        look(desk)
        [why] = [one["why"] for one in hook.admin("GET", "/callbacks") if one["message_id"] == answer["id"]]
        assert "no public address" in why
    assert caller.came == []
    hook.admin("DELETE")
    desk.call("GET", f"/admin/hooks/{hook.id}/callbacks", 404, headers=alice.login)
    desk.call("DELETE", f"/admin/hooks/{made['id']}", headers=alice.login)


def test_what_a_deleted_hook_had_to_tell_is_told_to_nobody_under_its_name(
    hook: Hook, desk: BrokerDesk, caller: Caller, tmp_path: Path
) -> None:
    caller.answers = [500]
    asked = hook.tell("d1", title="x")["messageIds"][0]
    answered(hook, asked, "for the first alone")
    look(desk)
    assert states(hook) == [("waits", 1)], "a refusal"
    answered(hook, asked, "and this")
    engine = create_engine(desk.settings.database)
    try:
        with engine.begin() as connection:
            [under_way] = gather(connection, desk.settings.secret)
        late = answered(hook, asked, "and what no look has found")
        hook.admin("DELETE")
        with engine.begin() as connection:
            ended(connection, under_way, "it was answered with 500")
    finally:
        engine.dispose()
    before = hook.id
    add(hook, hook.made["name"], caller, tmp_path, "/another")
    assert hook.id == before, "a name that comes again"
    make_due(hook)
    caller.came.clear()
    answered(hook, hook.tell("d2", title="y")["messageIds"][0], "for the second")
    look(desk)
    of_the_first = [("failed", 0), ("failed", 1)]
    assert sorted(states(hook)) == [*of_the_first, ("posted", 1)], "nothing older is queued anew"
    desk.call("PATCH", f"/messages/{late['id']}/unread", headers=hook.person.header)
    look(desk)
    assert [(one.path, json.loads(one.body)["result"]) for one in caller.came] == [("/another", "for the second")]
    assert sorted(states(hook)) == [("failed", 0), *of_the_first, ("posted", 1)]


def test_nothing_is_looked_for_where_nothing_can_be_told(hook: Hook, desk: BrokerDesk, caller: Caller) -> None:
    """Else a broker writes every two seconds, for ever."""
    engine = create_engine(desk.settings.database)
    try:

        def is_asked() -> bool:
            with engine.connect() as connection:
                return has_news(connection)

        caller.answers = [500]
        answered(hook, hook.tell("d1", title="x")["messageIds"][0], "y")
        look(desk)
        assert states(hook) == [("waits", 1)], "a refusal"
        hook.admin("POST", "/disable")
        make_due(hook)
        assert not is_asked(), "a hook that is disabled"
        # What came while it was, and was deleted before it is enabled.
        desk.sql("UPDATE agents SET inbox_seq = inbox_seq + 5 WHERE address = :own", own=hook.made["address"])
        hook.admin("POST", "/enable")
        standing = "UPDATE users SET standing = :now WHERE id = :id"
        desk.sql(standing, now="disabled", id=hook.person.id)
        answered_before = len(caller.came)
        assert not is_asked(), "a user who is disabled"
        look(desk)
        assert len(caller.came) == answered_before
        desk.sql(standing, now="active", id=hook.person.id)
        # Of two that look at once one posts it.
        with engine.begin() as connection:
            [post] = gather(connection, desk.settings.secret)
            assert gather(connection, desk.settings.secret) == []
        [wait] = due(hook)
        assert wait is not None
        assert 0 < wait <= LEASE_MS
        make_due(hook)
        look(desk)
        assert (states(hook), caller.came[-1].body) == ([("posted", 2)], post.body), "what waited"
        assert not is_asked(), "an end of looking"
    finally:
        engine.dispose()


def test_more_than_a_look_takes_are_told_by_the_next_looks_each_once(hook: Hook, desk: BrokerDesk) -> None:
    new = NewMessage(hook.agent["address"], (hook.made["address"],), body="an answer")
    one = Submission(new, hook.person.id, hook.agent["id"], bound=False, key=None, longest=1000)
    engine = create_engine(desk.settings.database)
    try:
        with engine.connect() as connection, connection.begin() as all_of_it:
            sent = send_all(connection, [one] * (AT_ONCE + 1))
            found = [post.message_id for _ in range(3) for post in gather(connection, desk.settings.secret)]
            all_of_it.rollback()
    finally:
        engine.dispose()
    ids = sorted(answer.messages[0].id for answer in sent if isinstance(answer, Sent))
    assert len(ids) > AT_ONCE
    assert sorted(found) == ids


def test_nobodys_answers_wait_behind_all_of_anothers(
    hook: Hook, desk: BrokerDesk, caller: Caller, tmp_path: Path
) -> None:
    other = Hook.__new__(Hook)
    other.desk, other.person = desk, desk.person(f"other{hook.made['name']}")
    other.agent = desk.agent(other.person, "agent")
    add(other, "single", caller, tmp_path)
    row = {"at": "2026-01-01", "body": "{}", "state": "waits", "why": "", "tries": 0}
    many = [
        {**row, "message_id": f"m{n}", "hook_id": hook.id, "user_id": hook.person.id, "due_ms": 0} for n in range(99)
    ]
    one = {**row, "message_id": "single", "hook_id": other.id, "user_id": other.person.id, "due_ms": 1}
    engine = create_engine(desk.settings.database)
    try:
        with engine.connect() as connection:
            connection.execute(insert(hook_callbacks), [*many, one])
            found = [post.message_id for post in gather(connection, desk.settings.secret)]
            connection.rollback()
    finally:
        engine.dispose()
    assert len(found) == AT_ONCE
    assert "single" in found[:2]
