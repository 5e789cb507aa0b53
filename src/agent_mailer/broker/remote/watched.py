"""The agents of a user as their watchers tell of them, each with who watches it now: for a program, and for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from sqlalchemy import Connection

from agent_mailer.broker.leases import Lease
from agent_mailer.broker.remote.rows import WatchedAgent, watched_agents
from agent_mailer.remote.port import Report, Standing


class Holders(Protocol):
    """Who knows which agents are held."""

    def holders(self, connection: Connection, agent_ids: Sequence[str]) -> Mapping[str, Lease]:
        """Of these agents those that are held now."""


class Watcher(msgspec.Struct, frozen=True):
    """Who holds the agent, and since when."""

    name: str
    since: str


class Watched(msgspec.Struct, frozen=True):
    """An agent, whether somebody watches it now, and what its watcher reported last: of before, where nobody does.

    `standing` is the report in a word; `lost`: the watcher is away and has not said that it leaves.
    """

    agent_id: str
    name: str
    address: str
    unread: int
    watcher: Watcher | None
    lost: bool
    standing: Standing | None
    reported_at: str | None
    requests_waiting: int
    report: Report | None


def watched_by(connection: Connection, holders: Holders, user_id: str) -> list[Watched]:
    """All agents of the user, each with who watches it."""
    found = watched_agents(connection, user_id)
    held = holders.holders(connection, [agent.agent_id for agent in found])
    return [_watched(agent, held.get(agent.agent_id)) for agent in found]


def _watched(agent: WatchedAgent, lease: Lease | None) -> Watched:
    report = agent.report
    return Watched(
        agent.agent_id,
        agent.name,
        agent.address,
        agent.unread,
        None if lease is None else Watcher(lease.name, lease.since),
        lease is None and report is not None and not report.ended,
        None if report is None else report.standing,
        agent.reported_at,
        agent.waits,
        report,
    )
