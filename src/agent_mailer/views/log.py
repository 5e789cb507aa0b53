"""The log as lines: read from its end and on from there, across rotation; which lines are meant."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.events import KEEP_ROTATED
from agent_mailer.names import pick, printable

BLIND_SECONDS = 0.5
_BLOCK = 64 * 1024


class Line(msgspec.Struct, frozen=True):
    """One line of the log: as it stands, and as a record (empty where it is none)."""

    raw: bytes
    record: dict[str, object]


Wanted = Callable[[bytes], bool]


def tail(path: Path, count: int, wanted: Wanted | None = None) -> list[Line]:
    """The last `count` wanted lines, oldest first; older files are read only if they are needed."""
    with LogReader(path) as reader:
        reader.wanted = wanted
        return reader.tail(count)


class LogReader:
    """The log as it is when this is made, and what is written to it afterwards: no line is missed, none comes twice.

    Files are held open: whatever is rotated meanwhile, each is still the one it was.
    """

    def __init__(self, path: Path) -> None:
        self.wanted: Wanted | None = None
        """What `tail` and `follow` give; None = every line."""
        self._path = path
        self._files = _newest_first(path)
        self._current = self._files[0] if self._files else None
        self._read_to = _end_of_lines(self._current) if self._current is not None else 0

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in {*self._files, *([self._current] if self._current else [])}:
            file.close()

    def lines(self) -> Iterator[bytes]:
        """Every line that is there, oldest first."""
        for file in reversed(self._files):
            file.seek(0)
            yield from (line.rstrip(b"\n") for line in file)

    def tail(self, count: int) -> list[Line]:
        """The last `count` wanted lines, oldest first. A last line without an end is left to `follow`."""
        found: list[Line] = []
        for number, file in enumerate(self._files):
            end = self._read_to if number == 0 else file.seek(0, os.SEEK_END)
            for raw in _backwards(file, end):
                if len(found) >= count:
                    return found[::-1]
                if self._is_wanted(raw):
                    found.append(parse(raw))
        return found[::-1]

    async def follow(self) -> AsyncIterator[Line]:
        """Lines as they are appended, for ever. Waits for file events; where there are none it looks now and then."""
        from agent_mailer.file_events import FileEvents

        events = FileEvents([self._path.parent], changes=True, blind_seconds=BLIND_SECONDS)
        try:
            while True:
                for raw in self._more():
                    if self._is_wanted(raw):
                        yield parse(raw)
                await events.wait()
        finally:
            events.close()

    def _is_wanted(self, raw: bytes) -> bool:
        return bool(raw.strip()) and (self.wanted is None or self.wanted(raw))

    def _more(self) -> Iterator[bytes]:
        """What was appended since; of a file that was rotated away its rest, then the next."""
        yield from self._appended()
        for file in self._newer():
            # Looked at again: it may have grown before it was rotated.
            yield from self._appended(to_the_end=True)
            if self._current is not None and self._current not in self._files:
                self._current.close()
            self._current, self._read_to = file, 0
            yield from self._appended()

    def _appended(self, *, to_the_end: bool = False) -> Iterator[bytes]:
        if self._current is None:
            return
        if os.fstat(self._current.fileno()).st_size < self._read_to:
            # Somebody has emptied it.
            self._read_to = 0
        self._current.seek(self._read_to)
        for line in self._current:
            if not line.endswith(b"\n") and not to_the_end:
                return
            self._read_to += len(line)
            yield line.rstrip(b"\n")

    def _newer(self) -> list[BinaryIO]:
        """The files that came after the one that is read, oldest first."""
        known = _identity(self._current) if self._current is not None else None
        with suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == known:
                return []
        return _newest_first(self._path, until=known)[::-1]


def parse(raw: bytes) -> Line:
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        record = msgspec.json.decode(raw)
        if isinstance(record, dict):
            return Line(raw, record)
    return Line(raw, {})


def sentence(record: dict[str, object]) -> str:
    """`08:15:02  turn started  thread=…`; a record may have been written by another program."""
    fields = {name: value for name, value in record.items() if name not in ("ts", "event")}
    stamp, event = record.get("ts"), str(record.get("event", "?")).replace("_", " ")
    moment = printable(str(stamp or ""), 24)
    with suppress(ValueError, OverflowError, OSError):
        when = datetime.fromtimestamp(from_iso(str(stamp))).astimezone()
        today = when.date() == datetime.now(when.tzinfo).date()
        moment = when.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
    shown = "  ".join(f"{printable(name, 40)}={printable(str(value), 200)}" for name, value in fields.items())
    return f"{moment}  {printable(event, 40):<18} {shown}".rstrip()


def _newest_first(path: Path, until: tuple[int, int] | None = None) -> list[BinaryIO]:
    """The log's files, opened; those that are newer than `until` where it is given.

    A file only ever moves to a higher number, so looked at from the lowest none is missed; one that moved meanwhile is
    met twice.
    """
    found: dict[tuple[int, int], BinaryIO] = {}
    for number in range(KEEP_ROTATED + 1):
        name = path.with_name(f"{path.name}.{number}") if number else path
        with suppress(FileNotFoundError, IsADirectoryError):
            file = name.open("rb")
            identity = _identity(file)
            if identity in found or identity == until:
                file.close()
            else:
                found[identity] = file
            if identity == until:
                break
    return list(found.values())


def _identity(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last line that has an end ends."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        step = min(_BLOCK, position)
        file.seek(position - step)
        at = file.read(step).rfind(b"\n")
        if at >= 0:
            return position - step + at + 1
        position -= step
    return 0


def _backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines of a file up to `end`, last first, read in blocks."""
    position, rest = end, b""
    while position > 0:
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        first, *lines = (file.read(step) + rest).split(b"\n")
        yield from reversed(lines)
        rest = first
    if rest:
        yield rest


