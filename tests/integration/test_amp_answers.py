"""Every answer a broker, or something before it, may give: what the adapter makes of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.desk import SOON
from tests.raw_broker import (
    ADDRESS,
    AGENT,
    AGENT_ID,
    OURS,
    Asked,
    RawBroker,
    Rule,
    drops,
    hangs,
    html,
    message,
    page,
    raw_broker,
    says,
)
from tests.sizes import LONG

from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, ConfigFault, RefusedFault
from agent_mailer.mailbox.amp.adapter import AmpMailbox, Rhythm
from agent_mailer.mailbox.amp.client import RESERVATIONS, Credentials
from agent_mailer.mailbox.amp.link import Link
from agent_mailer.mailbox.amp.reservations import BrokerReservations
from agent_mailer.mailbox.amp.transport import Limits
from agent_mailer.mailbox.port import (
    Action,
    Delivered,
    Draft,
    Gone,
    MailboxRefused,
    MailboxUnavailable,
    Message,
    Outgoing,
    Progress,
    Refused,
    Stage,
    Unknown,
)
from agent_mailer.reservations.leases import Leases

KEY = "amk_" + "5ec7e7" * 10
INBOX = f"GET /messages/inbox/{ADDRESS}"
SEND = "POST /messages/send"
THREAD = "GET /messages/thread/t1"
QUICK = Limits(connect=10.0, read=10.0, whole=20.0, answer_bytes=1024 * 1024)
IMPATIENT = msgspec.structs.replace(QUICK, read=2.0)
"""Where an answer never comes: what does come has this long, too."""


class Place:
    """An opened mailbox before a broker that answers as told."""

    def __init__(self, broker: RawBroker, limits: Limits = QUICK) -> None:
        self.broker = broker
        self._limits = limits
        self.credentials = Credentials(broker.url, AGENT_ID, KEY)
        self.mailbox = self.make()

    def make(self, **options: Any) -> AmpMailbox:
        options.setdefault("limits", self._limits)
        return AmpMailbox(lambda: self.credentials, ADDRESS, watcher="w1", under_way=0.0, **options)

    def item(self, key: str = "k", action: Action = Action.SEND) -> Outgoing:
        draft = Draft(key, action, time.time(), to=("bob@u.d",), subject="s", body="b")
        composed = self.mailbox.compose(draft, None, "turn")
        assert not isinstance(composed, Refused)
        return composed[0]


def play(
    scene: Callable[[Place], Awaitable[None]], *, ours: bool = False, opened: bool = True, limits: Limits = QUICK
) -> None:
    async def whole() -> None:
        async with raw_broker() as broker:
            if ours:
                broker.on("GET /.well-known/agent-mailer", says(200, OURS))
                broker.on(INBOX, says(200, {"messages": [], "cursor": 0, "more": False}))
                broker.on(f"{INBOX}/stream", says(503, {"detail": "no"}))
            place = Place(broker, limits)
            if opened:
                await place.mailbox.open()
            try:
                await scene(place)
            finally:
                await place.mailbox.close()

    asyncio.run(whole())


def limits_of(rule: Rule) -> Limits:
    return IMPATIENT if rule is hangs else QUICK


def heads(mail: dict[str, Any], cursors: list[int]) -> Rule:
    """The mail, to who asks for all anew, and nothing to who asks for more; `cursors` ends with that of now."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        found = [mail] if "heads" in asked.query else []
        await says(200, {"messages": found, "cursor": cursors[-1], "more": False})(asked, writer)

    return answer


def sent(item: Outgoing, **changes: str) -> dict[str, str]:
    return {"id": item.id, "thread_id": item.thread, **changes}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_at_start_a_refused_key_or_agent_ends_it(status: int) -> None:
    async def scene(at: Place) -> None:
        at.broker.on(f"GET /agents/{AGENT_ID}", says(status, {"detail": "Agent not found"}))
        with pytest.raises(RefusedFault, match=f"{status}") as raised:
            await at.mailbox.open()
        assert raised.value.fix
        assert KEY not in repr(raised.value) + str(raised.value.__cause__) + repr(at.credentials)

    play(scene, opened=False)


