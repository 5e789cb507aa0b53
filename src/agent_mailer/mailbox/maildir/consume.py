"""Taking what has arrived: the claim, and putting away what is no message or comes a second time."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from agent_mailer.clock import Clock
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.groups import ONE_OF
from agent_mailer.mailbox.maildir.delivery import (
    Stage,
    dead_letter,
    holds,
    publish,
    receipt,
    receipt_name,
    temporary_name,
)
from agent_mailer.mailbox.maildir.digests import unavailable, unreadable
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, Malformed, Reason, from_locator, parse_message
from agent_mailer.mailbox.maildir.layout import MAX_HANDLE, Paths, is_folder
from agent_mailer.mailbox.port import Envelope, Gone, Message, Unreadable
from agent_mailer.names import path_name, printable

LARGEST_COPY = 64 * 1024 * 1024
"""What is larger is moved aside whole, instead of being copied into an envelope."""


class _Taken(Enum):
    MOVED = "from new"
    FOUND = "in cur"


class Consumer:
    """The consuming side of one mailbox. Every method may raise MailboxUnavailable."""

    def __init__(self, disk: Disk, clock: Clock, handle: str, paths: Paths) -> None:
        self._disk = disk
        self._clock = clock
        self._handle = handle
        self._paths = paths

    def claim(self, envelope: Envelope, *, again: bool, silent: bool = False) -> Message | Gone:
        """Move new -> cur, make that durable, read. `again`: our record says that what is in cur may be ours."""
        name = _name(envelope.locator)
        if isinstance(name, Gone):
            return name
        source, target = self._paths.new / name, self._paths.cur / name
        with disk_faults(target):
            taken = self._take(source, target, envelope, again=again)
            if isinstance(taken, Gone):
                return taken
            self._disk.sync_directory(self._paths.cur)
            parsed = _parse(target)
            if parsed is None:
                return Gone("it was removed from cur")
            if isinstance(parsed, Malformed):
                return self._went_bad(source, target, parsed, taken)
            if not _same(parsed, envelope):
                if taken is _Taken.MOVED:
                    self._put_back(source, target)
                return Gone("another message has taken its name")
            if any(label.startswith(ONE_OF) for label in parsed.labels) and (other := self._taken_by_another(parsed)):
                return Gone(f"{printable(other, 100)} has taken it", elsewhere=True)
            if not silent:
                self._write_receipt(envelope.id, envelope.thread, envelope.sender, Stage.DRAINED, "")
            return parsed

    def read(self, envelope: Envelope) -> Message | Gone:
        """The message where it is now, new or cur."""
        name = _name(envelope.locator)
        if isinstance(name, Gone):
            return name
        for folder in (self._paths.new, self._paths.cur):
            with disk_faults(folder / name):
                parsed = _parse(folder / name)
            if parsed is None:
                continue
            if isinstance(parsed, Malformed):
                return Gone(f"it is no message any more: {parsed.why}")
            return parsed if _same(parsed, envelope) else Gone("another message has taken its name")
        return Gone("it is neither in new nor in cur")

    def reject(self, item: Unreadable) -> None:
        """A file that is no message goes into the dead letters; what cannot be copied is moved aside whole."""
        try:
            name = from_locator(item.locator)
        except ValueError:
            return
        path = self._paths.new / name
        with disk_faults(path):
            parsed = _parse(path)
            if name != item.locator:
                self._move_aside(path, parsed)
            elif isinstance(parsed, Malformed):
                self._bury(path, parsed, "new")

    def set_aside(self, envelope: Envelope, why: str) -> None:
        """What arrived again goes to cur; if it is there already, an equal copy is dropped and another kept aside.

        With `why` it is another message, and becomes a dead letter.
        """
        name = _name(envelope.locator)
        if isinstance(name, Gone):
            return
        source, target = self._paths.new / name, self._paths.cur / name
        with disk_faults(source), suppress(FileNotFoundError):
            if why:
                self._bury(source, Malformed(Reason.USED_ID, why, envelope.id, envelope.thread, envelope.sender), "new")
                return
            try:
                self._disk.move(source, target, sync=Sync.NONE)
            except FileExistsError:
                self._drop_or_keep(source, target)

    def settled(self, envelope: Envelope) -> Message | None:
        """The message of this id in cur, under the name that was listed or the one that AMQ would give it."""
        for locator in dict.fromkeys((envelope.locator, f"{envelope.id}.md")):
            name = _name(locator)
            if isinstance(name, Gone):
                continue
            with disk_faults(self._paths.cur / name):
                parsed = _parse(self._paths.cur / name)
            if isinstance(parsed, Message) and parsed.envelope.id == envelope.id:
                return parsed
        return None

    def confirm_taken(self, envelope: Envelope) -> None:
        """What is in cur is no longer in new, and no crash brings that name back."""
        name = _name(envelope.locator)
        if isinstance(name, Gone):
            return
        source, target = self._paths.new / name, self._paths.cur / name
        with disk_faults(source):
            with suppress(FileNotFoundError):
                if os.lstat(source).st_ino == os.lstat(target).st_ino:
                    self._disk.remove(source)
            with suppress(FileNotFoundError):
                self._disk.sync_directory(self._paths.new)

    def _taken_by_another(self, message: Message) -> str:
        """Of mail that one of a group takes: who has it, if it is not ours now. Its copies have one id."""
        name = path_name(message.envelope.id)
        temporary = self._paths.taken / temporary_name(f"{name}-{self._handle}")
        self._disk.make_directory(self._paths.taken, sync=Sync.FULL)
        self._disk.create(temporary, f"{self._handle}\n".encode(), sync=Sync.CONTENT)
        try:
            publish(self._disk, temporary, self._paths.taken / name)
        except FileExistsError:
            owner = read_regular(self._paths.taken / name, MAX_HANDLE + 1).decode("utf-8", "replace").strip()
            return "" if owner == self._handle else owner or "somebody"
        return ""

    def _take(self, source: Path, target: Path, envelope: Envelope, *, again: bool) -> _Taken | Gone:
        """Make `target` ours. Raises OSError."""
        try:
            self._disk.move(source, target, sync=Sync.NONE)
        except FileNotFoundError:
            _require_folder(source)
            _require_folder(target)
            if os.path.lexists(source):
                raise
            if not again:
                return Gone("somebody else took it")
            return _Taken.FOUND if os.path.lexists(target) else Gone("it is neither in new nor in cur")
        except FileExistsError:
            if _equal(source, target):
                self._disk.remove(source)
                return _Taken.FOUND
            if again and _is(target, envelope):
                # The other one of our name waits until ours is settled.
                return _Taken.FOUND
            return Gone(f"another message named {printable(target.name)} was claimed before", name_taken=True)
        return _Taken.MOVED

    def _went_bad(self, source: Path, target: Path, parsed: Malformed, taken: _Taken) -> Gone:
        """What was listed is no message any more. One that was never ours goes back, to be written down first."""
        why = f"it is no message: {parsed.why}"
        if taken is _Taken.FOUND:
            self._bury(target, parsed, "cur")
            return Gone(why)
        self._put_back(source, target)
        return Gone(why, unreadable=unreadable(source, parsed))

    def _put_back(self, source: Path, target: Path) -> None:
        """Not what was listed: it is listed again as what it is."""
        try:
            self._disk.move(target, source, sync=Sync.FULL)
        except FileExistsError:
            self._move_aside(target)

    def _bury(self, path: Path, why: Malformed, source: str) -> None:
        """Envelope first, then the original goes: a crash between leaves both, never neither."""
        try:
            found = os.lstat(path)
            data = read_regular(path, LARGEST_COPY)
        except FileNotFoundError:
            return
        except OSError as fault:
            if fault.errno in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            self._move_aside(path, why)
            return
        if len(data) > LARGEST_COPY:
            self._move_aside(path, why)
            return
        now = self._clock.now()
        identifier = f"dlq_{time.time_ns()}_{os.getpid()}_{os.urandom(6).hex()}"
        temporary = self._paths.dlq_tmp / temporary_name(identifier + ".md")
        record = dead_letter(identifier, path.name, why, source, now, data)
        self._disk.create(temporary, record, sync=Sync.CONTENT)
        publish(self._disk, temporary, self._paths.dlq_new / f"{identifier}.md")
        with suppress(FileNotFoundError):
            if os.lstat(path).st_ino == found.st_ino:
                self._disk.remove(path)
        self._receipt_of_bad(path, why)

    def _receipt_of_bad(self, path: Path, why: Malformed) -> None:
        name = why.id or path.stem
        if _is_text(name):
            self._write_receipt(name, why.thread, why.sender, Stage.DLQ, f"{why.reason}: {why.why}")

    def _write_receipt(self, identifier: str, thread: str, sender: str, stage: Stage, detail: str) -> None:
        """Best effort and unsynced: it only tells a waiting sender."""
        data = receipt(identifier, thread, sender, self._handle, stage, self._clock.now(), detail)
        with suppress(OSError):
            self._disk.replace(
                self._paths.receipts / receipt_name(identifier, self._handle, stage), data, sync=Sync.NONE
            )

    def _drop_or_keep(self, source: Path, target: Path) -> None:
        """`source` goes: dropped if `target` is the same or equal, else kept aside."""
        if _equal(source, target):
            self._disk.remove(source)
        else:
            self._move_aside(source)

    def _move_aside(self, path: Path, why: Message | Malformed | None = None) -> None:
        """Out of every reader's way, whatever it is, under a name that is free; a receipt tells who waits for it."""
        self._disk.make_directory(self._paths.aside, sync=Sync.FULL)
        kept = self._paths.aside / f"{time.time_ns()}-{os.urandom(3).hex()}-{path_name(path.name)}"
        try:
            self._disk.move(path, kept, sync=Sync.FULL)
        except FileNotFoundError:
            return
        if isinstance(why, Malformed):
            self._receipt_of_bad(path, why)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def disk_faults(what: object) -> Iterator[None]:
    """A failing disk becomes MailboxUnavailable."""
    try:
        yield
    except OSError as fault:
        raise unavailable(what, fault) from fault


