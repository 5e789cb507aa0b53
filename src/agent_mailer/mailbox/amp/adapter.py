"""The amp adapter: one agent's mailbox at a broker of the Agent Mailer Protocol.

With our own broker arrivals wake it, a claim is the broker's, and a second delivery is recognised. With any other it
polls: what it has claimed it knows itself, marks it read once it is settled, and looks for an item before sending it
again.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from agent_mailer.clock import Clock, SystemClock
from agent_mailer.errors import ConfigFault, RefusedFault
from agent_mailer.mailbox.amp import compose, wire
from agent_mailer.mailbox.amp.answers import decode, unavailable
from agent_mailer.mailbox.amp.client import LINKS, MEMORIES, AgentInfo, Credentials, agents_in, tags_in
from agent_mailer.mailbox.amp.delivery import Sender
from agent_mailer.mailbox.amp.inbox import Inbox
from agent_mailer.mailbox.amp.link import OF_THE_AGENT, OF_THE_KEY, Link
from agent_mailer.mailbox.amp.receipts import Reporter
from agent_mailer.mailbox.amp.remote import AmpRemote
from agent_mailer.mailbox.amp.stream import Source, Stream
from agent_mailer.mailbox.amp.transport import Limits, path_of
from agent_mailer.mailbox.port import (
    Capabilities,
    Contact,
    Delivery,
    Draft,
    Envelope,
    Gone,
    Listing,
    MailboxRefused,
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
from agent_mailer.mailbox.server_drafts import MAX_BODY_BYTES
from agent_mailer.mailbox.under_way import UNDER_WAY_SECONDS
from agent_mailer.names import printable

NET_SECONDS: Final = 600.0
"""With a stream that works, one look in ten minutes is the net below it."""

FIRST_WORD_SECONDS: Final = 5.0
"""So long `open` waits for the stream; a proxy that holds it back costs the push, not the mailbox."""

FLUSH_SECONDS: Final = 1.0
CONTACTS_SECONDS: Final = 60.0
"""So long a watcher believes whom it was told that there is to write to; others are written to all the same."""


class Rhythm(msgspec.Struct, frozen=True):
    """Seconds between two looks at a broker that cannot wake us: without mail, and after there was mail."""

    idle: float = 60.0
    active: float = 10.0
    net: float = NET_SECONDS


class AmpMailbox:
    """Implements `agent_mailer.mailbox.port.Mailbox`.

    `credentials` reads the configuration anew: it is called once here, and again when the broker refuses what it gave
    before. `watcher` is this watcher's opaque id at the broker, the same after a restart; `watcher_name` tells people
    who that is. Raises ConfigFault for a broker URL or key that can be none.

    Only what listens needs `open`; everything else works without, on a connection of its own.
    """

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        address: str,
        *,
        watcher: str = "",
        watcher_name: str = "",
        rhythm: Rhythm | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        under_way: float = UNDER_WAY_SECONDS,
    ) -> None:
        if not address:
            raise ConfigFault("no_address", "address is missing", "agent-mailer config set address NAME@USER.DOMAIN")
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._rhythm = rhythm or Rhythm()
        self._address = address
        self._watcher = watcher or secrets.token_hex(16)
        self._watcher_name = "".join(c if c.isascii() and c.isprintable() else "?" for c in watcher_name)[:200]
        self._link = Link(credentials, limits=limits, clock=self._clock)
        self._author = compose.Author(self._link.agent_id, address)
        self._sender = Sender(self._link, self._clock, under_way=under_way)
        self._reporter = Reporter(self._link)
        self.remote = AmpRemote(self._link, self._longest_wait)
        """The way to the agent's operator, while it is open."""
        self._stream = Stream(
            lambda: self._link.client.transport,
            self._source,
            self._wake,
            self._held,
            self.remote.wake,
            jitter=jitter,
        )
        self._inbox = Inbox(self._link, self._clock, address, self._watcher)
        self._awake = asyncio.Event()
        self._opened = False
        self._had_mail = False
        self._news = True
        """Something may have arrived since the last look."""
        self._known: tuple[str, float, tuple[Contact, ...]] = ("", 0.0, ())
        """Whose contacts, until when (monotonic), and who they are."""
        self._remembered: tuple[str, float, str] = ("", 0.0, "")
        """What the team of the agent of that id remembers, and until when that is believed."""
        self._team = ""
        """The team's id, as it was when the contacts were read last."""
        self._connection = 0

    @property
    def capabilities(self) -> Capabilities:
        ours = self._link.info is not None and self._link.info.ours
        return Capabilities(
            name="amp",
            pushes=ours,
            recognises_delivery=ours,
            carries_marks=ours,
            max_message_bytes=MAX_BODY_BYTES,
            keeps_dates=False,
            keeps_done=ours,
            asks_again=True,
            vouches=ours,
        )

    async def asked(self) -> Capabilities:
        """The same, once the broker has said what it can do."""
        await self._link.broker()
        return self.capabilities

    @property
    def address(self) -> str:
        return self._address

    async def open(self) -> None:
        """Check key, agent and address, and begin to listen.

        Raises RefusedFault where the broker refuses the key or the agent, ConfigFault where the agent has another
        address there, BusyFault where another watcher holds it.
        """
        if self._opened:
            return
        async with self._link.connected():
            try:
                agent = await self._me()
            except MailboxRefused as fault:
                raise RefusedFault(fault.code, fault.message, fault.fix) from fault
            if agent.address != self._address:
                raise ConfigFault(
                    "address_mismatch",
                    f"agent {printable(self._link.agent_id)} has the address {printable(agent.address)} at its broker,"
                    f" not {printable(self._address)}",
                    f"agent-mailer config set address {printable(agent.address)}",
                )
            info = await self._link.broker()
            self._link.keep()
            self._inbox.forget()
            self._awake.set()
            try:
                await self._stream.start(FIRST_WORD_SECONDS if info.ours else 0.0)
            except BaseException:
                await self._stream.close()
                await self._link.close()
                raise
            self._opened = True

    async def close(self) -> None:
        await self.remote.close(FLUSH_SECONDS)
        await self._stream.close()
        await self._reporter.close(FLUSH_SECONDS)
        await self._link.close()
        self._opened = False

    async def wait(self) -> None:
        if not self._opened:
            raise RuntimeError("wait needs an open mailbox")
        try:
            async with asyncio.timeout(self._longest_wait()):
                await self._awake.wait()
        except TimeoutError:
            self._news = True
        if self._stream.busy is not None:
            raise self._stream.busy
        self._awake.clear()

    async def pending(self, limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
        async with self._link.connected():
            if self._connection != self._stream.connections:
                # What happened while nobody listened is not known.
                self._connection = self._stream.connections
                self._inbox.forget()
            # While the stream holds whatever arrives is told; what our own turns change is known.
            quiet, self._news = woken and self._stream.healthy and not self._news, False
            try:
                listing = await self._inbox.pending(limit, beside, quiet=quiet)
            except BaseException:
                self._news = True
                raise
        self._had_mail = bool(listing.envelopes)
        return listing

    async def claim(
        self, envelope: Envelope, *, again: bool = False, silent: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        async with self._link.connected():
            return await self._inbox.claim(envelope, again=again, silent=silent, turn_id=turn_id)

    async def read(self, envelope: Envelope) -> Message | Gone:
        async with self._link.connected():
            return await self._inbox.read(envelope)

    async def thread(self, thread_id: str) -> Sequence[Message]:
        async with self._link.connected():
            return [heard.message for heard in await self._inbox.thread(thread_id)]

    async def contacts(self) -> Sequence[Contact]:
        async with self._link.connected():
            me, now = self._link.agent_id, self._clock.monotonic()
            if self._opened and self._known[0] == me and now < self._known[1]:
                return self._known[2]
            answer = await self._link.ask(
                lambda transport, agent_id: transport.ask("GET", "/agents", query={"agent_id": agent_id})
            )
            if not answer.ok:
                answer = await self._link.ask(lambda transport, _: transport.ask("GET", "/agents"))
            if not answer.ok:
                raise unavailable(answer)
            agents, tags = agents_in(answer), tags_in(answer)
            self._team = next((one.team_id or "" for one in agents if one.id == me), "")
            found = tuple(
                Contact(one.address, _note(one), tags.get(one.id, ()))
                for one in agents
                if one.id != me and one.address not in ("", self._address) and one.status != "deleted"
            )
            self._known = (me, now + CONTACTS_SECONDS, found)
            return found

    async def way_back(self, envelope: Envelope) -> Route | NoWay | None:
        """The broker knows every sender."""

    def compose(
        self, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
    ) -> Sequence[Outgoing] | Refused:
        del routes  # every address is the broker's to find
        return compose.compose(self._author, draft, origin, turn_id)

    async def deliver(self, item: Outgoing) -> Delivery:
        async with self._link.connected():
            return await self._sender.deliver(item)

    async def look(self, item: Outgoing) -> bool:
        async with self._link.connected():
            return await self._sender.look(item)

    def report(self, envelope: Envelope, progress: Progress) -> None:
        told = progress.stage is Stage.STARTED and self._inbox.has_told(envelope.id)
        if not told and progress.stage is not Stage.ADOPTED:
            self._reporter.tell(envelope.id, progress)

    def announce(self, presence: Presence, note: str = "") -> None:
        """The broker sees by itself who listens."""

    async def done(self, envelope: Envelope, progress: Progress | None = None) -> None:
        async with self._link.connected():
            await self._reporter.flush(FLUSH_SECONDS)
            await self._inbox.finish(envelope.id, progress)

    async def reject(self, item: Unreadable) -> None:
        """Mark it read where its id can be made out; in any case it is passed over from now on."""
        async with self._link.connected():
            await self._inbox.reject(item)

    async def set_aside(self, envelope: Envelope, why: str = "") -> None:
        del why
        async with self._link.connected():
            await self._inbox.set_aside(envelope.id)

    async def settled(self, envelope: Envelope) -> Message | None:
        """A broker's ids are its own: it has one message of each."""
        del envelope
        return None

    def put_back(self, locator: str, digest: str, new_id: str = "") -> Refused | None:
        del locator, digest, new_id
        return Refused("the broker hands it out no more: ask its sender to send it again")

    async def ask_again(self, locator: str) -> Refused | None:
        async with self._link.connected():
            return await self._inbox.ask_again(locator)

    async def offer_link(self, token: str, seconds: int, shown: Mapping[str, str]) -> str:
        """The URL at which whoever has it answers a question, once; empty where this broker makes none.

        The broker is told what the page is to show, and the hash of `token`.
        """
        async with self._link.connected():
            info = await self._link.broker()
            if not info.ours or LINKS not in info.extensions:
                return ""
            digest = hashlib.sha256(token.encode()).hexdigest()
            form = {"agent_id": self._link.agent_id, "token_sha256": digest, "seconds": seconds, **shown}
            body = msgspec.json.encode(form)
            answer = await self._link.ask(
                lambda transport, _: transport.ask("POST", "/approvals/links", content=body), OF_THE_KEY
            )
            return f"{self._link.client.transport.public_url}/approve/{token}" if answer.ok else ""

    async def team_memory(self) -> str:
        """What people have written down for the agent's team, as `contacts` has found it; empty where there is none, or
        the broker keeps nothing of the kind.
        """
        async with self._link.connected():
            me, now = self._link.agent_id, self._clock.monotonic()
            info = await self._link.broker()
            if not self._team or not info.ours or MEMORIES not in info.extensions:
                return ""
            if self._opened and self._remembered[0] == me and now < self._remembered[1]:
                return self._remembered[2]
            answer = await self._link.ask(
                lambda transport, agent_id: transport.ask("GET", path_of("agents", agent_id, "memories"))
            )
            if not answer.ok:
                raise unavailable(answer)
            text = wire.as_one(decode(answer, list[wire.TeamMemory]))
            self._remembered = (me, now + CONTACTS_SECONDS, text)
            return text

    async def _me(self) -> AgentInfo:
        try:
            path = path_of("agents", self._link.agent_id)
        except ValueError:
            raise ConfigFault("no_agent_id", "agent_id is missing", "agent-mailer config set agent_id ID") from None
        answer = await self._link.ask(lambda transport, _: transport.ask("GET", path), OF_THE_AGENT)
        if not answer.ok:
            raise unavailable(answer)
        return decode(answer, AgentInfo)

    async def _source(self) -> Source | None:
        info = await self._link.broker()
        if not info.ours:
            return None
        path = path_of("messages", "inbox", self._address) + "/stream"
        return Source(path, self._link.agent_id, self._watcher, self._watcher_name, info.heartbeat_seconds)

    def _held(self, epoch: int | None) -> None:
        self._link.epoch = epoch
        self.remote.begin()

    def _wake(self) -> None:
        self._news = True
        self._awake.set()

    def _longest_wait(self) -> float:
        if self._stream.healthy:
            seconds = self._rhythm.net
        else:
            seconds = self._rhythm.active if self._had_mail else self._rhythm.idle
        return seconds * (0.9 + 0.2 * self._jitter())


def _note(agent: AgentInfo) -> str:
    first = next(iter((agent.description or "").splitlines()), "")
    return printable(": ".join(part for part in (agent.role or "", first) if part), 200)
