"""`agent-mailer broker …`: the process, its data, and what its owner does without curl."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.broker_process import PASSWORD, BrokerProcess, broker, join, register
from tests.desk import until
from tests.pages import PROJECT
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.broker.data import find_data, is_loopback, secret_of
from agent_mailer.errors import ConfigFault

GIVEN = {"AGENT_MAILER_PASSWORD": PASSWORD}
STOPS_WITHIN = 5.0


def typed(cwd: Path, line: str, stdin: str = "") -> Typed:
    """A command as it was printed."""
    words = shlex.split(line)
    assert words[0] == "agent-mailer", line
    return type_in(cwd, *words[1:], env=GIVEN, stdin=stdin)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BrokerProcess]:
    with broker(tmp_path / "data") as process:
        yield process


def printed_commands(text: str) -> list[str]:
    return re.findall(r"^  (agent-mailer .*)$", text, re.MULTILINE)


@LONG
def test_what_it_prints_at_the_first_start_can_be_typed(served: BrokerProcess, tmp_path: Path) -> None:
    add_user, set_up = printed_commands(served.said())
    added = typed(tmp_path, add_user)
    assert added.status == 0, added
    assert "superadmin" in added.out
    (key,) = set(re.findall(r"amk_[0-9a-f]{64}", added.out))
    # Whoever may list processes sees no key.
    assert set_up == printed_commands(added.out)[0]
    assert set_up.endswith("--api-key -")
    agent = tmp_path / "coder"
    agent.mkdir()
    # Asked for on a terminal; here they are given.
    answers = "--no-interactive --runtime command --command 'echo hello' --permission-mode plan"
    ready = typed(agent, f"{set_up} --address coder {answers}", stdin=f"{key}\n")
    assert ready.status == 0, ready
    watched = typed(agent, "agent-mailer watch --once")
    assert watched.status == 0, watched
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        agents = client.get("/agents", headers={"X-API-Key": key}).json()
        assert [one["address"] for one in agents] == ["coder@alice.amp.localhost"]
        login = {"username": "alice", "password": PASSWORD}
        assert client.post("/users/login", json=login).status_code == 200
    again = typed(tmp_path, add_user.replace("alice", "mallory"))
    assert (again.status, "already used" in again.err) == (1, True), again
    served.stop()
    served.start()
    assert "invite" not in served.said()


@LONG
def test_its_data_are_its_owners_alone_and_survive_a_restart(served: BrokerProcess) -> None:
    ann = join(served.url, "ann", served.invite)
    modes = {path.name: path.stat().st_mode & 0o777 for path in served.data.iterdir()}
    assert modes["broker.db"] == modes["secret"] == modes["broker.db.lock"] == 0o600
    assert modes["broker.db-wal"] == 0o600
    assert modes["uploads"] == 0o700
    assert served.data.stat().st_mode & 0o777 == 0o700
    assert served.stop() == 0
    served.start()
    with httpx.Client(base_url=served.url, trust_env=False, headers=ann.as_person) as client:
        assert client.get("/users/me").json()["username"] == "ann"


@LONG
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=LONG), pytest.param(signal.SIGHUP, marks=LONG)]
)
def test_it_stops_at_once_although_streams_are_open(served: BrokerProcess, number: int) -> None:
    ann = join(served.url, "ann", served.invite)
    agent = register(served.url, ann, "one")
    path = f"/messages/inbox/{agent['address']}/stream?agent_id={agent['id']}"
    headers = {**ann.as_agent, "X-Agent-Mailer-Watcher": "w"}
    with (
        httpx.Client(base_url=served.url, trust_env=False, headers=headers) as client,
        client.stream("GET", path) as stream,
    ):
        lines = stream.iter_lines()
        assert "hello" in next(lines)
        started = time.monotonic()
        assert served.stop(number) == 0, served.said()
        assert time.monotonic() - started < STOPS_WITHIN
        list(lines)  # it ends in order
    assert "Cancel" not in served.said()


@LONG
@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/users/login", "application/json", '{"detail":"The broker is being stopped; try again"}'),
        ("/console/login", "application/x-www-form-urlencoded", "It is being stopped, and may not have taken this"),
    ],
)
def test_who_is_sending_still_when_it_stops_is_told_so(served: BrokerProcess, path: str, kind: str, words: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n"
    head += "Sec-Fetch-Site: same-origin\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(head.encode())
        # Now it waits for the rest, which does not come.
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        assert served.stop() == 0
        told = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert told.startswith("HTTP/1.1 503 ")
    assert words in told
    assert "Traceback" not in served.said()


@LONG
def test_a_database_has_one_broker(served: BrokerProcess, tmp_path: Path) -> None:
    second = type_in(tmp_path, "broker", "serve", "--port", "0", "--data", served.data)
    assert second.status == 75, second
    assert f"pid {served.pid}" in second.err
    assert served.url in second.err
    served.kill()
    served.start()  # a lock that outlived its holder holds nobody up


@LONG
def test_a_busy_port_is_told(served: BrokerProcess, tmp_path: Path) -> None:
    other = type_in(tmp_path, "broker", "serve", "--port", str(served.port), "--data", tmp_path / "other")
    assert (other.status, f"127.0.0.1:{served.port}" in other.err) == (75, True), other
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("words", [("--host", "no.such.host.invalid"), ("--host", "192.0.2.1")])
def test_where_it_cannot_listen_is_told(tmp_path: Path, words: tuple[str, str]) -> None:
    done = type_in(tmp_path, "broker", "serve", "--port", "0", "--data", tmp_path / "d", *words)
    assert (done.status, words[1] in done.err) == (78, True), done


@pytest.mark.parametrize("secret", ["", "short"])
def test_elsewhere_than_on_loopback_it_needs_a_secret(tmp_path: Path, secret: str) -> None:
    done = type_in(
        tmp_path, "broker", "serve", "--host", "0.0.0.0", "--port", "0", env={"AGENT_MAILER_SECRET_KEY": secret}
    )
    assert done.status == 78, done
    assert "openssl rand -hex 32" in done.err


def test_the_secret_is_made_once_and_a_given_one_counts_before_it(tmp_path: Path) -> None:
    data = find_data(tmp_path, None, {})
    made = secret_of(data, "127.0.0.1", {})
    assert len(made) == 64
    assert secret_of(data, "localhost", {}) == made
    given = {"AGENT_MAILER_SECRET_KEY": "g" * 32}
    assert secret_of(data, "::1", given) == secret_of(data, "0.0.0.0", given) == "g" * 32
    (tmp_path / "secret").write_text("cut")
    with pytest.raises(ConfigFault, match="damaged"):
        secret_of(data, "127.0.0.1", {})
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "10.0.0.1", "::", "example.org")] == (
        [True, True, True, False, False, False]
    )


def test_the_database_is_where_flag_or_environment_say(tmp_path: Path, home: Path) -> None:
    path = f"sqlite:///{tmp_path}/else/b.db"
    assert type_in(tmp_path, "broker", "user", "add", "ann", "--database", path, env=GIVEN).status == 0
    for name in ("AGENT_MAILER_DATABASE_URL", "DATABASE_URL"):
        assert "ann" in type_in(tmp_path, "broker", "user", "list", env={name: path}).out
    usual = type_in(tmp_path, "broker", "user", "list")
    assert (usual.status, str(home / ".local/share/agent-mailer/broker") in usual.err) == (78, True), usual
    assert not (home / ".local/share/agent-mailer").exists()
    # At port 1 nobody listens: that may pass.
    away = ("postgresql://u:geheim@127.0.0.1:1/db", 69)
    for url, status in (away, *((url, 78) for url in ("sqlite://", "nonsense", "oracle://u:geheim@x"))):
        refused = type_in(tmp_path, "broker", "user", "list", "--database", url)
        assert refused.status == status, refused
        assert "geheim" not in refused.err


def blocked(folder: Path, name: str) -> dict[str, str]:
    """An environment in which the module is not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{name!r}] = None\n")
    return {"PYTHONPATH": str(folder)}


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    for words in (("serve",), ("user", "list"), ("key", "add", "--user", "x")):
        done = type_in(tmp_path, "broker", *words, env=blocked(tmp_path, "fastapi"))
        assert (done.status, f"pip install --editable '{PROJECT}[broker]'" in done.err) == (78, True), done


