"""Who may no longer use the broker: a user that is disabled or deleted, an agent that is deleted. Their mail stays."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.broker_desk import PASSWORD, BrokerDesk, Person, running_broker
from tests.desk import until
from tests.sizes import LONG
from tests.typed import Terminal, type_in

from agent_mailer.broker import directory as directories
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import Directory
from agent_mailer.cli.broker.user import delete

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), heartbeat_seconds=0.5) as desk:
        yield desk


@pytest.fixture(scope="module")
def root(desk: BrokerDesk) -> Person:
    return desk.person("root")


def test_what_was_read_before_a_change_is_not_believed_after_it(desk: BrokerDesk, root: Person) -> None:
    """Else who is deleted while somebody asks for them is let in for a while."""
    gone = desk.agent(root, "gone")["id"]

    async def ask() -> list[str]:
        store = Store(desk.settings.database)
        await store.open()
        try:
            directory = Directory(store)
            asking = asyncio.create_task(directory.agent(gone))
            await asyncio.sleep(0)
            directory.forget()
            before = await asking
            desk.sql("UPDATE agents SET status = 'deleted' WHERE id = :id", id=gone)
            return [one.status for one in (before, await directory.agent(gone)) if one is not None]
        finally:
            await store.close()

    assert asyncio.run(ask()) == ["active", "deleted"]


@pytest.mark.parametrize(
    ("name", "change", "status"),
    [
        ("kay", "UPDATE api_keys SET is_active = false WHERE user_id = :id", 401),
        ("uma", "UPDATE users SET standing = 'disabled' WHERE id = :id", 401),
        ("ada", "UPDATE agents SET status = 'deleted' WHERE user_id = :id", 403),
    ],
    ids=["key", "user", "agent"],
)
def test_what_is_believed_of_whoever_does_nothing_but_send_grows_old(
    desk: BrokerDesk, root: Person, monkeypatch: pytest.MonkeyPatch, name: str, change: str, status: int
) -> None:
    """What another process has changed is heard of only so."""
    sender = desk.person(name)
    agent = desk.agent(sender, "agent")
    monkeypatch.setattr(directories, "LIFE", 0.0)
    form = {"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": agent["address"]}
    desk.call("POST", "/messages/send", json=form, headers=sender.header)
    desk.sql(change, id=sender.id)
    desk.call("POST", "/messages/send", status, json=form, headers=sender.header)


class Team:
    """A person with two agents that have written to each other."""

    def __init__(self, desk: BrokerDesk, name: str) -> None:
        self.desk = desk
        self.person = desk.person(name)
        self.planner, self.coder = (desk.agent(self.person, agent) for agent in ("planner", "coder"))
        self.sent = desk.send(self.person, self.planner, self.coder["address"], body="b")
        self.inbox = f"/messages/inbox/{self.coder['address']}"
        self.query = {"agent_id": self.coder["id"]}
        self.form = {
            "agent_id": self.planner["id"],
            "from_agent": self.planner["address"],
            "to_agent": self.coder["address"],
        }

    def statuses(self, key: dict[str, str]) -> tuple[int, ...]:
        """Of sending, reading, opening a stream."""
        http = self.desk.http
        with http.stream("GET", f"{self.inbox}/stream", params=self.query, headers=key) as opened:
            stream = opened.status_code
        return (
            http.post("/messages/send", json=self.form, headers=key).status_code,
            http.get(self.inbox, params=self.query, headers=key).status_code,
            stream,
        )

    @contextmanager
    def listening(self) -> Iterator[Iterator[str]]:
        with self.desk.http.stream("GET", f"{self.inbox}/stream", params=self.query, headers=self.person.header) as s:
            lines = s.iter_lines()
            assert next(lines) == "event: hello"
            yield lines

    def login(self, expected: int) -> Any:
        credentials = {"username": self.person.name, "password": PASSWORD}
        return self.desk.call("POST", "/users/login", expected, json=credentials)


def change(desk: BrokerDesk, root: Person, method: str, team: Team, what: str = "", expected: int = 200) -> Any:
    return desk.call(method, f"/superadmin/users/{team.person.id}{what}", expected, headers=root.login)


def test_a_disabled_user_is_out_until_enabled_again(desk: BrokerDesk, root: Person) -> None:
    team = Team(desk, "ann")
    with team.listening() as lines:
        told = change(desk, root, "POST", team, "/disable")
        assert (told["username"], told["standing"]) == ("ann", "disabled")
        assert team.statuses(team.person.header) == (401, 401, 401)
        assert desk.call("GET", "/users/me", 401, headers=team.person.login)
        assert team.login(403) == {"detail": "This account is disabled"}
        wrong = {"username": "ann", "password": "something else"}
        assert "Invalid" in desk.call("POST", "/users/login", 401, json=wrong)["detail"], (
            "only who has the password hears"
        )
        change(desk, root, "POST", team, expected=405)
        desk.call("POST", f"/superadmin/login-as/{team.person.id}", 409, headers=root.login)
        assert list(lines), "the stream that was open ends, too"
    assert change(desk, root, "POST", team, "/enable")["standing"] == "active"
    assert team.statuses(team.person.header) == (200, 200, 200)
    desk.call("GET", "/users/me", 401, headers=team.person.login)
    token = team.login(200)["token"]
    assert desk.call("GET", "/users/me", headers={"Authorization": f"Bearer {token}"})["username"] == "ann"


@pytest.mark.usefixtures("root")
def test_who_acts_as_another_does_so_until_a_change_of_his_own_logins_whatever_the_others_were(
    desk: BrokerDesk,
) -> None:
    chief, other = desk.person("chief"), desk.person("dora")

    def changed(who: Person, what: str) -> None:
        desk.sql(f"UPDATE users SET {what} WHERE id = :id", id=who.id)
        desk.app.state.directory.forget()

    changed(chief, "is_superadmin = true")
    # She has changed her password more often than he.
    changed(other, "token_version = 2")
    token = desk.call("POST", f"/superadmin/login-as/{other.id}", headers=chief.login)["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert desk.call("GET", "/users/me", headers=bearer)["username"] == "dora"
    changed(chief, "token_version = 2")
    desk.call("GET", "/users/me", 401, headers=bearer)


def test_a_deleted_user_is_gone_and_what_they_wrote_is_not(desk: BrokerDesk, root: Person) -> None:
    team = Team(desk, "ben")
    assert change(desk, root, "DELETE", team)["standing"] == "deleted"
    assert team.statuses(team.person.header) == (401, 401, 401)
    desk.call("GET", "/users/me", 401, headers=team.person.login)
    assert "Invalid" in team.login(401)["detail"]
    for method, what in (("POST", "/disable"), ("POST", "/enable"), ("DELETE", "")):
        change(desk, root, method, team, what, 404)
    desk.call("POST", f"/superadmin/login-as/{team.person.id}", 404, headers=root.login)
    listed = {user["username"]: user["standing"] for user in desk.call("GET", "/superadmin/users", headers=root.login)}
    assert (listed["ben"], listed["root"]) == ("deleted", "active")
    kept = desk.sql("SELECT from_agent, body FROM messages WHERE id = :id", id=team.sent["id"])
    assert [tuple(row) for row in kept] == [(team.planner["address"], "b")]
    assert {row[0] for row in desk.sql("SELECT status FROM agents WHERE user_id = :id", id=team.person.id)} == {
        "deleted"
    }
    # Nobody else becomes who they were.
    code = desk.call("POST", "/superadmin/invite-codes", 201, headers=root.login)["code"]
    again = {"username": "ben", "password": PASSWORD, "invite_code": code}
    desk.call("POST", "/users/register", 409, json=again)


def test_who_may_do_it(desk: BrokerDesk, root: Person) -> None:
    team = Team(desk, "cid")
    for method, what in (("POST", "/disable"), ("POST", "/enable"), ("DELETE", "")):
        path = f"/superadmin/users/{team.person.id}{what}"
        desk.call(method, path, 401)
        desk.call(method, path, 403, headers=team.person.login)
        desk.call(method, f"/superadmin/users/none{what}", 404, headers=root.login)
    for method, what in (("POST", "/disable"), ("DELETE", "")):
        said = desk.call(method, f"/superadmin/users/{root.id}{what}", 409, headers=root.login)
        assert said == {"detail": "The superadmin stays active"}


def test_a_deleted_agent_sends_reads_and_listens_no_more(desk: BrokerDesk, root: Person) -> None:
    team = Team(desk, "dan")
    with team.listening() as lines:
        desk.call("DELETE", f"/users/me/agents/{team.coder['id']}", headers=team.person.login)
        assert list(lines), "the stream that was open ends"
    assert team.statuses(team.person.header) == (200, 403, 403), "who writes to it is stored, as the protocol has it"
    form = {"agent_id": team.coder["id"], "from_agent": team.coder["address"], "to_agent": team.planner["address"]}
    said = desk.call("POST", "/messages/send", 403, json=form, headers=team.person.header)
    assert "is deleted" in said["detail"]
    assert desk.call("GET", f"/messages/{team.sent['id']}", headers=team.person.header)["body"] == "b"


def test_a_deleted_agent_works_on_nothing_that_somebody_knows_the_id_of(desk: BrokerDesk, root: Person) -> None:
    team = Team(desk, "fay")
    desk.call("DELETE", f"/users/me/agents/{team.coder['id']}", headers=team.person.login)
    message = f"/messages/{team.sent['id']}"
    watcher = {**team.person.header, "X-Agent-Mailer-Watcher": "w"}
    told = {"stage": "settled", "turn_id": "t", "final": True}
    for call, form in (("claim", {}), ("receipts", told)):
        said = desk.call("POST", f"{message}/{call}", 403, json=form, headers=watcher)
        assert "is deleted" in said["detail"]
    assert desk.call("GET", message, headers=team.person.header)["claimed_at"] is None


def test_whoever_is_asked_and_does_not_say_yes_keeps_the_user(
    desk: BrokerDesk, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    kim = desk.person("kim")
    monkeypatch.setattr(os, "umask", lambda mode: mode)  # else that of the tests were the command's from then on
    for typed, standing in (("n", "active"), ("", "active"), ("y", "deleted")):
        monkeypatch.setattr(sys, "stdin", Terminal(f"{typed}\n"))
        with nullcontext() if standing == "deleted" else pytest.raises(typer.Abort):
            delete("kim", database=desk.settings.database)
        assert desk.sql("SELECT standing FROM users WHERE id = :id", id=kim.id) == [(standing,)], typed


@LONG
def test_by_command(desk: BrokerDesk, root: Person, tmp_path: Path) -> None:
    team = Team(desk, "eve")
    given = ("--database", desk.settings.database)

    def broker_user(*words: str) -> Any:
        return type_in(tmp_path, "broker", "user", *words, *given)

    done = broker_user("disable", "eve")
    assert (done.status, "broker user enable eve" in done.out) == (0, True), done
    # It works on the database: the broker that runs believes what it knows for two seconds.
    until(lambda: team.statuses(team.person.header) == (401, 401, 401), "its end at the broker", 10)
    assert [row["standing"] for row in broker_user("list", "--json").json if row["username"] == "eve"] == ["disabled"]
    assert "disabled" in broker_user("list").out
    assert broker_user("enable", "eve").status == 0
    refused = broker_user("delete", "eve")
    assert (refused.status, "--yes" in refused.err) == (2, True), refused
    assert (broker_user("delete", "root", "--yes").status, broker_user("delete", "eve", "--yes").status) == (1, 0)
    gone = broker_user("enable", "eve")
    assert (gone.status, "no user eve" in gone.err) == (2, True), gone
