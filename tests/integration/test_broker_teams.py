"""Teams at the broker, which a launcher sets up."""

from __future__ import annotations

from typing import Any

import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, Person

pytestmark = pytest.mark.usefixtures("each_database")


def make(desk: BrokerDesk, person: Person, name: str) -> dict[str, Any]:
    made: dict[str, Any] = desk.call("POST", "/admin/teams", json={"name": name}, headers=person.login)
    return made


def test_a_team(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    body = {"name": "Red team", "description": "attacks"}
    team = desk.call("POST", "/admin/teams", json=body, headers=alice.login)
    assert set(team) == {"id", "name", "description", "user_id", "created_at", "agent_count"}
    assert (team["name"], team["description"], team["user_id"]) == ("Red team", "attacks", alice.id)
    assert team["agent_count"] == 0
    again = desk.call("POST", "/admin/teams", 409, json=body, headers=alice.login)
    assert again == {"detail": "Team 'Red team' already exists"}
    # A name is taken for its user only.
    make(desk, bob, "Red team")

    second = make(desk, alice, "Blue team")
    assert second["description"] == ""
    listed = desk.call("GET", "/admin/teams", headers=alice.login)
    assert [one["name"] for one in listed] == ["Red team", "Blue team"], "oldest first"
    path = f"/admin/teams/{team['id']}"
    assert desk.call("GET", path, headers=alice.login) == {**team, "agents": []}
    assert desk.call("PUT", path, json={"name": "Crimson"}, headers=alice.login) == {**team, "name": "Crimson"}
    changed = desk.call("PUT", path, json={"description": "d"}, headers=alice.login)
    assert (changed["name"], changed["description"]) == ("Crimson", "d")
    assert desk.call("PUT", path, json={"name": "Crimson"}, headers=alice.login) == changed
    said = desk.call("PUT", path, 409, json={"name": "Blue team"}, headers=alice.login)
    assert said == {"detail": "Team 'Blue team' already exists"}


def test_a_name_in_any_script(desk: BrokerDesk, alice: Person) -> None:
    names = ("équipe", "Команда", "チーム", "团队", "فريق", "צוות", "ทีม", "팀 🦊", "O'Brien & <b>Söhne</b>")
    made = {name: make(desk, alice, name)["id"] for name in names}
    listed = desk.call("GET", "/admin/teams", headers=alice.login)
    assert {one["name"]: one["id"] for one in listed if one["name"] in made} == made
    for name, team_id in made.items():
        assert desk.call("GET", f"/admin/teams/{team_id}", headers=alice.login)["name"] == name
        desk.call("POST", "/admin/teams", 409, json={"name": name}, headers=alice.login)


def test_members(desk: BrokerDesk, alice: Person) -> None:
    agent = desk.agent(alice, "member")
    team, other = make(desk, alice, "members"), make(desk, alice, "others")
    path = f"/admin/teams/{team['id']}"
    body = {"agent_id": agent["id"]}
    done = desk.call("POST", f"{path}/agents", json=body, headers=alice.login)
    assert done.pop("detail")
    assert done == {"team_id": team["id"], "agent_id": agent["id"]}
    desk.call("POST", f"{path}/agents", json=body, headers=alice.login)
    said = desk.call("POST", f"/admin/teams/{other['id']}/agents", 409, json=body, headers=alice.login)
    assert said == {"detail": "Agent already belongs to another team"}
    shown = desk.call("GET", path, headers=alice.login)
    assert shown["agent_count"] == 1
    assert shown["agents"] == [{**agent, "team_id": team["id"]}]

    for where in (f"/admin/teams/{other['id']}/agents/{agent['id']}", f"{path}/agents/nothing"):
        desk.call("DELETE", where, 404, headers=alice.login)
    out = desk.call("DELETE", f"{path}/agents/{agent['id']}", headers=alice.login)
    assert out.pop("detail")
    assert out == {"team_id": team["id"], "agent_id": agent["id"]}
    assert desk.call("GET", path, headers=alice.login)["agents"] == []

    # The end of a team is not the end of its agents.
    desk.call("POST", f"{path}/agents", json=body, headers=alice.login)
    gone = desk.call("DELETE", path, headers=alice.login)
    assert gone.pop("detail")
    assert gone == {"team_id": team["id"]}
    assert desk.call("GET", f"/agents/{agent['id']}", headers=alice.header)["team_id"] is None
    assert desk.call("GET", path, 404, headers=alice.login) == {"detail": "Team not found"}


def test_of_another_user_there_is_nothing(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    team = make(desk, alice, "private")
    hers, his = desk.agent(alice, "hers"), desk.agent(bob, "his")
    own = make(desk, bob, "his own")
    desk.call("POST", f"/admin/teams/{team['id']}/agents", json={"agent_id": hers["id"]}, headers=alice.login)
    unknown = {"detail": "Team not found"}
    for path in (f"/admin/teams/{team['id']}", "/admin/teams/nothing", "/admin/teams/%2e%2e"):
        assert desk.call("GET", path, 404, headers=bob.login) == unknown
        assert desk.call("PUT", path, 404, json={"name": "x"}, headers=bob.login) == unknown
        assert desk.call("DELETE", path, 404, headers=bob.login) == unknown
        assert desk.call("POST", f"{path}/agents", 404, json={"agent_id": his["id"]}, headers=bob.login) == unknown
        assert desk.call("DELETE", f"{path}/agents/{hers['id']}", 404, headers=bob.login) == unknown
    for stranger in (hers["id"], "nothing"):
        said = desk.call(
            "POST", f"/admin/teams/{own['id']}/agents", 404, json={"agent_id": stranger}, headers=bob.login
        )
        assert said == {"detail": "Agent not found"}
    said = desk.call("PUT", f"/users/me/agents/{his['id']}", 400, json={"team_id": team["id"]}, headers=bob.login)
    assert said == unknown
    assert desk.call("GET", f"/admin/teams/{team['id']}", headers=alice.login)["agent_count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": None},
        {"name": 1},
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"name": "a\0"},
        {"name": "fine", "description": None},
        {"name": "fine", "description": 7},
        {"name": "fine", "description": "a\0"},
        {"name": "fine", "description": "x" * 10_001},
        [],
        "x",
    ],
)
def test_a_bad_form_is_422(desk: BrokerDesk, alice: Person, body: object) -> None:
    desk.call("POST", "/admin/teams", 422, json=body, headers=alice.login)
    with_agents = {**body, "agents": [{"name": "never"}]} if isinstance(body, dict) else body
    desk.call("POST", "/admin/teams/bootstrap", 422, json=with_agents, headers=alice.login)


