"""Patterns of paths: what may be one, which paths it names, and whether two may name the same. Pure.

`*` and `?` stay within a name, `**` goes over folders; a pattern names what lies below it, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import PurePosixPath
from typing import Final

from agent_mailer.errors import UsageFault
from agent_mailer.names import printable
from agent_mailer.reservations.port import MOST_PATTERNS

LONGEST_PATTERN: Final = 200
MOST_NAMES: Final = 32


def checked(patterns: Iterable[str], project: str) -> tuple[str, ...]:
    """As they are kept: relative to the project, each once. Raises UsageFault for what reserves nothing there."""
    found = dict.fromkeys(_checked(pattern, project) for pattern in patterns)
    if not found:
        raise UsageFault("no_path", "which path? none was given", "agent-mailer mail reserve 'src/**'")
    if len(found) > MOST_PATTERNS:
        raise UsageFault(
            "too_many_paths", f"{len(found)} paths at once; at most {MOST_PATTERNS}", "reserve the folder: 'src/**'"
        )
    return tuple(found)


def _checked(pattern: str, project: str) -> str:
    text = pattern.strip()
    shown = printable(pattern, 80)
    if not text or not text.isprintable():
        raise UsageFault("bad_path", f"{shown!r} is no path", "agent-mailer mail reserve 'src/**'")
    if text.startswith("/"):
        if text != project and not text.startswith(project.rstrip("/") + "/"):
            raise _outside(shown, project)
        text = text[len(project.rstrip("/")) :].lstrip("/")
    names = [name for name in PurePosixPath(text).parts if name not in ("", ".")]
    if ".." in names:
        raise _outside(shown, project)
    found = "/".join(names) or "**"
    if len(found) > LONGEST_PATTERN or len(names) > MOST_NAMES:
        raise UsageFault("bad_path", f"{shown!r} is too long: {LONGEST_PATTERN} characters at most", "reserve a folder")
    return found


def _outside(shown: str, project: str) -> UsageFault:
    return UsageFault("outside", f"{shown!r} does not lie in the project {printable(project)}", "reserve a path in it")


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
