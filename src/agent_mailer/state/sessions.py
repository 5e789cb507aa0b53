"""`sessions.json`: the runtime's session of each thread.

The file is one JSON object, an entry a line. Changes go to `sessions.journal`, a line each, and are folded into the
file when enough of them have gathered, so that a change costs the same with one session as with 100,000.
"""

from __future__ import annotations

import msgspec

from agent_mailer.clock import from_iso, iso
from agent_mailer.disk import Sync
from agent_mailer.names import is_session_id
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.records import SessionEntry

FOLD_AT = 64
"""Journal lines that are always worth keeping apart; a large file waits until a quarter of it has changed."""


class _Change(msgspec.Struct, frozen=True):
    thread: str
    entry: SessionEntry


class Sessions:
    """Thread -> session. Read at first use, not at start."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "sessions.json"
        self._journal = folder.path / "sessions.journal"
        self._entries: dict[str, SessionEntry] | None = None
        self._journal_lines = 0

    def get(self, thread: str) -> SessionEntry | None:
        return self._load().get(thread)

    def all(self) -> list[tuple[str, SessionEntry]]:
        return list(self._load().items())

    def bound(self) -> dict[str, SessionEntry]:
        """Of the threads that have a session now."""
        return {thread: entry for thread, entry in self._load().items() if entry.session_id}

    def put(self, thread: str, entry: SessionEntry) -> bool:
        """Write an entry unless a newer generation is there already; durable when it returns. True if written."""
        entries = self._load()
        known = entries.get(thread)
        if known is not None and known.generation >= entry.generation:
            return False
        self._folder.disk.append_line(self._journal, msgspec.json.encode(_Change(thread, entry)), sync=Sync.FULL)
        entries[thread] = entry
        self._journal_lines += 1
        if self._journal_lines >= max(FOLD_AT, len(entries) // 4):
            self.fold()
        return True

    def invalidate(self, thread: str) -> bool:
        """Drop a thread's session; its next message starts fresh. False if there was none."""
        known = self._load().get(thread)
        if known is None or not known.session_id:
            return False
        now = iso(self._folder.clock.now())
        return self.put(thread, SessionEntry(last_used_at=now, runtime=known.runtime, generation=known.generation + 1))

    def prune(self, older_than: float) -> int:
        """Forget sessions not used for `older_than` seconds; returns how many."""
        limit = self._folder.clock.now() - older_than
        entries = self._load()
        left = {thread: entry for thread, entry in entries.items() if _last_used(entry) >= limit}
        if len(left) < len(entries):
            self._write(left)
            # A journal that a crash brings back would have them again.
            self._folder.disk.sync_directory(self._folder.path)
        return len(entries) - len(left)

    def fold(self) -> None:
        """Write the whole file and empty the journal. A crash between the two repeats changes that are in both."""
        if self._entries is not None:
            self._write(self._entries)

    def _write(self, entries: dict[str, SessionEntry]) -> None:
        rows = [msgspec.json.encode(k) + b": " + msgspec.json.encode(v) for k, v in entries.items()]
        data = b"{\n" + b",\n".join(rows) + b"\n}\n"
        self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        self._entries = entries
        self._folder.disk.remove(self._journal)
        self._journal_lines = 0

    def fold_journal(self) -> int:
        """Fold whatever the journal holds; returns its lines. What cannot be read is kept in a file beside it."""
        data = self._folder.bytes_of(self._journal)
        if data is None:
            return 0
        self._load()
        lines = [line for line in data.split(b"\n") if line.strip(b"\0")]
        bad = [line for line in lines if _change(line) is None]
        if bad:
            self._folder.keep_copy(self._journal, b"".join(line + b"\n" for line in bad))
        self.fold()
        return len(lines)

    def close(self) -> None:
        """Fold what there is, so that at rest the file alone tells the whole."""
        if self._journal_lines:
            self.fold()

    def _load(self) -> dict[str, SessionEntry]:
        if self._entries is not None:
            return self._entries
        entries = self._folder.read(self._path, dict[str, SessionEntry], {})
        named = ((thread, entry.session_id) for thread, entry in entries.items())
        for thread in [thread for thread, session in named if session and not is_session_id(session)]:
            entries[thread] = _harmless(entries[thread])
        for line in (self._folder.bytes_of(self._journal) or b"").split(b"\n"):
            change = _change(line)
            if change is None:
                continue  # a torn append: its settlement is still open and writes it again
            known = entries.get(change.thread)
            if known is None or known.generation <= change.entry.generation:
                entries[change.thread] = change.entry
            self._journal_lines += 1
        self._entries = entries
        return entries


def _change(line: bytes) -> _Change | None:
    try:
        change = msgspec.json.decode(line.strip(b"\0"), type=_Change)
    except GARBLED:
        return None
    return _Change(change.thread, _harmless(change.entry))


def _harmless(entry: SessionEntry) -> SessionEntry:
    """The file is the agent's to write, and another client's: what cannot be a session's id is none."""
    if not entry.session_id or is_session_id(entry.session_id):
        return entry
    return msgspec.structs.replace(entry, session_id="", spent=Usage())


def _last_used(entry: SessionEntry) -> float:
    try:
        return from_iso(entry.last_used_at)
    except ValueError:
        return 0.0
