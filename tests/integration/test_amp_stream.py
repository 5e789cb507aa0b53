"""The stream of arrivals: it wakes, it comes back, and a broken one costs no mail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.desk import SOON
from tests.raw_broker import (
    ADDRESS,
    AGENT_ID,
    OURS,
    Asked,
    RawBroker,
    Rule,
    drops,
    hangs,
    html,
    message,
    raw_broker,
    says,
)
from tests.sizes import LONG

from agent_mailer.errors import BusyFault
from agent_mailer.mailbox.amp.adapter import AmpMailbox, Rhythm
from agent_mailer.mailbox.amp.client import Credentials
from agent_mailer.mailbox.amp.transport import Limits
from agent_mailer.mailbox.port import Delivered, MailboxUnavailable, Message, Progress, Stage
from agent_mailer.testing.mailbox_scene import compose

STREAM = f"GET /messages/inbox/{ADDRESS}/stream"
PATIENCE = 60.0


class Street:
    """One broker for the module; every test has an agent of its own."""

    def __init__(self, desk: BrokerDesk, person: Person) -> None:
        self.desk = desk
        self.person = person
        self.number = 0
        self.bob = desk.agent(person, "bob")

    def agent(self) -> dict[str, Any]:
        self.number += 1
        return self.desk.agent(self.person, f"alice{self.number}")

    def mailbox(self, agent: dict[str, Any], watcher: str, **options: Any) -> AmpMailbox:
        credentials = Credentials(self.desk.url, agent["id"], self.person.key)
        return AmpMailbox(
            lambda: credentials, agent["address"], watcher=watcher, watcher_name=f"{watcher} of tests", **options
        )

    async def send(self, agent: dict[str, Any]) -> None:
        await asyncio.to_thread(self.desk.send, self.person, self.bob, agent["address"], body="work")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    with running_broker(tmp_path_factory.mktemp("street")) as desk:
        yield Street(desk, desk.person("someone"))


def test_an_arrival_wakes_at_once_though_no_poll_is_due(street: Street) -> None:
    async def scene() -> None:
        agent = street.agent()
        mailbox = street.mailbox(agent, "w", rhythm=Rhythm(600, 600))
        await mailbox.open()
        for number in range(3):
            await street.send(agent)
            began = time.monotonic()
            while len((await mailbox.pending(10)).envelopes) <= number:
                await asyncio.wait_for(mailbox.wait(), PATIENCE)
            assert time.monotonic() - began < SOON
        await mailbox.close()

    asyncio.run(scene())


def test_a_second_watcher_is_told_who_holds_the_agent(street: Street) -> None:
    async def scene() -> None:
        agent = street.agent()
        first = street.mailbox(agent, "first")
        await first.open()
        with pytest.raises(BusyFault, match="first of tests"):
            await street.mailbox(agent, "second").open()
        await street.send(agent)
        (envelope,) = (await first.pending(10)).envelopes
        with pytest.raises(BusyFault, match="first of tests"):
            await street.mailbox(agent, "second").claim(envelope)
        await first.close()

        async def opens() -> bool:
            try:
                await third.open()
            except BusyFault:
                return False
            return True

        third = street.mailbox(agent, "third")
        deadline = time.monotonic() + PATIENCE
        while not await opens():
            assert time.monotonic() < deadline
        await third.close()

    asyncio.run(scene())


def test_the_same_watcher_takes_over_after_a_crash(street: Street) -> None:
    async def scene() -> None:
        agent = street.agent()
        before, after = street.mailbox(agent, "same"), street.mailbox(agent, "same")
        await before.open()
        await after.open()
        # Two at once under one id are a copy of a workdir: whoever came first claims nothing, is told, and leaves.
        await street.send(agent)
        (envelope,) = (await after.pending(10)).envelopes
        with pytest.raises(MailboxUnavailable, match="watched anew"):
            await before.claim(envelope)
        claimed = await after.claim(envelope)
        assert isinstance(claimed, Message)
        # Nor does it settle, or send: what it has begun is the other's to end, once.
        (item,) = compose(before, after, "answer")
        settled = Progress("turn", Stage.SETTLED, "done", final=True)
        with pytest.raises(MailboxUnavailable, match="watched anew"):
            await before.deliver(item)
        with pytest.raises(MailboxUnavailable, match="watched anew"):
            await before.done(envelope, settled)
        assert [one.id for one in (await after.pending(10)).envelopes] == []
        assert not await after.look(item), "nothing has left"
        assert isinstance(await after.deliver(item), Delivered)
        assert isinstance(await before.deliver(item), Delivered), "it has left: that may be told"
        await after.done(envelope, settled)
        got = (await after.pending(10)).envelopes
        assert [one.id for one in got] == [item.id], "once"
        with pytest.raises(BusyFault, match="watched already"):
            await asyncio.wait_for(_wait_on(before), 60)
        await before.close()
        await after.close()

    asyncio.run(scene())


async def _wait_on(mailbox: AmpMailbox) -> None:
    while True:
        await mailbox.wait()


def event(name: str, number: int) -> bytes:
    data = {"cursor": number, "heartbeat_seconds": 1}
    return f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()


def stream(*parts: bytes, end: bool = True) -> Rule:
    """Server-sent events, then the end or silence."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for part in parts:
            writer.write(part)
        await writer.drain()
        if not end:
            await asyncio.Event().wait()
        writer.close()

    return answer


