"""What lies in a folder of messages, what waits there, and what belongs to a thread.

A file is read once while it stays what it was. Where the system tells what changes (`FileEvents.touched`) nothing else
is looked at; where it does not, or may have missed something, the folder is listed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agent_mailer.disk import read_regular
from agent_mailer.lying import AT_ONCE, Listed, Lying, Read, lies, until_at_rest
from agent_mailer.mailbox.maildir.digests import unavailable, unreadable
from agent_mailer.mailbox.maildir.format import (
    MAX_MESSAGE_BYTES,
    Malformed,
    Reason,
    is_message_name,
    parse_envelope,
    parse_head,
    parse_message,
    to_locator,
    too_large,
)
from agent_mailer.mailbox.maildir.layout import message_folders
from agent_mailer.mailbox.maildir.remembered import INODE_BYTES, WORTH_A_LINE, Remembered
from agent_mailer.mailbox.port import URGENCY, Envelope, Listing, Message, Unreadable
from agent_mailer.names import sha256
from agent_mailer.ordered import Ordered, Place, insert, take_out

if TYPE_CHECKING:
    import asyncio

    from agent_mailer.file_events import FileEvents

MAX_THREAD_MESSAGES: Final = 200
_HEAD_BYTES: Final = 16 * 1024
_SYSTEM_WIDE: Final = frozenset((errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN))

WATCHED: Final = 500
"""A folder with fewer names is listed each time: that costs less than to hear of all that others do there."""
_DIGEST_BYTES, _MOMENT_BYTES = 12, 12
_PLACE: Final = INODE_BYTES + _DIGEST_BYTES
_T = TypeVar("_T")
_Signature = tuple[int, int, int, int]


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


class Waiting:
    """What waits in one folder: the first `most` names that are whole."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._known: dict[str, tuple[_Signature, Envelope | Unreadable]] = {}
        self._sorted: list[str] = []
        self._behind: list[str] = []
        """Those after the first `most`, sorted: nobody has looked at them."""
        self._not_whole: set[str] = set()
        self._complete = False
        """Whether the last look came to its end."""
        self._changes = 0
        """Grows whenever it is another than before."""
        self._unreadable: dict[str, Unreadable] = {}
        self._order = Ordered(len(URGENCY))
        """Of the messages, but for those that are `_beside`."""
        self._beside: frozenset[str] = frozenset()
        self._renamed: dict[str, set[str]] = {}
        """By id the names of those that are not called by it."""
        self._listed: tuple[int, int, frozenset[str], Listing] | None = None
        """What was answered last: after how many changes, and to which question."""

    def first(self, limit: int, beside: Collection[str]) -> Listing:
        """As `pending` of the port says, as of the last look."""
        asked = (self._changes, limit, frozenset(beside))
        if self._listed is None or self._listed[:3] != asked:
            for message_id in self._beside ^ asked[2]:
                for name in (f"{message_id}.md", *self._renamed.get(message_id, ())):
                    if isinstance(one := self._found(name), Envelope) and one.id == message_id:
                        (self._order.add if message_id in self._beside else self._order.remove)(_place(name, one))
            self._beside = asked[2]
            bad = tuple(self._unreadable[name] for name in sorted(self._unreadable))
            more = len(self._known) - len(bad) > limit or bool(self._behind)
            found = tuple(one for name in self._order.first(limit) if isinstance(one := self._found(name), Envelope))
            self._listed = (*asked, Listing(found, bad, more=more))
        return self._listed[3]

    def look(self, touched: Collection[str] | None, is_whole: Callable[[Listed], bool]) -> Iterator[None]:
        """`touched`: what may be another than at the last look; None: nobody knows. Raises OSError, MailboxUnavailable.

        A message that was listed once is read again only where it is another by then. Between two steps others may go
        on; without any it was of one moment.
        """
        complete, self._complete = self._complete, False
        if touched is None or not complete:
            yield from self._list(is_whole)
        else:
            for name in [*filter(is_message_name, touched), *self._not_whole]:
                self._look_again(name, is_whole)
            yield from self._fill(is_whole)
        self._complete = True

    def _list(self, is_whole: Callable[[Listed], bool]) -> Iterator[None]:
        self._not_whole.clear()
        self._behind = []
        names = sorted(filter(is_message_name, os.listdir(self._folder)))
        seen: set[str] = set()
        looked_at = 0
        while looked_at < len(names) and len(seen) < self._most:
            item, changes = lies(self._folder, names[looked_at]), self._changes
            looked_at += 1
            if item is not None and self._take(item, is_whole):
                seen.add(item.name)
            if self._changes != changes and self._changes % AT_ONCE == 0:
                yield
        for name in self._known.keys() - seen:
            self._drop(name)
        self._behind = names[looked_at:]

    def _look_again(self, name: str, is_whole: Callable[[Listed], bool]) -> None:
        item = lies(self._folder, name)
        self._not_whole.discard(name)
        if self._behind and name >= self._behind[0]:
            take_out(self._behind, name)
            if item is not None:
                insert(self._behind, name)
        elif item is None:
            self._drop(name)
        else:
            self._take(item, is_whole, again=True)

    def _fill(self, is_whole: Callable[[Listed], bool]) -> Iterator[None]:
        """Others move up, or have to move back."""
        while len(self._sorted) > self._most:
            self._behind.insert(0, self._sorted[-1])
            self._drop(self._sorted[-1])
        while self._behind and len(self._sorted) < self._most:
            if (item := lies(self._folder, self._behind.pop(0))) is not None:
                self._take(item, is_whole)
            if self._changes % AT_ONCE == 0:
                yield

    def _take(self, item: Listed, is_whole: Callable[[Listed], bool], *, again: bool = False) -> bool:
        """Whether it waits, and is no longer being written. `again`: its times tell less than what was heard of it."""
        found = item.found
        signature = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        known = self._known.get(item.name)
        same = known is not None and known[0] == signature
        if same and not again:
            return True
        if not same and not is_whole(item):
            self._drop(item.name)
            self._not_whole.add(item.name)
            return False
        read = read_envelope(item)
        if read is None:
            self._drop(item.name)
            return False
        entry = (signature, unreadable(Path(item.path), read) if isinstance(read, Malformed) else read)
        if entry != known:
            self._drop(item.name)
            self._put(item.name, entry)
        return True

    def _found(self, name: str) -> Envelope | Unreadable | None:
        return self._known[name][1] if name in self._known else None

    def _put(self, name: str, entry: tuple[_Signature, Envelope | Unreadable]) -> None:
        self._known[name] = entry
        insert(self._sorted, name)
        self._changes += 1
        if isinstance(one := entry[1], Unreadable):
            self._unreadable[name] = one
            return
        if name != f"{one.id}.md":
            self._renamed.setdefault(one.id, set()).add(name)
        if one.id not in self._beside:
            self._order.add(_place(name, one))

    def _drop(self, name: str) -> None:
        if (known := self._known.pop(name, None)) is None:
            return
        take_out(self._sorted, name)
        self._changes += 1
        if isinstance(one := known[1], Unreadable):
            del self._unreadable[name]
            return
        if name != f"{one.id}.md":
            self._renamed[one.id].remove(name)
            if not self._renamed[one.id]:
                del self._renamed[one.id]
        if one.id not in self._beside:
            self._order.remove(_place(name, one))


