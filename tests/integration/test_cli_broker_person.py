"""`send`, `mail` and `fetch` of a person whose agents' mail is at a broker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, Person, running_broker
from tests.desk import until
from tests.plain_broker import running_plain_broker
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk


@pytest.fixture(scope="module")
def ann(broker: BrokerDesk) -> Person:
    person = broker.person("ann")
    broker.call("GET", "/admin/human-operator", headers=person.login)
    return person


@pytest.fixture(scope="module")
def coder(broker: BrokerDesk, ann: Person) -> dict[str, Any]:
    return broker.agent(ann, "coder")


@pytest.fixture(scope="module")
def planner(broker: BrokerDesk, ann: Person) -> dict[str, Any]:
    return broker.agent(ann, "planner")


class At:
    """A folder whose environment names the broker and a key."""

    def __init__(self, folder: Path, broker: BrokerDesk, key: str) -> None:
        self.folder = folder
        self.env = {"AGENT_MAILER_BROKER_URL": broker.url, "AGENT_MAILER_API_KEY": key}
        self._key = key

    def __call__(self, *words: str) -> Typed:
        done = type_in(self.folder, *words, env=self.env)
        assert self._key not in done.out + done.err
        return done


@pytest.fixture
def at(tmp_path: Path, broker: BrokerDesk, ann: Person, coder: dict[str, Any], planner: dict[str, Any]) -> At:
    return At(tmp_path, broker, ann.key)


def inbox_of(broker: BrokerDesk, ann: Person, agent: dict[str, Any]) -> list[dict[str, Any]]:
    path = f"/messages/inbox/{agent['address']}?agent_id={agent['id']}"
    found: list[dict[str, Any]] = broker.call("GET", path, headers=ann.header)
    return found


def answer(broker: BrokerDesk, ann: Person, agent: dict[str, Any], message_id: str, body: str, **fields: Any) -> Any:
    """The agent replies to a message of the operator's."""
    operator = f"human-operator@ann.{DOMAIN}"
    return broker.send(ann, agent, operator, action="reply", parent_id=message_id, body=body, **fields)


def test_a_person_writes_as_the_operator_and_reads_the_answer(
    broker: BrokerDesk, ann: Person, at: At, coder: dict[str, Any]
) -> None:
    sent = at("send", "--to", "coder", "--subject", "Hi", "--body", "Do it.", "--kind", "todo", "--json")
    assert sent.status == 0, sent
    assert sent.json["to"] == [coder["address"]]
    assert "Do it." in at("mail", "read", sent.json["id"]).out
    [message] = inbox_of(broker, ann, coder)
    assert not message["is_read"], "who looks at what was sent takes it from nobody"
    assert (message["id"], message["subject"], message["kind"]) == (sent.json["id"], "Hi", "todo")
    assert message["from_agent"] == f"human-operator@ann.{DOMAIN}"
    replied = answer(broker, ann, coder, message["id"], "Done.", subject="Re: Hi")
    listed = at("mail", "inbox", "--json")
    assert [one["id"] for one in listed.json["messages"]] == [replied["id"]]
    read = at("mail", "read", replied["id"][:8])
    assert (read.status, "Done." in read.out) == (0, True), read
    assert "no new mail" in at("mail", "inbox").err
    assert replied["id"] in at("mail", "inbox", "--all").out
    thread = at("mail", "thread", sent.json["thread"], "--json")
    assert [one["body"].strip() for one in thread.json["messages"]] == ["Do it.", "Done."]
    assert at("mail", "thread", replied["id"], "--json").json == thread.json
    again = at("mail", "reply", replied["id"], "--body", "Thanks.")
    assert again.status == 0, again
    assert inbox_of(broker, ann, coder)[-1]["parent_id"] == replied["id"]
    assert coder["address"] in at("mail", "contacts").out


