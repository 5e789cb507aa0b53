"""The maildir adapter: one agent's mailbox in an AMQ root.

Which fsync protects what:

| step | synced | if a crash undoes what is not |
|---|---|---|
| deliver | the content, then the folder `new` | - |
| sender's copy in outbox/sent | nothing | a copy is missing; the message is not |
| claim | the folder `cur` | the name in `new` may come back: same inode, dropped by the next claim or as settled |
| receipt | nothing | a sender that polls waits in vain |
| dead letter | the content, then the folder dlq/new | the original is removed last, so at worst it is there twice |
| given up | the folder `new` | the name in `new` would come back, and run again as if somebody had put it there |
| set aside | only a copy that goes to `aside` | it is listed again and set aside again |
| lock and its pid file | nothing | both end with the process |
| presence, manifest | nothing | they say what they said before; both are written again |
| what is known of mail | nothing | it is read again |
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.arriving import STILL_SECONDS, Arriving
from agent_mailer.clock import Clock, SystemClock
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import BusyFault, ConfigFault, quoted
from agent_mailer.file_events import RESCAN_SECONDS, FileEvents
from agent_mailer.lying import Listed, until_at_rest
from agent_mailer.mailbox.maildir import amq, compose, delivery, layout, routes, shelf
from agent_mailer.mailbox.maildir.consume import Consumer, disk_faults
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES
from agent_mailer.mailbox.maildir.listing import ThreadIndex, Waiting
from agent_mailer.mailbox.maildir.remembered import Remembered
from agent_mailer.mailbox.port import (
    MAX_WAITING,
    Capabilities,
    Contact,
    Delivery,
    Draft,
    Envelope,
    Gone,
    Listing,
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
from agent_mailer.outcomes import Outcome

if TYPE_CHECKING:
    import asyncio

    from agent_mailer.locks import FileLock

_ENDED_WELL = frozenset(outcome.value for outcome in Outcome if outcome.settles)
_Inodes = tuple[tuple[int, int], ...]

NAMED_WITHIN = 1.0
"""Seconds in which the lock's holder has written who it is; a disk that refuses to take its name delays us so long."""

_LOOK_AGAIN = 0.01
LOCK_SECONDS = 0.5
"""A watcher that was killed while it started a program holds the lock until that program is executed."""


