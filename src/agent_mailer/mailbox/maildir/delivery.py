"""Putting a message into somebody's mailbox, exactly once; and the two records AMQ keeps of it.

A consumer only moves a message forward: new, cur, then perhaps dlq, with a receipt on the way. So an item whose name is
in none of these places, looked at in this order, has never arrived.
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from enum import Enum, StrEnum
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.beneath import holding
from agent_mailer.clock import from_iso
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.maildir.compose import DEDUPE_ID
from agent_mailer.mailbox.maildir.digests import unavailable
from agent_mailer.mailbox.maildir.format import (
    MAX_MESSAGE_BYTES,
    Malformed,
    clean,
    go_json,
    is_message_id,
    is_message_name,
    rfc3339,
)
from agent_mailer.mailbox.maildir.layout import (
    MAX_HANDLE,
    Paths,
    is_handle,
    known,
    make_mailbox,
    missing_folders,
    require_root,
)
from agent_mailer.mailbox.maildir.routes import check
from agent_mailer.mailbox.port import Delivered, Delivery, MailboxUnavailable, Outgoing, Refused, Unknown
from agent_mailer.names import path_name, printable


class Trace(Enum):
    """What there is of an item in its recipient's mailbox."""

    NONE = "nothing"
    WAITING = "it waits in new"
    TAKEN = "its consumer has taken it"
    OTHER = "another message has its name"


def temporary_name(name: str) -> str:
    """AMQ's name for a file on its way; cut so that it is one."""
    return f".{name[:160]}.tmp-{time.time_ns()}-{os.getpid()}-{os.urandom(6).hex()}"


def deliver(disk: Disk, root: Path, sender: str, item: Outgoing) -> Delivery:
    """Deliver `item` unless it is there; the sender's copy follows, best effort.

    Two fsyncs, the content and the name in new; folders that had to be made come on top. Raises MailboxUnavailable
    where nothing has happened and trying again may help.
    """
    data = item.payload.encode("utf-8", "replace")
    refusal = _check(root, item, data)
    if refusal is not None:
        return refusal
    place, handle = _end(root, item)
    try:
        if (item.route is None or item.route.makes) and missing_folders(place, handle):
            make_mailbox(disk, place, handle)
        result = _confirm(disk, root, item) or _publish(disk, root, item, data)
        if result is None:
            result = _confirm(disk, root, item) or Unknown("another message took its name for a moment")
    except ConfigFault as fault:
        return Refused(f"the mailbox of {item.recipient} cannot be used: {fault.message}")
    except OSError as fault:
        raise unavailable(Paths(place, handle).home, fault) from fault
    if isinstance(result, Delivered):
        with suppress(OSError):
            disk.replace(Paths(root, sender).sent / f"{item.id}.md", data, sync=Sync.NONE)
    return result


def look(root: Path, item: Outgoing) -> Trace:
    """Where `item` is by now. Raises OSError."""
    if _misnamed(item) is not None:
        return Trace.NONE
    name = item.id + ".md"
    to = Paths(*_end(root, item))
    data = item.payload.encode("utf-8", "replace")
    any_bytes = item.id.startswith(DEDUPE_ID)
    for place, trace in ((to.new, Trace.WAITING), (to.cur, Trace.TAKEN)):
        same = holds(place / name, data)
        if same is not None:
            return trace if same or any_bytes else Trace.OTHER
    if any((to.receipts / receipt_name(item.id, _end(root, item)[1], stage)).is_file() for stage in Stage):
        return Trace.TAKEN
    return Trace.TAKEN if any(_in_dead_letters(folder, item.id) for folder in (to.dlq_new, to.dlq_cur)) else Trace.NONE


def _end(root: Path, item: Outgoing) -> tuple[Path, str]:
    """Root and handle of the mailbox that an item is for."""
    return (Path(item.route.place), item.route.recipient) if item.route is not None else (root, item.recipient)


def holds(path: Path, data: bytes) -> bool | None:
    """Whether the file has exactly these bytes; None if there is no such name. What is no file has not.

    Raises OSError where its folder does not say whether the name is there, and for a sick disk.
    """
    try:
        size = os.lstat(path).st_size
    except FileNotFoundError:
        return None
    try:
        return size == len(data) and read_regular(path, len(data)) == data
    except FileNotFoundError:
        return None
    except OSError as fault:
        if fault.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES):
            return False
        raise


def publish(disk: Disk, temporary: Path, target: Path) -> None:
    """Move a written file to its final name, durably. Raises OSError; the temporary is gone in every case."""
    try:
        disk.move(temporary, target, sync=Sync.FULL)
    except BaseException:
        with suppress(OSError):
            disk.remove(temporary)
        raise


def _check(root: Path, item: Outgoing, data: bytes) -> Refused | None:
    misnamed = _misnamed(item)
    if misnamed is not None:
        return misnamed
    if len(data) > MAX_MESSAGE_BYTES:
        return Refused(f"the message has {len(data)} bytes; at most {MAX_MESSAGE_BYTES} can be sent")
    try:
        require_root(root)
        if item.route is not None:
            return check(root, item.route)
        if known(root, item.recipient):
            return None
    except ConfigFault as fault:
        raise MailboxUnavailable(fault.code, fault.message, fault.fix) from fault
    return Refused(
        f"there is no {item.recipient!r} here: neither a mailbox nor a line in {root / 'meta' / 'config.json'}"
    )


def _misnamed(item: Outgoing) -> Refused | None:
    """Nothing whose names could lead elsewhere ever becomes a path."""
    handle = item.route.recipient if item.route is not None else item.recipient
    if not is_handle(handle) or len(handle) > MAX_HANDLE:
        return Refused(f"{printable(item.recipient)!r} is no handle: use a-z, 0-9, _ and -")
    if not is_message_id(item.id) or not is_message_name(item.id + ".md") or len(item.id.encode()) > 200:
        return Refused(f"{printable(item.id)!r} is no message id")
    return None