def test_another_agents_mail_and_name_by_as(
    broker: BrokerDesk, ann: Person, at: At, coder: dict[str, Any], planner: dict[str, Any]
) -> None:
    sent = at(
        "send", "--from", "planner", "--to", coder["address"], "--body", "x", "--thread", "named-thread", "--json"
    )
    assert (sent.status, sent.json["thread"]) == (0, "named-thread"), sent
    forwarded = at("mail", "forward", sent.json["id"], "--as", "coder", "--to", "planner", "--body", "note")
    assert forwarded.status == 0, forwarded
    [message] = [one for one in inbox_of(broker, ann, planner) if one["action"] == "forward"]
    assert message["body"].startswith("note\n")
    fetched = At(at.folder, broker, ann.key)
    fetched.env |= {"AGENT_MAILER_AGENT_ID": coder["id"], "AGENT_MAILER_ADDRESS": coder["address"]}
    (at.folder / ".agent-mailer").mkdir(mode=0o700)
    config = 'runtime = "command"\ncommand = ["x"]\npermission_mode = "plan"'
    (at.folder / ".agent-mailer" / "config.toml").write_text(config)
    (at.folder / ".agent-mailer" / "config.toml").chmod(0o600)
    one = fetched("fetch", sent.json["id"], "--json")
    assert (one.status, one.json["message"]["body"].strip()) == (0, "x"), one


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("send", "--to", "nobody", "--body", "x"), 2, "known are: coder@ann"),
        (("send", "--to", "coder", "--to", "nobody", "--body", "x"), 2, "nobody is called nobody@ann"),
        (("send", "--to", "coder", "--from", "ghost", "--body", "x"), 2, "no agent 'ghost'"),
        (("mail", "read", "00000000-none"), 1, "no message"),
        (("mail", "thread", "no-such"), 1, "no message"),
        (("send", "--to", "a b", "--body", "x"), 2, "no address"),
    ],
)
def test_what_cannot_be_sent_is_not(
    broker: BrokerDesk, ann: Person, at: At, coder: dict[str, Any], words: tuple[str, ...], status: int, named: str
) -> None:
    before = len(inbox_of(broker, ann, coder))
    done = at(*words)
    assert (done.status, named in done.err) == (status, True), done
    assert len(inbox_of(broker, ann, coder)) == before


def test_a_dedupe_key_sends_once_and_never_something_else(
    broker: BrokerDesk, ann: Person, at: At, planner: dict[str, Any]
) -> None:
    before = len(inbox_of(broker, ann, planner))
    words = ("send", "--to", "planner", "--dedupe-key", "nightly", "--body")
    first, again = at(*words, "same"), at(*words, "same")
    assert (first.status, again.status, first.out) == (0, 0, again.out), (first, again)
    assert "already sent" in again.err
    other = at(*words, "other")
    assert (other.status, "dedupe" in other.err) == (1, True), other
    assert len(inbox_of(broker, ann, planner)) == before + 1


def test_wait_prints_the_answer(broker: BrokerDesk, ann: Person, at: At, coder: dict[str, Any]) -> None:
    known = {one["id"] for one in inbox_of(broker, ann, coder)}
    words = [COMMAND, "send", "--to", "coder", "--body", "question?", "--wait", "60", "--json"]
    with subprocess.Popen(words, cwd=at.folder, env={**os.environ, **at.env}, stdout=-1, stderr=-1) as waiting:
        until(lambda: len(inbox_of(broker, ann, coder)) > len(known), "the message")
        [message] = [one for one in inbox_of(broker, ann, coder) if one["id"] not in known]
        answer(broker, ann, coder, message["id"], "half", labels=["progress"])
        answer(broker, ann, coder, message["id"], "which one?", kind="question")
        out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 3, err
    assert json.loads(out)["answer"]["body"].strip() == "which one?"
    assert b"reports progress" in err
    operator = {"address": f"human-operator@ann.{DOMAIN}", "id": operator_id(broker, ann)}
    assert [one["body"] for one in inbox_of(broker, ann, operator)] == ["half"]
    late = at("send", "--to", "coder", "--body", "x", "--wait", "0")
    assert (late.status, "does its watcher run?" in late.err) == (4, True), late


def operator_id(broker: BrokerDesk, ann: Person) -> str:
    return str(broker.call("GET", "/admin/human-operator", headers=ann.login)["agent_id"])


def test_a_bound_key_cannot_speak_for_the_operator(broker: BrokerDesk, ann: Person, at: At) -> None:
    bound = broker.own_agent(ann, "bound")
    done = At(at.folder, broker, bound["api_key_plaintext"])("send", "--to", "coder", "--body", "x")
    assert (done.status, "bound to another agent" in done.err) == (77, True), done
    assert "AGENT_MAILER_API_KEY" in done.err
    own = At(at.folder, broker, bound["api_key_plaintext"])("send", "--from", "bound", "--to", "coder", "--body", "x")
    assert own.status == 0, own


def test_a_key_of_the_user_makes_the_operator(broker: BrokerDesk, ann: Person, tmp_path: Path) -> None:
    del ann
    eve = broker.person("eve")
    one = broker.agent(eve, "one")
    assert At(tmp_path, broker, eve.key)("send", "--to", "one", "--body", "x").status == 0
    [message] = inbox_of(broker, eve, one)
    assert message["from_agent"] == f"human-operator@eve.{DOMAIN}"


