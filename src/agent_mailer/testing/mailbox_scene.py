"""What the mailbox suite plays with: two agents on one transport, and what each test does with them again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from agent_mailer.mailbox.port import Action, Delivered, Draft, Envelope, Kind, Mailbox, Message, Outgoing, Refused

MORNING = 1_790_000_000.0


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


def play(harness: MailboxHarness, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    """Run `scenario` with the mailbox under test open, and close it."""

    async def whole() -> None:
        scene = Scene(harness, harness.mailbox(), harness.peer())
        await scene.mailbox.open()
        try:
            await scenario(scene)
        finally:
            await scene.mailbox.close()

    asyncio.run(whole())


def compose(
    sender: Mailbox,
    to: Mailbox,
    key: str,
    *,
    body: str = "work\n",
    subject: str = "",
    created: float = MORNING,
    kind: Kind | None = None,
) -> Sequence[Outgoing]:
    draft = Draft(key=key, action=Action.SEND, created=created, to=(to.address,), subject=subject, body=body, kind=kind)
    composed = sender.compose(draft, None, "turn-0")
    assert not isinstance(composed, Refused), composed
    return composed


async def send(
    sender: Mailbox,
    to: Mailbox,
    key: str,
    *,
    body: str = "work\n",
    subject: str = "",
    created: float = MORNING,
    kind: Kind | None = None,
) -> Outgoing:
    (item,) = compose(sender, to, key, body=body, subject=subject, created=created, kind=kind)
    return await deliver(sender, item)


async def deliver(sender: Mailbox, item: Outgoing) -> Outgoing:
    """The item under the names that the mailbox gave it."""
    delivered = await sender.deliver(item)
    assert isinstance(delivered, Delivered), delivered
    return msgspec.structs.replace(item, id=delivered.id or item.id, thread=delivered.thread or item.thread)


def only(composed: Sequence[Outgoing] | Refused) -> Outgoing:
    assert not isinstance(composed, Refused), composed
    (item,) = composed
    return item


async def waiting(mailbox: Mailbox) -> tuple[Envelope, ...]:
    return (await mailbox.pending(100)).envelopes


async def claim_all(mailbox: Mailbox) -> list[Message]:
    claimed = [await mailbox.claim(envelope) for envelope in await waiting(mailbox)]
    return [message for message in claimed if isinstance(message, Message)]


async def took_a_wake(mailbox: Mailbox) -> bool:
    """Take the wakes that are there already; False once `wait` really waits."""
    waiting = asyncio.create_task(mailbox.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return True
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return False