def test_at_start_another_address_ends_it() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(f"GET /agents/{AGENT_ID}", says(200, {**AGENT, "address": "carol@u.d"}))
        with pytest.raises(ConfigFault, match=r"carol@u\.d"):
            await at.mailbox.open()

    play(scene, opened=False)


@pytest.mark.parametrize(
    "rule",
    [
        says(500, b"Internal Server Error", kind="text/plain"),
        html(502),
        html(404),
        html(403),
        html(200),
        says(200, b'{"id": "x", "addr'),
        says(200, [1]),
        says(429, {"detail": "slow"}),
        says(302, b"", headers={"Location": "http://elsewhere"}),
        drops,
        hangs,
    ],
    ids=["500", "502", "404-html", "403-html", "html", "cut", "list", "429", "302", "drop", "hang"],
)
def test_at_start_anything_else_is_waited_for(rule: Rule) -> None:
    async def scene(at: Place) -> None:
        at.broker.on(f"GET /agents/{AGENT_ID}", rule)
        with pytest.raises(MailboxUnavailable) as raised:
            await at.mailbox.open()
        assert at.broker.url in raised.value.message
        assert raised.value.fix
        at.broker.on(f"GET /agents/{AGENT_ID}", says(200, AGENT))
        await at.mailbox.open()

    play(scene, opened=False, limits=limits_of(rule))


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_broker_that_cannot_say_now_what_it_can_do_is_taken_for_no_other(status: int) -> None:
    async def scene(at: Place) -> None:
        at.broker.on("GET /.well-known/agent-mailer", says(status, {"detail": "later"}), says(200, OURS))
        with pytest.raises(MailboxUnavailable):
            await at.mailbox.asked()
        assert (await at.mailbox.asked()).recognises_delivery

    play(scene, opened=False)


def test_at_start_a_broker_that_is_down_is_waited_for() -> None:
    async def whole() -> None:
        broker = RawBroker()
        await broker.start()
        await broker.stop()
        mailbox = Place(broker).mailbox
        with pytest.raises(MailboxUnavailable, match=broker.url):
            await mailbox.open()
        await broker.start(int(broker.url.rpartition(":")[2]))
        await mailbox.open()
        await mailbox.close()
        await broker.stop()

    asyncio.run(whole())


def test_a_name_that_nobody_knows_is_waited_for() -> None:
    async def whole() -> None:
        credentials = Credentials("http://someone:secret@no-such-host.invalid:1/amp", AGENT_ID, KEY)
        mailbox = AmpMailbox(lambda: credentials, ADDRESS, limits=QUICK)
        with pytest.raises(MailboxUnavailable) as raised:
            await mailbox.open()
        assert "http://no-such-host.invalid:1/amp/agents/" in raised.value.message
        assert "secret" not in raised.value.message

    asyncio.run(whole())


@pytest.mark.parametrize(
    "url", ["", "localhost:9800", "ftp://x", "http://", "http://x:y", "http://x/?a=1", "http://[x"]
)
def test_a_url_that_is_none_is_told_at_once(url: str) -> None:
    with pytest.raises(ConfigFault, match="broker_url"):
        AmpMailbox(lambda: Credentials(url, AGENT_ID, KEY), ADDRESS)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "ä"])
def test_a_key_that_is_none_is_told_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigFault, match="api_key") as raised:
        AmpMailbox(lambda: Credentials("http://x", AGENT_ID, key), ADDRESS)
    assert not key or key not in raised.value.message


LATER: list[tuple[str, Rule]] = [
    ("500", says(500, b"Internal Server Error", kind="text/plain")),
    ("html", html(200)),
    ("cut", says(200, b'{"messages": [{"id": "m1"')),
    ("wrong type", says(200, [message(1)])),
    ("no total", says(200, {"messages": []})),
    ("empty", says(200, b"")),
    ("404-html", html(404)),
    ("drop", drops),
    ("hang", hangs),
]


