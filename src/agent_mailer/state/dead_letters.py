"""`dead_letter.jsonl`: messages given up, and why."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.folder import GARBLED, StateFolder
from agent_mailer.state.records import DeadLetter


class DeadLetters:
    """Append-only but for retry and purge. Never read on the way of a message that goes well."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.path / "dead_letter.jsonl"

    def all(self) -> list[DeadLetter]:
        """Oldest first; a message that died twice appears once, as it died last. Raises OSError."""
        newest: dict[str, DeadLetter] = {}
        for letter in self._folder.read_lines(self._path, _decoded):
            newest.pop(letter.msg_id, None)
            newest[letter.msg_id] = letter
        return list(newest.values())

    def newest(self, limit: int) -> list[DeadLetter]:
        """Those that died last, oldest first: no more of the file is decoded. Raises OSError."""
        found: dict[str, DeadLetter] = {}
        for line in reversed(self._folder.lines_of(self._path)):
            letter = _parse(line)
            if letter is not None:
                found.setdefault(letter.msg_id, letter)
            if len(found) == limit:
                break
        return [*reversed(found.values())]

    def count(self) -> int:
        """Messages. Raises OSError."""
        return len({letter.msg_id for letter in self._in_brief()})

    def turn_ids(self) -> set[str]:
        """The last turns of those messages, as far as they had one. Raises OSError."""
        last = {letter.msg_id: letter.turn_id for letter in self._in_brief()}
        return {turn_id for turn_id in last.values() if turn_id}

    def _in_brief(self) -> list[_Foreign]:
        # A hundred thousand of them are gone over at every start and look.
        return self._folder.read_lines(self._path, _BRIEF)

    def find(self, message_id: str) -> DeadLetter | None:
        # Other clients write in ASCII what is none.
        needles = (msgspec.json.encode(message_id), json.dumps(message_id).encode())
        lines = (line for line in self._folder.lines_of(self._path) if any(needle in line for needle in needles))
        found = [letter for line in lines if (letter := _parse(line)) is not None]
        return next((letter for letter in reversed(found) if letter.msg_id == message_id), None)

    def among(self, message_ids: Collection[str]) -> dict[str, DeadLetter]:
        """The newest letter of each of these messages that has one; the file is read once, however many they are."""
        letters = (letter for line in self._folder.lines_of(self._path) if (letter := _parse(line)) is not None)
        return {letter.msg_id: letter for letter in letters if letter.msg_id in message_ids}

    def add(self, letter: DeadLetter, *, again: bool) -> None:
        """Durable when it returns. `again`: this settlement may have been applied before; look first."""
        if again and letter.turn_id:
            known = self.find(letter.msg_id)
            if known is not None and known.turn_id == letter.turn_id:
                return
        self._folder.clear_way(self._path)
        self._folder.disk.append_line(self._path, msgspec.json.encode(letter), sync=Sync.FULL)

    def remove(self, message_ids: Iterable[str]) -> int:
        """Take letters out of the file; unreadable lines stay. Returns how many messages were there."""
        wanted = set(message_ids)
        kept: list[bytes] = []
        removed: set[str] = set()
        for line in self._folder.lines_of(self._path):
            letter = _parse(line)
            if letter is not None and letter.msg_id in wanted:
                removed.add(letter.msg_id)
            else:
                kept.append(line)
        if removed:
            self._folder.disk.replace(self._path, b"".join(line + b"\n" for line in kept), sync=Sync.FULL)
        return len(removed)


class _Foreign(msgspec.Struct):
    """A letter of another AMP client, or of ours as far as it is the same. One of its older writers says `ts` for
    `stuck_at`, and not much else.
    """

    msg_id: str
    thread_id: str | None = None
    retries: int | None = None
    last_error: str | None = None
    error: str | None = None
    stuck_at: str | None = None
    ts: str | None = None
    turn_id: str | None = None


_BRIEF = msgspec.json.Decoder(_Foreign).decode


def _parse(line: bytes) -> DeadLetter | None:
    with suppress(*GARBLED):
        return _decoded(line)
    return None


def _decoded(line: bytes) -> DeadLetter:
    """Raises GARBLED."""
    with suppress(*GARBLED):
        letter = msgspec.json.decode(line, type=DeadLetter)
        if letter.turn_id or letter.envelope is not None:
            return letter
    found = msgspec.json.decode(line, type=_Foreign)
    # Enough for the message to be asked for again, also where its mailbox no longer lists it.
    thread = found.thread_id or found.msg_id
    return DeadLetter(
        found.msg_id,
        thread,
        found.retries or 0,
        found.last_error or found.error or "",
        found.stuck_at or found.ts or "",
        envelope=Envelope(found.msg_id, thread, "", 0.0, order="", locator=found.msg_id),
    )
