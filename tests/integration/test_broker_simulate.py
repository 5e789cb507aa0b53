"""`broker simulate`: a fleet with a watcher's own client, against a broker of its own or one that it is told of."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.broker_desk import running_broker
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.broker.data import find_data
from agent_mailer.checks.fleet import Carried, Process, reckon
from agent_mailer.cli.broker.simulate import surroundings


@LONG
def test_a_fleet_of_its_own_settles_all_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    theirs = tmp_path / "theirs"
    database = f"sqlite:///{theirs}/x.db"
    env = {"TMPDIR": str(tmp_path), "AGENT_MAILER_API_KEY": "amk_of_somebody", "DATABASE_URL": database}
    done = type_in(tmp_path, "broker", "simulate", "--agents", "12", "--seconds", "1", "--json", env=env)
    assert done.status == 0, done
    few, many = done.json["measured"]
    assert (few["agents"], many["agents"], few["lost"], many["lost"]) == (1, 12, 0, 0)
    assert many["process"]["connections"] >= 12
    assert 0 < many["p50"] <= many["p99"]
    assert many["sends"] > 0
    assert [one for one in tmp_path.iterdir() if "simulate" in one.name] == []
    assert not theirs.exists()


@LONG
def test_a_broker_that_runs_is_asked_only_when_told(tmp_path: Path) -> None:
    with running_broker(tmp_path) as desk:
        ann = desk.person("ann")
        env = {"AGENT_MAILER_API_KEY": ann.key}
        words = ("broker", "simulate", "--agents", "2", "--seconds", "0.5", "--at", desk.url)
        refused = type_in(tmp_path, *words, env=env)
        assert (refused.status, "--fill" in refused.err) == (2, True), refused
        assert desk.sql("SELECT count(*) FROM agents")[0][0] == 0
        done = type_in(tmp_path, *words, "--fill", env=env)
        assert done.status == 0, done
        assert ann.key not in done.out + done.err
        assert "machines" not in done.out, "nothing is known of its process"
        assert desk.sql("SELECT count(*) FROM messages WHERE is_read = :no", no=False)[0][0] == 0


def test_a_fleet_of_its_own_has_no_data_where_the_environment_says(tmp_path: Path) -> None:
    """Another broker's, or another program's, by variables that are set for that."""
    theirs = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/theirs/x.db",
        "AGENT_MAILER_DATABASE_URL": f"sqlite:///{tmp_path}/theirs/y.db",
        "AGENT_MAILER_UPLOAD_DIR": f"{tmp_path}/theirs",
    }
    scratch = find_data(tmp_path / "data", None, {"PATH": "/bin"})
    for name, place in theirs.items():
        assert find_data(tmp_path / "data", None, {name: place}) != scratch, "it would count"
        assert find_data(tmp_path / "data", None, surroundings({name: place})) == scratch, name
    assert surroundings({**theirs, "AGENT_MAILER_SECRET_KEY": "s", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_what_more_agents_take_follows_from_what_more_took() -> None:
    def seen(agents: int, connections: int, idle: float, memory: int) -> Carried:
        process = Process(connections, idle, memory, 0.002)
        return Carried(agents=agents, p50=0.1, p99=0.2, sends=1, settled=1, lost=0, process=process)

    few, many = seen(10, 26, 0.01, 100_000_000), seen(110, 226, 0.03, 110_000_000)
    found = reckon(few, many, 1110)
    assert found is not None
    assert (found.connections, found.memory, round(found.idle, 6)) == (2226, 210_000_000, 0.23)
    assert round(found.a_minute * 1110) == 30_000
    assert reckon(many, many, 1110) is None
