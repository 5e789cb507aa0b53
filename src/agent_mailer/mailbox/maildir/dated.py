"""What lies in a folder of messages for those who look at it once: by the moments that its names begin with, say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

from agent_mailer.lying import Listed, lies
from agent_mailer.mailbox.maildir.format import Malformed, is_message_name
from agent_mailer.mailbox.maildir.listing import read_envelope
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import compiled

_STAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}\.[0-9]{3}Z"
_LAST_STAMP: Final = "9999"

MAX_INDEXED: Final = 20_000
_T = TypeVar("_T")
_Signature = tuple[int, int, int]


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
            said = compiled(_STAMP).match(entry.name)
            with suppress(FileNotFoundError):
                moment = said[0] if said else stamp(entry.stat(follow_symlinks=False).st_mtime)
                found.append((moment, entry.name))
    return sorted(found)


def scan(folder: Path) -> Iterator[Listed]:
    """Every message name in `folder`, sorted by name. Raises OSError if the folder cannot be read."""
    with os.scandir(folder) as entries:
        names = sorted((entry for entry in entries if is_message_name(entry.name)), key=lambda entry: entry.name)
    for entry in names:
        try:
            yield Listed(entry.path, entry.name, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue


def read_names(folder: Path, names: Iterable[str]) -> Iterator[Envelope | Malformed]:
    """What each of these files is; one that has gone meanwhile is left out. Raises OSError, MailboxUnavailable."""
    for name in names:
        if (item := lies(folder, name)) is not None and (found := read_envelope(item)) is not None:
            yield found


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


def _signature(found: os.stat_result) -> _Signature:
    return (found.st_ino, found.st_mtime_ns, found.st_size)
