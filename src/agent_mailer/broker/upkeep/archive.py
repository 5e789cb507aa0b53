"""A backup as a file: gzip over lines of JSON, the same for both databases.

The first line is the `Head`. Then a line for each row, `[table, value, …]`, and for each uploaded file, `["", path,
base64]`; the last line is the `Tail`, without which the file is not whole. Values are text, numbers, true, false, null
and, in columns of JSON, whatever these hold.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import os
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from agent_mailer import __version__
from agent_mailer.errors import ConfigFault, MailerError, UsageFault, mend
from agent_mailer.installed import newer_command
from agent_mailer.names import printable

FORMAT = 1
LEVEL = 6
LONGEST_LINE = 256 * 1_048_576
"""Bytes: a file in base64, or the largest message with room to spare."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """`schema`: the migration that the database was at; `tables`: their columns, each table after those it names."""

    format: int = FORMAT
    program: str = __version__
    schema: str
    made_at: str
    tables: dict[str, list[str]]


class Tail(msgspec.Struct, frozen=True):
    rows: int
    files: int


class Row(msgspec.Struct, frozen=True):
    table: str
    values: Sequence[Any]


class Upload(msgspec.Struct, frozen=True):
    """A file as it lies in the folder of uploads."""

    path: str
    data: bytes


class Writer:
    def __init__(self, stream: gzip.GzipFile, head: Head) -> None:
        self._stream = stream
        self._encode = msgspec.json.Encoder().encode
        self._rows = self._files = 0
        self._line(head)

    def row(self, table: str, values: Sequence[Any]) -> None:
        self._rows += 1
        self._line([table, *values])

    def upload(self, path: str, data: bytes) -> None:
        self._files += 1
        self._line(["", path, base64.b64encode(data).decode()])

    def end(self) -> Tail:
        tail = Tail(self._rows, self._files)
        self._line(tail)
        return tail

    def _line(self, value: object) -> None:
        self._stream.write(self._encode(value) + b"\n")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file beside `path`, 0600, that takes its name, durable, at the end of the block, or is gone. Raises UsageFault
    where there is something of that name, MailerError where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    if os.path.lexists(path):
        raise _taken(path)
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            yield partial
            _sync(partial)
            os.link(partial, path)
        finally:
            partial.unlink()
        _sync(path.parent)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise MailerError("not_written", f"{path} cannot be written: {error.strerror}", mend(error, path)) from None


def _taken(path: Path) -> UsageFault:
    return UsageFault("exists", f"there is a {printable(str(path))} already", "give another name")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def writing(path: Path, head: Head) -> Iterator[Writer]:
    """A backup that is there as a whole or not at all. Raises as `new_file`."""
    with new_file(path) as partial, gzip.open(partial, "wb", compresslevel=LEVEL) as stream:
        yield Writer(stream, head)


class Reader:
    """An opened backup: `head`, then `parts` once."""

    def __init__(self, path: Path, stream: gzip.GzipFile) -> None:
        self._path = path
        self._stream = stream
        try:
            form = msgspec.json.decode(self._next(), type=_Form)
            if form.format > FORMAT:
                raise newer(path, form.program)
            self.head = msgspec.json.decode(self._first, type=Head)
        except msgspec.DecodeError:
            raise self._no_backup("is no backup of a broker") from None

    def parts(self) -> Iterator[Row | Upload]:
        """Raises ConfigFault where the file is not whole."""
        widths = {table: len(columns) for table, columns in self.head.tables.items()}
        rows = files = 0
        try:
            while isinstance(line := msgspec.json.decode(self._next()), list):
                table, *values = line
                if table == "":
                    files += 1
                    yield Upload(_inside(str(values[0])), base64.b64decode(values[1], validate=True))
                    continue
                if widths[table] != len(values):
                    raise ValueError(table)
                rows += 1
                yield Row(table, values)
            if msgspec.convert(line, Tail) != Tail(rows, files):
                raise ValueError("counts")
            if self._next():  # only who reads to the end has the sum of all that was packed compared
                raise ValueError("more")
        except (msgspec.MsgspecError, binascii.Error, ValueError, LookupError, TypeError):
            raise self._no_backup("is no whole backup") from None

    def _next(self) -> bytes:
        try:
            self._first = self._stream.readline(LONGEST_LINE)
        except (OSError, EOFError, zlib.error):
            raise self._no_backup("is no whole backup") from None
        return self._first

    def _no_backup(self, words: str) -> ConfigFault:
        return ConfigFault("no_backup", f"{self._path} {words}; nothing was changed", "give another one")


class _Form(msgspec.Struct):
    format: int
    program: str


def newer(path: Path, program: str) -> ConfigFault:
    return ConfigFault(
        "backup_newer",
        f"{path} was made by a newer agent-mailer ({printable(program, 40)}) than this one; nothing was changed",
        newer_command("broker"),
    )


def _inside(path: str) -> str:
    """A place below the folder of uploads. Raises ValueError."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise ValueError(path)
    return path


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Raises ConfigFault: it cannot be read, is no backup, or a newer program's."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise ConfigFault(
            "no_backup", f"{path} cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}"
        ) from None
    with raw, gzip.open(raw, "rb") as stream:
        yield Reader(path, stream)


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
