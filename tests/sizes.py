"""How much of the tests runs: the quick ones, unless longer ones are asked for by their mark or by their name.

`long` tests need more than Python's packages, or more time than everybody has each time; `soak` tests take hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path

import pytest

LONG = pytest.mark.long
SOAK = pytest.mark.soak
TIMEOUTS = {"long": 1200.0, "soak": 36_000.0}
"""Seconds for a test with that mark."""


class Size(IntEnum):
    QUICK = 0
    LONG = 1
    SOAK = 2


def sizes(quick: object, long: object, soak: object = None) -> list[object]:
    """Parameters of a harness that runs in every size, by the names of the sizes."""
    params: list[object] = [pytest.param(quick, id="quick"), pytest.param(long, id="long", marks=LONG)]
    return params if soak is None else [*params, pytest.param(soak, id="soak", marks=SOAK)]


def thinned(cases: Iterable[object], every: int = 3) -> list[object]:
    """Parameters of which every third, or as said, is quick, the others long: for tables of like cases."""
    return [case if number % every == 0 else _as_long(case) for number, case in enumerate(cases)]


def _as_long(case: object) -> object:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=LONG)


def asked_for(items: Iterable[pytest.Item], named: Sequence[str], cwd: Path) -> list[pytest.Item]:
    """Of what each of `named` names the smallest size that is there: a file of long tests runs when it is named."""
    found = list(items)
    wanted: set[pytest.Item] = set()
    for name in named:
        those = [item for item in found if _names(name, item, cwd)]
        smallest = min(map(_size, those), default=Size.QUICK)
        wanted |= {item for item in those if _size(item) is smallest}
    return [item for item in found if item in wanted]


def give_time(items: Iterable[pytest.Item]) -> None:
    """The time that a long test has, where it does not say so itself."""
    for item in items:
        for name, seconds in TIMEOUTS.items():
            if item.get_closest_marker(name) and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(seconds))


def _size(item: pytest.Item) -> Size:
    if item.get_closest_marker("soak"):
        return Size.SOAK
    return Size.LONG if item.get_closest_marker("long") else Size.QUICK


def _names(name: str, item: pytest.Item, cwd: Path) -> bool:
    path, _, inside = name.partition("::")
    own = item.nodeid.partition("::")[2]
    return item.path.is_relative_to((cwd / path).resolve()) and (
        not inside or own == inside or own.startswith((f"{inside}[", f"{inside}::"))
    )
