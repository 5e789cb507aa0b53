"""What the engine relies on in every mailbox, as tests.

Subclass `MailboxSuite` under a name that pytest collects and give it a harness:

    class TestMine(MailboxSuite):
        def harness(self, folder: Path) -> MailboxHarness:
            return MyHarness(folder)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from agent_mailer.mailbox.port import (
    Action,
    Automatic,
    Delivered,
    Draft,
    Envelope,
    Gone,
    Kind,
    Mailbox,
    Message,
    Outgoing,
    Progress,
    Refused,
    Stage,
)

WAKE_SECONDS = 20.0
_MORNING = 1_790_000_000.0


class MailboxHarness(Protocol):
    """Two agents on one transport, and what a suite cannot do through the port."""

    def mailbox(self) -> Mailbox:
        """A new object for the mailbox under test, as after a restart of its watcher."""

    def peer(self) -> Mailbox:
        """A new object for the other agent's mailbox."""

    def arrive_again(self, item: Outgoing) -> None:
        """Put a message into the mailbox under test once more, past every check of `deliver`."""

    def arrive_unreadable(self, name: str) -> None:
        """Put something into the mailbox under test that is no message. `name` sorts it among its neighbours."""

    def steal(self, envelope: Envelope) -> None:
        """Take a waiting message out of the mailbox under test, as another consumer would."""


@dataclass(frozen=True)
class Scene:
    """What a test plays with: the mailbox under test, open, and the peer's, not opened."""

    harness: MailboxHarness
    mailbox: Mailbox
    peer: Mailbox


