"""What a broker tells its operator: lines in a log, numbers, and who did what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.broker_desk import PASSWORD, BrokerDesk, running_broker
from tests.broker_process import BrokerProcess, join, register
from tests.databases import ON_A_FILE, database_of
from tests.desk import until
from tests.sizes import LONG
from tests.typed import Typed, type_in

from agent_mailer.broker.logs import without_secrets

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path) as desk:
        yield desk


def audit(desk: BrokerDesk, *words: str) -> list[tuple[str, str, str]]:
    """Who did what to whom, oldest first."""
    listed = command(desk, "audit", "--json", *words)
    assert listed.status == 0, listed
    return [(one["by"] or one["via"].partition(" of ")[0], one["act"], one["about"]) for one in reversed(listed.json)]


def command(desk: BrokerDesk, *words: str) -> Typed:
    env = {"AGENT_MAILER_DATABASE_URL": desk.settings.database, "AGENT_MAILER_PASSWORD": "another password"}
    return type_in(desk.database.parent, "broker", *words, env=env)


def sample(text: str, name: str) -> float:
    """The value of that line of the numbers."""
    (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found)


# Lines


@ON_A_FILE
def test_each_request_is_a_line_of_json_with_its_id_and_no_secret(tmp_path: Path) -> None:
    process = BrokerProcess(tmp_path / "data")
    try:
        process.start("--access-log", "--log-format", "json", "--trusted-proxy", "127.0.0.2")
        url, ann = process.url, join(process.url, "ann", process.invite)
        agent = register(url, ann, "coder")
        with httpx.Client(base_url=url, trust_env=False) as client:
            given = client.get("/agents", headers={**ann.as_agent, "X-Request-ID": "from-the-proxy.1"})
            assert given.headers["x-request-id"] == "from-the-proxy.1"
            forged = client.get("/health", headers={"X-Request-ID": 'x" forged'})
            assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", forged.headers["x-request-id"])
            client.get("/approve/the-token-of-a-link")
            client.get(f"/agents/{ann.key}", headers=ann.as_agent)
            client.get(f"/messages/inbox/{agent['address']}", params={"agent_id": agent["id"]}, headers=ann.as_agent)
            missing = client.get("/no/such/path")
        for last in (1, 2):
            come_from = httpx.HTTPTransport(local_address=f"127.0.0.{last}")
            with httpx.Client(base_url=url, transport=come_from) as client:
                client.get("/health", headers={"X-Forwarded-For": "10.9.9.9", "X-Request-ID": f"by-{last}"})
        assert process.stop() == 0
        lines = [json.loads(line) for line in process.said().splitlines() if line.startswith("{")]
        by_id = {line["request_id"]: line for line in lines}
        assert len(by_id) == len(lines)
        one = by_id["from-the-proxy.1"]
        assert (one["method"], one["path"], one["status"], one["client"]) == ("GET", "/agents", 200, "127.0.0.1")
        told = [by_id[f"by-{last}"]["client"] for last in (1, 2)]
        assert told == ["127.0.0.1", "10.9.9.9"], "the word of the proxy alone"
        assert by_id[missing.headers["x-request-id"]]["status"] == 404
        assert one["ms"] > 0
        assert one["ts"].endswith("Z")
        for secret in (ann.key, ann.token, "the-token-of-a-link", "correct horse"):
            assert secret not in process.said()
        assert "/approve/…" in process.said()
    finally:
        process.end()


@ON_A_FILE
def test_a_log_format_that_there_is_not_is_told(tmp_path: Path) -> None:
    refused = type_in(tmp_path, "broker", "serve", "--data", tmp_path / "data", "--log-format", "xml")
    assert (refused.status, "--log-format" in refused.err) == (2, True), refused
    assert not (tmp_path / "data").exists()


@ON_A_FILE
def test_what_opens_something_is_in_no_line() -> None:
    said = (
        f"key amk_{'a1' * 32} and Bearer abc.def, eyJhbGciOi.eyJ1c2VyX2lk.sig_-x at"
        " postgresql+psycopg://amp:hunter2@db/amp GET /approve/tokentoken?x=1"
    )
    cleaned = without_secrets(said)
    for secret in ("a1a1", "abc.def", "eyJ1c2Vy", "hunter2", "tokentoken"):
        assert secret not in cleaned
    assert "postgresql+psycopg://amp:…@db/amp" in cleaned
    assert without_secrets("nothing secret: Bearer") == "nothing secret: Bearer"


# Numbers


def test_numbers_say_what_was_asked_and_what_waits(desk: BrokerDesk) -> None:
    ann = desk.person("ann")
    coder = desk.agent(ann, "coder")
    form = {"agent_id": coder["id"], "from_agent": coder["address"], "to_agent": coder["address"], "body": "x"}
    for _ in range(3):
        desk.call("POST", "/messages/send", json=form, headers=ann.header)
    desk.call("GET", "/messages/nothing", 404, headers=ann.header)
    listening = f"/messages/inbox/{coder['address']}/stream"
    watcher = {**ann.header, "X-Agent-Mailer-Watcher": "w" * 16}
    with desk.http.stream("GET", listening, params={"agent_id": coder["id"]}, headers=watcher) as stream:
        assert stream.status_code == 200
        told = desk.http.get("/metrics")
    assert told.status_code == 200
    assert told.headers["content-type"].startswith("text/plain")
    prefix = "agent_mailer_broker_"
    sent = f'{prefix}requests_total{{method="POST",route="/messages/send",status="200"}}'
    assert sample(told.text, sent) == 3
    unknown = f'{prefix}requests_total{{method="GET",route="/messages/{{message_id}}",status="404"}}'
    assert sample(told.text, unknown) == 1
    assert sample(told.text, f'{prefix}request_seconds_count{{route="/messages/send"}}') == 3
    assert sample(told.text, f'{prefix}request_seconds_bucket{{le="+Inf",route="/messages/send"}}') == 3
    for name, many in (
        ("messages", 3),
        ("messages_unread", 3),
        ("threads_waiting", 3),
        ("streams", 1),
        ("watchers", 1),
    ):
        assert sample(told.text, prefix + name) == many, name
    assert sample(told.text, "process_resident_memory_bytes") > 1e6
    # Nobody's name, address or id is a number's.
    assert "coder" not in told.text
    assert "ann" not in re.sub(r"channel", "", told.text)


def test_numbers_are_for_this_machine_or_for_who_has_the_token(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk:
        for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
            refused = desk.http.get("/metrics", headers={header: "for=10.0.0.9"})
            assert refused.status_code == 401, header
    with running_broker(tmp_path, metrics_token="m" * 20) as desk:
        assert desk.http.get("/metrics").status_code == 401
        assert desk.http.get("/metrics", headers={"Authorization": f"Bearer {'m' * 19}"}).status_code == 401
        assert desk.http.get("/metrics", headers={"Authorization": f"Bearer {'m' * 20}"}).status_code == 200


# Who did what


def test_logins_keys_and_changes_are_written_down(desk: BrokerDesk) -> None:
    ann = desk.person("ann")
    desk.call("POST", "/users/login", 401, json={"username": "ann", "password": "wrong password"})
    desk.call("POST", "/users/login", 401, json={"username": "a-secret-typed-here", "password": "x"})
    key = desk.call("POST", "/users/api-keys", 201, json={"name": "k"}, headers=ann.login)
    desk.call("POST", f"/users/api-keys/{key['id']}/deactivate", headers=ann.login)
    desk.call("DELETE", f"/users/api-keys/{key['id']}", 204, headers=ann.login)
    # What was refused has not happened.
    desk.call("DELETE", f"/users/api-keys/{key['id']}", 404, headers=ann.login)
    coder = desk.agent(ann, "coder")
    team = desk.call("POST", "/admin/teams", json={"name": "t"}, headers=ann.login)
    change = {"current_password": PASSWORD, "new_password": "a new password"}
    desk.call("PUT", "/users/me/password", json=change, headers=ann.login)
    told = audit(desk)
    (made_first,) = [about for by, act, about in told if act == "key_added"][:1]
    assert told == [
        ("", "registered", ann.id),
        ("ann", "logged_in", ann.id),
        ("ann", "key_added", made_first),
        ("", "login_refused", ann.id),
        ("ann", "key_added", key["id"]),
        ("ann", "key_stopped", key["id"]),
        ("ann", "key_deleted", key["id"]),
        ("ann", "agent_added", coder["id"]),
        ("ann", "team_added", team["id"]),
        ("ann", "password_changed", ann.id),
    ]
    everything = str(desk.sql("SELECT * FROM audit_log"))
    for secret in ("a-secret-typed-here", PASSWORD, "a new password", ann.key, ann.token, key["raw_key"]):
        assert secret not in everything


@LONG
def test_what_was_done_at_the_command_line_and_as_somebody_else(desk: BrokerDesk) -> None:
    ann, bob = desk.person("ann"), desk.person("bob")
    assert command(desk, "user", "disable", "bob").status == 0
    assert command(desk, "user", "enable", "bob").status == 0
    assert command(desk, "user", "disable", "ann").status == 1
    login = desk.call("POST", f"/superadmin/login-as/{bob.id}", headers=ann.login)["token"]
    bobs = {"Authorization": f"Bearer {login}"}
    # What another process has changed is seen within seconds.
    until(lambda: desk.http.get("/users/me", headers=bobs).status_code == 200, "bob is let in again")
    desk.call("POST", "/users/api-keys", 201, json={"name": "k"}, headers=bobs)
    told = audit(desk, "--user", "bob")
    assert [act for _, act, _ in told[-4:]] == ["user_disabled", "user_enabled", "logged_in_as", "key_added"]
    assert [by for by, _, _ in told[-4:]] == ["command line", "command line", "ann", "bob"]
    listed: list[Any] = command(desk, "audit", "--json", "--limit", "1").json
    assert listed[0]["via"] == f"login of {ann.id}"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", listed[0]["request_id"])
    shown = command(desk, "audit")
    assert "key_added" in shown.out, shown


def test_each_place_has_its_own(desk: BrokerDesk, tmp_path: Path) -> None:
    assert audit(desk) == []
    assert "Nothing yet." in command(desk, "audit").out
    assert database_of(tmp_path) == desk.settings.database
