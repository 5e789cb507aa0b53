"""What the pages about agents show: the same values wherever the agents are, at a broker or on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from agent_mailer.remote.watched import RemoteRequest, Watched
from agent_mailer.views.values.needs import NeedView

SHOWN_SECONDS = 120.0
"""So long a request that was answered is still told of where it was asked."""


class Said(msgspec.Struct, frozen=True):
    """The last message of an agent's in a thread, and whether somebody has written to the agent there since."""

    message_id: str
    subject: str
    excerpt: str
    answered: bool


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
    """The first page. `said` is by need, `asked` by agent: what was asked lately."""

    agents: Sequence[Watched]
    needs: Sequence[NeedView]
    said: Mapping[str, Said]
    asked: Mapping[str, Sequence[RemoteRequest]]


class AgentsPage(msgspec.Struct, frozen=True):
    """All agents, in the order in which they are shown."""

    agents: Sequence[Watched]
    asked: Mapping[str, Sequence[RemoteRequest]]


class AgentPage(msgspec.Struct, frozen=True):
    """One agent; `requests` are the last that were asked of it, `turns` its last, both the newest first."""

    agent: Watched
    needs: Sequence[NeedView]
    said: Mapping[str, Said]
    asked: Mapping[str, Sequence[RemoteRequest]]
    requests: Sequence[RemoteRequest]
    turns: Sequence[TurnRow]


def values_of(shown: NeedsPage | AgentsPage | AgentPage, now: float) -> dict[str, object]:
    """By the names that the templates have for it. `now` in seconds since the epoch."""
    return {**msgspec.structs.asdict(shown), "at": now, "stamp": stamp}


def trouble_first(agents: Sequence[Watched], needs: Sequence[NeedView]) -> list[Watched]:
    troubled = {need.agent_id for need in needs}
    return sorted(agents, key=lambda one: (one.agent_id not in troubled, one.report is None, one.address))


def stamp(moment: float | None) -> str:
    """A moment of a report as pages write one; empty for none."""
    if not moment:
        return ""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
