"""Bad input for every field of every body, every parameter and every path: refused as JSON, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import pytest
from tests.broker_process import Account, BrokerProcess, broker, join, register
from tests.openapi_walk import Operation, operations, sample
from tests.sizes import sizes

pytestmark = pytest.mark.usefixtures("each_database")
T = TypeVar("T")
LONG = "x" * 3_000_000
SOME = sizes(quick=6, long=1)
"""One value in so many, another one for each operation and parameter: each of them is tried somewhere."""
TEXTS = {
    "controls": "a\u0001\u001b[2Jb\r\n",
    "NUL": "a\u0000b",
    "lone surrogate": "\ud800",
    "bidi": "\u202eabc",
    "path": "../../../etc/passwd",
    "quote": "' OR 1=1 --",
}
VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "number": b"7",
    "negative": b"-1",
    "float": b"1.5",
    "beyond 64 bits": b"9" * 25,
    "thousands of digits": b"9" * 5000,
    "infinite": b"1e999",
    "NaN": b"NaN",
    "list": b"[]",
    "list of lists": b"[[[]]]",
    "object": b"{}",
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "invalid UTF-8": b'"\xff\xfe"',
    "empty": b'""',
    "long": json.dumps("x" * 300_000).encode(),
    **{name: json.dumps(text).encode() for name, text in TEXTS.items()},
}
BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "invalid UTF-8": b"\xff\xfe",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "NUL": b"\x00",
    "twice the same name": b'{"a":1,"a":2}',
}
WORDS = [
    "..",
    "../..",
    "%2e%2e%2f",
    "a/b",
    "\x00",
    "a\nb",
    "\x1b[2J",
    "é" * 50,
    "x" * 5000,
    "' OR 1=1 --",
    "\\..\\",
    " ",
]
WRONG_TYPE = {"string": b"7", "integer": b'"x"', "boolean": b'"x"', "array": b"7", "object": b"7"}


class Desk:
    def __init__(self, process: BrokerProcess, account: Account, agent: dict[str, Any]) -> None:
        self.process = process
        self.account = account
        self.agent = agent
        self.client = httpx.Client(
            base_url=process.url,
            headers={**account.as_agent, **account.as_person, "X-Agent-Mailer-Watcher": "w"},
            trust_env=False,
            timeout=60,
        )
        spec = self.client.get("/openapi.json").json()
        self.operations = [one for one in operations(spec) if not one.path.endswith("/stream")]
        assert len(self.operations) > 40
        self.named = {
            "agent_id": agent["id"],
            "from_agent": agent["address"],
            "to_agent": agent["address"],
            "address": agent["address"],
            "action": "send",
            "parent_id": None,
            "thread_id": None,
            "forward_scope": None,
        }

    def ask(self, operation: Operation, path: str, why: str, **request: Any) -> httpx.Response:
        answer = self.client.request(operation.method, path, **request)
        told = f"{operation.name}: {why}: {answer.status_code} {answer.text[:300]}"
        assert answer.status_code < 500, told
        if answer.status_code >= 400:
            assert answer.headers["content-type"].startswith("application/json"), told
            body = answer.json()
            assert "detail" in body or "error" in body, told
            assert len(answer.content) < 60_000, f"{told}: a long answer"
        return answer

    def send(self, operation: Operation, body: bytes, why: str) -> httpx.Response:
        path = operation.fill(dict.fromkeys(operation.path_params, "unknown"))
        return self.ask(operation, path, why, content=body, headers={"Content-Type": "application/json"})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Desk]:
    with broker(tmp_path_factory.mktemp("input") / "data") as process:
        account = join(process.url, "ann", process.invite)
        desk = Desk(process, account, register(process.url, account, "one"))
        yield desk
        desk.client.close()


def _some(values: Sequence[T], one_in: int, turn: int) -> Sequence[T]:
    return values[turn % one_in :: one_in]


def _with(fields: dict[str, Any], name: str, raw: bytes) -> bytes:
    """The body with one field's value as these very bytes."""
    rest = {key: value for key, value in fields.items() if key != name}
    text = json.dumps(rest)[1:-1].encode()
    return b"{" + text + (b"," if text else b"") + json.dumps(name).encode() + b":" + raw + b"}"


@pytest.mark.long
def test_every_field_of_every_body(desk: Desk) -> None:
    tried = 0
    for operation in desk.operations:
        if operation.body is None:
            continue
        fields = sample(operation.body, desk.named)
        required = set(operation.body.get("required", ()))
        for name, schema in operation.body.get("properties", {}).items():
            for why, raw in VALUES.items():
                answer = desk.send(operation, _with(fields, name, raw), f"{name} is {why}")
                if why in ("NUL", "lone surrogate", "invalid UTF-8", "deep", "NaN"):
                    assert answer.status_code >= 400, f"{operation.name}: {name} is {why}: accepted"
                tried += 1
            wrong = WRONG_TYPE.get(schema.get("type", ""))
            if wrong is not None:
                answer = desk.send(operation, _with(fields, name, wrong), f"{name} has a wrong type")
                assert answer.status_code in (400, 404, 413, 422, 429), f"{operation.name}: {name}: {answer.text}"
            if name in required:
                without = {key: value for key, value in fields.items() if key != name}
                answer = desk.send(operation, json.dumps(without).encode(), f"without {name}")
                assert answer.status_code in (422, 404), f"{operation.name}: without {name}: {answer.text}"
    assert tried > 500