@pytest.mark.parametrize("rule", [rule for _, rule in LATER], ids=[name for name, _ in LATER])
def test_one_bad_listing_is_trouble_and_the_next_is_not(rule: Rule) -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, rule)
        with pytest.raises(MailboxUnavailable) as raised:
            await at.mailbox.pending(10)
        assert not isinstance(raised.value, MailboxRefused)
        assert KEY not in raised.value.message
        at.broker.on(INBOX, page(message(1)))
        assert [one.id for one in (await at.mailbox.pending(10)).envelopes] == ["m1"]

    play(scene, limits=limits_of(rule))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_in_the_middle_a_refusal_is_told_until_the_configuration_mends_it(status: int) -> None:
    async def scene(at: Place) -> None:
        async def inbox(asked: Asked, writer: asyncio.StreamWriter) -> None:
            good = asked.headers["x-api-key"] == "amk_new"
            await (page(message(1)) if good else says(status, {"detail": "no"}))(asked, writer)

        at.broker.on(INBOX, inbox)
        for _ in range(2):
            with pytest.raises(MailboxRefused):
                await at.mailbox.pending(10)
        at.credentials = Credentials(at.broker.url, AGENT_ID, "amk_new")
        assert len((await at.mailbox.pending(10)).envelopes) == 1

    play(scene)


@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("status", [429, 503, 408])
@LONG
def test_a_pause_that_the_broker_asks_for_is_kept(status: int, dated: bool) -> None:
    async def scene(at: Place) -> None:
        wait = formatdate(time.time() + 3, usegmt=True) if dated else "2"
        at.broker.on(INBOX, says(status, {"detail": "slow"}, headers={"Retry-After": wait}), page(message(1)))
        with pytest.raises(MailboxUnavailable):
            await at.mailbox.pending(10)
        asked = len(at.broker.asked)
        with pytest.raises(MailboxUnavailable, match="pause"):
            await at.mailbox.pending(10)
        assert len(at.broker.asked) == asked
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(MailboxUnavailable):
                assert len((await at.mailbox.pending(10)).envelopes) == 1
                return
            await asyncio.sleep(0.05)
        raise AssertionError("it never asked again")

    play(scene)


def test_a_large_answer_is_not_read_whole() -> None:
    async def scene(at: Place) -> None:
        most = 0

        async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
            nonlocal most
            written = 0
            writer.write(b'HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n{"messages":[{"id":"m1","body":"')
            with suppress(ConnectionError):
                while written < 60_000_000:
                    writer.write(b"x" * 65536)
                    await writer.drain()
                    written += 65536
                    most = max(most, written)
            writer.close()

        async def inbox(asked: Asked, writer: asyncio.StreamWriter) -> None:
            beyond = int(asked.query["page"]) > 1000
            await (page(total=1) if beyond else endless)(asked, writer)

        at.broker.on(INBOX, inbox)
        at.broker.on("PATCH /messages/m1/read", says(200, message(1)))
        listing = await at.mailbox.pending(10)
        assert [item.locator for item in listing.unreadable] == ["id:m1"]
        assert most < 40_000_000
        await at.mailbox.reject(listing.unreadable[0])
        assert (await at.mailbox.pending(10)).unreadable == ()
        assert len(at.broker.requests("PATCH /messages/m1/read")) == 1

    play(scene)


