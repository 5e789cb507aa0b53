"""`dead_letter.jsonl`: messages given up, and why."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import DeadLetter


class DeadLetters:
    """Append-only but for retry and purge. Never read on the way of a message that goes well."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "dead_letter.jsonl"

    def all(self) -> list[DeadLetter]:
        """Oldest first; a message that died twice appears once, as it died last. Unreadable lines are passed over."""
        newest: dict[str, DeadLetter] = {}
        for line in self._lines():
            letter = _parse(line)
            if letter is not None:
                newest.pop(letter.msg_id, None)
                newest[letter.msg_id] = letter
        return list(newest.values())

    def count(self) -> int:
        try:
            return self._path.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def find(self, message_id: str) -> DeadLetter | None:
        needle = msgspec.json.encode(message_id)
        found = [letter for line in self._lines() if needle in line and (letter := _parse(line)) is not None]
        return next((letter for letter in reversed(found) if letter.msg_id == message_id), None)

    def add(self, letter: DeadLetter, *, again: bool) -> None:
        """Durable when it returns. `again`: this settlement may have been applied before; look first."""
        if again and letter.turn_id:
            known = self.find(letter.msg_id)
            if known is not None and known.turn_id == letter.turn_id:
                return
        self._folder.disk.append_line(self._path, msgspec.json.encode(letter), sync=Sync.FULL)

    def remove(self, message_ids: Iterable[str]) -> int:
        """Take letters out of the file; unreadable lines stay. Returns how many messages were there."""
        wanted = set(message_ids)
        kept: list[bytes] = []
        removed: set[str] = set()
        for line in self._lines():
            letter = _parse(line)
            if letter is not None and letter.msg_id in wanted:
                removed.add(letter.msg_id)
            else:
                kept.append(line)
        if removed:
            self._folder.disk.replace(self._path, b"".join(line + b"\n" for line in kept), sync=Sync.FULL)
        return len(removed)

    def _lines(self) -> list[bytes]:
        try:
            return [line for line in self._path.read_bytes().split(b"\n") if line.strip(b"\0 \r")]
        except FileNotFoundError:
            return []


def _parse(line: bytes) -> DeadLetter | None:
    try:
        return msgspec.json.decode(line, type=DeadLetter)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