def test_without_an_operator_the_way_to_one_is_told(tmp_path: Path, home: Path) -> None:
    with running_plain_broker(tmp_path) as broker:
        eve = broker.person("eve")
        one = broker.agent(eve, "one")
        at = At(tmp_path, broker, eve.key)
        done = at("send", "--to", "one", "--body", "x")
        assert (done.status, f"amp login {broker.url}" in done.err, "--from" in done.err) == (78, True, True), done
        (home / ".agent-mailer").mkdir()
        logins = {"credentials": {broker.url: {"username": "eve", "token": eve.token}}}
        (home / ".agent-mailer" / "credentials.json").write_text(json.dumps(logins))
        assert at("send", "--to", "one", "--body", "x").status == 0
        assert at("mail", "inbox", "--as", "one", "--json").json["messages"][0]["new"] is True
        # What such a broker would drop without a word.
        before = len(inbox_of(broker, eve, one))
        for option, value in (("--labels", "bug"), ("--refs", "m-1"), ("--context", '{"a": 1}')):
            refused = at("send", "--to", "one", "--body", "x", option, value)
            assert (refused.status, "has no place for" in refused.err) == (2, True), refused
        assert len(inbox_of(broker, eve, one)) == before
        told = at("send", "--to", "one", "--body", "x", "--priority", "low", "--kind", "todo")
        assert (told.status, "no place for kind and priority: it was sent without" in told.err) == (0, True), told
        assert "no place" not in at("send", "--to", "one", "--body", "x").err


def test_a_broker_that_cannot_be_asked(broker: BrokerDesk, tmp_path: Path) -> None:
    wrong = At(tmp_path, broker, "amk_wrong")("mail", "inbox")
    assert (wrong.status, "Invalid API key" in wrong.err) == (77, True), wrong
    away = At(tmp_path, broker, "amk_x")
    away.env["AGENT_MAILER_BROKER_URL"] = "http://127.0.0.1:1"
    done = away("mail", "inbox")
    assert (done.status, "127.0.0.1:1" in done.err) == (69, True), done
    del away.env["AGENT_MAILER_API_KEY"]
    lacking = type_in(tmp_path, "mail", "inbox", env=away.env)
    assert (lacking.status, "AGENT_MAILER_API_KEY" in lacking.err) == (78, True), lacking


def test_what_the_protocol_has_no_place_for_is_said_and_nothing_is_sent(
    broker: BrokerDesk, ann: Person, at: At, coder: dict[str, Any]
) -> None:
    before = len(inbox_of(broker, ann, coder))
    send = ("send", "--to", "coder", "--body", "x")
    for words, word in (
        ((*send, "--context", "{}", "--refs", "an-id"), "no place for refs and context"),
        ((*send, "--wait-for", "dlq"), "no dead letters"),
        ((*send, "--to", "planner", "--wait-for", "drained"), "each recipient has one"),
        (("mail", "inbox", "--context", "{}"), "no context"),
        (("mail", "receipts"), "which message"),
    ):
        done = at(*words)
        assert (done.status, word in done.err) == (2, True), done
    assert len(inbox_of(broker, ann, coder)) == before


def test_receipts_and_labels_of_our_broker(at: At, broker: BrokerDesk, coder: dict[str, Any]) -> None:
    sent = at("send", "--to", "coder", "--body", "x", "--labels", "bug,ui").out.strip()
    (waiting,) = at("mail", "receipts", sent, "--json").json["receipts"]
    assert (waiting["message"], waiting["recipient"], waiting["stage"]) == (sent, coder["address"], None)
    late = at("send", "--to", "coder", "--body", "x", "--wait-for", "drained", "--wait", "0")
    assert late.status == 4
    listed = at("mail", "inbox", "--as", "coder", "--label", "ui", "--json").json["messages"]
    assert [message["id"] for message in listed] == [sent]


@LONG
def test_who_is_at_our_broker_and_what_waits_for_its_operator(at: At, coder: dict[str, Any], ann: Person) -> None:
    there = {one["address"]: one for one in at("mail", "who", "--json").json["agents"]}
    assert there[coder["address"]]["status"] in ("online", "idle", "offline")
    at("mail", "drain")
    assert at("mail", "watch", "--timeout", "1").status == 4
    assert at("send", "--from", "coder", "--to", "human-operator", "--body", "hello").status == 0
    [line] = at("mail", "watch", "--json", "--timeout", "60").out.splitlines()
    told = json.loads(line)
    assert (told["event"], told["message"]["from"]) == ("existing", coder["address"])
    assert json.loads(at("mail", "drain", "--json").out)["body"].strip() == "hello"
