"""The two databases of a broker, for tests that hold for both: a file, and a PostgreSQL server that the tests start."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.desk import until

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_USER = "amp"
_INIT = ("-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync")
# A crash of the machine loses these databases; a crash of the server does not.
_SETTINGS = ("fsync=off", "unix_socket_directories=", "listen_addresses=127.0.0.1", "max_connections=200")


class Postgres:
    """A server of its own over a temporary folder, on a free port of 127.0.0.1, as an unprivileged user."""

    def __init__(self, base: Path) -> None:
        self._programs = _PLACES[-1]
        self._data = base / "data"
        self._said = base / "said"
        self._password = secrets.token_hex(16)
        # It refuses to run as root.
        self._as: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(base, **self._as)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        word = base / "password"
        word.write_text(self._password)
        subprocess.run(
            [str(self._programs / "initdb"), *_INIT, "-D", str(self._data), "-U", _USER, "--pwfile", str(word)],
            check=True,
            capture_output=True,
            cwd=base,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            extra_groups=[] if self._as else None,
            **self._as,
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        with self._said.open("ab") as said:
            self._process = process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=self._data.parent,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                extra_groups=[] if self._as else None,
                **self._as,
            )

        def is_there() -> bool:
            assert process.poll() is None, self._said.read_text("utf-8", "replace")
            try:
                self.administer("SELECT 1")
            except psycopg.OperationalError:
                return False
            return True

        until(is_there, "the database's start", 30)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: at once, with all its connections, and in order (SIGQUIT: without)."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=30)
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def end(self) -> None:
        if self._process is not None:
            self.stop()

    def administer(self, statement: str) -> list[Any]:
        """Run it in the server's own database."""
        address = f"host=127.0.0.1 port={self.port} user={_USER} password={self._password} dbname=postgres"
        with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def url(self, place: Path) -> str:
        """Of the database that belongs to that folder; an empty one where there is none yet."""
        name = f"of_{hashlib.sha256(str(place).encode()).hexdigest()[:20]}"
        if not self.administer(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.administer(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{_USER}:{self._password}@127.0.0.1:{self.port}/{name}"


_chosen: Postgres | None = None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for this test alone. Without PostgreSQL the test is skipped, except in CI, where it fails."""
    missing = "" if _PLACES else "PostgreSQL is not installed (Debian: the package postgresql)"
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    assert not missing, missing
    base = Path(tempfile.mkdtemp(prefix="am-pg-"))
    server = None
    try:
        server = Postgres(base)
        server.start()
        yield server
    finally:
        if server is not None:
            server.end()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Postgres]:
    """A server for all tests that leave it running."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module", params=["file", pytest.param("postgres", marks=pytest.mark.long)])
def each_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """What brokers of this module's tests keep their data in."""
    global _chosen
    _chosen = request.getfixturevalue("shared_postgres") if request.param == "postgres" else None
    yield
    _chosen = None


ON_A_FILE = pytest.mark.parametrize("each_database", ["file"], indirect=True)
"""For a test of a module that runs on both, and that looks into the file."""


def database_of(place: Path) -> str:
    """The URL of the database that a broker with its data in that folder has."""
    return f"sqlite:///{place / 'broker.db'}" if _chosen is None else _chosen.url(place)


_SINCE_0008 = (
    *("remote_requests", "reports"),
    *("group_messages", "hook_callbacks", "hook_deliveries", "hook_items", "hooks"),
    "team_memories",
    "file_reservations",
    *("channel_messages", "channel_members", "channels"),
    "approval_links",
    "threads",
    "trashed_messages",
    "audit_log",
    "searchable",
    "message_words",
    "sent_counts",
)
AS_OF_0008 = (
    *(f"DROP TABLE IF EXISTS {name}" for name in _SINCE_0008),
    "ALTER TABLE agents DROP COLUMN inbox_total",
    "ALTER TABLE agents DROP COLUMN inbox_unread",
    "DROP INDEX ix_messages_unread",
    "CREATE INDEX ix_messages_waiting ON messages (to_agent_id, is_read, seq)"
    " WHERE is_read = false AND claimed_at IS NULL",
    "CREATE INDEX ix_messages_to_agent_id_messages_is_read_messages_seq ON messages (to_agent_id, is_read, seq)",
    "UPDATE alembic_version SET version_num = '0008'",
)
"""What makes a database of today one of that version: all that came later goes."""
