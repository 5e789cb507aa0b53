"""The operator's mailbox, and what the broker says of itself."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, Person, running_broker

from agent_mailer import __version__

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), max_body_bytes=70_000, heartbeat_seconds=7.0) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


@pytest.fixture(scope="module")
def coder(desk: BrokerDesk, alice: Person) -> dict[str, Any]:
    return desk.agent(alice, "coder")


def test_what_the_broker_can_do(desk: BrokerDesk) -> None:
    assert desk.call("GET", "/.well-known/agent-mailer") == {
        "protocol": "amp",
        "broker": "agent-mailer",
        "version": __version__,
        "extensions": [
            "inbox-cursor",
            "inbox-heads",
            "stream",
            "idempotency",
            "marks",
            "claims",
            "receipts",
            "message-get",
            "html-optional",
            "operator-by-key",
            "approval-links",
            "claim-thread",
            "team-memories",
            "watcher-reports",
            "file-reservations",
            "group-mail",
        ],
        "max_body_bytes": 70_000,
        "heartbeat_seconds": 7.0,
        "limits": {
            "streams_per_key": 4096,
            "streams_per_host": 4096,
            "request_seconds": 120.0,
            "max_file_bytes": 10_485_760,
            "quota": {"messages_per_day": 0, "bytes_per_day": 0, "file_bytes": 0},
            "login_attempts": "10/5 minutes",
        },
    }


def test_the_operator(desk: BrokerDesk, alice: Person) -> None:
    operator = desk.call("GET", "/admin/human-operator", headers=alice.login)
    assert operator == {
        "agent_id": str(uuid.uuid5(uuid.NAMESPACE_URL, alice.id)),
        "address": f"human-operator@alice.{DOMAIN}",
    }
    assert desk.call("GET", "/admin/human-operator", headers=alice.login) == operator
    shown = desk.call("GET", f"/agents/{operator['agent_id']}", headers=alice.header)
    assert (shown["role"], shown["status"]) == ("operator", "online")
    desk.call("GET", "/admin/human-operator", 401)
    desk.call("GET", "/admin/human-operator", 401, headers=alice.header)


def test_the_operator_by_key(desk: BrokerDesk) -> None:
    carol = desk.person("carol")
    operator = desk.call("POST", "/agents/operator", headers=carol.header)
    assert operator == desk.call("GET", "/admin/human-operator", headers=carol.login)
    bound = desk.own_agent(carol, "bound")
    desk.call("POST", "/agents/operator", 403, headers={"X-API-Key": bound["api_key_plaintext"]})
    desk.call("POST", "/agents/operator", 401)


def post(
    desk: BrokerDesk, person: Person, expected: int = 200, headers: dict[str, str] | None = None, **form: Any
) -> Any:
    credentials = {**person.login, **(headers or {})}
    return desk.call("POST", "/admin/messages/send", expected, json=form, headers=credentials)


def test_the_operator_writes_and_gets_answers(desk: BrokerDesk, alice: Person, coder: dict[str, Any]) -> None:
    operator = desk.call("GET", "/admin/human-operator", headers=alice.login)
    sent = post(desk, alice, to_agent=coder["address"], subject="s", body="*b*")
    assert (sent["from_agent"], sent["to_agent"]) == (operator["address"], coder["address"])
    assert sent["body_html"] == "<p><em>b</em></p>\n"
    answer = desk.send(alice, coder, operator["address"], action="reply", parent_id=sent["id"])
    inbox = f"/admin/messages/inbox/{operator['address']}"
    assert desk.call("GET", inbox, headers=alice.login) == [answer]
    reply = post(desk, alice, to_agent=coder["address"], action="reply", parent_id=answer["id"])
    assert reply["thread_id"] == sent["thread_id"]
    forward = post(
        desk, alice, to_agent=[coder["address"]], action="forward", parent_id=answer["id"], forward_scope="thread"
    )
    assert forward["body"].count("\n\n---\n\n") == 2
    once = {"Idempotency-Key": "x"}
    assert post(desk, alice, headers=once, to_agent=coder["address"]) == post(
        desk, alice, headers=once, to_agent=coder["address"]
    )
    assert post(desk, alice, to_agent=[]) == []


def test_what_the_operator_may_not(desk: BrokerDesk, alice: Person, coder: dict[str, Any]) -> None:
    bob = desk.person("bob")
    foreign = desk.agent(bob, "bobs")
    theirs = desk.send(bob, foreign, foreign["address"])
    said = post(desk, alice, 404, to_agent=foreign["address"])
    assert said["detail"] == f"Recipient address '{foreign['address']}' not found", "as if unknown"
    assert post(desk, alice, 404, to_agent="no")["detail"] == "Recipient address 'no' not found"
    said = post(desk, alice, 404, to_agent=coder["address"], action="reply", parent_id=theirs["id"])
    assert said["detail"] == "Parent message not found"
    said = post(desk, alice, 400, to_agent=coder["address"], action="reply")
    assert said["detail"] == "parent_id is required for reply/forward"
    post(desk, alice, 413, to_agent=coder["address"], body="x" * 70_001)
    post(desk, alice, 422, to_agent=coder["address"], action="delete")
    desk.call("POST", "/admin/messages/send", 401, json={"to_agent": coder["address"]}, headers=alice.header)
    for address in (foreign["address"], "no"):
        said = desk.call("GET", f"/admin/messages/inbox/{address}", 404, headers=alice.login)
        assert said == {"detail": "Address not found"}


def test_the_operator_reads_threads_and_marks_what_is_theirs(
    desk: BrokerDesk, alice: Person, coder: dict[str, Any]
) -> None:
    operator = desk.call("GET", "/admin/human-operator", headers=alice.login)
    sent = desk.send(alice, coder, operator["address"], body="to you")
    between = desk.send(alice, coder, desk.agent(alice, "other")["address"], body="to a colleague")
    for message in (sent, between):
        path = f"/admin/messages/thread/{message['thread_id']}"
        assert desk.call("GET", path, headers=alice.login) == [message]
        desk.call("GET", path, 401, headers=alice.header)
        desk.call("GET", path, 404, headers=desk.person(f"x{message['cursor']}-{message['id'][:8]}").login)
    inbox = f"/admin/messages/inbox/{operator['address']}"
    assert sent["id"] in {one["id"] for one in desk.call("GET", inbox, headers=alice.login)}
    path = f"/admin/messages/{sent['id']}"
    assert desk.call("PATCH", f"{path}/read", headers=alice.login) == {**sent, "is_read": True}
    assert sent["id"] not in {one["id"] for one in desk.call("GET", inbox, headers=alice.login)}
    assert desk.call("PATCH", f"{path}/unread", headers=alice.login)["is_read"] is False
    # Who works on an agent's mail marks it: else a look at it would take it from the agent.
    said = desk.call("PATCH", f"/admin/messages/{between['id']}/read", 403, headers=alice.login)
    assert "watcher" in said["detail"]
    for how in ("read", "unread"):
        desk.call("PATCH", f"{path}/{how}", 404, headers=desk.person(f"z-{how}").login)
        desk.call("PATCH", f"{path}/{how}", 401)


def test_the_operators_mail_from_one_team(desk: BrokerDesk, alice: Person, coder: dict[str, Any]) -> None:
    operator = desk.call("GET", "/admin/human-operator", headers=alice.login)
    team = desk.call("POST", "/admin/teams", json={"name": "crew"}, headers=alice.login)["id"]
    member = desk.agent(alice, "member")
    desk.call("POST", f"/admin/teams/{team}/agents", json={"agent_id": member["id"]}, headers=alice.login)
    ours = [desk.send(alice, member, operator["address"], body=f"n{n}")["id"] for n in range(3)]
    desk.send(alice, coder, operator["address"], body="of another")

    def seen(query: str) -> list[str]:
        found = desk.call(
            "GET", f"/admin/messages/inbox/{operator['address']}?from_team_id={team}{query}", headers=alice.login
        )
        return [one["id"] for one in (found["messages"] if isinstance(found, dict) else found)]

    assert seen("") == ours[::-1]
    assert [seen(f"&page={page}&page_size=2") for page in (1, 2, 3)] == [ours[:0:-1], ours[:1], []]
    others = desk.call("POST", "/admin/teams", json={"name": "crew"}, headers=desk.person("yan").login)["id"]
    for wrong in (others, "none"):
        path = f"/admin/messages/inbox/{operator['address']}?from_team_id={wrong}"
        assert desk.call("GET", path, 400, headers=alice.login) == {"detail": "Team not found"}


def test_any_inbox_of_ones_own(desk: BrokerDesk, alice: Person) -> None:
    agent = desk.agent(alice, "boxed")
    path = f"/admin/messages/inbox/{agent['address']}"
    sent = [desk.send(alice, agent, agent["address"], body=str(n)) for n in range(3)]
    assert desk.call("GET", path, headers=alice.login) == sent[::-1], "newest first"
    desk.call("PATCH", f"/messages/{sent[2]['id']}/read", headers=alice.header)
    assert desk.call("GET", path, headers=alice.login) == sent[1::-1]
    assert len(desk.call("GET", path, headers=alice.login, params={"all": True})) == 3
    page = desk.call("GET", path, headers=alice.login, params={"page": 2, "page_size": 1})
    assert (page["messages"], page["total"], page["total_pages"]) == ([sent[0]], 2, 2)
    shown = desk.call("GET", f"/agents/{agent['id']}", headers=alice.header)
    assert shown["status"] == "offline", "that a person looked is no sign of the agent"


def test_methods_and_paths(desk: BrokerDesk, alice: Person) -> None:
    desk.call("DELETE", "/messages/send", 405, headers=alice.header)
    desk.call("GET", "/messages/x/y/z", 404, headers=alice.header)
    assert desk.call("GET", "/messages/send", 404, headers=alice.header) == {"detail": "Message not found"}


def test_what_there_is_for_those_who_read(desk: BrokerDesk) -> None:
    short = desk.http.get("/llms.txt")
    assert short.headers["content-type"].startswith("text/plain")
    assert short.text.startswith("# ")
    for path in re.findall(rf"\({desk.url}(/[^)]*)\)", short.text):
        assert desk.http.get(path).status_code == 200, path
    whole = desk.http.get("/spec.md")
    assert whole.headers["content-type"].startswith("text/markdown")
    for path, methods in desk.call("GET", "/openapi.json")["paths"].items():
        for method in methods:
            assert f"- `{method.upper()} {path}`: " in whole.text
    forged = desk.http.get("/spec.md", headers={"Host": "x](evil)"})
    assert "evil" not in forged.text
