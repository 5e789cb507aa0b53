"""What lies in a folder of messages, and what belongs to a thread. A file is read once while it stays what it was."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from agent_mailer.beneath import open_file
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
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

MAX_LISTED: Final = 10_000
MAX_INDEXED: Final = 20_000
MAX_THREAD_MESSAGES: Final = 200

_HEAD_BYTES: Final = 16 * 1024
_END_BYTES: Final = 64 * 1024
_RAW_NAME: Final = "bytes:"
_SYSTEM_WIDE: Final = frozenset((errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN))

_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}\.[0-9]{3}Z")
_LAST_STAMP: Final = "9999"

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

    def keep_only(self, paths: set[str]) -> None:
        if len(self._entries) > len(paths):
            self._entries = {path: entry for path, entry in self._entries.items() if path in paths}


class Listed(msgspec.Struct, frozen=True):
    """One name in a folder of messages."""

    path: str
    name: str
    found: os.stat_result


class IndexEntry(msgspec.Struct, frozen=True):
    """As little as finds a thread again: a digest of its name and the message's place in it; empty for no message."""

    thread: bytes
    order: str


_NO_MESSAGE: Final = IndexEntry(b"", "")


def scan(folder: Path) -> Iterator[Listed]:
    """Every message name in `folder`, sorted by name. Raises OSError if the folder cannot be read."""
    with os.scandir(folder) as entries:
        names = sorted((entry for entry in entries if is_message_name(entry.name)), key=lambda entry: entry.name)
    for entry in names:
        try:
            yield Listed(entry.path, entry.name, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue


def stamp(moment: float) -> str:
    """A moment as AMQ's names begin with it, so that it sorts among them."""
    try:
        found = datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):
        return _LAST_STAMP
    return found.strftime("%Y-%m-%dT%H-%M-%S") + f".{found.microsecond // 1000:03d}Z"


def dated_names(folder: Path) -> list[tuple[str, str]]:
    """Every message name in `folder` with its moment, oldest first; no file is opened.

    The moment is the one that AMQ's names begin with; of another name it is the file's. Raises OSError.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_message_name(entry.name):
                continue
            said = _STAMP.match(entry.name)
            with suppress(FileNotFoundError):
                moment = said[0] if said else stamp(entry.stat(follow_symlinks=False).st_mtime)
                found.append((moment, entry.name))
    return sorted(found)


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
        head = read_regular(Path(item.path), _HEAD_BYTES)
        if item.found.st_size > MAX_MESSAGE_BYTES:
            return too_large(parse_envelope(head, locator))
        parsed = parse(head, locator)
        if isinstance(parsed, Malformed) and len(head) > _HEAD_BYTES:
            parsed = parse(read_regular(Path(item.path), MAX_MESSAGE_BYTES), locator)
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
        path = os.path.join(folder, name)  # noqa: PTH118 - a Path a file costs more than all the rest
        with suppress(FileNotFoundError):
            found = read_envelope(Listed(path, name, os.stat(path, follow_symlinks=False)))
            if found is not None:
                yield found


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


def file_digest(path: Path) -> str:
    """Tells what lies under a name from what else may: of the whole content, and the ends of a large one; of what
    cannot be read, of which file it is.
    """
    try:
        data = read_regular(path, MAX_MESSAGE_BYTES)
        if len(data) > MAX_MESSAGE_BYTES:
            with os.fdopen(open_file(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
                stream.seek(-_END_BYTES, os.SEEK_END)
                data = b"%d " % os.fstat(stream.fileno()).st_size + data + stream.read(_END_BYTES)
    except OSError:
        return place_digest(path)
    return bytes_digest(data)


def place_digest(path: Path) -> str:
    """Of what has no content to be read: a FIFO, a link, a folder. It stays the same where that is moved to."""
    try:
        found = os.lstat(path)
    except OSError:
        return ""
    return bytes_digest(b"%d %d %d" % (stat.S_IFMT(found.st_mode), found.st_ino, found.st_mtime_ns))


def bytes_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def list_folder(
    folder: Path,
    cache: StatCache[Envelope | Unreadable],
    most: int = MAX_LISTED,
    is_whole: Callable[[Listed], bool] = lambda _: True,
) -> tuple[list[Envelope], list[Unreadable]]:
    """What waits in `folder`: the first `most` names that are whole. A repeated listing costs a stat a file."""
    envelopes: list[Envelope] = []
    bad: list[Unreadable] = []
    seen: set[str] = set()
    for item in scan(folder):
        if len(seen) >= most:
            break
        parsed = cache.get(item.path, item.found)
        if parsed is None:
            if not is_whole(item) or (found := read_envelope(item)) is None:
                continue
            parsed = unreadable(Path(item.path), found) if isinstance(found, Malformed) else found
            cache.put(item.path, item.found, parsed)
        seen.add(item.path)
        if isinstance(parsed, Envelope):
            envelopes.append(parsed)
        else:
            bad.append(parsed)
    cache.keep_only(seen)
    return envelopes, bad


class ThreadIndex:
    """In brief what every message of some folders is; at most `size` entries are remembered.

    A file is known by name and inode, not by a stat of its own: a message is never changed where it lies, and a folder
    of thousands is walked at every claim.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[str, dict[str, tuple[int, IndexEntry]]] = {}

    def entries(self, folder: Path) -> list[tuple[str, IndexEntry]]:
        """Name and entry of each readable message in `folder`, read or not; a folder that is missing holds none."""
        known = self._known.pop(str(folder), {})
        room = self._size - sum(len(names) for names in self._known.values())
        seen: dict[str, tuple[int, IndexEntry]] = {}
        found: list[tuple[str, IndexEntry]] = []
        try:
            with os.scandir(folder) as listed:
                for item in listed:
                    before = known.get(item.name)
                    if before is None or before[0] != item.inode():
                        if not is_message_name(item.name):
                            continue
                        entry = _index_entry(item)
                        if entry is None:
                            continue
                        before = (item.inode(), entry)
                    if len(seen) < room:
                        seen[item.name] = before
                    if before[1].order:
                        found.append((item.name, before[1]))
        except FileNotFoundError:
            return []
        self._known[str(folder)] = seen
        return found


