"""One Agent Relay server, asked over HTTP: its calls, and what a refusal of one means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from agent_mailer.mailbox.http import Answer, Peer
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable, Unreadable
from agent_mailer.mailbox.relay import reader
from agent_mailer.mailbox.relay.reader import Card, Row

SECONDS: Final = 30.0
"""Of one call."""

T = TypeVar("T")


class CallRefused(MailboxUnavailable):
    """The server understood the call and says no; `message` says why, in its words."""


class NotThere(CallRefused):
    """What was asked about, or the call itself, is not there."""


class Conflict(CallRefused):
    """It is somebody else's. `stale`: because our own registration is not the newest."""

    stale = False


class Server:
    """Raises ConfigFault for a URL or token that can be none."""

    def __init__(self, url: str, token: str = "") -> None:
        if url and urlsplit(url.strip()).path in ("", "/"):
            url = url.strip().rstrip("/") + "/api"
        self.peer = Peer(url, {"Authorization": f"Bearer {token}"} if token else {})
        self._secret = token

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
    ) -> Answer:
        """The answer to what was taken. Raises CallRefused, Lost, MailboxRefused, MailboxUnavailable."""
        content = None if body is None else msgspec.json.encode(body)
        answer = await self.peer.ask(method, path, content=content, query=query, seconds=SECONDS)
        if answer.ok:
            return answer
        raise self._refusal(answer, path)

    async def version(self) -> str:
        return self._read((await self.call("GET", "/stats")).body, reader.version_in)

    async def agents(self) -> list[Card]:
        return self._read((await self.call("GET", "/agents")).body, reader.cards_in)

    async def agent(self, name: str) -> Card | None:
        try:
            return self._read((await self.call("GET", f"/agents/{quote(name, safe='')}")).body, reader.card_in)
        except NotThere:
            return None

    async def rows(self, whose: str, *, unread: bool, since: int = 0) -> tuple[list[Row], list[Unreadable]]:
        """What was sent to `whose`, by number; `since`: no lower one than that is needed."""
        query: dict[str, str | int] = {"for": whose, **({"unread": "true"} if unread else {})}
        if since:
            query["since"] = since
        return self._read((await self.call("GET", "/messages", query=query)).body, reader.rows_in)

    async def row(self, number: int) -> Row | None:
        """None where there is no such message."""
        try:
            return self._read((await self.call("GET", f"/messages/{number}")).body, reader.row_in)
        except NotThere:
            return None

    async def thread(self, number: int) -> list[Row]:
        try:
            return self._read((await self.call("GET", f"/messages/{number}/thread")).body, reader.rows_in)[0]
        except NotThere:
            return []

    async def newest(self) -> int:
        """The number of the newest message; 0 where the server does not tell."""
        try:
            return reader.number_in((await self.call("GET", "/messages/cursor")).body)
        except (CallRefused, reader.Strange):
            return 0

    async def send(self, body: Mapping[str, object]) -> Row:
        """Raises as `call`; MailboxUnavailable, with what was sent in doubt, for an answer that we cannot read."""
        return self._read((await self.call("POST", "/messages", body)).body, reader.row_in)

    def read_card(self, answer: Answer) -> Card:
        """Raises MailboxUnavailable."""
        return self._read(answer.body, reader.card_in)

    def _read(self, body: bytes, how: Callable[[bytes], T]) -> T:
        try:
            return how(body)
        except reader.Strange:
            glimpse = Answer(200, body).glimpse()
            raise self.unavailable(f"gives no answer of an Agent Relay server: {glimpse}") from None

    def unavailable(self, what: str) -> MailboxUnavailable:
        fix = "is it the right server? agent-mailer config set broker_url URL"
        return MailboxUnavailable("mailbox_answer", f"{self.peer.shown} {what}", fix)

    def _refusal(self, answer: Answer, path: str) -> MailboxUnavailable:
        glimpse = answer.glimpse()
        if self._secret:
            glimpse = glimpse.replace(self._secret, "***")
        said = f"{self.peer.shown} answers {answer.status}: {glimpse}"
        if reader.is_stale(answer.status, answer.body):
            fault = Conflict("mailbox_conflict", said)
            fault.stale = True
            return fault
        if answer.status in (401, 403):
            return MailboxRefused("key_refused", said, "agent-mailer config set api_key TOKEN")
        if answer.status in (404, 405, 410, 501):
            is_home = path in ("/messages", "/agents", "/stats")
            return (
                self.unavailable(f"answers {answer.status}: is the path right? it is /api")
                if is_home
                else NotThere("mailbox_refused", said)
            )
        if answer.status == 409:
            return Conflict("mailbox_conflict", said)
        if answer.status in (400, 413, 415, 422):
            return CallRefused("mailbox_refused", said)
        return MailboxUnavailable("mailbox_failed", said, "see the server's log")
