"""What the terminal can show: its width, colours, characters beyond ASCII; and how wide a text is on it."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import unicodedata
from enum import StrEnum
from typing import TextIO

NARROWEST = 20
"""Nobody reads in less; some terminals say that they have no width at all."""

_PAINT = re.compile(r"\x1b\[[0-9;]*m")


class Ink(StrEnum):
    """A colour, as the number that turns it on."""

    BOLD = "1"
    FAINT = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


def prepare_streams() -> None:
    """From here on no character that is printed or typed is an error: what cannot be shown is an escape."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none: what goes into a file is never cut."""
    if not _is_terminal(sys.stdout):
        return None
    return max(shutil.get_terminal_size().columns, NARROWEST)


def is_dumb() -> bool:
    """Whether the terminal can only be written to: no colours, and nothing is drawn over."""
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")


def paint(text: str, ink: Ink, stream: TextIO | None = None) -> str:
    """`text` in that colour where `stream` (stdout) shows colours: a terminal, no dumb one, and no NO_COLOR."""
    return f"\x1b[{ink.value}m{text}\x1b[0m" if text and _has_colour(stream or sys.stdout) else text


def plain(text: str, stream: TextIO | None = None) -> str:
    """`text` without typography where `stream` (stdout) has ASCII alone."""
    return text if _beyond_ascii(stream or sys.stdout) else text.replace("…", "...")


def cells(text: str) -> int:
    """How many columns `text` takes: Chinese and emoji take two each, accents and paint none."""
    return len(text) if text.isascii() and "\x1b" not in text else sum(map(_cells_of, _PAINT.sub("", text)))


def fit(text: str, room: int) -> str:
    """`text` in at most `room` columns: cut, it ends in an ellipsis, and loses its paint."""
    if cells(text) <= room:
        return text
    dots = "…" if _beyond_ascii(sys.stdout) else "..."
    kept, used = "", cells(dots)
    for character in _PAINT.sub("", text):
        used += _cells_of(character)
        if used > room:
            break
        kept += character
    return (kept.rstrip() + dots)[:room]


def pad(text: str, room: int) -> str:
    """`text` with blanks behind it up to `room` columns."""
    return text + " " * (room - cells(text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _has_colour(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and not is_dumb() and _is_terminal(stream)


def _beyond_ascii(stream: TextIO) -> bool:
    """Python takes the locale C for UTF-8; whoever has asked for C by name may sit before a terminal without."""
    named = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    return named not in ("C", "POSIX") and (stream.encoding or "").lower().replace("-", "") == "utf8"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False  # closed
