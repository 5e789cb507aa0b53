"""A person's mail in a folder mailbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence, Set
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.arriving import Writer, writer_of
from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk, read_regular
from agent_mailer.errors import BusyFault, MailerError, UsageFault, quoted
from agent_mailer.lying import lies
from agent_mailer.mailbox.maildir import amq, layout
from agent_mailer.mailbox.maildir.consume import disk_faults
from agent_mailer.mailbox.maildir.dated import MAX_INDEXED, StatCache, dated_names, stamp
from agent_mailer.mailbox.maildir.delivery import Stage, read_receipt
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, Malformed, parse_message, to_locator
from agent_mailer.mailbox.maildir.listing import read_head
from agent_mailer.mailbox.maildir.routes import places
from agent_mailer.mailbox.port import (
    Action,
    Delivered,
    Delivery,
    Draft,
    Gone,
    Message,
    NoWay,
    Outgoing,
    Presence,
    Route,
    Unreadable,
)
from agent_mailer.names import pick, printable
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
    from agent_mailer.mailbox.maildir.adapter import MaildirMailbox

RESCAN_SECONDS, UNASKED_SECONDS = 2.0, 60.0
"""Between two looks without a file event: for an answer, and for any mail."""

CLOCKS_DIFFER = 3600.0
"""Seconds that the clock which dated an answer may be behind."""

INBOX = "agent-mailer mail inbox --all"
GONE = "gone"
"""The status of an agent whose watcher ended without a word."""


def mail_in(place: Workplace, handle: str | None) -> FolderMail:
    """The mail of `handle`, by default of `user`. Raises UsageFault where nobody there is called so."""
    mailbox = place.mailbox(handle or layout.USER)
    layout.require_root(mailbox.root)
    if not layout.known(mailbox.root, mailbox.address):
        known = ", ".join((layout.USER, *layout.mailboxes(mailbox.root)))
        why = f"there is no mailbox for {printable(mailbox.address)!r} in {mailbox.root}"
        raise UsageFault("unknown_sender", why, f"known: {known}")
    return FolderMail(mailbox)


def standing_of(root: Path, handle: str) -> Standing:
    """Who died could not say so: then the file says `active` and nobody is there."""
    paths = layout.Paths(root, handle)
    said, watcher = amq.seen(paths), amq.watcher_of(paths)
    status, at, note = (said.status, said.at, said.note) if said is not None else ("", None, "")
    gone = watcher is None and paths.lock.exists() and status in (Presence.ACTIVE, Presence.PAUSED)
    return Standing(handle, GONE if gone else status, at, "" if gone else note, watched=watcher is not None)


class FolderMail:
    """Implements `agent_mailer.people.port.PersonalMail`."""

    answers_at_once = True

    def __init__(self, mailbox: MaildirMailbox) -> None:
        self.mailbox = mailbox
        self._root = mailbox.root
        self._paths = layout.Paths(mailbox.root, mailbox.address)
        self._ends: dict[str, layout.Paths] = {}
        """Mailboxes elsewhere, by the addresses that lead there."""
        self._heads: StatCache[Message | Malformed] = StatCache(MAX_INDEXED)
        self._no_messages: dict[str, str] = {}

    def faults(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def listed(self, search: Search = EVERYTHING, *, read_too: bool) -> Sequence[Found]:
        """Headers are read from the newest on, until what is wanted was found."""
        self._no_messages.clear()
        matching = (one for one in self._newest_first(read_too=read_too) if search.takes(one.message))
        found = islice(matching, search.offset, search.offset + search.limit if search.limit else None)
        return sorted(found, key=lambda one: one.message.envelope.order)

    def no_messages(self) -> Sequence[str]:
        whole = ((path, why) for path, why in self._no_messages.items() if writer_of(path) is not Writer.SOME)
        return [f"{printable(path)} is no message ({why})" for path, why in whole]

    async def find(self, typed: str) -> Found:
        """By the file's name, as AMQ does. Only where no file is called so, headers are looked into."""
        head, new = self._named(typed)
        message = await self.mailbox.read(head.envelope)
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(head.envelope.id)}: {message.why}", INBOX)
        return Found(message, new)

    async def take(self, message: Message, *, awaited: bool = False) -> bool:
        """Out of `new`, which tells its sender that it was read. An answer is whoever's who is first to see it."""
        if self._paths.lock.exists() and not awaited:
            return False
        self._make()
        await self.mailbox.claim(message.envelope)
        self._touch()
        return True

    async def routed(self, draft: Draft, origin: Message | None) -> tuple[Draft, Sequence[Route]]:
        if draft.action is Action.REPLY and origin is not None and not draft.to:
            ways = [await self.mailbox.way_back(origin.envelope)]
        else:
            ways = [self.mailbox.find(address) if _leads_out(address) else None for address in draft.to]
        for way in ways:
            if isinstance(way, NoWay):
                raise UsageFault("no_way_back", way.why, "agent-mailer mail contacts")
        to = [way.address if isinstance(way, Route) else name for way, name in zip(ways, draft.to, strict=False)]
        routes = [way for way in ways if isinstance(way, Route)]
        self._ends |= {one.address: layout.Paths(Path(one.place), one.recipient) for one in routes}
        return msgspec.structs.replace(draft, to=tuple(to)), routes

    async def not_carried(self, draft: Draft) -> Sequence[str]:
        del draft
        return ()

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
            thread = quote(printable(message.envelope.thread))
            raise dedupe_conflict(item.id, f"agent-mailer mail thread {thread}")
        # The bytes that went out first are the message; ours differ in the moment at least.
        return [msgspec.structs.replace(item, payload=text) for item in items]

    async def deliver(self, item: Outgoing) -> Delivery:
        outcome = await self.mailbox.deliver(item)
        self._touch()
        return outcome

    async def moment_of(self, first: Delivered, recipients: Sequence[str], *, begins: bool) -> float:
        """Even where it `begins` a thread: two who write to each other have one and the same."""
        del begins
        found = self._first_sent(first.id, recipients)
        return found[0].envelope.created if found is not None else 0.0

    @asynccontextmanager
    async def listening(self, sent: Sent | None) -> AsyncIterator[Rest]:
        from agent_mailer.file_events import FileEvents  # whoever waits for nothing does without

        self._make()
        receipts = [self._box(recipient).receipts for recipient in (sent.recipients if sent is not None else ())]
        events = FileEvents([self._paths.new, *receipts], rescan_seconds=RESCAN_SECONDS if sent else UNASKED_SECONDS)

        async def rest(longest: float) -> None:
            import asyncio

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
            box = self._box(name)
            stages = [one for one in Stage if read_receipt(box.receipts, sent.id, box.home.name, one) is not None]
            if Stage.DRAINED in stages and name not in taken:
                found.append(Receipt(name))
            if Stage.DLQ in stages:
                found.append(Receipt(name, unreadable=True))
        return found

    def require_unwatched(self) -> None:
        if self._paths.lock.exists():
            raise BusyFault(
                "watched",
                f"{self.mailbox.address} is an agent, and its mail is its watcher's to take",
                f"agent-mailer mail inbox --as {self.mailbox.address}; where none will watch it again: "
                f"rm {quoted(self._paths.lock)}",
            )

    async def drained(self, limit: int) -> AsyncIterator[Message | Unreadable]:
        self._make()
        self._touch()
        for _, name in self._whole()[: limit or None]:
            head = self._head(str(self._paths.new / name))
            if isinstance(head, Message):
                message = await self.mailbox.claim(head.envelope)
                if isinstance(message, Message):
                    yield message
            elif head is not None:
                item = Unreadable(to_locator(name), f"{head.reason.value}: {head.why}")
                await self.mailbox.reject(item)
                yield item

    async def require_receipts(self, recipients: Sequence[str], *, dead_letters: bool) -> None:
        """Every consumer of a folder writes them."""

    async def who(self) -> Sequence[Standing]:
        contacts = await self.mailbox.contacts()
        return [standing_of(self._root, one) for one in sorted([self.mailbox.address, *(c.address for c in contacts)])]

    async def sent(self, newest: int) -> Sequence[Message]:
        names = dict(reversed([(name, moment) for moment, name in _dated(self._paths.sent)]))
        heads = (self._head(str(self._paths.sent / name)) for name in names)
        return list(islice((head for head in heads if isinstance(head, Message)), newest or None))[::-1]

    async def sent_copy(self, typed: str) -> Message | None:
        return self._sent_as(typed)

    async def told(self, typed: str | None, newest: int) -> Sequence[Told]:
        if typed is None:
            messages = await self.sent(newest)
        else:
            messages = [self._sent_as(typed) or self._named(typed).message]
        return [told for message in messages for name in message.envelope.to for told in self._told(message, name)]

    def _sent_as(self, typed: str) -> Message | None:
        names = [name.removesuffix(".md") for _, name in _dated(self._paths.sent)]
        try:
            path = self._paths.sent / f"{pick(typed, names, 'message', INBOX)}.md"
        except MailerError as fault:
            if fault.code != "unknown":
                raise
            return None
        whole = parse_message(read_regular(path, MAX_MESSAGE_BYTES), path.name)
        return whole if isinstance(whole, Message) else None

    def _told(self, message: Message, recipient: str) -> Iterator[Told]:
        identifier = message.envelope.id
        # What names a way back has left our root, and its copy here does not say where to.
        for root in places(self._root) if message.envelope.reply_to else (self._root,):
            folder = layout.Paths(root, recipient).receipts
            found = [read for stage in Stage if (read := read_receipt(folder, identifier, recipient, stage))]
            for receipt in found:
                yield Told(identifier, recipient, receipt.stage, receipt.at, receipt.detail)
            if found:
                return
        yield Told(identifier, recipient)

    async def standing(self, sent: Sent, recipient: str) -> Report | None:
        del sent, recipient
        return None

    def is_of(self, place: Workplace, recipient: str) -> bool:
        home = self._box(recipient).home
        return not place.at_broker and place.handle == home.name and home.parents[1].samefile(place.maildir_root())

    async def arrived(self, sent: Sent, seen: Set[str]) -> Sequence[Message]:
        """Only what came later can be an answer, whoever's clock dated it; one to what was sent before may be read."""
        since = stamp(sent.since - CLOCKS_DIFFER)
        paths = [str(self._paths.new / name) for moment, name in self._whole() if moment >= since]
        if sent.already:
            paths += [str(self._paths.cur / name) for moment, name in _dated(self._paths.cur) if moment >= since]
        heads = map(self._head, paths)
        fresh = [head.envelope for head in heads if isinstance(head, Message) and head.envelope.id not in seen]
        found = [await self.mailbox.read(envelope) for envelope in sorted(fresh, key=lambda one: one.order)]
        return [message for message in found if isinstance(message, Message)]

    def _whole(self) -> list[tuple[str, str]]:
        """What is new, but for what somebody writes just now: it is left for the next time."""
        new = self._paths.new
        return [(moment, name) for moment, name in _dated(new) if writer_of(new / name) is not Writer.SOME]

    def _touch(self) -> None:
        amq.touch(Disk(), self._paths, self.mailbox.address, SystemClock().now())

    def _box(self, recipient: str) -> layout.Paths:
        return self._ends.get(recipient) or layout.Paths(self._root, recipient)

    def _make(self) -> None:
        """A person's mailbox is made when there is something to do in it."""
        if layout.missing_folders(self._root, self.mailbox.address):
            layout.make_mailbox(Disk(), self._root, self.mailbox.address)

    def _newest_first(self, *, read_too: bool) -> Iterator[Found]:
        """What is in both folders is in `new`: its claim did not come to an end."""
        names = {name: (moment, False) for moment, name in (_dated(self._paths.cur) if read_too else ())}
        names |= {name: (moment, True) for moment, name in _dated(self._paths.new)}
        folders = {new: str(self._folder(new=new)) for new in (False, True)}
        for name, (_, new) in sorted(names.items(), key=lambda item: (item[1][0], item[0]), reverse=True):
            head = self._head(path := f"{folders[new]}/{name}")
            if isinstance(head, Message):
                yield Found(head, new)
            elif head is not None and new:
                self._no_messages[path] = head.why

    def _named(self, typed: str) -> Found:
        """The head of the one message that is called so. Raises MailerError, UsageFault."""
        new_of = {name.removesuffix(".md"): False for _, name in _dated(self._paths.cur)}
        new_of |= {name.removesuffix(".md"): True for _, name in _dated(self._paths.new)}
        try:
            chosen = pick(typed, new_of, "message", INBOX)
        except MailerError as fault:
            if fault.code != "unknown":
                raise
            by_id = {one.message.envelope.id: one for one in self._newest_first(read_too=True)}
            return by_id[pick(typed, by_id, "message", INBOX)]
        head = self._head(str(self._folder(new=new_of[chosen]) / f"{chosen}.md"))
        if head is None:
            raise MailerError("gone", f"{printable(chosen)}: somebody has just taken it", INBOX)
        if isinstance(head, Malformed):
            raise MailerError("unreadable", f"{printable(chosen)} is no message: {head.why}", INBOX)
        return Found(head, new_of[chosen])

    def _head(self, path: str) -> Message | Malformed | None:
        """What the file is, without a body; read once while it stays what it was. None if it has gone."""
        with disk_faults(path):
            folder, _, name = path.rpartition("/")
            if (item := lies(folder, name)) is None:
                return None
            known = self._heads.get(path, item.found)
            if known is None and (known := read_head(item)) is not None:
                self._heads.put(path, item.found, known)
            return known

    def _folder(self, *, new: bool) -> Path:
        return self._paths.new if new else self._paths.cur

    def _first_sent(self, message_id: str, recipients: Sequence[str]) -> tuple[Message, str] | None:
        """The message of that id, with its text: at a recipient, who moves it from new to cur, else our own copy."""
        name = f"{message_id}.md"
        boxes = [self._box(recipient) for recipient in recipients]
        for path in (*(box.new / name for box in boxes), *(box.cur / name for box in boxes), self._paths.sent / name):
            with suppress(OSError):
                data = read_regular(path, MAX_MESSAGE_BYTES)
                if isinstance(found := parse_message(data, path.name), Message):
                    return found, data.decode("utf-8", "replace")
        return None


def _leads_out(address: str) -> bool:
    return "@" in address or ":" in address


def _dated(folder: Path) -> list[tuple[str, str]]:
    """As `dated_names`; a person who never got mail has no mailbox yet."""
    with disk_faults(folder):
        try:
            return dated_names(folder)
        except FileNotFoundError:
            return []


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
        message.context,
    )
