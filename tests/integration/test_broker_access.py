"""Who gets at what at the broker beside its calls: keys of one agent, cookies, names, hosts, guessing, a full disk."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from sqlalchemy import create_engine, text
from tests.broker_desk import DOMAIN, PASSWORD, BrokerDesk, Person, running_broker
from tests.broker_process import BrokerProcess, broker, join
from tests.databases import ON_A_FILE
from tests.sizes import LONG
from tests.typed import COMMAND

from agent_mailer.broker.messages.inbox import _SOME
from agent_mailer.broker.messages.wire import body_html
from agent_mailer.broker.protocol import Clock
from agent_mailer.broker.users.login import _key

pytestmark = pytest.mark.usefixtures("each_database")

THREAD = "deals"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), login_attempts="5/1 hour") as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


class Bound:
    """An agent with a key that acts for it only."""

    def __init__(self, desk: BrokerDesk, owner: Person, name: str, prompt: str = "") -> None:
        form = {"name": name, "system_prompt": prompt}
        made = desk.call("POST", "/users/me/agents", 201, json=form, headers=owner.login)
        self.desk, self.id, self.address = desk, made["id"], made["address"]
        self.key = {"X-API-Key": made["api_key_plaintext"]}

    def send(self, to: str, status: int = 200, key: str = "", **fields: Any) -> Any:
        form = {"agent_id": self.id, "from_agent": self.address, "to_agent": to, **fields}
        headers = self.key | ({"Idempotency-Key": key} if key else {})
        return self.desk.call("POST", "/messages/send", status, json=form, headers=headers)

    def thread(self, name: str, status: int = 200) -> list[str]:
        found = self.desk.call("GET", f"/messages/thread/{name}", status, headers=self.key)
        return [message["body"] for message in found] if status == 200 else []


def test_a_key_of_one_agent_joins_no_thread_of_others(desk: BrokerDesk, alice: Person) -> None:
    one, two, spy = (Bound(desk, alice, name) for name in ("one", "two", "spy"))
    one.send(two.address, thread_id=THREAD, body="the price")
    said = spy.send(spy.address, 403, thread_id=THREAD, body="let me in")["detail"]
    assert "takes no part in the thread" in said
    spy.thread(THREAD, 404)
    # Who takes part goes on, and a thread that nobody began is anybody's to begin.
    two.send(one.address, thread_id=THREAD, body="taken")
    assert one.thread(THREAD) == ["the price", "taken"]
    spy.send(spy.address, thread_id="another", body="mine")
    # A key for all of them may do what any of them may.
    form = {"agent_id": spy.id, "from_agent": spy.address, "to_agent": one.address, "thread_id": THREAD, "body": "all"}
    desk.call("POST", "/messages/send", json=form, headers=alice.header)
    assert spy.thread(THREAD) == ["the price", "taken", "all"]


def test_nor_one_whose_name_can_be_reckoned_beforehand(desk: BrokerDesk, alice: Person) -> None:
    writer, reader, spy = (Bound(desk, alice, name) for name in ("writer", "reader", "spy2"))
    reckoned = str(uuid.uuid5(uuid.UUID(writer.id), "thread:nightly"))
    spy.send(spy.address, thread_id=reckoned, body="I was first")
    sent = writer.send(reader.address, key="nightly", body="the secret")
    assert sent["thread_id"] != reckoned
    assert spy.thread(reckoned) == ["I was first"]
    assert writer.send(reader.address, key="nightly", body="the secret") == sent, "the same answer again"


def test_of_others_it_knows_the_names_and_not_the_instructions(desk: BrokerDesk, alice: Person) -> None:
    own, other = Bound(desk, alice, "mine-1", "my orders"), Bound(desk, alice, "theirs-1", "SECRET orders")
    listed = {one["id"]: one["system_prompt"] for one in desk.call("GET", "/agents", headers=own.key)}
    assert (listed[own.id], listed[other.id]) == ("my orders", "")
    assert desk.call("GET", f"/agents/{other.id}", headers=own.key)["system_prompt"] == ""
    desk.call("GET", f"/agents/{other.id}/setup", 403, headers=own.key)
    assert "my orders" in desk.call("GET", f"/agents/{own.id}/setup", headers=own.key)["agent_md"]
    assert desk.call("GET", f"/agents/{other.id}", headers=alice.header)["system_prompt"] == "SECRET orders"


def test_a_deleted_agent_sends_no_more(desk: BrokerDesk, alice: Person) -> None:
    gone, other = Bound(desk, alice, "gone"), Bound(desk, alice, "stays")
    desk.call("DELETE", f"/users/me/agents/{gone.id}", headers=alice.login)
    form = {"agent_id": gone.id, "from_agent": gone.address, "to_agent": other.address}
    said = desk.call("POST", "/messages/send", 403, json=form, headers=alice.header)["detail"]
    assert "is deleted" in said


def test_a_name_that_is_taken_for_anothers_is_refused(desk: BrokerDesk, alice: Person) -> None:
    desk.agent(alice, "planner")
    rogue = Bound(desk, alice, "rogue")
    alike = ("human_operator", "Human-Operator", "human.0perator", "p1anner", "Planner", "pl.anner", "planner-")
    for name, status in (*((name, 409) for name in alike), ("p|anner", 400), ("plаnner", 400), ("ｐlanner", 400)):
        wanted = {"address": f"{name}@alice.{DOMAIN}"}
        desk.call("PATCH", f"/agents/{rogue.id}/address", status, json=wanted, headers=rogue.key)
        form = {"name": "x", "role": "", "system_prompt": "", **wanted}
        desk.call("POST", "/agents/register", status, json=form, headers=alice.header)
    assert desk.call("GET", f"/agents/{rogue.id}", headers=rogue.key)["address"] == rogue.address


# The cookie


def for_pages(desk: BrokerDesk, who: Person) -> dict[str, str]:
    answer = desk.http.post("/users/login", json={"username": who.name, "password": PASSWORD})
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


@pytest.mark.parametrize(
    ("said_by_the_browser", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "OURS"}, True),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "OURS"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_with_a_cookie_only_a_page_of_ours_changes_something(
    desk: BrokerDesk, alice: Person, said_by_the_browser: dict[str, str], allowed: bool
) -> None:
    headers = for_pages(desk, alice) | {
        name: desk.url if value == "OURS" else value for name, value in said_by_the_browser.items()
    }
    before = desk.call("GET", "/superadmin/invite-codes", headers=headers)
    desk.call("POST", "/superadmin/invite-codes", 201 if allowed else 403, headers=headers)
    after = desk.call("GET", "/superadmin/invite-codes", headers=headers)
    assert len(after) - len(before) == allowed


def test_logging_out_ends_the_token_at_the_broker(desk: BrokerDesk, alice: Person) -> None:
    cookie = for_pages(desk, alice)
    token = desk.call("POST", "/users/login", json={"username": "alice", "password": PASSWORD})["token"]
    for headers in ({**cookie, "Sec-Fetch-Site": "same-origin"}, {"Authorization": f"Bearer {token}"}):
        desk.call("GET", "/users/me", headers=headers)
        desk.call("POST", "/users/logout", headers=headers)
        assert desk.call("GET", "/users/me", 401, headers=headers)["detail"] == "Invalid or expired token"
        desk.call("POST", "/users/logout", headers=headers)
    desk.call("GET", "/users/me", headers=alice.login)


def test_every_answer_tells_the_browser_what_it_is(desk: BrokerDesk, alice: Person) -> None:
    for path in ("/health", "/nowhere", "/users/me", "/", "/docs", "/?x=%00"):
        answer = desk.http.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Referrer-Policy"] == "no-referrer", path
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"], path


def test_its_documents_ask_no_other_host_for_anything(desk: BrokerDesk) -> None:
    page = desk.http.get("/docs").text
    assert "POST /messages/send" in page
    assert not any(word in page for word in ("<script", "<link", "<img", "src=", "http://", "https://"))
    assert desk.http.get("/redoc").status_code == 404


# Hosts and proxies


@LONG
def test_another_name_than_its_own_is_refused(tmp_path: Path) -> None:
    with (
        broker(tmp_path / "data", "--host-name", "mail.example.org") as served,
        httpx.Client(trust_env=False) as client,
    ):
        port = served.port
        for host, status in (
            ("127.0.0.1", 200),
            (f"localhost:{port}", 200),
            (f"[::1]:{port}", 200),
            ("Mail.Example.org.:443", 200),
            ("evil.example.org", 421),
            (f"127.0.0.1.evil.example.org:{port}", 421),
            ("", 421),
        ):
            answer = client.get(f"{served.url}/health", headers={"Host": host})
            assert answer.status_code == status, (host, answer.text)
        assert "--host-name" in client.get(f"{served.url}/", headers={"Host": "evil"}).json()["detail"]


def guess(served: BrokerProcess, name: str, host: str) -> int:
    form = {"username": name, "password": "wrong password"}
    headers = {"X-Forwarded-For": host}
    return httpx.post(f"{served.url}/users/login", json=form, headers=headers, trust_env=False).status_code


@LONG
def test_a_client_is_who_it_is_and_not_who_it_says(tmp_path: Path) -> None:
    with broker(tmp_path / "data") as served:
        join(served.url, "alice", served.invite)
        found = [guess(served, f"user{n}", f"10.0.0.{n}") for n in range(11)]
        assert (found[:10], found[10]) == ([401] * 10, 429)


@LONG
def test_behind_a_proxy_that_is_trusted_each_has_a_count_of_its_own(tmp_path: Path) -> None:
    with broker(tmp_path / "data", "--trusted-proxy", "127.0.0.1") as served:
        join(served.url, "alice", served.invite)
        assert {guess(served, f"user{n}", f"10.0.0.{n}") for n in range(12)} == {401}
        assert [guess(served, f"name{n}", "10.0.0.99") for n in range(11)][-1] == 429


def test_a_proxy_that_is_none_is_told(tmp_path: Path) -> None:
    words = [COMMAND, "broker", "serve", "--port", "0", "--data", str(tmp_path), "--trusted-proxy", "nginx"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert "'nginx' is no address and no network" in done.stderr


@LONG
def test_strangers_lock_nobody_out_where_they_have_logged_in_before(tmp_path: Path) -> None:
    with broker(tmp_path / "data", "--trusted-proxy", "127.0.0.1") as served:
        join(served.url, "alice", served.invite)

        def log_in(host: str) -> int:
            form = {"username": "alice", "password": "correct horse"}
            headers = {"X-Forwarded-For": host}
            return httpx.post(f"{served.url}/users/login", json=form, headers=headers, trust_env=False).status_code

        assert log_in("10.1.1.1") == 200
        assert [guess(served, "alice", f"10.2.2.{n}") for n in range(11)][-1] == 429
        assert log_in("10.3.3.3") == 429
        assert log_in("10.1.1.1") == 200
        # Which is known over a restart, and bounded there as well.
        served.stop()
        served.start("--trusted-proxy", "127.0.0.1")
        assert [guess(served, "alice", f"10.2.2.{n}") for n in range(11)][-1] == 429
        assert log_in("10.1.1.1") == 200
        assert [guess(served, "alice", "10.1.1.1") for n in range(11)][-1] == 429


# Text


@pytest.mark.parametrize("text", ["*a " * 5_000, "`a " * 2_000, "__a" * 2_000, "~~a " * 2_000])
def test_marks_that_take_the_parser_out_of_proportion_are_shown_as_they_are(text: str) -> None:
    assert body_html(text).startswith("<pre>")


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("![a cat](https://tracker.example/cat.png)", '<p><a href="https://tracker.example/cat.png" rel="noopener'),
        ('<img src="https://tracker.example/p.gif">', ""),
        ("[in](/admin/delete)", "<p><a rel="),
        ("[in](//evil.example/x)", "<p><a rel="),
        ('<meta http-equiv="refresh" content="0;url=https://evil.example">', ""),
        ("[s](javascript:alert(1))", "<p>[s](javascript:alert(1))</p>"),
        ("[ok](https://example.org/)", '<p><a href="https://example.org/" rel="noopener noreferrer">ok</a></p>'),
    ],
)
def test_nothing_of_elsewhere_is_loaded_and_no_link_leads_into_the_page(markdown: str, shown: str) -> None:
    html = body_html(markdown).strip()
    assert html.startswith(shown), html
    assert "<img" not in html
    assert "<meta" not in html


# What is stored


@ON_A_FILE
def test_messages_are_found_by_their_ids_whoever_has_more_of_them(desk: BrokerDesk) -> None:
    engine = create_engine(f"sqlite:///{desk.database}")
    wanted = _SOME.params(ids=["a", "b", "c", "d"], user="u")
    statement = str(wanted.compile(engine, compile_kwargs={"literal_binds": True}))
    with engine.connect() as connection:
        plan = " ".join(str(row[3]) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
    engine.dispose()
    assert "sqlite_autoindex_messages_1 (id=?)" in plan
    assert "user_id" not in plan


def test_the_time_of_the_broker_never_goes_back() -> None:
    class Day:
        wall, steady = 1_000_000.0, 50.0

    day = Day()
    clock = Clock(lambda: day.wall, lambda: day.steady)
    first = clock.now()
    day.wall, day.steady = day.wall - 86_400, day.steady + 10
    assert (clock.now() - first).total_seconds() == pytest.approx(10)
    day.wall += 200_000
    assert clock.now().timestamp() == pytest.approx(day.wall)
    # A broker that starts while the clock is behind what it stored goes on from there.
    later = Clock(lambda: day.wall - 3_600, lambda: day.steady)
    later.not_before(clock.now().isoformat())
    assert later.now() == clock.now()
    later.not_before("no moment")
    later.not_before("9999-01-01T00:00:00+00:00")
    assert later.now() == clock.now()


def test_a_token_of_before_the_clock_was_set_back_counts(desk: BrokerDesk, alice: Person) -> None:
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    claims["iat"] += 86_400
    of_the_future = jwt.encode(claims, _key(desk.settings.secret), "HS256")
    assert desk.call("GET", "/users/me", headers={"Authorization": f"Bearer {of_the_future}"})["username"] == "alice"


@pytest.mark.parametrize("path", ["/messages/send", "/files/upload"])
@pytest.mark.parametrize("says_its_length", [True, False])
@pytest.mark.parametrize("megabytes", [12, pytest.param(100, marks=LONG)])
def test_too_large_a_body_is_told_and_no_connection_reset(
    desk: BrokerDesk, alice: Person, path: str, says_its_length: bool, megabytes: int
) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n\x89PNG\r\n\x1a\n'
    pieces = [part, *[b"x" * 1_000_000] * megabytes]
    length = f"Content-Length: {sum(map(len, pieces))}" if says_its_length else "Transfer-Encoding: chunked"
    kind = "application/json" if path == "/messages/send" else "multipart/form-data; boundary=b"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {alice.key}\r\n"
        f"Content-Type: {kind}\r\n{length}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(desk.url.rpartition(":")[2])), timeout=60) as client:
        client.sendall(head.encode())
        for piece in pieces:
            client.sendall(piece if says_its_length else b"%x\r\n%s\r\n" % (len(piece), piece))
        if not says_its_length:
            client.sendall(b"0\r\n\r\n")
        answer = b""
        while piece := client.recv(65_536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than" in answer


FULL = """\
set -e
mount -t tmpfs -o size=2m,mode=700 tmpfs "$DATA"
cp -a "$KEPT"/. "$DATA"/
cat /dev/zero > "$DATA/filler" 2> /dev/null || true
exec "$PYTHON" "$PROBE"
"""
PROBE = """\
import os, signal, subprocess, sys, time, urllib.request
words = [os.environ["COMMAND"], "broker", "serve", "--port", "0", "--data", os.environ["DATA"]]
served = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
lines = []
for line in served.stdout:
    lines.append(line)
    if "Ctrl-C stops it" in line:
        break