def _place(name: str, one: Envelope) -> Place:
    return Place(one.order, name, one.thread, URGENCY[one.priority])


class _Folder(Lying):
    """In brief what every message of one folder is: inode, digest of the thread, and place in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.known: dict[str, bytes] = {}
        self.threads: defaultdict[bytes, list[str]] = defaultdict(list)
        self.remembered: Remembered | None = None
        self._told = False
        self._fresh: set[str] = set()
        """What was read while we are told of every change, and is not remembered yet."""
        self._sure = True  # that we are told of every change to all that is known
        self._enough = WORTH_A_LINE

    counts = staticmethod(is_message_name)

    def inodes(self) -> Iterator[tuple[str, int]]:
        return ((name, int.from_bytes(known[:INODE_BYTES])) for name, known in self.known.items())

    def note(self, name: str) -> None:
        if (item := lies(self.path, name)) is None or (found := read_envelope(item)) is None:
            return
        self._fresh.add(name)
        entry = _entry(name, found) if isinstance(found, Envelope) else b""
        self._keep({name: item.found.st_ino.to_bytes(INODE_BYTES) + entry})

    def recall(self, due: Collection[str]) -> Iterator[Collection[str]]:
        while self.remembered is not None and (same := self.remembered.of(self.path, due)) is not None:
            self._keep(same)
            yield same

    def _keep(self, found: Mapping[str, bytes]) -> None:
        for name in found.keys() & self.known.keys():
            self.forget(name)
        self.known.update(found)
        for name, known in found.items():
            if digest := known[INODE_BYTES:_PLACE]:
                self.threads[digest].append(name)

    def hear(self, touched: Collection[str] | None) -> None:
        super().hear(touched)
        self._told = touched is not None
        if not self._told:
            self._fresh.clear()
            self._sure = self._sure and not self.known

    def is_large(self) -> bool:
        """Whether it is to be watched: the first time before the first file is read. Raises OSError."""
        return len(self.known) >= WATCHED if self.known or self.is_listed else self.holds(WATCHED)

    def remember(self, *, anew: bool) -> Iterator[None]:
        """For the next life; `anew`: nothing is remembered by now. Between two steps others may go on."""
        self._fresh = set(self.known) if anew and self._sure else self._fresh
        if self.remembered is None or not self._told or len(self._fresh) < self._enough:
            return
        fresh = iter(list(self._fresh))
        while some := list(islice(fresh, WORTH_A_LINE)):
            each = ((name, self.known[name]) for name in some if name in self.known)
            self._fresh -= self.remembered.add(self.path, each)
            yield
        self._enough = len(self._fresh) + WORTH_A_LINE

    def forget(self, name: str) -> None:
        self._fresh.discard(name)
        if not (digest := self.known.pop(name, b"")[INODE_BYTES:_PLACE]):
            return
        names = self.threads[digest]
        names.remove(name)
        if not names:
            del self.threads[digest]

    def of(self, digest: bytes) -> Iterator[tuple[tuple[bytes, bytes], str]]:
        """Place in the thread, and name, of each of its messages that lies here."""
        for name in self.threads.get(digest, ()):
            place = self.known[name][_PLACE:]
            named = place[_MOMENT_BYTES:] or name.removesuffix(".md").encode("utf-8", "surrogatepass")
            yield (place[:_MOMENT_BYTES], named), name


def _entry(name: str, found: Envelope) -> bytes:
    """Digest of the thread, and place in it: moment and id."""
    moment, _, _ = found.order.partition(" ")
    # Nearly every name is its message's id.
    named = "" if name == f"{found.id}.md" else found.id
    return thread_digest(found.thread) + int(moment).to_bytes(_MOMENT_BYTES) + named.encode("utf-8", "surrogatepass")


class ThreadIndex:
    """What belongs to which thread, of all messages of a root, read or not; `remembered` is from life to life."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.remembered: Remembered | None = None
        self._folders: dict[Path, _Folder] = {}
        self._texts = Read(_message_in)
        self._reading: asyncio.Lock | None = None

    async def thread(self, thread_id: str, events: FileEvents | None) -> list[Message]:
        """The newest `MAX_THREAD_MESSAGES` of the thread, oldest first, each id once, as a new listing would find them.

        Where much has to be read others go on meanwhile. Raises OSError, MailboxUnavailable.
        """
        import asyncio  # most commands ask for no thread

        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            await until_at_rest(lambda: self._refresh(events))
            return self._read(thread_id)

    async def remember(self) -> None:
        """What is new, once there is enough of it."""
        import asyncio

        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            large = [folder for folder in self._folders.values() if folder.remembered is not None]
            anew = bool(large) and self.remembered is not None and self.remembered.is_begun_anew()
            for folder in large:
                for _ in folder.remember(anew=anew):
                    await asyncio.sleep(0)

    def _refresh(self, events: FileEvents | None) -> Iterator[None]:
        paths = message_folders(self._root)
        self._folders = {path: self._folders.get(path) or _Folder(path) for path in paths}
        for path, folder in self._folders.items():
            watched = events if events is not None and folder.is_large() else None
            folder.remembered = self.remembered if watched is not None else None
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
                if (message := self._texts.at(path)) is not None and message.envelope.thread == thread_id:
                    messages.setdefault(message.envelope.id, message)
                    break
        return sorted(messages.values(), key=lambda message: message.envelope.order)


def thread_digest(thread_id: str) -> bytes:
    return sha256(thread_id.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def _message_in(path: Path) -> Message | None:
    try:
        parsed = parse_message(read_regular(path, MAX_MESSAGE_BYTES), path.name)
    except OSError:
        return None
    return parsed if isinstance(parsed, Message) else None
