"""A team as the existing launcher has left it, at a broker: `amp up` makes it ours, with its keys and its mail."""

from __future__ import annotations

from typing import Any

import yaml
from tests.broker_desk import PASSWORD, BrokerDesk, Person
from tests.integration.test_takeover import AGENT_MD, CONFIG
from tests.sizes import LONG
from tests.team_desk import ANSWERS, TeamDesk

pytestmark = LONG

ROLES = ("planner", "coder", "reviewer", "runner")


def leave(team_desk: TeamDesk, team_broker: BrokerDesk, ann: Person) -> dict[str, dict[str, Any]]:
    """Its folder with all that the launcher writes; the agents by role, each with a key of its own."""
    made = {role: team_broker.own_agent(ann, f"shop_{role}") for role in ROLES}
    team_broker.call("POST", "/admin/teams", json={"name": "shop"}, headers=ann.login)
    for role, agent in made.items():
        workdir = team_desk.team / "agents" / f"shop_{role}"
        state = workdir / ".agent-mailer"
        state.mkdir(parents=True, mode=0o700)
        words = {**agent, "url": team_broker.url, "key": agent["api_key_plaintext"]}
        config = CONFIG.format(**words).replace('agent_name = "coder"', f'agent_name = "shop_{role}"')
        (state / "config.toml").write_text(config)
        (state / "config.toml").chmod(0o600)
        (workdir / "AGENT.md").write_text(AGENT_MD.format(**words).replace("**Name**: coder", f"**Name**: shop_{role}"))
        (workdir / "project").symlink_to(team_desk.project)
    shape = {
        "team": "shop",
        "broker_url": team_broker.url,
        "runtime": "agent-mailer watch",
        "agent_runtime": "command",
        "permission_mode": "acceptEdits",
        "project_dir": str(team_desk.project),
        "agents": [
            {"name": f"shop_{role}", "role": role, "description": f"is {role}", "system_prompt": f"You are {role}.\n"}
            for role in ROLES
        ],
    }
    (team_desk.team / "team.yaml").write_text("# Written by amp\n" + yaml.safe_dump(shape, sort_keys=False))
    for name in ("start-team.sh", "stop-team.sh"):
        (team_desk.team / name).write_text("#!/bin/sh\ntmux new-session -d -s amp-shop agent-mailer watch\n")
        (team_desk.team / name).chmod(0o755)
    return made


@LONG
def test_a_team_as_the_launcher_left_it_goes_on_with_its_keys_and_its_mail(
    team_desk: TeamDesk, team_broker: BrokerDesk
) -> None:
    ann = team_broker.person("ann")
    made = leave(team_desk, team_broker, ann)
    waits = team_broker.send(
        ann, made["coder"], made["planner"]["address"], subject="Before", body="what was sent before"
    )
    assert team_desk.amp("login", team_broker.url, "ann", env={"AMP_PASSWORD": PASSWORD}).status == 0
    # What it wrote runs a program; here that is a command.
    file = team_desk.team / "team.yaml"
    shape = yaml.safe_load(file.read_text())
    for agent in shape["agents"]:
        agent["command"] = ["/bin/sh", "-c", ANSWERS.removeprefix("sh -c ").strip("'")]
    file.write_text(yaml.safe_dump(shape, sort_keys=False))
    taken = team_desk.amp("up", "--detach")
    assert taken.status == 0, taken
    for role, agent in made.items():
        config = team_desk.agent(role).config
        assert (config.agent_id, config.api_key) == (agent["id"], agent["api_key_plaintext"]), "nobody's key is changed"
        told = (team_desk.agent(role).workdir / "AGENT.md").read_text()
        assert (f"**Name**: shop_{role}" in told, f"You are {role}." in told) == (True, True)
    script = (team_desk.team / "start-team.sh").read_text()
    assert "/agent-mailer team start" in script
    assert "tmux" not in script
    assert len(team_desk.watching()) == len(ROLES)
    asked = team_desk.amp("ask", "go on", "--wait", "60")
    assert (asked.status, asked.out.strip().splitlines()[-1]) == (0, "it is done"), asked
    thread = team_broker.call("GET", f"/messages/thread/{waits['thread_id']}", headers=ann.header)
    assert "it is done" in [one["body"].strip() for one in thread]
    [team] = [one for one in team_broker.call("GET", "/admin/teams", headers=ann.login) if one["name"] == "shop"]
    assert team["agent_count"] == len(ROLES)
