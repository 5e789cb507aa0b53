"""What the pages of mail show, as rows: lists of threads, and what of a thread stands beside its messages.

Every query names the user. What is unread is what waits for the operator: marks of agents are the agents' own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, exists, false, func, or_, select, tuple_, union

from agent_mailer.broker.tables import (
    IN_INBOX,
    NOT_TRASHED,
    agents,
    messages,
    receipts,
    sent_counts,
    teams,
    threads,
)
from agent_mailer.broker.threads.rows import Mark, Shelf

SNIPPET = 160
"""Characters of the last message."""
MOST_PEOPLE = 6
LITTLE = 1_000
"""Messages."""


class ThreadFilter(msgspec.Struct, frozen=True):
    """Which threads are wanted; what is empty asks for nothing."""

    shelf: Shelf = Shelf.OPEN
    unread: bool = False
    mine: bool = False
    agent: str = ""
    """An agent's id."""
    team: str = ""
    """A team's id."""


class ThreadRow(msgspec.Struct, frozen=True):
    """A thread in a list. `state`: how the last turn in it ended, or `working`; empty where there was none."""

    id: str
    last_activity: str
    shelved_at: str | None
    subject: str
    snippet: str
    last_from: str
    people: list[str]
    messages: int
    unread: int
    state: str


class Turn(msgspec.Struct, frozen=True):
    """What a message caused, by its receipts. `outcome` is empty while it runs."""

    turn_id: str
    begun: str
    ended: str | None
    outcome: str
    detail: str
    final: bool


class Agent(msgspec.Struct, frozen=True):
    """Whom one can write to, or filter by."""

    id: str
    name: str
    address: str
    team_id: str | None


_m, _t, _r = messages.c, threads.c, receipts.c
_OF_THREADS = (_m.user_id == bindparam("user"), _m.thread_id.in_(bindparam("ids", expanding=True)))
_COUNTS = (
    select(_m.thread_id, _m.from_agent, _m.to_agent, func.count())
    .where(*_OF_THREADS)
    .group_by(_m.thread_id, _m.from_agent, _m.to_agent)
    .order_by(func.min(_m.created_at))
)
_UNREAD_OF = (
    select(_m.thread_id, func.count())
    .where(*_OF_THREADS, _m.to_agent_id == bindparam("operator"), _m.is_read == false(), IN_INBOX)
    .group_by(_m.thread_id)
)
_ENDS = {
    "first": select(_m.subject).order_by(_m.created_at, _m.ordinal, _m.id),
    "last": select(_m.body).order_by(_m.created_at.desc(), _m.ordinal.desc(), _m.id.desc()),
    "from": select(_m.from_agent).order_by(_m.created_at.desc(), _m.ordinal.desc(), _m.id.desc()),
}
_LAST_STEPS = (
    select(_m.thread_id, _r.stage, _r.outcome)
    .join(messages, _m.id == _r.message_id)
    .where(*_OF_THREADS)
    .order_by(_r.id)
)
_STEPS = (
    select(_r.message_id, _r.turn_id, _r.stage, _r.outcome, _r.detail, _r.final, _r.created_at)
    .join(messages, _m.id == _r.message_id)
    .where(_m.user_id == bindparam("user"), _m.thread_id == bindparam("thread"))
    .order_by(_r.id)
)
_AGENTS = (
    select(agents.c.id, agents.c.name, agents.c.address, agents.c.team_id)
    .where(agents.c.user_id == bindparam("user"), agents.c.status == "active")
    .order_by(agents.c.address)
)
_TEAMS = select(teams.c.id, teams.c.name).where(teams.c.user_id == bindparam("user")).order_by(teams.c.name)


def threads_of(
    connection: Connection, user_id: str, operator: str, wanted: ThreadFilter, after: Mark, most: int
) -> list[ThreadRow]:
    """At most `most`, the one with the newest mail first. `operator`: the id of the user's."""
    names = {"user": user_id, "operator": operator, "agent": wanted.agent, "team": wanted.team}
    names |= {"moment": after.moment, "id": after.id, "most": most, "shelf": wanted.shelf.value}  # type: ignore[dict-item]
    of_it = (_m.user_id == _t.user_id, _m.thread_id == _t.thread_id)
    if wanted.shelf is not Shelf.TRASH:
        of_it = (*of_it, NOT_TRASHED)  # type: ignore[assignment]
    ends = [end.where(*of_it).limit(1).correlate(threads).scalar_subquery().label(name) for name, end in _ENDS.items()]
    query = (
        select(_t.thread_id, _t.last_activity, _t.shelved_at, *ends)
        .where(_t.user_id == bindparam("user"), _t.shelf == bindparam("shelf"))
        .where(tuple_(_t.last_activity, _t.thread_id) < tuple_(bindparam("moment"), bindparam("id")))
        .where(exists().where(*of_it).correlate(threads), *_only(connection, wanted, names))
        .order_by(_t.last_activity.desc(), _t.thread_id.desc())
        .limit(bindparam("most"))
    )
    found = connection.execute(query, names).all()
    return _rows(connection, user_id, operator, found)


