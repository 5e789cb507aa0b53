"""The real `agent-mailer broker serve`, and what a test asks of it over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from tests.databases import database_of
from tests.desk import until
from tests.typed import COMMAND

PASSWORD = "correct horse"
_URL = re.compile(r"a broker at (http://\S+)")
LAST_WORDS = "Ctrl-C stops it."
_INVITE = re.compile(r"--invite (\w+)")


class Account(NamedTuple):
    """A user of the broker: the token is for people's calls, the key acts for every agent of theirs."""

    name: str
    token: str
    key: str

    @property
    def as_person(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def as_agent(self) -> dict[str, str]:
        return {"X-API-Key": self.key}


class BrokerProcess:
    """A broker over the data folder `data`; started, killed and started again at the same port.

    `database`: where its data is; empty = as the environment says, else in that folder.
    """

    def __init__(self, data: Path, *, port: int = 0, database: str = "") -> None:
        self.data = data
        self.port = port
        self._place = ("--database", database) if database else ()
        self.screen = data.with_name(f"{data.name}.screen")
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Start it and wait for its first lines; returns its URL."""
        assert self.process is None or self.process.poll() is not None
        self.screen.write_bytes(b"")
        place = ("--port", str(self.port), "--data", str(self.data), *self._place)
        with self.screen.open("ab") as stream:
            self.process = subprocess.Popen(
                [COMMAND, "broker", "serve", *place, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **(env or {})},
            )
        until(lambda: LAST_WORDS in self.said() or self.process.poll() is not None, "the broker's last words")  # type: ignore[union-attr]
        found = _URL.search(self.said())
        assert found, self.said()
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2])
        return self.url

    def said(self) -> str:
        return self.screen.read_text("utf-8", "replace")

    @property
    def invite(self) -> str:
        found = _INVITE.search(self.said())
        assert found, self.said()
        return found[1]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM, patience: float = 20) -> int:
        """Ask it to stop; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=patience)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        assert "Traceback" not in self.said(), self.said()


@contextmanager
def broker(data: Path, *arguments: str) -> Iterator[BrokerProcess]:
    """A running broker, ended at the end of the block, over the database that is chosen for the module."""
    database = database_of(data)
    process = BrokerProcess(data, database="" if database.startswith("sqlite") else database)
    try:
        process.start(*arguments)
        yield process
    finally:
        process.end()


def join(url: str, name: str, invite: str) -> Account:
    """Register and log in a person, who makes a key."""
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        body = {"username": name, "password": PASSWORD, "invite_code": invite}
        made = client.post("/users/register", json=body)
        assert made.status_code == 201, made.text
        token = client.post("/users/login", json=body).raise_for_status().json()["token"]
        key = client.post("/users/api-keys", json={"name": "k"}, headers={"Authorization": f"Bearer {token}"})
        return Account(name, token, key.raise_for_status().json()["raw_key"])


def register(url: str, account: Account, name: str, domain: str = "amp.localhost") -> dict[str, Any]:
    """Register the agent `name` of that user; returns it as the broker shows it."""
    with httpx.Client(base_url=url, trust_env=False, timeout=30, headers=account.as_agent) as client:
        body = {
            "name": name,
            "role": "test",
            "system_prompt": "be brief",
            "address": f"{name}@{account.name}.{domain}",
        }
        agent: dict[str, Any] = client.post("/agents/register", json=body).raise_for_status().json()
        return agent
