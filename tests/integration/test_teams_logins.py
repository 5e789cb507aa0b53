"""`amp login`, `logout`, `whoami` and a team at a broker where the words, the broker or the login are wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from tests.broker_desk import PASSWORD, BrokerDesk
from tests.broker_process import PASSWORD as WORD
from tests.broker_process import broker as running_server
from tests.broker_process import join
from tests.desk import until
from tests.sizes import LONG
from tests.team_desk import TeamDesk
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.cli.team.login import log_in, logout
from agent_mailer.errors import ConfigFault
from agent_mailer.setup.logins import Login


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
    team_desk: TeamDesk,
    team_broker: BrokerDesk,
    home: Path,
    words: tuple[str, ...],
    password: str,
    status: int,
    said: str,
) -> None:
    team_broker.person("ann")
    urls = {"url": team_broker.url, "nobody": nobody()}
    env = {"AMP_PASSWORD": password} if password else {}
    done = team_desk.amp("login", *(word.format(**urls) for word in words), env=env)
    assert (done.status, said.format(**urls) in done.err) == (status, True), done
    assert "Traceback" not in done.err
    assert not (home / ".agent-mailer" / "credentials.json").exists()


@LONG
def test_a_login_by_amp_is_what_init_takes_and_ends_with_it(
    team_desk: TeamDesk, team_broker: BrokerDesk, home: Path, tmp_path: Path
) -> None:
    """One file, whoever wrote it: `amp login`, `agent-mailer init --from-amp-login` and a team are one person there."""
    ann = team_broker.person("ann")
    lone = tmp_path / "lone"
    lone.mkdir()
    made = (*("--address", "lone", "--runtime", "command", "--command", "cat"), *("--permission-mode", "acceptEdits"))
    nobody = type_in(lone, "init", "--from-amp-login", *made)
    assert (nobody.status, "amp login" in nobody.err) == (78, True), nobody
    assert team_desk.amp("login", team_broker.url, "ann", env={"AMP_PASSWORD": PASSWORD}).status == 0
    done = type_in(lone, "init", "--from-amp-login", *made)
    assert done.status == 0, done
    team_desk.made("--detach", verb="up")
    there = {one["address"].partition("@")[0] for one in team_broker.call("GET", "/agents", headers=ann.header)}
    assert {"lone", "shop_coder", "shop_reviewer"} <= there
    assert Workplace(lone).config.api_key != team_desk.agent("coder").config.api_key
    assert team_desk.amp("logout").status == 0
    gone = type_in(lone, "init", "--from-amp-login", *made)
    assert (gone.status, "amp login" in gone.err) == (78, True), gone
    # What was made by it has a key of its own, and goes on; a person is somebody there by the login alone.
    assert team_desk.amp("status").status == 0
    unknown = team_desk.amp("send", "coder", "work")
    assert (unknown.status, f"amp login {team_broker.url}" in " ".join(unknown.err.split())) == (78, True), unknown


def ways_in(broker: BrokerDesk, login: Login) -> list[int]:
    """How the broker answers who comes by the login's token, and by its key."""
    ways = {"/users/me": ("Authorization", f"Bearer {login.token}"), "/agents": ("X-API-Key", login.api_key)}
    return [broker.http.get(path, headers=dict([header])).status_code for path, header in ways.items()]


def test_who_logs_out_is_nobody_there_any_more_neither_by_login_nor_by_key(
    team_broker: BrokerDesk, capsys: pytest.CaptureFixture[str]
) -> None:
    team_broker.person("ann")
    login = log_in(team_broker.url, "ann", PASSWORD)

    assert ways_in(team_broker, login) == [200, 200]
    logout()
    assert ways_in(team_broker, login) == [401, 401]
    assert capsys.readouterr().out == f"logged out at {team_broker.url}\n"


