"""What of an inbox can be worked on next: of each thread its oldest and its most urgent message.

Which threads have something waiting is kept in a table beside the messages, in the transactions that change it: so a
look costs the same with a thousand and with a million unread ones, and a flood in one thread hides no other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, text

from agent_mailer.broker.fixed import write_each
from agent_mailer.broker.messages.wire import ENVELOPE_COLUMNS, Listing, envelope_of
from agent_mailer.broker.tables import CLAIMED, IN_INBOX, WAITING, agents, messages, waiting_threads

RANKS = ("urgent", "normal", "low")
"""Priorities, the most urgent first; what an inbox knows nothing of counts as low."""

Place = tuple[str, str]
"""A thread in an inbox: the agent's id, and the thread's."""

_m = messages.c
_w = waiting_threads.c
_PLACE = (_w.agent_id == bindparam("agent"), _w.thread_id == bindparam("thread"))
# Whoever sends into the thread has locked it until then, or waits for us.
_LOCKED = select(_w.head_seq, _w.pressing_seq).where(*_PLACE).with_for_update()
_NEXT = select(
    *(
        select(func.min(_m.seq))
        .where(
            _m.to_agent_id == bindparam("agent"),
            _m.thread_id == bindparam("thread"),
            _m.priority == rank,
            WAITING,
            IN_INBOX,
        )
        .scalar_subquery()
        for rank in RANKS
    )
)
_NONE = delete(waiting_threads).where(*_PLACE)
_PUT = """\
INSERT INTO waiting_threads (agent_id, thread_id, urgency, head_seq, pressing_seq)
VALUES (:agent, :thread, :urgency, :head, :pressing) ON CONFLICT (agent_id, thread_id)
DO UPDATE SET urgency = excluded.urgency, pressing_seq = excluded.pressing_seq"""
_IS_NOW = text(f"{_PUT}, head_seq = excluded.head_seq")
# What arrives is the newest: it leads where nothing waits, and presses where nothing as urgent does.
_ARRIVED = text(f"{_PUT} WHERE excluded.urgency < waiting_threads.urgency")

_NEWEST = select(agents.c.inbox_seq).where(agents.c.id == bindparam("agent"))
_OLDEST = (
    select(_m.seq)
    .where(_m.to_agent_id == bindparam("agent"), WAITING, IN_INBOX)
    .order_by(_m.seq)
    .limit(bindparam("most"))
)
_FREE_AGAIN = (
    select(_m.seq)
    .where(_m.to_agent_id == bindparam("agent"), CLAIMED, IN_INBOX, _m.claimed_at < bindparam("since"))
    .order_by(_m.claimed_at)
    .limit(bindparam("most"))
)
_LEADING = (
    select(_w.head_seq, _w.pressing_seq)
    .where(_w.agent_id == bindparam("agent"))
    .order_by(_w.urgency, _w.head_seq)
    .limit(bindparam("most"))
)
_THESE = (
    select(*ENVELOPE_COLUMNS)
    .where(_m.to_agent_id == bindparam("agent"), _m.seq.in_(bindparam("seqs", expanding=True)), ~_m.is_read)
    .order_by(_m.seq)
)


def note_arrivals(connection: Connection, arrived: Sequence[tuple[str, str, str, int]]) -> None:
    """Each: whose inbox (agent id), thread, priority, number; they are stored, and the newest of their inboxes."""
    if not arrived:
        return
    known: dict[Place, tuple[int, int, int]] = {}
    for agent_id, thread, priority, seq in arrived:
        rank = RANKS.index(priority)
        urgency, head, pressing = known.get((agent_id, thread), (len(RANKS), seq, seq))
        known[agent_id, thread] = (rank, head, seq) if rank < urgency else (urgency, head, pressing)
    # In one order, as everybody locks.
    write_each(
        connection,
        _ARRIVED,
        [
            {"agent": place[0], "thread": place[1], "urgency": urgency, "head": head, "pressing": pressing}
            for place, (urgency, head, pressing) in sorted(known.items())
        ],
    )


def note_changed(connection: Connection, taken: Mapping[Place, Collection[int]], moved: Collection[Place]) -> None:
    """In those places the messages of these numbers wait no longer; in others one waits again, or elsewhere.

    The next of a thread moves up where what was taken stood in front.
    """
    for agent_id, thread_id in sorted({*taken, *moved}):
        place = {"agent": agent_id, "thread": thread_id}
        row = connection.execute(_LOCKED, place).first()
        gone = taken.get((agent_id, thread_id), ())
        if row is None or (agent_id, thread_id) in moved or any(number in row for number in gone):
            _move_up(connection, place)


def _move_up(connection: Connection, place: dict[str, Any]) -> None:
    firsts: Sequence[int | None] = connection.execute(_NEXT, place).one()
    found = [(rank, seq) for rank, seq in enumerate(firsts) if seq is not None]
    if not found:
        connection.execute(_NONE, place)
        return
    urgency, pressing = found[0]
    head = min(seq for _, seq in found)
    connection.execute(_IS_NOW, [{**place, "urgency": urgency, "head": head, "pressing": pressing}])


def heads(connection: Connection, agent_id: str, limit: int, since: str) -> Listing:
    """At most `limit` of what waits, oldest first: of each thread its oldest and its most urgent message, the most
    urgent threads first, then those of the oldest heads; what room is left goes to the oldest of the rest.

    `since`: a claim that was made before this moment does not count any more. `more`: others wait, too.
    """
    inbox = {"agent": agent_id}
    newest = connection.execute(_NEWEST, inbox).scalar() or 0
    one_more = {**inbox, "most": limit + 1}
    oldest = connection.execute(_OLDEST, one_more).scalars().all()
    chosen = dict.fromkeys(connection.execute(_FREE_AGAIN, {**one_more, "since": since}).scalars())
    more = len(chosen) + len(oldest) > limit
    if more:
        for pair in connection.execute(_LEADING, {**inbox, "most": limit}):
            chosen.update(dict.fromkeys(pair))
    chosen.update(dict.fromkeys(oldest))
    seqs = [*chosen][:limit]
    rows: Sequence[Sequence[Any]] = connection.execute(_THESE, {**inbox, "seqs": seqs}).all() if seqs else []
    # Somebody may have taken one meanwhile.
    found = [one for one in map(envelope_of, rows) if one.claimed_at is None or one.claimed_at < since]
    return Listing(found, newest, more)
