"""`--broker embedded`: a broker of the team's own begins and ends with it, and keeps its port."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.desk import until
from tests.sizes import LONG
from tests.typed import Typed, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.cli.team.own_broker import end, standing
from agent_mailer.process.handle import send
from agent_mailer.teams.running import watchers

pytestmark = LONG

MADE = ("--runtime", "command", "--command", "sh -c 'cat >/dev/null; echo it is done'", "--template")
SOLO = (*MADE, "solo-with-reviewer")


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the team `shop` will be; what of it runs at the end is ended."""
    (tmp_path / "shop").mkdir()
    folder = tmp_path / "teams" / "shop"
    monkeypatch.setenv("AMP_TEAMS_DIR", str(folder.parent))
    yield folder
    places = {path.name: Workplace(path) for path in folder.glob("agents/*")}
    for process in watchers(places).values():
        send(process, signal.SIGKILL)
    if folder.exists():
        end(folder)


def amp(team: Path, *words: str) -> Typed:
    return type_in(team.parents[1] / "shop", "team", *words)


def logins(home: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((home / ".agent-mailer" / "credentials.json").read_text())[
        "credentials"
    ]
    return found


@LONG
def test_it_begins_and_ends_with_the_team(team: Path, home: Path) -> None:
    made = amp(team, "init", "--broker", "embedded", *SOLO)
    assert (made.status, "a broker of its own" in made.out) == (0, True), made
    assert yaml.safe_load((team / "team.yaml").read_text())["broker_url"] == "embedded"
    assert standing(team) is None, "init leaves nothing running"
    assert (team / "broker").stat().st_mode & 0o777 == 0o700
    assert (team / "broker" / "person.json").stat().st_mode & 0o777 == 0o600
    started = amp(team, "start", "--detach")
    broker = standing(team)
    assert broker is not None, started
    assert f"its broker is at {broker.url}" in started.out
    asked = amp(team, "ask", "do it", "--wait", "60")
    assert (asked.status, asked.out.strip().splitlines()[-1]) == (0, "it is done"), asked
    assert f"(pid {broker.pid};" in amp(team, "status").out
    assert amp(team, "restart").status == 0
    assert standing(team) == broker, "a restart of the watchers is none of its broker"
    # Killed, it comes back at the same place, and its watchers have waited.
    os.kill(broker.pid, signal.SIGKILL)
    until(lambda: standing(team) is None, "its end")
    assert "its broker does not run" in amp(team, "status").out
    unsent = amp(team, "send", "coder", "once more")
    assert (unsent.status, unsent.err.splitlines()[-1]) == (69, f"  fix: amp start --dir {team}"), unsent
    again = amp(team, "start")
    assert (again.status, again.out.count("watches already")) == (0, 2), again
    after = standing(team)
    assert after is not None
    assert (after.url, after.pid != broker.pid) == (broker.url, True)
    assert amp(team, "ask", "once more", "--wait", "60").status == 0
    # Its login is for it alone: a new team with no word of a broker is a folder's.
    assert logins(home)[broker.url]["team"] == str(team)
    assert "no broker is needed" in amp(team, "init", "other", *SOLO).out
    refused = amp(team, "restart", "shop", "--systemd")
    assert (refused.status, "outlive" in refused.err) == (2, True), refused
    stopped = amp(team, "stop", "shop")
    assert (stopped.status, "its broker has ended" in stopped.out, standing(team)) == (0, True, None), stopped
    assert amp(team, "rm", "shop", "--yes").status == 0
    assert (team.exists(), logins(home)) == (False, {})


@LONG
def test_a_port_that_another_has_is_told_and_another_is_taken_over(team: Path) -> None:
    assert amp(team, "init", "--broker-url", "embedded", *SOLO).status == 0
    port = int((team / "broker" / "port").read_text())
    with socket.create_server(("127.0.0.1", port)):
        taken = amp(team, "start", "--detach")
        assert (taken.status, f"127.0.0.1:{port}" in taken.err) == (1, True), taken
        said = re.search(r"or rm (\S+), and: amp up", taken.err)
        assert said is not None, taken
        Path(said[1]).unlink()
        assert amp(team, "up", "--detach").status == 0
        broker = standing(team)
        assert broker is not None
        assert not broker.url.endswith(f":{port}")
        # The agents are those that were there, at the new place.
        assert Workplace(team / "agents" / "shop_coder").config.broker_url == broker.url
        assert amp(team, "ask", "do it", "--wait", "60").status == 0
    # A restart that has no broker leaves those alone that wait for it.
    places = {path.name: Workplace(path) for path in team.glob("agents/*")}
    watching = watchers(places)
    os.kill(broker.pid, signal.SIGKILL)
    until(lambda: standing(team) is None, "its end")
    with socket.create_server(("127.0.0.1", int((team / "broker" / "port").read_text()))):
        taken = amp(team, "restart")
        assert (taken.status, taken.out, watchers(places)) == (1, "", watching), taken
    assert amp(team, "restart").status == 0
    assert amp(team, "ask", "once more", "--wait", "60").status == 0
    assert amp(team, "stop").status == 0
