"""What is told to a broker in the background: what it cannot take now is told again, what it refuses is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.raw_broker import AGENT_ID, OURS, Asked, RawBroker, Rule, drops, html, raw_broker, says

from agent_mailer.clock import SystemClock
from agent_mailer.mailbox.amp.client import REPORTS, Credentials
from agent_mailer.mailbox.amp.link import Link
from agent_mailer.mailbox.amp.receipts import Reporter, post_receipt, receipt_of
from agent_mailer.mailbox.amp.remote import AmpRemote
from agent_mailer.mailbox.amp.transport import Limits
from agent_mailer.mailbox.port import MailboxUnavailable, Progress, Stage
from agent_mailer.remote.port import Answered, Became, Report

RECEIPTS = "POST /messages/m1/receipts"
REPORT = f"PUT /agents/{AGENT_ID}/report"
REQUEST = f"PUT /agents/{AGENT_ID}/requests"
REQUESTS = f"GET /agents/{AGENT_ID}/requests"
LONG_WAIT = 3600.0
QUICK = Limits(connect=5.0, read=10.0, whole=10.0, answer_bytes=1024 * 1024)


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[RawBroker, Link]]:
    async with raw_broker() as broker:
        ours: dict[str, Any] = {**OURS, "extensions": [*OURS["extensions"], REPORTS]}  # type: ignore[misc]
        broker.on("GET /.well-known/agent-mailer", says(200, ours))
        link = Link(
            lambda: Credentials(broker.url, AGENT_ID, "amk_" + "5ec7e7" * 10), limits=QUICK, clock=SystemClock()
        )
        async with link.connected():
            yield broker, link


def play(scene: Callable[[RawBroker, Link], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with linked() as (broker, link):
            await scene(broker, link)

    asyncio.run(whole())


LATER = [says(503, {"detail": "x"}), says(429, {"detail": "x"}), says(409, {"detail": "x", "reason": "stale"}), drops]
FOR_GOOD = [says(404, {"detail": "Message not found"}), says(422, {"detail": "x"}), says(403, {"detail": "x"})]


@pytest.mark.parametrize(("rules", "many"), [(LATER, 2), (FOR_GOOD, 1)], ids=["later", "for good"])
def test_a_receipt_is_told_again_only_where_it_may_be_taken_later(rules: list[Rule], many: int) -> None:
    async def scene(broker: RawBroker, link: Link) -> None:
        for rule in rules:
            broker.asked.clear()
            broker.on(RECEIPTS, rule, says(201, {}))
            reporter = Reporter(link, (0.0, 0.0))
            reporter.tell("m1", Progress("turn", Stage.STARTED))
            await reporter.flush(60)
            # Who hung up was asked once more by the transport itself.
            assert len(broker.requests(RECEIPTS)) == many

    play(scene)


def test_all_that_is_told_says_by_which_hold_of_the_agent_it_is() -> None:
    """Else the broker would take it from a watcher that another has followed."""

    async def scene(broker: RawBroker, link: Link) -> None:
        link.epoch = 7
        remote, reporter = AmpRemote(link, lambda: LONG_WAIT), Reporter(link)
        remote.tell(Report("1", "off"))
        await remote.close(60)
        await remote.answer(Answered(4, Became.DONE, ()))
        reporter.tell("m1", Progress("turn", Stage.STARTED))
        await reporter.close(60)
        await post_receipt(link, "m1", receipt_of(Progress("turn", Stage.SETTLED), final=True))
        told = [(one.headers.get("x-agent-mailer-epoch"), one.path) for one in broker.asked if one.body]
        assert told == [("7", path.partition(" ")[2]) for path in (REPORT, f"{REQUEST}/4", RECEIPTS, RECEIPTS)]

    play(scene)


def test_a_report_that_was_made_while_another_left_leaves_after_it() -> None:
    async def scene(broker: RawBroker, link: Link) -> None:
        remote = AmpRemote(link, lambda: LONG_WAIT)

        async def makes_another(asked: Asked, writer: asyncio.StreamWriter) -> None:
            remote.tell(Report("2", "off"))
            await says(200, {"asked": 0})(asked, writer)

        broker.on(REPORT, makes_another)
        remote.tell(Report("1", "off"))
        await remote.close(60)
        assert [b'"2"' in one.body for one in broker.requests(REPORT)] == [False, True]

    play(scene)


def test_a_report_that_could_not_leave_leaves_later_and_the_last_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_mailer.mailbox.amp.remote.PAUSES", (0.0,))

    async def scene(broker: RawBroker, link: Link) -> None:
        remote = AmpRemote(link, lambda: LONG_WAIT)

        async def told(waiting: int) -> list[bytes]:
            """Once so many have come: `close` waits for what is under way."""
            async with asyncio.timeout(60):
                while len(broker.requests(REPORT)) < waiting:  # noqa: ASYNC110 - the broker sets no event
                    await asyncio.sleep(0.01)
            await remote.close(60)
            found = [one.body for one in broker.requests(REPORT)]
            broker.asked.clear()
            return found

        broker.on(REPORT, says(503, {}), html(502), says(200, {"asked": 0}))
        remote.tell(Report("1", "off"))
        first = await told(3)
        assert first == first[:1] * 3
        remote.tell(Report("1", "off"))
        remote.tell(Report("2", "off"))
        [second] = await told(1)
        assert b'"2"' in second, "what it has is not told again, and only the last one is"
        # Whoever holds the agent anew does not know what the broker has.
        remote.begin()
        assert await told(1) == [second]
        broker.on(REPORT, says(422, {"detail": "x"}))
        remote.tell(Report("3", "off"))
        assert len(await told(1)) == 1, "what is refused is not told again"

    play(scene)


def test_what_is_asked_is_fetched_when_it_is_told_and_again_where_that_failed() -> None:
    async def scene(broker: RawBroker, link: Link) -> None:
        remote = AmpRemote(link, lambda: LONG_WAIT)
        asked: Any = {"number": 4, "verb": "pause", "person": "ada", "seconds": 60.0}
        newer = [{**asked, "verb": "of a newer one"}, {**asked, "number": 3, "verb": "stop", "then": "of a newer one"}]
        broker.on(REQUESTS, says(503, {}), html(200), says(200, [*newer, asked]))
        remote.wake()
        # What failed is fetched again without another word; else each would wait for an hour.
        async with asyncio.timeout(60):
            for _ in range(2):
                with pytest.raises(MailboxUnavailable):
                    await remote.asked()
            assert [one.number for one in await remote.asked()] == [4]
        waits = asyncio.ensure_future(remote.asked())
        await asyncio.sleep(0)
        assert not waits.done()
        # A report's answer says that something was asked.
        broker.on(REPORT, says(200, {"asked": 1}))
        remote.tell(Report("1", "off"))
        async with asyncio.timeout(60):
            assert [one.number for one in await waits] == [4]
        await remote.close(60)

    play(scene)


@pytest.mark.parametrize(("rule", "lost"), [(LATER[0], True), (FOR_GOOD[0], False)], ids=["later", "for good"])
def test_an_answer_that_may_be_taken_later_is_not_called_given(rule: Rule, lost: bool) -> None:
    async def scene(broker: RawBroker, link: Link) -> None:
        remote = AmpRemote(link, lambda: LONG_WAIT)
        broker.on(f"{REQUEST}/4", rule)
        try:
            await remote.answer(Answered(4, Became.DONE, ("paused",)))
        except MailboxUnavailable:
            assert lost
        else:
            assert not lost

    play(scene)
