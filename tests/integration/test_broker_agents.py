"""Agents at the broker, by key and by login: every call and every refusal of the protocol's third section."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, Person, running_broker

pytestmark = pytest.mark.usefixtures("each_database")

FIELDS = {
    *("id", "name", "address", "role", "description", "system_prompt", "tags", "created_at"),
    *("last_seen", "status", "team_id"),
}


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    """The first user, and so the superadmin."""
    return desk.person("alice")


def form(name: str, **fields: object) -> dict[str, object]:
    return {"name": name, "role": "coder", "system_prompt": "Be brief.", **fields}


def poll(desk: BrokerDesk, person: Person, agent: dict[str, Any]) -> None:
    path = f"/messages/inbox/{agent['address']}"
    desk.call("GET", path, params={"agent_id": agent["id"]}, headers=person.header)


# By key


def test_register_and_find(desk: BrokerDesk, bob: Person) -> None:
    made = desk.call("POST", "/agents/register", json=form("first", description="d"), headers=bob.header)
    assert set(made) == FIELDS
    assert made["address"] == f"first@bob.{DOMAIN}"
    assert (made["name"], made["role"], made["description"]) == ("first", "coder", "d")
    assert (made["system_prompt"], made["tags"], made["team_id"]) == ("Be brief.", [], None)
    assert (made["last_seen"], made["status"]) == (None, "offline")

    asked = f"chosen.Name+x@bob.{DOMAIN}"
    second = desk.call("POST", "/agents/register", json=form("second", address=asked), headers=bob.header)
    assert second["address"] == asked
    listed = desk.call("GET", "/agents", headers=bob.header)
    assert [agent["id"] for agent in listed] == [made["id"], second["id"]], "oldest first"
    assert desk.call("GET", f"/agents/{made['id']}", headers=bob.header) == made


def test_to_poll_is_to_be_seen(desk: BrokerDesk, bob: Person) -> None:
    agent = desk.agent(bob, "seen")
    poll(desk, bob, agent)
    for shown in (
        desk.call("GET", f"/agents/{agent['id']}", headers=bob.header),
        next(one for one in desk.call("GET", "/agents", headers=bob.header) if one["id"] == agent["id"]),
    ):
        assert shown["status"] == "online"
        assert shown["last_seen"] > agent["created_at"]
    own = desk.call("GET", f"/users/me/agents/{agent['id']}", headers=bob.login)
    assert own["last_seen"] == shown["last_seen"]
    assert own["status"] == "active"


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, "online"), (55, "online"), (70, "idle"), (290, "idle"), (310, "offline")]
)
def test_presence_by_age(seconds: int, status: str) -> None:
    from datetime import UTC, datetime, timedelta

    from agent_mailer.broker.agents.rows import presence

    moment = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    assert presence("coder", moment) == status
    assert presence("operator", moment) == "online"
    assert presence("operator", None) == "online"
    assert presence("coder", None) == "offline"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (f"x@alice.{DOMAIN}", 400),
        (f"x@notbob.{DOMAIN}", 400),
        ("x@bob.elsewhere", 400),
        ("plain", 400),
        (f"@bob.{DOMAIN}", 400),
        (f"../../etc@bob.{DOMAIN}", 400),
        (f"a/b@bob.{DOMAIN}", 400),
        (f"a\\b@bob.{DOMAIN}", 400),
        (f".hidden@bob.{DOMAIN}", 400),
        (f"-option@bob.{DOMAIN}", 400),
        (f"a b@bob.{DOMAIN}", 400),
        (f"x@alice.{DOMAIN}@bob.{DOMAIN}", 400),
        (f"a?b@bob.{DOMAIN}", 400),
        (f"a#b@bob.{DOMAIN}", 400),
        (f"a%2fb@bob.{DOMAIN}", 400),
        (f"{'x' * 65}@bob.{DOMAIN}", 400),
        (f"human-operator@bob.{DOMAIN}", 409),
        (f"a\nb@bob.{DOMAIN}", 422),
        (f"a\0b@bob.{DOMAIN}", 422),
        (f"a\u202eb@bob.{DOMAIN}", 422),
        ("", 422),
        ("x" * 100_000, 422),
        (5, 422),
        ([], 422),
    ],
)
def test_an_address_that_cannot_be(desk: BrokerDesk, bob: Person, address: object, status: int) -> None:
    there = desk.call("GET", "/agents", headers=bob.header)
    agent = there[0] if there else desk.agent(bob, "steady")
    for method, path, body in (
        ("POST", "/agents/register", form("odd", address=address)),
        ("PATCH", f"/agents/{agent['id']}/address", {"address": address}),
    ):
        assert desk.call(method, path, status, json=body, headers=bob.header)["detail"]
    assert desk.call("GET", f"/agents/{agent['id']}", headers=bob.header)["address"] == agent["address"]


def test_a_taken_address_is_409(desk: BrokerDesk, bob: Person) -> None:
    agent = desk.agent(bob, "taken")
    said = desk.call("POST", "/agents/register", 409, json=form("taken"), headers=bob.header)
    assert said == {"detail": f"Address '{agent['address']}' is already taken"}


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("CamelCase", "CamelCase"),
        ("with blanks in it", "with-blanks-in-it"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\temp", "C-temp"),
        ("<script>alert(1)</script>", "script-alert-1-script"),
        ("Mr 小明", "Mr"),
        ("ｃｏｄｅｒ", ""),
        ("сoder", "oder"),
        ("$(reboot)", "reboot"),
        ("x" * 128, "x" * 64),
        ("a.", "a"),
    ],
)
def test_any_name_gets_a_harmless_address(desk: BrokerDesk, bob: Person, name: str, local: str) -> None:
    if not local:
        refused = desk.call("POST", "/agents/register", 400, json=form(name), headers=bob.header)
        assert "give an address" in refused["detail"]
        return
    made = desk.call("POST", "/agents/register", json=form(name), headers=bob.header)
    assert (made["name"], made["address"]) == (name, f"{local}@bob.{DOMAIN}")
    poll(desk, bob, made)
    poll(desk, bob, {**made, "address": httpx.URL(f"/{made['address']}").raw_path[1:].decode()})


def test_a_name_without_anything_for_an_address(desk: BrokerDesk, bob: Person) -> None:
    assert (
        "give an address" in desk.call("POST", "/agents/register", 400, json=form("???"), headers=bob.header)["detail"]
    )
    made = form("???", address=f"asked@bob.{DOMAIN}")
    assert desk.call("POST", "/agents/register", json=made, headers=bob.header)["name"] == "???"


BAD_LABELS: list[object] = [None, 5, [], {}, "a\nb", "a\rb", "a\0b", "a\x1b[31mb", "a\u2028b", "a\u202eb", "x" * 1000]
BAD_PROMPTS: list[object] = [None, 5, [], "nul\0", "x" * 262_145]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", value) for value in [*BAD_LABELS, "", "   ", "x" * 129]),
        *(("role", value) for value in BAD_LABELS),
        *(("description", value) for value in (None, 5, "nul\0", "x" * 10_001)),
        *(("system_prompt", value) for value in BAD_PROMPTS),
    ],
)
def test_a_bad_field_is_422(desk: BrokerDesk, alice: Person, bob: Person, field: str, value: object) -> None:
    count = len(desk.call("GET", "/agents", headers=bob.header))
    answer = desk.call("POST", "/agents/register", 422, json=form("good") | {field: value}, headers=bob.header)
    assert answer["detail"][0]["loc"] == ["body", field]
    own: dict[str, object] = {"name": "good", field: value}
    if (field, value) != ("name", "x" * 129):
        desk.call("POST", "/users/me/agents", 422, json=own, headers=bob.login)
    assert len(desk.call("GET", "/agents", headers=bob.header)) == count


@pytest.mark.parametrize("missing", ["name", "role", "system_prompt"])
def test_a_missing_field_is_422(desk: BrokerDesk, bob: Person, missing: str) -> None:
    body = form("good")
    del body[missing]
    answer = desk.call("POST", "/agents/register", 422, json=body, headers=bob.header)
    assert [(issue["type"], issue["loc"]) for issue in answer["detail"]] == [("missing", ["body", missing])]


def test_of_another_user_there_is_nothing(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    agent = desk.agent(bob, "private")
    path = f"/agents/{agent['id']}"
    for wanted, header in (
        (path, alice.header),
        ("/agents/nothing", bob.header),
        (f"/agents/{'x' * 4000}", bob.header),
    ):
        unknown = {"detail": "Agent not found"}
        assert desk.call("GET", wanted, 404, headers=header) == unknown
        assert desk.call("GET", f"{wanted}/setup", 404, headers=header) == unknown
        address = {"address": f"new@alice.{DOMAIN}"}
        assert desk.call("PATCH", f"{wanted}/address", 404, json=address, headers=header) == unknown
        params = {"agent_id": wanted.rpartition("/")[2]}
        assert desk.call("GET", "/agents", 404, params=params, headers=header) == unknown
    own = f"/users/me{path}"
    for method, where, body in (
        ("GET", own, None),
        ("PUT", own, {"role": "mine"}),
        ("DELETE", own, None),
        ("POST", f"{own}/regenerate-key", None),
        ("GET", f"{own}/export", None),
    ):
        assert desk.call(method, where, 404, json=body, headers=alice.login) == {"detail": "Agent not found"}
    assert agent["id"] not in json.dumps(desk.call("GET", "/agents", headers=alice.header))
    assert desk.call("GET", path, headers=bob.header)["role"] == agent["role"]


def test_companions(desk: BrokerDesk, alice: Person) -> None:
    made = {name: desk.agent(alice, name) for name in ("in-1", "in-2", "out-1", "out-2")}
    operator = desk.call("GET", "/admin/human-operator", headers=alice.login)
    team = desk.call("POST", "/admin/teams", json={"name": "inner"}, headers=alice.login)
    for name in ("in-1", "in-2"):
        body = {"agent_id": made[name]["id"]}
        desk.call("POST", f"/admin/teams/{team['id']}/agents", json=body, headers=alice.login)

    def of(name: str) -> set[str]:
        found = desk.call("GET", "/agents", params={"agent_id": made[name]["id"]}, headers=alice.header)
        return {agent["address"].partition("@")[0] for agent in found}

    assert of("in-1") == {"in-1", "in-2", "human-operator"}
    assert of("out-1") == {"out-1", "out-2", "human-operator"}
    everybody = desk.call("GET", "/agents", headers=alice.header)
    shown = next(agent for agent in everybody if agent["id"] == operator["agent_id"])
    assert (shown["role"], shown["status"]) == ("operator", "online")


def test_a_new_address_leaves_old_mail_as_it_was(desk: BrokerDesk, bob: Person) -> None:
    mover, other = desk.agent(bob, "mover"), desk.agent(bob, "other")
    sent = desk.send(bob, mover, other["address"], body="from")
    got = desk.send(bob, other, mover["address"], body="to")
    new = f"moved@bob.{DOMAIN}"
    path = f"/agents/{mover['id']}/address"
    taken = {"address": other["address"]}
    assert "taken" in desk.call("PATCH", path, 409, json=taken, headers=bob.header)["detail"]
    assert desk.call("PATCH", path, json={"address": new}, headers=bob.header)["address"] == new
    assert desk.call("PATCH", path, json={"address": new}, headers=bob.header)["address"] == new
    assert desk.call("GET", f"/messages/{sent['id']}", headers=bob.header)["from_agent"] == mover["address"]
    params = {"agent_id": mover["id"]}
    late = desk.send(bob, other, mover["address"], body="to where it was")
    inbox = desk.call("GET", f"/messages/inbox/{new}", params=params, headers=bob.header)
    assert [message["id"] for message in inbox] == [got["id"], late["id"]]
    assert {message["to_agent"] for message in inbox} == {mover["address"]}
    # It is nobody else's, but may be taken back.
    assert "taken" in desk.call("POST", "/agents/register", 409, json=form("mover"), headers=bob.header)["detail"]
    back = {"address": mover["address"]}
    assert desk.call("PATCH", path, json=back, headers=bob.header)["address"] == mover["address"]
    assert desk.send(bob, other, new, body="to where it was for a moment")
    assert desk.call("PATCH", path, json={"address": new}, headers=bob.header)["address"] == new
    # The operator's stays.
    operator = desk.call("GET", "/admin/human-operator", headers=bob.login)["agent_id"]
    desk.call("PATCH", f"/agents/{operator}/address", 409, json={"address": f"o@bob.{DOMAIN}"}, headers=bob.header)
    desk.call("DELETE", f"/users/me/agents/{operator}", 409, headers=bob.login)


# A key for one agent


def test_a_key_of_one_agent_acts_for_no_other(desk: BrokerDesk, bob: Person) -> None:
    own = desk.own_agent(bob, "scoped")
    other = desk.agent(bob, "neighbour")
    header = {"X-API-Key": own["api_key_plaintext"]}
    extra = {"name": "extra", "agent_id": own["id"]}
    made = desk.call("POST", "/users/api-keys", 201, json=extra, headers=bob.login)
    assert made["agent_id"] == own["id"]
    for key in (header, {"X-API-Key": made["raw_key"]}):
        # To read of the user's agents is allowed: these are its contacts.
        assert desk.call("GET", f"/agents/{other['id']}", headers=key)["id"] == other["id"]
        assert {own["id"], other["id"]} <= {agent["id"] for agent in desk.call("GET", "/agents", headers=key)}
        desk.call("GET", f"/messages/inbox/{own['address']}", params={"agent_id": own["id"]}, headers=key)
        path = f"/messages/inbox/{other['address']}"
        desk.call("GET", path, 403, params={"agent_id": other["id"]}, headers=key)
        address = {"address": f"x@bob.{DOMAIN}"}
        desk.call("PATCH", f"/agents/{other['id']}/address", 403, json=address, headers=key)
        assert "one agent" in desk.call("POST", "/agents/register", 403, json=form("more"), headers=key)["detail"]
        send = {"agent_id": other["id"], "from_agent": other["address"], "to_agent": own["address"]}
        desk.call("POST", "/messages/send", 403, json=send, headers=key)
    # The key that it was made with stays as long as it lives; another one may go.
    listed = {key["name"]: key["id"] for key in desk.call("GET", "/users/api-keys", headers=bob.login)}
    refused = desk.call("DELETE", f"/users/api-keys/{listed['agent:' + own['id']]}", 409, headers=bob.login)
    assert refused["error"] == "api_key_in_use"
    assert refused["agents"] == [{"id": own["id"], "name": "scoped", "address": own["address"]}]
    assert refused["message"]
    desk.call("DELETE", f"/users/api-keys/{made['id']}", 204, headers=bob.login)


def test_no_key_for_an_agent_of_another(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    agent = desk.agent(alice, "hers")
    for wanted in (agent["id"], "nothing"):
        said = desk.call("POST", "/users/api-keys", 404, json={"agent_id": wanted}, headers=bob.login)
        assert said == {"detail": "Agent not found"}


# By login


def test_an_agent_of_ones_own(desk: BrokerDesk, bob: Person) -> None:
    body = {"name": "Planner", "role": "planner", "tags": ["x"], "system_prompt": "Plan."}
    made = desk.call("POST", "/users/me/agents", 201, json=body, headers=bob.login)
    assert set(made) == FIELDS | {"api_key_masked", "api_key_plaintext"}
    key = made.pop("api_key_plaintext")
    assert made["address"] == f"planner@bob.{DOMAIN}"
    assert (made["status"], made["api_key_masked"]) == ("active", f"amk_****{key[-6:]}")
    assert desk.call("GET", f"/users/me/agents/{made['id']}", headers=bob.login) == made
    assert desk.call("GET", "/users/me/agents", headers=bob.login)[0] == made, "newest first"
    listed = desk.call("GET", "/users/api-keys", headers=bob.login)[0]
    assert (listed["name"], listed["agent_id"]) == (f"agent:{made['id']}", made["id"])

    path = f"/users/me/agents/{made['id']}"
    changed = desk.call("PUT", path, json={"role": "chief", "tags": []}, headers=bob.login)
    assert changed == {**made, "role": "chief", "tags": []}
    assert desk.call("PUT", path, json={}, headers=bob.login) == changed

    team = desk.call("POST", "/admin/teams", json={"name": "planners"}, headers=bob.login)["id"]
    assert desk.call("PUT", path, json={"team_id": team}, headers=bob.login)["team_id"] == team
    assert desk.call("PUT", path, json={"role": "x"}, headers=bob.login)["team_id"] == team
    said = desk.call("PUT", path, 400, json={"team_id": "nothing"}, headers=bob.login)
    assert said == {"detail": "Team not found"}
    assert desk.call("PUT", path, json={"team_id": ""}, headers=bob.login)["team_id"] is None
    desk.call("PUT", path, 422, json={"tags": "x"}, headers=bob.login)

    inside = {"name": "inside", "team_id": team}
    assert desk.call("POST", "/users/me/agents", 201, json=inside, headers=bob.login)["team_id"] == team
    said = desk.call("POST", "/users/me/agents", 400, json={**inside, "team_id": "nothing"}, headers=bob.login)
    assert said == {"detail": "Team not found"}
    taken = {"name": "x", "address_local": "PLANNER"}
    assert "taken" in desk.call("POST", "/users/me/agents", 409, json=taken, headers=bob.login)["detail"]


@pytest.mark.parametrize("local", ["a b", "-a", "a-", ".a", "a.", "../a", "a/b", "a@b", "ü", "小明", "x" * 64, ""])
def test_a_bad_local_part_is_400(desk: BrokerDesk, bob: Person, local: str) -> None:
    body = {"name": "fine", "address_local": local}
    assert "local part" in desk.call("POST", "/users/me/agents", 400, json=body, headers=bob.login)["detail"]
    if local:
        assert desk.call("POST", "/users/me/agents", 400, json={"name": local}, headers=bob.login)


def test_a_new_key_ends_the_old_one_at_once(desk: BrokerDesk, bob: Person) -> None:
    agent = desk.own_agent(bob, "rekeyed")
    path = f"/users/me/agents/{agent['id']}/regenerate-key"
    old = {"X-API-Key": agent["api_key_plaintext"]}
    assert desk.call("GET", "/agents", headers=old)
    made = desk.call("POST", path, headers=bob.login)
    assert set(made) == {"agent_id", "api_key_masked", "api_key_plaintext"}
    assert made["api_key_masked"] == f"amk_****{made['api_key_plaintext'][-6:]}"
    assert desk.call("GET", "/agents", 401, headers=old) == {"detail": "Invalid API key"}
    new = {"X-API-Key": made["api_key_plaintext"]}
    desk.call("GET", f"/messages/inbox/{agent['address']}", params={"agent_id": agent["id"]}, headers=new)
    shown = desk.call("GET", f"/users/me/agents/{agent['id']}", headers=bob.login)
    assert shown["api_key_masked"] == made["api_key_masked"]
    # One that registered itself gets its first key of its own in this way.
    plain = desk.agent(bob, "keyless")
    assert desk.call("GET", f"/users/me/agents/{plain['id']}", headers=bob.login)["api_key_masked"] is None
    first = desk.call("POST", f"/users/me/agents/{plain['id']}/regenerate-key", headers=bob.login)
    header = {"X-API-Key": first["api_key_plaintext"]}
    desk.call("GET", f"/messages/inbox/{plain['address']}", params={"agent_id": plain["id"]}, headers=header)


def test_delete(desk: BrokerDesk, bob: Person) -> None:
    agent = desk.own_agent(bob, "mortal")
    sender = desk.agent(bob, "survivor")
    path = f"/users/me/agents/{agent['id']}"
    key = {"X-API-Key": agent["api_key_plaintext"]}
    key_id = desk.call("GET", "/users/api-keys", headers=bob.login)[0]["id"]
    bound = {"name": "a second one", "agent_id": agent["id"]}
    second = {"X-API-Key": desk.call("POST", "/users/api-keys", 201, json=bound, headers=bob.login)["raw_key"]}
    assert desk.call("GET", "/agents", headers=second)
    assert desk.call("DELETE", path, headers=bob.login) == {"ok": True, "agent_id": agent["id"]}
    again = desk.call("DELETE", path, headers=bob.login)
    assert again == {"ok": True, "agent_id": agent["id"], "already_deleted": True}
    for each in (key, second):
        assert desk.call("GET", "/agents", 401, headers=each) == {"detail": "Invalid API key"}

    def ids(where: str, headers: dict[str, str]) -> set[str]:
        return {one["id"] for one in desk.call("GET", where, headers=headers)}

    assert agent["id"] not in ids("/users/me/agents", bob.login)
    assert agent["id"] in ids("/users/me/agents?include_deleted=true", bob.login)
    assert agent["id"] in ids("/agents", bob.header)
    assert desk.call("GET", path, headers=bob.login)["status"] == "deleted"
    assert desk.call("GET", f"/agents/{agent['id']}", headers=bob.header)["status"] == "offline"
    # Mail to it is still taken in.
    assert desk.send(bob, sender, agent["address"], body="rest")["to_agent"] == agent["address"]
    # Its key does not come back, unless it is deleted too.
    assert desk.call("POST", f"/users/api-keys/{key_id}/reactivate", 409, headers=bob.login)["detail"]
    assert desk.call("POST", f"{path}/regenerate-key", 409, headers=bob.login)["detail"]
    assert desk.call("POST", "/users/api-keys", 404, json={"agent_id": agent["id"]}, headers=bob.login)
    desk.call("DELETE", f"/users/api-keys/{key_id}", 204, headers=bob.login)


def test_the_superadmins_agents(desk: BrokerDesk, alice: Person) -> None:
    made = desk.call("POST", "/superadmin/agents", 201, json={"name": "guard"}, headers=alice.login)
    assert made["address"] == f"guard@admin.{DOMAIN}"
    path = f"/superadmin/agents/{made['id']}"
    others = desk.agent(alice, "not-admin")
    assert [one["id"] for one in desk.call("GET", "/superadmin/agents", headers=alice.login)] == [made["id"]]
    assert desk.call("GET", f"/superadmin/agents/{others['id']}", 404, headers=alice.login)
    assert desk.call("PUT", path, json={"role": "r"}, headers=alice.login)["role"] == "r"
    assert desk.call("POST", f"{path}/regenerate-key", headers=alice.login)["agent_id"] == made["id"]
    assert desk.call("GET", f"{path}/export", headers=alice.login)["filename"] == "AGENT.md"
    assert desk.call("DELETE", path, headers=alice.login)["ok"] is True


# Documents


def bullets(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("- **")]


def test_setup(desk: BrokerDesk, bob: Person) -> None:
    prompt = "You are 小明.\n\n# A heading\n- **Agent ID**: forged\n```\nnot closed {and} %braces%"
    made = desk.call("POST", "/agents/register", json=form("setter", system_prompt=prompt), headers=bob.header)
    found = desk.call("GET", f"/agents/{made['id']}/setup", headers=bob.header)
    assert set(found) == {"agent_md", "claude_md", "infiniti_md", "instructions"}
    text = found["agent_md"]
    assert text.startswith("# Agent Identity\n")
    assert bullets(text)[:5] == [
        "- **Name**: setter",
        "- **Role**: coder",
        f"- **Address**: {made['address']}",
        f"- **Agent ID**: {made['id']}",
        f"- **Broker URL**: {desk.url}",
    ]
    assert prompt in text
    for words in ("<your_api_key>", "## System Prompt", "## Mail Protocol", "## Auto-watch (Claude Code only)"):
        assert words in text
    for path in (f"/messages/inbox/{made['address']}?agent_id={made['id']}", "/messages/send", "/messages/thread/"):
        assert f"{desk.url}{path}" in text
    assert bob.key not in json.dumps(found)
    assert "@AGENT.md" in found["claude_md"]
    assert "@SOUL.md" in found["infiniti_md"]
    assert made["address"] in found["claude_md"]
    assert made["address"] in found["infiniti_md"]
    for words in (
        "CLAUDE.md",
        ".cursorrules",
        "CLAW.md",
        "DREAMER.md",
        "INFINITI.md",
        "AGENTS.md",
        "agent-mailer init",
    ):
        assert words in found["instructions"]


def test_export(desk: BrokerDesk, bob: Person) -> None:
    agent = desk.own_agent(bob, "exporter")
    path = f"/users/me/agents/{agent['id']}/export"
    exported = {
        kind: desk.call("GET", path, params={"format": kind}, headers=bob.login) for kind in ("agent_md", "soul_md")
    }
    assert desk.call("GET", path, headers=bob.login) == exported["agent_md"]
    assert exported["agent_md"]["filename"] == "AGENT.md"
    assert exported["soul_md"]["filename"] == "SOUL.md"
    assert exported["agent_md"]["content"] == exported["soul_md"]["content"]
    assert f"- **Agent ID**: {agent['id']}" in exported["agent_md"]["content"]
    assert "## Security" in exported["agent_md"]["content"]
    for wrong in ("claude_md", "", "../x"):
        assert "format" in desk.call("GET", path, 400, params={"format": wrong}, headers=bob.login)["detail"]


def test_the_url_in_a_document_is_the_callers(desk: BrokerDesk, bob: Person) -> None:
    agent = desk.agent(bob, "hosted")

    def url(**headers: str) -> str:
        found = desk.call("GET", f"/agents/{agent['id']}/setup", headers={**bob.header, **headers})
        return bullets(found["agent_md"])[4].removeprefix("- **Broker URL**: ")

    assert url(Host="mail.example.org") == "http://mail.example.org"
    assert url(**{"Host": "mail.example.org:8443", "X-Forwarded-Proto": "https"}) == "https://mail.example.org:8443"
    assert url(**{"Host": "[::1]:9800", "X-Forwarded-Proto": "https, http"}) == "https://[::1]:9800"
    assert url(**{"X-Forwarded-Proto": "javascript"}) == desk.url
    for odd in ("evil.org/path?", "a b", "x`id`", "$(id)", "'", "x" * 300, "user@host"):
        assert url(Host=odd) == desk.url


def test_setup_md(desk: BrokerDesk) -> None:
    answer = desk.http.get("/setup.md")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    for words in (
        f"{desk.url}/agents/register",
        "X-API-Key",
        f"--broker-url {desk.url}",
        "agent-mailer watch",
        "INFINITI.md",
    ):
        assert words in answer.text
    assert "{" not in answer.text.replace("-d '{", "")


# What is remembered


def test_who_was_seen_is_written_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("kept")
    with running_broker(base) as desk:
        carol = desk.person("carol")
        agent = desk.agent(carol, "seen")
        poll(desk, carol, agent)
        seen = desk.call("GET", f"/agents/{agent['id']}", headers=carol.header)["last_seen"]
        used = desk.call("GET", "/users/api-keys", headers=carol.login)[0]["last_used_at"]
    with running_broker(base) as desk:
        login = carol.login
        assert desk.call("GET", f"/users/me/agents/{agent['id']}", headers=login)["last_seen"] == seen
        assert desk.call("GET", "/users/api-keys", headers=login)[0]["last_used_at"] == used
        assert desk.call("GET", f"/agents/{agent['id']}", headers=carol.header)["status"] == "online"
