"""What several clients saw of one inbox, and whether a broker can have made it: each message unclaimed, claimed by one,
or settled; each accepted one there, once, and in its order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    SEND = auto()
    CLAIM = auto()
    SETTLE = auto()


class Told(Enum):
    """What the client was told of its request. UNKNOWN: it may have happened, then or later, or not."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


class Act(NamedTuple):
    """`what`: of a send its key, of the others the message's id. `began` and `ended` are by one clock for all."""

    client: str
    kind: Kind
    what: str
    began: float
    ended: float
    told: Told


class Stored(NamedTuple):
    """A message as it lies there in the end: `key` is what it was sent with, `cursor` its place."""

    id: str
    key: str
    cursor: int


_FREE, _SETTLED = "", "\0settled"


def faults(acts: Sequence[Act], stored: Sequence[Stored]) -> list[str]:
    """What no broker may do, in words; empty where there is an order of the acts that explains it all."""
    sends = [act for act in acts if act.kind is Kind.SEND]
    found = [*_wrong_numbers(sends, stored), *_wrong_order(sends, stored)]
    others = sorted((act for act in acts if act.kind is not Kind.SEND), key=lambda act: act.what)
    for message, group in itertools.groupby(others, key=lambda act: act.what):
        those = list(group)
        if not _explained(those):
            found.append(f"{message}: no order explains {[(a.client, a.kind.name, a.told.name) for a in those]}")
    return found


def _wrong_numbers(sends: Iterable[Act], stored: Sequence[Stored]) -> list[str]:
    keys = [one.key for one in stored]
    there = set(keys)
    sent = {act.what: act.told for act in sends}
    doubled = {key for key in there if keys.count(key) > 1} if len(keys) != len(there) else set()
    return [
        *(f"{key} was accepted, and is lost" for key, told in sent.items() if told is Told.YES and key not in there),
        *(f"{key} is there more than once" for key in sorted(doubled)),
        *(f"{key} was refused, and is there" for key, told in sent.items() if told is Told.NO and key in there),
        *(f"{key} was sent by nobody" for key in sorted(there - set(sent))),
    ]


def _wrong_order(sends: Sequence[Act], stored: Sequence[Stored]) -> list[str]:
    """One that was accepted before another was begun lies before it."""
    places = {one.key: one.cursor for one in stored}
    known = [act for act in sends if act.told is Told.YES and act.what in places]
    by_end = sorted(known, key=lambda act: act.ended)
    found: list[str] = []
    highest: Act | None = None
    done = 0
    for act in sorted(known, key=lambda act: act.began):
        while done < len(by_end) and by_end[done].ended < act.began:
            if highest is None or places[by_end[done].what] > places[highest.what]:
                highest = by_end[done]
            done += 1
        if highest is not None and places[highest.what] > places[act.what]:
            found.append(f"{highest.what} was accepted before {act.what} was begun, and lies behind it")
    return found


def _explained(acts: Sequence[Act]) -> bool:
    """Whether the acts on one message can have happened one after the other, each between its beginning and its end."""
    seen: set[tuple[frozenset[int], str]] = set()

    def search(left: frozenset[int], state: str) -> bool:
        if all(acts[number].told is Told.UNKNOWN for number in left):
            return True
        if (left, state) in seen:
            return False
        seen.add((left, state))
        soonest_end = min(_end(acts[number]) for number in left)
        return any(
            search(left - {number}, after)
            for number in left
            if acts[number].began <= soonest_end
            for after in _after(acts[number], state)
        )

    return search(frozenset(range(len(acts))), _FREE)


def _end(act: Act) -> float:
    return math.inf if act.told is Told.UNKNOWN else act.ended


def _after(act: Act, state: str) -> tuple[str, ...]:
    """The states that it can leave behind; none: it cannot have been told that."""
    if act.kind is Kind.SETTLE:
        return (_SETTLED,) if act.told is not Told.NO else ()
    may = state in (_FREE, act.client)
    if act.told is Told.YES:
        return (act.client,) if may else ()
    if act.told is Told.NO:
        return () if may else (state,)
    return (act.client if may else state,)
