"""Two people, or two windows of one, answer one question in the same instant at two processes: the second is told."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.console_stage import Scene, Visitor, running_console

from agent_mailer.remote.port import Question, Report

pytestmark = pytest.mark.usefixtures("each_database")
ROUNDS = 5


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[tuple[BrokerDesk, BrokerDesk]]:
    """Two over one database."""
    base = tmp_path_factory.mktemp("console")
    with running_console(base) as one, running_console(base) as other:
        yield one, other


@pytest.fixture(scope="module")
def scene(desks: tuple[BrokerDesk, BrokerDesk]) -> Scene:
    scene = Scene(desks[0], desks[0].person("alice"))
    scene.agent("coder")
    scene.agent("planner")
    return scene


@pytest.fixture(scope="module")
def windows(desks: tuple[BrokerDesk, BrokerDesk], scene: Scene) -> list[Visitor]:
    found = [Visitor(desk) for desk in desks]
    for one in found:
        assert one.sign_in(scene.person.name).status_code == 303
        # FastAPI makes of a route what it needs when it is first asked, and pydantic warns where two threads do so at
        # once: a broker has one.
        for path in ("/console/needs/answer", "/console/ask"):
            one.post(path, None, need="none")
    return found


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each gives, begun in the same instant."""
    gate = threading.Barrier(len(calls))
    found: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        gate.wait(20)
        found[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    return found


def report(scene: Scene, person: Person, *questions: Question) -> None:
    content = msgspec.json.encode(Report("1.2.3", "all", questions=questions))
    path = f"/agents/{scene.agents['coder']['id']}/report"
    scene.desk.call("PUT", path, content=content, headers=person.header)


def test_of_two_answers_by_mail_one_is_sent(windows: list[Visitor], scene: Scene) -> None:
    for _ in range(ROUNDS):
        task = scene.send("planner", "coder", "The cart", "build it")
        asks = scene.send("coder", "planner", "The cart", "Postgres or SQLite?", parent_id=task["id"])
        question = Question(f"t{secrets.token_hex(4)}", task["thread_id"], task["id"], 1_700_000_000.0)
        report(scene, scene.person, question)
        agent = scene.agents["coder"]
        form = {"need": f"question:{agent['id']}:{question.id}", "to": agent["address"], "subject": "Re: The cart"}
        form |= {"action": "reply", "parent": asks["id"]}

        def answer(place: int, body: str, form: dict[str, str] = form) -> Any:
            return windows[place].post(
                "/console/needs/answer", None, **form, key=form["need"][-8:] * 3 + f"{place}" * 8, body=body
            )

        said = [f"Postgres. {question.id}", f"SQLite. {question.id}"]
        found = at_once(lambda: answer(0, said[0]), lambda: answer(1, said[1]))  # noqa: B023
        assert sorted(one.status_code for one in found) == [303, 409]
        [late] = [place for place, one in enumerate(found) if one.status_code == 409]
        assert "your text was not sent" in found[late].text
        assert f"{said[late]}</textarea>" in found[late].text
        bodies = [one["body"] for one in scene.call("GET", f"/messages/thread/{task['thread_id']}", as_agent=True)]
        assert (bodies.count(said[late]), bodies.count(said[1 - late])) == (0, 1)
        # Who was first may send the same form again.
        assert answer(1 - late, said[1 - late]).status_code == 303
        bodies = [one["body"] for one in scene.call("GET", f"/messages/thread/{task['thread_id']}", as_agent=True)]
        assert bodies.count(said[1 - late]) == 1


@pytest.mark.parametrize("verbs", [("approve", "deny"), ("approve", "approve")])
def test_of_two_that_say_yes_or_no_one_counts(windows: list[Visitor], scene: Scene, verbs: tuple[str, str]) -> None:
    agent = scene.agents["coder"]["id"]
    for _ in range(ROUNDS):
        code = f"q-{secrets.token_hex(4)}"
        form = {"agent": agent, "target": code, "back": "/console/needs"}
        keys = [secrets.token_hex(16) for _ in verbs]

        def ask(place: int, form: dict[str, str] = form, keys: list[str] = keys) -> Any:
            return windows[place].post("/console/ask", None, **form, verb=verbs[place], key=keys[place])

        found = at_once(lambda: ask(0), lambda: ask(1))
        assert sorted(one.status_code for one in found) == [303, 409]
        [late] = [place for place, one in enumerate(found) if one.status_code == 409]
        word = {"approve": "allowed", "deny": "denied"}[verbs[1 - late]]
        assert re.search(rf"alice has {word} this meanwhile", found[late].text)
        asked = scene.call("GET", f"/admin/agents/{agent}/requests")
        assert [one["verb"] for one in asked if one["targets"] == [code]] == [verbs[1 - late]]
        # The same form once more is no other answer.
        assert ask(1 - late).status_code == 303
