"""A person's mail in a folder mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.disk import Disk, read_regular
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.file_events import FileEvents
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.consume import disk_faults
from agent_mailer.mailbox.maildir.delivery import Stage, receipt_name
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, parse_message
from agent_mailer.mailbox.maildir.listing import MAX_LISTED, StatCache, list_folder
from agent_mailer.mailbox.port import Delivered, Delivery, Envelope, Gone, Message, Outgoing
from agent_mailer.names import pick, printable
from agent_mailer.people.port import Found, Receipt, Report, Rest, Sent, dedupe_conflict, unknown_recipients

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.maildir.adapter import MaildirMailbox

RESCAN_SECONDS = 2.0


def mail_in(place: Workplace, handle: str | None) -> FolderMail:
    """The mail of `handle`, by default of `user`. Raises UsageFault where nobody there is called so."""
    mailbox = place.mailbox(handle or layout.USER)
    layout.require_root(mailbox.root)
    if not layout.known(mailbox.root, mailbox.address):
        known = ", ".join((layout.USER, *layout.mailboxes(mailbox.root)))
        why = f"there is no mailbox for {printable(mailbox.address)!r} in {mailbox.root}"
        raise UsageFault("unknown_sender", why, f"known: {known}")
    return FolderMail(mailbox)


class FolderMail:
    """Implements `agent_mailer.people.port.PersonalMail`."""

    def __init__(self, mailbox: MaildirMailbox) -> None:
        self.mailbox = mailbox
        self._root = mailbox.root
        self._paths = layout.Paths(mailbox.root, mailbox.address)

    def faults(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def listed(self, *, read_too: bool) -> Sequence[Found]:
        wanted = [(envelope, new) for envelope, new in self._envelopes() if new or read_too]
        found = [(await self.mailbox.read(envelope), new) for envelope, new in wanted]
        return [Found(message, new) for message, new in found if isinstance(message, Message)]

    async def find(self, typed: str) -> Found:
        envelopes = {envelope.id: (envelope, new) for envelope, new in self._envelopes()}
        envelope, new = envelopes[pick(typed, envelopes, "message", "agent-mailer mail inbox --all")]
        message = await self.mailbox.read(envelope)
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(envelope.id)}: {message.why}", "agent-mailer mail inbox --all")
        return Found(message, new)

    async def take(self, message: Message, *, awaited: bool = False) -> bool:
        """Out of `new`, which tells its sender that it was read. An answer is whoever's who is first to see it."""
        if self._paths.lock.exists() and not awaited:
            return False
        self._make()
        await self.mailbox.claim(message.envelope)
        return True

    async def require_known(self, recipients: Sequence[str]) -> None:
        layout.require_root(self._root)
        if unknown := [name for name in recipients if not layout.known(self._root, name)]:
            known = {layout.USER, *layout.mailboxes(self._root), *layout.roster(self._root)}
            raise unknown_recipients(unknown, f"in {self._root}", known)

    async def as_first_sent(self, items: Sequence[Outgoing]) -> Sequence[Outgoing]:
        item = items[0]
        ours = parse_message(item.payload.encode("utf-8", "replace"), f"{item.id}.md")
        first = self._first_sent(item.id, [item.recipient for item in items])
        if first is None or not isinstance(ours, Message):
            return items
        message, text = first
        if _content(message) != _content(ours):
            thread = printable(message.envelope.thread)
            raise dedupe_conflict(item.id, f"agent-mailer mail thread {thread}")
        # The bytes that went out first are the message; ours differ in the moment at least.
        return [msgspec.structs.replace(item, payload=text) for item in items]

    async def deliver(self, item: Outgoing) -> Delivery:
        return await self.mailbox.deliver(item)

    async def moment_of(self, first: Delivered, recipients: Sequence[str], *, begins: bool) -> float:
        """Even where it `begins` a thread: two who write to each other have one and the same."""
        del begins
        found = self._first_sent(first.id, recipients)
        return found[0].envelope.created if found is not None else 0.0

    @contextmanager
    def listening(self, sent: Sent) -> Iterator[Rest]:
        self._make()
        receipts = [layout.Paths(self._root, recipient).receipts for recipient in sent.recipients]
        events = FileEvents([self._paths.new, *receipts], rescan_seconds=RESCAN_SECONDS)

        async def rest(longest: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(longest):
                    await events.wait()

        try:
            yield rest
        finally:
            events.close()

    async def receipts(self, sent: Sent, taken: Set[str]) -> Sequence[Receipt]:
        found = []
        for name in sent.recipients:
            folder = layout.Paths(self._root, name).receipts
            stages = [stage for stage in Stage if (folder / receipt_name(sent.id, name, stage)).is_file()]
            if Stage.DRAINED in stages and name not in taken:
                found.append(Receipt(name))
            if Stage.DLQ in stages:
                found.append(Receipt(name, unreadable=True))
        return found

    async def standing(self, sent: Sent, recipient: str) -> Report | None:
        del sent, recipient
        return None

    def is_of(self, place: Workplace, recipient: str) -> bool:
        return not place.at_broker and place.handle == recipient and self._root.samefile(place.maildir_root())

    async def arrived(self, sent: Sent, seen: Set[str]) -> Sequence[Message]:
        del sent
        waiting = (await self.mailbox.pending(MAX_LISTED)).envelopes
        found = [await self.mailbox.read(envelope) for envelope in waiting if envelope.id not in seen]
        return [message for message in found if isinstance(message, Message)]

    def _make(self) -> None:
        """A person's mailbox is made when there is something to do in it."""
        if layout.missing_folders(self._root, self.mailbox.address):
            layout.make_mailbox(Disk(), self._root, self.mailbox.address)

    def _envelopes(self) -> list[tuple[Envelope, bool]]:
        found: list[tuple[Envelope, bool]] = []
        for folder, new in ((self._paths.new, True), (self._paths.cur, False)):
            with disk_faults(folder):
                try:
                    envelopes, _ = list_folder(folder, StatCache(MAX_LISTED))
                except FileNotFoundError:
                    continue  # a person who never got mail has no mailbox yet
            found += [(envelope, new) for envelope in envelopes]
        return sorted(found, key=lambda item: item[0].order)

    def _first_sent(self, message_id: str, recipients: Sequence[str]) -> tuple[Message, str] | None:
        """The message of that id, with its text: at a recipient, who moves it from new to cur, else our own copy."""
        name = f"{message_id}.md"
        boxes = [layout.Paths(self._root, recipient) for recipient in recipients]
        for path in (*(box.new / name for box in boxes), *(box.cur / name for box in boxes), self._paths.sent / name):
            with suppress(OSError):
                data = read_regular(path, MAX_MESSAGE_BYTES)
                if isinstance(found := parse_message(data, path.name), Message):
                    return found, data.decode("utf-8", "replace")
        return None


def _content(message: Message) -> tuple[object, ...]:
    """What makes two messages the same: all but the moment."""
    envelope = message.envelope
    return (
        envelope.sender,
        sorted(envelope.to),
        envelope.thread,
        message.subject,
        message.body,
        envelope.kind,
        envelope.priority,
        message.refs,
        message.labels,
    )
