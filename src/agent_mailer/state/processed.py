"""`processed.txt`: the ids that are settled, and `cursor.txt`."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from agent_mailer.disk import Sync
from agent_mailer.state.folder import StateFolder


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

    def add(self, message_id: str) -> None:
        """Durable when it returns (I1, I4)."""
        line = _line(message_id)
        if line in self._load():
            return
        self._folder.disk.append_line(self._path, line, sync=Sync.FULL)
        self._load().add(line)

    def remove(self, message_id: str) -> None:
        """Forget an id that is to run again."""
        line = _line(message_id)
        if line not in self._load():
            return
        kept = [row for row in self._rows() if row != line]
        self._folder.disk.replace(self._path, b"".join(row + b"\n" for row in kept), sync=Sync.FULL)
        self._load().discard(line)

    def end_last_line(self) -> bool:
        """Terminate a line that a crash left without its end. False where none was."""
        if not self._path.is_file():
            return False
        return self._folder.disk.end_last_line(self._path)

    def _load(self) -> set[bytes]:
        if self._ids is None:
            self._ids = set(self._rows())
        return self._ids

    def _rows(self) -> list[bytes]:
        data = self._folder.bytes_of(self._path) or b""
        return [row for row in data.replace(b"\r", b"").replace(b"\0", b"").split(b"\n") if row]


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
    return b"~" + hashlib.sha256(encoded).hexdigest().encode()
