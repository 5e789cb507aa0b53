"""Which watcher holds an agent, as rows: what is said late of an old hold, and of those that are elsewhere."""

from __future__ import annotations

from sqlalchemy import create_engine, insert, select

from agent_mailer.broker.leases import give_back, held_by
from agent_mailer.broker.tables import metadata
from agent_mailer.broker.watch_tables import leases

LAST = 3
"""The epoch of each hold here."""
AGENTS = ("another", "coder")


def test_a_hold_is_given_back_by_its_own_epoch_at_its_own_process_alone() -> None:
    """A process that did not hear that its word was carried out says it again, when the agent is held anew."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine, tables=[leases])
    all_of_them = dict.fromkeys(AGENTS, LAST)
    with engine.begin() as connection:
        for agent in AGENTS:
            of_it = {"agent_id": agent, "watcher": "w", "name": "w", "since": "now"}
            connection.execute(insert(leases).values(**of_it, process_id="here", epoch=LAST))
        for process, epoch in (("here", LAST - 2), ("here", LAST - 1), ("here", LAST + 1), ("elsewhere", LAST)):
            give_back(connection, process, [(agent, epoch) for agent in AGENTS])
            assert held_by(connection, "here") == all_of_them, (process, epoch)
        for _ in range(2):
            give_back(connection, "here", [("another", LAST - 1), ("coder", LAST)])
            assert held_by(connection, "here") == {"another": LAST}
        # Its next hold has another number than any before.
        assert dict(connection.execute(select(leases.c.agent_id, leases.c.epoch)).all()) == all_of_them
    engine.dispose()