def _name(locator: str) -> str | Gone:
    try:
        return from_locator(locator)
    except ValueError:
        return Gone("its locator names no message file")


def _parse(path: Path) -> Message | Malformed | None:
    """The file as it is now; None if there is none. Raises OSError for a sick disk, or a folder that does not say."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        _require_folder(path)
        return None
    try:
        if not stat.S_ISREG(mode):
            return Malformed(Reason.PARSE_ERROR, "not a regular file")
        return parse_message(read_regular(path, MAX_MESSAGE_BYTES), path.name)
    except FileNotFoundError:
        _require_folder(path)
        return None
    except PermissionError as fault:
        return Malformed(Reason.PARSE_ERROR, f"cannot be read: {fault.strerror}")
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ELOOP, errno.ENXIO):
            raise
        return Malformed(Reason.PARSE_ERROR, "not a regular file")


def _require_folder(path: Path) -> None:
    """Raises OSError where its folder is away or another's, and says nothing of that file."""
    if not is_folder(path.parent):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def _same(message: Message, envelope: Envelope) -> bool:
    found = message.envelope
    return (found.id, found.thread, found.sender) == (envelope.id, envelope.thread, envelope.sender)


def _is(path: Path, envelope: Envelope) -> bool:
    parsed = _parse(path)
    return isinstance(parsed, Message) and _same(parsed, envelope)


def _equal(one: Path, other: Path) -> bool:
    first, second = os.lstat(one), os.lstat(other)
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return True
    if not stat.S_ISREG(first.st_mode) or first.st_size != second.st_size or first.st_size > MAX_MESSAGE_BYTES:
        return False
    return holds(other, read_regular(one)) is True
