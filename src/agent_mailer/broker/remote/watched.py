"""The agents of a user as their watchers tell of them, each with who watches it now: for a program, and for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sqlalchemy import Connection

from agent_mailer.broker.leases import Lease
from agent_mailer.broker.remote.rows import WatchedAgent, watched_agents
from agent_mailer.remote.watched import Watched, Watcher


class Holders(Protocol):
    """Who knows which agents are held."""

    def holders(self, connection: Connection, agent_ids: Sequence[str]) -> Mapping[str, Lease]:
        """Of these agents those that are held now."""

    def held(self, connection: Connection, user_id: str) -> Mapping[str, Lease]:
        """All of the user's agents that are held now; agents of others may be among them."""


def watched_by(
    connection: Connection, holders: Holders, user_id: str, agent_ids: Sequence[str] | None = None
) -> list[Watched]:
    """All agents of the user, or those of these ids that are, each with who watches it."""
    found = watched_agents(connection, user_id, agent_ids)
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
        agent.well_since,
    )
