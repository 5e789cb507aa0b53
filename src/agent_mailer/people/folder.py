"""A person's side of a folder mailbox: reading, sending, waiting for the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli.terminal.printing import note
from agent_mailer.clock import Clock
from agent_mailer.disk import Disk, read_regular
from agent_mailer.errors import MailerError, UnavailableFault, UsageFault
from agent_mailer.file_events import FileEvents
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.consume import disk_faults
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, parse_message
from agent_mailer.mailbox.maildir.listing import StatCache, list_folder
from agent_mailer.mailbox.maildir.receipts import Stage, receipt_name
from agent_mailer.mailbox.port import DEDUPE_KEY, Delivered, Draft, Envelope, Gone, Message, Outgoing, Refused
from agent_mailer.names import pick, printable
from agent_mailer.people.port import LISTED, Ending, Person, Sent, Tell, Waited, ending_of

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def folder_person(place: Workplace, handle: str | None) -> FolderPerson:
    """Raises UsageFault where nobody there is called so."""
    mailbox = place.mailbox(handle or layout.USER)
    require_sender(mailbox.root, mailbox.address)
    return FolderPerson(mailbox, place.clock)


class FolderPerson(Person):
    def __init__(self, mailbox: MaildirMailbox, clock: Clock) -> None:
        super().__init__(mailbox, clock)
        self._folder = mailbox

    def inbox(self, *, read_too: bool) -> list[tuple[Message, bool]]:
        found: list[tuple[Message, bool]] = []
        for envelope, new in self._envelopes():
            if new or read_too:
                message = asyncio.run(self._folder.read(envelope))
                if isinstance(message, Message):
                    found.append((message, new))
        return found

    def find(self, typed: str) -> tuple[Message, bool]:
        envelopes = {envelope.id: (envelope, new) for envelope, new in self._envelopes()}
        chosen = pick(typed, envelopes, "message", "agent-mailer mail inbox --all")
        envelope, new = envelopes[chosen]
        message = asyncio.run(self._folder.read(envelope))
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(chosen)}: {message.why}", "agent-mailer mail inbox --all")
        return message, new

    def take(self, message: Message) -> None:
        """Out of `new`, which tells its sender that it was read."""
        root, handle = self._folder.root, self._folder.address
        if layout.Paths(root, handle).lock.exists():
            note(f"left unread: {handle} is an agent, and its mail is its watcher's to take")
            return
        if layout.missing_folders(root, handle):
            layout.make_mailbox(Disk(), root, handle)
        asyncio.run(self._folder.claim(message.envelope))

    async def send(self, draft: Draft, origin: Message | None = None) -> Sent:
        return await send(self._folder, draft, origin)

    async def wait_for_answer(self, sent: Sent, seconds: float, tell: Tell) -> Waited:

        return await wait_for_answer(self._folder, sent, seconds, tell)

    def _envelopes(self) -> list[tuple[Envelope, bool]]:
        paths = layout.Paths(self._folder.root, self._folder.address)
        found: list[tuple[Envelope, bool]] = []
        for folder, new in ((paths.new, True), (paths.cur, False)):
            with disk_faults(folder):
                try:
                    envelopes, _ = list_folder(folder, StatCache(LISTED))
                except FileNotFoundError:
                    continue  # a person who never got mail has no mailbox yet
            found += [(envelope, new) for envelope in envelopes]
        return sorted(found, key=lambda item: item[0].order)


async def send(mailbox: MaildirMailbox, draft: Draft, origin: Message | None = None) -> Sent:
    """Deliver `draft` to every recipient. Raises UsageFault, MailerError or UnavailableFault.

    With a dedupe key: what was sent under it before is not sent again, and other content under it is an error.
    """
    composed = mailbox.compose(draft, origin, "")
    if isinstance(composed, Refused):
        raise UsageFault("refused", composed.why, "agent-mailer mail contacts")
    _require_known(mailbox.root, composed)
    first = composed[0]
    recipients = tuple(item.recipient for item in composed)
    sent = Sent(first.id, first.thread, recipients, draft.created)
    if not draft.key.startswith(DEDUPE_KEY):
        await _deliver_all(mailbox, composed)
        return sent
    before = _require_same(mailbox, first, recipients)
    there = [await mailbox.look(item) for item in composed]
    if before is not None:
        # The bytes that went out first are the message; ours differ in the moment at least.
        composed = [msgspec.structs.replace(item, payload=before[1]) for item in composed]
    await _deliver_all(mailbox, [item for item, known in zip(composed, there, strict=True) if not known])
    _require_same(mailbox, first, recipients)
    created = before[0].envelope.created if before is not None else draft.created
    return msgspec.structs.replace(sent, created=created, already=all(there))


def require_sender(root: Path, handle: str) -> None:
    """Raises UsageFault where nobody here is called `handle`, so that no answer could arrive."""
    layout.require_root(root)
    if not layout.is_handle(handle) or not layout.known(root, handle):
        known = ", ".join((layout.USER, *layout.mailboxes(root)))
        raise UsageFault(
            "unknown_sender", f"there is no mailbox for {printable(handle)!r} in {root}", f"known: {known}"
        )


def _require_known(root: Path, items: Sequence[Outgoing]) -> None:
    """All or nothing: one unknown recipient, and the message goes to none."""
    layout.require_root(root)
    unknown = [item.recipient for item in items if not layout.known(root, item.recipient)]
    if unknown:
        known = sorted({layout.USER, *layout.mailboxes(root), *layout.roster(root)})
        raise UsageFault(
            "unknown_recipient",
            f"nobody is called {', '.join(unknown)} in {root}",
            f"known are: {', '.join(printable(name, 40) for name in known)}",
        )


async def _deliver_all(mailbox: MaildirMailbox, items: Sequence[Outgoing]) -> None:
    for item in items:
        outcome = await mailbox.deliver(item)
        if isinstance(outcome, Delivered):
            continue
        if isinstance(outcome, Refused):
            raise MailerError("not_sent", f"not sent to {item.recipient}: {outcome.why}", "agent-mailer mail contacts")
        raise UnavailableFault(
            "unconfirmed",
            f"{item.id} to {item.recipient} may or may not have arrived: {outcome.why}",
            f"agent-mailer mail thread {item.thread}",
        )


def _require_same(mailbox: MaildirMailbox, item: Outgoing, recipients: Sequence[str]) -> tuple[Message, str] | None:
    """The message that lies under this id already, with its text. Raises MailerError if it says something else."""
    ours = parse_message(item.payload.encode("utf-8", "replace"), f"{item.id}.md")
    for path in _places(mailbox, item.id, recipients):
        try:
            data = read_regular(path, MAX_MESSAGE_BYTES)
        except OSError:
            continue
        found = parse_message(data, path.name)
        if not isinstance(found, Message) or not isinstance(ours, Message):
            continue
        if _content(found) != _content(ours):
            raise MailerError(
                "dedupe_conflict",
                f"another message was sent under this dedupe key before: {item.id}",
                f"use another --dedupe-key, or look at it: agent-mailer mail thread {printable(found.envelope.thread)}",
            )
        return found, data.decode("utf-8", "replace")
    return None


def _places(mailbox: MaildirMailbox, message_id: str, recipients: Sequence[str]) -> list[Path]:
    name = f"{message_id}.md"
    boxes = [layout.Paths(mailbox.root, recipient) for recipient in recipients]
    sender = layout.Paths(mailbox.root, mailbox.address)
    return [*(box.new / name for box in boxes), *(box.cur / name for box in boxes), sender.sent / name]


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


RESCAN_SECONDS = 2.0


async def wait_for_answer(mailbox: MaildirMailbox, sent: Sent, seconds: float, tell: Tell) -> Waited:
    """Wait at most `seconds`; the answer is taken out of `new`. `tell` gets a line for each step on the way."""
    if layout.missing_folders(mailbox.root, mailbox.address):
        layout.make_mailbox(Disk(), mailbox.root, mailbox.address)
    watch = _Watch(mailbox, sent, tell)
    receipts = [layout.Paths(mailbox.root, recipient).receipts for recipient in sent.recipients]
    events = FileEvents([layout.Paths(mailbox.root, mailbox.address).new, *receipts], rescan_seconds=RESCAN_SECONDS)
    end = time.monotonic() + seconds
    try:
        while True:
            found = await watch.look()
            if found is not None:
                return found
            left = end - time.monotonic()
            if left <= 0:
                return Waited(Ending.TIMEOUT, taken=watch.taken)
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await events.wait()
    finally:
        events.close()


class _Watch:
    def __init__(self, mailbox: MaildirMailbox, sent: Sent, tell: Tell) -> None:
        self._mailbox = mailbox
        self._sent = sent
        self._tell = tell
        self._seen: set[str] = set()
        self._claimed: set[str] = set()

    @property
    def taken(self) -> bool:
        return bool(self._claimed)

    async def look(self) -> Waited | None:
        # Receipts first: whoever answered had taken the message before.
        unreadable = self._look_at_receipts()
        for envelope in (await self._mailbox.pending(LISTED)).envelopes:
            if envelope.id in self._seen:
                continue
            self._seen.add(envelope.id)
            message = await self._mailbox.read(envelope)
            if isinstance(message, Message) and (ending := ending_of(message, self._sent, self._tell)) is not None:
                await self._mailbox.claim(envelope)
                return Waited(ending, message, taken=True)
        return Waited(Ending.DEAD, taken=True) if unreadable else None

    def _look_at_receipts(self) -> bool:
        """Tell of every claim once; True where a recipient could not read the message."""
        unreadable = False
        for recipient in self._sent.recipients:
            receipts = layout.Paths(self._mailbox.root, recipient).receipts
            if recipient not in self._claimed and _there(receipts, self._sent.id, recipient, Stage.DRAINED):
                self._claimed.add(recipient)
                self._tell(f"{recipient} has taken it and is at work")
            if _there(receipts, self._sent.id, recipient, Stage.DLQ):
                self._tell(f"{recipient} could not read it")
                unreadable = True
        return unreadable


def _there(receipts: Path, message_id: str, recipient: str, stage: Stage) -> bool:
    return (receipts / receipt_name(message_id, recipient, stage)).is_file()
