"""A team's memories as rows. Every query names the user: another's team, and what it remembers, does not exist."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Select, delete, func, insert, select, update

from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import agents, team_memories
from agent_mailer.broker.teams.rows import find_team
from agent_mailer.broker.users.rows import new_id

LONGEST_MEMORY = 1_000_000
"""Characters that one may have after others were appended."""
MOST_MEMORIES = 200
"""Of one team."""
BETWEEN = "\n\n---\n\n"


class Memory(msgspec.Struct, frozen=True):
    id: str
    team_id: str
    title: str
    content: str
    user_id: str
    created_at: str
    updated_at: str
    updated_by: str


class Writer(msgspec.Struct, frozen=True):
    """The person who writes, and in which team."""

    user_id: str
    username: str
    team_id: str


_c = team_memories.c


def _of(user_id: str) -> Select[Any]:
    columns = (_c.id, _c.team_id, _c.title, _c.content, _c.user_id, _c.created_at, _c.updated_at, _c.updated_by)
    return select(*columns).where(_c.user_id == user_id)


def memories_of(connection: Connection, user_id: str, team_id: str) -> list[Memory]:
    """Oldest first. Raises Fault 404."""
    find_team(connection, user_id, team_id)
    wanted = _of(user_id).where(_c.team_id == team_id).order_by(_c.created_at, _c.id)
    return [Memory(*row) for row in connection.execute(wanted)]


def memories_for(connection: Connection, user_id: str, agent_id: str) -> list[Memory]:
    """Those of the agent's team, oldest first; none where it is in no team."""
    team = select(agents.c.team_id).where(agents.c.id == agent_id, agents.c.user_id == user_id).scalar_subquery()
    wanted = _of(user_id).where(_c.team_id == team).order_by(_c.created_at, _c.id)
    return [Memory(*row) for row in connection.execute(wanted)]


def find_memory(connection: Connection, user_id: str, memory_id: str, team_id: str | None = None) -> Memory:
    """`team_id`: only if it is that team's. Raises Fault 404."""
    row = connection.execute(_of(user_id).where(_c.id == memory_id)).first()
    if row is None or team_id not in (None, row.team_id):
        raise Fault(404, "Memory not found")
    return Memory(*row)


def add_memory(connection: Connection, writer: Writer, title: str, content: str) -> Memory:
    """Raises Fault 404, 409 (the title is taken, or there are too many)."""
    find_team(connection, writer.user_id, writer.team_id)
    _require_free(connection, writer.team_id, title)
    return _insert(connection, writer, title, content)


def change_memory(connection: Connection, writer: Writer, memory_id: str, changes: dict[str, str]) -> Memory:
    """`changes`: `title`, `content`, or both. Raises Fault 404, 409."""
    find_team(connection, writer.user_id, writer.team_id)
    memory = find_memory(connection, writer.user_id, memory_id, writer.team_id)
    if changes.get("title", memory.title) != memory.title:
        _require_free(connection, writer.team_id, changes["title"])
    return _update(connection, writer, memory.id, changes)


def delete_memory(connection: Connection, user_id: str, team_id: str, memory_id: str) -> None:
    """Raises Fault 404."""
    find_team(connection, user_id, team_id)
    find_memory(connection, user_id, memory_id, team_id)
    connection.execute(delete(team_memories).where(_c.id == memory_id))


def append_memory(connection: Connection, writer: Writer, title: str, content: str) -> Memory:
    """To the one of that title, below a line; where there is none it begins one. Raises Fault 404, 409, 413."""
    find_team(connection, writer.user_id, writer.team_id)
    # Whoever appends at the same time waits: neither text is lost.
    same = _of(writer.user_id).where(_c.team_id == writer.team_id, _c.title == title).with_for_update()
    row = connection.execute(same).first()
    if row is None:
        return _insert(connection, writer, title, content)
    memory = Memory(*row)
    whole = memory.content.rstrip() + BETWEEN + content
    if len(whole) > LONGEST_MEMORY:
        raise Fault(413, f"Memory too large: {len(whole)} characters. Maximum: {LONGEST_MEMORY}")
    return _update(connection, writer, memory.id, {"content": whole})


def _insert(connection: Connection, writer: Writer, title: str, content: str) -> Memory:
    many = connection.execute(select(func.count()).where(_c.team_id == writer.team_id)).scalar_one()
    if many >= MOST_MEMORIES:
        raise Fault(409, f"A team has at most {MOST_MEMORIES} memories")
    now = now_text()
    memory = Memory(new_id(), writer.team_id, title, content, writer.user_id, now, now, writer.username)
    connection.execute(insert(team_memories).values(**msgspec.structs.asdict(memory)))
    return memory


def _update(connection: Connection, writer: Writer, memory_id: str, changes: dict[str, str]) -> Memory:
    values = {**changes, "updated_at": now_text(), "updated_by": writer.username}
    connection.execute(update(team_memories).where(_c.id == memory_id).values(**values))
    return find_memory(connection, writer.user_id, memory_id)


def _require_free(connection: Connection, team_id: str, title: str) -> None:
    if connection.execute(select(_c.id).where(_c.team_id == team_id, _c.title == title)).first() is not None:
        raise Fault(409, f"Memory title '{title}' already exists in this team")
