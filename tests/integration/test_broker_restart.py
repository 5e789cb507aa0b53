"""A broker whose socket a service manager holds is started anew: nobody is refused, and no stream misses anything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.broker_process import LAST_WORDS, PASSWORD
from tests.desk import until
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

PATIENCE = 120.0
"""Seconds; whoever asks while nobody answers waits as long as a start takes."""


def given(number: int, data: Path, *words: str) -> list[str]:
    """A broker to which the descriptor of that number is given as a service manager does it."""
    begins = f'exec 3<&{number}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    return ["/bin/bash", "-c", begins, "-", COMMAND, "broker", "serve", "--data", str(data), *words]


class Kept:
    """A broker that listens at a socket of ours, as below a socket unit."""

    def __init__(self, listening: socket.socket, data: Path, *words: str) -> None:
        self._listening = listening
        self._options = words
        self._data = data
        self._said = data.with_name("said")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.begin()
        assert LAST_WORDS in self.words(), self.words()

    def begin(self) -> None:
        """Returns when it has said its last words, or has ended."""
        number = self._listening.fileno()
        self._said.write_bytes(b"")
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                given(number, self._data, *self._options),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[number],
            )
        until(lambda: LAST_WORDS in self.words() or self.process.poll() is not None, "the broker's last words")  # type: ignore[union-attr]

    def words(self) -> str:
        return self._said.read_text("utf-8", "replace")

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.words()
        assert "Traceback" not in self.words()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def kept(tmp_path: Path, *words: str) -> Iterator[tuple[Kept, str]]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        broker = Kept(listening, tmp_path / "data", *words)
        try:
            broker.start()
            yield broker, f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            broker.end()


@LONG
def test_who_connects_while_it_is_started_anew_waits_and_no_stream_misses_a_message(tmp_path: Path) -> None:
    with kept(tmp_path) as (broker, url):
        assert url in broker.words()
        env = {"AGENT_MAILER_PASSWORD": PASSWORD}
        added = type_in(tmp_path, "broker", "user", "add", "ann", "--data", tmp_path / "data", "--json", env=env)
        header = {"X-API-Key": added.json["api_key"]}
        with httpx.Client(base_url=url, trust_env=False, headers=header, timeout=60) as client:
            form = {"name": "coder", "role": "r", "system_prompt": "s"}
            coder = client.post("/agents/register", json=form).raise_for_status().json()
        follower = _Follower(url, header, coder)
        sender = _Sender(url, header, coder)
        follower.start()
        sender.start()
        try:
            for _ in range(2):
                seen = len(follower.found)
                until(lambda seen=seen: len(follower.found) > seen + 3, "mail at the follower", PATIENCE)  # type: ignore[misc]
                streams = follower.streams
                broker.stop()
                # Nobody listens now, and nobody is refused.
                broker.start()
                until(lambda streams=streams: follower.streams > streams, "a new stream", PATIENCE)  # type: ignore[misc]
            sender.over.set()
            sender.join(PATIENCE)
            until(lambda: len(follower.found) >= len(sender.sent), "the last mail at the follower", PATIENCE)
        finally:
            sender.over.set()
            follower.over.set()
            sender.join(PATIENCE)
            follower.join(PATIENCE)
        assert sender.fault is None
        assert follower.fault is None
        assert follower.streams > 2
        # Each once, in the order in which they were taken.
        assert follower.found == sender.sent


class _Loop(threading.Thread):
    """Goes on over broken connections; one that is refused is a fault."""

    def __init__(self, url: str, header: dict[str, str], agent: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.fault: BaseException | None = None
        self.url = url
        self.client = httpx.Client(base_url=url, trust_env=False, headers=header, timeout=PATIENCE)
        self.agent = agent

    def run(self) -> None:
        with self.client:
            while not self.over.is_set():
                try:
                    self.once()
                except httpx.ConnectError as fault:
                    self.fault = fault
                    return
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    continue  # one that was open ended with its broker

    def once(self) -> None:
        raise NotImplementedError


class _Sender(_Loop):
    def __init__(self, url: str, header: dict[str, str], agent: dict[str, str]) -> None:
        super().__init__(url, header, agent)
        self.sent: list[str] = []
        self.key = str(uuid.uuid4())

    def once(self) -> None:
        form = {"agent_id": self.agent["id"], "from_agent": self.agent["address"], "to_agent": self.agent["address"]}
        answer = self.client.post("/messages/send", json=form, headers={"Idempotency-Key": self.key})
        if answer.status_code == 200:
            self.sent.append(answer.json()["id"])
            self.key = str(uuid.uuid4())


class _Follower(_Loop):
    def __init__(self, url: str, header: dict[str, str], agent: dict[str, str]) -> None:
        super().__init__(url, header, agent)
        self.found: list[str] = []
        self.cursor = 0
        self.streams = 0

    def once(self) -> None:
        path, who = f"/messages/inbox/{self.agent['address']}", {"agent_id": self.agent["id"]}
        headers = {"X-Agent-Mailer-Watcher": "w" * 16, "Last-Event-ID": str(self.cursor)}
        with self.client.stream("GET", f"{path}/stream", params=who, headers=headers) as stream:
            if stream.status_code != 200:
                return
            self.streams += 1
            for line in stream.iter_lines():
                if line.startswith(("event: ", ":")):
                    listed = httpx.get(
                        f"{self.url}{path}",
                        params={**who, "after": self.cursor},
                        headers=self.client.headers,
                        trust_env=False,
                        timeout=PATIENCE,
                    )
                    if listed.status_code == 200:
                        self.found += [one["id"] for one in listed.json()["messages"]]
                        self.cursor = listed.json()["cursor"]
                if self.over.is_set():
                    return


def test_a_broker_that_this_machine_alone_reaches_answers_to_no_strangers_name(tmp_path: Path) -> None:
    """As in a container that listens everywhere; any page in a browser here can have a name that leads to it."""
    with kept(tmp_path, "--host", "0.0.0.0", "--published-on-loopback") as (_, url):
        for host, ours in (("localhost:9800", True), ("evil.example", False)):
            answer = httpx.get(f"{url}/health", headers={"Host": host}, trust_env=False, timeout=PATIENCE)
            assert answer.is_success is ours, (host, answer)


def test_what_is_no_listening_socket_is_told(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        done = subprocess.run(
            given(file.fileno(), tmp_path / "data"),
            pass_fds=[file.fileno()],
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ},
        )
    assert done.returncode == 78, done
    assert b"service manager's socket" in done.stderr
    assert b"Traceback" not in done.stderr


def test_at_a_given_socket_that_others_reach_it_needs_a_secret(tmp_path: Path) -> None:
    """The socket unit says where it listens, and not the command."""
    with socket.create_server(("0.0.0.0", 0)) as listening:
        broker = Kept(listening, tmp_path / "data")
        try:
            broker.begin()
            assert broker.process is not None
            assert (broker.process.poll(), "openssl rand -hex 32" in broker.words()) == (78, True), broker.words()
        finally:
            broker.end()
