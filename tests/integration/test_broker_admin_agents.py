"""The agents as the operator's console lists them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person

pytestmark = pytest.mark.usefixtures("each_database")


def stats(desk: BrokerDesk, person: Person) -> dict[str, Any]:
    return {one["name"]: one for one in desk.call("GET", "/admin/agents/stats", headers=person.login)}


def test_what_each_has_sent_and_got(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    one, two = desk.agent(alice, "one"), desk.agent(alice, "two")
    desk.agent(bob, "his")
    first = desk.send(alice, one, [two["address"], one["address"]])[0]
    desk.send(alice, two, one["address"], action="reply", parent_id=first["id"])
    desk.send(alice, two, two["address"], action="forward", parent_id=first["id"])
    away = desk.send(alice, one, two["address"])
    desk.call("POST", f"/admin/threads/{away['thread_id']}/archive", headers=alice.login)
    desk.call("PATCH", f"/messages/{first['id']}/read", headers=alice.header)
    found = stats(desk, alice)
    assert set(found) == {"one", "two"}
    names = ("received", "read", "unread", "sent", "replied", "forwarded")
    assert [found["one"][f"messages_{name}"] for name in names] == [2, 0, 2, 3, 0, 0]
    assert [found["two"][f"messages_{name}"] for name in names] == [2, 1, 1, 2, 1, 1]
    rest = {key: value for key, value in found["one"].items() if not key.startswith("messages_")}
    assert rest == {
        "agent_id": one["id"],
        "name": "one",
        "address": one["address"],
        "role": "tester",
        "tags": [],
        "last_seen": None,
        "status": "offline",
    }
    desk.call("GET", f"/messages/inbox/{one['address']}?agent_id={one['id']}", headers=alice.header)
    assert stats(desk, alice)["one"]["status"] == "online"


def test_tags(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    agent = desk.agent(alice, "tagged")
    path = f"/admin/agents/{agent['id']}/tags"
    done = desk.call("PUT", path, json={"tags": ["a", "b c", "ü"]}, headers=alice.login)
    assert done == {"agent_id": agent["id"], "tags": ["a", "b c", "ü"]}
    assert stats(desk, alice)["tagged"]["tags"] == ["a", "b c", "ü"]
    bads: list[Any] = [{}, {"tags": None}, {"tags": "a"}, {"tags": ["a\n"]}, {"tags": ["x" * 101]}, {"tags": [1]}, []]
    for bad in bads:
        desk.call("PUT", path, 422, json=bad, headers=alice.login)
    said = desk.call("PUT", path, 404, json={"tags": []}, headers=bob.login)
    assert said == {"detail": "Agent not found"}
    desk.call("PUT", path, 401, json={"tags": []}, headers=alice.header)


def test_nothing_that_was_refused_is_written_down_as_done(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    gone = desk.own_agent(alice, "gone")["id"]
    key = desk.call("GET", "/users/api-keys", headers=alice.login)[0]["id"]
    team = desk.call("POST", "/admin/teams", json={"name": "written down"}, headers=alice.login)["id"]
    desk.call("DELETE", f"/admin/agents/{gone}", headers=alice.login)
    before = desk.sql("SELECT count(*) FROM audit_log")
    for person, status, method, path in (
        (bob, 404, "DELETE", f"/admin/agents/{gone}"),
        (bob, 404, "DELETE", f"/users/api-keys/{key}"),
        (bob, 404, "POST", f"/users/api-keys/{key}/deactivate"),
        (bob, 404, "DELETE", f"/admin/teams/{team}"),
        (bob, 404, "POST", "/admin/hooks/none/roll"),
        (alice, 409, "POST", f"/users/me/agents/{gone}/regenerate-key"),
        (alice, 409, "POST", f"/users/api-keys/{key}/reactivate"),
    ):
        desk.call(method, path, status, headers=person.login)
    assert desk.sql("SELECT count(*) FROM audit_log") == before


def test_listed_and_deleted(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    agent = desk.own_agent(alice, "leaving")
    desk.call("PUT", f"/admin/agents/{agent['id']}/tags", json={"tags": ["t"]}, headers=alice.login)
    listed = {one["id"]: one for one in desk.call("GET", "/admin/agents", headers=alice.login)}
    assert listed[agent["id"]]["status"] == "offline"
    path = f"/admin/agents/{agent['id']}"
    assert desk.call("DELETE", path, 404, headers=bob.login) == {"detail": "Agent not found"}
    key = {"X-API-Key": agent["api_key_plaintext"]}
    desk.call("GET", "/agents", headers=key)
    assert desk.call("DELETE", path, headers=alice.login) == {"detail": "Agent deleted", "agent_id": agent["id"]}
    assert agent["id"] not in [one["id"] for one in desk.call("GET", "/admin/agents", headers=alice.login)]
    assert "leaving" not in stats(desk, alice)
    desk.call("GET", "/agents", 401, headers=key)
    operator = desk.call("GET", "/admin/human-operator", headers=alice.login)["agent_id"]
    desk.call("DELETE", f"/admin/agents/{operator}", 409, headers=alice.login)
    desk.call("GET", "/admin/agents", 401, headers=alice.header)
    noted = desk.sql("SELECT act FROM audit_log WHERE about = :id ORDER BY id", id=agent["id"])
    assert [act for (act,) in noted] == ["agent_added", "agent_changed", "agent_deleted"]
