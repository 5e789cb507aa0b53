"""What lies in a folder of messages, what waits there, and what belongs to a thread.

A file is read once while it stays what it was. Where the system tells what changes (`FileEvents.touched`) nothing else
is looked at; where it does not, or may have missed something, the folder is listed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.lying import AT_ONCE, Lying
from agent_mailer.mailbox.maildir.digests import file_digest
from agent_mailer.mailbox.maildir.format import (
    MAX_MESSAGE_BYTES,
    TOO_LARGE,
    Malformed,
    Reason,
    parse_envelope,
    parse_head,
    parse_message,
    too_large,
)
from agent_mailer.mailbox.maildir.layout import Paths, is_handle, mailboxes, roster
from agent_mailer.mailbox.port import Envelope, MailboxUnavailable, Message, Unreadable

if TYPE_CHECKING:
    import asyncio

    from agent_mailer.file_events import FileEvents

MAX_INDEXED: Final = 20_000
MAX_THREAD_MESSAGES: Final = 200

_HEAD_BYTES: Final = 16 * 1024
_RAW_NAME: Final = "bytes:"
_SYSTEM_WIDE: Final = frozenset((errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN))

WATCHED: Final = 500
"""A folder with fewer names is listed each time: that costs less than to hear of all that others do there."""

_MOMENT_BYTES: Final = 12
_INODE_BYTES: Final = 8
_DIGEST_BYTES: Final = 12

_T = TypeVar("_T")
_Signature = tuple[int, int, int]


def is_message_name(name: str) -> bool:
    """Whether AMQ takes a file of this name for a message."""
    return name.endswith(".md") and not name.startswith(".") and not any(c in name for c in "/\\\0")


def to_locator(name: str) -> str:
    """A file name as text that any file can hold; `from_locator` gives the name back."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return _RAW_NAME + os.fsencode(name).hex()
    return name


def from_locator(locator: str) -> str:
    """The file name; raises ValueError for what is none, so that no path is ever built of it."""
    raw = locator.startswith(_RAW_NAME) and not locator.endswith(".md")
    name = os.fsdecode(bytes.fromhex(locator.removeprefix(_RAW_NAME))) if raw else locator
    if not is_message_name(name):
        raise ValueError(f"no message file: {locator!r}")
    return name


