"""The console's pages on which agents are made, changed, given another key and deleted, without a script."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from sqlalchemy import Connection
from tests.broker_desk import BrokerDesk, Person
from tests.console_stage import Scene, Visitor, running_console
from tests.strict_html import check

from agent_mailer.broker.threads.rows import Mark
from agent_mailer.broker.threads.trash import Trashed, trashed
from agent_mailer.console.mail import threads
from agent_mailer.outside.signature import HEADER, sign

HOSTILE = "<img src=x onerror=alert(1)>'\" &"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_console(tmp_path_factory.mktemp("console")) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


@pytest.fixture(scope="module")
def scene(desk: BrokerDesk, alice: Person) -> Scene:
    scene = Scene(desk, alice)
    scene.agent("planner")
    return scene


@pytest.fixture(scope="module")
def visitor(desk: BrokerDesk, scene: Scene) -> Visitor:
    visitor = Visitor(desk)
    visitor.sign_in("alice")
    return visitor


def secret_in(page: str) -> str:
    found = re.search(r'<code id="secret">([^<]+)</code>', page)
    assert found
    return found[1]


def agent_in(page: str) -> str:
    found = re.search(r'name="agent" value="([^"]+)"', page)
    assert found
    return found[1]


def by_key(desk: BrokerDesk, agent_id: str, key: str) -> int:
    return desk.http.get(f"/agents/{agent_id}", headers={"X-API-Key": key}).status_code


def test_an_agent_is_made_changed_given_another_key_and_deleted(
    desk: BrokerDesk, visitor: Visitor, scene: Scene
) -> None:
    fields = {
        "role": f"role {HOSTILE}",
        "description": f"{HOSTILE} \u202e",
        "system_prompt": f"a\n{HOSTILE}",
        "tags": "night, 'a\"",
    }
    made = visitor.post("/console/agents/make", None, name=HOSTILE, address_local="made.here", **fields)
    check(made.text)
    assert made.headers["Cache-Control"] == "no-store"
    key, agent_id = secret_in(made.text), agent_in(made.text)
    assert by_key(desk, agent_id, key) == 200
    settings = visitor.get("/console/agent/settings", id=agent_id)
    check(settings.text)
    assert key not in settings.text

    changed = visitor.post("/console/agent/change", None, agent=agent_id, name="Made", **{**fields, "role": "coder"})
    assert changed.status_code == 303
    known = desk.http.get(f"/agents/{agent_id}", headers={"X-API-Key": key}).json()
    assert (known["name"], known["role"], known["tags"]) == ("Made", "coder", ["night", "'a\""])
    assert known["system_prompt"] == fields["system_prompt"]
    check(visitor.get("/console/agent", id=agent_id).text)
    file = visitor.get("/console/agent/file", id=agent_id, name="AGENT.md")
    assert file.headers["Content-Disposition"] == 'attachment; filename="AGENT.md"'
    assert fields["system_prompt"] in file.text
    assert visitor.get("/console/agent/file", id=agent_id, name="../config.toml").status_code == 404

    other = secret_in(visitor.post("/console/agent/key", None, agent=agent_id).text)
    assert (by_key(desk, agent_id, key), by_key(desk, agent_id, other)) == (401, 200)

    sent = scene.send("planner", known["address"], "Before", "it goes")
    assert visitor.post("/console/agent/delete", None, agent=agent_id).status_code == 303
    assert by_key(desk, agent_id, other) == 401
    gone = visitor.get("/console/agents/deleted").text
    check(gone)
    assert known["address"] in gone
    assert known["address"] not in visitor.get("/console/agents").text
    assert "it goes" in visitor.get("/console/thread", id=sent["thread_id"]).text
    late = visitor.post("/console/send", None, to=known["address"], subject="s", body="after", key="k" * 20)
    assert late.status_code == 303
    assert "Make a new key" not in visitor.get("/console/agent/settings", id=agent_id).text
    assert visitor.post("/console/agents/make", None, name="x", address_local="made.here").status_code == 409
    acts = {act for [act] in desk.sql("SELECT act FROM audit_log WHERE about = :id", id=agent_id)}
    assert {"agent_added", "agent_changed", "key_replaced", "agent_deleted"} <= acts


def test_an_agent_goes_into_a_team_and_out_of_it_again(visitor: Visitor, scene: Scene) -> None:
    agent = scene.agent("mover")
    made = visitor.post("/console/teams/make", None, name="By settings", text="")
    team = parse_qs(urlsplit(made.headers["Location"]).query)["id"][0]
    for chosen in (team, ""):
        visitor.post("/console/agent/change", None, agent=agent["id"], name="mover", role="coder", team=chosen)
        [known] = [one for one in scene.call("GET", "/agents", as_agent=True) if one["id"] == agent["id"]]
        assert (known["team_id"] or "") == chosen


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("name", "", "name: "),
        ("name", "x" * 65, "name: "),
        ("address_local", "a'\"<b>", "local part of an address"),
        ("address_local", "planner", "already taken"),
        ("address_local", "human-operator", "kept for the human operator"),
        ("team", "no-such-team", "Team not found"),
        ("tags", "a\0b", "tags"),
        ("role", "two\nlines", "role: "),
    ],
)
def test_what_cannot_be_made_stays_on_the_page_with_the_reason(
    visitor: Visitor, field: str, value: str, why: str
) -> None:
    written = {"name": "kept", "system_prompt": f"kept words {HOSTILE}", field: value}
    answer = visitor.post("/console/agents/make", None, **written)
    assert 400 <= answer.status_code < 500
    assert why in unescape(answer.text)
    assert "kept words &lt;img src=x onerror=alert(1)&gt;" in answer.text
    check(answer.text.replace("\0", ""))


def test_a_session_that_ends_in_the_middle_of_such_a_form_loses_no_word(
    desk: BrokerDesk, visitor: Visitor, scene: Scene
) -> None:
    other = Visitor(desk)
    other.sign_in("alice")
    copy = httpx.Cookies(other.http.cookies)
    other.post("/console/logout")
    other.http.cookies = copy
    agent_id = scene.agents["planner"]["id"]
    written = {"agent": agent_id, "name": "Planner", "system_prompt": f"\nlong {HOSTILE}", "role": "plans"}
    refused = other.post("/console/agent/change", None, **written)
    assert refused.status_code == 401
    kept = {name: unescape(value) for name, value in re.findall(r'name="(kept\.\w+)" value="([^"]*)"', refused.text)}
    there = other.sign_in("alice", **kept)
    check(there.text)
    assert 'action="/console/agent/change"' in there.text
    areas = re.findall(r'<textarea name="(\w+)"[^>]*>\n(.*?)</textarea>', there.text, re.DOTALL)
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', there.text)
    again = {name: unescape(value) for name, value in areas + hidden}
    assert again == written
    assert other.post("/console/agent/change", None, **again).status_code == 303
    assert "long &lt;img" in visitor.get("/console/agent/settings", id=agent_id).text
    # Of a hook the events, too: without them it would take all.
    other.post("/console/logout")
    other.http.cookies = copy
    hook = other.post("/console/hooks/make", None, name="deploys", to="x@y", events="down, up")
    assert '<input type="hidden" name="kept.events" value="down, up">' in hook.text
    # Nobody leads it elsewhere.
    for place in ("https://evil.example/", "/files/x", "//evil.example"):
        led = other.sign_in("alice", **{**kept, "kept.form": place})
        assert 'action="/console"' in led.text


def test_names_and_tags_with_signs_go_through_pages_and_actions(visitor: Visitor, scene: Scene) -> None:
    signs = 'o\'n "x" <b>&amp; 50% a/b #1 ?q=+'
    made = scene.agent("signs")

    def told(path: str, **query: str) -> str:
        """The text of a page, as a person reads it."""
        answer = visitor.get(path, **query)
        assert answer.status_code == 200, path
        return " ".join(check(answer.text).texts)

    fields = {"name": signs, "role": signs, "description": signs, "system_prompt": signs, "tags": f"plain, {signs}"}
    assert visitor.post("/console/agent/change", None, agent=made["id"], **fields).status_code == 303
    [agent] = [one for one in scene.call("GET", "/admin/agents") if one["id"] == made["id"]]
    assert (agent["name"], set(agent["tags"])) == (signs, {"plain", signs})
    for path in ("/console/agents", "/console/stats", "/console/audit", "/console/compose"):
        told(path)
    assert signs in told("/console/agent", id=made["id"])
    told("/console/agent/settings", id=made["id"])
    # The list is cut by that very tag.
    assert visitor.post("/console/agents/filter", None, tag=[signs]).status_code == 303
    assert visitor.get("/console/agents").text.count("<tr data-row ") == 1
    visitor.post("/console/agents/filter", None)
    assert visitor.post("/console/teams/make", None, name=signs, description=signs).status_code == 303
    [team] = [one["id"] for one in scene.call("GET", "/admin/teams") if one["name"] == signs]
    assert signs in told("/console/team", id=team)
    scene.send("me", "signs", signs, signs, labels=[signs], thread_id=signs)
    assert told("/console/thread", id=signs).count(signs) >= 2
    assert signs in told("/console/threads")
    for what, shelf in (("archive", "/console/archive"), ("trash", "/console/trash")):
        assert visitor.post(f"/console/thread/{what}", None, thread=signs).status_code == 303
        assert signs in told(shelf)
        back = "unarchive" if what == "archive" else "restore"
        assert visitor.post(f"/console/thread/{back}", None, thread=signs).status_code == 303
        assert signs in told("/console/threads")
    for asked in (f'subject:"{signs}"', f"tag:{signs}", signs):
        told("/console/search", q=asked)


def test_the_list_is_cut_to_tags_and_to_pages(desk: BrokerDesk, alice: Person, visitor: Visitor, scene: Scene) -> None:
    for number in range(60):
        scene.agent(f"many{number:02}")
    first, second = visitor.get("/console/agents").text, visitor.get("/console/agents", page="2").text
    shown = [set(re.findall(r'href="/console/agent\?id=([^"]+)"', text)) for text in (first, second)]
    assert len(shown[0]) == 50
    assert len(shown[0] | shown[1]) >= 61
    assert visitor.get("/console/agents", page="99").text.count("data-row") == second.count("data-row")
    assert visitor.get("/console/agents", page="0").status_code == 422
    tag = "o'\"<b>"
    scene.call("PUT", f"/admin/agents/{scene.agents['many07']['id']}/tags", {"tags": [tag]})
    assert visitor.post("/console/agents/filter", None, tag=[tag]).status_code == 303
    cut = visitor.get("/console/agents").text
    check(cut)
    assert re.findall(r'href="/console/agent\?id=([^"]+)"', cut) == [scene.agents["many07"]["id"]]
    visitor.post("/console/agents/filter", None)
    assert visitor.get("/console/agents").text.count("data-row") == 50


def test_a_hook_is_made_takes_what_is_signed_gets_another_secret_and_goes(
    desk: BrokerDesk, visitor: Visitor, scene: Scene
) -> None:
    to = scene.agents["planner"]["address"]
    for field, value, why in (
        ("name", "A'\"<b>", "A hook's name has"),
        ("to", "nobody@x", "There is no agent"),
        ("to", "team:'\"<b>", "Team not found"),
        ("kind", "<b>", "kind"),
        ("events", "x" * 900, "events"),
    ):
        refused = visitor.post("/console/hooks/make", None, **{"name": "alarms", "to": to, field: value})
        check(refused.text)
        assert refused.status_code in (400, 404, 422)
        assert why in unescape(refused.text)
    made = visitor.post("/console/hooks/make", None, name="alarms", to=to, events="down, up")
    check(made.text)
    first = secret_in(made.text)
    [hook] = scene.call("GET", "/admin/hooks")
    assert (hook["to"], hook["rules"]["events"]) == (to, ["down", "up"])
    assert first not in visitor.get("/console/hooks").text
    # Nobody watches a hook, and nobody should.
    visitor.post("/console/agents/filter", None)
    shown = "".join(visitor.get("/console/agents", page=page).text for page in ("1", "2", "3"))
    assert ("planner" in shown, "hook--alarms" in shown) == (True, False)
    second = secret_in(visitor.post("/console/hooks/roll", None, hook=hook["id"]).text)
    event = msgspec.json.encode({"type": "down", "title": HOSTILE, "dedupeKey": HOSTILE})
    answers = [called(desk, hook["path"], secret, event) for secret in (first, second)]
    assert [answer.is_success for answer in answers] == [False, True], answers[1].text
    page = visitor.get("/console/hook", id=hook["id"]).text
    check(page)
    assert ">down<" in page
    for what, standing in (("disable", "disabled"), ("enable", "active")):
        assert visitor.post(f"/console/hooks/{what}", None, hook=hook["id"]).status_code == 303
        assert scene.call("GET", "/admin/hooks")[0]["standing"] == standing
    desk.person("eve")
    other = Visitor(desk)
    other.sign_in("eve")
    for what in ("roll", "disable", "delete"):
        assert other.post(f"/console/hooks/{what}", None, hook=hook["id"]).status_code == 404
    assert other.get("/console/hook", id=hook["id"]).status_code == 404
    assert visitor.post("/console/hooks/delete", None, hook=hook["id"]).status_code == 303
    assert visitor.get("/console/hook", id=hook["id"]).status_code == 404


def called(desk: BrokerDesk, path: str, secret: str, body: bytes) -> httpx.Response:
    """By a program that signs with that secret."""
    headers = {HEADER: sign(secret, body, int(time.time())), "Content-Type": "application/json"}
    return desk.http.post(path, content=body, headers=headers)


@pytest.mark.long
def test_a_thread_shows_what_of_it_is_in_the_trash_however_much_is_there(visitor: Visitor, scene: Scene) -> None:
    first = scene.send("me", "planner", "Old", "the oldest in the trash")
    scene.call("POST", f"/admin/messages/{first['id']}/trash")
    for number in range(201):
        one = scene.send("me", "planner", f"Newer {number}", "x")
        scene.call("POST", f"/admin/messages/{one['id']}/trash")
    assert "Delete this message for ever" in visitor.get("/console/thread", id=first["thread_id"]).text
    assert "Everything in the trash is deleted for ever." in visitor.get("/console/trash").text
    assert visitor.post("/console/trash/empty", None).status_code == 303
    assert "Newer" not in visitor.get("/console/trash").text
    assert scene.call("GET", "/admin/trash/messages") == []


def test_to_empty_the_trash_ends_and_leaves_only_what_was_answered_there(
    visitor: Visitor, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MOST_SHOWN", 1)
    those = [scene.send("me", "planner", subject, "x") for subject in ("Older", "Answered", "Newer")]
    for one in those:
        scene.call("POST", f"/admin/messages/{one['id']}/trash")
    stays = those[1]["id"]
    scene.send("planner", "me", "Re: Answered", "I had it already", parent_id=stays)
    looks = []

    def counted(connection: Connection, user_id: str, after: Mark, most: int) -> list[Trashed]:
        looks.append(after)
        assert len(looks) < 9, "it turns round"
        return trashed(connection, user_id, after, most)

    monkeypatch.setattr(threads, "trashed", counted)
    assert visitor.post("/console/trash/empty", None).status_code == 303
    assert [one["message_id"] for one in scene.call("GET", "/admin/trash/messages")] == [stays]
    scene.call("POST", f"/admin/messages/{stays}/restore")


def test_the_page_of_a_long_thread_marks_what_it_says_and_nothing_that_it_does_not_show(
    visitor: Visitor, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.console.mail.threads.MOST_SHOWN", 2)
    first = scene.send("planner", "me", "Long", "x")
    thread = {"thread_id": first["thread_id"]}
    sent = [first["id"], *(scene.send("planner", "me", "Long", "x", **thread)["id"] for _ in range(4))]

    def look(**query: str) -> list[str]:
        """The messages that its button marks."""
        page = visitor.get("/console/thread", id=first["thread_id"], **query).text
        form: list[str] = re.findall(r'name="unread" value="([^"]+)"', page)
        assert f"Mark {len(form)} message" in page
        assert visitor.post("/console/thread/read", None, unread=form, back="/console/threads").status_code == 303
        return form

    assert [look(), look(all="yes"), look(all="yes")] == [sent[3:], sent[:2], sent[2:3]]
    assert 'name="unread"' not in visitor.get("/console/thread", id=first["thread_id"], all="yes").text


def test_another_users_agents_are_nobody_elses_to_change(desk: BrokerDesk, scene: Scene) -> None:
    desk.person("mallory")
    other = Visitor(desk)
    other.sign_in("mallory")
    agent_id = scene.agents["planner"]["id"]
    for path in ("/console/agent/settings", "/console/agent/file"):
        assert other.get(path, id=agent_id, name="AGENT.md").status_code == 404
    for what in ("change", "key", "delete"):
        assert other.post(f"/console/agent/{what}", None, agent=agent_id, name="mine").status_code == 404
    operator = scene.call("GET", "/admin/human-operator")
    mine = Visitor(desk)
    mine.sign_in("alice")
    assert mine.post("/console/agent/delete", None, agent=operator["agent_id"]).status_code == 409