class Raw:
    def __init__(self, broker: RawBroker, heartbeat: float = 15.0, read: float = 10.0) -> None:
        self.broker = broker
        broker.on("GET /.well-known/agent-mailer", says(200, {**OURS, "heartbeat_seconds": heartbeat}))
        self.listed(0)
        credentials = Credentials(broker.url, AGENT_ID, "amk_x")
        self.mailbox = AmpMailbox(
            lambda: credentials,
            ADDRESS,
            watcher="w1",
            watcher_name="hal, ünder thé desk\n",
            rhythm=Rhythm(0.2, 0.2, net=600),
            limits=Limits(connect=2, read=read),
            jitter=lambda: 0.05,
        )

    def listed(self, count: int) -> None:
        mails = [message(number, cursor=number) for number in range(1, count + 1)]
        self.broker.on(f"GET /messages/inbox/{ADDRESS}", says(200, {"messages": mails, "cursor": count, "more": False}))

    async def until_asked(self, times: int) -> list[Asked]:
        deadline = time.monotonic() + PATIENCE
        while len(found := self.broker.requests(STREAM)) < times:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)
        return found


def test_a_lost_stream_comes_back_where_it_was() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker)
            broker.on(STREAM, stream(event("hello", 3), event("mail", 7)), stream(event("hello", 9), end=False))
            await at.mailbox.open()
            first, second = (await at.until_asked(2))[:2]
            for one in (first, second):
                assert one.headers["x-agent-mailer-watcher"] == "w1"
                assert one.headers["x-agent-mailer-watcher-name"] == "hal, ?nder th? desk?"
            assert "last-event-id" not in first.headers
            assert second.headers["last-event-id"] == "7"
            # What came while nobody listened is looked for in the whole list.
            at.listed(2)
            while len((await at.mailbox.pending(10)).envelopes) != 2:
                await asyncio.wait_for(at.mailbox.wait(), PATIENCE)
            await at.mailbox.close()

    asyncio.run(scene())


BROKEN: dict[str, Rule] = {
    "500": says(500, {"detail": "x"}),
    "html": html(200),
    "404": says(404, {"detail": "Not Found"}),
    "401": says(401, {"detail": "Invalid API key"}),
    "drop": drops,
    "hang": hangs,
    "empty": stream(),
    "endless line": stream(b"data: " + b"x" * 1_000_000),
    "nonsense": stream(b"\xff\xfe\n\n\0\n\nid: x\n\n"),
}


@pytest.mark.parametrize("rule", list(BROKEN.values()), ids=list(BROKEN))
def test_without_a_stream_it_polls_and_goes_on_trying(rule: Rule) -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            # Elsewhere an answer that is late would be a connection lost.
            at = Raw(broker, read=0.5 if rule is hangs else 10.0)
            broker.on(STREAM, rule)
            await at.mailbox.open()
            at.listed(1)
            while not (await at.mailbox.pending(10)).envelopes:
                await asyncio.wait_for(at.mailbox.wait(), PATIENCE)
            await at.until_asked(2)
            await at.mailbox.close()

    asyncio.run(scene())


