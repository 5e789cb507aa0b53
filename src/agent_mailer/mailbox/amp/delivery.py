"""Getting an item out, and finding out whether it has left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.mailbox.amp.answers import (
    NO_JSON,
    Answer,
    InDoubt,
    RequestRefused,
    TooLarge,
    detail_of,
    is_stale,
    unavailable,
)
from agent_mailer.mailbox.amp.client import GROUP_MAIL
from agent_mailer.mailbox.amp.compose import Payload, Request, payload_of
from agent_mailer.mailbox.amp.link import OF_THE_AGENT, Link
from agent_mailer.mailbox.amp.transport import NO_HTML, path_of, quick_tries
from agent_mailer.mailbox.amp.wire import Heard, Page, heard_in, parse_object
from agent_mailer.mailbox.port import Delivered, Delivery, MailboxUnavailable, Outgoing, Refused, Unknown
from agent_mailer.mailbox.server_drafts import NO_GROUPS
from agent_mailer.mailbox.under_way import UNDER_WAY_SECONDS, UnderWay

CLOCKS_APART: Final = 3600.0
"""A message written by the broker's clock up to an hour before its draft may still be that draft."""

NEWEST_PAGES: Final = (100, 20, 4, 1)


class _Sent(msgspec.Struct):
    id: str
    thread_id: str


class Sender:
    """Sends for one agent.

    Where a broker cannot recognise a second delivery, `look` waits until no request of ours can be under way any more.
    """

    def __init__(self, link: Link, clock: Clock, *, under_way: float = UNDER_WAY_SECONDS) -> None:
        self._link = link
        self._under_way = UnderWay(clock, under_way)

    async def deliver(self, item: Outgoing) -> Delivery:
        try:
            payload = payload_of(item)
            of_group = payload.decoded().one_of
        except (msgspec.DecodeError, RecursionError):
            return Refused("this was composed for another kind of mailbox")
        if of_group and GROUP_MAIL not in (await self._link.broker()).extensions:
            return NO_GROUPS
        doubt, recognised = "", False
        try:
            async for attempt in quick_tries():
                recognised = (await self._link.broker()).ours and (recognised or not doubt)
                if doubt and not recognised:
                    break  # sent again, it might arrive twice
                with attempt:
                    try:
                        return await self._send(item, payload)
                    except InDoubt as fault:
                        doubt = fault.message
                        raise
        except MailboxUnavailable:
            if not doubt:
                raise
        return Unknown(doubt)

    async def look(self, item: Outgoing) -> bool:
        if (await self._link.broker()).ours:
            return await self._is_there(item)
        try:
            payload = payload_of(item)
            request = payload.decoded()
        except (msgspec.DecodeError, RecursionError):
            return False
        await asyncio.sleep(self._under_way.rest(item.id))
        if request.action == "send":
            found = await self._newest_of(item.recipient)
        else:
            found = await self._thread(item.thread)
        return any(_same(heard, request, payload.created) for heard in found)

    async def _send(self, item: Outgoing, payload: Payload) -> Delivery:
        body = bytes(payload.request)
        headers = {"Idempotency-Key": payload.idempotency_key, **self._link.fence}
        try:
            with self._under_way.asking(item.id):
                answer = await self._link.ask(
                    lambda transport, _: transport.ask(
                        "POST", "/messages/send", query=NO_HTML, content=body, headers=headers, tries=1
                    )
                )
        except TooLarge as fault:
            return Unknown(fault.message)
        result = await self._judge(answer, item)
        if not isinstance(result, Unknown):
            self._under_way.answered(item.id)
        return result

    async def _judge(self, answer: Answer, item: Outgoing) -> Delivery:
        detail = detail_of(answer)
        if answer.ok:
            return _delivered(answer, item)
        if is_stale(answer):
            raise self._link.puzzled(answer)
        if answer.status == 413 or (detail is not None and answer.status in (400, 409, 422)):
            return Refused(f"{answer.status}: {detail or 'too large for the broker'}")
        if detail is not None and answer.status in (403, 404):
            # Of the agent, or of the recipient? Only the agent's own page can tell.
            await self._link.ask(
                lambda transport, agent_id: transport.ask("GET", path_of("agents", agent_id)), OF_THE_AGENT
            )
            return Refused(f"{answer.status}: {detail}")
        if answer.status >= 500:
            return Unknown(unavailable(answer).message)
        raise unavailable(answer)

    async def _is_there(self, item: Outgoing) -> bool:
        try:
            path = path_of("messages", item.id)
        except ValueError:
            return False
        try:
            answer = await self._link.ask(lambda transport, _: transport.ask("GET", path, query=NO_HTML))
        except TooLarge as fault:
            return fault.status == 200
        if answer.ok:
            return True
        if answer.status in (403, 404) and detail_of(answer) not in (None, "Not Found"):
            return False
        self._link.doubt()
        raise unavailable(answer)

    async def _thread(self, thread: str) -> list[Heard]:
        try:
            path = path_of("messages", "thread", thread)
        except ValueError:
            return []
        answer = await self._link.ask(lambda transport, _: transport.ask("GET", path, query=NO_HTML))
        if answer.status == 404 and detail_of(answer) is not None:
            return []
        if not answer.ok:
            raise unavailable(answer)
        return heard_in(answer)

    async def _newest_of(self, recipient: str) -> list[Heard]:
        """The newest mail of another agent of the same user, as far as our key may see it."""
        agent_id = ""
        with suppress(RequestRefused):
            agent_id = next((one.id for one in await self._link.client.agents() if one.address == recipient), "")
        if not agent_id:
            return []
        path = path_of("messages", "inbox", recipient)
        for size in NEWEST_PAGES:
            query = {"agent_id": agent_id, "all": "true", "page": 1, "page_size": size}
            with suppress(TooLarge):
                answer = await self._link.ask(lambda transport, _, q=query: transport.ask("GET", path, query=q))  # type: ignore[misc]
                if answer.status in (403, 404):
                    return []
                if not answer.ok:
                    raise unavailable(answer)
                return heard_in(answer, bytes(parse_object(answer, Page).messages))
        return []


def _delivered(answer: Answer, item: Outgoing) -> Delivery:
    for shape in (_Sent, list[_Sent]):
        try:
            found = msgspec.json.decode(answer.body, type=shape)
        except NO_JSON:
            continue
        sent = found[0] if isinstance(found, list) and found else found
        if isinstance(sent, _Sent):
            return Delivered(
                id="" if sent.id == item.id else sent.id,
                thread="" if sent.thread_id == item.thread else sent.thread_id,
            )
    # It says yes, but in words that are not a broker's: a proxy may have spoken.
    return Unknown(unavailable(answer).message)


def _same(heard: Heard, request: Request, created: float) -> bool:
    """Whether a message at the broker is what this request would make."""
    message = heard.message
    envelope = message.envelope
    if (envelope.sender, heard.action) != (request.from_agent, request.action):
        return False
    if request.to_agent not in envelope.to or envelope.created < created - CLOCKS_APART:
        return False
    if message.subject != request.subject or heard.parent_id != (request.parent_id or ""):
        return False
    if request.action == "forward":
        return message.body.startswith(request.body)
    return message.body == request.body
