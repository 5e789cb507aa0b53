"""`retries.json`: messages that are ours and still to be done."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import RetryEntry


class Retries:
    """Message id -> retry entry. Small: only what is under way."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "retries.json"
        self._entries: dict[str, RetryEntry] | None = None
        self.rebuilt = False
        """Set where the file was damaged: the entries must be taken from the turn folders."""

    def get(self, message_id: str) -> RetryEntry | None:
        return self._load().get(message_id)

    def all(self) -> Iterator[RetryEntry]:
        yield from list(self._load().values())

    def __len__(self) -> int:
        return len(self._load())

    def put(self, entry: RetryEntry, *, force: bool = False) -> None:
        """Durable when it returns. An older settlement that is applied again never takes a later one back."""
        entries = self._load()
        known = entries.get(entry.envelope.id)
        if known is not None and known.revision >= entry.revision and not force:
            return
        self._write({**entries, entry.envelope.id: entry})

    def remove(self, message_id: str) -> None:
        entries = self._load()
        if message_id in entries:
            self._write({k: v for k, v in entries.items() if k != message_id})

    def _write(self, entries: dict[str, RetryEntry]) -> None:
        data = msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"
        self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        self._entries = entries

    def _load(self) -> dict[str, RetryEntry]:
        if self._entries is None:
            existed = self._path.exists()
            self._entries = self._folder.read(self._path, dict[str, RetryEntry], {})
            self.rebuilt = existed and not self._path.exists()
        return self._entries
