"""The log as lines: read from its end and on from there, across rotation; which lines are meant."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from agent_mailer.beneath import open_file, status
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.events import KEEP_ROTATED
from agent_mailer.names import pick, printable, prompt_word
from agent_mailer.views.values.history import LineView

if TYPE_CHECKING:
    from agent_mailer.state import State

BLIND_SECONDS = 0.5
_BLOCK = 64 * 1024


Wanted = Callable[[bytes], bool]


def _not_blank(raw: bytes) -> bool:
    return bool(raw.strip())


def tail(path: Path, count: int) -> list[LineView]:
    """The last `count` lines, oldest first; older files are read only if they are needed."""
    with LogReader(path) as reader:
        return reader.tail(count)


class LogReader:
    """The log as it is when this is made, and what is written to it afterwards: no line is missed, none comes twice.

    Files are held open: whatever is rotated meanwhile, each is still the one it was.
    """

    def __init__(self, path: Path) -> None:
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

    def tail(self, count: int, wanted: Wanted = _not_blank) -> list[LineView]:
        """The last `count` wanted lines, oldest first. A last line without an end is left to `follow`."""
        found: list[LineView] = []
        for number, file in enumerate(self._files):
            end = self._read_to if number == 0 else file.seek(0, os.SEEK_END)
            for raw in _backwards(file, end):
                if len(found) >= count:
                    return found[::-1]
                if wanted(raw):
                    found.append(parse(raw))
        return found[::-1]

    def new(self, wanted: Wanted = _not_blank) -> Iterator[LineView]:
        """What was appended since the last look; waits for nothing."""
        return (parse(raw) for raw in self._more() if wanted(raw))

    async def follow(self, wanted: Wanted = _not_blank) -> AsyncIterator[LineView]:
        """Lines as they are appended, for ever. Waits for file events; where there are none it looks now and then."""
        from agent_mailer.file_events import FileEvents

        events = FileEvents([self._path.parent], changes=True, blind_seconds=BLIND_SECONDS)
        try:
            while True:
                for raw in self._more():
                    if wanted(raw):
                        yield parse(raw)
                await events.wait()
        finally:
            events.close()

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
            found = status(self._path)
            if (found.st_dev, found.st_ino) == known:
                return []
        return _newest_first(self._path, until=known)[::-1]


def parse(raw: bytes) -> LineView:
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        record = msgspec.json.decode(raw)
        if isinstance(record, dict):
            return LineView(raw, record)
    return LineView(raw, {})


def _newest_first(path: Path, until: tuple[int, int] | None = None) -> list[BinaryIO]:
    """The log's files, opened; those that are newer than `until` where it is given.

    A file only ever moves to a higher number, so looked at from the lowest none is missed; one that moved meanwhile is
    met twice.
    """
    found: dict[tuple[int, int], BinaryIO] = {}
    for number in range(KEEP_ROTATED + 1):
        name = path.with_name(f"{path.name}.{number}") if number else path
        with suppress(FileNotFoundError, IsADirectoryError):
            file = os.fdopen(open_file(name, os.O_RDONLY | os.O_NONBLOCK), "rb")
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


class _Names:
    """The threads and turns that the log names, and which belong together."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.threads: dict[str, None] = {}
        self.turns: dict[str, None] = {}
        self.of_thread: dict[str, set[str]] = {}
        """Thread -> its turns and messages."""
        for raw in lines:
            self.learn(_ids_of(raw))

    def learn(self, ids: _Ids) -> None:
        if isinstance(ids.turn_id, str):
            self.turns[ids.turn_id] = None
        if isinstance(ids.thread, str):
            self.threads[ids.thread] = None
            known = self.of_thread.setdefault(ids.thread, set())
            known.update(name for name in (ids.turn_id, ids.message_id) if isinstance(name, str))


def _ids_of(raw: bytes) -> _Ids:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(raw, type=_Ids)
    return _Ids()


def choose(
    state: State, reader: LogReader, *, pattern: str | None, thread: str | None, turn: str | None, to_come: bool
) -> Wanted:
    """Lines that are all that is asked for; None asks for nothing. A thread or turn is named by a part of its name.

    `to_come`: one that nobody knows yet is taken as it is typed. Raises MailerError, UsageFault.
    """
    parts: list[Wanted] = [_not_blank]
    names = _Names(reader.lines() if thread is not None or turn is not None else ())
    if thread is not None:
        # First, for it learns from every line which turns are the thread's.
        threads = [*names.threads, *(name for name, _ in state.sessions.all())]
        parts.append(_of_thread(_meant(thread, threads, "thread", "agent-mailer logs", to_come=to_come), names))
    if turn is not None:
        turn_id = _meant(turn, [*names.turns, *state.turns.ids()], "turn", "agent-mailer turns list", to_come=to_come)
        parts.append(lambda raw: _ids_of(raw).turn_id == turn_id)
    if pattern is not None:
        parts.append(_of_pattern(pattern))
    return lambda raw: all(part(raw) for part in parts)


def _of_pattern(pattern: str) -> Wanted:
    """Raises UsageFault where it is no regular expression."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageFault("bad_pattern", f"--grep: {error} in {printable(pattern)!r}", "") from None
    return lambda raw: compiled.search(raw.decode("utf-8", "replace")) is not None


def _of_thread(thread: str, names: _Names) -> Wanted:
    """Lines that name the thread, one of its turns or messages, or a request about it; learns as it goes.

    A line of an earlier version names it as it is, one of ours by its word.
    """
    ways = {thread, prompt_word(thread, "thread")}
    known: set[str] = set().union(*(names.of_thread.get(way, ()) for way in ways))

    def wanted(raw: bytes) -> bool:
        ids = _ids_of(raw)
        if ids.thread is not None:
            if ids.thread in ways:
                known.update(name for name in (ids.turn_id, ids.message_id) if isinstance(name, str))
            return ids.thread in ways
        if isinstance(ids.targets, str):
            return bool({ids.targets, *ids.targets.split(" ")} & (ways | known))
        about = ids.turn_id if ids.turn_id is not None else ids.message_id
        return isinstance(about, str) and about in known

    return wanted


def _meant(typed: str, known: Iterable[str], what: str, fix: str, *, to_come: bool) -> str:
    """As `pick`; what nobody knows is taken as typed where it may be `to_come`."""
    try:
        return pick(typed, known, what, fix)
    except MailerError as fault:
        if to_come and fault.code == "unknown" and typed:
            return typed
        raise