@LONG
def test_a_trickle_ends_after_the_whole_time() -> None:
    async def scene(at: Place) -> None:
        async def trickle(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

        at.broker.on(INBOX, trickle)
        began = time.monotonic()
        with pytest.raises(MailboxUnavailable, match="in time"):
            await at.mailbox.pending(10)
        assert time.monotonic() - began < SOON

    play(scene)


def test_one_malformed_item_is_set_aside_and_the_others_proceed() -> None:
    async def scene(at: Place) -> None:
        bad = {"id": None, "body": "x"}
        at.broker.on(INBOX, page(message(2), bad, message(3, created_at="x"), message(1), total=4))
        at.broker.on("PATCH /messages/m3/read", says(404, {"detail": "Message not found"}))
        listing = await at.mailbox.pending(10)
        assert [one.id for one in listing.envelopes] == ["m1", "m2"]
        assert len(listing.unreadable) == 2
        for item in listing.unreadable:
            await at.mailbox.reject(item)
            await at.mailbox.reject(item)
        listing = await at.mailbox.pending(10)
        assert ([one.id for one in listing.envelopes], listing.unreadable) == (["m1", "m2"], ())

    play(scene)


def test_what_is_no_message_is_listed_once_and_anew_when_somebody_asks() -> None:
    async def scene(at: Place) -> None:
        cursors = [1]
        at.broker.on(INBOX, heads(message(1, cursor=1, created_at="never"), cursors))
        for mark in ("read", "unread"):
            at.broker.on(f"PATCH /messages/m1/{mark}", says(200, {}))
        (item,) = (await at.mailbox.pending(10)).unreadable
        await at.mailbox.reject(item)
        cursors.append(0)  # put back from a copy, in which nobody has read it
        assert (await at.mailbox.pending(10)).unreadable == ()
        assert await at.mailbox.ask_again(item.locator) is None
        assert (await at.mailbox.pending(10)).unreadable == (item,)

    play(scene, ours=True)


def test_a_pooled_connection_that_died_is_no_trouble() -> None:
    async def scene(at: Place) -> None:
        async def last(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await page(message(1))(asked, writer)
            writer.close()

        at.broker.on(INBOX, last)
        for _ in range(3):
            assert len((await at.mailbox.pending(10)).envelopes) == 1

    play(scene)


def test_a_connection_lost_before_the_answer_is_tried_again() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, drops, drops, page(message(1)))
        assert len((await at.mailbox.pending(10)).envelopes) == 1

    play(scene)


GONE = [says(404, {"detail": "Message not found"}), says(403, {"detail": "not yours"})]


@pytest.mark.parametrize("rule", GONE, ids=["404", "403"])
def test_marking_read_what_is_gone_is_done(rule: Rule) -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, page(message(1)))
        at.broker.on(THREAD, says(200, [message(1)]))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        assert isinstance(await at.mailbox.claim(envelope), Message)
        assert (await at.mailbox.pending(10)).envelopes == ()
        at.broker.on("PATCH /messages/m1/read", says(500, {"detail": "x"}), html(404), rule)
        for _ in range(2):
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.done(envelope)
        await at.mailbox.done(envelope)

    play(scene)


def test_what_is_set_aside_at_a_broker_that_keeps_no_mark_is_listed_no_more() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, page(message(1), message(2)))
        at.broker.on("PATCH /messages/m1/read", says(200, {}))
        first, second = (await at.mailbox.pending(10)).envelopes
        await at.mailbox.set_aside(first)
        assert (await at.mailbox.pending(10)).envelopes == (second,)

    play(scene)


def test_what_is_read_by_somebody_else_is_gone() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, page(message(1)))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        for rule in (says(500, {}), html(404), says(429, {"detail": "later"})):
            at.broker.on(THREAD, rule)
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.claim(envelope)
        at.broker.on(THREAD, says(200, [message(1, is_read=True)]))
        assert isinstance(await at.mailbox.claim(envelope), Gone)
        assert isinstance(await at.mailbox.claim(envelope, again=True), Message)
        at.broker.on(THREAD, says(404, {"detail": "Thread not found"}))
        assert isinstance(await at.mailbox.claim(envelope, again=True), Gone)
        assert await at.mailbox.thread("t1") == []

    play(scene)


def test_a_message_in_a_thread_too_large_to_read_is_found_in_the_pages() -> None:
    async def scene(at: Place) -> None:
        mails = [message(number, body="x" * 300_000) for number in range(5, 0, -1)]

        async def pages(asked: Asked, writer: asyncio.StreamWriter) -> None:
            size, number = int(asked.query["page_size"]), int(asked.query["page"])
            await page(*mails[(number - 1) * size : number * size], total=len(mails))(asked, writer)

        at.broker.on(INBOX, pages)
        at.broker.on(THREAD, says(200, mails))
        envelopes = (await at.mailbox.pending(10)).envelopes
        assert [one.id for one in envelopes] == ["m1", "m2", "m3", "m4", "m5"]
        claimed = await at.mailbox.claim(envelopes[0])
        assert isinstance(claimed, Message)
        assert len(claimed.body) == 300_000

    play(scene)


