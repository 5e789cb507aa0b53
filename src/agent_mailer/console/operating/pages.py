"""What the pages about agents show: the same values wherever the agents are, at a broker or on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import msgspec

from agent_mailer.remote.watched import RemoteRequest, Sums, Watched
from agent_mailer.views.values.needs import NeedView

A_PAGE = 50
"""Rows of a list that are shown at once."""

LIMITS = (
    "turns_per_hour",
    *(
        f"{unit}_per_{whose}"
        for whose in ("day", "thread", "sender")
        for unit in ("turns", "minutes", "tokens", "dollars")
    ),
)
"""What a person can raise for today."""

SHOWN_SECONDS = 120.0
"""So long a request that was answered is still told of where it was asked."""


class Said(msgspec.Struct, frozen=True):
    """The last message of an agent's in a thread, and whether somebody has written to the agent there since;
    `elsewhere`: its mail is not to be had from these pages.
    """

    message_id: str
    subject: str
    excerpt: str
    answered: bool
    elsewhere: bool = False


class TurnRow(msgspec.Struct, frozen=True):
    """A turn as its receipts tell of it; without an outcome it has begun, and nobody has told its end."""

    turn_id: str
    message_id: str
    thread_id: str
    subject: str
    sender: str
    outcome: str
    at: str


class NeedsPage(msgspec.Struct, frozen=True):
    """The first page. `sums` are over all agents; `said` is by need, `asked` by agent: what was asked lately. `first`:
    how many needs come before those that are shown. `acts`: what would be done, word for word, by the need that asks
    for a yes.
    """

    sums: Sums
    needs: Sequence[NeedView]
    said: Mapping[str, Said]
    asked: Mapping[str, Sequence[RemoteRequest]]
    first: int = 0
    acts: Mapping[str, str] = {}


class ByTags(msgspec.Struct, frozen=True):
    """Which agents a person wants to see: those with any of the `wanted` tags, of all that there are; `hidden` have
    none of them.
    """

    tags: Sequence[str]
    wanted: Sequence[str]
    hidden: int


class AgentsPage(msgspec.Struct, frozen=True):
    """The agents that are shown, of `many`; `first` of them come before these, and `watched` of all are watched now.
    `by_tags` where a list of agents is kept.
    """

    agents: Sequence[Watched]
    asked: Mapping[str, Sequence[RemoteRequest]]
    many: int
    watched: int
    first: int = 0
    by_tags: ByTags | None = None


class AgentPage(msgspec.Struct, frozen=True):
    """One agent; `requests` are the last that were asked of it, `turns` its last, both the newest first."""

    agent: Watched
    needs: Sequence[NeedView]
    said: Mapping[str, Said]
    asked: Mapping[str, Sequence[RemoteRequest]]
    requests: Sequence[RemoteRequest]
    turns: Sequence[TurnRow]
    acts: Mapping[str, str] = {}


def values_of(shown: NeedsPage | AgentsPage | AgentPage, now: float) -> dict[str, object]:
    """By the names that the templates have for it. `now` in seconds since the epoch; `day` is today (UTC): what was
    reported on another one was spent then.
    """
    shared = {"at": now, "day": stamp(now)[:10], "stamp": stamp, "a_page": A_PAGE, "limits": LIMITS}
    return {**msgspec.structs.asdict(shown), **shared}


def first_of(page: int, many: int) -> int:
    """How many come before those of that page, the first being 1; of the last where there is no such page."""
    return max(0, min(page - 1, (many - 1) // A_PAGE)) * A_PAGE


class Placed(Protocol):
    """What has a place in the list of agents."""

    @property
    def agent_id(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def reported(self) -> bool: ...


T = TypeVar("T", bound=Placed)


def trouble_first(agents: Iterable[T], needs: Iterable[NeedView]) -> list[T]:
    troubled = {need.agent_id for need in needs}
    return sorted(agents, key=lambda one: (one.agent_id not in troubled, not one.reported, one.address))


def stamp(moment: float | None) -> str:
    """A moment of a report as pages write one; empty for none."""
    if not moment:
        return ""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
