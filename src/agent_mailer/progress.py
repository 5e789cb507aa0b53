"""How far long work is, as values: whoever does it tells, and knows nothing of who listens or what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

EVERY: Final = 64
"""Of things that are counted, so many pass between two words about them."""


class Step(msgspec.Struct, frozen=True):
    """`what` is done just now, in a few printable words; `done` of `total` things, 0 where nobody counts or knows."""

    what: str
    done: int = 0
    total: int = 0


Tell = Callable[[Step], None]
"""Called in the thread that does the work, often: it must not wait, nor raise."""


def untold(step: Step) -> None:
    """For work at which nobody looks."""
    del step


def counted(things: Iterable[T], what: str, tell: Tell, total: int = 0, *, done: int = 0) -> Iterator[T]:
    """The same things; it is told that `what` is done, and how many have passed, of `total` where that is known.

    `done` passed before these.
    """
    tell(Step(what, done, total))
    for number, thing in enumerate(things, done + 1):
        yield thing
        if number % EVERY == 0:
            tell(Step(what, number, total))
