"""Which watcher holds an agent, as rows: for processes that serve one database together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from agent_mailer.broker.engines import NOW_MS
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import agents
from agent_mailer.broker.watch_tables import leases, processes

LOST_MS = 15_000
"""A process that has not been seen for so long (milliseconds) holds nothing."""


class Lease(msgspec.Struct, frozen=True):
    """Who watches an agent; `name` is for people."""

    watcher: str
    name: str
    since: str


class Held(msgspec.Struct, frozen=True):
    """A lease that was taken, and at which other process it was before, if that still serves."""

    epoch: int
    taken_from: str | None


Epochs = Mapping[str, int]
"""By agent id: of whoever holds the agent, or held it last."""


class Fence(msgspec.Struct, frozen=True):
    """The epoch by which a watcher says that it holds an agent. `last` asks for those that count, of agents in order,
    and they count until the transaction ends.
    """

    shown: int
    last: Callable[[Connection, Sequence[str]], Epochs]

    def require_last(self, agent_id: str, address: str, epochs: Epochs) -> None:
        """Raises Fault 409 where the agent has been held anew since; one that nobody has held, as far as is known, has
        not.
        """
        if epochs.get(agent_id, self.shown) != self.shown:
            words = f"{address} has been watched anew since this watcher began to"
            raise Fault(409, words, extra={"reason": "stale"})


_l = leases.c
IS_SERVING = processes.c.seen_ms > NOW_MS - LOST_MS
"""A process is there, by the database's clock."""
_OF_AGENT = (
    select(_l.watcher, _l.name, _l.since, _l.process_id, _l.epoch, IS_SERVING)
    .select_from(leases.outerjoin(processes, processes.c.id == _l.process_id))
    .where(_l.agent_id == bindparam("agent"))
)
_HELD = (
    select(_l.agent_id, _l.watcher, _l.name, _l.since)
    .join(processes, processes.c.id == _l.process_id)
    .where(_l.agent_id.in_(bindparam("agents", expanding=True)), IS_SERVING)
)
_HELD_OF = (
    select(_l.agent_id, _l.watcher, _l.name, _l.since)
    .join(processes, processes.c.id == _l.process_id)
    .join(agents, agents.c.id == _l.agent_id)
    .where(agents.c.user_id == bindparam("user"), IS_SERVING)
)
# Whoever takes an agent over waits until what was done by an earlier hold of it is committed.
_EPOCHS = (
    select(_l.agent_id, _l.epoch)
    .where(_l.agent_id.in_(bindparam("agents", expanding=True)))
    .order_by(_l.agent_id)
    .with_for_update(read=True)
)
_LOCKED = select(_l.agent_id).where(_l.agent_id == bindparam("agent")).with_for_update()
_BEGIN = insert(leases)
_TAKE = (
    update(leases)
    .where(_l.agent_id == bindparam("agent"))
    .values(
        watcher=bindparam("by"),
        name=bindparam("called"),
        since=bindparam("moment"),
        process_id=bindparam("process"),
        epoch=bindparam("new"),
    )
)
_NO_PROCESS = ""
# The row stays, so that epochs go on: one that began anew could be ended by what was said of an earlier one.
_END = (
    update(leases)
    .where(_l.agent_id == bindparam("agent"), _l.process_id == bindparam("process"), _l.epoch == bindparam("old"))
    .values(process_id=_NO_PROCESS)
)
_END_ALL = update(leases).where(_l.process_id == bindparam("process")).values(process_id=_NO_PROCESS)
_OF_PROCESS = select(_l.agent_id, _l.epoch).where(_l.process_id == bindparam("process"))


class Wish(msgspec.Struct, frozen=True):
    """That an agent is held by that lease, at that process."""

    agent_id: str
    lease: Lease
    process_id: str


def take_all(connection: Connection, wishes: Sequence[Wish]) -> list[Held | Lease]:
    """For each what it holds, or another watcher's lease, because that holds the agent. Leases are all that is locked,
    in one order.
    """
    taken: dict[int, Held | Lease] = {}
    for number, wish in sorted(enumerate(wishes), key=lambda one: one[1].agent_id):
        taken[number] = take(connection, wish.agent_id, wish.lease, wish.process_id)
    return [taken[number] for number in range(len(wishes))]


def take(connection: Connection, agent_id: str, lease: Lease, process_id: str) -> Held | Lease:
    """As `take_all`, for one."""
    # Then who holds it: whoever waits for a lock gets the row as it is by now, but what is joined to it as it was.
    if connection.execute(_LOCKED, {"agent": agent_id}).first() is None:
        first = {"agent_id": agent_id, "process_id": process_id, "epoch": 1, **msgspec.structs.asdict(lease)}
        connection.execute(_BEGIN, first)
        return Held(1, None)
    watcher, name, since, holder, epoch, is_there = connection.execute(_OF_AGENT, {"agent": agent_id}).one()
    if is_there and watcher != lease.watcher:
        return Lease(watcher, name, since)
    values = {"by": lease.watcher, "called": lease.name, "moment": lease.since, "process": process_id}
    connection.execute(_TAKE, {"agent": agent_id, "new": epoch + 1, **values})
    return Held(epoch + 1, holder if is_there and holder != process_id else None)


def holder(connection: Connection, agent_id: str) -> Lease | None:
    """Who holds the agent, at whichever process."""
    row = connection.execute(_OF_AGENT, {"agent": agent_id}).first()
    return Lease(*row[:3]) if row is not None and row[5] else None


def holders(connection: Connection, agent_ids: Sequence[str]) -> dict[str, Lease]:
    """Of these agents those that are held, at whichever process."""
    return {row[0]: Lease(*row[1:]) for row in connection.execute(_HELD, {"agents": agent_ids})}


def held_of(connection: Connection, user_id: str) -> dict[str, Lease]:
    """The user's agents that are held, at whichever process."""
    return {row[0]: Lease(*row[1:]) for row in connection.execute(_HELD_OF, {"user": user_id})}


def epochs(connection: Connection, agent_ids: Sequence[str]) -> Epochs:
    """None of them is taken over before the transaction ends."""
    return {row[0]: row[1] for row in connection.execute(_EPOCHS, {"agents": agent_ids})}


def last_epochs(connection: Connection, acts: Iterable[tuple[str, Fence | None]]) -> Epochs:
    """Of the agents (ids) for whom something is to be done by a hold of them."""
    fences = {agent_id: fence for agent_id, fence in acts if fence is not None}
    return next(iter(fences.values())).last(connection, sorted(fences)) if fences else {}


def give_all_back(connection: Connection, process_id: str) -> None:
    """All that is held at that process."""
    connection.execute(_END_ALL, {"process": process_id})


def give_back(connection: Connection, process_id: str, held: Sequence[tuple[str, int]]) -> None:
    """End those leases (agent id, epoch) of the process; what has been taken since stays. Twice is once."""
    # In one order, as everybody locks.
    rows = [{"agent": agent_id, "process": process_id, "old": epoch} for agent_id, epoch in sorted(held)]
    if rows:
        connection.execute(_END, rows)


def held_by(connection: Connection, process_id: str) -> dict[str, int]:
    """The epochs of the agents that are held at that process."""
    return {row[0]: row[1] for row in connection.execute(_OF_PROCESS, {"process": process_id})}