def test_bootstrap(desk: BrokerDesk, bob: Person) -> None:
    wanted = [
        {"name": "crew_planner", "role": "planner", "description": "d", "system_prompt": "Plan.", "tags": ["t"]},
        {"name": "Crew Coder", "address_local": "crew_Coder", "role": "coder"},
        {"name": "crew_plain"},
    ]
    body = {"name": "crew", "description": "all hands", "agents": wanted}
    made = desk.call("POST", "/admin/teams/bootstrap", json=body, headers=bob.login)
    assert set(made) == {"team", "agents"}
    assert (made["team"]["name"], made["team"]["agent_count"]) == ("crew", 3)
    assert [agent["address"] for agent in made["agents"]] == [
        f"crew_planner@bob.{DOMAIN}",
        f"crew_coder@bob.{DOMAIN}",
        f"crew_plain@bob.{DOMAIN}",
    ]
    for agent in made["agents"]:
        assert set(agent) == {"agent_id", "name", "address", "role", "api_key_plaintext", "agent_md"}
        assert "${AMP_API_KEY}" in agent["agent_md"]
        assert agent["api_key_plaintext"] not in agent["agent_md"]
        assert f"- **Agent ID**: {agent['agent_id']}" in agent["agent_md"]
        assert "## Security" in agent["agent_md"]
        header = {"X-API-Key": agent["api_key_plaintext"]}
        params = {"agent_id": agent["agent_id"]}
        assert desk.call("GET", f"/messages/inbox/{agent['address']}", params=params, headers=header) == []
        assert len(desk.call("GET", "/agents", params=params, headers=header)) >= 3
    # Each key is for its agent.
    first, second, _ = made["agents"]
    path = f"/messages/inbox/{second['address']}"
    header = {"X-API-Key": first["api_key_plaintext"]}
    desk.call("GET", path, 403, params={"agent_id": second["agent_id"]}, headers=header)
    shown = desk.call("GET", f"/admin/teams/{made['team']['id']}", headers=bob.login)
    assert [agent["id"] for agent in shown["agents"]] == [agent["agent_id"] for agent in made["agents"]]
    assert (shown["agents"][0]["tags"], shown["agents"][0]["system_prompt"]) == (["t"], "Plan.")
    said = desk.call("POST", "/admin/teams/bootstrap", 409, json=body, headers=bob.login)
    assert said == {"detail": "Team 'crew' already exists"}


@pytest.mark.parametrize(
    ("agents", "status"),
    [
        ([], 422),
        (None, 422),
        ([{"role": "x"}], 422),
        ([{"name": "one"}] * 101, 422),
        ([{"name": "one"}, {"name": "a\nb"}], 422),
        ([{"name": "one"}, {"name": "ONE"}], 400),
        ([{"name": "one"}, {"name": "two", "address_local": "one"}], 400),
        ([{"name": "one"}, {"name": "not an address"}], 400),
        ([{"name": "one"}, {"name": "two", "address_local": "../two"}], 400),
        ([{"name": "one"}, {"name": "already"}], 409),
        ([{"name": "one"}, {"name": "operator", "address_local": "human-operator"}], 409),
        ([{"name": "one"}, {"name": "hook--one"}], 409),
        ([{"name": "one"}, {"name": "a1ready"}], 409),
    ],
)
def test_a_bootstrap_that_cannot_be_leaves_nothing(desk: BrokerDesk, bob: Person, agents: object, status: int) -> None:
    if not any(agent["name"] == "already" for agent in desk.call("GET", "/agents", headers=bob.header)):
        desk.agent(bob, "already")

    def state() -> list[Any]:
        calls = ("/admin/teams", "/users/me/agents", "/users/api-keys")
        return [[one["id"] for one in desk.call("GET", path, headers=bob.login)] for path in calls]

    before = state()
    body = {"name": "broken", "agents": agents}
    assert desk.call("POST", "/admin/teams/bootstrap", status, json=body, headers=bob.login)["detail"]
    assert state() == before
