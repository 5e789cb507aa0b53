"""The conversation with a client, line by line: what is answered, what is not, and that nothing breaks it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Contact, Envelope, Message
from agent_mailer.turn_tools.commands import AgentMail
from agent_mailer.turn_tools.folder import MAX_STAGED, TEAM, Facts, TurnFolder
from agent_mailer.turn_tools.mcp_protocol import MAX_BATCH, VERSIONS, Protocol
from agent_mailer.turn_tools.mcp_tools import TOOLS, Toolbox

Ask = Callable[..., Any]
MESSAGE = Message(
    Envelope("m1", "p2p/coder__user", "user", 1763712900.0, "1", "x.md"), "Colour", "Which?", reply_to="user"
)
FACTS = Facts("turn", "coder", 1024 * 1024, "/memory/global.md", "/memory/thread.md")
NAMES = [
    "read_message",
    "read_thread",
    "list_contacts",
    "reply",
    "forward",
    "send",
    "read_memory",
    "write_memory",
    "finish",
]


@pytest.fixture
def folder(tmp_path: Path) -> TurnFolder:
    folder = TurnFolder(tmp_path / "turn", Disk())
    folder.prepare(MESSAGE, (MESSAGE,), (Contact("planner"), Contact("user")), FACTS)
    return folder


@pytest.fixture
def protocol(folder: TurnFolder) -> Protocol:
    return Protocol(Toolbox(AgentMail(folder)))


@pytest.fixture
def ask(protocol: Protocol) -> Ask:
    """Ask a method; returns the whole answer."""

    def one(method: str, params: object = None, request_id: object = 7) -> Any:
        line = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        answer = protocol.answer(line.encode())
        assert answer is not None
        assert b"\n" not in answer
        return json.loads(answer)

    return one


@pytest.mark.parametrize("version", VERSIONS)
def test_the_clients_version_is_spoken(ask: Ask, version: str) -> None:
    result = ask(
        "initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    )
    assert result["result"]["protocolVersion"] == version
    assert result["result"]["capabilities"] == {"tools": {"listChanged": False}}
    assert result["result"]["serverInfo"]["name"] == "agent-mailer"


@pytest.mark.parametrize("params", [{"protocolVersion": "2099-01-01"}, {"protocolVersion": ["2025-06-18"]}, {}, None])
def test_to_a_version_that_is_not_ours_the_newest_is_offered(ask: Ask, params: object) -> None:
    assert ask("initialize", params)["result"]["protocolVersion"] == VERSIONS[-1]


@pytest.mark.parametrize("request_id", [0, 1, -3, 2**70, "", "abc", "7"])
def test_an_answer_has_the_id_of_its_request(ask: Ask, request_id: object) -> None:
    assert ask("ping", request_id=request_id) == {"jsonrpc": "2.0", "id": request_id, "result": {}}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  \r",
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"late"}}',
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"reply","arguments":{"body":"x"}}}',
        b'{"jsonrpc":"2.0","method":"no/such"}',
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}',
    ],
)
def test_what_asks_nothing_is_not_answered_and_does_nothing(
    protocol: Protocol, folder: TurnFolder, line: bytes
) -> None:
    assert protocol.answer(line) is None
    assert folder.staged() == []


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"{nope", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"', -32700, None),
        (b'"\xff"', -32700, None),
        (b'{"a":"\\ud800', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\\ud800","y":NaN}}', -32700, None),
        (b"[" * 100_000, -32700, None),
        (b'"\\u0041"' + b"[" * 100_000, -32700, None),
        (None, -32600, None),
        (b"1", -32600, None),
        (b'"ping"', -32600, None),
        (b"[]", -32600, None),
        (b'{"id":1,"method":"ping"}', -32600, 1),
        (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', -32600, "a"),
        (b'{"jsonrpc":"2.0","id":1,"method":["ping"]}', -32600, 1),
        (b'{"jsonrpc":"2.0","id":1}', -32600, 1),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}', -32601, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"resources/list"}', -32601, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', -32601, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32602, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', -32602, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}}', -32602, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{"x":1}}}', -32602, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"reply","arguments":["x"]}}', -32602, 1),
    ],
)
def test_what_cannot_be_answered_gets_its_error(
    protocol: Protocol, line: bytes | None, code: int, request_id: object
) -> None:
    answer = protocol.answer(line)
    assert answer is not None
    found = json.loads(answer)
    assert (found["jsonrpc"], found["id"], found["error"]["code"]) == ("2.0", request_id, code), found
    assert found["error"]["message"]


def test_an_array_of_messages_is_taken_in_the_one_version_that_has_it(ask: Ask, protocol: Protocol) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    batch = json.dumps([ping, told, {**ping, "id": "b"}, 5]).encode()
    for version in VERSIONS:
        ask("initialize", {"protocolVersion": version})
        answer = json.loads(protocol.answer(batch) or b"")
        if version != "2025-03-26":
            assert answer["error"]["code"] == -32600, version
            continue
        assert [part.get("id") for part in answer] == [1, "b", None]
        assert [("result" in part) for part in answer] == [True, True, False]
        assert protocol.answer(json.dumps([told]).encode()) is None
        many = json.loads(protocol.answer(json.dumps([ping] * (MAX_BATCH + 1)).encode()) or b"")
        assert many["error"]["code"] == -32600


def test_half_a_character_costs_only_itself(ask: Ask, folder: TurnFolder) -> None:
    result = ask("tools/call", {"name": "reply", "arguments": {"body": "half \ud83d, whole \U0001f600"}})
    assert result["result"]["isError"] is False
    assert [draft.body for draft in folder.staged()] == ["half ?, whole \U0001f600"]


def test_the_tools_are_described_so_that_any_client_can_call_them(ask: Ask) -> None:
    listed = ask("tools/list", {"cursor": None})["result"]["tools"]
    assert [tool["name"] for tool in listed] == NAMES
    for tool in listed:
        schema = tool["inputSchema"]
        jsonschema.Draft202012Validator.check_schema(schema)
        assert (schema["type"], schema["additionalProperties"]) == ("object", False)
        assert "$ref" not in json.dumps(schema)
        assert all(field["description"] for field in schema["properties"].values())
        assert tool["title"]
        assert tool["description"]
        assert tool["annotations"] == {
            "readOnlyHint": True,
            "destructiveHint": False,
            "idempotentHint": True,
            "openWorldHint": False,
        }
    required = {tool["name"]: tool["inputSchema"]["required"] for tool in listed}
    assert required["reply"] == ["body"]
    assert required["send"] == ["to", "subject", "body"]
    assert required["finish"] == []


def test_null_is_an_argument_left_out(ask: Ask, folder: TurnFolder) -> None:
    arguments = {
        "to": ["user"],
        "subject": "s",
        "body": "b",
        "thread": None,
        "kind": None,
        "priority": None,
        "now": None,
    }
    assert ask("tools/call", {"name": "send", "arguments": arguments})["result"]["isError"] is False
    assert [draft.body for draft in folder.staged()] == ["b"]
    arguments["body"] = None
    assert ask("tools/call", {"name": "send", "arguments": arguments})["result"]["isError"] is True


def test_an_agent_in_a_loop_stops_at_the_limit(ask: Ask, folder: TurnFolder) -> None:
    results = [
        ask("tools/call", {"name": "reply", "arguments": {"body": f"{n}"}})["result"] for n in range(MAX_STAGED + 1)
    ]
    assert [result["isError"] for result in results] == [False] * MAX_STAGED + [True]
    assert "put the rest into one" in results[-1]["content"][0]["text"]
    again = ask("tools/call", {"name": "reply", "arguments": {"body": "0"}})["result"]
    assert (again["isError"], "leaves once" in again["content"][0]["text"]) == (False, True)
    assert len(folder.staged()) == MAX_STAGED


VALUES: list[object] = [
    None,
    True,
    0,
    -1,
    2**80,
    1.5,
    "",
    "x",
    "user",
    "done",
    "global",
    "\ud800\x00",
    [],
    ["user"],
    [1],
    {},
    {"a": [{}]},
]


def test_arguments_are_judged_as_the_schema_says(protocol: Protocol, folder: TurnFolder) -> None:
    """Whatever comes as arguments, the answer is a result; what the schema refuses is never carried out."""
    dice = random.Random(20251121)
    for tool in json.loads(msgspec.json.encode(TOOLS)):
        validator = jsonschema.Draft202012Validator(tool["inputSchema"])
        for _ in range(150):
            names = [*tool["inputSchema"]["properties"], "extra"]
            arguments = {name: dice.choice(VALUES) for name in names if dice.random() < 0.6}
            params = {"name": tool["name"], "arguments": arguments}
            line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
            result = json.loads(protocol.answer(line.encode()) or b"")["result"]
            assert [part["type"] for part in result["content"]] == ["text"]
            assert "fault of agent-mailer" not in result["content"][0]["text"], result
            given = {name: value for name, value in arguments.items() if value is not None}
            if not validator.is_valid(given):
                assert result["isError"], (arguments, result)
    assert len(folder.staged()) > 0


def test_no_line_breaks_the_conversation(protocol: Protocol, ask: Ask) -> None:
    dice = random.Random(7)
    whole = [
        json.dumps(
            {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        ).encode()
        for name, arguments in (
            ("read_message", {}),
            ("reply", {"body": "grün \ud83d\ude00", "kind": "answer"}),
            ("send", {"to": ["planner"], "subject": "s", "body": "b", "priority": "low"}),
            ("write_memory", {"scope": "thread", "text": "known"}),
        )
    ]
    whole.append(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}')
    for _ in range(2000):
        line = bytearray(dice.choice(whole))
        for _ in range(dice.randint(0, 6)):
            at = dice.randrange(len(line)) if line else 0
            match dice.randrange(4):
                case 0:
                    line[at:at] = bytes([dice.randrange(256)])
                case 1:
                    del line[at : at + dice.randint(1, 9)]
                case 2:
                    line[at:at] = dice.choice([b"{", b"}", b"[", b'"', b"\\u", b"\\ud800", b"null", b"1e999", b"-"])
                case 3:
                    line += line[at : at + 40]
        answer = protocol.answer(bytes(line))
        if answer is not None:
            found = json.loads(answer)
            for part in found if isinstance(found, list) else [found]:
                assert part["jsonrpc"] == "2.0"
                assert ("result" in part) != ("error" in part)
                assert part.get("error", {}).get("code") != -32603, (line, part)
    assert ask("ping")["result"] == {}


def test_a_fault_of_ours_is_told_and_leaves_the_tools_there(folder: TurnFolder, tmp_path: Path) -> None:
    (folder.path / "mail.json").write_text("{torn")
    protocol = Protocol(Toolbox(AgentMail(folder)))
    line = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_message"}}'
    result = json.loads(protocol.answer(line) or b"")["result"]
    assert (result["isError"], "cannot be read" in result["content"][0]["text"]) == (True, True)
    folder.path.joinpath("mail.json").unlink()
    folder.path.joinpath("mail.json").mkdir()
    result = json.loads(protocol.answer(line) or b"")["result"]
    assert (result["isError"], "try again" in result["content"][0]["text"]) == (True, True)


def test_what_the_team_remembers_is_read_like_a_note(folder: TurnFolder) -> None:
    tools = Toolbox(AgentMail(folder))
    assert tools.call("read_memory", {"scope": "team"}).text == "Nothing is written down for your team."
    (folder.path / TEAM).write_text("# Rules\n\n" + "x" * 30_000 + "the end")
    first = tools.call("read_memory", {"scope": "team"}).text
    assert first.startswith("# Rules")
    assert "read on with offset" in first
    assert "the end" in tools.call("read_memory", {"scope": "team", "offset": 24_000}).text
    # People write it, at the broker.
    assert tools.call("write_memory", {"scope": "team", "text": "mine"}).failed
    assert folder.strip()
    assert not (folder.path / TEAM).exists()


@pytest.mark.parametrize("tool", ["reply", "forward"])
@pytest.mark.parametrize("which", ["m1", "m2"])
def test_of_several_messages_the_one_that_is_named_is_answered_or_handed_on(
    folder: TurnFolder, tool: str, which: str
) -> None:
    other = msgspec.structs.replace(MESSAGE, envelope=msgspec.structs.replace(MESSAGE.envelope, id="m2"))
    folder.prepare(MESSAGE, (MESSAGE,), (Contact("planner"), Contact("user")), FACTS, None, (other,))
    more = {"to": ["planner"]} if tool == "forward" else {}
    answer = Toolbox(AgentMail(folder)).call(tool, {"body": "please", "message": which, **more})
    assert not answer.failed, answer.text
    [draft] = folder.staged()
    assert draft.about == which
