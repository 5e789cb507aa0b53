"""A broker of the team's own, begun: what it is told, and how it is asked."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
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
    embedded.person_of(tmp_path / "shop", Disk())
    assert [line for line in told.read_text().splitlines() if line.endswith("=theirs")] == ["MINE=theirs"] * 2


def test_it_is_asked_directly_whatever_proxy_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with serving_health() as url:
        assert _listens(url)
    assert not _listens(proxy)