def test_a_claim_by_its_answers() -> None:
    async def scene(at: Place) -> None:
        mail = message(1, cursor=1)
        at.broker.on(INBOX, says(200, {"messages": [mail], "cursor": 1, "more": False}))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        claim = "POST /messages/m1/claim"
        for rule in (
            says(409, {"detail": "read", "reason": "read"}),
            says(409, {"detail": "claimed", "reason": "claimed"}),
            says(404, {"detail": "Message not found"}),
            says(200, {"message": mail, "claimed": "before"}),
        ):
            at.broker.on(claim, rule)
            gone = await at.mailbox.claim(envelope)
            assert isinstance(gone, Gone)
            assert not gone.elsewhere
        assert isinstance(await at.mailbox.claim(envelope, again=True), Message)
        at.broker.on(claim, says(409, {"detail": "another has it", "reason": "taken"}))
        assert await at.mailbox.claim(envelope, again=True) == Gone("another has it", elsewhere=True)
        at.broker.on(
            claim, says(409, {"detail": "x", "reason": "watched", "watcher": {"name": "hal", "since": "noon"}})
        )
        with pytest.raises(BusyFault, match="hal since noon"):
            await at.mailbox.claim(envelope)
        stale = says(409, {"detail": "watched anew", "reason": "stale"})
        for rule in (says(500, {}), html(200), says(200, {"message": {}, "claimed": "now"}), stale):
            at.broker.on(claim, rule)
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.claim(envelope)
        # The answer that was lost said that it is ours.
        at.broker.on(claim, drops, says(200, {"message": mail, "claimed": "before"}))
        assert isinstance(await at.mailbox.claim(envelope), Message)
        assert at.broker.asked[-1].headers["x-agent-mailer-watcher"] == "w1"

    play(scene, ours=True)


def test_what_could_not_be_claimed_is_listed_again_also_where_a_look_has_left_it_out_meanwhile() -> None:
    async def scene(at: Place) -> None:
        async def is_looked_at_meanwhile(asked: Asked, writer: asyncio.StreamWriter) -> None:
            assert (await at.mailbox.pending(10)).envelopes == ()
            await says(500, {})(asked, writer)

        cursors = [1]
        at.broker.on(INBOX, heads(message(1, cursor=1), cursors))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        cursors.append(0)  # put back from a copy: all is asked for anew
        at.broker.on("POST /messages/m1/claim", is_looked_at_meanwhile)
        with pytest.raises(MailboxUnavailable):
            await at.mailbox.claim(envelope)
        assert (await at.mailbox.pending(10)).envelopes == (envelope,)

    play(scene, ours=True)


def test_a_send_by_its_answers() -> None:
    async def scene(at: Place) -> None:
        item = at.item()
        at.broker.on(SEND, says(200, sent(item)))
        assert await at.mailbox.deliver(item) == Delivered()
        at.broker.on(SEND, says(200, [{"id": "other", "thread_id": "t9"}]))
        assert await at.mailbox.deliver(item) == Delivered(id="other", thread="t9")
        for status in (400, 409, 413, 422):
            at.broker.on(SEND, says(status, {"detail": f"bad\n{status}"}))
            refused = await at.mailbox.deliver(item)
            assert isinstance(refused, Refused)
            assert f"bad\\n{status}" in refused.why
        for status in (403, 404):
            at.broker.on(SEND, says(status, {"detail": "Recipient address 'bob@u.d' not found"}))
            assert isinstance(await at.mailbox.deliver(item), Refused)
        broken = (says(500, b"Internal Server Error"), html(502), html(200), says(200, b'{"id":'), says(200, []))
        for rule in (*broken, says(200, b" " * (QUICK.answer_bytes + 1))):
            at.broker.on(SEND, rule)
            assert isinstance(await at.mailbox.deliver(item), Unknown)
        for rule in (html(400), html(404), says(429, {"detail": "slow"}), says(301, b"")):
            at.broker.on(SEND, rule)
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.deliver(item)
        at.broker.on(SEND, says(401, {"detail": "Invalid API key"}))
        with pytest.raises(MailboxRefused):
            await at.mailbox.deliver(item)
        at.broker.on(SEND, says(403, {"detail": "not your agent"}))
        at.broker.on(f"GET /agents/{AGENT_ID}", says(404, {"detail": "Agent not found"}))
        with pytest.raises(MailboxRefused):
            await at.mailbox.deliver(item)

    play(scene)


