"""What is Agent Relay's own: claims and leases, sessions, tasks, pairs, doubtful sends, and servers that are none."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.clocks import StoppedClock
from tests.desk import Desk
from tests.fake_relay import FakeServer, running
from tests.refusing import On, Refusing
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.at_server import person_of
from agent_mailer.clock import Clock
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, ConfigFault, RefusedFault
from agent_mailer.mailbox.port import (
    Action,
    Delivered,
    Draft,
    Gone,
    MailboxUnavailable,
    Message,
    Outgoing,
    Presence,
    Priority,
    Progress,
    Refused,
    Stage,
    Unknown,
)
from agent_mailer.mailbox.relay import inbox
from agent_mailer.mailbox.relay.adapter import RelayMailbox, Rhythm
from agent_mailer.mailbox.relay.claims import Claims
from agent_mailer.mailbox.relay.inbox import TRIES
from agent_mailer.mailbox.relay.reader import Row
from agent_mailer.mailbox.relay.seen import Seen
from agent_mailer.mailbox.relay.server import Server
from agent_mailer.mailbox.relay.session import Account, Session, Standing
from agent_mailer.mailbox.relay.tending import Tending
from agent_mailer.people.server import mail_at
from agent_mailer.testing.mailbox_scene import only, waiting


class Town:
    """A server, and whoever lives there."""

    def __init__(self, url: str, fake: FakeServer, base: Path) -> None:
        self.url, self.fake, self.base = url, fake, base

    def box(
        self,
        name: str = "coder",
        *,
        token: str = "",
        rhythm: Rhythm | None = None,
        under_way: float = 0.0,
        clock: Clock | None = None,
        **more: object,
    ) -> RelayMailbox:
        account = Account(self.url, name, token, **{"caps": ("review",), "tags": ("back",), **more})  # type: ignore[arg-type]
        rhythm = rhythm or Rhythm(0.2, 0.1)
        seen = self.base / f"{name}.json"
        return RelayMailbox(account, seen, Disk(), rhythm=rhythm, under_way=under_way, clock=clock)

    def write(self, to: str, body: str = "work", **more: object) -> int:
        with self.fake.held():
            return self.fake.write("other", to, body=body, **more)

    def row(self, number: int) -> dict[str, object]:
        return dict(self.fake.asked("select * from messages where id = ?", (number,))[0])


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with running(tmp_path / "base") as (url, fake):
        yield Town(url, fake, tmp_path)


def draft(key: str, body: str = "work", to: str = "coder", priority: Priority | None = None) -> Draft:
    return Draft(key, Action.SEND, 1_790_000_000.0, to=(to,), subject="s", body=body, priority=priority)


def item(box: RelayMailbox, key: str, to: str = "coder") -> Outgoing:
    return only(box.compose(draft(key, to=to), None, "turn-1"))


def answer_to(box: RelayMailbox, message: Message) -> Outgoing:
    return only(box.compose(Draft("a", Action.REPLY, 1_790_000_001.0, body="42"), message, "turn-1"))


async def seen_by(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, why
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("status", "refused"), [*((one, True) for one in (400, 413, 415, 422)), *((one, False) for one in (408, 429, 503))]
)
def test_a_server_that_cannot_take_it_now_has_not_refused_it(town: Town, status: int, refused: bool) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            answer = item(box, "k")
            town.fake.fault = lambda call: (status, b"{}") if call == "POST /messages" else None
            assert isinstance(await box.deliver(answer), Refused if refused else Unknown)
            town.fake.fault = lambda _: None
            assert isinstance(await box.deliver(answer), Delivered)
        finally:
            await box.close()

    asyncio.run(scenario())


def test_mail_to_a_group_is_taken_by_one_and_seen_by_no_other_after_that(town: Town) -> None:
    async def scenario() -> None:
        one, two = town.box("one"), town.box("two")
        await one.open()
        await two.open()
        try:
            number = town.write("cap:review", claimable=True)
            (envelope,), (other,) = await waiting(one), await waiting(two)
            taken = await asyncio.gather(one.claim(envelope), two.claim(other))
            assert [isinstance(message, Message) for message in taken].count(True) == 1
            first, second = (one, two) if isinstance(taken[0], Message) else (two, one)
            assert await waiting(second) == ()
            assert isinstance(await first.claim(envelope, again=True), Message)
            await first.done(envelope)
            with town.fake.held() as base:
                base.execute("update messages set claim_expires_at = 1 where id = ?", (number,))
            assert await waiting(second) == ()
            everybody = town.write("cap:review")
            assert [(await waiting(box))[0].locator for box in (one, two)] == [str(everybody)] * 2
            (for_one,) = await waiting(one)
            assert isinstance(await one.claim(for_one), Message)
            await one.done(for_one)
            assert [[one.locator for one in await waiting(box)] for box in (one, two)] == [[], [str(everybody)]]
        finally:
            await one.close()
            await two.close()

    asyncio.run(scenario())


@LONG  # a lease of a second, which a busy machine may not renew in time
@pytest.mark.parametrize("renews", [True, False])
def test_a_claim_is_renewed_and_where_it_cannot_be_its_answer_is_looked_at_first(town: Town, renews: bool) -> None:
    async def scenario() -> None:
        town.fake.lease, town.fake.renews = 1.0, renews
        one, two = town.box("one"), town.box("two")
        await one.open()
        await two.open()
        try:
            number = town.write("cap:review", claimable=True)
            (envelope,) = await waiting(one)
            message = await one.claim(envelope)
            assert isinstance(message, Message)
            first = town.row(number)["claim_expires_at"]
            if renews:
                await seen_by(lambda: town.row(number)["claim_expires_at"] != first, "no renewal")
                assert await waiting(two) == ()
                assert isinstance(await one.deliver(answer_to(one, message)), Delivered)
                return
            await seen_by(lambda: town.fake.calls.count(f"POST /messages/{number}/claim") > 1, "no renewal is tried")
            with town.fake.held() as base:
                base.execute("update messages set claim_expires_at = 1 where id = ?", (number,))
            (late,) = await waiting(two)
            assert isinstance(await two.claim(late), Message)
            refused = await one.deliver(answer_to(one, message))
            assert isinstance(refused, Refused)
            assert "two" in refused.why
        finally:
            await one.close()
            await two.close()

    asyncio.run(scenario())


def test_a_refusal_that_names_somebody_called_like_a_session_ends_no_watcher(town: Town) -> None:
    async def scenario() -> None:
        one, two = town.box("session-epoch"), town.box("two")
        await one.open()
        await two.open()
        try:
            town.write("cap:review", claimable=True)
            (envelope,), (other,) = await waiting(one), await waiting(two)
            assert isinstance(await one.claim(envelope), Message)
            gone = await two.claim(other)
            assert isinstance(gone, Gone)
            assert gone.elsewhere
            town.write("two")
            (own,) = await waiting(two)
            assert isinstance(await two.claim(own), Message)
        finally:
            await one.close()
            await two.close()

    asyncio.run(scenario())


def test_what_a_server_refuses_to_give_us_is_not_ours_where_it_does_not_say_whose_it_is(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            number = town.write("cap:review", claimable=True)
            (envelope,) = await waiting(box)
            town.fake.says_whose = False
            town.fake.fault = lambda call: (409, b"{}") if call == f"POST /messages/{number}/claim" else None
            gone = await box.claim(envelope)
        finally:
            await box.close()
        assert isinstance(gone, Gone)
        assert "it could not be claimed" in gone.why

    asyncio.run(scenario())


def test_mail_into_a_thread_that_is_named_by_its_first_message_is_in_it(town: Town) -> None:
    async def scenario() -> None:
        box, other = town.box(), town.box("other")
        await other.open()
        try:
            first = town.write("coder")
            into = msgspec.structs.replace(draft("k", to="other"), thread=str(first))
            assert isinstance(await box.deliver(only(box.compose(into, None, "turn-1"))), Delivered)
            assert town.row(first + 1)["reply_to"] == first
        finally:
            await other.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("lease", "due"), [(600.0, 60.0), (30.0, 10.0), (0.1, 0.2)])
def test_a_claim_is_renewed_long_before_it_runs_out(town: Town, lease: float, due: float) -> None:
    """Else another takes it meanwhile, and it is done twice."""

    async def scenario() -> None:
        town.fake.lease = lease
        server = Server(town.url)
        session = Session(server, Account(town.url, "coder"))
        await session.register()
        claims = Claims(server, session, StoppedClock())
        assert isinstance(await claims.take(town.write("tag:back", claimable=True)), Row)
        assert claims.next_due == pytest.approx(due, abs=0.01)

    asyncio.run(scenario())


def test_a_claim_of_ours_that_the_server_does_not_renew_is_ours_still(town: Town) -> None:
    async def scenario() -> None:
        town.fake.renews = False
        server = Server(town.url)
        session = Session(server, Account(town.url, "coder"))
        await session.register()
        claims, number = Claims(server, session, StoppedClock()), town.write("tag:back", claimable=True)
        for _ in range(2):
            assert isinstance(await claims.take(number), Row)
        with town.fake.held() as base:
            base.execute("update messages set claimed_by = 'two'")
        assert await claims.take(number) == Gone("two has claimed it", elsewhere=True)
        assert await claims.whose(number) == "two"
        with town.fake.held() as base:
            base.execute("delete from messages")
        assert await claims.take(number) == Gone("the server has no such message any more")
        assert await claims.whose(number) == ""

    asyncio.run(scenario())


def test_a_claim_that_ran_out_and_that_nobody_took_is_taken_again_before_the_answer(town: Town) -> None:
    async def scenario() -> None:
        town.fake.renews = False
        box = town.box()
        await box.open()
        try:
            number = town.write("tag:back", claimable=True)
            (envelope,) = await waiting(box)
            message = await box.claim(envelope)
            assert isinstance(message, Message)
            with town.fake.held() as base:
                base.execute("update messages set claim_expires_at = 1 where id = ?", (number,))
            assert isinstance(await box.deliver(answer_to(box, message)), Delivered)
            assert town.row(number)["claimed_by"] == "coder"
            with town.fake.held() as base:
                later = int(time.time() + 600) * 1000
                base.execute("update messages set claimed_by = 'two', claim_expires_at = ?", (later,))
            refused = await box.deliver(answer_to(box, message))
            assert isinstance(refused, Refused)
            assert "two" in refused.why
        finally:
            await box.close()

    asyncio.run(scenario())


def test_a_newer_registration_of_the_name_ends_the_older_watcher(town: Town) -> None:
    async def scenario() -> None:
        old, new = town.box(), town.box()
        await old.open()
        try:
            await new.open()
            town.write("coder")
            (envelope,) = await waiting(old)
            with pytest.raises(BusyFault) as caught:
                await old.claim(envelope)
            assert "coder" in caught.value.message
            with pytest.raises(BusyFault):
                await asyncio.wait_for(old.wait(), 20)
            assert isinstance(await new.claim(envelope), Message)
        finally:
            await old.close()
            await new.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "said"), [(409, b"{}"), (409, b'{"error":"not yours any more"}'), (410, b"superseded"), (412, b"epoch")]
)
def test_a_watcher_whose_sign_of_life_is_refused_has_lost_its_name_in_whatever_words(
    town: Town, status: int, said: bytes
) -> None:
    async def scenario() -> None:
        session = Session(Server(town.url), Account(town.url, "coder"))
        await session.register()
        assert await session.beat()
        town.fake.fault = lambda call: (status, said) if call.endswith("/heartbeat") else None
        with pytest.raises(BusyFault):
            await session.beat()
        town.fake.fault = lambda _: None
        with pytest.raises(BusyFault):
            await session.beat()
        await session.tell(Standing.IDLE)
        assert not any(call.startswith("PATCH") for call in town.fake.calls)

    asyncio.run(scenario())


def test_who_was_pruned_registers_again_and_loses_no_mail(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            with town.fake.held() as base:
                base.execute("delete from agents")
            town.write("coder")
            (envelope,) = await waiting(box)
            assert isinstance(await box.claim(envelope), Message)
            assert await box.registered() is not None
        finally:
            await box.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("again", [Stage.STARTED, Stage.ADOPTED])
def test_others_see_whether_it_works_and_when_it_is_gone(town: Town, again: Stage) -> None:
    def status() -> object:
        return town.fake.asked("select status from agents where id = 'coder'")[0][0]

    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            town.write("coder")
            (envelope,) = await waiting(box)
            await box.claim(envelope)
            box.report(envelope, Progress("t", Stage.STARTED))
            await seen_by(lambda: status() == "busy", "it is not shown as busy")
            box.report(envelope, Progress("t", Stage.SETTLED, "failed", final=False))
            await seen_by(lambda: status() == "idle", "it waits for its next attempt, and is shown as busy")
            box.report(envelope, Progress("t", again))
            await seen_by(lambda: status() == "busy", "it is not shown as busy")
            await box.done(envelope, Progress("t", Stage.SETTLED, "done", final=True))
            await seen_by(lambda: status() == "idle", "it is not shown as idle")
            box.announce(Presence.PAUSED, "limited")
            await seen_by(lambda: status() == "busy", "a pause is not shown")
            box.announce(Presence.ACTIVE)
            await seen_by(lambda: status() == "idle", "its end is not shown")
        finally:
            await box.close()
        assert status() == "offline"

    asyncio.run(scenario())


def test_who_is_paused_is_not_shown_as_idle_when_its_last_turn_ends() -> None:
    clock, server = StoppedClock(1.0), Server("http://127.0.0.1:1", "")
    session = Session(server, Account("http://127.0.0.1:1", "coder", ""))
    tending = Tending(session, Claims(server, session, clock), clock, lambda: None, lambda: None)
    tending.work("1", on=True)
    tending.work("2", on=True)
    tending.take_mail(on=False)
    for message in ("1", "2"):
        tending.work(message, on=False)
        assert tending.standing is Standing.BUSY
    tending.take_mail(on=True)
    assert tending.standing is Standing.IDLE


def test_mail_for_a_name_that_the_server_does_not_know_is_refused_but_an_answer_is_not(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            town.write("coder")
            (envelope,) = await waiting(box)
            message = await box.claim(envelope)
            assert isinstance(message, Message)
            passed_on = Draft("f", Action.FORWARD, 1_790_000_002.0, to=("nobody",), body="for you")
            assert isinstance(await box.deliver(only(box.compose(passed_on, message, "t"))), Refused)
            assert isinstance(await box.deliver(item(box, "s", to="nobody")), Refused)
            assert await town.box("other").registered() is None
            assert isinstance(await box.deliver(answer_to(box, message)), Delivered)
        finally:
            await box.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("outcome", "status"), [("done", "done"), ("failed", "failed"), ("blocked", "in_progress"), (None, "done")]
)
def test_a_task_is_one_message_a_key_and_gets_its_answer_and_its_end(
    town: Town, outcome: str | None, status: str
) -> None:
    """What waits for an answer of its own has not ended; what was answered by hand has."""

    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            number = town.fake.task("cap:review", "5xx rate above 8%", "prod-api:5xx-rate")
            assert town.fake.task("cap:review", "5xx rate above 9%", "prod-api:5xx-rate") == number
            (envelope,) = await waiting(box)
            assert envelope.priority is Priority.URGENT
            message = await box.claim(envelope)
            assert isinstance(message, Message)
            assert "dedupe key prod-api:5xx-rate" in message.labels
            # The integration is no agent, and may be refused as a recipient.
            town.fake.fault = lambda call: (404, b"{}") if call == "POST /messages/" else None
            assert isinstance(await box.deliver(answer_to(box, message)), Delivered)
            await box.done(envelope, None if outcome is None else Progress("t", Stage.SETTLED, outcome, final=True))
            task = town.fake.asked("select * from tasks")[0]
            assert (task["status"], task["result"]) == (status, "42")
        finally:
            await box.close()

    asyncio.run(scenario())


def test_mail_of_ones_own_is_claimed_at_no_server_whatever_its_task_is_called(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            number = town.write("coder", payload={"taskId": "db!1"})
            town.fake.fault = lambda call: (409, b"{}") if call == f"POST /messages/{number}/claim" else None
            (envelope,) = await waiting(box)
            assert isinstance(await box.claim(envelope), Message)
        finally:
            await box.close()

    asyncio.run(scenario())


def test_an_answer_that_has_left_counts_as_such_also_where_its_task_could_not_be_told(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            number = town.write("coder", payload={"taskId": "7"})
            (envelope,) = await waiting(box)
            message = await box.claim(envelope)
            assert isinstance(message, Message)
            town.fake.fault = lambda call: (502, b"{}") if call.startswith("PATCH /tasks/") else None
            assert isinstance(await box.deliver(answer_to(box, message)), Delivered)
            answers = town.fake.asked("select * from messages where reply_to = ?", (number,))
            assert len(answers) == 1
        finally:
            await box.close()

    asyncio.run(scenario())


def test_what_has_arrived_is_found_also_where_all_of_it_would_be_too_large(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        box, other = town.box(), town.box("other")
        await box.open()
        try:
            for _ in range(120):
                town.write("coder")
            sent = item(other, "k1")
            assert isinstance(await other.deliver(sent), Delivered)
            monkeypatch.setattr(other._server.peer, "_most_bytes", 30_000)
            assert await other.look(sent)
        finally:
            await box.close()

    asyncio.run(scenario())


def test_a_pair_is_declined_in_words_and_is_no_task(town: Town) -> None:
    async def scenario() -> None:
        with town.fake.held() as base:
            base.execute("insert into pairs (asker, target, status) values ('other', 'coder', 'pending')")
        town.write("coder", kind="pair.invite", payload={"pairId": "1"})
        number = town.write("coder")
        box = town.box()
        await box.open()
        try:
            town.fake.fault = lambda call: (500, b"{}") if call.startswith("POST /pairs") else None
            assert [one.locator for one in await waiting(box)] == [str(number)]
            town.fake.fault = lambda _: None
            assert [one.locator for one in await waiting(box)] == [str(number)]
            await seen_by(lambda: town.fake.asked("select status from pairs")[0][0] == "rejected", "not declined")
            told = [row["body"] for row in town.fake.asked("select body from messages where target = 'other'")]
            assert len(told) == 1
            assert "works by mail" in told[0]
        finally:
            await box.close()

    asyncio.run(scenario())


@asynccontextmanager
async def one_thread_unknown(town: Town) -> AsyncIterator[tuple[RelayMailbox, int, int, int]]:
    """A box, and the numbers of its mail: taken, an answer whose thread the server fails at, come later."""
    box = town.box()
    await box.open()
    try:
        first = town.write("coder", "first")
        (known,) = await waiting(box)
        await box.claim(known)
        answer = town.write("coder", "an answer", replyTo=first)
        later = town.write("coder", "later")
        town.fake.fault = lambda call: (500, b"{}") if call == f"GET /messages/{answer}/thread" else None
        yield box, first, answer, later
    finally:
        await box.close()


def test_a_thread_that_the_server_fails_at_holds_up_no_other_mail_and_in_the_end_not_its_own(town: Town) -> None:
    async def scenario() -> None:
        async with one_thread_unknown(town) as (box, first, answer, later):
            await box.pending(100)
            for _ in range(TRIES - 2):
                listing = await box.pending(100)
                assert ([one.locator for one in listing.envelopes], listing.more) == ([str(later)], True)
            listing = await box.pending(100)
            assert [(one.locator, one.thread) for one in listing.envelopes] == [
                (str(answer), str(first)),
                (str(later), str(later)),
            ]
            assert not listing.more
            for envelope in listing.envelopes:
                found = await box.claim(envelope)
                assert isinstance(found, Message)
                assert found.envelope.thread == envelope.thread

    asyncio.run(scenario())


def test_a_person_sees_all_his_mail_where_the_server_fails_at_a_thread(town: Town) -> None:
    async def scenario() -> None:
        async with one_thread_unknown(town) as (box, first, answer, later):
            shown = [(one.locator, one.thread, new) for one, _, new in await box.everything()]
            assert shown == [
                (str(first), str(first), False),
                (str(answer), str(first), True),
                (str(later), str(later), True),
            ]

    asyncio.run(scenario())


def test_mail_that_waits_is_not_left_behind_by_what_was_taken_after_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a server that heeds no marks all that is finished is listed again and again."""
    monkeypatch.setattr(inbox, "STALE_ROWS", 1)

    async def scenario() -> None:
        box = town.box()
        numbers = [str(town.write("coder", body)) for body in ("waits", "one", "two", "three")]
        for envelope in (await box.pending(100)).envelopes:
            if envelope.locator != numbers[0]:
                assert isinstance(await box.claim(envelope), Message)
        for _ in range(2):
            assert [one.locator for one in await waiting(box)] == numbers[:1]

    asyncio.run(scenario())


