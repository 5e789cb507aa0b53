"""Three ways in by which bytes come in pieces: what an agent says to the bridge, a broker's events, a broker's answers.

Each reads `data` as the real reader does, over real sockets where there is one; what it raises nobody expects.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.raw_broker import Asked, RawBroker, raw_broker

from agent_mailer.errors import BusyFault
from agent_mailer.mailbox.amp.stream import Source, Stream
from agent_mailer.mailbox.amp.transport import Limits, Transport
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.acp import wire
from agent_mailer.runtimes.acp.conversation import Conversation, Decide, Say, Send
from agent_mailer.runtimes.acp.descriptor import MailBy, Named, UsageOf
from agent_mailer.runtimes.acp.orders import Orders, Staged
from agent_mailer.runtimes.acp.permission import permit
from agent_mailer.runtimes.acp.verdict import judge
from agent_mailer.runtimes.own_lines import events_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "acp"
ORDERS = Orders(
    argv=("/bin/agent",),
    title="Agent",
    workdir="/srv/agent",
    turn_dir="/srv/agent/.agent-mailer/turns/1",
    usage=UsageOf.PROMPT,
    roots=("/srv/agent",),
    kept=("/srv/agent/.agent-mailer",),
    named=Named("announced.title", mail="agent_mailer_[a-z_]+"),
    mail=MailBy.COMMANDS,
)
_ASKS = (
    b'{"jsonrpc":"2.0","id":"q1","method":"session/request_permission","params":{"sessionId":"s","toolCall":'
    b'{"toolCallId":"t1","kind":"edit","title":"Edit","rawInput":{"path":"/srv/agent/a"},"locations":[{"path":"a"}]},'
    b'"options":[{"optionId":"a","kind":"allow_once","name":"Yes"},{"optionId":"r","kind":"reject_once","name":"No"}]}}'
)
_TOOL = (
    b'{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s","update":{"sessionUpdate":"tool_call",'
    b'"toolCallId":"t1","title":"bash","kind":"execute","status":"pending"}}}'
)
_FAILS = (
    b'{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"Internal error","data":{"details":"429",'
    b'"statusCode":429,"errorKind":"rate_limit"}}}'
)


def recorded() -> tuple[bytes, ...]:
    """What real agents said, a line each, and what they say when they ask or fail."""
    lines = [line for path in sorted(FIXTURES.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return (*dict.fromkeys(line for line in lines if len(line) < 20_000), _ASKS, _TOOL, _FAILS)


_TALK = tuple(line for line in recorded() if b'"id":' in line[:40] or b"agent_message_chunk" in line)[:4]


def acp(data: bytes) -> None:
    """Said at each moment of a talk: the bridge answers in whole lines of the protocol, and our own are read again."""
    for moment in range(len(_TALK) + 1):
        talk = Conversation(ORDERS, "Do it.")
        talk.begin()
        for number, line in enumerate((*_TALK[:moment], data, *_TALK[moment:])):
            if (message := wire.read(line)) is not None and not talk.over:
                talk.hear(message, float(number))
            _do(talk)
        if talk.ended is not None:
            verdict = judge(talk.ended, Staged(), resumed=False, errors=(), answers=())
            assert isinstance(verdict.outcome, Outcome)


def _do(talk: Conversation) -> None:
    while talk.steps:
        steps, talk.steps = talk.steps, []
        for step in steps:
            match step:
                case Send(line=line):
                    assert line.count(b"\n") == 1
                    assert json.loads(line)["jsonrpc"] == "2.0"
                case Say(fields=fields):
                    assert events_of(json.dumps(fields).encode()), f"a line of ours that we do not read: {fields}"
                case Decide(params=params):
                    permission = permit(ORDERS, params)
                    talk.decided(step, permission.option, permission.tool, allowed=permission.allowed)


EVENTS = (
    b'event: hello\nid: 7\ndata: {"epoch":3}\n\nevent: mail\nid: 8\ndata: {}\n\n: still there\n\n',
    b'event: hello\r\nid: 7\r\ndata: {"epoch":3}\r\n\r\n:\r\n\r\nevent: mail\r\ndata: a\r\ndata: b\r\n\r\n',
    b'event: hello\rdata: {"epoch":null}\r\revent: asked\rdata\r\rretry: 10\r\r',
    b'\xef\xbb\xbfevent:mail\ndata:{}\n\nevent: replaced\ndata: {"name":"w","since":"2026"}\n\n',
    "id: ²\nevent: mail\n\nid: ٣\ndata: {}\n\n".encode(),
    b"data: " + b"x" * 300_000 + b"\n\n",
    b"data\n" * 5000 + b"\n",
)


def events(data: bytes) -> None:
    """As a broker's stream, cut anywhere: it wakes us, is lost, or tells of another watcher."""

    async def listen(broker: RawBroker) -> None:
        transport = Transport(broker.url, "amk_0123456789", limits=Limits(connect=30.0, read=30.0, whole=30.0))
        source = Source("/stream", "agent", "", "", 30.0)

        async def where() -> Source:
            return source

        stream = Stream(lambda: transport, where, lambda: None)
        try:
            with suppress(MailboxUnavailable, BusyFault):
                await stream._listen(source)
            assert stream._last_id == "" or stream._last_id.isdigit()
        finally:
            await transport.close()

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    asyncio.run(_at_a_broker("GET /stream", [head, *_cut(data)], listen))


ANSWERS = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"a":"bcd"}',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n8;x=y\r\n":"bcd"}\r\n0\r\nA: b\r\n\r\n',
    b"HTTP/1.1 429 Slow\r\nRetry-After: 5\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 503 Busy\r\nRetry-After: Fri, 27 Nov 2026 10:00:00 GMT\r\nConnection: close\r\n\r\nlater",
    b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n",
)
MOST = 1000
"""Bytes of an answer that are read."""


def answers(data: bytes) -> None:
    """As a broker's answer, cut anywhere: one of no more than `MOST` bytes, or a lost connection."""

    async def ask(broker: RawBroker) -> None:
        limits = Limits(connect=30.0, read=30.0, whole=30.0, answer_bytes=MOST)
        transport = Transport(broker.url, "amk_0123456789", limits=limits)
        try:
            with suppress(MailboxUnavailable):
                answer = await transport.ask("GET", "/what", tries=1)
                assert 200 <= answer.status < 1000
                assert len(answer.body) <= 3 * MOST, "more than is read"
        finally:
            await transport.close()

    asyncio.run(_at_a_broker("GET /what", _cut(data), ask))


async def _at_a_broker(call: str, parts: Sequence[bytes], talk: object) -> None:
    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async with raw_broker() as broker:
        broker.on(call, say)
        await talk(broker)  # type: ignore[operator]


def _cut(data: bytes) -> list[bytes]:
    """In up to six pieces, always the same of the same bytes."""
    lot = zlib.crc32(data)
    places = sorted({(lot >> shift) % (len(data) + 1) for shift in range(0, 30, 6)})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if end > start]