url = next((line.split()[-1] for line in lines if "a broker at http" in line), "")
if url:
    print("health", urllib.request.urlopen(url + "/health").status)
    served.send_signal(signal.SIGTERM)
print("ended", served.wait(), "".join(lines))
"""


@ON_A_FILE
@LONG
@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="no mount namespace can be made here (needs root and unshare)",
)
def test_on_a_full_disk_it_starts_with_what_it_has(tmp_path: Path) -> None:
    kept, data, probe = tmp_path / "kept", tmp_path / "data", tmp_path / "probe.py"
    with broker(kept) as served:
        join(served.url, "alice", served.invite)
        secret = (kept / "secret").read_text()
        served.kill()
    data.mkdir()
    probe.write_text(PROBE)
    env = {"DATA": str(data), "KEPT": str(kept), "PROBE": str(probe), "PYTHON": sys.executable, "COMMAND": COMMAND}
    words = ["unshare", "-m", "sh", "-c", FULL]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120)
    if "mount" in done.stderr and done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert "health 200" in done.stdout, done
    assert "ended 0" in done.stdout, done
    assert "Traceback" not in done.stdout
    assert (kept / "secret").read_text() == secret


def test_a_damaged_secret_is_told_without_advice_that_throws_it_away(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    words = [COMMAND, "broker", "serve", "--port", "0", "--data", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert "is damaged" in done.stderr
    assert "rm " not in done.stderr
    assert shlex.quote(str(tmp_path / "secret")) in done.stderr