def test_what_is_put_back_is_listed_however_much_was_taken_since(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "STALE_ROWS", 1)

    async def scenario() -> None:
        box = town.box()
        for body in ("one", "two", "three"):
            town.write("coder", body)
        first, *_ = came = (await box.pending(100)).envelopes
        for envelope in came:
            assert isinstance(await box.claim(envelope), Message)
        for _ in range(2):
            assert not await waiting(box)
        assert await box.ask_again(first.id) is None
        assert [one.id for one in await waiting(box)] == [first.id]

    asyncio.run(scenario())


def test_an_event_wakes_and_one_about_agents_does_not(town: Town) -> None:
    async def scenario() -> None:
        box = town.box(rhythm=Rhythm(600, 600))
        await box.open()
        try:
            await seen_by(lambda: box.capabilities.pushes, "no stream")
            await box.pending(10)
            await asyncio.wait_for(box.wait(), 20)
            wait = asyncio.create_task(box.wait())
            await asyncio.sleep(0)
            await town.box("somebody").register()
            await town.box("coder").version()
            await asyncio.sleep(0.05)
            assert not wait.done()
            town.write("coder")
            await asyncio.wait_for(wait, 20)
            assert len(await waiting(box)) == 1
        finally:
            await box.close()

    asyncio.run(scenario())