@pytest.mark.parametrize("rule", [drops, hangs], ids=["drop", "hang"])
def test_a_send_whose_answer_is_lost_is_in_doubt_and_sent_once(rule: Rule) -> None:
    async def scene(at: Place) -> None:
        at.broker.on(SEND, rule)
        assert isinstance(await at.mailbox.deliver(at.item()), Unknown)
        assert len(at.broker.requests(SEND)) == 1

    play(scene, limits=limits_of(rule))


def test_where_a_second_delivery_is_recognised_it_is_tried_again_at_once() -> None:
    async def scene(at: Place) -> None:
        item = at.item()
        at.broker.on(SEND, drops, drops, says(200, sent(item)))
        assert await at.mailbox.deliver(item) == Delivered()
        keys = {one.headers["idempotency-key"] for one in at.broker.requests(SEND)}
        assert len(keys) == 1
        at.broker.on(SEND, drops, says(409, {"detail": "another request"}))
        assert isinstance(await at.mailbox.deliver(item), Refused)

    play(scene, ours=True)


@pytest.mark.parametrize("ours", [True, False], ids=["by a plain one", "by one of ours"])
def test_a_broker_replaced_meanwhile_gets_nothing_twice(*, ours: bool) -> None:
    async def scene(at: Place) -> None:
        now = says(404, {"detail": "Not Found"}) if ours else says(200, OURS)
        at.broker.on("GET /.well-known/agent-mailer", now)
        at.broker.on(SEND, drops)
        assert isinstance(await at.mailbox.deliver(at.item()), Unknown)
        assert len(at.broker.requests(SEND)) == 1
        assert at.mailbox.capabilities.recognises_delivery is not ours

    play(scene, ours=ours)


def test_looking_in_the_thread_and_in_the_recipients_newest_page() -> None:
    async def scene(at: Place) -> None:
        item = at.item()
        now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        mail = message(7, from_agent=ADDRESS, to_agent="bob@u.d", subject="s", body="b", created_at=now)
        at.broker.on("GET /agents", says(200, [AGENT, {"id": "bob", "address": "bob@u.d"}]))
        newest = "GET /messages/inbox/bob@u.d"
        at.broker.on(newest, page(message(8), mail))
        assert await at.mailbox.look(item)
        asked = at.broker.requests(newest)[-1]
        assert (asked.query["agent_id"], asked.query["all"]) == ("bob", "true")
        for other in (
            {"body": "c"},
            {"subject": "S"},
            {"from_agent": "carol@u.d"},
            {"to_agent": "carol@u.d"},
            {"created_at": "2020-01-01T00:00:00+00:00"},
        ):
            at.broker.on(newest, page({**mail, **other}))
            assert not await at.mailbox.look(item)
        at.broker.on(newest, says(403, {"detail": "not yours"}))
        assert not await at.mailbox.look(item)
        at.broker.on(newest, says(500, b"x"))
        with pytest.raises(MailboxUnavailable):
            await at.mailbox.look(item)

    play(scene)


