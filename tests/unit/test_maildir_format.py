"""The message file: strict when written, liberal when read, never an exception."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest

from agent_mailer.mailbox.maildir.compose import Header, write_message
from agent_mailer.mailbox.maildir.format import (
    MAX_MESSAGE_BYTES,
    Malformed,
    Reason,
    go_json,
    is_message_name,
    parse_envelope,
    parse_head,
    parse_message,
    rfc3339,
)
from agent_mailer.mailbox.port import Automatic, Envelope, Kind, Message, Priority

GOOD: dict[str, object] = {
    "schema": 1,
    "id": "2026-08-22T10-00-00.123Z_pid7_0a1b2c3d",
    "from": "bob",
    "to": ["alice"],
    "thread": "p2p/alice__bob",
    "created": "2026-08-22T10:00:00.123456789Z",
}


def file(body: str = "hi\n", /, **changes: object) -> bytes:
    fields = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
    return raw(json.dumps(fields), body)


def raw(header: str, body: str = "hi\n") -> bytes:
    return f"---json\n{header}\n---\n{body}".encode("utf-8", "surrogatepass")


def read(data: bytes) -> Message:
    parsed = parse_message(data, "x.md")
    assert isinstance(parsed, Message), parsed
    assert parse_envelope(data, "x.md") == parsed.envelope
    return parsed


def fails(data: bytes, reason: Reason) -> Malformed:
    parsed = parse_message(data, "x.md")
    assert isinstance(parsed, Malformed), parsed
    assert parsed.reason is reason
    assert parse_envelope(data, "x.md") == parsed
    return parsed


def test_the_head_of_a_message_is_the_message_without_its_body() -> None:
    whole = file("a long text\n", subject="Plan", refs=["r1"])
    known = read(whole)
    beginning = whole[: whole.index(b"a long text")]
    for data in (whole, beginning):
        assert parse_head(data, "x.md") == msgspec.structs.replace(known, body="")


@pytest.mark.parametrize("name", ["", ".md", ".a.md", "a.txt", "a/b.md", "a\\b.md", "a\0b.md"])
def test_a_name_that_is_hidden_or_leads_elsewhere_is_no_messages(name: str) -> None:
    assert not is_message_name(name)
    assert is_message_name("a.md")


def test_a_message_is_written_as_amq_writes_it() -> None:
    header = Header(
        id="2026-08-22T10-00-00.120Z_pid7_0a1b2c3d",
        sender="alice",
        to=("bob", "carol"),
        thread="p2p/alice__bob",
        created=1787392800.12,
        subject="  a < b && c > d \u2028 ü\t",
        refs=("r1",),
        priority=Priority.NORMAL,
        kind=Kind.REVIEW_RESPONSE,
        labels=("x",),
        hops=2,
        automatic=Automatic.NOTICE,
        turn="t1",
    )
    assert write_message(header, "body").decode() == (
        "---json\n"
        "{\n"
        '  "schema": 1,\n'
        '  "id": "2026-08-22T10-00-00.120Z_pid7_0a1b2c3d",\n'
        '  "from": "alice",\n'
        '  "to": [\n'
        '    "bob",\n'
        '    "carol"\n'
        "  ],\n"
        '  "thread": "p2p/alice__bob",\n'
        '  "subject": "a \\u003c b \\u0026\\u0026 c \\u003e d \\u2028 ü",\n'
        '  "created": "2026-08-22T10:00:00.12Z",\n'
        '  "refs": [\n'
        '    "r1"\n'
        "  ],\n"
        '  "priority": "normal",\n'
        '  "kind": "review_response",\n'
        '  "labels": [\n'
        '    "x"\n'
        "  ],\n"
        '  "context": {\n'
        '    "agent_mailer": {\n'
        '      "automatic": "notice",\n'
        '      "hops": 2,\n'
        '      "turn": "t1"\n'
        "    }\n"
        "  }\n"
        "}\n"
        "---\n"
        "body\n"
    )


def test_empty_fields_are_left_out_and_an_empty_body_is_no_bytes() -> None:
    data = write_message(Header(id="i", sender="a", to=("b",), thread="t", created=0.0), "")
    assert data.decode() == (
        '---json\n{\n  "schema": 1,\n  "id": "i",\n  "from": "a",\n  "to": [\n    "b"\n  ],\n'
        '  "thread": "t",\n  "created": "1970-01-01T00:00:00Z"\n}\n---\n'
    )


def test_what_is_written_is_read_back() -> None:
    header = Header(
        id="i", sender="a", to=("b",), thread="t", created=1787392800.5, hops=3, automatic=Automatic.AUTO_REPLY
    )
    message = read(write_message(header, "---\n\n---json\nx"))
    assert message.body == "---\n\n---json\nx\n"
    assert (message.envelope.hops, message.envelope.automatic) == (3, Automatic.AUTO_REPLY)
    assert message.envelope.created == 1787392800.5


def test_a_lone_surrogate_never_reaches_the_disk() -> None:
    data = write_message(Header(id="i", sender="a", to=("b",), thread="t\ud800", created=0.0), "x\udfff")
    assert read(data).envelope.thread == "t\ufffd"
    assert read(data).body == "x\ufffd\n"


@pytest.mark.parametrize(("moment", "text"), [(0.0, "1970-01-01T00:00:00Z"), (1.5, "1970-01-01T00:00:01.5Z")])
def test_moments_lose_their_trailing_zeros(moment: float, text: str) -> None:
    assert rfc3339(moment) == text


def test_empty_lists_and_objects_look_as_go_writes_them() -> None:
    assert go_json({"a": [], "b": {}}) == '{\n  "a": [],\n  "b": {}\n}'


def test_line_ends_of_either_kind_are_read() -> None:
    message = read(file("one\r\ntwo\r\n").replace(b"\n", b"\r\n").replace(b"\r\r", b"\r"))
    assert message.body == "one\ntwo\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 0},
        {"schema": 99},
        {"schema": ...},
        {"id": "another id\nwith a line end"},
        {"id": "x..ü " + "i" * 300},
        {"to": ["carol", "carol"]},
        {"subject": None, "refs": None, "labels": None, "context": None, "priority": None, "kind": None},
        {"priority": "", "kind": ""},
        {"unknown": {"deep": [1, 2, {"x": None}]}},
        {"thread": "../../x"},
        {"thread": "a b\nc"},
        {"thread": "t" * 100_000},
        {"created": "2026-08-22T12:00:00,5+02:00"},
        {"context": {"agent_mailer": "not ours"}},
        {"context": {"agent_mailer": {"hops": -3, "automatic": "yes"}}},
        {"context": {"agent_mailer": {"hops": True, "automatic": 7}}},
        {"context": {"agent_mailer": {"hops": 1.5, "automatic": []}}},
    ],
)
def test_oddities_that_amq_accepts_are_accepted(changes: dict[str, object]) -> None:
    message = read(file(**changes))
    assert message.envelope.hops == 0
    assert message.envelope.automatic is Automatic.NO


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ...},
        {"id": "  "},
        {"id": ".hidden"},
        {"id": "a/b"},
        {"id": "../../x"},
        {"id": "a\\b"},
        {"id": "x.md"},
        {"id": None},
        {"from": "Bob"},
        {"from": "-bob"},
        {"from": "bob\n"},
        {"to": []},
        {"to": [None]},
        {"to": ["alice", "B"]},
        {"thread": ""},
        {"thread": " t"},
        {"thread": "t\n"},
        {"created": ""},
        {"created": "2026-08-22T10:00:00"},
        {"created": "2026-08-22t10:00:00z"},
        {"created": "2026-08-22T10:00:60Z"},
        {"created": "2026-02-30T10:00:00Z"},
        {"created": "2026-08-22T10:00:00+99:00"},
        {"created": "٢٠٢٦-08-22T10:00:00Z"},
        {"priority": "high"},
        {"kind": "run"},
    ],
)
def test_a_bad_header_is_named(changes: dict[str, object]) -> None:
    assert fails(file(**changes), Reason.INVALID_HEADER).why


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"---json\n",
        b"---json",
        b"\xef\xbb\xbf" + file(),
        b"\n" + file(),
        raw("{"),
        raw('{"id": "torn'),
        raw("[]"),
        raw("7"),
        raw("{} {}"),
        raw('{"schema": NaN}'),
        raw("{'id': 1}"),
        file(schema="1"),
        file(schema=1.5),
        file(schema=True),
        file(schema=2**63),
        file(id=7),
        file(to="alice"),
        file(to=["alice", 7]),
        file(context=[]),
        file(labels={}),
        file()[: -len("---\nhi\n")],
        file().replace(b"\n---\n", b"\n--- \n"),
        file().replace(b"\n---\nhi\n", b"\n---"),
        file().replace(b"\n---\n", b"\n----\n"),
        raw('{"schema": 1e0}'),
        raw('{"schema": ' + "9" * 5000 + "}"),
    ],
)
def test_what_does_not_parse_is_a_parse_error(data: bytes) -> None:
    assert fails(data, Reason.PARSE_ERROR).why


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("labels", "x"),
        ("subject", 7),
        ("refs", [7]),
        ("context", []),
        ("schema", "1"),
        ("created", {}),
        ("to", "coder"),
    ],
)
def test_a_side_field_of_a_wrong_type_does_not_hide_whose_it_is(name: str, wrong: object) -> None:
    header = {name: wrong, "id": "m1", "from": "alice", "thread": "t1"} | {"to": ["coder"], name: wrong}
    found = parse_message(f"---json\n{json.dumps(header)}\n---\n".encode(), "m1.md")
    why = f"header field {name!r} has the wrong type"
    assert found == Malformed(Reason.PARSE_ERROR, why, "m1", "t1", "alice")


def test_of_names_of_a_wrong_type_the_others_are_known() -> None:
    header = {"id": ["m1"], "from": "alice", "thread": 7}
    found = parse_message(f"---json\n{json.dumps(header)}\n---\n".encode(), "m1.md")
    assert found == Malformed(Reason.PARSE_ERROR, "header field 'id' has the wrong type", "", "", "alice")


def test_null_for_a_header_is_an_empty_one() -> None:
    fails(raw("null"), Reason.INVALID_HEADER)


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_a_parse_error(depth: int, opening: str, closing: str) -> None:
    header = json.dumps(GOOD)[:-1] + ', "x": ' + opening * depth + "1" + closing * depth + "}"
    assert "deep" in fails(raw(header), Reason.PARSE_ERROR).why


def test_the_limit_of_depth_does_not_hang_on_the_caller() -> None:
    fits = raw(json.dumps(GOOD)[:-1] + ', "x": ' + "[" * 390 + "]" * 390 + "}")
    brackets = file(labels=["[{" * 2000])

    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
        else:
            read(fits)
            read(brackets)

    at(min(300, sys.getrecursionlimit() // 3))


def test_keys_match_in_any_case_and_the_last_one_wins() -> None:
    header = json.dumps(GOOD)[:-1] + ', "ID": "second", "Thread": "T2", "id": "third", "KIND": "todo", "kind": null}'
    message = read(raw(header))
    assert message.envelope.id == "third"
    assert message.envelope.thread == "T2"
    assert message.envelope.kind is Kind.TODO


def test_a_last_null_empties_a_list() -> None:
    fails(raw(json.dumps(GOOD)[:-1] + ', "To": null}'), Reason.INVALID_HEADER)


def test_what_is_no_utf8_becomes_a_question() -> None:
    data = file("body\n").replace(b"body", b"b\xffdy").replace(b"p2p/alice", b"p2p/\xc3lice")
    message = read(data)
    assert message.body == "b\ufffddy\n"
    assert message.envelope.thread == "p2p/\ufffdlice__bob"


def test_a_lone_surrogate_in_a_header_becomes_a_question() -> None:
    message = read(raw(json.dumps(GOOD)[:-1] + ', "subject": "a\\ud800b \\ud83d\\ude00"}'))
    assert message.subject == "a\ufffdb 😀"


def test_the_size_limit_is_amqs() -> None:
    data = file("")
    fits = data + b"x" * (MAX_MESSAGE_BYTES - len(data))
    assert isinstance(parse_message(fits, "x.md"), Message)
    assert isinstance(parse_message(fits + b"x", "x.md"), Malformed)


def test_order_is_by_creation_then_id() -> None:
    def order(created: str, identifier: str) -> str:
        return read(file(created=created, id=identifier)).envelope.order

    expected = [
        order("0999-01-01T00:00:00Z", "z"),
        order("2026-08-22T09:59:59.999999999Z", "z"),
        order("2026-08-22T12:00:00+02:00", "a"),
        order("2026-08-22T10:00:00Z", "b"),
        order("2026-08-22T10:00:00.000000001Z", "a"),
        order("9999-12-31T23:59:59Z", "a"),
    ]
    assert sorted(expected) == expected


def test_an_answer_to_another_root_keeps_its_address() -> None:
    assert read(file()).reply_to == "bob"
    assert read(file(reply_to="bob@main")).reply_to == "bob@main"
    assert read(file(reply_to="bob@main", reply_project="web")).reply_to == "web:bob@main"
    assert read(file(reply_project="web")).reply_to == "web:bob"


def test_a_beginning_that_holds_the_header_is_enough() -> None:
    data = file("x" * 100)
    assert isinstance(parse_envelope(data[:-90], "x.md"), Envelope)
    assert isinstance(parse_envelope(data[:-105], "x.md"), Malformed)
