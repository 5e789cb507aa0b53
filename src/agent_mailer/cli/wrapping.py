"""Text in a column: broken between words, or cut, to what the terminal has room for."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agent_mailer.cli.terminal import Ink, cells, fit, pad, paint

GAP = "  "
LEAST = 12
"""With less room than this beside its name, a value begins on the next line."""


class Part(msgspec.Struct, frozen=True):
    """A paragraph of a row. `cut`: one line, cut where it does not fit, instead of several."""

    text: str
    ink: Ink | None = None
    cut: bool = False


class Row(msgspec.Struct, frozen=True):
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


def wrapped(text: str, room: int) -> Iterator[str]:
    """`text` broken between words into lines of at most `room` columns; a word that is longer is broken."""
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= room:
            line = joined
            continue
        if line:
            yield line
        *full, line = _broken(word, room)
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
    if room is None:
        yield part.text
    elif part.cut:
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
