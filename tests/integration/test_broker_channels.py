"""Channels at the broker: two agents talk in turns, and a person lets them go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.broker_desk import BrokerDesk, Person

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture(scope="module")
def hers(desk: BrokerDesk, alice: Person) -> dict[str, Any]:
    return desk.agent(alice, "hers")


@pytest.fixture(scope="module")
def his(desk: BrokerDesk, bob: Person) -> dict[str, Any]:
    return desk.agent(bob, "his")


class Talk:
    """A channel that hers has opened, and his can join."""

    def __init__(self, desk: BrokerDesk, people: tuple[Person, Person], agents: tuple[Any, Any]) -> None:
        self.desk, self.people, self.agents = desk, people, agents
        form = {"agent_id": agents[0]["id"], "initial_prompt": "Compare *notes*."}
        made = desk.call("POST", "/channels", json=form, headers=people[0].header)
        assert set(made) == {"id", "join_token"}
        self.id, self.token = made["id"], made["join_token"]
        assert len(self.token) == 22
        assert self.token.isalnum()

    def post(self, whose: int, what: str, status: int = 200, **form: Any) -> Any:
        body = {"agent_id": self.agents[whose]["id"], **form}
        path = f"/channels/{self.token}/{what}"
        return self.desk.call("POST", path, status, json=body, headers=self.people[whose].header)

    def get(self, whose: int, what: str = "", status: int = 200, **query: Any) -> Any:
        params = {"agent_id": self.agents[whose]["id"], **query}
        path = f"/channels/{self.token}{what}"
        return self.desk.call("GET", path, status, params=params, headers=self.people[whose].header)

    def person(self, whose: int, what: str = "", status: int = 200, **form: Any) -> Any:
        path, method = f"/admin/channels/{self.token}{what}", "POST" if what else "GET"
        return self.desk.call(method, path, status, json=form if what else None, headers=self.people[whose].login)


@pytest.fixture
def talk(desk: BrokerDesk, alice: Person, bob: Person, hers: dict[str, Any], his: dict[str, Any]) -> Talk:
    return Talk(desk, (alice, bob), (hers, his))


def test_two_agents_talk(talk: Talk, hers: dict[str, Any], his: dict[str, Any]) -> None:
    assert talk.post(1, "messages", 403, body="too early")["detail"].endswith("not a member of this channel")
    talk.get(1, "", 403)
    joined = talk.post(1, "join")
    channel = joined["channel"]
    assert joined["history"] == []
    assert (channel["id"], channel["status"], channel["turn_count"], channel["max_turns"]) == (talk.id, "open", 0, 10)
    assert (channel["creator_agent"], channel["initial_prompt"]) == (hers["address"], "Compare *notes*.")
    assert (channel["closed_at"], channel["close_reason"]) == (None, None)
    members = [(one["agent_address"], one["role"]) for one in channel["members"]]
    assert members == [(hers["address"], "creator"), (his["address"], "member")]
    assert talk.post(1, "join")["channel"] == channel, "twice is once"

    said = talk.post(0, "messages", body="*hello*")
    assert said == {"seq": 1, "status": "open", "turn_count": 1, "max_turns": 10}
    talk.post(1, "messages", body="hi")
    heard = talk.get(1, "/messages")
    assert [(one["seq"], one["from_agent"], one["body"]) for one in heard["messages"]] == [
        (1, hers["address"], "*hello*"),
        (2, his["address"], "hi"),
    ]
    assert heard["messages"][0]["body_html"] == "<p><em>hello</em></p>\n"
    assert heard["channel"] == talk.get(0)
    assert [one["seq"] for one in talk.get(0, "/messages", since_seq=1)["messages"]] == [2]


def test_a_third_has_no_room(talk: Talk, desk: BrokerDesk, alice: Person) -> None:
    talk.post(1, "join")
    third = desk.agent(alice, "third")
    form = {"agent_id": third["id"]}
    desk.call("POST", f"/channels/{talk.token}/join", 409, json=form, headers=alice.header)


def test_after_ten_turns_a_person_says_whether_they_go_on(talk: Talk, desk: BrokerDesk) -> None:
    talk.post(1, "join")
    assert talk.person(0, "/continue", 409)["detail"].startswith("Channel is open")
    for n in range(9):
        assert talk.post(n % 2, "messages", body=str(n))["status"] == "open"
    assert talk.post(1, "messages", body="the tenth")["status"] == "pending_human"
    assert talk.post(0, "messages", 409, body="no")["detail"] == "Channel is pending_human; not accepting messages"
    assert talk.get(0)["close_reason"] == "max_turns"
    talk.post(1, "join")  # who is in it may look
    desk.call("POST", f"/channels/{talk.token}/continue", 404, json={}, headers=talk.people[0].header)
    on = talk.person(1, "/continue", extend_turns=2)
    assert (on["status"], on["max_turns"], on["close_reason"]) == ("open", 12, None)
    talk.post(0, "messages", body="11")
    assert talk.post(1, "messages", body="12")["status"] == "pending_human"
    path = f"/admin/channels/{talk.token}/continue"
    assert desk.call("POST", path, headers=talk.people[0].login)["max_turns"] == 22, "without a body ten more"


def test_who_are_out_of_turns_and_get_minutes_alone_get_turns_too(talk: Talk, desk: BrokerDesk) -> None:
    talk.post(1, "join")
    desk.sql("UPDATE channels SET max_turns = 1 WHERE id = :id", id=talk.id)
    assert talk.post(0, "messages", body="1")["status"] == "pending_human"
    on = talk.person(0, "/continue", extend_minutes=5)
    assert (on["status"], on["max_turns"] - on["turn_count"]) == ("open", 10)
    assert talk.post(1, "messages", body="2")["status"] == "open"


def test_time_ends_a_turn_too(talk: Talk, desk: BrokerDesk) -> None:
    talk.post(1, "join")
    desk.sql("UPDATE channels SET ttl_expires_at = '2020-01-01T00:00:00.000000+00:00' WHERE id = :id", id=talk.id)
    channel = talk.get(0)
    assert (channel["status"], channel["close_reason"]) == ("pending_human", "ttl")
    talk.post(0, "messages", 409, body="no")
    assert talk.person(0)["channel"]["status"] == "pending_human"
    # Whatever was asked for, it is open then.
    assert talk.person(0, "/continue", extend_turns=1)["status"] == "open"
    talk.post(0, "messages", body="yes")


def test_a_closed_one_is_closed_and_both_operators_hear_of_it_once(talk: Talk, desk: BrokerDesk) -> None:
    talk.post(1, "join")
    talk.post(0, "messages", body="bye")
    closed = talk.post(1, "close", reason="done here")
    assert (closed["status"], closed["close_reason"]) == ("closed", "done here")
    assert talk.post(0, "close") == closed
    assert talk.person(0, "/close", reason="again") == closed
    for what, form in (("join", {}), ("messages", {"body": "x"})):
        talk.post(1, what, 409, **form)
    talk.person(0, "/continue", 409)
    assert [one["body"] for one in talk.get(1, "/messages")["messages"]] == ["bye"], "it can be read still"
    assert_told(talk, "done here")


def assert_told(talk: Talk, why: str) -> None:
    """Both operators, once."""
    for person in talk.people:
        operator = talk.desk.call("GET", "/admin/human-operator", headers=person.login)["address"]
        inbox = talk.desk.call("GET", f"/admin/messages/inbox/{operator}", headers=person.login)
        [notice] = [one for one in inbox if talk.id in one["body"]]
        assert (notice["subject"], notice["automatic"]) == ("A channel is closed", "notice")
        assert why in notice["body"]


def test_where_the_broker_ended_before_all_were_told_the_next_close_tells_them(talk: Talk, desk: BrokerDesk) -> None:
    talk.post(1, "join")
    closed = "status = 'closed', closed_at = '2026-01-01T00:00:00.000000+00:00', close_reason = 'enough'"
    desk.sql(f"UPDATE channels SET {closed} WHERE id = :id", id=talk.id)
    for _ in range(2):
        assert talk.post(0, "close")["close_reason"] == "enough"
        assert_told(talk, "enough")


def test_those_who_speak_at_once_have_each_their_number(talk: Talk) -> None:
    talk.post(1, "join")

    def say(n: int) -> int:
        form = {"agent_id": talk.agents[n % 2]["id"], "body": str(n)}
        path = f"{talk.desk.url}/channels/{talk.token}/messages"
        answer = httpx.post(path, json=form, headers=talk.people[n % 2].header, trust_env=False, timeout=60)
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(say, range(16)))
    assert statuses == [200] * 10 + [409] * 6
    assert [one["seq"] for one in talk.get(0, "/messages")["messages"]] == list(range(1, 11))


def test_who_has_no_part_sees_nothing(talk: Talk, desk: BrokerDesk, bob: Person, alice: Person) -> None:
    unknown = {"detail": "Channel not found"}
    assert talk.person(1, "", 404) == unknown
    for what in ("/close", "/continue"):
        assert talk.person(1, what, 404) == unknown
    assert talk.token not in str(desk.call("GET", "/admin/channels", headers=bob.login))
    assert talk.token in str(desk.call("GET", "/admin/channels", headers=alice.login))
    form = {"agent_id": talk.agents[1]["id"]}
    for name in ("nothing", "%2e%2e"):
        assert desk.call("POST", f"/channels/{name}/join", 404, json=form, headers=bob.header) == unknown
    # Nobody acts as another's agent, nor a bound key as a team-mate.
    stranger = {"agent_id": talk.agents[0]["id"]}
    for path in ("/channels", f"/channels/{talk.token}/join"):
        said = desk.call("POST", path, 404, json=stranger, headers=bob.header)
        assert said == {"detail": "Agent not found"}
    own = desk.own_agent(alice, f"bound-{talk.id[:6]}")
    bound = {"X-API-Key": own["api_key_plaintext"]}
    desk.call("POST", "/channels", 403, json=stranger, headers=bound)
    desk.call("DELETE", f"/users/me/agents/{own['id']}", headers=alice.login)
    desk.call("POST", "/channels", 403, json={"agent_id": own["id"]}, headers=alice.header)


BAD: list[Any] = [{}, {"body": "x"}, {"body": None}, {"body": 1}, {"body": "a\0"}, {"body": "é" * 4097}, [], "x"]


@pytest.mark.parametrize("body", BAD)
def test_a_bad_form_is_422(talk: Talk, desk: BrokerDesk, alice: Person, body: Any) -> None:
    form = {**body, "agent_id": talk.agents[0]["id"]} if isinstance(body, dict) and body != {"body": "x"} else body
    desk.call("POST", f"/channels/{talk.token}/messages", 422, json=form, headers=alice.header)
    if isinstance(form, dict) and "body" in form:
        prompt = {**form, "initial_prompt": form["body"]}
        desk.call("POST", "/channels", 422, json=prompt, headers=alice.header)
    for bad in ({"extend_turns": 0}, {"extend_turns": 101}, {"extend_minutes": 1441}, {"extend_turns": "x"}):
        talk.person(0, "/continue", 422, **bad)
    talk.person(0, "/close", 422, reason="a\nb")
    talk.get(0, "/messages", 422, since_seq=-1)
    desk.call("GET", f"/channels/{talk.token}", 422, headers=alice.header)


def test_a_persons_channels_come_in_pages(desk: BrokerDesk, alice: Person, bob: Person) -> None:
    one, two = (desk.agent(alice, f"pages-{n}-{alice.name}") for n in range(2))
    hers = desk.agent(bob, "pages-bob")
    opened = []
    for n in range(5):
        form = {"agent_id": (one, hers)[n % 2]["id"]}
        headers = (alice, bob)[n % 2].header
        opened.append(desk.call("POST", "/channels", json=form, headers=headers)["join_token"])
    for token in opened:
        desk.call("POST", f"/channels/{token}/join", json={"agent_id": two["id"]}, headers=alice.header)
    whole = [one["join_token"] for one in desk.call("GET", "/admin/channels", headers=alice.login)]
    assert whole[:5] == opened[::-1], "each once, though two of her agents are in it"
    found, after = [], None
    while True:
        asked = {"limit": 2} | ({"after": after} if after else {})
        page = desk.call("GET", "/admin/channels", params=asked, headers=alice.login)
        found += [one["join_token"] for one in page["channels"]]
        after = page["next"]
        if after is None:
            break
        assert len(page["channels"]) == 2
    assert found == whole
    assert {one["join_token"] for one in desk.call("GET", "/admin/channels", headers=bob.login)} >= {*opened[1::2]}
    desk.call("GET", "/admin/channels?after=x", 400, headers=alice.login)
