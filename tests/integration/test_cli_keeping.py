"""`mail search`, `archive`, `trash`, `restore`: at a broker by a person's login, in a folder what there can be."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.sizes import LONG
from tests.typed import Typed, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.mailbox.amp import shelves
from agent_mailer.people.shelves import at_broker


class Scene(NamedTuple):
    broker: BrokerDesk
    ann: Person
    bob: Person
    coder: dict[str, Any]
    tester: dict[str, Any]
    home: Path

    def __call__(self, *words: str, status: int = 0) -> Typed:
        env = {"AGENT_MAILER_BROKER_URL": self.broker.url, "AGENT_MAILER_API_KEY": self.ann.key, "HOME": str(self.home)}
        done = type_in(self.home, "mail", *words, env=env)
        assert done.status == status, done
        return done

    def ids_of(self, agent: dict[str, Any]) -> list[str]:
        path = f"/messages/inbox/{agent['address']}?agent_id={agent['id']}&all=true"
        return [one["id"] for one in self.broker.call("GET", path, headers=self.ann.header)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        ann, bob = desk.person("ann"), desk.person("bob")
        home = tmp_path_factory.mktemp("home")
        folder = home / ".agent-mailer"
        folder.mkdir(mode=0o700)
        logins = {"credentials": {desk.url: {"username": "ann", "token": ann.token}}, "default_broker_url": desk.url}
        (folder / "credentials.json").write_text(json.dumps(logins))
        (folder / "credentials.json").chmod(0o600)
        desk.call("GET", "/admin/human-operator", headers=ann.login)
        yield Scene(desk, ann, bob, desk.agent(ann, "coder"), desk.agent(ann, "tester"), home)


@LONG
def test_at_a_broker_mail_is_found_put_away_and_brought_back(scene: Scene) -> None:
    send, coder, tester = scene.broker.send, scene.coder, scene.tester
    first = send(scene.ann, coder, tester["address"], subject="release", body="notes of\x1b[31m the parser")
    other = send(scene.ann, tester, coder["address"], subject="lunch", body="notes of nothing")
    mine = scene.broker.agent(scene.bob, "own")
    send(scene.bob, mine, mine["address"], body="notes of bob")

    found = json.loads(scene("search", "notes", "--json").out)
    assert [one["id"] for one in found["messages"]] == [other["id"], first["id"]]
    assert [one["id"] for one in json.loads(scene("search", "pars*", "notes", "--json").out)["messages"]] == [
        first["id"]
    ]
    limited = json.loads(scene("search", "notes", "--limit", "1", "--json").out)
    assert ([one["id"] for one in limited["messages"]], limited["more"]) == ([other["id"]], True)
    shown = scene("search", "parser")
    assert first["id"] in shown.out
    assert "\x1b" not in shown.out
    assert "nothing was found" in scene("search", "zebra").err
    assert "no word" in scene("search", "--", "-*-", status=2).err

    assert "thread" in scene("archive", first["id"]).out
    assert first["id"] not in scene.ids_of(tester)
    assert first["thread_id"] in scene("archive").out
    scene("restore", first["thread_id"][:12])
    assert first["id"] in scene.ids_of(tester)
    scene("archive", first["thread_id"])
    assert [one["id"] for one in json.loads(scene("search", "parser", "--json").out)["messages"]] == [first["id"]]

    scene("trash", other["id"])
    assert other["id"] not in scene.ids_of(coder)
    listed = json.loads(scene("trash", "--json").out)["trash"]
    assert [(one["message"], one["subject"]) for one in listed] == [(other["id"], "lunch")]
    scene("restore", other["id"][:13])
    assert other["id"] in scene.ids_of(coder)
    assert "nothing is in the trash" in scene("trash").err
    assert "no message" in scene("restore", "nothing", status=1).err
    scene("trash", "..", status=2)
    answered = send(scene.ann, coder, tester["address"], action="reply", parent_id=other["id"], body="yes")
    assert "has replies" in scene("trash", other["id"], status=1).err
    assert scene("search", "yes", "--as", tester["address"]).out.count(answered["id"]) == 1


def test_a_search_at_a_broker_has_as_many_as_are_wanted_whatever_a_page_holds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "PAGE", 2)
    monkeypatch.setenv("HOME", str(scene.home))
    monkeypatch.setenv("AGENT_MAILER_BROKER_URL", scene.broker.url)
    monkeypatch.setenv("AGENT_MAILER_API_KEY", scene.ann.key)
    runner = scene.broker.agent(scene.ann, "runner")
    ways = [(scene.coder, runner), (scene.coder, scene.tester), (scene.tester, scene.coder), (runner, scene.coder)] * 2
    sent = [
        (sender["name"], to["name"], scene.broker.send(scene.ann, sender, to["address"], body="parsnips")["id"])
        for sender, to in ways
    ]
    sent.reverse()

    def found(limit: int, whose: str | None = None) -> tuple[list[str], bool]:
        hits, more = asyncio.run(at_broker(Workplace(scene.home), whose).search("parsnips", limit))
        return [hit.id for hit in hits], more

    everything = [name for *_, name in sent]
    assert [found(limit) for limit in (1, 2, 5)] == [(everything[:limit], True) for limit in (1, 2, 5)]
    assert found(8) == found(500) == (everything, False)
    of_runner = [name for *ends, name in sent if "runner" in ends]
    assert [found(limit, runner["address"]) for limit in (3, 4)] == [(of_runner[:3], True), (of_runner, False)]


def test_without_a_login_it_says_how_to_log_in(scene: Scene, tmp_path: Path) -> None:
    away = scene._replace(home=tmp_path)
    assert f"amp login {scene.broker.url}" in away("archive", "x", status=78).err


def test_in_a_folder_mail_is_found_and_there_is_nothing_to_put_it_away(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path)}
    root = tmp_path / ".agent-mail"
    for name in ("coder", "user"):
        for folder in ("inbox/new", "inbox/cur", "inbox/tmp", "outbox/sent"):
            (root / "agents" / name / folder).mkdir(parents=True)
    for body in ("the Parser is broken", "all is well"):
        sent = type_in(tmp_path, "send", "coder", body, "--subject", "news", "--maildir-root", str(root), env=env)
        assert sent.status == 0, sent
    wanted = (("parser", "coder", 1), ("pars* news", "coder", 1), ("news", "user", 2), ("pars", "coder", 0))
    for words, whose, hits in wanted:
        found = type_in(
            tmp_path, "mail", "search", words, "--as", whose, "--maildir-root", str(root), "--json", env=env
        )
        assert (found.status, len(found.json["messages"])) == (0, hits), (words, found)
    for verb in (("archive",), ("trash", "x"), ("restore", "x")):
        refused = type_in(tmp_path, "mail", *verb, "--maildir-root", str(root), env=env)
        assert (refused.status, "a folder mailbox has no" in refused.err) == (2, True), refused
