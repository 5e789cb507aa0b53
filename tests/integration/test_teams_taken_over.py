"""A team as the existing launcher has left it, at a broker: `amp up` makes it ours, with its keys and its mail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.broker_desk import PASSWORD, BrokerDesk, Person, running_broker
from tests.integration.test_takeover import AGENT_MD, CONFIG
from tests.sizes import LONG
from tests.team_desk import ANSWERS, TeamDesk, team_desk

pytestmark = LONG

ROLES = ("planner", "coder", "reviewer", "runner")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeamDesk]:
    with team_desk(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker")) as found:
        yield found


def leave(desk: TeamDesk, broker: BrokerDesk, ann: Person) -> dict[str, dict[str, Any]]:
    """Its folder with all that the launcher writes; the agents by role, each with a key of its own."""
    made = {role: broker.own_agent(ann, f"shop_{role}") for role in ROLES}
    broker.call("POST", "/admin/teams", json={"name": "shop"}, headers=ann.login)
    for role, agent in made.items():
        workdir = desk.team / "agents" / f"shop_{role}"
        state = workdir / ".agent-mailer"
        state.mkdir(parents=True, mode=0o700)
        words = {**agent, "url": broker.url, "key": agent["api_key_plaintext"]}
        config = CONFIG.format(**words).replace('agent_name = "coder"', f'agent_name = "shop_{role}"')
        (state / "config.toml").write_text(config)
        (state / "config.toml").chmod(0o600)
        (workdir / "AGENT.md").write_text(AGENT_MD.format(**words).replace("**Name**: coder", f"**Name**: shop_{role}"))
        (workdir / "project").symlink_to(desk.project)
    shape = {
        "team": "shop",
        "broker_url": broker.url,
        "runtime": "agent-mailer watch",
        "agent_runtime": "command",
        "permission_mode": "acceptEdits",
        "project_dir": str(desk.project),
        "agents": [
            {"name": f"shop_{role}", "role": role, "description": f"is {role}", "system_prompt": f"You are {role}.\n"}
            for role in ROLES
        ],
    }
    (desk.team / "team.yaml").write_text("# Written by amp\n" + yaml.safe_dump(shape, sort_keys=False))
    for name in ("start-team.sh", "stop-team.sh"):
        (desk.team / name).write_text("#!/bin/sh\ntmux new-session -d -s amp-shop agent-mailer watch\n")
        (desk.team / name).chmod(0o755)
    return made


@LONG
def test_a_team_as_the_launcher_left_it_goes_on_with_its_keys_and_its_mail(desk: TeamDesk, broker: BrokerDesk) -> None:
    ann = broker.person("ann")
    made = leave(desk, broker, ann)
    waits = broker.send(ann, made["coder"], made["planner"]["address"], subject="Before", body="what was sent before")
    assert desk.amp("login", broker.url, "ann", env={"AMP_PASSWORD": PASSWORD}).status == 0
    # What it wrote runs a program; here that is a command.
    file = desk.team / "team.yaml"
    shape = yaml.safe_load(file.read_text())
    for agent in shape["agents"]:
        agent["command"] = ["/bin/sh", "-c", ANSWERS.removeprefix("sh -c ").strip("'")]
    file.write_text(yaml.safe_dump(shape, sort_keys=False))
    taken = desk.amp("up", "--detach")
    assert taken.status == 0, taken
    for role, agent in made.items():
        config = desk.agent(role).config
        assert (config.agent_id, config.api_key) == (agent["id"], agent["api_key_plaintext"]), "nobody's key is changed"
        told = (desk.agent(role).workdir / "AGENT.md").read_text()
        assert (f"**Name**: shop_{role}" in told, f"You are {role}." in told) == (True, True)
    script = (desk.team / "start-team.sh").read_text()
    assert "/agent-mailer team start" in script
    assert "tmux" not in script
    assert len(desk.watching()) == len(ROLES)
    asked = desk.amp("ask", "go on", "--wait", "60")
    assert (asked.status, asked.out.strip().splitlines()[-1]) == (0, "it is done"), asked
    thread = broker.call("GET", f"/messages/thread/{waits['thread_id']}", headers=ann.header)
    assert "it is done" in [one["body"].strip() for one in thread]
    [team] = [one for one in broker.call("GET", "/admin/teams", headers=ann.login) if one["name"] == "shop"]
    assert team["agent_count"] == len(ROLES)