class MaildirMailbox:
    """Implements `agent_mailer.mailbox.port.Mailbox`.

    Only what consumes and waits needs `open`; reading a thread, composing and delivering work without. Raises
    ConfigFault for a handle that is none.
    """

    def __init__(
        self,
        disk: Disk,
        root: Path,
        handle: str,
        *,
        clock: Clock | None = None,
        rescan_seconds: float = RESCAN_SECONDS,
        groups: Sequence[str] = (),
    ) -> None:
        layout.check_handle(handle)
        self._disk = disk
        self._root = root
        self._handle = handle
        self._rescan_seconds = rescan_seconds
        self._groups = groups
        self._paths = layout.Paths(root, handle)
        self._clock = clock or SystemClock()
        self._consumer = Consumer(disk, self._clock, handle, self._paths)
        self._waiting = Waiting(self._paths.new, MAX_WAITING)
        self._looking: asyncio.Lock | None = None
        self._looked = False
        self._arriving = Arriving(root / "meta" / "config.json", self._clock.monotonic)
        self._index = ThreadIndex(root)
        self._letters = shelf.Letters()
        self._presence: Presence | None = None
        self._presence_note = ""
        self._lock: FileLock | None = None
        self._locked: _Inodes = ()
        self._events: FileEvents | None = None
        self._all_events: FileEvents | None = None
        """Of what others do in the whole root: nobody is woken by it."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="maildir",
            pushes=True,
            recognises_delivery=True,
            carries_marks=True,
            max_message_bytes=MAX_MESSAGE_BYTES,
            carries_context=True,
            keeps_claimed=True,
        )

    @property
    def address(self) -> str:
        return self._handle

    @property
    def root(self) -> Path:
        return self._root

    async def open(self) -> None:
        """Repair our own folders, take the lock, watch the inbox."""
        if self._lock is not None:
            return
        layout.require_root(self._root)
        if not layout.known(self._root, self._handle):
            raise ConfigFault(
                "no_mailbox",
                f"{self._root} has no mailbox for {self._handle!r}",
                f"agent-mailer init --maildir-root {quoted(self._root)} --address {self._handle}",
            )
        with disk_faults(self._paths.home):
            layout.make_mailbox(self._disk, self._root, self._handle, own=True)
            self._take_lock()
        if _groups_of(self._paths) != tuple(self._groups):
            amq.show_groups(self._disk, self._paths, self._groups)
        try:
            self._index.remembered = Remembered(self._disk, self._paths.known)
            self._index.remembered.load()
            self._events = FileEvents([self._paths.new], names=True, rescan_seconds=self._rescan_seconds)
            self._all_events = FileEvents((), names=True)
        except BaseException:
            self._drop_lock()
            raise

    async def close(self) -> None:
        for events in (self._events, self._all_events):
            if events is not None:
                events.close()
        self._events = self._all_events = self._index.remembered = None
        if self._presence is not None:
            self.announce(Presence.OFFLINE)
            self._presence = None
        self._drop_lock()

    async def wait(self) -> None:
        if self._events is None:
            raise RuntimeError("wait needs an open mailbox")
        await self._events.wait()

    async def pending(self, limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
        import asyncio  # whoever looks for nothing that waits does without

        del woken  # a look at a folder asks nobody
        self._attend()
        await self._look()
        if self._events is not None and (seconds := self._arriving.next_look) is not None:
            if not self._looked and seconds <= STILL_SECONDS:
                # What was there before us, and the system does not tell: whoever looks but once would pass it over.
                await asyncio.sleep(seconds)
                await self._look()
            self._events.wake_after(seconds)
        self._looked = True
        return self._waiting.first(limit, beside)

    async def _look(self) -> None:
        """Where much has to be read others go on meanwhile."""
        import asyncio

        self._looking = self._looking or asyncio.Lock()
        async with self._looking:
            await until_at_rest(self._look_once)

    def _look_once(self) -> Iterator[None]:
        touched = self._events.touched(self._paths.new) if self._events is not None else None
        renamed = self._events.take_renamed() if self._events is not None else ()
        self._arriving.look_anew()

        def is_whole(item: Listed) -> bool:
            return self._arriving.is_whole(item.path, item.found, renamed=item.name in renamed)

        with disk_faults(self._paths.new):
            yield from self._waiting.look(touched, is_whole)

    async def claim(
        self, envelope: Envelope, *, again: bool = False, silent: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        del turn_id
        self._attend()
        return self._consumer.claim(envelope, again=again, silent=silent)

    async def read(self, envelope: Envelope) -> Message | Gone:
        return self._consumer.read(envelope)

    async def thread(self, thread_id: str) -> Sequence[Message]:
        with disk_faults(self._root / "agents"):
            found = await self._index.thread(thread_id, self._all_events)
            await self._index.remember()
            return found

    async def contacts(self) -> Sequence[Contact]:
        try:
            listed = layout.roster(self._root)
        except ConfigFault as fault:
            raise MailboxUnavailable(fault.code, fault.message, fault.fix) from fault
        with disk_faults(self._root / "agents"):
            handles = {layout.USER, *filter(layout.is_handle, listed), *layout.mailboxes(self._root)} - {self._handle}
        notes = {layout.USER: "the person here"}
        return [Contact(one, notes.get(one, ""), _groups_of(layout.Paths(self._root, one))) for one in sorted(handles)]

    async def way_back(self, envelope: Envelope) -> Route | NoWay | None:
        if not envelope.reply_to and layout.has_mailbox(self._root, envelope.sender):
            return None
        return routes.way_back(self._root, self._handle, envelope)

    def find(self, address: str) -> Route | NoWay | None:
        """The way to what a person typed; None where this root delivers to it."""
        return routes.find_typed(self._root, self._handle, address)

    def compose(
        self, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
    ) -> Sequence[Outgoing] | Refused:
        return compose.compose(self._handle, self._root.name, draft, origin, turn_id, routes)

    async def deliver(self, item: Outgoing) -> Delivery:
        return delivery.deliver(self._disk, self._root, self._handle, item)

    async def look(self, item: Outgoing) -> bool:
        with disk_faults(self._root / "agents"):
            trace = delivery.look(self._root, item)
        return trace in (delivery.Trace.WAITING, delivery.Trace.TAKEN)

    def report(self, envelope: Envelope, progress: Progress) -> None:
        """The format has no place for it: whoever looks sees that the message was taken."""

    def announce(self, presence: Presence, note: str = "") -> None:
        self._presence, self._presence_note = presence, note
        if self._lock is not None:
            amq.announce(self._disk, self._paths, self._handle, self._clock.now(), presence, note)

    async def done(self, envelope: Envelope, progress: Progress | None = None) -> None:
        """Since its claim the message is in cur, and stays there.

        One that was given up must not come back into new by a crash: it would look like put back by hand.
        """
        if progress is not None and progress.outcome not in _ENDED_WELL:
            self._consumer.confirm_taken(envelope)

    async def reject(self, item: Unreadable) -> None:
        self._attend()
        self._consumer.reject(item)

    async def set_aside(self, envelope: Envelope, why: str = "") -> None:
        self._attend()
        self._consumer.set_aside(envelope, why)

    async def settled(self, envelope: Envelope) -> Message | None:
        return self._consumer.settled(envelope)

    async def ask_again(self, locator: str) -> Refused | None:
        """What was put away lies in the folder: it has changed only where somebody has put it back."""
        return self.put_back(locator, "")

    def put_back(self, locator: str, digest: str, new_id: str = "") -> Refused | None:
        self._attend()
        return shelf.put_back(self._disk, self._paths, self._letters, locator, digest, new_id)

    def _attend(self) -> None:
        """Check that our lock still stands for these folders; follow a mailbox that was replaced by a whole one."""
        stands = self._lock is not None and self._locked and self._locked == self._found()
        if self._events is None or stands:
            return
        missing = layout.missing_folders(self._root, self._handle)
        if missing:
            raise MailboxUnavailable(
                "mailbox_gone",
                f"{missing[0]} is gone",
                f"put it back, or: agent-mailer init --maildir-root {quoted(self._root)} --address {self._handle}",
            )
        with disk_faults(self._paths.home):
            self._drop_lock()
            try:
                layout.make_mailbox(self._disk, self._root, self._handle, own=True)
                self._take_lock()
            except (BusyFault, ConfigFault) as fault:
                raise MailboxUnavailable(fault.code, fault.message, fault.fix) from fault

    def _take_lock(self) -> None:
        """Hold the mailbox against other watchers. Raises BusyFault, ConfigFault where the file system has no locks."""
        from agent_mailer.locks import FileLock

        lock = FileLock(self._paths.lock)
        if not lock.acquire(LOCK_SECONDS):
            raise BusyFault(
                "mailbox_busy",
                f"another watcher{self._lock_owner()} consumes the mailbox {self._handle!r} in {self._root}",
                "stop it, or give this agent a handle of its own: agent-mailer config set address HANDLE",
            )
        self._lock = lock
        self._locked = self._found()
        amq.declare(self._disk, self._root)
        if self._presence is not None:
            self.announce(self._presence, self._presence_note)
        with suppress(OSError):
            # Only names us to others; the lock itself is held.
            self._disk.replace(self._paths.pid_file, f"{os.getpid()}\n".encode(), sync=Sync.NONE)

    def _drop_lock(self) -> None:
        if self._lock is None:
            return
        try:
            with suppress(OSError):
                # Before the lock goes: afterwards the file may be the next watcher's.
                self._disk.remove(self._paths.pid_file)
        finally:
            with suppress(OSError):
                self._lock.release()
            self._lock = None

    def _lock_owner(self) -> str:
        """Who holds the lock. It names itself a moment after it has it, and a killed one leaves its name behind."""
        until = time.monotonic() + NAMED_WITHIN
        while True:
            if (pid := amq.watcher_of(self._paths)) is not None:
                return f" (process {pid})"
            if time.monotonic() >= until:
                return ""
            time.sleep(_LOOK_AGAIN)

    def _found(self) -> _Inodes:
        """Device and inode of what our lock stands for; empty if something is missing."""
        try:
            found = [os.lstat(path) for path in (self._paths.new, self._paths.cur, self._paths.lock)]
        except OSError:
            return ()
        return tuple((one.st_dev, one.st_ino) for one in found)


class _Groups(msgspec.Struct):
    groups: tuple[str, ...] = ()


def _groups_of(paths: layout.Paths) -> tuple[str, ...]:
    """As `tag:NAME`, `cap:NAME`, `label:NAME`; what cannot be read is none."""
    try:
        return msgspec.json.decode(read_regular(paths.groups, layout.MAX_HANDLE * 100), type=_Groups).groups
    except (OSError, msgspec.DecodeError, RecursionError):
        return ()
