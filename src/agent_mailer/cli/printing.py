"""What commands print: text made safe for a terminal, columns, moments, JSON."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence

import typer

_JOINERS = "\u200c\u200d"


def say(text: str = "") -> None:
    """One or more lines on stdout; `text` is safe already."""
    typer.echo(text)


def note(text: str) -> None:
    """A line about the work itself, on stderr, so that stdout holds the result alone."""
    typer.echo(text, err=True)


def json_out(value: object) -> None:
    """`value` as indented JSON on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def screen_text(text: str) -> str:
    """A body for a terminal: line ends and tabs stay, every other control or invisible character is an escape."""
    return "".join(character if _harmless(character) else _escape(character) for character in text)


def columns(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    """Rows under a head, each column as wide as it needs; cells hold no line ends."""
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def duration(seconds: float) -> str:
    """Seconds in two units at most: `42 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    left = max(0, round(seconds))
    if left < 90:
        return f"{left} s"
    minutes = left // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def local_time(moment: float) -> str:
    """Seconds since the epoch as a person reads it here: `2025-11-21 08:15`."""
    from datetime import datetime

    try:
        return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "?"


def _harmless(character: str) -> bool:
    if character in "\n\t" or character in _JOINERS:
        return True
    category = unicodedata.category(character)
    return category == "Zs" or category[0] not in "CZ"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