@pytest.mark.parametrize("one_in", SOME)
def test_every_body_as_a_whole(desk: Desk, one_in: int) -> None:
    for turn, operation in enumerate(desk.operations):
        if operation.body is None:
            continue
        for why, raw in _some(list(BODIES.items()), one_in, turn):
            answer = desk.send(operation, raw, f"the body is {why}")
            # What asks for nothing may get nothing.
            nothing_needed = not operation.body.get("required")
            assert answer.status_code >= 400 or nothing_needed, f"{operation.name}: {why}: accepted"


def test_a_body_too_large_is_refused_with_413_whether_or_not_it_says_its_length(desk: Desk) -> None:
    sending = next(one for one in desk.operations if one.name == "POST /messages/send")
    fields = {**sample(sending.body or {}, desk.named), "body": LONG}
    answer = desk.send(sending, json.dumps(fields).encode(), "3 MB")
    assert answer.status_code == 413, answer.text

    def pieces() -> Iterator[bytes]:
        yield b'{"body": "'
        for _ in range(100):
            yield b"x" * 65_536
        yield b'"}'

    answer = desk.client.post("/messages/send", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413, answer.text
    upload = desk.client.post("/files/upload", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n" + b"0" * 12_000_000)})
    assert upload.status_code in (400, 413), upload.text
    assert not list((desk.process.data / "uploads").glob("*")), "nothing of it stays"


@pytest.mark.parametrize("one_in", SOME)
def test_every_path_parameter(desk: Desk, one_in: int) -> None:
    for turn, operation in enumerate(desk.operations):
        for place, name in enumerate(operation.path_params):
            for word in _some(WORDS, one_in, turn + place):
                for value in (quote(word, safe=""), quote(word, safe="/%")):
                    others = dict.fromkeys(operation.path_params, "x")
                    path = operation.path
                    for other in others:
                        path = path.replace(f"{{{other}}}", value if other == name else "x")
                    body = None if operation.body is None else sample(operation.body, desk.named)
                    answer = desk.ask(operation, path, f"{name} = {word[:30]!r}", json=body)
                    assert b"root:" not in answer.content


@pytest.mark.parametrize("one_in", SOME)
def test_every_query_parameter(desk: Desk, one_in: int) -> None:
    numbers = ["", "x", "-1", "0", "1.5", "9" * 25, "9" * 5000, "1e999", "NaN", "\x00", "\ud7ff", "true"]
    for turn, operation in enumerate(desk.operations):
        for place, name in enumerate(operation.query):
            for word in _some([*WORDS, *numbers], one_in, turn + place):
                path = operation.fill(
                    {one: desk.agent["address"] if one == "address" else "x" for one in operation.path_params}
                )
                asked = {
                    one: sample(schema, desk.named, one)
                    for one, schema in operation.query.items()
                    if one in operation.required_query
                }
                body = None if operation.body is None else sample(operation.body, desk.named)
                desk.ask(operation, path, f"{name} = {word[:30]!r}", params={**asked, name: word}, json=body)


def test_headers(desk: Desk) -> None:
    inbox = f"/messages/inbox/{desk.agent['address']}"
    sending = next(one for one in desk.operations if one.name == "POST /messages/send")
    body = sample(sending.body or {}, desk.named)
    odd = [b"", b"\xff\xfe", b"x" * 5000, b"amk_" + b"0" * 64, b"\x01", b"Bearer", b"a" * 201]
    tried = 0
    for name in ("X-API-Key", "Authorization", "Idempotency-Key", "Last-Event-ID", "X-Agent-Mailer-Watcher", "Cookie"):
        for value in odd:
            try:
                answer = desk.client.post("/messages/send", json=body, headers={name.encode(): value})
                listing = desk.client.get(inbox, params={"agent_id": desk.agent["id"]}, headers={name.encode(): value})
            except httpx.LocalProtocolError:
                continue
            tried += 1
            for one in (answer, listing):
                assert one.status_code < 500, f"{name} = {value!r}: {one.text}"
    assert tried > 20, "the client sends most of them"


def test_after_all_that_it_works_and_nothing_went_wrong_in_its_log(desk: Desk) -> None:
    """Last in this file: the broker that got all of the above."""
    agent = desk.agent
    sent = desk.client.post(
        "/messages/send",
        json={"agent_id": agent["id"], "from_agent": agent["address"], "to_agent": agent["address"], "body": "still"},
    )
    assert sent.status_code == 200, sent.text
    said = desk.process.said()
    assert "Traceback" not in said, said[-3000:]
    assert "Internal" not in said, said[-3000:]
    assert all(path.stat().st_mode & 0o077 == 0 for path in desk.process.data.rglob("*"))