@pytest.mark.parametrize(("next_one", "its_key"), [("ann", "is there"), ("eve", "is there"), ("ann", "is gone")])
def test_a_login_that_is_replaced_ends_at_its_broker_once_the_next_is_kept(
    team_broker: BrokerDesk, next_one: str, its_key: str
) -> None:
    for name in {"ann", next_one}:
        team_broker.person(name)
    first = log_in(team_broker.url, "ann", PASSWORD)
    if its_key == "is gone":
        header = {"Authorization": f"Bearer {first.token}"}
        assert team_broker.http.delete(f"/users/api-keys/{first.key_id}", headers=header).status_code == 204
    second = log_in(team_broker.url, next_one, PASSWORD)

    assert ways_in(team_broker, first) == [401, 401]
    assert ways_in(team_broker, second) == [200, 200]


def test_a_login_that_could_not_be_kept_is_not_made(team_broker: BrokerDesk, home: Path) -> None:
    ann = team_broker.person("ann")
    file = home / ".agent-mailer" / "credentials.json"
    file.parent.mkdir(mode=0o700)
    file.write_text("{")
    before = team_broker.call("GET", "/users/api-keys", headers=ann.login)
    with pytest.raises(ConfigFault, match="holds no logins"):
        log_in(team_broker.url, "ann", PASSWORD)
    assert team_broker.call("GET", "/users/api-keys", headers=ann.login) == before


@LONG
def test_a_login_that_counts_no_more_and_a_broker_that_is_down(team_desk: TeamDesk, home: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "broker") as server:
        join(server.url, "ann", server.invite)
        assert team_desk.amp("login", server.url, "ann", env={"AMP_PASSWORD": WORD}).status == 0
        file = home / ".agent-mailer" / "credentials.json"
        team_desk.made("--detach", verb="up")
        kept = json.loads(file.read_text())
        good = kept["credentials"][server.url]["token"]
        kept["credentials"][server.url]["token"] = "e30.e30.x"
        file.write_text(json.dumps(kept))
        assert f"no longer logged in (amp login {server.url})" in team_desk.amp("whoami").out
        stale = team_desk.amp("up", "--detach")
        assert (stale.status, "amp login" in stale.err) == (77, True), stale
        # Its agents have keys of their own, and go on.
        assert len(team_desk.watching()) == 2
        assert team_desk.amp("ask", "do it", "--wait", "60").status == 0
        kept["credentials"][server.url]["token"] = good
        file.write_text(json.dumps(kept))
        assert team_desk.amp("stop").status == 0
        server.kill()
        down = team_desk.amp("up", "--detach")
        assert (down.status, server.url in down.err, "the same command again" in down.err) == (69, True, True), down
        assert not team_desk.watching()
        # What is made already is started, and waits for its broker.
        assert team_desk.amp("start", "--detach").status == 0
        shown = team_desk.amp("status")
        assert (shown.status, server.url in shown.out) == (1, True), shown
        assert "cannot be asked" in team_desk.amp("whoami").out
        server.start()
        until(lambda: team_desk.amp("status").status == 0, "it is back")
        assert team_desk.amp("ask", "once more", "--wait", "60").status == 0
        server.kill()
        assert team_desk.amp("stop").status == 0
        gone = team_desk.amp("logout")
        assert (gone.status, "could not be told" in gone.out) == (0, True), gone
        assert team_desk.amp("whoami").out.startswith("nobody is logged in")
        twice = team_desk.amp("logout")
        assert (twice.status, "amp login" in twice.err) == (78, True), twice


@LONG
def test_without_tmux_and_without_a_terminal(team_desk: TeamDesk, tmp_path: Path) -> None:
    team_desk.made()
    lone = {"PATH": str(tmp_path / "nothing")}
    no_terminal = team_desk.amp("attach")
    assert (no_terminal.status, "needs a terminal" in no_terminal.err) == (2, True), no_terminal
    assert team_desk.amp("start", env=lone).status == 0, "processes, without a word of tmux"
    assert "(detached)" in team_desk.amp("start", env=lone).out
    assert team_desk.amp("stop", env=lone).status == 0
    assert not team_desk.watching()