def _only(connection: Connection, wanted: ThreadFilter, names: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    only: list[ColumnElement[bool]] = []
    if wanted.unread:
        unread = select(_m.thread_id).where(_m.user_id == bindparam("user"), _m.to_agent_id == bindparam("operator"))
        only.append(_t.thread_id.in_(unread.where(_m.is_read == false(), IN_INBOX)))
    of_team = select(agents.c.id).where(agents.c.team_id == bindparam("team"), agents.c.user_id == bindparam("user"))
    for asked, them in (
        (wanted.mine, agents.c.id == bindparam("operator")),
        (wanted.agent, agents.c.id == bindparam("agent")),
        (wanted.team, agents.c.id.in_(of_team)),
    ):
        if asked:
            only.append(_with(connection, them, names))
    return only


def _with(connection: Connection, them: ColumnElement[bool], names: Mapping[str, Any]) -> ColumnElement[bool]:
    """Threads in which these agents take part. Who has little mail is asked for it; of who has much the newest threads
    are soon found, so each thread in turn is asked for them.
    """
    ids = [
        row[0]
        for row in connection.execute(select(agents.c.id).where(agents.c.user_id == bindparam("user"), them), names)
    ]
    got = connection.execute(select(func.sum(agents.c.inbox_total)).where(agents.c.id.in_(ids))).scalar() or 0
    sent = connection.execute(select(func.sum(sent_counts.c.many)).where(sent_counts.c.agent_id.in_(ids))).scalar() or 0
    if got + sent <= LITTLE:
        ends = (_m.to_agent_id.in_(ids), _m.from_agent_id.in_(ids))
        return _t.thread_id.in_(union(*(select(_m.thread_id).where(end) for end in ends)))
    takes_part = or_(_m.to_agent_id.in_(ids), _m.from_agent_id.in_(ids))
    return exists().where(_m.user_id == _t.user_id, _m.thread_id == _t.thread_id, takes_part)


def _rows(connection: Connection, user_id: str, operator: str, found: Sequence[Sequence[Any]]) -> list[ThreadRow]:
    if not found:
        return []
    names = {"user": user_id, "operator": operator, "ids": [row[0] for row in found]}
    people: dict[str, dict[str, None]] = {}
    many: Counter[str] = Counter()
    for thread, sender, to, count in connection.execute(_COUNTS, names):
        many[thread] += count
        people.setdefault(thread, {}).update(dict.fromkeys((sender, to)))
    unread = {row[0]: row[1] for row in connection.execute(_UNREAD_OF, names)}
    states: dict[str, str] = {}
    for thread, stage, outcome in connection.execute(_LAST_STEPS, names):
        states[thread] = (outcome or "") if stage == "settled" else "working"
    return [
        ThreadRow(
            id=thread,
            last_activity=moment,
            shelved_at=since,
            subject=subject or "",
            snippet=" ".join((body or "")[: SNIPPET * 2].split())[:SNIPPET],
            last_from=sender or "",
            people=list(people.get(thread, {}))[:MOST_PEOPLE],
            messages=many[thread],
            unread=unread.get(thread, 0),
            state=states.get(thread, ""),
        )
        for thread, moment, since, subject, body, sender in found
    ]


def turns_of(connection: Connection, user_id: str, thread_id: str) -> dict[str, list[Turn]]:
    """What each message of the thread (by its id) has caused, the oldest first."""
    turns: dict[str, dict[str, Turn]] = {}
    for message, turn, stage, outcome, detail, final, moment in connection.execute(
        _STEPS, {"user": user_id, "thread": thread_id}
    ):
        of_message = turns.setdefault(message, {})
        known = of_message.get(turn, Turn(turn, moment, None, "", "", final=False))
        if stage == "settled":
            known = msgspec.structs.replace(known, ended=moment, outcome=outcome or "", detail=detail, final=final)
        of_message[turn] = known
    return {message: list(found.values()) for message, found in turns.items()}


def agents_of(connection: Connection, user_id: str) -> list[Agent]:
    """Those that are not deleted, by address."""
    return [Agent(*row) for row in connection.execute(_AGENTS, {"user": user_id})]


def team_names(connection: Connection, user_id: str) -> list[tuple[str, str]]:
    """Id and name of each team, by name."""
    return [(row[0], row[1]) for row in connection.execute(_TEAMS, {"user": user_id})]
