"""The pages "Needs you" and "Agents": what watchers report, answered and asked in place, without a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from html import unescape
from typing import Any

import msgspec
import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.console_stage import Scene, Visitor, running_console
from tests.strict_html import check

from agent_mailer.console.operating import routes
from agent_mailer.remote.port import Counted, Question, Report, Resting, Scheduled, Spent, Stuck, Working

HOSTILE = "<img src=x onerror=alert(1)>'\""


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
    for name in ("coder", "planner", "idle"):
        scene.agent(name)
    return scene


@pytest.fixture(scope="module")
def visitor(desk: BrokerDesk, scene: Scene) -> Visitor:
    visitor = Visitor(desk)
    visitor.sign_in("alice")
    return visitor


def report(scene: Scene, name: str, **said: Any) -> None:
    content = msgspec.json.encode(Report("1.2.3", said.pop("remote", "operate"), **said))
    path = f"/agents/{scene.agents[name]['id']}/report"
    scene.desk.call("PUT", path, content=content, headers=scene.person.header)


def asked(scene: Scene, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scene.call("GET", f"/agents/{scene.agents[name]['id']}/requests", as_agent=True)
    return found


@contextmanager
def watching(scene: Scene, name: str) -> Iterator[None]:
    """Somebody holds the agent, and does nothing."""
    path = f"/messages/inbox/{scene.agents[name]['address']}/stream?agent_id={scene.agents[name]['id']}"
    headers = {**scene.person.header, "X-Agent-Mailer-Watcher": "w", "X-Agent-Mailer-Watcher-Name": "my host"}
    with scene.desk.http.stream("GET", path, headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield


def forms(text: str, action: str) -> list[dict[str, list[str]]]:
    """What the forms of a page that lead there would send, as they are."""
    found = []
    for form in re.findall(rf'<form method="post" action="{re.escape(action)}".*?</form>', text, re.DOTALL):
        fields: dict[str, list[str]] = {}
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form):
            fields.setdefault(name, []).append(unescape(value))
        found.append(fields)
    return found


def test_a_question_is_answered_in_place_once(visitor: Visitor, scene: Scene) -> None:
    task = scene.send("planner", "coder", "The cart", "build it")
    asked_by = scene.send("coder", "planner", "The cart", f"Postgres or SQLite? {HOSTILE}", parent_id=task["id"])
    question = Question("t1", task["thread_id"], task["id"], 1_700_000_000.0, scene.agents["planner"]["address"])
    report(scene, "coder", questions=(question,))
    page = visitor.get("/console/needs")
    check(page.text)
    assert "Postgres or SQLite? &lt;img src=x" in page.text
    [form] = forms(page.text, "/console/needs/answer")
    assert form["parent"] == [asked_by["id"]]
    sent = {**form, "body": "Postgres."}
    for _ in range(2):
        answer = visitor.post("/console/needs/answer", None, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/console/needs?done=answered")
    inbox = scene.call("GET", f"/messages/thread/{task['thread_id']}", as_agent=True)
    assert [one["body"] for one in inbox].count("Postgres.") == 1
    assert "Postgres or SQLite" not in visitor.get("/console/needs").text
    # Somebody else's page still has the form.
    late = visitor.post("/console/needs/answer", None, **{**sent, "key": "f" * 32, "body": "SQLite."})  # type: ignore[arg-type]
    assert late.status_code == 409
    assert "your text was not sent" in late.text
    assert "SQLite.</textarea>" in late.text
    assert "Postgres or SQLite" not in visitor.get("/console/agent", id=scene.agents["coder"]["id"]).text


def test_a_page_of_needs_begins_after_those_that_were_answered(visitor: Visitor, scene: Scene) -> None:
    scene.agent("asker")
    old, task = (scene.send("planner", "asker", subject, "do it") for subject in ("First", "Second"))
    scene.send("asker", "planner", "First", "answered?", parent_id=old["id"])
    scene.send("me", "asker", "First", "yes", thread_id=old["thread_id"])
    scene.send("asker", "planner", "Second", "Which of them?", parent_id=task["id"])
    first = Question("t0", old["thread_id"], old["id"], 1.0)
    others = [Question(f"t{number}", task["thread_id"], task["id"], 1.0 + number) for number in range(1, 50)]
    report(scene, "asker", questions=(first, *others))
    report(scene, "planner", questions=(Question("t50", task["thread_id"], task["id"], 51.0),))
    page = visitor.get("/console/needs").text
    shown = page.count('<li class="need"'), page.count("Which of them?"), page.count(">lost<")
    assert (shown[0], shown[1] + shown[2]) == (50, 50)
    assert "It asks something in its thread." not in page
    for name in ("asker", "planner", "coder"):
        report(scene, name)


def test_only_mail_to_whoever_asks_answers_and_what_is_written_to_others_makes_no_answer_undone(
    visitor: Visitor, scene: Scene
) -> None:
    scene.agent("painter")
    task = scene.send("planner", "painter", "Colours", "paint it")
    thread = task["thread_id"]
    scene.send("painter", "planner", "Colours", "Red or blue?", parent_id=task["id"])
    report(scene, "painter", questions=(Question("t1", thread, task["id"], 1.0),))
    scene.send("me", "idle", "Colours", "have a look", thread_id=thread)
    page = visitor.get("/console/needs").text
    assert "Red or blue?" in page
    [form] = forms(page, "/console/needs/answer")
    scene.send("me", "painter", "Colours", "Red.", thread_id=thread)
    scene.send("me", "idle", "Colours", "it is red", thread_id=thread)
    assert "Red or blue?" not in visitor.get("/console/needs").text
    late = visitor.post("/console/needs/answer", None, **{**form, "body": "Blue."})  # type: ignore[arg-type]
    assert late.status_code == 409
    report(scene, "painter")


def test_a_yes_is_said_to_what_the_agent_that_asks_has_told_and_to_no_other_agents_words(
    visitor: Visitor, scene: Scene
) -> None:
    """Each names its questions itself, so two may give them one name; without words there is nothing to say yes to."""
    told = {"cautious": f"Bash: rm -rf /srv {HOSTILE}", "sly": "Bash: ls", "mute": ""}
    for name, act in told.items():
        agent_id = scene.agent(name)["id"]
        report(scene, name, remote="all", questions=(Question("q-1", "th", "m", 1_700_000_000.0, tool="Bash"),))
        if act:
            link = {"agent_id": agent_id, "token_sha256": name.encode().hex().ljust(64, "0"), "seconds": 600}
            scene.call("POST", "/approvals/links", {**link, "act": act, "question": "q-1"}, as_agent=True)

    def shown(page: str) -> dict[str, tuple[str, list[str]]]:
        found = {}
        for need in re.findall(r'<li class="need".*?</li>', page, re.DOTALL):
            asks = forms(need, "/console/ask")
            for name in told:
                if "asks for a yes" in need and asks[0]["agent"] == [scene.agents[name]["id"]]:
                    act = "".join(re.findall(r'<pre class="act"[^>]*>(.*?)</pre>', need, re.DOTALL))
                    found[name] = (unescape(act), [one["verb"][0] for one in asks])
        return found

    expected = {name: (act, ["approve", "deny"] if act else ["deny"]) for name, act in told.items()}
    with ExitStack() as watched:
        for name in told:
            watched.enter_context(watching(scene, name))
        assert shown(visitor.get("/console/needs").text) == expected
        for name in told:
            one = visitor.get("/console/agent", id=scene.agents[name]["id"]).text
            assert shown(one) == {name: expected[name]}
    for name in told:
        report(scene, name)


def test_what_was_spent_on_another_day_is_not_of_today(visitor: Visitor, scene: Scene) -> None:
    today = datetime.now(UTC).date().isoformat()
    report(scene, "coder", today=Spent("2020-01-01", 40, cost_usd=9.5))
    report(scene, "planner", today=Spent(today, 2, cost_usd=1.25))
    shown = [visitor.get(f"/console/{place}").text for place in ("agents", "needs")]
    assert ["$9.50" in page or "$10.75" in page for page in shown] == [False, False]
    assert "2 · $1.25" in shown[0]
    assert "2 turns today · $1.25" in shown[1]
    assert "40 turns" not in visitor.get("/console/agent", id=scene.agents["coder"]["id"]).text


def test_what_is_stuck_is_run_again_from_the_page_and_what_came_of_it_is_shown(visitor: Visitor, scene: Scene) -> None:
    stuck = Stuck("given-up", f"m-1 {HOSTILE}", 1_700_000_000.0)
    report(scene, "planner", stuck=(stuck,), stuck_counts=(Counted("given-up", 1),), held_counts=(Counted("who", 2),))
    with watching(scene, "planner"):
        page = visitor.get("/console/needs")
    check(page.text)
    [again] = [form for form in forms(page.text, "/console/ask") if form["verb"] == ["retry"]]
    assert again["target"] == [f"given-up m-1 {HOSTILE}"]
    for _ in range(2):
        assert visitor.post("/console/ask", None, **again).status_code == 303
    [waiting] = asked(scene, "planner")
    assert (waiting["verb"], waiting["targets"], waiting["person"]) == ("retry", again["target"], "alice")
    with watching(scene, "planner"):
        assert '<span class="chip busy">asked</span>' in visitor.get("/console/needs").text
    path = f"/agents/{scene.agents['planner']['id']}/requests/{waiting['number']}"
    scene.call("PUT", path, {"became": "refused", "lines": ["nothing of it is stuck"]}, as_agent=True)
    with watching(scene, "planner"):
        told = visitor.get("/console/needs").text
    assert "nothing of it is stuck" in told
    # What may not be asked from afar has its command, and the key that would allow it.
    assert "agent-mailer held list --guard who" in told


def test_agents_are_shown_as_they_were_reported_and_paused_and_stopped(visitor: Visitor, scene: Scene) -> None:
    working = Working("t-9", "m", "th", 1_700_000_000.0, "Bash", 1_700_000_001.0)
    report(scene, "idle", working=(working,), remote="all")
    with watching(scene, "idle"):
        page = visitor.get("/console/agents").text
        check(page)
        assert "Bash" in page
        one = visitor.get("/console/agent", id=scene.agents["idle"]["id"]).text
        check(one)
        assert "my host" in one
        assert "It has had no turn yet" in one
        wanted = {form["verb"][0]: form for form in forms(one, "/console/ask")}
        assert wanted.keys() == {"pause", "stop", "raise"}
        visitor.post("/console/ask", None, **{**wanted["stop"], "then": "drop"})  # type: ignore[arg-type]
        visitor.post("/console/ask", None, **wanted["pause"])
        found = [(one["verb"], one.get("targets", []), one.get("then", "retry")) for one in asked(scene, "idle")]
        assert found == [("stop", ["t-9"], "drop"), ("pause", [], "retry")]
        # All that are watched, and no other.
        [everybody] = [form for form in forms(page, "/console/ask") if "whom" in form]
        for _ in range(2):
            assert visitor.post("/console/ask", None, **everybody).status_code == 303
        assert [one["verb"] for one in asked(scene, "idle")] == ["stop", "pause", "pause"]
        assert asked(scene, "coder") == []
        report(scene, "idle", pause=Resting("by_hand", 1_700_000_000.0))
        shown = visitor.get("/console/needs").text
        assert "Let it go on" in shown
        assert "It waits (by hand) until" in shown


def test_of_more_than_are_asked_side_by_side_each_is_asked_once(
    visitor: Visitor, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "AT_ONCE", 2)
    names = [f"one{number}" for number in range(5)]
    agents = [scene.agent(name)["id"] for name in names]
    asks = {"verb": "pause", "back": "/console/agents", "key": "5" * 32}
    assert visitor.post("/console/ask", None, agent=agents, **asks).headers["location"].endswith("done=asked")
    assert [[one["verb"] for one in asked(scene, name)] for name in names] == [["pause"]] * 5


def test_what_leaves_by_the_clock_is_shown_and_what_does_not_needs_somebody(visitor: Visitor, scene: Scene) -> None:
    scene.agent("clock")
    sent = scene.send("planner", "clock", "What broke last night?", "look")
    nightly = Scheduled("nightly", "0 3 * * * UTC", 1_700_000_000.0, sent=sent["id"], sent_at=1_699_900_000.0)
    broken = Scheduled(f"weekly{HOSTILE}", "0 3 * * 1 UTC", 1_700_500_000.0, due=1_699_999_000.0, why="body_changed")
    report(scene, "clock", schedules=(nightly, broken), pause=Resting("by_hand", 1.0))
    for path in ("/console/schedules", f"/console/agent?id={scene.agents['clock']['id']}"):
        page = visitor.get(path).text
        check(page)
        table = page[page.index("<table", page.index("Schedules</h")) :]
        assert table.index("weekly&lt;img") < table.index("body changed") < table.index(">nightly<")
        assert "2023-11-14 22:13" in table
        assert f'/console/message?id={sent["id"]}"><time datetime="2023-11-13T18:26:40' in table
    assert "does not leave: body changed" in visitor.get("/console/needs").text
    report(scene, "clock", schedules=(nightly,))
    assert "does not leave" not in visitor.get("/console/needs").text


def test_another_users_agents_are_nobody_elses(desk: BrokerDesk, scene: Scene, visitor: Visitor) -> None:
    desk.person("mallory")
    other = Visitor(desk)
    other.sign_in("mallory")
    agent_id = scene.agents["coder"]["id"]
    assert scene.agents["coder"]["address"] not in other.get("/console/needs").text + other.get("/console/agents").text
    assert other.get("/console/agent", id=agent_id).status_code == 404
    assert other.post("/console/ask", None, agent=agent_id, verb="pause").status_code == 404
    assert (
        visitor.post("/console/ask", {"Sec-Fetch-Site": "cross-site"}, agent=agent_id, verb="pause").status_code == 403
    )
    assert asked(scene, "coder") == []


def test_a_request_that_nobody_took_in_time_is_shown_as_too_late_and_may_be_asked_again(
    visitor: Visitor, scene: Scene
) -> None:
    report(scene, "idle")

    def pauses(page: str) -> list[dict[str, list[str]]]:
        idle = [scene.agents["idle"]["id"]]
        asks = forms(page, "/console/ask")
        return [one for one in asks if one["verb"] == ["pause"] and one.get("agent") == idle]

    with watching(scene, "idle"):
        [form] = pauses(visitor.get("/console/agents").text)
        assert visitor.post("/console/ask", None, **form).status_code == 303
        scene.desk.sql("UPDATE remote_requests SET ends_ms = 1 WHERE state = 'waiting' AND verb = 'pause'")
        page = visitor.get("/console/agents").text
        assert '<span class="chip bad">too late</span>' in page
        # Its watcher is not given it any more, and a new form asks anew.
        assert "pause" not in [one["verb"] for one in asked(scene, "idle")]
        [again] = pauses(page)
        assert visitor.post("/console/ask", None, **again).status_code == 303
        assert [one["verb"] for one in asked(scene, "idle")].count("pause") == 1
