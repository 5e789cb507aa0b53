"""What a broker, or what stands before it, may answer in HTTP: read as it is meant, or told as a lost connection."""

from __future__ import annotations

import asyncio
from enum import Enum

import pytest
from tests.raw_broker import Asked, RawBroker, Rule, drops, raw_broker, resets, says

from agent_mailer.mailbox.amp.answers import Answer, InDoubt, NotSent, TooLarge
from agent_mailer.mailbox.amp.transport import Limits, Transport
from agent_mailer.mailbox.http import Lost, Peer

KEY = "amk_0123456789"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def bytes_of(text: bytes, *, ends: bool = False) -> Rule:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        if ends:
            writer.close()

    return answer


def ask(*rules: Rule, times: int = 1, answer_bytes: int = 1000) -> tuple[list[Answer], RawBroker]:
    async def scene() -> tuple[list[Answer], RawBroker]:
        async with raw_broker() as broker:
            broker.on("POST /what", *rules)
            limits = Limits(connect=30.0, read=30.0, whole=30.0, answer_bytes=answer_bytes)
            transport = Transport(broker.url, KEY, limits=limits)
            try:
                found = [await transport.ask("POST", "/what", content=b"{}", tries=1) for _ in range(times)]
                return found, broker
            finally:
                await transport.close()

    return asyncio.run(scene())


@pytest.mark.parametrize(
    ("text", "ends", "status", "body"),
    [
        (
            CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n",
            False,
            200,
            b"abcde",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\ncontent-length: 2\r\n\r\nok", False, 201, b"ok"),
        (b"HTTP/1.1 204 None\r\n\r\n", False, 204, b""),
        (b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", False, 503, b""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", True, 200, b"to the end"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", True, 200, b"old"),
    ],
)
def test_each_way_of_telling_where_an_answer_ends(text: bytes, *, ends: bool, status: int, body: bytes) -> None:
    found, broker = ask(bytes_of(text, ends=ends), says(200, {"next": True}), times=2)
    assert [(one.status, one.body) for one in found] == [(status, body), (200, b'{"next": true}')]
    assert broker.connections == (2 if ends else 1), "a connection is used again where it lasts"


@pytest.mark.parametrize(
    "rule",
    [
        drops,
        bytes_of(b"", ends=True),
        bytes_of(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", ends=True),
        bytes_of(CHUNKED + b"5\r\nabc", ends=True),
        bytes_of(CHUNKED + b"zz\r\n", ends=True),
        bytes_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", ends=True),
        bytes_of(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ends=True),
        bytes_of(b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", ends=True),
        bytes_of(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ends=True),
        bytes_of(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", ends=True),
    ],
)
def test_what_is_no_whole_answer_leaves_the_request_in_doubt(rule: Rule) -> None:
    with pytest.raises(InDoubt):
        ask(rule)


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"", b"1_0", b"\xb2"])
def test_a_part_whose_size_is_no_number_is_not_waited_for(size: bytes) -> None:
    with pytest.raises(InDoubt) as fault:
        ask(bytes_of(CHUNKED + size + b"\r\n" + b"x" * 5000))
    assert not fault.value.late


def test_more_than_is_read_is_told_with_its_beginning() -> None:
    text = CHUNKED + b"7d0\r\n" + b"x" * 2000 + b"\r\n"
    with pytest.raises(TooLarge) as fault:
        ask(bytes_of(text))
    assert (fault.value.status, fault.value.start[:3]) == (200, b"xxx")


def test_a_field_that_would_be_two_is_not_sent() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            transport = Transport(broker.url, KEY)
            with pytest.raises(NotSent):
                await transport.ask("POST", "/what", headers={"Idempotency-Key": "a\r\nX-API-Key: b"}, tries=1)
            await transport.close()
            assert broker.asked == []

    asyncio.run(scene())


def test_where_nobody_listens_nothing_was_sent() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            url = broker.url
        transport = Transport(url, KEY)
        with pytest.raises(NotSent):
            await transport.ask("POST", "/what", tries=1)
        await transport.close()

    asyncio.run(scene())


def test_a_password_in_the_url_is_shown_to_the_broker() -> None:
    async def scene() -> str:
        async with raw_broker() as broker:
            broker.on("POST /what", says(200, {}))
            transport = Transport(broker.url.replace("//", "//ann:secret@"), KEY)
            assert (await transport.ask("POST", "/what", content=b"{}", tries=1)).ok
            await transport.close()
            return broker.asked[0].headers["authorization"]

    assert asyncio.run(scene()).startswith("Basic ")


class Way(Enum):
    """By which a server is asked."""

    WIRE = "as most brokers are"
    CLIENT = "with a password in its URL, as with TLS or a proxy"
    STREAM = "for arrivals"
    PEER = "at a server of another kind"

    async def status(self, url: str) -> int:
        if self is Way.PEER:
            return (await Peer(url, {"Authorization": f"Bearer {KEY}"}).ask("GET", "/what", seconds=30.0)).status
        transport = Transport(url.replace("//", "//ann:secret@") if self is Way.CLIENT else url, KEY)
        try:
            if self is Way.STREAM:
                async with transport.listen("/what", query={}, headers={}, silence=30.0) as response:
                    return response.status_code
            return (await transport.ask("GET", "/what", tries=1)).status
        finally:
            await transport.close()


@pytest.mark.parametrize("way", Way)
def test_wherever_a_server_sends_us_nobody_there_is_shown_the_key(way: Way) -> None:
    async def scene() -> None:
        async with raw_broker() as broker, raw_broker() as elsewhere:
            broker.on("GET /what", says(307, b"", headers={"Location": f"{elsewhere.url}/what"}))
            assert await way.status(broker.url) == 307
            assert elsewhere.asked == []

    asyncio.run(scene())


@pytest.mark.parametrize("rule", [drops, resets])
@pytest.mark.parametrize("way", [Way.WIRE, Way.CLIENT, Way.PEER])
def test_by_whatever_way_it_went_a_request_whose_answer_was_cut_off_is_in_doubt(way: Way, rule: Rule) -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            broker.on("GET /what", rule)
            with pytest.raises((InDoubt, Lost)) as fault:
                await way.status(broker.url)
            lost = fault.value
            assert isinstance(lost, InDoubt) or (isinstance(lost, Lost) and lost.in_doubt)

    asyncio.run(scene())
