"""The Agent Relay adapter: one id's mailbox at such a server.

Mail to one agent is a copy that the server gives, and our file says what was taken; mail that one of several takes is
claimed there. Its events wake us; without them it is polled. It may not recognise a second delivery: an item goes out
under a key of its own, and is looked for by it before it is sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.clock import Clock, SystemClock
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, RefusedFault, UsageFault
from agent_mailer.groups import spread
from agent_mailer.mailbox.http import TooLarge, doubt_of
from agent_mailer.mailbox.port import (
    Capabilities,
    Contact,
    Delivered,
    Delivery,
    Draft,
    Envelope,
    Gone,
    Listing,
    MailboxRefused,
    MailboxUnavailable,
    Message,
    NoWay,
    Outgoing,
    Presence,
    Progress,
    Refused,
    Route,
    Stage,
    Unreadable,
)
from agent_mailer.mailbox.relay import compose, reader
from agent_mailer.mailbox.relay.claims import Claims
from agent_mailer.mailbox.relay.compose import Payload, payload_of
from agent_mailer.mailbox.relay.events import Events
from agent_mailer.mailbox.relay.inbox import Inbox
from agent_mailer.mailbox.relay.reader import Card, Row, number_of, task_of
from agent_mailer.mailbox.relay.seen import Seen
from agent_mailer.mailbox.relay.server import CallRefused, Server
from agent_mailer.mailbox.relay.session import Account, Session
from agent_mailer.mailbox.relay.tending import Tending
from agent_mailer.mailbox.server_drafts import MAX_BODY_BYTES
from agent_mailer.mailbox.under_way import UNDER_WAY_SECONDS, UnderWay
from agent_mailer.names import printable

LOOKED_BACK: Final = (5000, 500, 50)
"""So many of the newest messages of the server are looked through for one of ours; fewer where they are too large."""


class Rhythm(msgspec.Struct, frozen=True):
    """Seconds between two looks: without mail or while events come, and after there was mail without them."""

    idle: float = 60.0
    active: float = 10.0


class RelayMailbox:
    """Implements `agent_mailer.mailbox.port.Mailbox`. `seen`: the file of what was taken.

    Only what listens needs `open`. Raises ConfigFault for a URL or token that can be none.
    """

    def __init__(
        self,
        account: Account,
        seen: Path,
        disk: Disk,
        *,
        rhythm: Rhythm | None = None,
        clock: Clock | None = None,
        under_way: float = UNDER_WAY_SECONDS,
    ) -> None:
        if not account.name:
            raise ConfigFault("no_address", "address is missing", "agent-mailer config set address NAME")
        self._name = account.name
        self._clock = clock or SystemClock()
        self._rhythm = rhythm or Rhythm()
        self._server = Server(account.url, account.token)
        self._session = Session(self._server, account)
        self._claims = Claims(self._server, self._session, self._clock)
        self._inbox = Inbox(self._server, self._session, self._claims, Seen(seen, disk))
        self._events: Events | None = None
        self._tending: Tending | None = None
        self._awake = asyncio.Event()
        self._had_mail = False
        self._looked_at = float("-inf")
        """When the last look was, or when one was due."""
        self._under_way = UnderWay(self._clock, under_way)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="relay",
            pushes=self._events is not None and self._events.healthy,
            recognises_delivery=False,
            carries_marks=True,
            max_message_bytes=MAX_BODY_BYTES,
            keeps_dates=False,
            keeps_done=False,
            asks_again=True,
        )

    @property
    def address(self) -> str:
        return self._name

    async def version(self) -> str:
        """As the server tells it; empty where it tells none. Raises MailboxUnavailable."""
        return await self._server.version()

    async def register(self) -> None:
        """Raises ConfigFault, MailboxRefused, MailboxUnavailable."""
        await self._session.register()

    async def registered(self) -> Card | None:
        """How the server shows us to others. Raises MailboxUnavailable."""
        return await self._server.agent(self._name)

    async def open(self) -> None:
        """Raises RefusedFault where the token is refused, ConfigFault, MailboxUnavailable."""
        if self._events is not None:
            return
        try:
            await self._session.register()
        except MailboxRefused as fault:
            raise RefusedFault(fault.code, fault.message, fault.fix) from fault
        self._inbox.forget()
        self._inbox.is_ours = True
        self._awake = asyncio.Event()
        self._awake.set()
        self._events = Events(self._server.peer, self._name, self._awake.set)
        self._tending = Tending(self._session, self._claims, self._clock, self._begin_anew, self._awake.set)
        self._tending.do(self._inbox.decline_pairs)
        self._events.start()
        self._tending.start()

    async def close(self) -> None:
        if self._events is not None and self._tending is not None:
            events, tending, self._events, self._tending = self._events, self._tending, None, None
            await events.close()
            await tending.close()

    async def wait(self) -> None:
        if self._events is None:
            raise RuntimeError("wait needs an open mailbox")
        fast = self._had_mail and not self._events.healthy
        due = self._looked_at + (self._rhythm.active if fast else self._rhythm.idle)
        try:
            async with asyncio.timeout(max(0.0, due - self._clock.monotonic())):
                await self._awake.wait()
        except TimeoutError:
            self._looked_at = self._clock.monotonic()
        self._awake.clear()
        if self._session.lost is not None:
            raise self._session.lost

    async def pending(self, limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
        del woken  # an event is no more than a sign that there may be mail
        self._looked_at = self._clock.monotonic()
        listing = await self._inbox.pending(limit, beside)
        self._had_mail = bool(listing.envelopes)
        return listing

    async def everything(self) -> list[tuple[Envelope, str, bool]]:
        """All that the server has, oldest first, each with its subject and whether it was not taken yet."""
        return await self._inbox.everything()

    async def claim(
        self, envelope: Envelope, *, again: bool = False, silent: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        del silent, turn_id
        taken = await self._inbox.claim(envelope, again=again)
        if isinstance(taken, Message) and self._tending is not None:
            self._tending.claimed()
        return taken

    async def read(self, envelope: Envelope) -> Message | Gone:
        return await self._inbox.read(envelope)

    async def thread(self, thread_id: str) -> Sequence[Message]:
        return await self._inbox.thread(thread_id)

    async def contacts(self) -> Sequence[Contact]:
        found = sorted(await self._server.agents(), key=lambda card: card.id)
        return [
            Contact(
                card.id,
                printable(" ".join(filter(None, (card.label or card.name, card.status))), 200),
                (
                    *card.tags,
                    *(f"cap:{one}" for one in card.capabilities),
                    *([f"label:{card.label}"] if card.label else []),
                ),
            )
            for card in found
            if card.id != self._name
        ]

    async def way_back(self, envelope: Envelope) -> Route | NoWay | None:
        """The server knows every sender."""

    def compose(
        self, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
    ) -> Sequence[Outgoing] | Refused:
        del routes  # every name is the server's to find
        return compose.compose(self._name, draft, origin, turn_id)

    async def deliver(self, item: Outgoing) -> Delivery:
        try:
            payload = payload_of(item)
        except (msgspec.DecodeError, RecursionError):
            return Refused("this was composed for another kind of mailbox")
        if payload.claimed is not None and (other := await self._claims.whose(payload.claimed)):
            return Refused(f"our claim has run out, and {printable(other, 100)} has the message now: it answers")
        # Who was answered was there; a name that nobody has ever had gets no mail. A group is the server's to find.
        is_one = not payload.is_answer and not payload.is_claimable
        if is_one and await self._server.agent(item.recipient) is None:
            return Refused(f"the server knows no {printable(item.recipient, 100)}")
        try:
            with self._under_way.asking(item.id):
                row = await self._send(item, payload)
        except CallRefused as fault:
            # Whoever made a task need be no agent: then the task alone has the answer.
            if payload.task and await self._inbox.tell_task(payload.task, reader.STATUS_STARTED, payload.body):
                return Delivered()
            return Refused(fault.message)
        except MailboxUnavailable as fault:
            return doubt_of(fault)
        self._under_way.answered(item.id)
        if payload.task:
            # The answer has left, and is to leave once: what the task has of it is beside that.
            with suppress(MailboxUnavailable):
                await self._inbox.tell_task(payload.task, reader.STATUS_STARTED, payload.body)
        return _delivered(row, item)

    async def look(self, item: Outgoing) -> bool:
        return await self.find(item) is not None

    async def find(self, item: Outgoing) -> Delivered | None:
        """The item as it has arrived; that it has not is said once no request of ours can be under way any more."""
        row = await self._row_of(item)
        if row is None and (rest := self._under_way.rest(item.id)) > 0:
            await asyncio.sleep(rest)
            row = await self._row_of(item)
        return _delivered(row, item) if row is not None else None

    async def is_same(self, there: Delivered, item: Outgoing) -> bool:
        """Whether what lies under that name says what the item does."""
        said, row = payload_of(item), await self._server.row(number_of(there.id) or 0)
        return row is None or (row.subject, row.body) == (said.subject, said.body)

    def report(self, envelope: Envelope, progress: Progress) -> None:
        """Others see whether we work; a task that it has begun."""
        if self._tending is None:
            return
        self._tending.work(envelope.id, on=progress.stage is not Stage.SETTLED)
        if progress.stage is Stage.STARTED and (task := task_of(envelope.locator)):
            self._tending.do(lambda: self._inbox.tell_task(task, reader.STATUS_STARTED))

    def announce(self, presence: Presence, note: str = "") -> None:
        del note
        if self._tending is not None:
            self._tending.take_mail(on=presence is Presence.ACTIVE)

    async def done(self, envelope: Envelope, progress: Progress | None = None) -> None:
        await self._inbox.finish(envelope, progress)
        if self._tending is not None:
            self._tending.work(envelope.id, on=False)

    async def reject(self, item: Unreadable) -> None:
        self._inbox.put_away(item.locator)

    async def set_aside(self, envelope: Envelope, why: str = "") -> None:
        del why
        self._inbox.put_away(envelope.id)

    async def settled(self, envelope: Envelope) -> Message | None:
        """Its numbers are the server's own: it has one message of each."""
        del envelope
        return None

    def put_back(self, locator: str, digest: str, new_id: str = "") -> Refused | None:
        del locator, digest, new_id
        return Refused("it is asked for again at the server, not put back")

    async def ask_again(self, locator: str) -> Refused | None:
        return self._inbox.list_again(locator)

    def _begin_anew(self) -> None:
        """The server had forgotten us: it may be another one."""
        self._inbox.forget()
        self._awake.set()

    async def _send(self, item: Outgoing, payload: Payload) -> Row:
        body: dict[str, object] = {
            "from": self._name,
            "to": item.recipient,
            "subject": payload.subject,
            "body": payload.body,
            "idempotencyKey": item.id,
            "payload": reader.payload_of(payload.marks),
            **({"claimable": True} if payload.is_claimable else {}),
            **({} if payload.reply_to is None else {"replyTo": payload.reply_to}),
        }
        row = await self._server.send(body)
        return row if row.moment else await self._server.row(row.number) or row

    async def _row_of(self, item: Outgoing) -> Row | None:
        """In the thread that it answers, and in what its recipient was sent of late."""
        try:
            payload = payload_of(item)
        except (msgspec.DecodeError, RecursionError):
            return None
        rows = await self._server.thread(payload.reply_to) if payload.reply_to is not None else []
        found = next((row for row in rows if row.key == item.id and row.sender == self._name), None)
        if found is not None:
            return found
        newest = await self._server.newest()
        whose = item.recipient if not payload.is_claimable else await self._one_of(item.recipient)
        for back in LOOKED_BACK:
            with suppress(TooLarge):
                try:
                    rows, _ = await self._server.rows(whose, unread=False, since=max(0, newest - back))
                except CallRefused:
                    return None
                return next((row for row in rows if row.key == item.id and row.sender == self._name), None)
        return None

    async def _one_of(self, group: str) -> str:
        """Somebody who sees what is sent to the group."""
        contacts = {one.address: one.tags for one in await self.contacts()}
        with suppress(UsageFault):
            return spread((group,), contacts, self._name)[0]
        return self._name


def _delivered(row: Row, item: Outgoing) -> Delivered:
    thread = item.thread if item.thread != item.id else row.marks.thread or str(row.number)
    return Delivered(id=row.id, thread="" if thread == item.thread else thread)
