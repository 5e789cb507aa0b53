"""The mail tools as a real process: spoken to by the official SDK's client, and by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import mcp
import pytest
from mcp.client.stdio import StdioServerParameters
from tests.typed import COMMAND, type_in

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Action, Contact, Draft, Envelope, Kind, Message, Priority
from agent_mailer.turn_tools.folder import Facts, FinishKind, NoteScope, TurnFolder

SERVER = [sys.executable, "-m", "agent_mailer.turn_tools.mcp"]


class Turn:
    """A turn's folder, and servers started elsewhere, in a folder that knows nothing of any mailbox."""

    def __init__(self, base: Path) -> None:
        self.elsewhere = base / "elsewhere"
        self.elsewhere.mkdir()
        self.path = base / "turns" / "20251121T081500-deadbeef"
        self.folder = TurnFolder(self.path, Disk())
        envelope = Envelope("m1", "p2p/coder__user", "user", 1763712900.0, "1", "x.md", kind=Kind.QUESTION)
        self.message = Message(envelope, "Colour", "Which one? ✓\n", reply_to="user")
        earlier = Message(Envelope("m0", "p2p/coder__user", "coder", 1763712800.0, "0", "m0.md"), "Colour", "Earlier.")
        contacts = (Contact("planner"), Contact("user", "the person here"))
        facts = Facts("t", "coder", 1024 * 1024, "/memory/global.md", "/memory/thread.md")
        notes = {NoteScope.GLOBAL: b"# Known\n\n- grey is out\n"}
        self.folder.prepare(self.message, (earlier, self.message), contacts, facts, notes)

    def start(self, argv: list[str] | None = None, **popen: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv or [*SERVER, str(self.path)],
            cwd=self.elsewhere,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **popen,
        )

    def say(self, *lines: object, argv: list[str] | None = None) -> tuple[list[Any], bytes, int]:
        """What the server answers to these lines (bytes as they are), its standard error, and its exit status."""
        data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        server = self.start(argv)
        out, err = server.communicate(data, timeout=60)
        return [json.loads(line) for line in out.splitlines()], err, server.returncode

    def with_client(self, work: Callable[[mcp.Client], Awaitable[None]], mode: str = "auto") -> None:
        async def run() -> None:
            parameters = StdioServerParameters(
                command=SERVER[0], args=[*SERVER[1:], str(self.path)], cwd=self.elsewhere, env={"LC_ALL": "C"}
            )
            async with mcp.Client(parameters, mode=mode, read_timeout_seconds=30) as client:
                await work(client)

        asyncio.run(run())


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    return Turn(tmp_path)