class StatCache(Generic[_T]):
    """What was found in a file, kept while inode, time and size are the same; at most `size` entries."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[str, tuple[_Signature, _T]] = {}

    def get(self, path: str, found: os.stat_result) -> _T | None:
        entry = self._entries.get(path)
        return entry[1] if entry is not None and entry[0] == _signature(found) else None

    def put(self, path: str, found: os.stat_result, value: _T) -> None:
        if path not in self._entries and len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[path] = (_signature(found), value)


class Listed(msgspec.Struct, frozen=True):
    """One name in a folder of messages."""

    path: str
    name: str
    found: os.stat_result


def scan(folder: Path) -> Iterator[Listed]:
    """Every message name in `folder`, sorted by name. Raises OSError if the folder cannot be read."""
    with os.scandir(folder) as entries:
        names = sorted((entry for entry in entries if is_message_name(entry.name)), key=lambda entry: entry.name)
    for entry in names:
        try:
            yield Listed(entry.path, entry.name, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue


def read_envelope(item: Listed) -> Envelope | Malformed | None:
    """The envelope of a file, or why it is none; None if it has gone. Raises MailboxUnavailable for a sick disk."""
    return _read_beginning(item, parse_envelope)


def read_head(item: Listed) -> Message | Malformed | None:
    """As `read_envelope`: the message without its body."""
    return _read_beginning(item, parse_head)


def _read_beginning(item: Listed, parse: Callable[[bytes, str], _T | Malformed]) -> _T | Malformed | None:
    if not stat.S_ISREG(item.found.st_mode):
        return Malformed(Reason.PARSE_ERROR, "not a regular file")
    locator = to_locator(item.name)
    if locator != item.name:
        return Malformed(Reason.PARSE_ERROR, "the file name is not UTF-8")
    try:
        head = read_regular(item.path, _HEAD_BYTES)
        if item.found.st_size > MAX_MESSAGE_BYTES:
            return too_large(parse_envelope(head, locator))
        parsed = parse(head, locator)
        if isinstance(parsed, Malformed) and len(head) > _HEAD_BYTES:
            parsed = parse(read_regular(item.path, MAX_MESSAGE_BYTES), locator)
    except FileNotFoundError:
        return None
    except OSError as fault:
        if fault.errno in _SYSTEM_WIDE:
            raise unavailable(item.path, fault) from fault
        return Malformed(Reason.PARSE_ERROR, f"cannot be read: {fault.strerror}")
    return parsed


def read_names(folder: Path, names: Iterable[str]) -> Iterator[Envelope | Malformed]:
    """What each of these files is; one that has gone meanwhile is left out. Raises OSError, MailboxUnavailable."""
    for name in names:
        if (item := lies(folder, name)) is not None and (found := read_envelope(item)) is not None:
            yield found


def lies(folder: Path, name: str) -> Listed | None:
    """What has that name now. Raises OSError."""
    path = os.path.join(folder, name)  # noqa: PTH118 - a Path a file costs more than all the rest
    try:
        return Listed(path, name, os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return None


def unreadable(path: Path, why: Malformed) -> Unreadable:
    """A file that is no message, as the port tells of it."""
    return Unreadable(
        to_locator(path.name),
        f"{why.reason.value}: {why.why}",
        why.why == TOO_LARGE,
        why.id,
        why.thread,
        why.sender,
        file_digest(path),
        why.reply_to,
    )


class Waiting:
    """What waits in one folder: the first `most` names that are whole."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._known: dict[str, tuple[_Signature, Envelope | Unreadable]] = {}
        self._not_whole: set[str] = set()
        self._complete = False
        """Whether what is known is all there was at the last look."""
        self.changes = 0
        """Grows whenever it is another than before."""

    @property
    def envelopes(self) -> list[Envelope]:
        """By their names, nearly in their order: to sort them costs little."""
        ordered = (self._known[name][1] for name in sorted(self._known))
        return [found for found in ordered if isinstance(found, Envelope)]

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        found = {name: found for name, (_, found) in self._known.items() if isinstance(found, Unreadable)}
        return tuple(found[name] for name in sorted(found))

    def look(self, touched: Collection[str] | None, is_whole: Callable[[Listed], bool]) -> Iterator[None]:
        """`touched`: what may be another than at the last look; None: nobody knows. Raises OSError, MailboxUnavailable.

        A message that was listed once is read again only where it is another by then. Between two steps others may go
        on; without any it was of one moment.
        """
        complete, self._complete = self._complete, False
        if touched is None or not complete:
            yield from self._list(is_whole)
            return
        for name in [*filter(is_message_name, touched), *self._not_whole]:
            item = lies(self._folder, name)
            if item is None:
                self._not_whole.discard(name)
                self._drop(name)
            else:
                self._take(item, is_whole, again=True)
        # Beyond that others would have to move up.
        self._complete = len(self._known) < self._most

    def _list(self, is_whole: Callable[[Listed], bool]) -> Iterator[None]:
        self._not_whole.clear()
        seen: set[str] = set()
        for item in scan(self._folder):
            if len(seen) >= self._most:
                break
            changes = self.changes
            if self._take(item, is_whole):
                seen.add(item.name)
            if self.changes != changes and self.changes % AT_ONCE == 0:
                yield
        for name in self._known.keys() - seen:
            self._drop(name)
        self._complete = len(seen) < self._most

    def _take(self, item: Listed, is_whole: Callable[[Listed], bool], *, again: bool = False) -> bool:
        """Whether it waits, and is no longer being written. `again`: its times tell less than what was heard of it."""
        signature = _signature(item.found)
        known = self._known.get(item.name)
        same = known is not None and known[0] == signature
        if same and not again:
            return True
        if not same and not is_whole(item):
            self._drop(item.name)
            self._not_whole.add(item.name)
            return False
        self._not_whole.discard(item.name)
        found = read_envelope(item)
        if found is None:
            self._drop(item.name)
            return False
        entry = (signature, unreadable(Path(item.path), found) if isinstance(found, Malformed) else found)
        if entry != known:
            self._known[item.name] = entry
            self.changes += 1
        return True

    def _drop(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self.changes += 1


class _Folder(Lying):
    """In brief what every message of one folder is: inode, digest of the thread, and place in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.known: dict[str, bytes] = {}
        self.threads: dict[bytes, list[str]] = {}

    def counts(self, name: str) -> bool:
        return is_message_name(name)

    def inodes(self) -> Iterator[tuple[str, int]]:
        return ((name, int.from_bytes(known[:_INODE_BYTES])) for name, known in self.known.items())

    def note(self, name: str) -> None:
        item = lies(self.path, name)
        found = read_envelope(item) if item is not None else None
        if item is None or found is None:
            return
        inode = item.found.st_ino.to_bytes(_INODE_BYTES)
        if isinstance(found, Malformed):
            self.known[name] = inode
            return
        digest = thread_digest(found.thread)
        moment, _, _ = found.order.partition(" ")
        # Nearly every name is its message's id.
        named = "" if name == f"{found.id}.md" else found.id
        self.known[name] = inode + digest + int(moment).to_bytes(_MOMENT_BYTES) + _bytes(named)
        self.threads.setdefault(digest, []).append(name)

    def forget(self, name: str) -> None:
        known = self.known.pop(name, b"")
        digest = known[_INODE_BYTES:][:_DIGEST_BYTES]
        if not digest:
            return
        names = self.threads[digest]
        names.remove(name)
        if not names:
            del self.threads[digest]

    def of(self, digest: bytes) -> Iterator[tuple[tuple[bytes, bytes], str]]:
        """Place in the thread, and name, of each of its messages that lies here."""
        for name in self.threads.get(digest, ()):
            place = self.known[name][_INODE_BYTES + _DIGEST_BYTES :]
            yield (place[:_MOMENT_BYTES], place[_MOMENT_BYTES:] or _bytes(name.removesuffix(".md"))), name


class ThreadIndex:
    """What belongs to which thread, of all messages of a root, read or not."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, _Folder] = {}
        self._reading: asyncio.Lock | None = None

    async def thread(self, thread_id: str, events: FileEvents | None) -> list[Message]:
        """The newest `MAX_THREAD_MESSAGES` of the thread, oldest first, each id once, as a new listing would find them.

        Where much has to be read others go on meanwhile. Raises OSError, MailboxUnavailable.
        """
        import asyncio  # most commands ask for no thread

        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            while True:
                parts = 0
                for parts, _ in enumerate(self._refresh(events), 1):  # noqa: B007 - counts
                    await asyncio.sleep(0)
                if not parts:
                    # Nothing has happened since it began that it does not know.
                    return self._read(thread_id)

    def _refresh(self, events: FileEvents | None) -> Iterator[None]:
        paths = _folders(self._root)
        self._folders = {path: self._folders.get(path) or _Folder(path) for path in paths}
        for path, folder in self._folders.items():
            watched = events if len(folder.known) >= WATCHED else None
            folder.hear(watched.touched(path) if watched is not None else None)
            yield from folder.refresh()

    def _read(self, thread_id: str) -> list[Message]:
        wanted = thread_digest(thread_id)
        found: dict[tuple[bytes, bytes], list[Path]] = {}  # by its place in the thread
        for folder in self._folders.values():
            for place, name in folder.of(wanted):
                found.setdefault(place, []).append(folder.path / name)
        messages: dict[str, Message] = {}
        for place in sorted(found, reverse=True):
            if len(messages) >= MAX_THREAD_MESSAGES:
                break
            for path in found[place]:
                message = _message_in(path)
                if message is not None and message.envelope.thread == thread_id:
                    messages.setdefault(message.envelope.id, message)
                    break
        return sorted(messages.values(), key=lambda message: message.envelope.order)


def thread_digest(thread_id: str) -> bytes:
    return hashlib.sha256(_bytes(thread_id)).digest()[:_DIGEST_BYTES]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def unavailable(what: object, fault: OSError) -> MailboxUnavailable:
    why, fix = f"{what}: {fault.strerror or fault}", "check the disk and the folder; the watcher tries again by itself"
    return MailboxUnavailable("mailbox_unavailable", f"the mailbox cannot be used: {why}", fix)


def _signature(found: os.stat_result) -> _Signature:
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _folders(root: Path) -> list[Path]:
    """Inboxes first: what is there counts before a sender's copy of it."""
    try:
        listed = roster(root)
    except ConfigFault:
        listed = ()
    handles = sorted({*filter(is_handle, listed), *mailboxes(root)})
    boxes = [Paths(root, handle) for handle in handles]
    return [*chain.from_iterable((box.new, box.cur) for box in boxes), *(box.sent for box in boxes)]


def _message_in(path: Path) -> Message | None:
    try:
        parsed = parse_message(read_regular(path, MAX_MESSAGE_BYTES), path.name)
    except OSError:
        return None
    return parsed if isinstance(parsed, Message) else None
