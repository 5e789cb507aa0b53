"""Tables of the configuration, and the ranges of their numbers.

Each key is declared once: here where it is a table's own, else in `config.py`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountOrNone = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[int, Meta(ge=1, le=30 * 86400)]
SecondsOrOff = Annotated[int, Meta(ge=0, le=30 * 86400)]
TokensOrNone = Annotated[int, Meta(ge=0, le=10**12)]
DollarsOrOff = Annotated[float, Meta(ge=0, le=1_000_000)]


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[retry]`: the wait after the n-th failure is random between 0 and min(longest, first * 2^(n-1)) seconds."""

    first: Annotated[Seconds, "seconds after the first failed attempt, at most; doubles with each"] = 10
    longest: Annotated[Seconds, "seconds that no wait is longer than"] = 600


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: what turns may take of a local day; 0 = no limit."""

    turns_per_day: Annotated[CountOrNone, "turns a day; more mail waits until midnight; 0 = no limit"] = 0
    minutes_per_day: Annotated[CountOrNone, "minutes that they take together"] = 0
    tokens_per_day: Annotated[TokensOrNone, "tokens that they take together, as far as the agent program counts"] = 0
    dollars_per_day: Annotated[
        DollarsOrOff, "dollars, as the agent program counts them; advice where a subscription pays"
    ] = 0.0
    turns_per_thread: Annotated[CountOrNone, "the same of one thread a day; its mail is held beyond it"] = 0
    minutes_per_thread: Annotated[CountOrNone, "minutes of one thread"] = 0
    tokens_per_thread: Annotated[TokensOrNone, "tokens of one thread"] = 0
    dollars_per_thread: Annotated[DollarsOrOff, "dollars of one thread"] = 0.0
    turns_per_sender: Annotated[CountOrNone, "the same for one sender a day; its mail is held beyond it"] = 0
    minutes_per_sender: Annotated[CountOrNone, "minutes for one sender"] = 0
    tokens_per_sender: Annotated[TokensOrNone, "tokens for one sender"] = 0
    dollars_per_sender: Annotated[DollarsOrOff, "dollars for one sender"] = 0.0
    share: Annotated[str, "a name: all agents of yours with the same share one day"] = ""


class Guards(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[guards]`: how far agents go among themselves before a person is asked; 0 = off."""

    max_hops: Annotated[CountOrNone, "messages of a chain without a person, before one is held; 0 = off"] = 64
    pair_rounds: Annotated[
        CountOrNone, "times that mail of one agent comes back here within `window` without a person; 0 = off"
    ] = 8
    ring_rounds: Annotated[CountOrNone, "the same of all agents together; 0 = off"] = 12
    new_threads: Annotated[CountOrNone, "threads that answers begin within `window`; 0 = off"] = 30
    rounds_per_day: Annotated[CountOrNone, "the same of one agent, and of one thread, within a day; 0 = off"] = 200
    turns_per_hour: Annotated[
        CountOrNone, "turns within an hour that no person is known to want; more mail waits; 0 = off"
    ] = 120
    window: Annotated[Seconds, "seconds"] = 600
