"""`amp login`, `logout`, `whoami` and a team at a broker where the words, the broker or the login are wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker_desk import PASSWORD, BrokerDesk, running_broker
from tests.broker_process import PASSWORD as WORD
from tests.broker_process import broker as running_server
from tests.broker_process import join
from tests.desk import until
from tests.sizes import LONG
from tests.team_desk import TeamDesk, team_desk

pytestmark = LONG


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeamDesk]:
    with team_desk(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker")) as found:
        found.person("ann")
        yield found


def nobody() -> str:
    """The URL of a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@LONG
@pytest.mark.parametrize(
    ("words", "password", "status", "said"),
    [
        (("not a url", "ann"), PASSWORD, 2, "http://"),
        (("ftp://x", "ann"), PASSWORD, 2, "http://"),
        (("{url}",), PASSWORD, 2, "amp login BROKER USER"),
        (("{url}", "ann"), "", 2, "$AMP_PASSWORD"),
        (("{url}", "ann"), "wrong", 77, "amp login"),
        (("{url}", "änn ohne Land\n"), PASSWORD, 77, "amp login"),
        (("{url}", "a" * 5000), PASSWORD, 1, "at most 200"),
        (("{nobody}", "ann"), PASSWORD, 69, "{nobody}"),
    ],
)
def test_a_login_that_cannot_be_is_told_and_keeps_nothing(
    desk: TeamDesk, broker: BrokerDesk, home: Path, words: tuple[str, ...], password: str, status: int, said: str
) -> None:
    urls = {"url": broker.url, "nobody": nobody()}
    env = {"AMP_PASSWORD": password} if password else {}
    done = desk.amp("login", *(word.format(**urls) for word in words), env=env)
    assert (done.status, said.format(**urls) in done.err) == (status, True), done
    assert "Traceback" not in done.err
    assert not (home / ".agent-mailer" / "credentials.json").exists()


@LONG
def test_a_login_that_counts_no_more_and_a_broker_that_is_down(desk: TeamDesk, home: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "broker") as server:
        join(server.url, "ann", server.invite)
        assert desk.amp("login", server.url, "ann", env={"AMP_PASSWORD": WORD}).status == 0
        file = home / ".agent-mailer" / "credentials.json"
        desk.made("--detach", verb="up")
        kept = json.loads(file.read_text())
        good = kept["credentials"][server.url]["token"]
        kept["credentials"][server.url]["token"] = "e30.e30.x"
        file.write_text(json.dumps(kept))
        assert f"no longer logged in (amp login {server.url})" in desk.amp("whoami").out
        stale = desk.amp("up", "--detach")
        assert (stale.status, "amp login" in stale.err) == (77, True), stale
        # Its agents have keys of their own, and go on.
        assert len(desk.watching()) == 2
        assert desk.amp("ask", "do it", "--wait", "60").status == 0
        kept["credentials"][server.url]["token"] = good
        file.write_text(json.dumps(kept))
        assert desk.amp("stop").status == 0
        server.kill()
        down = desk.amp("up", "--detach")
        assert (down.status, server.url in down.err) == (69, True), down
        assert not desk.watching()
        # What is made already is started, and waits for its broker.
        assert desk.amp("start", "--detach").status == 0
        shown = desk.amp("status")
        assert (shown.status, server.url in shown.out) == (1, True), shown
        assert "cannot be asked" in desk.amp("whoami").out
        server.start()
        until(lambda: desk.amp("status").status == 0, "it is back")
        assert desk.amp("ask", "once more", "--wait", "60").status == 0
        server.kill()
        assert desk.amp("stop").status == 0
        gone = desk.amp("logout")
        assert (gone.status, "could not be told" in gone.out) == (0, True), gone
        assert desk.amp("whoami").out.startswith("nobody is logged in")
        twice = desk.amp("logout")
        assert (twice.status, "amp login" in twice.err) == (78, True), twice


@LONG
def test_without_tmux_and_without_a_terminal(desk: TeamDesk, tmp_path: Path) -> None:
    desk.made()
    lone = {"PATH": str(tmp_path / "nothing")}
    no_terminal = desk.amp("attach")
    assert (no_terminal.status, "needs a terminal" in no_terminal.err) == (2, True), no_terminal
    assert desk.amp("start", env=lone).status == 0, "processes, without a word of tmux"
    assert "(detached)" in desk.amp("start", env=lone).out
    assert desk.amp("stop", env=lone).status == 0
    assert not desk.watching()
