"""The mcp_agent_mail adapter: one name's mailbox at such a server.

The server keeps neither claims nor what was settled: a file of ours does. It does not recognise a second delivery: an
item is looked for by its topic before it is sent again. Where it writes signal files on this machine they wake us; else
it is polled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from agent_mailer.clock import Clock, SystemClock
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, ConfigFault, RefusedFault
from agent_mailer.file_events import FileEvents
from agent_mailer.locks import HOLDS_ON, FileLock
from agent_mailer.mailbox.http import doubt_of
from agent_mailer.mailbox.mcp_agent_mail import compose
from agent_mailer.mailbox.mcp_agent_mail.identity import Identity, Registration, Tokens
from agent_mailer.mailbox.mcp_agent_mail.inbox import WINDOW, Inbox
from agent_mailer.mailbox.mcp_agent_mail.reservations import ServerReservations
from agent_mailer.mailbox.mcp_agent_mail.rpc import WRITE_SECONDS, Server, ToolRefused
from agent_mailer.mailbox.mcp_agent_mail.seen import Seen
from agent_mailer.mailbox.mcp_agent_mail.wire import Row, identifier, rows_in
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
    Unreadable,
)
from agent_mailer.mailbox.server_drafts import MAX_BODY_BYTES
from agent_mailer.mailbox.under_way import UNDER_WAY_SECONDS, UnderWay
from agent_mailer.names import printable


class Account(msgspec.Struct, frozen=True):
    """Where the mailbox is and whose: the server's URL, its bearer token if it wants one, `project` an absolute path.

    `program` and `model` are what others are told of us.
    """

    url: str
    name: str
    project: str
    bearer: str = ""
    program: str = "agent-mailer"
    model: str = ""


class Rhythm(msgspec.Struct, frozen=True):
    """Seconds between two looks: without mail, and after there was mail."""

    idle: float = 60.0
    active: float = 10.0


class _Agent(msgspec.Struct):
    name: str
    program: str = ""
    task_description: str = ""


class _Agents(msgspec.Struct):
    agents: list[_Agent] = []


class _Sent(msgspec.Struct):
    payload: Row


class _Deliveries(msgspec.Struct):
    deliveries: list[_Sent] = []


class McpAgentMailbox:
    """Implements `agent_mailer.mailbox.port.Mailbox`. `folder`: where names and claims of this user are kept.

    Only what listens needs `open`. Raises ConfigFault for a URL that can be none.
    """

    def __init__(
        self,
        account: Account,
        folder: Path,
        disk: Disk,
        *,
        rhythm: Rhythm | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
        window: int = WINDOW,
        under_way: float = UNDER_WAY_SECONDS,
    ) -> None:
        if not account.name:
            raise ConfigFault("no_address", "address is missing", "agent-mailer config set address NAME-1")
        self._clock = clock or SystemClock()
        self._rhythm = rhythm or Rhythm()
        self._name = account.name
        self._environ = environ
        self._server = Server(account.url, account.bearer)
        tokens = Tokens(folder, disk, self._server.peer.url)
        self._registration = Registration(
            self._server,
            tokens,
            self._clock,
            project=account.project,
            name=account.name,
            program=account.program,
            model=account.model,
        )
        stem = tokens.stem(account.project, account.name)
        self._folder, self._disk = folder, disk
        self._inbox = Inbox(self._server, self._registration, Seen(folder / f"{stem}.seen", disk), window=window)
        self._lock = FileLock(folder / f"{stem}.lock")
        self._events: FileEvents | None = None
        self._signal: Path | None = None
        self._had_mail = False
        self._looked_at = float("-inf")
        """When the last look was, or when one was due."""
        self._under_way = UnderWay(self._clock, under_way)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="mcp_agent_mail",
            pushes=self._signal is not None and self._events is not None and self._events.sees,
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

    @property
    def registered(self) -> Identity | None:
        """As which it was registered before; asks nobody. Raises ConfigFault."""
        return self._registration.known

    async def register(self) -> Identity:
        """Raises ConfigFault, MailboxRefused, MailboxUnavailable."""
        return await self._registration.identity()

    def reservations(self, overlap: Callable[[str, str], bool]) -> ServerReservations:
        return ServerReservations(self._server, self._registration, self._clock.now, overlap)

    async def tools(self) -> Collection[str]:
        """What the server can do, by name."""
        return (await self._server.tools()).keys()

    async def open(self) -> None:
        """Raises RefusedFault where the name is somebody else's, ConfigFault, BusyFault, MailboxUnavailable."""
        if self._events is not None:
            return
        self._disk.make_directory(self._folder)
        if not self._lock.acquire(HOLDS_ON):
            raise BusyFault(
                "watched", f"another watcher consumes the mail of {printable(self._name)}", "agent-mailer status --all"
            )
        try:
            me = await self._registration.identity()
            signals = self._signals(me)
            self._signal = signals / f"{me.name}.signal" if signals is not None else None
            self._events = FileEvents(
                [signals] if signals is not None else [],
                changes=True,
                rescan_seconds=self._rhythm.idle,
                blind_seconds=self._rhythm.idle,
            )
        except MailboxRefused as fault:
            self._lock.release()
            raise RefusedFault(fault.code, fault.message, fault.fix) from fault
        except BaseException:
            self._lock.release()
            raise
        self._inbox.forget()

    async def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
        self._lock.release()

    async def wait(self) -> None:
        events = self._events
        if events is None:
            raise RuntimeError("wait needs an open mailbox")
        due = self._looked_at + self._longest_wait()
        while True:
            events.wake_after(min(self._rhythm.idle, max(0.0, due - self._clock.monotonic())))
            await events.wait()
            # The folder is that of all names in the project: another's mail is none of ours.
            if self._clock.monotonic() >= due or self._is_signalled():
                self._looked_at = self._clock.monotonic()
                return

    async def pending(self, limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
        del woken  # an arrival is no more than a sign that there may be mail
        self._looked_at = self._clock.monotonic()
        listing = await self._inbox.pending(limit, beside)
        self._had_mail = bool(listing.envelopes)
        return listing

    async def everything(self) -> list[tuple[Envelope, str, bool]]:
        """The newest messages, oldest first, each with its subject and whether it was not taken yet."""
        return await self._inbox.everything()

    async def claim(
        self, envelope: Envelope, *, again: bool = False, silent: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        del silent, turn_id
        return await self._inbox.claim(envelope, again=again)

    async def read(self, envelope: Envelope) -> Message | Gone:
        return await self._inbox.read(envelope)

    async def thread(self, thread_id: str) -> Sequence[Message]:
        return await self._inbox.thread(thread_id)

    async def contacts(self) -> Sequence[Contact]:
        me = await self._registration.identity()
        found = await self._server.resource(f"resource://agents/{me.slug}", _Agents)
        others = [one for one in found.agents if one.name != me.name]
        return [Contact(one.name, printable(one.task_description or one.program, 200)) for one in others]

    async def way_back(self, envelope: Envelope) -> Route | NoWay | None:
        """The server knows every sender."""

    def compose(
        self, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
    ) -> Sequence[Outgoing] | Refused:
        del routes  # every name is the server's to find
        return compose.compose(self._name, draft, origin, turn_id)

    async def deliver(self, item: Outgoing) -> Delivery:
        try:
            payload = compose.payload_of(item)
        except (msgspec.DecodeError, RecursionError):
            return Refused("this was composed for another kind of mailbox")
        me = await self._registration.identity()
        try:
            with self._under_way.asking(item.id):
                answer = await self._server.call(
                    "send_message",
                    {
                        "project_key": me.project,
                        "sender_name": me.name,
                        "to": [item.recipient],
                        "subject": payload.subject,
                        "body_md": payload.body,
                        "importance": payload.importance,
                        "thread_id": item.thread,
                        "topic": payload.topic,
                        "idempotency_key": item.id,
                        "sender_token": me.token,
                    },
                    _Deliveries,
                    seconds=WRITE_SECONDS,
                )
        except ToolRefused as fault:
            return Refused(fault.message)
        except MailboxRefused:
            self._registration.doubt()
            raise
        except MailboxUnavailable as fault:
            return doubt_of(fault)
        self._under_way.answered(item.id)
        if not answer.deliveries:
            return Refused("the server took it and delivered it to nobody")
        return _delivered(answer.deliveries[0].payload, item)

    async def look(self, item: Outgoing) -> bool:
        return await self.find(item) is not None

    async def find(self, item: Outgoing) -> Delivered | None:
        """The item as it has arrived, once no request of ours can be under way any more."""
        try:
            payload = compose.payload_of(item)
        except (msgspec.DecodeError, RecursionError):
            return None
        await asyncio.sleep(self._under_way.rest(item.id))
        me = await self._registration.identity()
        try:
            found = await self._server.call(
                "fetch_topic",
                {
                    "project_key": me.project,
                    "topic_name": payload.topic,
                    "limit": 1,
                    "include_bodies": False,
                    "agent_name": me.name,
                    "registration_token": me.token,
                },
                list[msgspec.Raw],
            )
        except ToolRefused:
            return None
        rows, _ = rows_in(found)
        return _delivered(rows[0], item) if rows else None

    async def is_same(self, there: Delivered, item: Outgoing) -> bool:
        """Whether what lies under that name says what the item does."""
        said = compose.payload_of(item)
        told = await self._inbox.thread(there.thread or item.thread)
        found = next((one for one in told if one.envelope.id == there.id), None)
        return found is None or (found.subject, found.body) == (said.subject, said.body)

    def report(self, envelope: Envelope, progress: Progress) -> None:
        """The server has no place for it."""

    def announce(self, presence: Presence, note: str = "") -> None:
        """The server has no place for it."""

    async def done(self, envelope: Envelope, progress: Progress | None = None) -> None:
        del progress
        await self._inbox.finish(envelope)

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

    def _longest_wait(self) -> float:
        if self._inbox.is_behind:
            return 0.0
        return self._rhythm.active if self._had_mail else self._rhythm.idle

    def _signals(self, me: Identity) -> Path | None:
        """The folder in which the server signals mail, where it runs here and has made one."""
        if not self._server.peer.is_local or not me.slug or "/" in me.slug or me.slug in (".", ".."):
            return None
        told = self._environ.get("NOTIFICATIONS_SIGNALS_DIR") or "~/.mcp_agent_mail/signals"
        try:
            folder = Path(told).expanduser() / "projects" / me.slug / "agents"
            return folder if folder.is_dir() else None
        except (OSError, RuntimeError, ValueError):
            return None

    def _is_signalled(self) -> bool:
        try:
            return self._signal is not None and self._signal.exists()
        except OSError:
            return False


def _delivered(row: Row, item: Outgoing) -> Delivered:
    return Delivered(id=identifier(row), thread="" if row.thread_id == item.thread else row.thread_id or str(row.id))
