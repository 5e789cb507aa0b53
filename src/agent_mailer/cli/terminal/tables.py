"""Rows under a head, fitted to the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from agent_mailer.cli.terminal.screen import GAP, Ink, cells, fit, fit_end, pad, paint, width, wrapped

LEAST_CUT = 8
"""No column is cut to less."""

READABLE = 30
"""With less room than this beside its head a text begins on the next line."""


def columns(
    rows: Iterable[Sequence[str]],
    head: Sequence[str],
    *,
    ids: Collection[str] = (),
    endings: Collection[str] = (),
    whole: Collection[str] = (),
) -> str:
    """Rows under a head, each column as wide as it needs; cells hold no line ends.

    On a terminal that is too narrow empty columns go, and the widest are cut: those named in `ids` only as far as their
    cells still differ, so that what is left of an id names it; those in `endings` the same from their front: they tell
    apart by how they end; those in `whole` never. Where even that does not fit, each row becomes a few lines. What goes
    elsewhere than to a terminal is never cut.
    """
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = _widths(table)
    room = width()
    if room is not None and sum(widths) + len(GAP) * (len(widths) - 1) > room:
        used = [index for index in range(len(head)) if any(row[index] for row in table[1:])]
        table = [tuple(row[index] for index in used) for row in table]
        head, widths = table[0], _widths(table)
        named = _Named(ids, endings, whole)
        least = [_least(name, [row[i] for row in table[1:]], widths[i], named) for i, name in enumerate(head)]
        gaps = len(GAP) * (len(head) - 1)
        if sum(least) + gaps > room:
            return _records(table[1:], head, room, (*ids, *endings, *whole))
        widths = _shrunk(widths, least, room - gaps)
    cut = [fit_end if name in endings else fit for name in head]
    lines = [_line(row, widths, cut) for row in table]
    return "\n".join([paint(lines[0], Ink.BOLD), *lines[1:]])


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """A name and its value on each line, the values one under the other; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    room = max((cells(name) for name, _ in shown), default=0)
    return "\n".join(f"{pad(name, room)}{GAP}{value}" for name, value in shown)


def choices(pairs: Iterable[tuple[str, str]]) -> str:
    """What one can choose and what each means, indented, the meanings wrapped between words to fit the terminal."""
    shown = list(pairs)
    names = max(cells(name) for name, _ in shown)
    indent = 2 + names + len(GAP)
    room = (width() or 0) - indent
    lines = []
    for name, text in shown:
        first, *rest = wrapped(text, room, whole=True) if room >= LEAST_CUT else [text]
        lines.append(f"  {pad(name, names)}{GAP}{first}")
        lines += [" " * indent + line for line in rest]
    return "\n".join(lines)


def hanging(head: str, text: str) -> str:
    """`text` behind `head`, wrapped between words to fit the terminal, its lines one under the other."""
    room = width()
    if room is None:
        return head + text
    if room - cells(head) < READABLE:
        return "\n".join([head.rstrip(), paragraph(text)])
    first, *rest = wrapped(text, room - cells(head), whole=True)
    return "\n".join([head + first, *(" " * cells(head) + line for line in rest)])


def paragraph(text: str, indent: int = 2) -> str:
    """`text` indented, and wrapped between words to fit the terminal."""
    room = (width() or 0) - indent
    return "\n".join(" " * indent + line for line in (wrapped(text, room, whole=True) if room >= LEAST_CUT else [text]))


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cells, column)) for column in zip(*table, strict=True)]


def _line(row: Sequence[str], widths: Sequence[int], cut: Sequence[Callable[[str, int], str]]) -> str:
    return GAP.join(pad(fitted(cell, room), room) for cell, room, fitted in zip(row, widths, cut, strict=True)).rstrip()


class _Named(NamedTuple):
    ids: Collection[str]
    endings: Collection[str]
    whole: Collection[str]


def _least(name: str, column: Sequence[str], needed: int, named: _Named) -> int:
    if name in named.whole:
        return needed
    told = 0
    if name in named.ids:
        told = _telling(column)
    elif name in named.endings:
        # One more than eight: by so much events and notices name an id.
        told = max(_telling([cell[::-1] for cell in column]), LEAST_CUT + 1)
    return min(needed, max(LEAST_CUT, cells(name), told))


def _telling(column: Sequence[str]) -> int:
    """How much must be seen of ids for each to be told from the others, and the ellipsis."""
    names = sorted(set(column))
    longest = 0
    for one, other in itertools.pairwise(names):
        common = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        longest = max(longest, sum(1 for _ in common) + 1)
    return longest + len("...")


def _shrunk(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    found = list(widths)
    for _ in range(sum(found) - room):
        widest = max((i for i in range(len(found)) if found[i] > least[i]), key=lambda i: found[i])
        found[widest] -= 1
    return found


def _records(rows: Iterable[Sequence[str]], head: Sequence[str], room: int, uncut: Collection[str]) -> str:
    left = max(LEAST_CUT, room - max(map(cells, head)) - len(GAP))
    return "\n\n".join(
        fields((name, cell if name in uncut else fit(cell, left)) for name, cell in zip(head, row, strict=True))
        for row in rows
    )