def request(request_id: object, method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def call(request_id: object, tool: str, **arguments: object) -> dict[str, object]:
    return request(request_id, "tools/call", name=tool, arguments=arguments)


async def use(client: mcp.Client, tool: str, **arguments: object) -> str:
    """The text of a call that worked."""
    text = await _text(client, tool, failed=False, **arguments)
    assert not text.startswith("error:")
    return text


async def fail(client: mcp.Client, tool: str, **arguments: object) -> str:
    """The text of a call that was refused."""
    text = await _text(client, tool, failed=True, **arguments)
    assert text.startswith("error: ")
    assert "\n" not in text
    return text


async def _text(client: mcp.Client, tool: str, *, failed: bool, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error is failed, result
    [block] = result.content
    assert block.type == "text"
    return block.text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_finds_the_tools(turn: Turn, mode: str) -> None:
    async def work(client: mcp.Client) -> None:
        assert client.protocol_version == "2025-11-25"
        assert client.server_info is not None
        assert client.server_info.name == "agent-mailer"
        assert "read_message" in (client.instructions or "")
        listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == [
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
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in listed)

    turn.with_client(work, mode)


def test_the_official_client_reads(turn: Turn) -> None:
    async def work(client: mcp.Client) -> None:
        message = await use(client, "read_message")
        assert "was written by the sender" in message
        assert "From: user\n" in message
        assert "Kind: question\n" in message
        assert "\n\nWhich one? ✓\n" in message
        thread = await use(client, "read_thread")
        assert thread.index("Earlier.") < thread.index("Which one?")
        assert await use(client, "list_contacts") == "planner\nuser  (the person here)\n"
        assert await use(client, "read_memory", scope="global") == "# Known\n\n- grey is out\n"
        assert "no thread note yet" in await use(client, "read_memory", scope="thread")

    turn.with_client(work)
    sealed = turn.folder.seal()
    assert (sealed.drafts, sealed.finish, sealed.notes) == ((), None, ())


def test_the_official_client_stages(turn: Turn) -> None:
    async def work(client: mcp.Client) -> None:
        assert "leaves when this turn ends well" in await use(client, "reply", body="Green ✓", kind="answer")
        assert "leaves at once" in await use(client, "reply", body="working", subject="Half way", now=True)
        assert "the same mail leaves once" in await use(client, "reply", body="Green ✓", kind="answer")
        await use(client, "forward", to=["planner"], body="please check")
        await use(
            client, "send", to=["planner", "user", "planner"], subject="New", body="b", thread="t/2", priority="urgent"
        )
        await use(client, "write_memory", scope="thread", text="first")
        await use(client, "write_memory", scope="thread", text="- asked for a colour\n")
        assert await use(client, "read_memory", scope="thread") == "- asked for a colour\n"
        assert "question goes to the sender" in await use(client, "finish", outcome="blocked", question="Red or green?")
        assert "nothing is sent" in await use(client, "finish", reply_wanted=False)

    turn.with_client(work)
    sealed = turn.folder.seal()
    drafts = {draft.body: draft for draft in sealed.drafts}
    assert set(drafts) == {"Green ✓", "working", "please check", "b"}
    assert (drafts["Green ✓"].action, drafts["Green ✓"].kind, drafts["Green ✓"].at_once) == (
        Action.REPLY,
        Kind.ANSWER,
        False,
    )
    assert (drafts["working"].subject, drafts["working"].at_once, drafts["working"].labels) == (
        "Half way",
        True,
        ("progress",),
    )
    assert (drafts["please check"].action, drafts["please check"].to) == (Action.FORWARD, ("planner",))
    sent = drafts["b"]
    assert (sent.action, sent.to, sent.subject, sent.thread) == (Action.SEND, ("planner", "user"), "New", "t/2")
    assert (sent.priority, sent.kind) == (Priority.URGENT, None)
    assert [(note.scope, note.text) for note in sealed.notes] == [(NoteScope.THREAD, "- asked for a colour\n")]
    assert sealed.finish is not None
    assert (sealed.finish.kind, sealed.finish.reply_wanted) == (FinishKind.DONE, False)
    assert sealed.damaged == 0


REFUSED: list[tuple[str, dict[str, object], str]] = [
    ("reply", {}, "missing required field `body`"),
    ("reply", {"body": " \n"}, "text is empty"),
    ("reply", {"body": "x" * 1024 * 1024}, "at most"),
    ("reply", {"body": "x", "kind": "poem"}, "Invalid enum value 'poem'"),
    ("reply", {"body": "x", "to": ["planner"]}, "it takes body (required), subject, kind, now"),
    ("forward", {"to": []}, "of length >= 1"),
    ("forward", {"to": "planner"}, "Expected `array`"),
    ("forward", {"to": ["nobody"]}, "known are: planner, user"),
    ("send", {"to": ["../x"], "subject": "s", "body": "b"}, "nobody here is called ../x"),
    ("send", {"to": ["user"], "body": "b"}, "missing required field `subject`"),
    ("send", {"to": ["user"], "subject": "s", "body": ""}, "text is empty"),
    ("read_message", {"offset": -1}, ">= 0"),
    ("read_message", {"offset": 10_000}, "smaller offset"),
    ("read_memory", {"scope": "planner"}, "Invalid enum value"),
    ("write_memory", {"scope": "global", "text": " "}, "would wipe"),
    ("write_memory", {"scope": "global", "text": "ä" * 140_000}, "a note holds at most 262144 bytes"),
    ("finish", {"outcome": "blocked"}, "asks a question"),
    ("finish", {"outcome": "done", "question": "Red?"}, "say blocked with the question alone"),
    ("finish", {"outcome": "blocked", "question": "Red?", "reply_wanted": False}, "say blocked"),
    ("finish", {"outcome": "maybe"}, "Invalid enum value"),
]


def test_what_cannot_be_is_refused_in_one_sentence_and_nothing_is_staged(turn: Turn) -> None:
    async def work(client: mcp.Client) -> None:
        for tool, arguments, word in REFUSED:
            assert word in await fail(client, tool, **arguments), tool
        with pytest.raises(mcp.MCPError, match="there is no tool rm"):
            await client.call_tool("rm", {})

    turn.with_client(work)
    sealed = turn.folder.seal()
    assert (sealed.drafts, sealed.finish, sealed.notes) == ((), None, ())


def test_after_the_end_every_tool_says_so(turn: Turn) -> None:
    async def work(client: mcp.Client) -> None:
        await use(client, "reply", body="in time")
        turn.folder.seal()
        late: dict[str, dict[str, object]] = {
            "reply": {"body": "late"},
            "forward": {"to": ["user"]},
            "send": {"to": ["user"], "subject": "s", "body": "late"},
            "write_memory": {"scope": "global", "text": "late"},
            "finish": {"outcome": "done"},
        }
        for tool, arguments in late.items():
            assert "this turn is over" in await fail(client, tool, **arguments), tool
        turn.folder.strip()
        for tool in ("read_message", "read_thread", "list_contacts"):
            assert "this turn is over" in await fail(client, tool), tool
        assert "this turn is over" in await fail(client, "read_memory", scope="global")
        for tool, arguments in late.items():
            assert "this turn is over" in await fail(client, tool, **arguments), tool

    turn.with_client(work)
    assert not turn.folder.staged()


def test_a_long_mail_is_read_in_pages_and_whole(turn: Turn) -> None:
    body = "".join(f"{n:07d}\n" for n in range(8000))
    message = Message(turn.message.envelope, "Colour", body)
    turn.folder.prepare(message, (message,), (), turn.folder.facts())

    async def work(client: mcp.Client) -> None:
        read, more = "", "0"
        while more.isdecimal():
            text = await use(client, "read_message", offset=int(more))
            assert len(text) < 26_000
            read += text.partition("mail begins\n")[2].rpartition("\n=== ")[0]
            more = text.rpartition("read on with offset ")[2].rstrip("]")
        assert read.endswith(body)

    turn.with_client(work)


def test_nothing_is_written_outside_the_turns_folder(turn: Turn, tmp_path: Path, home: Path) -> None:
    def outside() -> set[Path]:
        return {path for base in (tmp_path, home) for path in base.rglob("*") if turn.path not in path.parents}

    before = outside()
    found, err, status = turn.say(
        call(1, "reply", body="x"), call(2, "write_memory", scope="global", text="x"), call(3, "finish", outcome="done")
    )
    assert ([answer["result"]["isError"] for answer in found], err, status) == ([False] * 3, b"", 0)
    assert outside() == before


def test_it_needs_nothing_that_costs_time_or_reaches_out() -> None:
    heavy = ["asyncio", "socket", "ssl", "subprocess", "httpx", "typer", "rich", "pydantic", "mcp", "tomlkit", "json"]
    source = f"import sys, agent_mailer.turn_tools.mcp; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_a_client_that_asks_early_late_and_wrongly_is_served(turn: Turn) -> None:
    found, err, status = turn.say(
        request(0, "server/discover"),
        b"",
        b"{",
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"reply","arguments":{"body":"'
        + b"x" * (17 * 1024 * 1024)
        + b'"}}}',
        request("a", "initialize", protocolVersion="2025-06-18"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}},
        call(5, "reply", body="one"),
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}},
        request(6, "shutdown"),
        request(7, "ping"),
    )
    assert [answer["id"] for answer in found] == [0, None, None, "a", 5, 6, 7]
    codes = [answer["error"]["code"] for answer in found if "error" in answer]
    assert codes == [-32601, -32700, -32600, -32601]
    assert (err, status) == (b"", 0)
    assert [draft.body for draft in turn.folder.seal().drafts] == ["one"]


