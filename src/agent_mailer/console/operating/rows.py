"""What the pages about agents read beside the reports: what was last said in a thread, turns, and requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from agent_mailer.broker.approvals.rows import open_questions
from agent_mailer.broker.tables import agents as agent_rows
from agent_mailer.broker.tables import messages, receipts, users
from agent_mailer.console.operating.pages import Said, TurnRow
from agent_mailer.views.values.needs import NeedKind, NeedView

MOST_THREADS = 100
EXCERPT = 400
TURNS = 25

_m, _r = messages.c, receipts.c
_LAST: Select[Any] = (
    select(_m.thread_id, _m.id, _m.from_agent_id, _m.to_agent_id, _m.subject, func.substr(_m.body, 1, EXCERPT))
    .where(_m.user_id == bindparam("user"), _m.thread_id.in_(bindparam("threads", expanding=True)))
    .order_by(_m.created_at.desc(), _m.id)
    .limit(20 * MOST_THREADS)
)
_TURNS: Select[Any] = (
    select(_r.turn_id, _m.id, _m.thread_id, _m.subject, _m.from_agent, _r.stage, _r.outcome, _r.created_at)
    .join(messages, _m.id == _r.message_id)
    .where(_m.user_id == bindparam("user"), _m.to_agent_id == bindparam("agent"), _r.stage != "claimed")
    .order_by(_r.id.desc())
    .limit(4 * TURNS)
)
_TAGS = select(agent_rows.c.tags).where(
    agent_rows.c.user_id == bindparam("user"), agent_rows.c.id == bindparam("agent")
)
_WANTED_TAGS = select(users.c.filter_tags).where(users.c.id == bindparam("user"))


def said_in(connection: Connection, user_id: str, needs: Iterable[NeedView]) -> dict[str, Said]:
    """By need: what its agent has said last in its thread, where it has."""
    wanted = [need for need in needs if need.thread][:MOST_THREADS]
    if not wanted:
        return {}
    names = {"user": user_id, "threads": sorted({need.thread for need in wanted})}
    found: dict[str, list[Sequence[Any]]] = {}
    for row in connection.execute(_LAST, names):
        found.setdefault(row[0], []).append(row)
    said: dict[str, Said] = {}
    for need in wanted:
        answered = False
        for _, message_id, sender, recipient, subject, excerpt in found.get(need.thread, ()):
            if sender == need.agent_id:
                said[need.id] = Said(message_id, subject, excerpt, answered)
                break
            answered = answered or recipient == need.agent_id
    return said


def acts_in(connection: Connection, user_id: str, needs: Iterable[NeedView]) -> dict[str, str]:
    """By need: what would be done, as its watcher has told whoever it asks for a yes."""
    wanted = [need for need in needs if need.kind is NeedKind.APPROVAL]
    told = open_questions(connection, user_id) if wanted else {}
    found = {need.id: told.get((need.agent_id, need.targets[0])) for need in wanted}
    return {need_id: shown.act for need_id, shown in found.items() if shown is not None}


def turns_of_agent(connection: Connection, user_id: str, agent_id: str) -> list[TurnRow]:
    """The newest first, as far as they were reported to the senders."""
    found: dict[tuple[str, str], TurnRow] = {}
    for turn_id, message_id, thread, subject, sender, stage, outcome, at in connection.execute(
        _TURNS, {"user": user_id, "agent": agent_id}
    ):
        ended = (outcome or "") if stage == "settled" else ""
        found.setdefault((turn_id, message_id), TurnRow(turn_id, message_id, thread, subject, sender, ended, at))
    return list(found.values())[:TURNS]


def tags_of(connection: Connection, user_id: str, agent_id: str) -> list[str]:
    return list(connection.execute(_TAGS, {"user": user_id, "agent": agent_id}).scalar() or ())


def wanted_tags(connection: Connection, user_id: str) -> set[str]:
    """Those that the user wants to see agents of; none: all agents."""
    return set(connection.execute(_WANTED_TAGS, {"user": user_id}).scalar() or ())
