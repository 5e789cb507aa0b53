"""All mail of a folder mailbox, whoever it is of, as a person oversees it: it is looked at, and nothing moves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError
from agent_mailer.lying import lies
from agent_mailer.mailbox.maildir.dated import MAX_INDEXED, StatCache, dated_names
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, Malformed, is_message_name, parse_message
from agent_mailer.mailbox.maildir.layout import USER, Paths, is_handle, mailboxes, message_folders, roster
from agent_mailer.mailbox.maildir.listing import read_head
from agent_mailer.mailbox.port import Message

PERSON = USER
"""The handle of whoever oversees."""

MOST = 5_000
"""So many of the newest messages are looked at."""


class Seen(msgspec.Struct, frozen=True):
    """A message without its text, and where it lies; `new`: it waits for the person."""

    message: Message
    path: str
    new: bool


def recipients_of(root: Path) -> set[str]:
    """Everybody there but the person. Raises MailerError, OSError."""
    return {*filter(is_handle, roster(root)), *mailboxes(root)} - {USER}


def waiting(root: Path) -> int:
    """How much the person has not read."""
    with suppress(OSError):
        return sum(is_message_name(name) for name in os.listdir(Paths(root, USER).new))
    return 0


def folders_of(root: Path) -> Sequence[Path]:
    """Where messages lie. Raises OSError."""
    return message_folders(root)


class Overseen:
    """What was read of a file once is not read again. For one thread of a program at a time."""

    def __init__(self) -> None:
        self._heads: StatCache[Message | Malformed] = StatCache(MAX_INDEXED)

    def newest(self, root: Path) -> list[Seen]:
        """The newest first, each once: where its recipient has it, else its sender's copy."""
        person = str(Paths(root, USER).new)
        named: dict[str, tuple[str, Path]] = {}
        for folder in message_folders(root):
            with suppress(FileNotFoundError, NotADirectoryError):
                for moment, name in dated_names(folder):
                    named.setdefault(name, (moment, folder))
        found = []
        for name, (_, folder) in sorted(named.items(), key=lambda one: (one[1][0], one[0]), reverse=True)[:MOST]:
            with suppress(OSError, MailerError):
                if (head := self._head(folder, name)) is not None:
                    found.append(Seen(head, f"{folder}/{name}", str(folder) == person))
        return found

    def _head(self, folder: Path, name: str) -> Message | None:
        item = lies(folder, name)
        if item is None:
            return None
        head = self._heads.get(item.path, item.found)
        if head is None and (head := read_head(item)) is not None:
            self._heads.put(item.path, item.found, head)
        return head if isinstance(head, Message) else None


def whole(seen: Seen) -> Message:
    """With its text, where the file is still there."""
    with suppress(OSError):
        found = parse_message(read_regular(seen.path, MAX_MESSAGE_BYTES), seen.path.rpartition("/")[2])
        if isinstance(found, Message):
            return found
    return seen.message