def test_what_arrived_before_a_look_that_failed_is_looked_for_again() -> None:
    """The stream tells of each arrival once."""

    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker)
            broker.on(STREAM, stream(event("hello", 1), end=False))
            await at.mailbox.open()
            assert (await at.mailbox.pending(10)).envelopes == ()
            broker.on(f"GET /messages/inbox/{ADDRESS}", says(500, {}))
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.pending(10)
            at.listed(1)
            assert len((await at.mailbox.pending(10, woken=True)).envelopes) == 1
            await at.mailbox.close()

    asyncio.run(scene())


def test_what_arrives_while_a_listing_is_under_way_without_it_is_listed_by_the_look_that_it_wakes() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker)
            streams: list[asyncio.StreamWriter] = []

            async def streaming(asked: Asked, writer: asyncio.StreamWriter) -> None:
                streams.append(writer)
                await stream(event("hello", 1), end=False)(asked, writer)

            async def late(asked: Asked, writer: asyncio.StreamWriter) -> None:
                streams[0].write(event("mail", 2))
                await heard
                await says(200, {"messages": [], "cursor": 1, "more": False})(asked, writer)

            broker.on(STREAM, streaming)
            await at.mailbox.open()
            await at.mailbox.pending(10)
            await asyncio.wait_for(at.mailbox.wait(), PATIENCE)
            heard = asyncio.create_task(at.mailbox.wait())
            broker.on(f"GET /messages/inbox/{ADDRESS}", late)
            assert (await asyncio.wait_for(at.mailbox.pending(10), PATIENCE)).envelopes == ()
            at.listed(1)
            assert len((await at.mailbox.pending(10, woken=True)).envelopes) == 1
            await at.mailbox.close()

    asyncio.run(scene())


def test_a_stream_that_has_fallen_silent_is_given_up() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker, heartbeat=0.1)
            broker.on(STREAM, stream(event("hello", 1), end=False))
            await at.mailbox.open()
            await at.until_asked(3)
            await at.mailbox.close()

    asyncio.run(scene())


@LONG
def test_heartbeats_keep_it() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker, heartbeat=0.2)
            beats = 0
            enough = asyncio.Event()

            async def beating(_: Asked, writer: asyncio.StreamWriter) -> None:
                nonlocal beats
                writer.write(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\n" + event("hello", 1))
                while True:
                    writer.write(b": ping\n\n")
                    await writer.drain()
                    beats += 1
                    if beats > 15:
                        enough.set()
                    await asyncio.sleep(0.1)

            broker.on(STREAM, beating)
            await at.mailbox.open()
            await asyncio.wait_for(enough.wait(), PATIENCE)
            assert len(broker.requests(STREAM)) == 1
            await at.mailbox.close()

    asyncio.run(scene())


def test_a_watcher_that_takes_the_agent_later_ends_the_waiting() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker)
            held = says(409, {"detail": "x", "watcher": {"name": "another\x1b[31m", "since": "noon"}})
            broker.on(STREAM, stream(event("hello", 3)), held)
            await at.mailbox.open()

            async def wait_on() -> None:
                while True:
                    await at.mailbox.wait()

            with pytest.raises(BusyFault, match=r"another\\x1b\[31m since noon"):
                await asyncio.wait_for(wait_on(), PATIENCE)
            await at.mailbox.close()

    asyncio.run(scene())


def test_a_broker_that_gains_the_extensions_is_noticed() -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            at = Raw(broker)
            broker.on("GET /.well-known/agent-mailer", says(404, {"detail": "Not Found"}))
            broker.on(f"GET /messages/inbox/{ADDRESS}", says(200, {"messages": [], "total": 0}))
            await at.mailbox.open()
            await at.mailbox.pending(10)
            assert not at.mailbox.capabilities.pushes
            # It restarts as another version: one connection is lost on the way.
            broker.on("GET /.well-known/agent-mailer", says(200, OURS))
            empty = says(200, {"messages": [], "total": 0, "cursor": 0, "more": False})
            broker.on(f"GET /messages/inbox/{ADDRESS}", drops, empty)
            broker.on(STREAM, stream(event("hello", 0), end=False))
            await at.mailbox.pending(10)
            await at.mailbox.pending(10)
            assert at.mailbox.capabilities.pushes
            await at.until_asked(1)
            await at.mailbox.close()

    asyncio.run(scene())