def test_looking_for_a_reply_and_a_forward() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, page(message(1)))
        at.broker.on(THREAD, says(200, [message(1)]))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        origin = await at.mailbox.claim(envelope)
        assert isinstance(origin, Message)
        now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        for action, body in ((Action.REPLY, "b"), (Action.FORWARD, "b\n\n----------\n\nFrom: bob")):
            composed = at.mailbox.compose(Draft("k", action, time.time(), to=("bob@u.d",), body="b"), origin, "turn")
            assert not isinstance(composed, Refused)
            subject = "Re: no 1" if action is Action.REPLY else "Fwd: no 1"
            mail = message(
                2,
                from_agent=ADDRESS,
                to_agent="bob@u.d",
                action=action.value,
                subject=subject,
                body=body,
                parent_id="m1",
                created_at=now,
            )
            at.broker.on(THREAD, says(200, [message(1)]))
            assert not await at.mailbox.look(composed[0])
            at.broker.on(THREAD, says(200, [message(1), mail]))
            assert await at.mailbox.look(composed[0])
            for other in ({"parent_id": "m0"}, {"to_agent": "carol@u.d"}):
                at.broker.on(THREAD, says(200, [message(1), {**mail, **other}]))
                assert not await at.mailbox.look(composed[0])

    play(scene)


def test_a_predecessors_request_may_be_under_way() -> None:
    async def scene(at: Place) -> None:
        at.broker.on("GET /agents", says(200, [AGENT]))
        began = time.monotonic()
        mailbox = AmpMailbox(lambda: at.credentials, ADDRESS, limits=QUICK, under_way=0.5)
        assert not await mailbox.look(at.item())
        assert time.monotonic() - began >= 0.5
        at.broker.on(SEND, says(500, b""))
        sent_at = time.monotonic()
        assert isinstance(await mailbox.deliver(at.item()), Unknown)
        assert not await mailbox.look(at.item())
        assert time.monotonic() - sent_at >= 0.5

    play(scene)


def test_looking_at_our_broker() -> None:
    async def scene(at: Place) -> None:
        item = at.item()
        path = f"GET /messages/{item.id}"
        at.broker.on(path, says(404, {"detail": "Message not found"}))
        assert not await at.mailbox.look(item)
        at.broker.on(path, says(200, message(1)))
        assert await at.mailbox.look(item)
        for rule in (html(404), says(404, {"detail": "Not Found"}), says(500, {})):
            at.broker.on(path, rule)
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.look(item)

    play(scene, ours=True)


def test_reading_at_our_broker() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, says(200, {"messages": [message(1, cursor=1)], "cursor": 1, "more": False}))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        path = "GET /messages/m1"
        for rule in (html(404), says(404, {"detail": "Not Found"}), says(500, {}), says(429, {"detail": "later"})):
            at.broker.on(path, rule)
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.read(envelope)
        at.broker.on(path, says(200, message(1)))
        assert isinstance(await at.mailbox.read(envelope), Message)
        at.broker.on(path, says(404, {"detail": "Message not found"}))
        assert isinstance(await at.mailbox.read(envelope), Gone)

    play(scene, ours=True)


def test_how_a_turn_went_is_told_in_order_and_marks_the_message_read() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, says(200, {"messages": [message(1, cursor=1)], "cursor": 1, "more": False}))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        receipts = "POST /messages/m1/receipts"
        at.broker.on(receipts, drops, says(201, {}))
        at.mailbox.report(envelope, Progress("turn-1", Stage.STARTED))
        at.mailbox.report(envelope, Progress("turn-1", Stage.ADOPTED))
        await at.mailbox.done(envelope, Progress("turn-1", Stage.SETTLED, "done", "d" * 700, final=True))
        told = [json.loads(one.body) for one in at.broker.requests(receipts)]
        # That another watcher goes on with it is no news for its sender.
        assert {one["stage"] for one in told} == {"started", "settled"}
        assert told[0]["stage"] == "started"
        assert told[-1] == {
            "stage": "settled",
            "turn_id": "turn-1",
            "outcome": "done",
            "detail": "d" * 600,
            "final": True,
        }
        for rule in (says(409, {"detail": "watched anew", "reason": "stale"}), says(500, {}), html(404)):
            at.broker.on(receipts, rule)
            with pytest.raises(MailboxUnavailable):
                await at.mailbox.done(envelope, Progress("turn-1", Stage.SETTLED))
        assert not at.broker.requests("PATCH /messages/m1/read")
        at.broker.on(receipts, says(422, {"detail": "turn_id"}))
        at.broker.on("PATCH /messages/m1/read", says(200, {}))
        await at.mailbox.done(envelope, Progress("", Stage.SETTLED))
        assert at.broker.requests("PATCH /messages/m1/read")

    play(scene, ours=True)