def test_a_server_without_events_is_looked_at_in_its_rhythm(town: Town) -> None:
    async def scenario() -> None:
        town.fake.streams = False
        box = town.box()
        await box.open()
        try:
            await box.pending(10)
            town.write("coder")
            await asyncio.wait_for(box.wait(), 20)
            await asyncio.wait_for(box.wait(), 20)
            assert len(await waiting(box)) == 1
            assert not box.capabilities.pushes
        finally:
            await box.close()

    asyncio.run(scenario())


def test_a_server_that_heeds_no_mark_gives_nothing_twice(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor in a later life, that asks for all of it again."""
    monkeypatch.setattr(inbox, "STALE_ROWS", 2)

    async def scenario() -> None:
        town.fake.marks_read = False
        box = town.box()
        await box.open()
        try:
            for number in range(5):
                town.write("coder", str(number))
            for envelope in await waiting(box):
                await box.claim(envelope)
                await box.done(envelope)
            for _ in range(3):
                assert await waiting(box) == ()
        finally:
            await box.close()
        assert await waiting(town.box()) == ()

    asyncio.run(scenario())


def test_a_listing_that_is_cut_says_that_there_is_more(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        for _ in range(3):
            town.write("coder")
        said = [(len(found.envelopes), found.more) for found in [await box.pending(limit) for limit in (2, 3, 4)]]
        assert said == [(2, True), (3, False), (3, False)]

    asyncio.run(scenario())


def test_what_one_has_claimed_and_not_written_down_is_listed_still(town: Town) -> None:
    """Killed in between, nobody else would have it."""

    async def scenario() -> None:
        box = town.box()
        await box.register()
        number = town.write("tag:back", claimable=True)
        later = int(time.time() + 600) * 1000
        for who, listed in (("coder", [f"{number}!"]), ("two", [])):
            with town.fake.held() as base:
                base.execute("update messages set claimed_by = ?, claim_expires_at = ?", (who, later))
            assert [one.locator for one in await waiting(box)] == listed

    asyncio.run(scenario())


def test_what_one_has_written_to_oneself_is_mail_and_what_to_ones_own_group_is_not(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        with town.fake.held():
            number = town.fake.write("coder", "coder", body="do not forget")
            town.fake.write("coder", "tag:back", body="who has time?")
        assert [one.locator for one in await waiting(box)] == [str(number)]

    asyncio.run(scenario())


def test_all_that_one_has_is_what_others_wrote_taken_or_not(town: Town) -> None:
    """Not what one has written oneself to a group that one is of, nor what asks for a pair."""

    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            first, second = town.write("coder", "one"), town.write("tag:back", "two")
            town.write("coder", kind="pair.invite", payload={"pairId": "1"})
            with town.fake.held():
                town.fake.write("coder", "tag:back", body="mine")
            envelope = (await waiting(box))[0]
            await box.claim(envelope)
            await box.done(envelope)
            known = [(one.locator, new) for one, _, new in await box.everything()]
        finally:
            await box.close()
        assert known == [(str(first), False), (str(second), True)]

    asyncio.run(scenario())


def test_who_looks_and_is_not_its_watcher_changes_nothing(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        town.write("coder")
        (envelope,) = await waiting(box)
        await box.claim(envelope)
        await box.done(envelope)
        await box.close()
        with town.fake.held() as base:
            base.execute("insert into pairs (asker, target, status) values ('other', 'coder', 'pending')")
        town.write("coder", kind="pair.invite", payload={"pairId": "1"})
        before = (town.base / "coder.json").read_bytes()
        town.fake.calls.clear()
        assert await waiting(town.box()) == ()
        assert (town.base / "coder.json").read_bytes() == before
        assert [call for call in town.fake.calls if not call.startswith("GET ")] == []
        assert town.fake.asked("select status from pairs")[0][0] == "pending"

    asyncio.run(scenario())


def test_what_the_disk_refuses_to_note_was_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "names" / "coder.json"
    disk = Disk(Refusing("coder.json", On.REPLACE, times=1))
    seen = Seen(path, disk)
    with pytest.raises(OSError, match="coder"):
        seen.add("1-a")
    assert "1-a" not in seen
    disk.syncs = 0
    seen.add("1-a")
    assert disk.syncs == 2
    assert "1-a" in Seen(path, Disk())


def test_a_message_that_vanishes_between_list_and_read_is_gone(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            town.write("coder")
            town.write("cap:review", claimable=True)
            both = await waiting(box)
            with town.fake.held() as base:
                base.execute("delete from messages")
            for envelope in both:
                assert isinstance(await box.claim(envelope), Gone)
                await box.done(envelope)
            assert await waiting(box) == ()
        finally:
            await box.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("claimable", [False, True])
def test_a_server_that_began_anew_has_other_messages_under_the_same_numbers(town: Town, claimable: bool) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        to = "tag:back" if claimable else "coder"
        town.write(to, "old", claimable=claimable)
        (old,) = await waiting(box)
        await box.claim(old)
        with town.fake.held() as base:
            base.execute("delete from messages")
            base.execute("delete from sqlite_sequence where name = 'messages'")
        town.write(to, "new", claimable=claimable, created_at=1_790_000_000_000)
        (new,) = await waiting(town.box())
        assert (new.locator, new.id != old.id) == (old.locator, True)
        assert isinstance(await box.claim(old, again=True), Gone)
        assert isinstance(await box.read(old), Gone)
        nobodys = msgspec.structs.replace(old, locator="no number")
        assert isinstance(await box.claim(nobodys, again=True), Gone)

    asyncio.run(scenario())


@pytest.mark.parametrize("apart", [-7200.0, 7200.0])
def test_a_servers_clock_that_is_apart_shortens_no_claim(town: Town, apart: float) -> None:
    async def scenario() -> None:
        town.fake.clock_ahead = apart
        box = town.box()
        await box.open()
        try:
            number = town.write("cap:review", claimable=True)
            (envelope,) = await waiting(box)
            message = await box.claim(envelope)
            assert isinstance(message, Message)
            assert isinstance(await box.deliver(answer_to(box, message)), Delivered)
            assert town.fake.calls.count(f"POST /messages/{number}/claim") == 1
        finally:
            await box.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("knows_keys", [True, False])
def test_a_send_whose_answer_is_lost_is_in_doubt_and_found_again(town: Town, knows_keys: bool) -> None:
    async def scenario() -> None:
        town.fake.knows_keys = knows_keys
        await town.box().register()
        sender = town.box("other")
        one = item(sender, "one")
        town.fake.after = lambda call: (502, b"<html>bad gateway</html>") if call == "POST /messages" else None
        assert isinstance(await sender.deliver(one), Unknown)
        town.fake.after = lambda _: None
        found = await town.box("other").find(one)
        (envelope,) = await waiting(town.box())
        assert found is not None
        assert (found.id, found.thread) == (envelope.id, envelope.thread)
        assert not await sender.look(item(sender, "two"))

    asyncio.run(scenario())


def test_what_a_predecessor_sent_may_arrive_after_the_first_look(town: Town) -> None:
    async def scenario() -> None:
        await town.box().register()
        # However long the first look takes there is a second.
        box = town.box("other", under_way=0.05, clock=StoppedClock())
        what = item(box, "k")

        def arrives(call: str) -> None:
            if call == "GET /messages":
                town.fake.after = lambda _: None
                town.write("coder", idempotencyKey=what.id)

        town.fake.after = arrives
        assert await box.look(what)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["two words", "", "broadcast", "cap:review", "a" * 200, "tab\there"])
def test_a_name_that_could_get_no_mail_is_refused_before_it_is_registered(town: Town, name: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        asyncio.run(town.box(name).register())
    assert caught.value.fix.startswith("agent-mailer config set address ")
    assert "POST /agents" not in town.fake.calls


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>login</html>"),
        (200, b'{"messages": {}}'),
        (200, b"[" * 100_000),
        (500, b"Internal Server Error"),
        (404, b"Not Found"),
        (409, b"Conflict"),
    ],
)
def test_what_is_no_such_server_is_told_and_nothing_is_lost(town: Town, answer: tuple[int, bytes]) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        town.write("coder")
        town.fake.fault = lambda call: answer if call == "GET /messages" else None
        with pytest.raises(MailboxUnavailable):
            await box.pending(10)
        town.fake.fault = lambda _: None
        assert len(await waiting(box)) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "row",
    [
        {"id": "7", "from_agent": "other", "to_target": "coder", "type": "message", "body": "b", "created_at": 1},
        {"id": 7, "from": "other", "to": "coder", "body": "b", "createdAt": "2026-01-02T00:00:00Z", "payload": "{}"},
        {"id": 7, "from": "other", "to": "coder", "body": "b", "readBy": "[]", "meta": "{", "new": {"field": 1}},
    ],
)
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"messages": rows}])
def test_spellings_that_the_readme_leaves_open_are_read(
    town: Town, row: dict[str, object], wrap: Callable[[list[object]], object]
) -> None:
    def answer(call: str) -> tuple[int, bytes] | None:
        if call == "GET /messages/7":
            return 200, json.dumps({"message": row}).encode()
        return (200, json.dumps(wrap([row, "no row"])).encode()) if call == "GET /messages" else None

    async def scenario() -> None:
        town.fake.fault = answer
        box = town.box()
        listing = await box.pending(10)
        assert [(one.sender, one.locator) for one in listing.envelopes] == [("other", "7")]
        assert len(listing.unreadable) == 1
        message = await box.read(listing.envelopes[0])
        assert isinstance(message, Message)
        assert message.body == "b"

    asyncio.run(scenario())


def test_somebody_elses_token_is_refused_and_no_token_is_told(town: Town) -> None:
    town.fake.token = "the-right-one"

    async def scenario() -> None:
        wrong = town.box(token="the-wrong-one")
        with pytest.raises(RefusedFault) as caught:
            await wrong.open()
        assert "wrong" not in caught.value.message
        right = town.box(token="the-right-one")
        await right.open()
        await right.close()

    asyncio.run(scenario())
    assert "right" not in repr(Account(town.url, "coder", "the-right-one"))


def init(town: Town, tmp_path: Path, *more: str) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    words = ("--runtime", "command", "--command", "cat", "--sandbox", "off", "--address", "coder", *more)
    made = type_in(folder, "init", "--mailbox", "relay", "--broker-url", town.url, *words)
    assert made.status == 0, made.err
    assert "registered coder" in made.out
    return folder


@LONG  # many commands
def test_a_person_sends_reads_and_is_answered(town: Town, tmp_path: Path) -> None:
    folder = init(town, tmp_path, "--permission-mode", "plan")
    sent = type_in(folder, "mail", "send", "--to", "coder", "--subject", "Hi", "--body", "do", "--json")
    assert sent.status == 0, sent.err
    inbox = type_in(folder, "mail", "inbox", "--as", "coder", "--json")
    assert [one["subject"] for one in inbox.json["messages"]] == ["Hi"]
    town.write("the-user", "first", subject="one")
    read = type_in(folder, "mail", "read", "--unread", "--json")
    assert [one["body"] for one in read.json["messages"]] == ["first"]
    assert type_in(folder, "mail", "read", "--unread", "--json").json["messages"] == []
    town.write("the-user", "third", subject="three")
    drained = type_in(folder, "mail", "drain", "--json")
    assert "third" in drained.out, drained.err
    kept = type_in(folder, "mail", "reserve", "src/**")
    assert kept.status == 0, kept.err
    assert "src/**" in type_in(folder, "mail", "reservations").out
    thread = type_in(folder, "mail", "thread", sent.json["thread"], "--json")
    assert [one["body"] for one in thread.json["messages"]] == ["do"]
    group = type_in(folder, "mail", "send", "--to", "cap:chat", "--subject", "all", "--body", "b", "--json")
    assert group.status == 0, group.err
    stranger = type_in(folder, "mail", "send", "--to", "nobody", "--subject", "s", "--body", "b")
    assert stranger.status == 2
    assert "coder" in stranger.err
    checks = {one["name"]: one for one in type_in(folder, "verify", "--json").json["checks"]}
    assert checks["server"]["result"] == "ok"
    assert "not seen with the real server" in checks["server"]["text"]
    town.fake.version = "0.10.2"
    checks = {one["name"]: one for one in type_in(folder, "doctor", "--json").json["checks"]}
    assert checks["server"]["result"] == "warning"
    status = type_in(folder, "status", "--json")
    assert (status.json["mailbox"]["kind"], status.json["mailbox"]["waiting"]) == ("relay", 2)
    assert town.fake.asked("select epoch from agents where id = 'coder'")[0][0] == 1


def test_a_look_into_an_agents_mail_ends_no_watcher_of_its_name_and_a_person_is_made_known(town: Town) -> None:
    desk = Desk(town.base / "desk")
    desk.settings.pop("maildir_root")
    desk.configure(mailbox="relay", broker_url=town.url)
    watcher, place = town.box(), desk.place()

    async def scenario() -> None:
        await watcher.open()
        try:
            town.write("coder")
            (waits,) = await waiting(watcher)
            for whose in ("coder", None):
                looked = await mail_at(place, whose).listed(read_too=False)
                assert [one.message.envelope.id for one in looked] == ([waits.id] if whose else [])
            assert isinstance(await watcher.claim(waits), Message)
        finally:
            await watcher.close()

    asyncio.run(scenario())
    assert [row["id"] for row in town.fake.asked("select id from agents order by id")] == ["coder", person_of(place)]


@LONG  # each send under a key waits for what may still be on its way
def test_what_a_person_sends_under_a_dedupe_key_leaves_once(town: Town, tmp_path: Path) -> None:
    town.fake.knows_keys = False
    folder = init(town, tmp_path, "--permission-mode", "plan")
    words = ("mail", "send", "--to", "coder", "--subject", "Hi", "--body", "do", "--dedupe-key", "k")
    sent = type_in(folder, *words, "--json")
    again = type_in(folder, *words, "--json")
    assert (again.json["already"], again.json["id"]) == (True, sent.json["id"])
    other = type_in(folder, *words[:-3], "another text", "--dedupe-key", "k")
    assert other.status == 1
    assert "dedupe" in other.err


def test_the_relays_own_variables_and_profiles_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = tmp_path / "profiles.json"
    profiles.write_text('{"tester": {"label": "the tester", "tags": ["api"], "approval": "read-only", "meta": {}}}')
    for name, value in {
        "URL": "http://127.0.0.1:4",
        "TOKEN": "t",
        "CAPS": "chat, review",
        "PROFILE": "tester",
        "PROFILES_FILE": str(profiles),
    }.items():
        monkeypatch.setenv(f"AGENT_RELAY_{name}", value)
    desk = Desk(tmp_path / "desk")
    desk.settings.pop("maildir_root")
    desk.settings.pop("permission_mode", None)
    desk.configure(address="coder", mailbox="relay", relay={"label": "mine"})
    config = desk.place().config
    assert (config.broker_url, config.api_key) == ("http://127.0.0.1:4", "t")
    relay = config.relay
    assert (relay.caps, relay.tags, relay.label) == (("chat", "review"), ("api",), "mine")
    assert config.permission_mode == "plan"
    desk.configure(relay={"url": "http://127.0.0.1:5", "token": "own"}, permission_mode="acceptEdits")
    with pytest.raises(ConfigFault) as caught:
        _ = desk.place().config
    assert "permission_mode" in caught.value.fix
    monkeypatch.setenv("AGENT_RELAY_APPROVAL", "guarded")
    assert (desk.place().config.broker_url, desk.place().config.api_key) == ("http://127.0.0.1:5", "own")
    monkeypatch.setenv("AGENT_RELAY_PROFILE", "nobody")
    with pytest.raises(ConfigFault):
        _ = desk.place().config
    monkeypatch.delenv("AGENT_RELAY_PROFILE")
    desk.configure(relay={"url": 5, "token": "own"})
    with pytest.raises(ConfigFault, match="broker_url"):
        _ = desk.place().config
    desk.configure(relay={"url": "http://127.0.0.1:5", "token": ["own"]})
    with pytest.raises(ConfigFault, match="api_key"):
        _ = desk.place().config


@LONG  # it waits for as long as a look does
def test_a_server_that_does_not_answer_holds_up_no_look(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        desk = Desk(tmp_path)
        desk.settings.pop("maildir_root")
        desk.configure(address="coder", mailbox="relay", broker_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer within" in type_in(desk.workdir, "status").out


@LONG
def test_a_server_that_is_down_is_told_by_every_command(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.settings.pop("maildir_root")
    desk.configure(address="coder", mailbox="relay", broker_url="http://127.0.0.1:1")
    for words in (("mail", "inbox"), ("mail", "send", "--to", "a", "--subject", "s", "--body", "b"), ("verify",)):
        typed = type_in(desk.workdir, *words)
        assert typed.status == 69, typed.err
        assert "127.0.0.1:1" in typed.err + typed.out
        assert "Traceback" not in typed.err
    assert type_in(desk.workdir, "status").status in (0, 1)


@LONG
@pytest.mark.parametrize(
    ("table", "said", "mend"),
    [
        ('url = "http://127.0.0.1:5"', "[relay] url and broker_url say the same, and have two values", "config edit"),
        ('approval = "sometimes"', "relay.approval: 'sometimes' is none of: open, guarded, read-only", "config set"),
    ],
)
def test_what_the_relay_table_cannot_say_is_told_in_words(tmp_path: Path, table: str, said: str, mend: str) -> None:
    desk = Desk(tmp_path)
    desk.settings.pop("maildir_root")
    desk.configure(mailbox="relay", broker_url="http://127.0.0.1:4")
    with (desk.state / "config.toml").open("a") as file:
        file.write(f"[relay]\n{table}\n")
    for command in ("status", "verify"):
        told = type_in(desk.workdir, command)
        assert told.status == 78, told
        assert said in told.out + told.err
        assert mend in told.out + told.err


def test_an_approval_of_the_environment_is_mended_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_RELAY_APPROVAL", "sometimes")
    desk = Desk(tmp_path)
    desk.configure(mailbox="relay")
    with pytest.raises(ConfigFault) as caught:
        _ = desk.place().config
    assert caught.value.fix == "unset AGENT_RELAY_APPROVAL"


@LONG
@pytest.mark.parametrize("mailbox", ["relay", "mcp_agent_mail", "amp"])
@pytest.mark.parametrize("where", ["/elsewhere", ":1"])
def test_verify_advises_something_else_than_verify(town: Town, tmp_path: Path, mailbox: str, where: str) -> None:
    desk = Desk(tmp_path / "desk")
    desk.settings.pop("maildir_root")
    url = f"{town.url}{where}" if where.startswith("/") else "http://127.0.0.1:1"
    desk.configure(mailbox=mailbox, broker_url=url, address="coder-1", agent_id="id", api_key="key")
    told = type_in(desk.workdir, "verify")
    assert told.status == 69, told
    assert "fix: " in told.out
    assert "agent-mailer verify" not in told.out