def _index_entry(item: os.DirEntry[str]) -> IndexEntry | None:
    try:
        parsed = read_envelope(Listed(item.path, item.name, item.stat(follow_symlinks=False)))
    except FileNotFoundError:
        return None
    if parsed is None:
        return None
    return IndexEntry(thread_digest(parsed.thread), parsed.order) if isinstance(parsed, Envelope) else _NO_MESSAGE


def thread_digest(thread_id: str) -> bytes:
    return hashlib.sha256(thread_id.encode("utf-8", "surrogatepass")).digest()[:12]


def unavailable(what: object, fault: OSError) -> MailboxUnavailable:
    return MailboxUnavailable(
        "mailbox_unavailable",
        f"the mailbox cannot be used: {what}: {fault.strerror or fault}",
        "check the disk and the folder; the watcher tries again by itself",
    )


def _signature(found: os.stat_result) -> _Signature:
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def read_thread(root: Path, thread_id: str, index: ThreadIndex) -> list[Message]:
    """The newest `MAX_THREAD_MESSAGES` of the thread, oldest first, each id once. Raises OSError."""
    wanted = thread_digest(thread_id)
    found: dict[str, list[tuple[Path, str]]] = {}  # by its place in the thread: folder and name
    for folder in _folders(root):
        for name, entry in index.entries(folder):
            if entry.thread == wanted:
                found.setdefault(entry.order, []).append((folder, name))
    messages: dict[str, Message] = {}
    for order in sorted(found, reverse=True):
        if len(messages) >= MAX_THREAD_MESSAGES:
            break
        for folder, name in found[order]:
            message = _read(folder / name, name)
            if message is not None and message.envelope.thread == thread_id:
                messages.setdefault(message.envelope.id, message)
                break
    return sorted(messages.values(), key=lambda message: message.envelope.order)


def _folders(root: Path) -> list[Path]:
    """Inboxes first: what is there counts before a sender's copy of it."""
    try:
        listed = roster(root)
    except ConfigFault:
        listed = ()
    handles = sorted({*filter(is_handle, listed), *mailboxes(root)})
    boxes = [Paths(root, handle) for handle in handles]
    return [*chain.from_iterable((box.new, box.cur) for box in boxes), *(box.sent for box in boxes)]


def _read(path: Path, name: str) -> Message | None:
    try:
        parsed = parse_message(read_regular(path, MAX_MESSAGE_BYTES), name)
    except OSError:
        return None
    return parsed if isinstance(parsed, Message) else None