def _confirm(disk: Disk, root: Path, item: Outgoing) -> Delivery | None:
    """What an item that is there already comes to; None for one that is not.

    An earlier delivery may have died between the rename and its sync: only here does it become durable.
    """
    trace = look(root, item)
    if trace is Trace.NONE:
        return None
    if trace is Trace.OTHER:
        return Refused(f"another message named {printable(item.id)} is in the mailbox of {item.recipient}")
    if trace is Trace.WAITING:
        try:
            disk.sync_directory(Paths(*_end(root, item)).new)
        except OSError as fault:
            return _unconfirmed(fault)
    return Delivered()


def _publish(disk: Disk, root: Path, item: Outgoing, data: bytes) -> Delivery | None:
    """Write and rename; None if the name was taken meanwhile. Raises OSError if nothing has happened."""
    to = Paths(*_end(root, item))
    target = to.new / f"{item.id}.md"
    temporary = to.tmp / temporary_name(target.name)
    with holding(to.tmp):
        disk.create(temporary, data, sync=Sync.CONTENT)
        try:
            publish(disk, temporary, target)
        except FileExistsError:
            return None
        except OSError as fault:
            # Either the rename failed and nothing has happened, or the name is there and may not survive a power cut.
            if not os.path.lexists(target) and not os.path.lexists(to.cur / target.name):
                raise
            return _unconfirmed(fault)
    return Delivered()


def _unconfirmed(fault: OSError) -> Unknown:
    return Unknown(f"the message is in place, but the disk did not confirm it: {fault.strerror}")


def _in_dead_letters(folder: Path, identifier: str) -> bool:
    """Whether a dead-letter envelope here holds the message. Only the beginning of each is read."""
    try:
        with os.scandir(folder) as entries:
            names = [Path(entry.path) for entry in entries if is_message_name(entry.name)]
    except FileNotFoundError:
        return False
    for path in names:
        try:
            found = parse_dead_letter(read_regular(path, MAX_DLQ_HEADER_BYTES))
        except OSError:
            continue
        if found is not None and identifier in (found.original_id, found.original_file.removesuffix(".md")):
            return True
    return False


DLQ_SCHEMA: Final = "amq/dlq/v1"
MAX_DLQ_HEADER_BYTES: Final = 64 * 1024
MAX_RECEIPT_BYTES: Final = 64 * 1024


class Stage(StrEnum):
    """How far a message got with its consumer."""

    DRAINED = "drained"
    DLQ = "dlq"


class DeadLetter(msgspec.Struct, frozen=True):
    """What a dead-letter envelope says of the file in it."""

    original_id: str
    original_file: str


def receipt_name(message_id: str, consumer: str, stage: Stage) -> str:
    """The file name that a waiting sender polls; an id that is no plain name is mapped first."""
    return f"{path_name(message_id)}__{consumer}__{stage}.json"


def receipt(message_id: str, thread: str, sender: str, consumer: str, stage: Stage, now: float, detail: str) -> bytes:
    fields = {
        "schema": 1,
        "msg_id": message_id,
        "thread": thread,
        "sender": sender,
        "consumer": consumer,
        "stage": stage.value,
        "emitted_at": rfc3339(now),
        "detail": detail,
    }
    kept = {k: v for k, v in fields.items() if v != "" or k not in ("thread", "detail")}
    return (clean(go_json(kept)) + "\n").encode()


class Receipt(msgspec.Struct, frozen=True):
    """What a receipt says; `at` is in seconds since the epoch."""

    stage: str
    at: float | None = None
    detail: str = ""


def read_receipt(folder: Path, message_id: str, consumer: str, stage: Stage) -> Receipt | None:
    """A receipt that AMQ or we wrote; that it is there counts, whatever is in it. None where there is none."""
    # AMQ maps no id.
    for name in dict.fromkeys((receipt_name(message_id, consumer, stage), f"{message_id}__{consumer}__{stage}.json")):
        try:
            data = read_regular(folder / name, MAX_RECEIPT_BYTES)
        except (OSError, ValueError):
            continue
        with suppress(ValueError, RecursionError, msgspec.DecodeError):
            said = msgspec.json.decode(data, type=_ReceiptFile)
            return Receipt(stage.value, from_iso(said.emitted_at) if said.emitted_at else None, said.detail)
        return Receipt(stage.value)
    return None


class _ReceiptFile(msgspec.Struct):
    emitted_at: str = ""
    detail: str = ""


def dead_letter(
    envelope_id: str, original_file: str, why: Malformed, source: str, now: float, original: bytes
) -> bytes:
    """The envelope of an unreadable file, with its bytes verbatim. `source` is the folder it lay in: new or cur."""
    fields = {
        "schema": DLQ_SCHEMA,
        "id": envelope_id,
        "original_id": why.id or original_file.removesuffix(".md"),
        "original_file": original_file,
        "failure_reason": why.reason.value,
        "failure_detail": why.why,
        "failure_time": rfc3339(float(int(now))),
        "retry_count": 0,
        "retry_state": "ready",
        "source_dir": source,
    }
    return b"---\n" + clean(go_json(fields)).encode() + b"\n---\n" + original


def parse_dead_letter(data: bytes) -> DeadLetter | None:
    """Read the beginning of an envelope; None for anything else."""
    if not data.startswith(b"---\n"):
        return None
    try:
        fields, _ = json.JSONDecoder().raw_decode(data[4:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    original_id, original_file = fields.get("original_id"), fields.get("original_file")
    return DeadLetter(
        original_id if isinstance(original_id, str) else "", original_file if isinstance(original_file, str) else ""
    )
