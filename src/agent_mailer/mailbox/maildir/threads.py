"""A thread is nowhere on the disk: it is found by looking through every mailbox."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Final

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, parse_message
from agent_mailer.mailbox.maildir.layout import Paths, is_handle, mailboxes, roster
from agent_mailer.mailbox.maildir.listing import ThreadIndex, thread_digest
from agent_mailer.mailbox.port import Message

MAX_THREAD_MESSAGES: Final = 200


def read_thread(root: Path, thread_id: str, index: ThreadIndex) -> list[Message]:
    """The newest `MAX_THREAD_MESSAGES` of the thread, oldest first, each id once. Raises OSError."""
    wanted = thread_digest(thread_id)
    found: dict[str, list[tuple[Path, str]]] = {}
    for folder in _folders(root):
        for name, entry in index.entries(folder):
            if entry.thread == wanted:
                found.setdefault(entry.order, []).append((folder / name, name))
    messages: dict[str, Message] = {}
    for order in sorted(found, reverse=True):
        if len(messages) >= MAX_THREAD_MESSAGES:
            break
        for path, name in found[order]:
            message = _read(path, name)
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