class MailboxSuite:
    """Every test opens what it uses, and closes it."""

    def harness(self, folder: Path) -> MailboxHarness:
        raise NotImplementedError

    def test_what_is_delivered_is_listed_and_claimed_whole(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            item = await _send(
                at.peer, at.mailbox, "one", body="Grüße ✉\n\n---\nend\n", subject="Hello", kind=Kind.QUESTION
            )
            (envelope,) = await _waiting(at.mailbox)
            assert (envelope.id, envelope.thread, envelope.sender) == (item.id, item.thread, at.peer.address)
            if at.mailbox.capabilities.carries_marks:
                assert envelope.kind is Kind.QUESTION
            assert at.mailbox.address in envelope.to
            message = await at.mailbox.claim(envelope)
            assert isinstance(message, Message)
            assert message.envelope.id == item.id
            assert message.body == "Grüße ✉\n\n---\nend\n"
            assert message.subject == "Hello"
            assert message.reply_to == at.peer.address
            assert await _waiting(at.mailbox) == ()

        self._run(tmp_path, scenario)

    def test_delivering_twice_delivers_once(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            if not at.mailbox.capabilities.recognises_delivery:
                return
            item = await _send(at.peer, at.mailbox, "one")
            assert isinstance(await at.peer.deliver(item), Delivered)
            assert isinstance(await at.harness.peer().deliver(item), Delivered)
            assert [envelope.id for envelope in await _waiting(at.mailbox)] == [item.id]

        self._run(tmp_path, scenario)

    def test_delivering_again_after_the_claim_delivers_nothing(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            if not at.mailbox.capabilities.recognises_delivery:
                return
            item = await _send(at.peer, at.mailbox, "one")
            await _claim_all(at.mailbox)
            assert isinstance(await at.harness.peer().deliver(item), Delivered)
            assert await _waiting(at.mailbox) == ()

        self._run(tmp_path, scenario)

    def test_look_tells_what_has_arrived(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            if not at.mailbox.capabilities.recognises_delivery:
                return
            (item,) = _compose(at.peer, at.mailbox, "one")
            assert not await at.peer.look(item)
            assert isinstance(await at.peer.deliver(item), Delivered)
            assert await at.peer.look(item)
            await _claim_all(at.mailbox)
            assert await at.peer.look(item)
            (other,) = _compose(at.peer, at.mailbox, "two")
            assert not await at.peer.look(other)

        self._run(tmp_path, scenario)

    def test_composing_is_pure(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await _send(at.peer, at.mailbox, "one")
            (message,) = await _claim_all(at.mailbox)
            draft = Draft(key="answer", action=Action.REPLY, created=_MORNING + 9, body="done")
            first = at.mailbox.compose(draft, message, "turn-1")
            assert first == at.harness.mailbox().compose(draft, message, "turn-1")
            assert _only(first).id != _only(at.mailbox.compose(draft, message, "turn-2")).id

        self._run(tmp_path, scenario)

    def test_a_reply_goes_back_in_the_thread(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await at.peer.open()
            try:
                sent = await _send(at.peer, at.mailbox, "one", subject="Plan", kind=Kind.QUESTION)
                (message,) = await _claim_all(at.mailbox)
                draft = Draft(
                    key="answer",
                    action=Action.REPLY,
                    created=_MORNING + 9,
                    body="42",
                    automatic=Automatic.AUTO_REPLY,
                )
                item = _only(at.mailbox.compose(draft, message, "turn-1"))
                assert item.recipient == at.peer.address
                item = await _deliver(at.mailbox, item)
                (answer,) = await _claim_all(at.peer)
                assert answer.envelope.thread == sent.thread
                assert answer.subject == "Re: Plan"
                assert sent.id in answer.refs
                if at.mailbox.capabilities.carries_marks:
                    assert answer.envelope.kind is Kind.ANSWER
                    assert answer.envelope.hops == message.envelope.hops + 1
                    assert answer.envelope.automatic is Automatic.AUTO_REPLY
                seen = await at.mailbox.thread(sent.thread)
                assert [one.envelope.id for one in seen] == [sent.id, item.id]
                assert await at.mailbox.thread(sent.thread + "x") in ([], ())
            finally:
                await at.peer.close()

        self._run(tmp_path, scenario)

    def test_the_order_is_that_of_the_thread(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            late = await _send(at.peer, at.mailbox, "late", created=_MORNING + 2)
            early = await _send(at.peer, at.mailbox, "early", created=_MORNING)
            middle = await _send(at.peer, at.mailbox, "middle", created=_MORNING + 1)
            expected = [late.id, early.id, middle.id]
            if at.mailbox.capabilities.keeps_dates:
                expected = [early.id, middle.id, late.id]
            listed = await _waiting(at.mailbox)
            assert [envelope.id for envelope in listed] == expected
            assert sorted(listed, key=lambda envelope: envelope.order) == list(listed)
            assert [one.id for one in (await at.mailbox.pending(2)).envelopes] == expected[:2]

        self._run(tmp_path, scenario)

    def test_what_is_unreadable_hides_no_neighbour_and_goes_when_rejected(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            at.harness.arrive_unreadable("0-before")
            item = await _send(at.peer, at.mailbox, "one")
            at.harness.arrive_unreadable("z-after")
            listing = await at.mailbox.pending(10)
            assert [envelope.id for envelope in listing.envelopes] == [item.id]
            assert len(listing.unreadable) == 2
            for bad in listing.unreadable:
                assert bad.why
                await at.mailbox.reject(bad)
                await at.mailbox.reject(bad)
            listing = await at.mailbox.pending(10)
            assert [envelope.id for envelope in listing.envelopes] == [item.id]
            assert listing.unreadable == ()

        self._run(tmp_path, scenario)

    def test_a_claim_is_ours_once_and_again_only_if_we_say_so(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await _send(at.peer, at.mailbox, "one", body="work")
            (envelope,) = await _waiting(at.mailbox)
            first = await at.mailbox.claim(envelope)
            assert isinstance(first, Message)
            assert isinstance(await at.mailbox.claim(envelope), Gone)
            assert await at.mailbox.claim(envelope, again=True) == first
            at.mailbox.report(envelope, Progress("turn-1", Stage.STARTED))
            await at.mailbox.done(envelope, Progress("turn-1", Stage.SETTLED, "done", final=True))
            await at.mailbox.done(envelope)
            assert await _waiting(at.mailbox) == ()
            assert await at.mailbox.claim(envelope, again=True) == first

        self._run(tmp_path, scenario)

    def test_a_claim_survives_the_watcher(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await _send(at.peer, at.mailbox, "one", body="work")
            (envelope,) = await _waiting(at.mailbox)
            first = await at.mailbox.claim(envelope)
            await at.mailbox.close()
            successor = at.harness.mailbox()
            await successor.open()
            try:
                assert await _waiting(successor) == ()
                assert await successor.claim(envelope, again=True) == first
            finally:
                await successor.close()

        self._run(tmp_path, scenario)

    def test_what_somebody_else_took_is_gone(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await _send(at.peer, at.mailbox, "one")
            (envelope,) = await _waiting(at.mailbox)
            at.harness.steal(envelope)
            gone = await at.mailbox.claim(envelope)
            assert isinstance(gone, Gone)
            assert gone.why

        self._run(tmp_path, scenario)

    def test_reading_takes_nothing(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await _send(at.peer, at.mailbox, "one", body="look at me")
            (envelope,) = await _waiting(at.mailbox)
            read = await at.mailbox.read(envelope)
            assert isinstance(read, Message)
            assert read.body.strip() == "look at me"
            assert await _waiting(at.mailbox) == (envelope,)

        self._run(tmp_path, scenario)

    def test_a_settled_message_that_comes_again_can_be_set_aside(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            item = await _send(at.peer, at.mailbox, "one")
            (message,) = await _claim_all(at.mailbox)
            await at.mailbox.done(message.envelope)
            at.harness.arrive_again(item)
            (envelope,) = await _waiting(at.mailbox)
            await at.mailbox.set_aside(envelope)
            await at.mailbox.set_aside(envelope)
            assert await _waiting(at.mailbox) == ()

        self._run(tmp_path, scenario)

    def test_no_wake_is_lost_between_opening_and_waiting(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            while await _settled(at.mailbox):
                pass
            await _send(at.peer, at.mailbox, "one")
            await asyncio.wait_for(at.mailbox.wait(), WAKE_SECONDS)
            assert len(await _waiting(at.mailbox)) == 1

        self._run(tmp_path, scenario)

    def test_an_arrival_ends_the_wait(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            while await _settled(at.mailbox):
                pass
            waiting = asyncio.create_task(at.mailbox.wait())
            await asyncio.sleep(0)
            await _send(at.peer, at.mailbox, "one")
            await asyncio.wait_for(waiting, WAKE_SECONDS)
            assert len(await _waiting(at.mailbox)) == 1

        self._run(tmp_path, scenario)

    def test_a_cancelled_wait_swallows_no_wake(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            while await _settled(at.mailbox):
                pass
            waiting = asyncio.create_task(at.mailbox.wait())
            await asyncio.sleep(0)
            await _send(at.peer, at.mailbox, "one")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            if waiting.cancelled():
                await asyncio.wait_for(at.mailbox.wait(), WAKE_SECONDS)
            assert len(await _waiting(at.mailbox)) == 1

        self._run(tmp_path, scenario)

    def test_too_much_and_to_nobody_is_refused(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            huge = Draft(
                key="huge",
                action=Action.SEND,
                created=_MORNING,
                to=(at.mailbox.address,),
                body="x" * (at.peer.capabilities.max_message_bytes + 1),
            )
            assert isinstance(at.peer.compose(huge, None, "turn"), Refused)
            nobody = Draft(key="nobody", action=Action.SEND, created=_MORNING, to=("nobody-of-this-name",), body="x")
            composed = at.peer.compose(nobody, None, "turn")
            if not isinstance(composed, Refused):
                assert isinstance(await at.peer.deliver(composed[0]), Refused)

        self._run(tmp_path, scenario)

    def test_the_peer_is_a_contact_and_oneself_is_not(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            addresses = [contact.address for contact in await at.mailbox.contacts()]
            assert at.peer.address in addresses
            assert at.mailbox.address not in addresses

        self._run(tmp_path, scenario)

    def _run(self, folder: Path, scenario: Callable[[Scene], Awaitable[None]]) -> None:
        async def whole() -> None:
            harness = self.harness(folder)
            scene = Scene(harness, harness.mailbox(), harness.peer())
            await scene.mailbox.open()
            try:
                await scenario(scene)
            finally:
                await scene.mailbox.close()

        asyncio.run(whole())


def _compose(
    sender: Mailbox,
    to: Mailbox,
    key: str,
    *,
    body: str = "work\n",
    subject: str = "",
    created: float = _MORNING,
    kind: Kind | None = None,
) -> Sequence[Outgoing]:
    draft = Draft(key=key, action=Action.SEND, created=created, to=(to.address,), subject=subject, body=body, kind=kind)
    composed = sender.compose(draft, None, "turn-0")
    assert not isinstance(composed, Refused), composed
    return composed


async def _send(
    sender: Mailbox,
    to: Mailbox,
    key: str,
    *,
    body: str = "work\n",
    subject: str = "",
    created: float = _MORNING,
    kind: Kind | None = None,
) -> Outgoing:
    (item,) = _compose(sender, to, key, body=body, subject=subject, created=created, kind=kind)
    return await _deliver(sender, item)


async def _deliver(sender: Mailbox, item: Outgoing) -> Outgoing:
    """The item under the names that the mailbox gave it."""
    delivered = await sender.deliver(item)
    assert isinstance(delivered, Delivered), delivered
    return msgspec.structs.replace(item, id=delivered.id or item.id, thread=delivered.thread or item.thread)


def _only(composed: Sequence[Outgoing] | Refused) -> Outgoing:
    assert not isinstance(composed, Refused), composed
    (item,) = composed
    return item


async def _waiting(mailbox: Mailbox) -> tuple[Envelope, ...]:
    return (await mailbox.pending(100)).envelopes


async def _claim_all(mailbox: Mailbox) -> list[Message]:
    claimed = [await mailbox.claim(envelope) for envelope in await _waiting(mailbox)]
    return [message for message in claimed if isinstance(message, Message)]


async def _settled(mailbox: Mailbox) -> bool:
    """Take the wakes that are there already; False once `wait` really waits."""
    waiting = asyncio.create_task(mailbox.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return True
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return False
