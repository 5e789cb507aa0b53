"""What waits, and taking it: a window onto the newest thousand, what lies beyond it by number, and a file of claims."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import msgspec

from agent_mailer.mailbox.http import TooLarge
from agent_mailer.mailbox.mcp_agent_mail.identity import Identity, Registration
from agent_mailer.mailbox.mcp_agent_mail.rpc import WRITE_SECONDS, Forgotten, Server, ToolRefused
from agent_mailer.mailbox.mcp_agent_mail.seen import OVERLAP, Seen
from agent_mailer.mailbox.mcp_agent_mail.wire import (
    Row,
    envelope_of,
    identifier,
    is_contact_request,
    message_of,
    number_of,
    rows_in,
    since,
)
from agent_mailer.mailbox.port import (
    MAX_WAITING,
    Envelope,
    Gone,
    Listing,
    MailboxRefused,
    MailboxUnavailable,
    Message,
    Refused,
    Unreadable,
    oldest_of_each,
)

WINDOW: Final = 1000
"""The server shows the newest thousand; older ones it leaves out without a word."""

PROBED: Final = 50
"""Numbers beyond the window that one look asks for, each by itself."""

TRIES: Final = 20
"""Looks at which the server fails at the same number, and lists all the same: then it waits for a person."""


class _Thread(msgspec.Struct):
    messages: list[msgspec.Raw] = []


class Inbox:
    """One name's inbox. Every method raises MailboxUnavailable."""

    def __init__(self, server: Server, registration: Registration, seen: Seen, *, window: int = WINDOW) -> None:
        self._server = server
        self._registration = registration
        self._seen = seen
        self._window = window
        self._waiting: dict[str, Envelope] = {}
        self._odd: dict[str, Unreadable] = {}
        self._newest: float | None = None
        """The moment of the newest message that was listed; None = nothing is known yet."""
        self._highest = 0
        self._gap: list[int] = []
        """Numbers that may be mail of ours beyond the window, the highest first."""
        self._failed: Counter[int] = Counter()
        """How often the server failed at a number of these."""
        self._asks_on = False
        self._listing = asyncio.Lock()

    def forget(self) -> None:
        """Begin anew at the next look."""
        self._newest = None
        self._gap = []
        self._failed.clear()
        self._seen.forget()

    @property
    def is_behind(self) -> bool:
        """There are numbers yet to be asked for, and the server did not fail at the last."""
        return self._asks_on

    async def pending(self, limit: int, beside: Collection[str]) -> Listing:
        async with self._listing:
            rows = await self._fetch()
            if self._newest is None:
                self._waiting.clear()
                self._odd.clear()
                self._highest = self._seen.top
            self._take(rows)
            await self._probe()
        waiting = [one for one in self._waiting.values() if one.id not in self._seen]
        odd = [one for one in self._odd.values() if one.locator not in self._seen]
        more = bool(self._gap) or len(waiting) > limit
        return Listing(oldest_of_each(waiting, limit, beside), tuple(odd), more=more)

    async def everything(self) -> list[tuple[Envelope, str, bool]]:
        """The newest thousand, oldest first, each with its subject and whether it was not taken yet."""
        rows, _ = rows_in(await self._rows({"limit": self._window}))
        mine = [row for row in rows if not is_contact_request(row)]
        found = [(envelope_of(row, (self._registration.name,)), row.subject or "") for row in mine]
        found.sort(key=lambda one: one[0].order)
        return [(envelope, subject, envelope.id not in self._seen) for envelope, subject in found]

    async def claim(self, envelope: Envelope, *, again: bool) -> Message | Gone:
        if envelope.id in self._seen and not again:
            return Gone("it was taken before")
        message = await self.read(envelope)
        if isinstance(message, Message):
            self._put_away(envelope.id, envelope.created)
        elif message.unreadable is None:
            self._waiting.pop(envelope.id, None)
        return message

    async def read(self, envelope: Envelope) -> Message | Gone:
        number = number_of(envelope.id)
        row = await self._row(number) if number is not None else None
        if isinstance(row, Unreadable):
            return Gone(row.why, unreadable=row)
        if row is None or identifier(row) != envelope.id:
            return Gone("the server has no such message any more")
        return message_of(row, envelope.to)

    async def thread(self, thread: str) -> list[Message]:
        me = await self._registration.identity()
        uri = f"resource://thread/{quote(thread, safe='')}?include_bodies=true&{_who(me)}"
        try:
            found = await self._server.resource(uri, _Thread, me.token)
        except ToolRefused:
            return []
        rows, _ = rows_in(found.messages)
        # Whom a message of ours went to it does not say here.
        said = [message_of(row, () if row.sender == me.name else (me.name,)) for row in rows]
        return sorted(said, key=lambda message: message.envelope.order)

    async def finish(self, envelope: Envelope) -> None:
        """A receipt for people; what is gone is finished."""
        number = number_of(envelope.id)
        if envelope.id not in self._seen:
            self._put_away(envelope.id, envelope.created)
        me = await self._registration.identity()
        tool = "acknowledge_message" if envelope.locator.endswith("!") else "mark_message_read"
        order = {"project_key": me.project, "agent_name": me.name, "registration_token": me.token}
        with suppress(ToolRefused):  # it has gone meanwhile: nobody waits for the receipt
            await self._server.call(tool, {**order, "message_id": number or 0}, msgspec.Raw, seconds=WRITE_SECONDS)

    def put_away(self, name: str) -> None:
        """What was listed under that id or locator is not listed again."""
        if name not in self._seen:
            known = self._waiting.get(name)
            self._put_away(name, known.created if known is not None else self._newest or self._seen.since)

    def list_again(self, name: str) -> Refused | None:
        if not self._seen.remove(name, number_of(name.removeprefix("row-"))) and name not in self._odd:
            return Refused("it was not put away here")
        self.forget()
        return None

    def _put_away(self, name: str, moment: float) -> None:
        left = [one.created for one in self._waiting.values() if one.id != name and one.id not in self._seen]
        floor = min(left, default=self._newest if self._newest is not None else 0.0)
        if self._newest is None or self._gap:
            floor = 0.0  # what lies beyond is not known yet
        top = self._gap[-1] - 1 if self._gap else self._highest
        self._seen.add(name, moment, floor, top)
        self._waiting.pop(name, None)

    async def _fetch(self) -> list[msgspec.Raw]:
        start = self._seen.since if self._newest is None else max(0.0, self._newest - OVERLAP)
        return await self._rows({"limit": self._window, "since_ts": since(start)})

    async def _rows(self, how: dict[str, str | int]) -> list[msgspec.Raw]:
        for last in (False, True):
            me = await self._registration.identity()
            order = {"project_key": me.project, "agent_name": me.name, "registration_token": me.token}
            try:
                # One of these servers marks as read what it shows, unless it is told not to.
                more = {"include_bodies": False, "mark_read": False}
                return await self._server.call("fetch_inbox", {**order, **how, **more}, list[msgspec.Raw])
            except Forgotten:
                self._registration.doubt()
                self.forget()
                if last:
                    raise
            except MailboxRefused:
                self._registration.doubt()
                raise
        raise AssertionError

    def _take(self, found: list[msgspec.Raw]) -> None:
        rows, odd = rows_in(found)
        for bad in odd:
            self._odd.setdefault(bad.locator, bad)
        for row in rows:
            envelope = envelope_of(row, (self._registration.name,))
            self._newest = max(self._newest or 0.0, envelope.created)
            if envelope.id not in self._seen and not is_contact_request(row) and len(self._waiting) < MAX_WAITING:
                self._waiting[envelope.id] = envelope
        if self._newest is None and not rows:
            self._newest = max(0.0, self._seen.since + OVERLAP)
        numbers = [row.id for row in rows]
        if len(found) >= self._window and numbers and min(numbers) > self._highest + 1:
            self._gap = sorted({*self._gap, *range(self._highest + 1, min(numbers))}, reverse=True)
        self._highest = max([self._highest, *numbers])

    async def _probe(self) -> None:
        """Ask for what the window left out, number by number: most are other people's mail."""
        self._asks_on = False
        for number in sorted(self._gap, key=self._failed.__getitem__)[:PROBED]:
            try:
                row = await self._row(number)
            except (MailboxRefused, Forgotten):
                raise
            except MailboxUnavailable as fault:
                # It has just listed. The next look, should it fail altogether, says so.
                self._failed[number] += 1
                if self._failed[number] < TRIES:
                    return
                row = Unreadable(f"row-{number}-failed", fault.message)
            if isinstance(row, Unreadable):
                self._odd.setdefault(row.locator, row)
            elif row is not None and not is_contact_request(row) and row.sender != self._registration.name:
                envelope = envelope_of(row, (self._registration.name,))
                if envelope.id not in self._seen:
                    self._waiting[envelope.id] = envelope
            self._gap.remove(number)
        self._asks_on = bool(self._gap)

    async def _row(self, number: int) -> Row | Unreadable | None:
        """A message that we may see, with its text."""
        me = await self._registration.identity()
        try:
            raw = await self._server.resource(f"resource://message/{number}?{_who(me)}", msgspec.Raw, me.token)
        except ToolRefused:
            return None
        except TooLarge as fault:
            return Unreadable(f"row-{number}-large", fault.message, too_large=True)
        rows, odd = rows_in([raw])
        return rows[0] if rows else odd[0]


def _who(me: Identity) -> str:
    named = {"project": me.project, "agent": me.name, "agent_token": me.token}
    return "&".join(f"{key}={quote(value, safe='')}" for key, value in named.items())
