"""What the terminal can show: its width, colours, characters; and text broken or cut to the room it has."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, TextIO

NARROWEST = 20
"""Nobody reads in less; some terminals say that they have no width at all."""

_PAINT = r"\x1b\[[0-9;]*m"


class Ink(StrEnum):
    """A colour, as the number that turns it on."""

    BOLD = "1"
    FAINT = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"


def prepare_streams() -> None:
    """From here on no character that is printed or typed is an error: what cannot be shown is an escape."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that `stream` (stdout) is; None where it is none: what goes into a file is never cut."""
    if not _is_terminal(stream or sys.stdout):
        return None
    size = shutil.get_terminal_size() if stream is None else os.get_terminal_size(stream.fileno())
    return max(size.columns, NARROWEST)


def is_dumb() -> bool:
    """Whether the terminal can only be written to: no colours, and nothing is drawn over."""
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")


def paint(text: str, ink: Ink, stream: TextIO | None = None) -> str:
    """`text` in that colour where `stream` (stdout) shows colours: a terminal, no dumb one, and no NO_COLOR."""
    return f"\x1b[{ink.value}m{text}\x1b[0m" if text and _has_colour(stream or sys.stdout) else text


def plain(text: str, stream: TextIO | None = None) -> str:
    """`text` without typography where `stream` (stdout) has ASCII alone."""
    return text if _beyond_ascii(stream or sys.stdout) else text.replace("…", "...").replace("·", "-")


def cells(text: str) -> int:
    """How many columns `text` takes: Chinese and emoji take two each, accents and paint none."""
    return len(text) if text.isascii() and "\x1b" not in text else sum(map(_cells_of, re.sub(_PAINT, "", text)))


def fit(text: str, room: int) -> str:
    """`text` in at most `room` columns: cut, it ends in an ellipsis, and loses its paint."""
    if cells(text) <= room:
        return text
    dots = "…" if _beyond_ascii(sys.stdout) else "..."
    kept, used = "", cells(dots)
    for character in re.sub(_PAINT, "", text):
        used += _cells_of(character)
        if used > room:
            break
        kept += character
    return (kept.rstrip() + dots)[:room]


def fit_end(text: str, room: int) -> str:
    """The end of `text` in at most `room` columns: cut, it begins with an ellipsis, and has lost its paint."""
    if cells(text) <= room:
        return text
    dots = "…" if _beyond_ascii(sys.stdout) else "..."
    kept, used = "", cells(dots)
    for character in reversed(re.sub(_PAINT, "", text)):
        used += _cells_of(character)
        if used > room:
            break
        kept = character + kept
    return (dots + kept)[-room:]


def pad(text: str, room: int) -> str:
    """`text` with blanks behind it up to `room` columns."""
    return text + " " * (room - cells(text))


def _cells_of(character: str) -> int:
    if "\x20" <= character <= "\x7e":
        return 1
    import unicodedata  # most commands print ASCII alone

    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _has_colour(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and not is_dumb() and _is_terminal(stream)


def _beyond_ascii(stream: TextIO) -> bool:
    """Python takes the locale C for UTF-8; whoever has asked for C by name may sit before a terminal without."""
    named = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    # What draws a whole screen stands in for stdout, and has no encoding: it makes what goes there plain itself.
    said = getattr(stream, "encoding", "utf-8")
    return named not in ("C", "POSIX") and (said or "").lower().replace("-", "") == "utf8"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False  # closed


GAP = "  "
LEAST = 12
"""With less room than this beside its name, a value begins on the next line."""


class Part(NamedTuple):
    """A paragraph of a row. `cut`: one line, cut where it does not fit, instead of several."""

    text: str
    ink: Ink | None = None
    cut: bool = False


class Row(NamedTuple):
    """A name and the paragraphs beside it."""

    name: str
    parts: tuple[Part, ...]


def laid_out(rows: list[Row], room: int | None) -> list[str]:
    """The lines of rows in `room` columns, names padded alike; `room` None = as long as they are."""
    names = max((cells(row.name) for row in rows), default=0)
    beside = names + len(GAP)
    left = None if room is None else room - beside
    if left is not None and room is not None and left < LEAST:
        beside, left = len(GAP), room - len(GAP)
    lines: list[str] = []
    for row in rows:
        head = row.name
        if head and beside < names:
            lines.append(paint(head, Ink.BOLD))
            head = ""
        for part in row.parts:
            for text in _lines_of(part, left):
                shown = paint(text, part.ink) if part.ink is not None else text
                lines.append(f"{paint(head, Ink.BOLD)}{' ' * (beside - cells(head))}{shown}".rstrip())
                head = ""
    return lines


def wrapped(text: str, room: int | None, *, whole: bool = False) -> Iterator[str]:
    """`text` broken between words into lines of at most `room` columns; a longer word is broken, or stays `whole`.

    Without a `room`, which a file has not: as it is.
    """
    if room is None:
        yield text
        return
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= room:
            line = joined
            continue
        if line:
            yield line
        *full, line = [word] if whole else _broken(word, room)
        yield from full
    yield line


def side_by_side(cells_of: list[list[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as it needs, the last one open."""
    widths = [max(map(cells, column)) for column in zip(*(row[:-1] for row in cells_of), strict=True)]
    return [
        GAP.join([*(pad(cell, width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells_of
    ]


def _lines_of(part: Part, room: int | None) -> Iterator[str]:
    if part.cut and room is not None:
        yield fit(part.text, room)
    else:
        yield from wrapped(part.text, room)


def _broken(word: str, room: int) -> list[str]:
    pieces = [""]
    for character in word:
        if cells(pieces[-1] + character) > room and pieces[-1]:
            pieces.append("")
        pieces[-1] += character
    return pieces
