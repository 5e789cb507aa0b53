"""What a team remembers at the broker: written by people, read by its agents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person

pytestmark = pytest.mark.usefixtures("each_database")


def team_of(desk: BrokerDesk, person: Person, name: str) -> str:
    """The path of its memories."""
    made = desk.call("POST", "/admin/teams", json={"name": name}, headers=person.login)
    return f"/admin/teams/{made['id']}/memories"


def test_a_memory(desk: BrokerDesk, alice: Person) -> None:
    path = team_of(desk, alice, "写作 team")
    form = {"title": "House rules", "content": "Be *kind*. <script>alert(1)</script>"}
    made = desk.call("POST", path, 201, json=form, headers=alice.login)
    assert set(made) == {
        *("id", "team_id", "title", "content", "content_html"),
        *("user_id", "created_at", "updated_at", "updated_by"),
    }
    assert (made["title"], made["content"], made["updated_by"]) == (form["title"], form["content"], "alice")
    assert "<em>kind</em>" in made["content_html"]
    assert "<script" not in made["content_html"]
    assert made["created_at"] == made["updated_at"]
    one = f"{path}/{made['id']}"
    assert desk.call("GET", one, headers=alice.login) == made
    said = desk.call("POST", path, 409, json=form, headers=alice.login)
    assert said == {"detail": "Memory title 'House rules' already exists in this team"}

    other = desk.call("POST", path, 201, json={"title": "other", "content": ""}, headers=alice.login)
    assert [m["title"] for m in desk.call("GET", path, headers=alice.login)] == ["House rules", "other"]
    changed = desk.call("PUT", one, json={"content": "new"}, headers=alice.login)
    assert (changed["title"], changed["content"]) == ("House rules", "new")
    assert changed["updated_at"] > made["updated_at"]
    assert desk.call("PUT", one, json={"title": "House rules"}, headers=alice.login)["content"] == "new"
    desk.call("PUT", one, 409, json={"title": "other"}, headers=alice.login)
    assert desk.call("PUT", one, json={"title": "Rules"}, headers=alice.login)["title"] == "Rules"

    gone = desk.call("DELETE", f"{path}/{other['id']}", headers=alice.login)
    assert gone == {"detail": "Memory deleted", "memory_id": other["id"]}
    for method in ("GET", "DELETE"):
        desk.call(method, f"{path}/{other['id']}", 404, headers=alice.login)
    # The end of a team is the end of what it remembers.
    desk.call("DELETE", path.removesuffix("/memories"), headers=alice.login)
    desk.call("GET", f"/memories/{made['id']}", 404, headers=alice.header)


def test_what_is_appended_stands_below_a_line(desk: BrokerDesk, alice: Person) -> None:
    path = team_of(desk, alice, "appenders")
    first = desk.call("POST", f"{path}/upsert", json={"title": "log", "content": "one\n\n"}, headers=alice.login)
    second = desk.call("POST", f"{path}/upsert", json={"title": "log", "content": "two"}, headers=alice.login)
    assert (second["id"], second["content"]) == (first["id"], "one\n\n---\n\ntwo")
    for n in range(5):
        form = {"title": "big", "content": str(n) + "x" * 199_000}
        desk.call("POST", f"{path}/upsert", json=form, headers=alice.login)
    big = {"title": "big", "content": "x" * 199_000}
    assert desk.call("POST", f"{path}/upsert", 413, json=big, headers=alice.login)["detail"]


def test_teams_share_titles_and_no_text(desk: BrokerDesk, alice: Person) -> None:
    paths = [team_of(desk, alice, f"sharers {number}") for number in range(3)]

    def told() -> list[list[str]]:
        return [[one["content"] for one in desk.call("GET", path, headers=alice.login)] for path in paths]

    desk.call("POST", paths[0], 201, json={"title": "log", "content": "first"}, headers=alice.login)
    desk.call("POST", f"{paths[1]}/upsert", json={"title": "log", "content": "second"}, headers=alice.login)
    made = desk.call("POST", paths[2], 201, json={"title": "other", "content": "third"}, headers=alice.login)
    desk.call("PUT", f"{paths[2]}/{made['id']}", json={"title": "log"}, headers=alice.login)
    assert told() == [["first"], ["second"], ["third"]]
    for number, path in enumerate(paths):
        desk.call("POST", f"{path}/upsert", json={"title": "log", "content": f"{number}"}, headers=alice.login)
    assert told() == [[f"{text}\n\n---\n\n{number}"] for number, text in enumerate(("first", "second", "third"))]


def test_of_those_who_append_at_once_nobody_is_lost(desk: BrokerDesk, alice: Person) -> None:
    path = team_of(desk, alice, "crowd")

    def append(n: int) -> None:
        desk.call("POST", f"{path}/upsert", json={"title": "t", "content": f"<{n}>"}, headers=alice.login)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(24)))
    [memory] = desk.call("GET", path, headers=alice.login)
    assert sorted(memory["content"].split("\n\n---\n\n")) == sorted(f"<{n}>" for n in range(24))


def test_agents_read_what_their_team_remembers(desk: BrokerDesk, alice: Person) -> None:
    path, others = team_of(desk, alice, "readers"), team_of(desk, alice, "strangers")
    memory = desk.call("POST", path, 201, json={"title": "t", "content": "c"}, headers=alice.login)
    foreign = desk.call("POST", others, 201, json={"title": "t", "content": "c"}, headers=alice.login)
    own = desk.own_agent(alice, "reader")
    bound = {"X-API-Key": own["api_key_plaintext"]}
    listing = f"/agents/{own['id']}/memories"
    assert desk.call("GET", listing, headers=bound) == []
    desk.call("GET", f"/memories/{memory['id']}", 404, headers=bound)
    desk.call("POST", path.replace("memories", "agents"), json={"agent_id": own["id"]}, headers=alice.login)
    assert desk.call("GET", listing, headers=bound) == [memory]
    assert desk.call("GET", f"/memories/{memory['id']}", headers=bound) == memory
    desk.call("DELETE", f"{path.replace('memories', 'agents')}/{own['id']}", headers=alice.login)
    desk.call("GET", f"/memories/{memory['id']}", 404, headers=bound)
    desk.call("POST", path.replace("memories", "agents"), json={"agent_id": own["id"]}, headers=alice.login)
    assert desk.call("GET", f"/memories/{foreign['id']}", 404, headers=bound) == {"detail": "Memory not found"}
    # A key for all of the user's agents reads all of the user's teams.
    assert desk.call("GET", f"/memories/{foreign['id']}", headers=alice.header) == foreign
    other = desk.own_agent(alice, "other-reader")
    desk.call("GET", listing, 403, headers={"X-API-Key": other["api_key_plaintext"]})
    for method, where in (("POST", path), ("GET", path), ("GET", f"{path}/{memory['id']}")):
        desk.call(method, where, 401, json={"title": "x", "content": "x"}, headers=bound)


def test_of_another_user_there_is_nothing(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    path, own = team_of(desk, alice, "private"), team_of(desk, bob, "his")
    memory = desk.call("POST", path, 201, json={"title": "t", "content": "secret"}, headers=alice.login)
    hers = desk.agent(alice, "hers")
    form = {"title": "x", "content": "x"}
    for where in (path, "/admin/teams/nothing/memories"):
        assert desk.call("GET", where, 404, headers=bob.login) == {"detail": "Team not found"}
        for call in (where, f"{where}/upsert"):
            assert desk.call("POST", call, 404, json=form, headers=bob.login) == {"detail": "Team not found"}
    for where in (f"{own}/{memory['id']}", f"{own}/nothing"):
        for method in ("GET", "PUT", "DELETE"):
            said = desk.call(method, where, 404, json=form, headers=bob.login)
            assert said == {"detail": "Memory not found"}
    for name in (memory["id"], "nothing"):
        said = desk.call("GET", f"/memories/{name}", 404, headers=bob.header)
        assert said == {"detail": "Memory not found"}
    assert desk.call("GET", f"/agents/{hers['id']}/memories", 404, headers=bob.header) == {"detail": "Agent not found"}
    assert desk.call("GET", f"{path}/{memory['id']}", headers=alice.login) == memory


BAD: list[Any] = [
    {},
    {"title": "x"},
    {"content": "x"},
    {"title": None, "content": "x"},
    {"title": "x", "content": None},
    {"title": 1, "content": "x"},
    {"title": "x", "content": 1},
    {"title": "", "content": "x"},
    {"title": "  ", "content": "x"},
    {"title": "x" * 101, "content": "x"},
    {"title": "a\nb", "content": "x"},
    {"title": "a\u202eb", "content": "x"},
    {"title": "x", "content": "a\0"},
    {"title": "x", "content": "x" * 200_001},
    [],
    "x",
]


@pytest.mark.parametrize("body", BAD)
def test_a_bad_form_is_422(desk: BrokerDesk, alice: Person, body: Any) -> None:
    teams = desk.call("GET", "/admin/teams", headers=alice.login)
    path = f"/admin/teams/{teams[0]['id']}/memories" if teams else team_of(desk, alice, "forms")
    desk.call("POST", path, 422, json=body, headers=alice.login)
    desk.call("POST", f"{path}/upsert", 422, json=body, headers=alice.login)


def test_a_team_has_a_number_of_them(desk: BrokerDesk, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_mailer.broker.memories.rows.MOST_MEMORIES", 2)
    for name in ("many", "another with as many"):
        path = team_of(desk, alice, name)
        for n in range(2):
            desk.call("POST", path, 201, json={"title": str(n), "content": ""}, headers=alice.login)
        for where in (path, f"{path}/upsert"):
            desk.call("POST", where, 409, json={"title": "more", "content": ""}, headers=alice.login)
    desk.call("POST", f"{path}/upsert", json={"title": "1", "content": "x"}, headers=alice.login)
