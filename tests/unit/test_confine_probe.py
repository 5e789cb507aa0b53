"""What is tried inside of a sandbox, where it depends on more than the kernel's word."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from agent_mailer.confine import probe


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A proxy's address at which nobody listens yet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://me:word@127.0.0.1:{found.getsockname()[1]}")
        yield found


def test_a_proxy_that_begins_beside_it_is_waited_for(bound: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def answers() -> None:
        with bound.accept()[0] as one:
            asked.append(one.recv(1000))
            one.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n")

    proxy = threading.Thread(target=answers)

    def begins(_: float) -> None:
        if proxy.ident is None:
            bound.listen()
            proxy.start()

    monkeypatch.setattr(time, "sleep", begins)
    assert probe.answer("proxy", "4711") == ""
    proxy.join()
    assert asked[0].startswith(b"CONNECT 127.0.0.1:4711 HTTP/1.1\r\n")


def test_one_that_never_begins_is_told(bound: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound.getsockname()
    monkeypatch.setattr(probe, "BEGINS", 0.05)
    assert probe.answer("proxy", "4711") == os.strerror(errno.ECONNREFUSED)
