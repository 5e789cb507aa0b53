"""Reading `log.jsonl` from its end, across rotation, and its lines as sentences."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.events import KEEP_ROTATED
from agent_mailer.names import printable

FOLLOW_EVERY = 0.2
_BLOCK = 64 * 1024


class Line(msgspec.Struct, frozen=True):
    """One line of the log: as it stands, and as a record (empty where it is none)."""

    raw: bytes
    record: dict[str, object]


Wanted = Callable[[bytes], bool]


def tail(path: Path, count: int, wanted: Wanted | None = None) -> list[Line]:
    """The last `count` wanted lines, oldest first; older files are read only if they are needed."""
    found: list[Line] = []
    files = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, KEEP_ROTATED + 1))]
    for file in files:
        if len(found) >= count:
            break
        with suppress(FileNotFoundError):
            for raw in _backwards(file):
                if raw.strip() and (wanted is None or wanted(raw)):
                    found.append(parse(raw))
                    if len(found) >= count:
                        break
    return list(reversed(found))


def follow(path: Path, wanted: Wanted | None = None) -> Iterator[Line]:
    """Lines as they are appended, for ever; a file that is rotated is followed into the next."""
    stream, rest = _open_at_end(path), b""
    while True:
        if stream is not None:
            while block := stream.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\n")
                yield from (parse(raw) for raw in lines if raw.strip() and (wanted is None or wanted(raw)))
        if _is_another(path, stream):
            if stream is not None:
                stream.close()
            stream, rest = _open(path), b""
            continue
        time.sleep(FOLLOW_EVERY)


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


def _backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file, last first, read in blocks from its end."""
    with path.open("rb") as stream:
        position, rest = stream.seek(0, os.SEEK_END), b""
        while position > 0:
            step = min(_BLOCK, position)
            position -= step
            stream.seek(position)
            first, *lines = (stream.read(step) + rest).split(b"\n")
            yield from reversed(lines)
            rest = first
        if rest:
            yield rest


def _open(path: Path) -> BinaryIO | None:
    with suppress(FileNotFoundError):
        return path.open("rb")
    return None


def _open_at_end(path: Path) -> BinaryIO | None:
    stream = _open(path)
    if stream is not None:
        stream.seek(0, os.SEEK_END)
    return stream


def _is_another(path: Path, stream: BinaryIO | None) -> bool:
    """The path names a file that is not the one being read."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if stream is None:
        return True
    known = os.fstat(stream.fileno())
    return (found.st_dev, found.st_ino) != (known.st_dev, known.st_ino)