@LONG
def test_it_serves_where_the_fast_loop_is_not_installed(tmp_path: Path) -> None:
    process = BrokerProcess(tmp_path / "data")
    try:
        process.start(env=blocked(tmp_path, "uvloop"))
        assert httpx.get(f"{process.url}/health", trust_env=False).json() == {"status": "ok"}
        assert process.stop() == 0
    finally:
        process.end()


class Damage:
    """Ways in which a database cannot be used; each leaves a file at `path`."""

    @staticmethod
    def newer(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.close()

    @staticmethod
    def garbage(path: Path) -> None:
        path.write_bytes(b"no database at all\n" * 100)

    @staticmethod
    def foreign(path: Path) -> None:
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE recipes (id INTEGER)")
        database.close()

    @staticmethod
    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("damage", ["newer", "garbage", "foreign", "folder"])
def test_a_database_that_cannot_be_used_is_told_and_left(tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    assert type_in(tmp_path, "broker", "user", "add", "ann", "--data", data, env=GIVEN).status == 0
    path = data / "broker.db"
    getattr(Damage, damage)(path)
    before = path.read_bytes() if path.is_file() else b""
    for words in (("serve", "--port", "0"), ("user", "list"), ("invite", "add")):
        done = type_in(tmp_path, "broker", *words, "--data", data)
        assert done.status == 78, done
        assert str(path) in done.err
        assert "fix: " in done.err
    assert (path.read_bytes() if path.is_file() else b"") == before


@LONG
def test_a_locked_database_is_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert type_in(tmp_path, "broker", "user", "add", "ann", "--data", data, env=GIVEN).status == 0
    other = sqlite3.connect(data / "broker.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        done = type_in(tmp_path, "broker", "serve", "--port", "0", "--data", data)
    finally:
        other.close()
    assert (done.status, "locked" in done.err) == (75, True), done


@LONG
def test_keys_and_passwords_of_a_running_broker(served: BrokerProcess, tmp_path: Path) -> None:
    ann = join(served.url, "ann", served.invite)
    one, two = register(served.url, ann, "one"), register(served.url, ann, "two")
    place = ("--data", served.data)
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        added = type_in(
            tmp_path, "broker", "key", "add", "--user", "ann", "--agent", one["address"], "--json", *place
        ).json
        assert added["broker_url"] == served.url
        bound = {"X-API-Key": added["api_key"]}
        statuses = [
            client.get(
                f"/messages/inbox/{agent['address']}", params={"agent_id": agent["id"]}, headers=bound
            ).status_code
            for agent in (one, two)
        ]
        assert statuses == [200, 403]
        listed = type_in(tmp_path, "broker", "key", "list", "--user", "ann", *place)
        assert one["address"] in listed.out
        assert added["api_key"] not in listed.out
        revoked = type_in(tmp_path, "broker", "key", "revoke", added["key"]["id"][:8], *place)
        assert revoked.status == 0, revoked
        until(lambda: client.get("/agents", headers=bound).status_code == 401, "the key's end", 10)
        assert "revoked" in type_in(tmp_path, "broker", "key", "list", *place).out

        new = tmp_path / "password"
        new.write_text("another horse\n")
        done = type_in(tmp_path, "broker", "user", "password", "ann", "--password-file", new, *place)
        assert done.status == 0, done
        until(lambda: client.get("/users/me", headers=ann.as_person).status_code == 401, "the login's end", 10)
        login = {"username": "ann", "password": "another horse"}
        assert client.post("/users/login", json=login).status_code == 200
        assert client.get("/agents", headers=ann.as_agent).status_code == 200


@LONG
def test_an_invited_user_and_the_lists(served: BrokerProcess, tmp_path: Path) -> None:
    join(served.url, "ann", served.invite)
    place = ("--data", served.data)
    invite = type_in(tmp_path, "broker", "invite", "add", "--json", *place).json["code"]
    done = type_in(tmp_path, "broker", "user", "add", "bob", "--invite", invite, "--json", *place, env=GIVEN)
    assert done.json["user"]["is_superadmin"] is False
    rows = type_in(tmp_path, "broker", "invite", "list", "--json", *place).json
    assert {row["code"]: bool(row["used_by"]) for row in rows} == {invite: True, served.invite: True}
    assert [row["username"] for row in type_in(tmp_path, "broker", "user", "list", "--json", *place).json] == [
        "ann",
        "bob",
    ]
    keys = type_in(tmp_path, "broker", "key", "list", "--json", *place).json
    assert {row["user"] for row in keys} == {"ann", "bob"}


REFUSED = [
    (("user", "add", "Bob Ross"), 2, "lowercase"),
    (("user", "add", "ann"), 1, "already taken"),
    (("user", "add", "bob", "--invite", "x"), 1, "Invalid or already used"),
    (("user", "add", "bob", "--invite", "PRINTED"), 1, "Invalid or already used"),
    (("user", "password", "bob"), 2, "no user bob"),
    (("key", "add", "--user", "bob"), 2, "no user bob"),
    (("key", "add", "--user", "ann", "--agent", "a@b"), 2, "no agent a@b"),
    (("key", "revoke", "zzz"), 1, "no key"),
    (("key", "revoke", ""), 1, "no key"),
]


def test_what_is_refused_is_told(tmp_path: Path) -> None:
    """PRINTED is a code of before the first user, as the first start prints it: it ends with him, who needs none."""
    printed = type_in(tmp_path, "broker", "invite", "add", "--json", "--data", "d").json["code"]
    assert type_in(tmp_path, "broker", "user", "add", "ann", "--data", "d", env=GIVEN).status == 0
    for words, status, said in REFUSED:
        meant = [printed if word == "PRINTED" else word for word in words]
        done = type_in(tmp_path, "broker", *meant, "--data", "d", env=GIVEN)
        assert (done.status, said in done.err) == (status, True), done


def test_the_first_user_uses_up_the_code_that_was_printed_and_not_one_made_for_somebody_else(tmp_path: Path) -> None:
    """The oldest is what the first start printed, which its log still shows."""
    place = ("--data", "d")
    printed, for_bob = (type_in(tmp_path, "broker", "invite", "add", "--json", *place).json["code"] for _ in range(2))
    assert type_in(tmp_path, "broker", "user", "add", "ann", *place, env=GIVEN).status == 0
    rows = type_in(tmp_path, "broker", "invite", "list", "--json", *place).json
    assert {row["code"]: bool(row["used_by"]) for row in rows} == {printed: True, for_bob: False}


def test_a_password_is_not_guessed_at(tmp_path: Path) -> None:
    silent = type_in(tmp_path, "broker", "user", "add", "ann", "--data", "d")
    assert (silent.status, "--password-file" in silent.err) == (2, True), silent
    short = type_in(tmp_path, "broker", "user", "add", "ann", "--data", "d", "--password-file", "-", stdin="seven77\n")
    assert (short.status, "at least 8" in short.err) == (2, True), short
    for content in (b"\xff\xfe", b"two\nlines\n", b""):
        (tmp_path / "p").write_bytes(content)
        odd = type_in(tmp_path, "broker", "user", "add", "ann", "--data", "d", "--password-file", "p")
        assert odd.status in (1, 78), odd
    good = type_in(tmp_path, "broker", "user", "add", "ann", "--data", "d", "--password-file", "-", stdin="eight888\n")
    assert good.status == 0, good


@LONG
def test_its_page_says_the_first_steps_and_no_code(served: BrokerProcess) -> None:
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "<script" not in page.text
        assert served.invite not in page.text
        assert f"agent-mailer init --broker-url {served.url} --api-key -" in page.text
        assert "agent-mailer broker user add alice --invite CODE" in page.text
        for link in re.findall(r'href="(/[^"]*)"', page.text):
            assert client.get(link).status_code == 200, link
        odd = client.get("/", headers={"Host": 'a"><script>x</script>'})
        assert odd.status_code == 421
        assert "<script" not in odd.headers["content-type"]
        assert odd.headers["X-Content-Type-Options"] == "nosniff"


@LONG
def test_requests_are_logged_only_when_asked_for(tmp_path: Path) -> None:
    for words, logged in (((), False), (("--access-log",), True)):
        with broker(tmp_path / f"data{len(words)}", *words) as process:
            httpx.get(f"{process.url}/health", trust_env=False)
            assert process.stop() == 0
            assert ("GET /health" in process.said()) is logged, process.said()


@LONG
def test_a_client_that_vanishes_does_not_keep_its_stream(tmp_path: Path) -> None:
    """The listening socket gives every connection the limit for unacknowledged bytes."""
    with broker(tmp_path / "data") as process:
        listening = Path(f"/proc/{process.pid}/net/tcp").read_text()
        assert f":{process.port:04X} " in listening
        with socket.create_connection(("127.0.0.1", process.port)) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    from agent_mailer.broker.serving import DEAD_PEER_SECONDS, bind

    with bind("127.0.0.1", 0) as bound:
        limit = bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert limit == DEAD_PEER_SECONDS * 1000
        with (
            socket.create_connection(bound.getsockname()),
            _accept(bound) as accepted,
        ):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == limit


def _accept(bound: socket.socket) -> socket.socket:
    bound.settimeout(10)
    return bound.accept()[0]


@LONG
def test_ctrl_c_during_the_start_shows_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [COMMAND, "broker", "serve", "--port", "0", "--data", str(tmp_path / "d")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until(lambda: (tmp_path / "d").exists(), "the data folder")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert b"Traceback" not in said, said.decode()
    assert process.returncode in (0, 130), said.decode()
