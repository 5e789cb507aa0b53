"""All mail of a folder mailbox, whoever it is of, as a person oversees it: it is looked at, and nothing moves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import merge
from operator import itemgetter
from pathlib import Path

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import MailerError
from agent_mailer.lying import Looks, at_rest, lies
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


class _Listed(msgspec.Struct):
    """The newest names of a folder with their moments, the newest first. Where it looks as it did, its heads count."""

    looks: Looks | None
    names: list[tuple[str, str]]
    heads: dict[str, Message | None] = {}


class Overseen:
    """What was read of a file once is not read again, and a folder not listed again while nothing has moved there. For
    one thread of a program at a time.
    """

    def __init__(self) -> None:
        self._heads: StatCache[Message | Malformed] = StatCache(MAX_INDEXED)
        self._listed: dict[Path, _Listed] = {}

    def newest(self, root: Path) -> list[Seen]:
        """The newest first, each once: where its recipient has it, else its sender's copy."""
        person = str(Paths(root, USER).new)
        folders = {folder: self._look(folder) for folder in message_folders(root)}
        for gone in [one for one in self._listed if one.is_relative_to(root) and one not in folders]:
            del self._listed[gone]
        # Of the same name that comes first which lies in an inbox.
        places = (_placed(listed.names, -place, folder) for place, (folder, listed) in enumerate(folders.items()))
        found: list[Seen] = []
        before, many = "", 0
        for _, name, _, folder in merge(*places, key=itemgetter(0, 1, 2), reverse=True):
            if name == before:
                continue
            before, many = name, many + 1
            if many > MOST:
                break
            with suppress(OSError, MailerError):
                if (head := self._head(folders[folder], folder, name)) is not None:
                    found.append(Seen(head, f"{folder}/{name}", str(folder) == person))
        return found

    def _look(self, folder: Path) -> _Listed:
        looks = at_rest(folder)
        known = self._listed.get(folder)
        if known is None or looks is None or known.looks != looks:
            names: list[tuple[str, str]] = []
            with suppress(FileNotFoundError, NotADirectoryError):
                names = dated_names(folder)[: -MOST - 1 : -1]
            self._listed[folder] = known = _Listed(looks, names)
        return known

    def _head(self, listed: _Listed, folder: Path, name: str) -> Message | None:
        if name not in listed.heads:
            listed.heads[name] = self._read(folder, name)
        return listed.heads[name]

    def _read(self, folder: Path, name: str) -> Message | None:
        item = lies(folder, name)
        if item is None:
            return None
        head = self._heads.get(item.path, item.found)
        if head is None and (head := read_head(item)) is not None:
            self._heads.put(item.path, item.found, head)
        return head if isinstance(head, Message) else None


def _placed(names: list[tuple[str, str]], place: int, folder: Path) -> Iterator[tuple[str, str, int, Path]]:
    for moment, name in names:
        yield moment, name, place, folder


def whole(seen: Seen) -> Message:
    """With its text, where the file is still there."""
    with suppress(OSError):
        found = parse_message(read_regular(seen.path, MAX_MESSAGE_BYTES), seen.path.rpartition("/")[2])
        if isinstance(found, Message):
            return found
    return seen.message
