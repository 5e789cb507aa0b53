"""An error of each class on a real terminal: what is wrong, where, and the command that mends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND

from agent_mailer.state.lock import holder_of

pytestmark = LONG

INIT = ("init", "--no-interactive", "--runtime", "command", "--command", "cat", "--permission-mode", "plan")


class Refuses(BaseHTTPRequestHandler):
    """A broker that knows nobody."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"detail": "Invalid API key"}')

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def refusing_broker() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(workdir: Path, *words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and screen of a command on a terminal, with its colours as escapes."""
    with terminal([COMMAND, *words], workdir, env, width=300) as screen:
        status = screen.until_ended()
        return status, screen.screen(escapes=True)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("words", "wrong", "fix"),
    [
        (("statsu",), "no command 'statsu'; did you mean status", "agent-mailer --help"),
        (("turns", "show"), "Missing argument 'TURN'", "agent-mailer turns show --help"),
        (("status", "--jsno"), "--jsno", "agent-mailer status --help"),
        (("dead-letter", "retry"), "name what is meant, or give --all", "agent-mailer dead-letter list"),
    ],
)
def test_usage(desk: Desk, words: tuple[str, ...], wrong: str, fix: str) -> None:
    status, shown = look(desk.workdir, *words)
    assert status == 2
    assert "\x1b[31merror:" in shown
    assert wrong in shown
    assert fix in shown


def test_no_word_is_broken_at_the_edge_and_the_command_stays_one_line(desk: Desk) -> None:
    words = ("status", "--workdir", "no such folder", "--json-of-everything-that-there-is")
    _, whole = look(desk.workdir, *words, env={"NO_COLOR": "1"})
    message, fix = whole.split("\n")
    with terminal([COMMAND, *words], desk.workdir, {"NO_COLOR": "1"}, width=44) as screen:
        screen.until_ended()
        narrow, unwrapped = screen.screen(), screen.everything()
    assert max(map(len, narrow.split("\n"))) <= 44
    assert unwrapped.rstrip("\n").endswith(fix)
    *lines, last = unwrapped.rstrip("\n").split("\n")
    assert (" ".join(lines), last) == (message, fix)
    assert len(lines) > 1


def test_configuration(tmp_path: Path) -> None:
    status, shown = look(tmp_path, "watch", "--no-interactive")
    assert status == 78
    for words in ("error:", "config.toml", "runtime (--runtime:", "permission_mode (--permission-mode:", "fix:"):
        assert words in shown


def test_credentials(tmp_path: Path) -> None:
    with refusing_broker() as url:
        env = {"AGENT_MAILER_API_KEY": "amk_of_nobody"}
        status, shown = look(tmp_path, *INIT, "--broker-url", url, "--address", "coder", env=env)
    assert status == 77
    assert "error:" in shown
    assert "fix:" in shown
    assert "amk_of_nobody" not in shown
    assert not (tmp_path / ".agent-mailer").exists()


def test_busy(desk: Desk) -> None:
    with desk.watching() as watcher:
        until(lambda: holder_of(desk.state / ".lock"), "the watcher")
        status, shown = look(desk.workdir, "watch", env={"NO_COLOR": "1"})
    assert status == 75
    assert f"pid {watcher.pid}" in shown
    assert "fix: agent-mailer status" in shown
    assert "\x1b[3" not in shown


def test_unavailable(desk: Desk) -> None:
    status, shown = look(desk.workdir, *INIT, "--broker-url", "http://127.0.0.1:1", "--api-key", "amk_x")
    assert status == 69
    assert "http://127.0.0.1:1" in shown
    desk.configure(command=["no-such-program"])
    status, shown = look(desk.workdir, "verify")
    assert status == 69
    assert "no-such-program" in shown
    assert "fix:" in shown
