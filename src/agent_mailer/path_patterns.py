"""Patterns of paths: which paths one names, and whether two may name the same. Pure.

`*` and `?` stay within a name, `**` goes over folders; a pattern names what lies below it, too.
"""

from __future__ import annotations

from functools import cache


def names_path(pattern: str, path: str) -> bool:
    """Whether `path`, relative to the project, is one of those, or lies below one."""
    wanted, names = pattern.split("/"), path.split("/")
    # Of the ways to read what comes before, at which of the wanted names each may go on; no expression, which could be
    # made to take for ever.
    at = {0}
    for name in names:
        at = _passing(wanted, at)
        if len(wanted) in at:
            return True
        at = {
            place if wanted[place] == "**" else place + 1
            for place in at
            if wanted[place] == "**" or _is_named(wanted[place], name)
        }
    return len(wanted) in _passing(wanted, at)


def _passing(wanted: list[str], at: set[int]) -> set[int]:
    """The same with every `**` that stands for no folder."""
    found = set(at)
    for place in sorted(at):
        while place < len(wanted) and wanted[place] == "**":
            place += 1
            found.add(place)
    return found


def _is_named(wanted: str, name: str) -> bool:
    i = j = 0
    star, mark = -1, 0
    while j < len(name):
        if i < len(wanted) and wanted[i] == "*":
            star, mark, i = i, j, i + 1
        elif i < len(wanted) and wanted[i] in ("?", name[j]):
            i, j = i + 1, j + 1
        elif star >= 0:
            mark += 1
            i, j = star + 1, mark
        else:
            return False
    return all(one == "*" for one in wanted[i:])


def overlap(one: str, other: str) -> bool:
    """Whether there may be a path that both name."""
    first, second = (*one.split("/"), "**"), (*other.split("/"), "**")

    @cache
    def meet(i: int, j: int) -> bool:
        if i == len(first) or j == len(second):
            return all(name == "**" for name in (*first[i:], *second[j:]))
        if first[i] == "**":
            return meet(i + 1, j) or meet(i, j + 1)
        if second[j] == "**":
            return meet(i, j + 1) or meet(i + 1, j)
        return _names_meet(first[i], second[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


@cache
def _names_meet(one: str, other: str) -> bool:
    """The same of two names with `*` and `?` in them."""

    @cache
    def meet(i: int, j: int) -> bool:
        if i == len(one) and j == len(other):
            return True
        if i < len(one) and one[i] == "*":
            return meet(i + 1, j) or (j < len(other) and meet(i, j + 1))
        if j < len(other) and other[j] == "*":
            return meet(i, j + 1) or (i < len(one) and meet(i + 1, j))
        if i == len(one) or j == len(other):
            return False
        return (one[i] == other[j] or "?" in (one[i], other[j])) and meet(i + 1, j + 1)

    return meet(0, 0)