def test_reports_that_nobody_takes_hold_nothing_up() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, says(200, {"messages": [message(1, cursor=1)], "cursor": 1, "more": False}))
        (envelope,) = (await at.mailbox.pending(10)).envelopes
        at.broker.on("POST /messages/m1/receipts", hangs)
        for number in range(2000):
            at.mailbox.report(envelope, Progress(f"turn-{number}", Stage.STARTED))
        began = time.monotonic()
        await at.mailbox.close()
        assert time.monotonic() - began < SOON

    play(scene, ours=True)


def test_polling_without_a_stream_keeps_its_rhythm() -> None:
    async def scene(at: Place) -> None:
        mailbox = at.make(rhythm=Rhythm(idle=0.2, active=0.05), jitter=lambda: 0.5)
        await mailbox.open()
        await mailbox.wait()
        began = time.monotonic()
        await mailbox.pending(10)
        await mailbox.wait()
        assert 0.15 < time.monotonic() - began < 5
        await mailbox.close()

    play(scene)


def test_contacts_are_those_one_may_write_to() -> None:
    async def scene(at: Place) -> None:
        agents = [
            AGENT,
            {"id": "b", "address": "bob@u.d", "role": "reviewer", "description": "reads\nmuch", "status": "offline"},
            {"id": "c", "address": "carol@u.d", "status": "deleted"},
            {"id": 7},
            {"id": "d", "address": "dan@u.d", "role": None},
        ]
        at.broker.on("GET /agents", says(200, agents))
        assert [(one.address, one.note) for one in await at.mailbox.contacts()] == [
            ("bob@u.d", "reviewer: reads"),
            ("dan@u.d", ""),
        ]
        assert at.broker.requests("GET /agents")[0].query == {"agent_id": AGENT_ID}

    play(scene)


@pytest.mark.parametrize("status", [409, 500])
def test_what_a_broker_does_not_reserve_is_not_had(tmp_path: Path, status: int) -> None:
    async def scene() -> None:
        async with raw_broker() as broker:
            more = {**OURS, "extensions": [RESERVATIONS]}
            broker.on("GET /.well-known/agent-mailer", says(200, more))
            broker.on(f"POST /agents/{AGENT_ID}/reservations", says(status, {"reason": "too_many", "detail": "enough"}))
            clock, project = SystemClock(), str(tmp_path)
            here = Leases(tmp_path / "here", Disk(), clock, project=project, address=ADDRESS)
            link = Link(lambda: Credentials(broker.url, AGENT_ID, KEY), limits=QUICK, clock=clock)
            with pytest.raises(MailboxUnavailable):
                await BrokerReservations(link, here, clock, project=project, by="").take("t", ["src/**"], 60.0)

    asyncio.run(scene())


def test_ids_from_outside_lead_nowhere() -> None:
    async def scene(at: Place) -> None:
        at.broker.on(INBOX, page(message(1, id="..", thread_id=".."), message(2, id="a/../b?x#y", thread_id="t/2")))
        at.broker.on("GET /messages/thread/t/2", says(404, {"detail": "Thread not found"}))
        for envelope in (await at.mailbox.pending(10)).envelopes:
            assert isinstance(await at.mailbox.claim(envelope), Gone)
            await at.mailbox.done(envelope)
        paths = [one.path for one in at.broker.asked if one.method == "PATCH"]
        assert paths == ["/messages/a/../b?x#y/read"]  # as one word: the server here has unquoted it

    play(scene)
