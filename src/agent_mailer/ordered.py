"""Many that wait, in order, and of each thread what comes first: changed by what changes, never sorted anew."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple, TypeVar


class Place(NamedTuple):
    """Where one stands: `order` sorts all, `key` is its own, `urgency` 0 the most urgent."""

    order: str
    key: str
    thread: str
    urgency: int


T = TypeVar("T", str, Place)


class Ordered:
    """What waits. An addition and a removal cost some comparisons and a shift of numbers, however many wait."""

    def __init__(self, urgencies: int) -> None:
        self._all: list[Place] = []
        self._members: tuple[dict[str, list[Place]], ...] = tuple({} for _ in range(urgencies))
        """By urgency those of each thread."""
        self._heads: tuple[list[Place], ...] = tuple([] for _ in range(urgencies))
        """The oldest of each thread, by the urgency of the most urgent one in it."""

    def add(self, place: Place) -> None:
        """One that is not there."""
        before = self._head(place.thread)
        insert(self._members[place.urgency].setdefault(place.thread, []), place)
        insert(self._all, place)
        self._move_head(before, self._head(place.thread))

    def remove(self, place: Place) -> None:
        """As it was added. Raises KeyError for what was not."""
        before = self._head(place.thread)
        members = self._members[place.urgency][place.thread]
        if not take_out(members, place):
            raise KeyError(place)
        if not members:
            del self._members[place.urgency][place.thread]
        take_out(self._all, place)
        self._move_head(before, self._head(place.thread))

    def first(self, limit: int) -> list[str]:
        """The keys of at most `limit`, oldest first, chosen as `oldest_of_each` of the mailbox's port says."""
        if len(self._all) <= limit:
            return [place.key for place in self._all]
        chosen = dict.fromkeys(chain(islice(self._next(), 2 * limit), self._all[:limit]))
        return [place.key for place in sorted(islice(chosen, limit))]

    def _next(self) -> Iterator[Place]:
        """Head and most urgent one of each thread, the most urgent threads first, then those of the oldest heads."""
        for members, heads in zip(self._members, self._heads, strict=True):
            for head in heads:
                yield head
                yield members[head.thread][0]

    def _head(self, thread: str) -> tuple[int, Place] | None:
        """How urgent the thread is, and its oldest one."""
        found = [(urgency, of[thread][0]) for urgency, of in enumerate(self._members) if thread in of]
        return (found[0][0], min(place for _, place in found)) if found else None

    def _move_head(self, before: tuple[int, Place] | None, after: tuple[int, Place] | None) -> None:
        if after == before:
            return
        if before is not None:
            take_out(self._heads[before[0]], before[1])
        if after is not None:
            insert(self._heads[after[0]], after[1])


def insert(those: list[T], one: T) -> None:
    """Into what is sorted, where it belongs: most often that is its end."""
    if not those or those[-1] < one:
        those.append(one)
    else:
        insort(those, one)


def take_out(those: list[T], one: T) -> bool:
    """Out of what is sorted; whether it was in it."""
    place = bisect_left(those, one)
    found = those[place : place + 1] == [one]
    if found:
        del those[place]
    return found
