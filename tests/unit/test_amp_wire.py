"""Messages on the wire: what is malformed hides no neighbour."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_mailer.mailbox.amp import wire
from agent_mailer.mailbox.amp.answers import Answer, detail_of, retry_after, unavailable
from agent_mailer.mailbox.port import Automatic, Kind, MailboxUnavailable, Priority, Unreadable

GOOD: dict[str, Any] = {
    "id": "m1",
    "thread_id": "t1",
    "from_agent": "bob@u.d",
    "to_agent": "alice@u.d",
    "action": "send",
    "subject": "Hi",
    "body": "work",
    "body_html": "<p>work</p>",
    "attachments": [],
    "is_read": False,
    "parent_id": None,
    "created_at": "2026-11-21T03:20:24.050575+00:00",
}


def answer(data: object, status: int = 200) -> Answer:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Answer("GET http://b/x", status, body)


def listed(*items: object) -> list[wire.Heard | Unreadable]:
    return wire.parse_list(answer(list(items)))


def without(key: str, **changes: object) -> dict[str, Any]:
    return {k: v for k, v in {**GOOD, **changes}.items() if k != key}


def test_a_message_of_any_broker() -> None:
    (heard,) = listed(GOOD)
    assert isinstance(heard, wire.Heard)
    envelope = heard.message.envelope
    assert (envelope.id, envelope.thread, envelope.sender, envelope.to) == ("m1", "t1", "bob@u.d", ("alice@u.d",))
    assert (envelope.visited, envelope.answers) == ((), False)
    assert envelope.created == pytest.approx(1795231224.050575)
    assert (heard.message.body, heard.message.reply_to, heard.is_read) == ("work", "bob@u.d", False)


def test_the_marks_of_ours() -> None:
    marks = {
        "cursor": 7,
        "hops": 2,
        "automatic": "notice",
        "priority": "urgent",
        "kind": "question",
        "labels": ["a"],
        "parent_id": "m0",
        "visited": ["ann@u.d", "x" * 5000, "bob@u.d"],
        "subject": "Plan",
    }
    (heard,) = listed({**GOOD, **marks})
    assert isinstance(heard, wire.Heard)
    envelope = heard.message.envelope
    assert envelope.order == "00000000000000000007"
    assert (envelope.hops, envelope.automatic) == (2, Automatic.NOTICE)
    assert (envelope.priority, envelope.kind) == (Priority.URGENT, Kind.QUESTION)
    assert (heard.message.labels, heard.message.refs) == (("a",), ("m0",))
    assert (envelope.visited, envelope.answers) == (("ann@u.d", "bob@u.d"), True), "where it has been, as far as names"
    assert heard.message.subject == "Plan"


def test_marks_that_nobody_knows_are_passed_over() -> None:
    (heard,) = listed({**GOOD, "automatic": "robot", "priority": "9", "kind": "poem"})
    assert isinstance(heard, wire.Heard)
    envelope = heard.message.envelope
    assert (envelope.automatic, envelope.priority, envelope.kind) == (Automatic.NO, Priority.NORMAL, None)


def test_without_a_cursor_the_moment_orders() -> None:
    early, late = listed({**GOOD, "created_at": "2026-11-21T03:20:24+00:00", "id": "z"}, {**GOOD, "id": "a"})
    assert isinstance(early, wire.Heard)
    assert isinstance(late, wire.Heard)
    assert early.message.envelope.order < late.message.envelope.order


BAD: list[object] = [
    without("id"),
    without("thread_id"),
    without("from_agent"),
    without("created_at"),
    {**GOOD, "id": None},
    {**GOOD, "id": 7},
    {**GOOD, "id": ""},
    {**GOOD, "id": "x" * 2000},
    {**GOOD, "created_at": "yesterday"},
    {**GOOD, "created_at": 5},
    {**GOOD, "body": {"a": 1}},
    {**GOOD, "is_read": "no"},
    {**GOOD, "hops": -1},
    {**GOOD, "cursor": "9"},
    {**GOOD, "to_agent": None},
    "a string",
    None,
    7,
    [],
    {},
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: json.dumps(bad)[:40])
def test_one_malformed_item_hides_no_neighbour(bad: object) -> None:
    first, middle, last = listed({**GOOD, "id": "a"}, bad, {**GOOD, "id": "c"})
    assert isinstance(first, wire.Heard)
    assert isinstance(last, wire.Heard)
    assert isinstance(middle, Unreadable)
    assert middle.why


def test_what_has_an_id_is_named_by_it() -> None:
    (bad,) = listed({**GOOD, "created_at": "never"})
    assert isinstance(bad, Unreadable)
    assert bad.locator == "id:m1"
    (bad,) = listed({"x": 1})
    assert isinstance(bad, Unreadable)
    assert bad.locator.startswith("hash:")
    assert listed({"x": 1}) == [bad]


@pytest.mark.parametrize("name", ["labels", "subject", "hops", "created_at", "attachments", "to_agent"])
def test_a_side_field_of_a_wrong_type_does_not_hide_whose_it_is(name: str) -> None:
    (bad,) = listed({**GOOD, name: {"x": 1} if name != "attachments" else GOOD, "is_read": "yes"})
    assert isinstance(bad, Unreadable)
    assert (bad.locator, bad.id, bad.thread, bad.sender) == ("id:m1", "m1", "t1", "bob@u.d")


def test_of_names_of_a_wrong_type_the_others_are_known() -> None:
    (bad,) = listed({**GOOD, "thread_id": 7})
    assert isinstance(bad, Unreadable)
    assert (bad.locator, bad.id, bad.thread, bad.sender) == ("id:m1", "m1", "", "bob@u.d")
    (bad,) = listed({**GOOD, "id": "x" * 2000})
    assert isinstance(bad, Unreadable)
    assert (bad.locator.partition(":")[0], bad.id, bad.sender) == ("hash", "", "bob@u.d")


def test_a_deeply_nested_item_hides_no_neighbour() -> None:
    deep = b'{"id": "d", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    good = json.dumps({**GOOD, "body": 'a "quote", [ { \\'}).encode()
    first, middle, last = wire.parse_list(answer(b"[" + good + b" ," + deep + b"," + good + b"]"))
    assert isinstance(first, wire.Heard)
    assert isinstance(last, wire.Heard)
    assert isinstance(middle, Unreadable)
    whole = answer(b'{"messages": [' + good + b"," + deep + b'], "total": 2, "page": 1}')
    page = wire.parse_object(whole, wire.Page)
    assert page.total == 2
    assert len(wire.parse_list(whole, bytes(page.messages))) == 2


@pytest.mark.parametrize(
    "body", [b"", b"[", b'[{"id": "a"', b"<html>no</html>", b"null", b'{"messages": []}', b"[" * 200_000, b"\xff"]
)
def test_what_is_no_list_is_trouble(body: bytes) -> None:
    with pytest.raises(MailboxUnavailable, match="GET http://b/x"):
        wire.parse_list(answer(body))


@pytest.mark.parametrize("body", [b"[]", b'{"messages": []}', b'{"messages": 1, "total": "x"}', b'{"messages": [[['])
def test_what_is_no_page_is_trouble(body: bytes) -> None:
    with pytest.raises(MailboxUnavailable):
        wire.parse_list(answer(body), bytes(wire.parse_object(answer(body), wire.Page).messages))


def test_the_names_at_the_beginning_of_a_cut_answer() -> None:
    whole = {**GOOD, "subject": '"from_agent":"eve@x.y"', "meta": {"from_agent": "eve@x.y"}, "body": "x" * 9000}
    ordered = {name: whole[name] for name in sorted(whole, key=["id", "meta", "subject"].__contains__, reverse=True)}
    start = json.dumps({"total": 1, "messages": [ordered | {"body": "x" * 9000}]}).encode()[:4096]
    told = wire.names_within(start)
    assert {name: told[name] for name in ("id", "thread_id", "from_agent")} == {
        name: GOOD[name] for name in ("id", "thread_id", "from_agent")
    }
    deep = b'{"messages":[{"id":"m","body":"{[\\"from_agent\\":\\"eve\\"' + b"," * 100
    assert wire.names_within(deep) == {"id": "m"}
    assert wire.names_within(b'{"messages":[{"id":"a"},{"from_agent":"eve"}') == {"id": "a"}
    assert wire.names_within(b'{"messages":[{"id":"m\\u0031","thread_id":"t","body":"xxxx') == {
        "id": "m1",
        "thread_id": "t",
    }
    assert wire.names_within(b'{"messages":[{"id":7') == {}
    assert wire.names_within(b'{"messages":[{"id":"m') == {}
    assert wire.names_within(b"<html>") == {}


def test_attachments_are_named_in_the_text() -> None:
    (heard,) = listed({**GOOD, "attachments": ["/tmp/a.png", {"url": "http://x/y"}]})
    assert isinstance(heard, wire.Heard)
    assert heard.message.body == 'work\n\nAttachments:\n- /tmp/a.png\n- {"url": "http://x/y"}\n'


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 30 ", 30),
        ("99999", 600),
        ("-3", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 600),
        ("Wed, 99 Oct 2026 07:28:00 GMT", 0),
    ],
)
def test_retry_after(text: str | None, seconds: float) -> None:
    assert retry_after(text, 1792567680.0) == seconds


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"detail": "Agent not found"}, "Agent not found"),
        ({"detail": [{"type": "missing", "loc": ["body", "to"], "msg": "Field required"}]}, "body.to: Field required"),
        ({"error": "x", "message": "in use"}, "in use"),
        ({"detail": {"a": 1}}, '{"a": 1}'),
        ({"detail": "a\nb\x1b[31m"}, "a\\nb\\x1b[31m"),
        ([], None),
        (b"<html>", None),
    ],
)
def test_what_a_broker_says(body: object, detail: str | None) -> None:
    assert detail_of(answer(body, 400)) == detail


@pytest.mark.parametrize("status", [200, 302, 400, 404, 407, 408, 418, 429, 500, 503])
def test_every_trouble_names_the_request_and_a_way_out(status: int) -> None:
    fault = unavailable(answer(b"<html>\n<b>oops</b>", status))
    assert "GET http://b/x" in fault.message
    assert fault.fix
    assert "\n" not in fault.message
