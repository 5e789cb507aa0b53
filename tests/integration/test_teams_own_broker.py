"""A broker of the team's own, begun: what it is told, how it is asked, and whose login at it is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from tests.broker_desk import PASSWORD, BrokerDesk, Person
from tests.sizes import LONG
from tests.typed import COMMAND

from agent_mailer.broker.data import find_data, held, make_database
from agent_mailer.broker.tables import users
from agent_mailer.broker.users.login import Passwords
from agent_mailer.broker.users.rows import find_login
from agent_mailer.cli.broker.database import look
from agent_mailer.cli.team.own_broker import log_in_there
from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.setup import logins
from agent_mailer.teams import embedded
from agent_mailer.teams.embedded import _listens


@contextmanager
def serving_health() -> Iterator[str]:
    """What answers each request with 200, as a broker that is well answers for its health."""

    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Well) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_it_hears_of_no_other_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, told = tmp_path / "bin" / "agent-mailer", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nenv >>{told}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    broker = ("DATABASE_URL", "UPLOAD_DIR", "SECRET_KEY", "DOMAIN", "HOST_NAMES", "TRUSTED_PROXIES", "METRICS_TOKEN")
    for name in ("MINE", "DATABASE_URL", *(f"AGENT_MAILER_{one}" for one in broker)):
        monkeypatch.setenv(name, "theirs")
    with pytest.raises(MailerError, match="the team's broker ended"):
        embedded.begin(tmp_path / "shop", Disk(), lambda _: None)
    embedded.require_user(tmp_path / "shop", embedded.person_of(tmp_path / "shop", Disk()))
    assert [line for line in told.read_text().splitlines() if line.endswith("=theirs")] == ["MINE=theirs"] * 2


def test_it_is_asked_directly_whatever_proxy_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with serving_health() as url:
        assert _listens(url)
    assert not _listens(proxy)


_MAKES_IT = """\
import sys
from pathlib import Path
from agent_mailer.disk import Disk
from agent_mailer.teams import embedded
sys.executable = sys.argv[1]
directory = Path(sys.argv[2])
embedded.require_user(directory, embedded.person_of(directory, Disk()))
"""


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=LONG)])
def test_who_is_broken_off_around_its_user_lets_the_next_one_in(tmp_path: Path, moment: str) -> None:
    """Killed at that moment: the file says who it is, and the broker has heard of nobody, or of just this one."""
    directory, program = tmp_path / "shop", tmp_path / "bin" / "agent-mailer"
    for folder in (directory / "broker", program.parent):
        folder.mkdir(parents=True)
    done = f'"{COMMAND}" "$@"\n' if moment == "after" else ""
    program.write_text(f"#!/bin/sh\n{done}kill -9 $PPID\n")
    program.chmod(0o755)
    words = [sys.executable, "-c", _MAKES_IT, str(program.with_name("python")), str(directory)]
    killed = subprocess.run(words, check=False, env={**os.environ, "PATH": "/usr/bin:/bin"})
    assert killed.returncode == -signal.SIGKILL
    person = embedded.person_of(directory, Disk())
    embedded.require_user(directory, person)
    found = look(
        find_data(directory / "broker", None, {}), lambda c: find_login(c, users.c.username == person.username)
    )
    assert found is not None
    assert asyncio.run(Passwords().verify(found.password_hash, person.password))


def test_a_port_that_its_beginner_did_not_live_to_keep_is_kept_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    standing = embedded.Standing("http://127.0.0.1:23456", 1)
    assert embedded.url_of(tmp_path) == embedded.EMBEDDED
    assert embedded.begin(tmp_path, Disk(), lambda _: standing) == standing
    assert embedded.url_of(tmp_path) == standing.url, "its agents are told of no other at its next beginning"


@pytest.mark.parametrize(
    "other", [None, logins.Login("http://other", "ann", "token", "key", "id")], ids=["first", "second"]
)
def test_a_login_there_is_the_teams_alone_and_another_teams_mail_comes_to_no_such_broker(
    tmp_path: Path, home: Path, desk: BrokerDesk, alice: Person, other: logins.Login | None
) -> None:
    """It ends with its team."""
    if other is not None:
        logins.keep_login(home, other, Disk())
    folder = tmp_path / "shop"
    data = find_data(embedded.folder_of(folder), None, {})
    make_database(data)
    person = msgspec.json.encode(embedded.Person(alice.name, PASSWORD))
    Disk().replace(embedded.folder_of(folder) / "person.json", person, sync=Sync.NONE)
    with held(data, desk.url):
        made = log_in_there(folder)
        assert log_in_there(folder) == made, "who is logged in there has no other login each time"
    assert (logins.find_login(home, desk.url), made.username) == (made, alice.name)
    if other is not None:
        assert logins.find_login(home) == other
    else:
        with pytest.raises(ConfigFault, match="no default broker"):
            logins.find_login(home)