def test_the_command_is_the_same_server(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [request(1, "initialize", protocolVersion="2025-11-25"), request(2, "tools/list")]
    known = turn.say(*lines)
    assert turn.say(*lines, argv=[COMMAND, "mcp", str(turn.path)]) == known
    monkeypatch.setenv("AGENT_MAILER_TURN_DIR", str(turn.path))
    assert turn.say(*lines, argv=[COMMAND, "mcp"]) == known
    assert turn.say(*lines, argv=SERVER) == known


@pytest.mark.parametrize("words", [[], ["no/such/folder"], [__file__], ["a", "b"]])
def test_without_a_turn_it_says_what_is_wrong(turn: Turn, words: list[str]) -> None:
    found, err, status = turn.say(request(1, "ping"), argv=[*SERVER, *words])
    assert (found, status) == ([], 2)
    assert err.startswith(b"error: ")
    assert b"Traceback" not in err
    done = type_in(turn.elsewhere, "mcp", *words)
    assert (done.status, done.out) == (2, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(turn: Turn, number: signal.Signals) -> None:
    server = turn.start()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request(1, "ping")).encode() + b"\n")
    server.stdin.flush()
    server.stdout.readline()
    server.send_signal(number)
    out, err = server.communicate(timeout=10)
    assert (out, err, server.returncode) == (b"", b"", -number)


