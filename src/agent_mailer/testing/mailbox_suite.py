"""What the engine relies on in every mailbox, as tests.

Subclass `MailboxSuite` under a name that pytest collects and give it a harness:

    class TestMine(MailboxSuite):
        def harness(self, folder: Path) -> MailboxHarness:
            return MyHarness(folder)
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_mailer.mailbox.port import (
    Action,
    Automatic,
    Delivered,
    Draft,
    Gone,
    Kind,
    Message,
    Presence,
    Priority,
    Progress,
    Refused,
    Stage,
    content_digest,
)
from agent_mailer.testing.mailbox_scene import (
    MORNING,
    MailboxHarness,
    Scene,
    claim_all,
    compose,
    deliver,
    only,
    play,
    send,
    took_a_wake,
    waiting,
)

__all__ = ["MailboxHarness", "MailboxSuite", "Scene"]

WAKE_SECONDS = 20.0


class MailboxSuite:
    """Every test opens what it uses, and closes it."""

    def harness(self, folder: Path) -> MailboxHarness:
        raise NotImplementedError

    def test_what_is_delivered_is_listed_and_claimed_whole(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            item = await send(
                at.peer, at.mailbox, "one", body="Grüße ✉\n\n---\nend\n", subject="Hello", kind=Kind.QUESTION
            )
            (envelope,) = await waiting(at.mailbox)
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
            assert await waiting(at.mailbox) == ()

        play(self.harness(tmp_path), scenario)

    def test_delivering_twice_delivers_once(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            if not at.mailbox.capabilities.recognises_delivery:
                return
            item = await send(at.peer, at.mailbox, "one")
            assert isinstance(await at.peer.deliver(item), Delivered)
            assert isinstance(await at.harness.peer().deliver(item), Delivered)
            assert [envelope.id for envelope in await waiting(at.mailbox)] == [item.id]

        play(self.harness(tmp_path), scenario)

    def test_delivering_again_after_the_claim_delivers_nothing(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            if not at.mailbox.capabilities.recognises_delivery:
                return
            item = await send(at.peer, at.mailbox, "one")
            await claim_all(at.mailbox)
            assert isinstance(await at.harness.peer().deliver(item), Delivered)
            assert await waiting(at.mailbox) == ()

        play(self.harness(tmp_path), scenario)

    def test_look_tells_what_has_arrived(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            if not at.mailbox.capabilities.recognises_delivery:
                return
            (item,) = compose(at.peer, at.mailbox, "one")
            assert not await at.peer.look(item)
            assert isinstance(await at.peer.deliver(item), Delivered)
            assert await at.peer.look(item)
            await claim_all(at.mailbox)
            assert await at.peer.look(item)
            (other,) = compose(at.peer, at.mailbox, "two")
            assert not await at.peer.look(other)

        play(self.harness(tmp_path), scenario)

    def test_composing_is_pure(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await send(at.peer, at.mailbox, "one")
            (message,) = await claim_all(at.mailbox)
            draft = Draft(key="answer", action=Action.REPLY, created=MORNING + 9, body="done")
            first = at.mailbox.compose(draft, message, "turn-1")
            assert first == at.harness.mailbox().compose(draft, message, "turn-1")
            assert only(first).id != only(at.mailbox.compose(draft, message, "turn-2")).id

        play(self.harness(tmp_path), scenario)

    def test_a_reply_goes_back_in_the_thread(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await at.peer.open()
            try:
                sent = await send(at.peer, at.mailbox, "one", subject="Plan", kind=Kind.QUESTION)
                (message,) = await claim_all(at.mailbox)
                draft = Draft("answer", Action.REPLY, MORNING + 9, body="42", automatic=Automatic.AUTO_REPLY)
                item = only(at.mailbox.compose(draft, message, "turn-1"))
                assert item.recipient == at.peer.address
                item = await deliver(at.mailbox, item)
                (answer,) = await claim_all(at.peer)
                assert answer.envelope.thread == sent.thread
                assert answer.subject == "Re: Plan"
                besides = Draft("besides", Action.SEND, MORNING + 9, to=(at.peer.address,), thread="b", body="this")
                await deliver(at.mailbox, only(at.mailbox.compose(besides, message, "turn-1")))
                (new,) = await claim_all(at.peer)
                assert sent.id in answer.refs
                if at.mailbox.capabilities.carries_marks:
                    assert answer.envelope.kind is Kind.ANSWER
                    assert answer.envelope.hops == new.envelope.hops == message.envelope.hops + 1
                    assert answer.envelope.visited in ((), (*message.envelope.visited, message.envelope.sender))
                    assert answer.envelope.automatic is Automatic.AUTO_REPLY
                seen = await at.mailbox.thread(sent.thread)
                assert [one.envelope.id for one in seen] == [sent.id, item.id]
                assert await at.mailbox.thread(sent.thread + "x") in ([], ())
            finally:
                await at.peer.close()

        play(self.harness(tmp_path), scenario)

    def test_the_order_is_that_of_the_thread(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            late = await send(at.peer, at.mailbox, "late", created=MORNING + 2)
            early = await send(at.peer, at.mailbox, "early", created=MORNING)
            middle = await send(at.peer, at.mailbox, "middle", created=MORNING + 1)
            expected = [late.id, early.id, middle.id]
            if at.mailbox.capabilities.keeps_dates:
                expected = [early.id, middle.id, late.id]
            listed = await waiting(at.mailbox)
            assert [envelope.id for envelope in listed] == expected
            assert sorted(listed, key=lambda envelope: envelope.order) == list(listed)
            assert [one.id for one in (await at.mailbox.pending(2)).envelopes] == expected[:2]

        play(self.harness(tmp_path), scenario)

    def test_a_bounded_listing_keeps_of_each_thread_its_head_and_its_most_urgent(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await at.peer.open()
            try:
                await send(at.mailbox, at.peer, "first")
                (origin,) = await claim_all(at.peer)
                answers = []
                for number in range(6):
                    priority = Priority.URGENT if number == 4 else None
                    draft = Draft(f"a{number}", Action.REPLY, MORNING + number, body="more\n", priority=priority)
                    answers.append(await deliver(at.peer, only(at.peer.compose(draft, origin, "turn-0"))))
                draft = Draft("b", Action.SEND, MORNING + 9, to=(at.mailbox.address,), body="other\n", thread="another")
                other = await deliver(at.peer, only(at.peer.compose(draft, None, "turn-0")))
                listed = [envelope.id for envelope in (await at.mailbox.pending(3)).envelopes]
                urgent = 4 if at.mailbox.capabilities.carries_marks else 1
                expected = [answers[0].id, answers[urgent].id, other.id]
                assert listed == expected, (listed, expected)
                stuck = {answers[0].id, other.id}
                listed = [envelope.id for envelope in (await at.mailbox.pending(10, stuck)).envelopes]
                assert listed == [answer.id for answer in answers[1:]], listed
            finally:
                await at.peer.close()

        play(self.harness(tmp_path), scenario)

    def test_what_is_unreadable_hides_no_neighbour_and_goes_when_rejected(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            at.harness.arrive_unreadable("0-before")
            item = await send(at.peer, at.mailbox, "one")
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

        play(self.harness(tmp_path), scenario)

    def test_a_claim_is_ours_once_and_again_only_if_we_say_so(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await send(at.peer, at.mailbox, "one", body="work")
            (envelope,) = await waiting(at.mailbox)
            first = await at.mailbox.claim(envelope)
            assert isinstance(first, Message)
            assert isinstance(await at.mailbox.claim(envelope), Gone)
            assert await at.mailbox.claim(envelope, again=True) == first
            at.mailbox.report(envelope, Progress("turn-1", Stage.STARTED))
            await at.mailbox.done(envelope, Progress("turn-1", Stage.SETTLED, "done", final=True))
            await at.mailbox.done(envelope)
            assert await waiting(at.mailbox) == ()
            assert await at.mailbox.claim(envelope, again=True) == first

        play(self.harness(tmp_path), scenario)

    def test_what_is_announced_changes_no_mail(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            again = at.harness.mailbox()
            again.announce(Presence.ACTIVE)
            at.mailbox.announce(Presence.PAUSED, "limited")
            await send(at.peer, at.mailbox, "one", body="work")
            (envelope,) = await waiting(at.mailbox)
            at.mailbox.announce(Presence.ACTIVE)
            assert await waiting(at.mailbox) == (envelope,)
            assert isinstance(await at.mailbox.claim(envelope), Message)

        play(self.harness(tmp_path), scenario)

    def test_a_claim_survives_the_watcher(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await send(at.peer, at.mailbox, "one", body="work")
            (envelope,) = await waiting(at.mailbox)
            first = await at.mailbox.claim(envelope)
            await at.mailbox.close()
            successor = at.harness.mailbox()
            await successor.open()
            try:
                assert await waiting(successor) == ()
                assert await successor.claim(envelope, again=True) == first
            finally:
                await successor.close()

        play(self.harness(tmp_path), scenario)

    def test_what_somebody_else_took_is_gone(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await send(at.peer, at.mailbox, "one")
            (envelope,) = await waiting(at.mailbox)
            at.harness.steal(envelope)
            gone = await at.mailbox.claim(envelope)
            assert isinstance(gone, Gone)
            assert gone.why

        play(self.harness(tmp_path), scenario)

    def test_reading_takes_nothing(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            await send(at.peer, at.mailbox, "one", body="look at me")
            (envelope,) = await waiting(at.mailbox)
            read = await at.mailbox.read(envelope)
            assert isinstance(read, Message)
            assert read.body.strip() == "look at me"
            assert await waiting(at.mailbox) == (envelope,)

        play(self.harness(tmp_path), scenario)

    def test_a_settled_message_that_comes_again_can_be_set_aside(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            item = await send(at.peer, at.mailbox, "one")
            (message,) = await claim_all(at.mailbox)
            await at.mailbox.done(message.envelope)
            at.harness.arrive_again(item)
            (envelope,) = await waiting(at.mailbox)
            await at.mailbox.set_aside(envelope)
            await at.mailbox.set_aside(envelope)
            assert await waiting(at.mailbox) == ()

        play(self.harness(tmp_path), scenario)

    def test_what_was_claimed_before_is_known_by_its_text_or_not_at_all(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            item = await send(at.peer, at.mailbox, "one", body="first")
            (message,) = await claim_all(at.mailbox)
            await at.mailbox.done(message.envelope)
            at.harness.arrive_again(item)
            (envelope,) = await waiting(at.mailbox)
            settled = await at.mailbox.settled(envelope)
            assert settled is None or content_digest(settled) == content_digest(message)
            again = await at.mailbox.read(envelope)
            assert isinstance(again, Message)
            assert content_digest(again) == content_digest(message)

        play(self.harness(tmp_path), scenario)

    def test_nothing_is_put_back_that_was_not_put_away(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            at.harness.arrive_unreadable("bad")
            (bad,) = (await at.mailbox.pending(10)).unreadable
            await at.mailbox.reject(bad)
            for locator, digest in ((bad.locator, bad.digest), ("nobody.md", "0" * 64), ("../x", "")):
                refused = at.mailbox.put_back(locator, digest)
                assert isinstance(refused, Refused)
                assert refused.why
            listing = await at.mailbox.pending(10)
            assert (listing.envelopes, listing.unreadable) == ((), ())

        play(self.harness(tmp_path), scenario)

    def test_what_was_put_away_is_listed_once_it_is_asked_for_again(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            at.harness.arrive_unreadable("bad")
            (bad,) = (await at.mailbox.pending(10)).unreadable
            await at.mailbox.reject(bad)
            assert (await at.mailbox.pending(10)).unreadable == ()
            for _ in range(2):
                refused = await at.mailbox.ask_again(bad.locator)
                assert (refused is None) == at.mailbox.capabilities.asks_again
            listed = [item.locator for item in (await at.mailbox.pending(10)).unreadable]
            assert listed == ([bad.locator] if at.mailbox.capabilities.asks_again else [])

        play(self.harness(tmp_path), scenario)

    def test_no_wake_is_lost_between_opening_and_waiting(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            while await took_a_wake(at.mailbox):
                pass
            await send(at.peer, at.mailbox, "one")
            await asyncio.wait_for(at.mailbox.wait(), WAKE_SECONDS)
            assert len(await waiting(at.mailbox)) == 1

        play(self.harness(tmp_path), scenario)

    def test_an_arrival_ends_the_wait(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            while await took_a_wake(at.mailbox):
                pass
            wait = asyncio.create_task(at.mailbox.wait())
            await asyncio.sleep(0)
            await send(at.peer, at.mailbox, "one")
            await asyncio.wait_for(wait, WAKE_SECONDS)
            assert len(await waiting(at.mailbox)) == 1

        play(self.harness(tmp_path), scenario)

    def test_a_cancelled_wait_swallows_no_wake(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            while await took_a_wake(at.mailbox):
                pass
            wait = asyncio.create_task(at.mailbox.wait())
            await asyncio.sleep(0)
            await send(at.peer, at.mailbox, "one")
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
            if wait.cancelled():
                await asyncio.wait_for(at.mailbox.wait(), WAKE_SECONDS)
            assert len(await waiting(at.mailbox)) == 1

        play(self.harness(tmp_path), scenario)

    def test_too_much_and_to_nobody_is_refused(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            huge = Draft(
                key="huge",
                action=Action.SEND,
                created=MORNING,
                to=(at.mailbox.address,),
                body="x" * (at.peer.capabilities.max_message_bytes + 1),
            )
            assert isinstance(at.peer.compose(huge, None, "turn"), Refused)
            nobody = Draft(key="nobody", action=Action.SEND, created=MORNING, to=("nobody-of-this-name",), body="x")
            composed = at.peer.compose(nobody, None, "turn")
            if not isinstance(composed, Refused):
                assert isinstance(await at.peer.deliver(composed[0]), Refused)

        play(self.harness(tmp_path), scenario)

    def test_the_peer_is_a_contact_and_oneself_is_not(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            addresses = [contact.address for contact in await at.mailbox.contacts()]
            assert at.peer.address in addresses
            assert at.mailbox.address not in addresses

        play(self.harness(tmp_path), scenario)
