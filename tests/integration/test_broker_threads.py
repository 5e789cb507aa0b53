"""Threads as a person keeps them at the broker: listed, archived, in the trash, deleted for good."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person

pytestmark = pytest.mark.usefixtures("each_database")


class Pair:
    """Two agents of a user, which nobody else writes to."""

    def __init__(self, desk: BrokerDesk, person: Person, name: str) -> None:
        self.desk, self.person = desk, person
        self.one, self.two = desk.agent(person, f"{name}-aa"), desk.agent(person, f"{name}-zz")

    def send(self, **fields: Any) -> Any:
        """From one to two."""
        return self.desk.send(self.person, self.one, self.two["address"], **fields)

    def reply(self, to: Any, **fields: Any) -> Any:
        """From two to one."""
        return self.desk.send(self.person, self.two, self.one["address"], action="reply", parent_id=to["id"], **fields)

    def inbox(self, agent: Any = None, **query: Any) -> list[str]:
        """The ids in the inbox of two, oldest first."""
        agent = agent or self.two
        found = self.desk.call(
            "GET",
            f"/messages/inbox/{agent['address']}",
            params={"agent_id": agent["id"], **query},
            headers=self.person.header,
        )
        return [one["id"] for one in (found["messages"] if isinstance(found, dict) else found)]

    def total(self, **query: Any) -> int:
        path = f"/messages/inbox/{self.two['address']}"
        params = {"agent_id": self.two["id"], "page": 1, **query}
        total: int = self.desk.call("GET", path, params=params, headers=self.person.header)["total"]
        return total

    def act(self, path: str, status: int = 200) -> Any:
        return self.desk.call("POST", f"/admin/{path}", status, headers=self.person.login)

    def get(self, path: str, status: int = 200) -> Any:
        return self.desk.call("GET", f"/admin/{path}", status, headers=self.person.login)


_NUMBERS = itertools.count(2)


@pytest.fixture
def pair(desk: BrokerDesk, alice: Person) -> Pair:
    return Pair(desk, alice, f"pair{next(_NUMBERS)}")


def listed(pair: Pair, query: str = "") -> dict[str, Any]:
    return {one["thread_id"]: one for one in pair.get(f"threads/summary{query}")}


def test_a_thread_in_one_line(pair: Pair) -> None:
    first = pair.send(subject="first", body="b")
    pair.reply(first, subject="Re: first")
    thread = first["thread_id"]
    answered = pair.send(subject="again", action="reply", parent_id=first["id"])
    line = listed(pair)[thread]
    assert line == {
        "thread_id": thread,
        "last_activity": answered["created_at"],
        "message_count": 3,
        "unread_count": 3,
        "preview_subject": "first",
        "archived_at": None,
        "trashed_at": None,
    }
    pair.desk.call("PATCH", f"/messages/{first['id']}/read", headers=pair.person.header)
    assert listed(pair)[thread]["unread_count"] == 2
    newer = pair.send(subject="newer")["thread_id"]
    names = [one["thread_id"] for one in pair.get("threads/summary")]
    assert names.index(newer) < names.index(thread), "the newest activity first"


def test_pages_of_threads_hold_each_once(pair: Pair) -> None:
    # Blanks in the ids that their senders have given them, as in what names a page's end.
    made = [pair.send(thread_id=f"{n} of {pair.one['id']}")["thread_id"] for n in range(7)]
    found: list[str] = []
    query = "?limit=3"
    while query:
        page = pair.get(f"threads/summary{query}")
        assert len(page["threads"]) <= 3
        found += [one["thread_id"] for one in page["threads"]]
        assert len(found) == len(set(found)), "else there would be no end"
        query = f"?limit=3&after={page['next'].replace('+', '%2B')}" if page["next"] else ""
    assert [name for name in found if name in made] == list(reversed(made))
    assert len(found) == len(pair.get("threads/summary"))
    for bad in ("x", "%20", "2026", "x%20"):
        assert pair.get(f"threads/summary?after={bad}", 400)["detail"]
    for bad in ("limit=0", "limit=501", "limit=x", "limit=3&after=" + "x" * 401, "archived=maybe"):
        pair.get(f"threads/summary?{bad}", 422)
    assert pair.get("threads/summary?archived=true&trashed=true", 400)["detail"]


def test_the_archive_takes_mail_out_of_the_inbox_and_gives_it_back(pair: Pair) -> None:
    first, other = pair.send(subject="a"), pair.send(subject="b")
    read = pair.send(subject="c", action="reply", parent_id=first["id"])
    pair.desk.call("PATCH", f"/messages/{read['id']}/read", headers=pair.person.header)
    thread = first["thread_id"]
    assert pair.get(f"threads/{thread}/status") == {
        "archived": False,
        "trashed": False,
        "archived_at": None,
        "trashed_at": None,
    }
    assert pair.get(f"threads/{thread}/archive") == {"archived": False, "archived_at": None}

    done = pair.act(f"threads/{thread}/archive")
    assert (done["ok"], done["thread_id"]) == (True, thread)
    since = done["archived_at"]
    assert pair.get(f"threads/{thread}/archive") == {"archived": True, "archived_at": since}
    assert pair.get(f"threads/{thread}/status")["archived_at"] == since
    assert thread not in listed(pair)
    assert listed(pair, "?archived=true")[thread]["archived_at"] == since
    for query in ({}, {"all": True}, {"after": 0}, {"heads": True}, {"page": 1, "all": True}):
        assert pair.inbox(**query) == [other["id"]], query
    assert (pair.total(), pair.total(all=True)) == (1, 1)
    assert len(pair.get(f"messages/thread/{thread}")) == 2, "it can be read all the same"
    said = pair.desk.call(
        "POST",
        f"/messages/{first['id']}/claim",
        409,
        headers={**pair.person.header, "X-Agent-Mailer-Watcher": "w"},
    )
    assert said["reason"] == "away", "nobody begins to work on it"

    # Marks of what is away change no inbox.
    for mark in ("read", "unread", "read", "unread"):
        pair.desk.call("PATCH", f"/messages/{first['id']}/{mark}", headers=pair.person.header)
    assert (pair.total(), pair.total(all=True)) == (1, 1)

    assert pair.act(f"threads/{thread}/unarchive") == {"ok": True, "thread_id": thread}
    assert (pair.total(), pair.total(all=True)) == (2, 3)
    assert pair.inbox() == [other["id"], first["id"]]
    assert pair.inbox(all=True) == [other["id"], read["id"], first["id"]], "what is unread is found as new"
    assert pair.inbox(heads=True) == [other["id"], first["id"]]
    assert thread in listed(pair)
    pair.act(f"threads/{thread}/unarchive")
    assert pair.inbox() == [other["id"], first["id"]], "twice is once"


def test_who_follows_the_inbox_sees_what_comes_back_in_the_order_in_which_it_came(pair: Pair) -> None:
    first = pair.send()
    second = pair.send(action="reply", parent_id=first["id"])
    cursor = second["cursor"]
    for away, back in (("archive", "unarchive"), ("trash", "restore")):
        pair.act(f"threads/{first['thread_id']}/{away}")
        pair.act(f"threads/{first['thread_id']}/{back}")
        assert pair.inbox(after=cursor) == [first["id"], second["id"]], back
        cursor += 2


def test_new_mail_opens_a_thread_and_what_was_put_away_stays_away(pair: Pair) -> None:
    first = pair.send(subject="old")
    thread = first["thread_id"]
    for step, state in (("archive", "archived"), ("trash", "trashed")):
        pair.act(f"threads/{thread}/{step}")
        new = pair.send(action="reply", parent_id=first["id"])
        assert pair.inbox() == [new["id"]]
        assert pair.get(f"threads/{thread}/status")[state] is False
        assert thread in listed(pair)
        pair.act(f"threads/{thread}/unarchive")
        assert first["id"] in pair.inbox()
        pair.desk.call("PATCH", f"/messages/{new['id']}/read", headers=pair.person.header)
    pair.act(f"threads/{thread}/purge", 400)


def test_the_trash(pair: Pair) -> None:
    first = pair.send(subject="gone")
    pair.reply(first)
    thread = first["thread_id"]
    assert pair.act(f"threads/{thread}/restore", 404) == {"detail": "Thread is not in trash"}
    refused = pair.act(f"threads/{thread}/purge", 400)["detail"]
    assert refused == "Thread is not in trash; move to trash before permanent delete."
    pair.act(f"threads/{thread}/archive")
    since = pair.act(f"threads/{thread}/trash")["trashed_at"]
    assert pair.act(f"threads/{thread}/trash", 400) == {"detail": "Thread is already in trash"}
    assert pair.act(f"threads/{thread}/archive", 400)["detail"].startswith("Thread is in trash")
    pair.act(f"threads/{thread}/unarchive")
    state = {"archived": False, "trashed": True, "archived_at": None, "trashed_at": since}
    assert pair.get(f"threads/{thread}/status") == state, "the trash is not the archive"
    line = listed(pair, "?trashed=true")[thread]
    assert (line["message_count"], line["trashed_at"], line["archived_at"]) == (2, since, None)
    assert thread not in listed(pair)
    assert thread not in listed(pair, "?archived=true")
    assert pair.inbox() == [] == pair.inbox(pair.one)

    assert pair.act(f"threads/{thread}/restore") == {"ok": True, "thread_id": thread}
    assert pair.inbox() == [first["id"]]
    assert len(pair.inbox(pair.one)) == 1


def test_deleted_for_good(pair: Pair) -> None:
    desk, header = pair.desk, {**pair.person.header, "Idempotency-Key": f"k-{pair.one['id']}"}
    form = {"agent_id": pair.one["id"], "from_agent": pair.one["address"], "to_agent": pair.two["address"]}
    body = {**form, "subject": "secret subject", "body": "secret body", "attachments": ["secret.txt"]}
    first = desk.call("POST", "/messages/send", json=body, headers=header)
    watcher = {**header, "X-Agent-Mailer-Watcher": "w"}
    receipt = {"stage": "settled", "turn_id": "t", "outcome": "done", "detail": "secret", "final": True}
    desk.call("POST", f"/messages/{first['id']}/receipts", 201, json=receipt, headers=watcher)
    thread = first["thread_id"]
    pair.act(f"threads/{thread}/trash")
    assert pair.act(f"threads/{thread}/purge") == {"ok": True, "thread_id": thread}
    for path in (f"threads/{thread}/status", f"messages/thread/{thread}", f"trash/messages/{first['id']}"):
        pair.get(path, 404)
    for path in (f"/messages/{first['id']}", f"/messages/{first['id']}/receipts", f"/messages/thread/{thread}"):
        desk.call("GET", path, 404, headers=pair.person.header)
    desk.call("GET", "/messages/thread/", 404, headers=pair.person.header)
    pair.get("messages/thread/", 404)
    desk.call("PATCH", f"/messages/{first['id']}/unread", 404, headers=pair.person.header)
    desk.call(
        "POST",
        "/messages/send",
        404,
        json={**form, "action": "reply", "parent_id": first["id"]},
        headers=pair.person.header,
    )
    for step in ("archive", "unarchive", "trash", "restore", "purge"):
        assert pair.act(f"threads/{thread}/{step}", 404) == {"detail": "Thread not found"}
        if step in ("trash", "restore", "purge"):
            assert pair.act(f"messages/{first['id']}/{step}", 404) == {"detail": "Message not found"}
    rows = desk.sql("SELECT subject, body, attachments FROM messages WHERE id = :id", id=first["id"])
    assert "secret" not in str(rows)
    assert desk.sql("SELECT * FROM receipts WHERE message_id = :id", id=first["id"]) == []
    # One request under a key is one message, for ever.
    again = desk.call("POST", "/messages/send", json=body, headers=header)
    assert again["id"] == first["id"]
    assert pair.inbox(all=True) == []
    assert thread not in listed(pair)
    assert thread not in listed(pair, "?trashed=true")


def test_a_message_in_the_trash(pair: Pair) -> None:
    first = pair.send(subject="kept")
    second = pair.send(subject="to go", body="*b*", action="reply", parent_id=first["id"])
    thread, name = first["thread_id"], second["id"]
    answered = "Cannot trash a message that has replies; trash replies first or trash the whole thread."
    assert pair.act(f"messages/{first['id']}/trash", 400) == {"detail": answered}
    assert pair.act(f"messages/{name}/restore", 404) == {"detail": "Message is not in trash"}
    assert pair.act(f"messages/{name}/purge", 400)["detail"].startswith("Message is not in trash")
    assert pair.get(f"trash/messages/{name}", 404) == {"detail": "Message is not in trash"}

    done = pair.act(f"messages/{name}/trash")
    since = done["trashed_at"]
    assert done == {"ok": True, "message_id": name, "trashed_at": since}
    assert pair.act(f"messages/{name}/trash", 400) == {"detail": "Message is already in trash"}
    assert pair.get("trash/messages")[0] == {
        "message_id": name,
        "thread_id": thread,
        "trashed_at": since,
        "from_agent": pair.one["address"],
        "to_agent": pair.two["address"],
        "action": "reply",
        "subject": "to go",
        "created_at": second["created_at"],
    }
    whole = pair.get(f"trash/messages/{name}")
    assert (whole["trashed_at"], whole["message"]["body"]) == (since, "*b*")
    assert whole["message"]["body_html"] == "<p><em>b</em></p>\n"
    assert pair.inbox() == [first["id"]]
    assert [one["id"] for one in pair.get(f"messages/thread/{thread}")] == [first["id"]]
    assert listed(pair)[thread]["message_count"] == 1
    forwarded = {"action": "forward", "parent_id": first["id"], "forward_scope": "thread"}
    assert "to go" not in pair.send(**forwarded)["body"]

    # When its thread comes back from the archive it stays.
    pair.act(f"threads/{thread}/archive")
    pair.act(f"threads/{thread}/unarchive")
    assert (first["id"] in pair.inbox(), name in pair.inbox()) == (True, False)
    assert name in {one["message_id"] for one in pair.get("trash/messages")}
    # Restored while its thread is in the archive it comes back when that does.
    pair.act(f"threads/{thread}/archive")
    pair.act(f"messages/{name}/restore")
    assert pair.inbox() == []
    pair.act(f"threads/{thread}/unarchive")
    assert {first["id"], name} <= set(pair.inbox())
    # In a thread that is in the trash there is no trash of its own.
    pair.act(f"messages/{name}/trash")
    pair.act(f"threads/{thread}/trash")
    assert all(one["message_id"] != name for one in pair.get("trash/messages"))
    assert pair.act(f"messages/{name}/trash", 400)["detail"].startswith("Thread is in trash")
    pair.act(f"threads/{thread}/restore")
    assert name in pair.inbox()

    pair.act(f"messages/{name}/trash")
    assert pair.act(f"messages/{name}/purge") == {"ok": True, "message_id": name}
    assert pair.get(f"trash/messages/{name}", 404) == {"detail": "Message not found"}
    assert name not in pair.inbox(all=True)


def test_the_last_message_of_a_thread_takes_it_along(pair: Pair) -> None:
    only = pair.send()
    pair.act(f"messages/{only['id']}/trash")
    assert only["thread_id"] not in listed(pair)
    pair.act(f"messages/{only['id']}/purge")
    pair.get(f"threads/{only['thread_id']}/status", 404)


def test_pages_of_the_trash(pair: Pair) -> None:
    made = [pair.send()["id"] for _ in range(4)]
    for name in made:
        pair.act(f"messages/{name}/trash")
    page = pair.get("trash/messages?limit=3")
    assert [one["message_id"] for one in page["messages"]] == made[:0:-1]
    rest = pair.get(f"trash/messages?limit=3&after={page['next'].replace('+', '%2B')}")
    assert rest["messages"][0]["message_id"] == made[0]
    assert pair.get("trash/messages?after=x", 400)["detail"]


def test_of_another_user_there_is_nothing(pair: Pair, desk: BrokerDesk, bob: Person) -> None:
    first = pair.send(subject="hers")
    trashed = pair.send(subject="hers")["id"]
    pair.act(f"messages/{trashed}/trash")
    thread = first["thread_id"]
    for name in (thread, "nothing", "%2e%2e", "a/b"):
        for step in ("archive", "unarchive", "trash", "restore", "purge"):
            said = desk.call("POST", f"/admin/threads/{name}/{step}", 404, headers=bob.login)
            assert said == {"detail": "Thread not found"}
        for look in ("status", "archive"):
            desk.call("GET", f"/admin/threads/{name}/{look}", 404, headers=bob.login)
    for name in (first["id"], trashed, "nothing"):
        for step in ("trash", "restore", "purge"):
            said = desk.call("POST", f"/admin/messages/{name}/{step}", 404, headers=bob.login)
            assert said == {"detail": "Message not found"}
        desk.call("GET", f"/admin/trash/messages/{name}", 404, headers=bob.login)
    for query in ("", "?archived=true", "?trashed=true"):
        assert desk.call("GET", f"/admin/threads/summary{query}", headers=bob.login) == []
    assert desk.call("GET", "/admin/trash/messages", headers=bob.login) == []
    assert pair.inbox() == [first["id"]]
    # These are a person's calls.
    for path in (f"threads/{thread}/trash", f"messages/{first['id']}/trash"):
        desk.call("POST", f"/admin/{path}", 401, headers=pair.person.header)


def test_all_of_the_operators_mail_is_read(desk: BrokerDesk, bob: Person, pair: Pair) -> None:
    operator = desk.call("GET", "/admin/human-operator", headers=bob.login)["address"]
    agent = desk.agent(bob, "writer")
    path = f"/admin/messages/inbox/{operator}"
    for _ in range(5):
        desk.send(bob, agent, operator)
    before = desk.call("GET", f"{path}?all=true", headers=bob.login)
    third = sorted(one["cursor"] for one in before)[2]
    done = desk.call("POST", f"{path}/read-all", json={"upto": third}, headers=bob.login)
    assert done == {"ok": True, "address": operator, "marked": 3}
    assert len(desk.call("GET", path, headers=bob.login)) == 2
    assert desk.call("POST", f"{path}/read-all", json={}, headers=bob.login)["marked"] == 2
    assert desk.call("GET", path, headers=bob.login) == []
    assert desk.call("POST", f"{path}/read-all", json={}, headers=bob.login)["marked"] == 0
    # An agent's mail is its watcher's to mark; another user's is not there.
    desk.call("POST", f"/admin/messages/inbox/{agent['address']}/read-all", 403, json={}, headers=bob.login)
    for stranger in (pair.two["address"], "nobody@nowhere", "%2e%2e"):
        said = desk.call("POST", f"/admin/messages/inbox/{stranger}/read-all", 404, json={}, headers=bob.login)
        assert said == {"detail": "Address not found"}
    bads: list[Any] = [{"upto": -1}, {"upto": "x"}, {"upto": 2**63}, {"upto": 1.5}, [], None, "x"]
    for bad in bads:
        desk.call("POST", f"{path}/read-all", 422, json=bad, headers=bob.login)


def test_a_stream_is_told_of_what_comes_back(pair: Pair, desk: BrokerDesk) -> None:
    first = pair.send()
    path = f"/messages/inbox/{pair.two['address']}/stream"
    with desk.http.stream("GET", path, params={"agent_id": pair.two["id"]}, headers=pair.person.header) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: hello"
        pair.act(f"threads/{first['thread_id']}/archive")
        pair.act(f"threads/{first['thread_id']}/unarchive")
        assert next(line for line in lines if line.startswith("event: mail"))
