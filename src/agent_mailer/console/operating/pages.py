"""What the pages about agents show: the same values wherever the agents are, at a broker or on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from agent_mailer.remote.watched import RemoteRequest, Watched
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
    """The first page. `said` is by need, `asked` by agent: what was asked lately. `first`: how many needs come before
    those that are shown; `well_since`: the moment (ISO 8601) from which on nothing has needed anybody, where that is
    known. `acts`: what would be done, word for word, by the need that asks for a yes.
    """

    agents: Sequence[Watched]
    needs: Sequence[NeedView]
    said: Mapping[str, Said]
    asked: Mapping[str, Sequence[RemoteRequest]]
    first: int = 0
    well_since: str = ""
    acts: Mapping[str, str] = {}


class ByTags(msgspec.Struct, frozen=True):
    """Which agents a person wants to see: those with any of the `wanted` tags, of all that there are; `hidden` have
    none of them.
    """

    tags: Sequence[str]
    wanted: Sequence[str]
    hidden: int


class AgentsPage(msgspec.Struct, frozen=True):
    """All agents, in the order in which they are shown, and how many of them come before the first that is. `by_tags`
    where a list of agents is kept.
    """

    agents: Sequence[Watched]
    asked: Mapping[str, Sequence[RemoteRequest]]
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


def well_since(agents: Sequence[Watched], needs: Sequence[NeedView]) -> str:
    """From when on nobody has been needed; empty where somebody is, or nobody knows."""
    reported = [one for one in agents if one.report is not None]
    if needs or any(one.well_since is None for one in reported):
        return ""
    return max((one.well_since or "" for one in reported), default="")


def trouble_first(agents: Sequence[Watched], needs: Sequence[NeedView]) -> list[Watched]:
    troubled = {need.agent_id for need in needs}
    return sorted(agents, key=lambda one: (one.agent_id not in troubled, one.report is None, one.address))


def stamp(moment: float | None) -> str:
    """A moment of a report as pages write one; empty for none."""
    if not moment:
        return ""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