def test_a_client_that_is_gone_ends_it_without_a_word(turn: Turn) -> None:
    server = turn.start()
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    server.stdout.close()
    server.stdin.write(json.dumps(request(1, "tools/list")).encode() + b"\n")
    server.stdin.close()
    assert server.wait(timeout=30) == 0
    assert server.stderr.read() == b""
    server.stderr.close()


def test_pipes_that_do_not_block_are_waited_for(turn: Turn) -> None:
    stdin, sink = os.pipe()
    source, stdout = os.pipe()
    for fd in (stdin, stdout):
        os.set_blocking(fd, False)
    server = subprocess.Popen([*SERVER, str(turn.path)], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    os.close(stdin)
    os.close(stdout)
    with os.fdopen(sink, "wb") as ask, os.fdopen(source, "rb") as answers:
        ask.write(json.dumps(request(0, "ping")).encode() + b"\n")
        ask.flush()
        assert json.loads(answers.readline())["id"] == 0
        # More answers than the pipe holds before anybody reads one.
        for number in range(1, 41):
            ask.write(json.dumps(request(number, "tools/list")).encode() + b"\n")
        ask.close()
        assert [json.loads(line)["id"] for line in answers] == list(range(1, 41))
    _, err = server.communicate(timeout=30)
    assert (err, server.returncode) == (b"", 0)


@pytest.fixture
def pair(turn: Turn) -> Iterator[list[subprocess.Popen[bytes]]]:
    servers = [turn.start() for _ in range(2)]
    yield servers
    for server in servers:
        if server.poll() is None:
            server.kill()
        server.communicate()


def acknowledged(server: subprocess.Popen[bytes], bodies: list[str], found: list[str]) -> None:
    """Ask for replies one after the other; `found` gets the bodies that were taken."""
    assert server.stdin is not None
    assert server.stdout is not None
    for number, body in enumerate(bodies):
        server.stdin.write(json.dumps(call(number, "reply", body=body)).encode() + b"\n")
        server.stdin.flush()
        if not json.loads(server.stdout.readline())["result"]["isError"]:
            found.append(body)


def test_two_servers_stage_the_same_item_once(turn: Turn, pair: list[subprocess.Popen[bytes]]) -> None:
    bodies = [f"item {n}" for n in range(40)]
    taken: list[list[str]] = [[], []]
    threads = [threading.Thread(target=acknowledged, args=(pair[n], bodies, taken[n])) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [bodies, bodies]
    drafts: list[Draft] = list(turn.folder.seal().drafts)
    assert sorted(draft.body for draft in drafts) == sorted(bodies)


def test_what_was_acknowledged_is_in_the_sealed_outbox(turn: Turn, pair: list[subprocess.Popen[bytes]]) -> None:
    taken: list[list[str]] = [[], []]
    bodies = [[f"server {n} item {i}" for i in range(45)] for n in range(2)]
    threads = [threading.Thread(target=acknowledged, args=(pair[n], bodies[n], taken[n])) for n in range(2)]
    for thread in threads:
        thread.start()
    while sum(map(len, taken)) < 20:
        threads[0].join(0.001)
    sealed = {draft.body for draft in turn.folder.seal().drafts}
    for thread in threads:
        thread.join()
    everything = {*taken[0], *taken[1]}
    assert 20 <= len(everything) < 90
    assert everything <= sealed