class _Ids(msgspec.Struct, frozen=True):
    """What a line is about. Any JSON may stand there: another program may have written it."""

    thread: object = None
    turn_id: object = None
    message_id: object = None
    targets: object = None


class Names:
    """The threads and turns that the log names, and which belong together."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.threads: dict[str, None] = {}
        self.turns: dict[str, None] = {}
        self.of_thread: dict[str, set[str]] = {}
        """Thread -> its turns and messages."""
        for raw in lines:
            self.learn(ids_of(raw))

    def learn(self, ids: _Ids) -> None:
        if isinstance(ids.turn_id, str):
            self.turns[ids.turn_id] = None
        if isinstance(ids.thread, str):
            self.threads[ids.thread] = None
            known = self.of_thread.setdefault(ids.thread, set())
            known.update(name for name in (ids.turn_id, ids.message_id) if isinstance(name, str))


def ids_of(raw: bytes) -> _Ids:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(raw, type=_Ids)
    return _Ids()


def of_pattern(pattern: str) -> Wanted:
    """Raises UsageFault where it is no regular expression."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageFault("bad_pattern", f"--grep: {error} in {printable(pattern)!r}", "") from None
    return lambda raw: compiled.search(raw.decode("utf-8", "replace")) is not None


def of_turn(turn_id: str) -> Wanted:
    return lambda raw: ids_of(raw).turn_id == turn_id


def of_thread(thread: str, names: Names) -> Wanted:
    """Lines that name the thread, one of its turns or messages, or a request about it; learns as it goes."""
    known = names.of_thread.setdefault(thread, set())

    def wanted(raw: bytes) -> bool:
        ids = ids_of(raw)
        if ids.thread is not None:
            if ids.thread == thread:
                names.learn(ids)
            return ids.thread == thread
        if isinstance(ids.targets, str):
            return bool({ids.targets, *ids.targets.split(" ")} & {thread, *known})
        about = ids.turn_id if ids.turn_id is not None else ids.message_id
        return isinstance(about, str) and about in known

    return wanted


def meant(typed: str, known: Iterable[str], what: str, fix: str, *, to_come: bool) -> str:
    """As `pick`; what nobody knows is taken as typed where it may be `to_come`."""
    try:
        return pick(typed, known, what, fix)
    except MailerError as fault:
        if to_come and fault.code == "unknown" and typed:
            return typed
        raise


def all_of(wanted: Iterable[Wanted]) -> Wanted:
    """Asked in this order, until one says no."""
    parts = list(wanted)
    return lambda raw: all(part(raw) for part in parts)
