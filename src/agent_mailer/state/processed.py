"""`processed.txt`: the ids that are settled, and `cursor.txt`."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from itertools import filterfalse

from agent_mailer.beneath import is_file
from agent_mailer.disk import Sync
from agent_mailer.names import sha256
from agent_mailer.state.folder import StateFolder

FEW = 20
"""Ids that are looked for one by one, each in about a millisecond for 100,000."""

_PLAIN = bytes(range(0x21, 0x7F)) + b"\n"
_PLAIN_LINE = re.compile(rb"^[!-~]+$", re.MULTILINE)
"""A line that is the id that it names: no hash, and nothing to be stripped."""


class Processed:
    """Ids that are settled, one a line, append + fsync. Read once; 100,000 ids are a few milliseconds.

    A line that is no id of ours (a torn write, NULs after a power loss) matches nothing and harms nothing, so the file
    cannot be damaged beyond the lines that are.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "processed.txt"
        self._ids: set[bytes] | None = None

    def __contains__(self, message_id: str) -> bool:
        return _line(message_id) in self._load()

    def __len__(self) -> int:
        return len(self._load())

    def among(self, message_ids: Collection[str]) -> set[str]:
        """Those of some ids that are settled. For a few of them no set is made of all that the file holds."""
        if self._ids is not None or len(message_ids) > FEW:
            known = self._load()
            return {message_id for message_id in message_ids if _line(message_id) in known}
        data = b"\n" + self._data() + b"\n" if message_ids else b""
        return {message_id for message_id in message_ids if b"\n" + _line(message_id) + b"\n" in data}

    def without_settled(self, names: Collection[bytes], ending: bytes) -> list[bytes]:
        """Of file names those that are not a settled id, letter by letter, with this ending: 100,000 in 50 ms. A name
        that is left may still be of a settled id, one that no line can hold: ask `among`.
        """
        lines = self._data()
        if lines.translate(None, _PLAIN):
            lines = b"\n".join(_PLAIN_LINE.findall(lines))
        settled = set(lines.replace(b"\n", ending + b"\n").split(b"\n"))
        settled.discard(ending)  # of a line with nothing on it
        return list(filterfalse(settled.__contains__, names))

    def add(self, message_id: str) -> None:
        """Durable when it returns (I1, I4)."""
        line = _line(message_id)
        if line in self._load():
            return
        self._folder.disk.append_line(self._path, line, sync=Sync.FULL)
        self._load().add(line)

    def remove(self, *message_ids: str) -> None:
        """Forget ids that are to run again; durable when it returns."""
        gone = set(map(_line, message_ids)) & self._load()
        if gone:
            kept = [row for row in self._rows() if row not in gone]
            self._folder.disk.replace(self._path, b"".join(row + b"\n" for row in kept), sync=Sync.FULL)
            self._load().difference_update(gone)

    def end_last_line(self) -> bool:
        """Terminate a line that a crash left without its end. False where none was."""
        if not is_file(self._path):
            return False
        return self._folder.disk.end_last_line(self._path)

    def _load(self) -> set[bytes]:
        if self._ids is None:
            self._ids = set(self._data().split(b"\n"))
            self._ids.discard(b"")
        return self._ids

    def _rows(self) -> list[bytes]:
        return [row for row in self._data().split(b"\n") if row]

    def _data(self) -> bytes:
        data = self._folder.bytes_of(self._path) or b""
        # Looking for a byte costs little, a copy of millions much.
        for noise in (b"\r", b"\0"):
            if noise in data:
                data = data.replace(noise, b"")
        return data


class Cursor:
    """The id settled last. A low-water mark for people and for mailboxes that list from a position; never relied on."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "cursor.txt"

    def move_to(self, message_id: str) -> None:
        """Where it cannot be written, the old one stays: nothing relies on it."""
        with suppress(OSError):
            self._folder.disk.overwrite(self._path, _line(message_id) + b"\n")

    def read(self) -> str | None:
        with suppress(OSError):
            return (self._folder.bytes_of(self._path) or b"").decode("utf-8", "replace").strip() or None
        return None


def _line(message_id: str) -> bytes:
    """An id as one line: itself, or its hash where it holds what a line cannot."""
    encoded = message_id.encode("utf-8", "surrogatepass")
    if message_id.isprintable() and message_id == message_id.strip() and 0 < len(encoded) <= 400:
        return encoded
    return b"~" + sha256(encoded).hexdigest().encode()
