"""A person's mail at an mcp_agent_mail or Agent Relay server: under a name of its own, or as the workdir's agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from agent_mailer.at_server import mcp_agent_mail, person_of, relay
from agent_mailer.config import MailboxKind
from agent_mailer.errors import ConfigFault, MailerError, RefusedFault, UnavailableFault, UsageFault
from agent_mailer.groups import ONE_OF, names_group
from agent_mailer.mailbox.port import (
    Delivered,
    Delivery,
    Draft,
    Envelope,
    Mailbox,
    MailboxRefused,
    MailboxUnavailable,
    Message,
    Outgoing,
    Refused,
    Unknown,
    Unreadable,
)
from agent_mailer.names import printable
from agent_mailer.people.at_server import AtServer
from agent_mailer.people.port import (
    EVERYTHING,
    Found,
    Receipt,
    Report,
    Rest,
    Search,
    Sent,
    Standing,
    Told,
    dedupe_conflict,
    unknown_recipients,
)

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

LOOK_EVERY: Final = 2.0
"""Seconds between two looks for an answer: each costs the server a little."""


class Listed(Mailbox, Protocol):
    """What such a server can do for a person beside the port."""

    async def everything(self) -> list[tuple[Envelope, str, bool]]: ...

    async def find(self, item: Outgoing) -> Delivered | None: ...

    async def is_same(self, there: Delivered, item: Outgoing) -> bool: ...


def mail_at(place: Workplace, whose: str | None) -> ServerMail:
    """That of the person there, or of `whose`. Raises ConfigFault."""
    name = whose or person_of(place)
    is_agent = name == place.config.address
    if place.config.mailbox_kind is MailboxKind.RELAY:
        at_relay = relay(place, name)
        return ServerMail(place, name, at_relay, None if is_agent else at_relay.register)
    if not place.config.broker_url:
        fix = "agent-mailer config set broker_url http://127.0.0.1:8765"
        raise ConfigFault("incomplete", "mail at an mcp_agent_mail server needs broker_url", fix)
    return ServerMail(place, name, mcp_agent_mail(place, name, "" if is_agent else "agent-mailer"))


class ServerMail(AtServer[Listed]):
    """Implements `agent_mailer.people.port.PersonalMail`. `arrive` makes a person known there, where that is needed."""

    def __init__(
        self,
        place: Workplace,
        name: str,
        mailbox: Listed,
        arrive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._address = name
        self._url = place.config.broker_url
        self._is_watched = name == place.config.address
        self.mailbox = mailbox
        self._arrive = arrive
        self._odd: tuple[Unreadable, ...] = ()
        self._once = set[str]()

    @contextmanager
    def faults(self) -> Iterator[None]:
        with in_words():
            yield

    async def listed(self, search: Search = EVERYTHING, *, read_too: bool) -> Sequence[Found]:
        if search.context:
            raise UsageFault("no_context", "mail at this server has no context", "leave out --context")
        await self._be_known()
        self._odd = (await self.mailbox.pending(1)).unreadable
        found = [
            Found(Message(envelope, subject=subject), new)
            for envelope, subject, new in await self.mailbox.everything()
            if new or read_too
        ]
        matching = [one for one in found if search.takes(one.message)]
        matching = matching[: max(0, len(matching) - search.offset)]
        return matching[-search.limit :] if search.limit else matching

    def no_messages(self) -> Sequence[str]:
        return [printable(f"{one.locator}: {one.why}") for one in self._odd]

    async def find(self, typed: str) -> Found:
        return await self.picked(typed, await self.listed(read_too=True))

    async def not_carried(self, draft: Draft) -> Sequence[str]:
        return ["labels"] if any(not one.startswith(ONE_OF) for one in draft.labels) else []

    async def require_known(self, recipients: Sequence[str]) -> None:
        await self._be_known()
        known = {contact.address for contact in await self.mailbox.contacts()} | {self._address}
        folded = {name.casefold() for name in known}
        # Another project's agents are the server's to find.
        unknown = [name for name in recipients if name.casefold() not in folded and not name.startswith("project:")]
        unknown = [name for name in unknown if not names_group(name)]
        if unknown:
            raise unknown_recipients(unknown, "at the server", known)

    async def as_first_sent(self, items: Sequence[Outgoing]) -> Sequence[Outgoing]:
        self._once.update(item.id for item in items)
        return items

    async def deliver(self, item: Outgoing) -> Delivery:
        # What has no dedupe key was never sent before.
        if item.id in self._once and (there := await self.mailbox.find(item)) is not None:
            if not await self.mailbox.is_same(there, item):
                raise dedupe_conflict(there.id, f"agent-mailer mail thread {printable(there.thread or item.thread)}")
            return there
        outcome = await self.mailbox.deliver(item)
        if isinstance(outcome, Unknown) and (there := await self.mailbox.find(item)) is not None:
            return there
        if isinstance(outcome, Refused):
            raise MailerError("not_sent", outcome.why, "agent-mailer mail contacts")
        return outcome

    async def drained(self, limit: int) -> AsyncIterator[Message | Unreadable]:
        await self._be_known()
        listing = await self.mailbox.pending(limit or 100_000)
        for envelope in listing.envelopes:
            message = await self.mailbox.claim(envelope)
            if isinstance(message, Message):
                # Claimed it is not listed again: what fails from here on must not keep it from being told.
                yield message
                await self.mailbox.done(envelope)
        for bad in listing.unreadable:
            await self.mailbox.reject(bad)
            yield bad

    async def _be_known(self) -> None:
        if self._arrive is not None:
            arrive, self._arrive = self._arrive, None
            await arrive()

    async def require_receipts(self, recipients: Sequence[str], *, dead_letters: bool) -> None:
        del recipients, dead_letters
        raise UsageFault("no_receipts", "this server shows a sender no receipts", "wait for the answer: --wait SECONDS")

    async def who(self) -> Sequence[Standing]:
        found = sorted(await self.mailbox.contacts(), key=lambda contact: contact.address)
        return [Standing(self._address), *(Standing(one.address, note=one.note) for one in found)]

    async def told(self, typed: str | None, newest: int) -> Sequence[Told]:
        del typed, newest
        raise MailerError("no_receipts", "this server shows a sender no receipts", "agent-mailer mail thread THREAD")

    async def sent(self, newest: int) -> Sequence[Message]:
        del newest
        raise MailerError(
            "not_listed", "this server lists the mail that came, not what was sent", "agent-mailer mail thread THREAD"
        )

    @asynccontextmanager
    async def listening(self, sent: Sent | None) -> AsyncIterator[Rest]:
        del sent

        async def rest(longest: float) -> None:
            await asyncio.sleep(min(LOOK_EVERY, longest))

        yield rest

    async def receipts(self, sent: Sent, taken: Set[str]) -> Sequence[Receipt]:
        del sent, taken
        return []

    async def standing(self, sent: Sent, recipient: str) -> Report | None:
        del sent, recipient
        return None

    def is_of(self, place: Workplace, recipient: str) -> bool:
        config = place.config
        return not place.in_folder and config.address == recipient and config.broker_url == self._url

    async def arrived(self, sent: Sent, seen: Set[str]) -> Sequence[Message]:
        thread = await self.mailbox.thread(sent.thread)
        return [one for one in thread if one.envelope.sender != self._address and one.envelope.id not in seen]


@contextmanager
def in_words() -> Iterator[None]:
    """Raises RefusedFault (77), UnavailableFault (69) or MailerError (1) for what the server says no to."""
    try:
        yield
    except MailboxRefused as fault:
        raise RefusedFault(fault.code, fault.message, fault.fix) from None
    except MailboxUnavailable as fault:
        if fault.code == "mailbox_refused":
            raise MailerError(fault.code, fault.message, fault.fix or "agent-mailer verify") from None
        raise UnavailableFault(fault.code, fault.message, fault.fix) from None
