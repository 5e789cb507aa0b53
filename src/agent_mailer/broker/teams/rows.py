"""Teams as rows: made, found, changed. Every query names the user."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Select, func, insert, select, update

from agent_mailer.broker.agents.rows import change_agent, find_agent
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import agents, teams
from agent_mailer.broker.users.rows import new_id


class Team(msgspec.Struct, frozen=True):
    id: str
    name: str
    description: str
    user_id: str
    created_at: str
    agent_count: int


def _wanted(user_id: str) -> Select[Any]:
    count = (
        select(func.count())
        .where(agents.c.team_id == teams.c.id, agents.c.status == "active")
        .correlate(teams)
        .scalar_subquery()
    )
    t = teams.c
    return select(t.id, t.name, t.description, t.user_id, t.created_at, count).where(t.user_id == user_id)


def teams_of(connection: Connection, user_id: str) -> list[Team]:
    """Oldest first."""
    return [Team(*row) for row in connection.execute(_wanted(user_id).order_by(teams.c.created_at, teams.c.id))]


def find_team(connection: Connection, user_id: str, team_id: str) -> Team:
    """Raises Fault 404."""
    row = connection.execute(_wanted(user_id).where(teams.c.id == team_id)).first()
    if row is None:
        raise Fault(404, "Team not found")
    return Team(*row)


def require_free_name(connection: Connection, user_id: str, name: str, except_id: str | None = None) -> None:
    """Raises Fault 409."""
    wanted = select(teams.c.id).where(teams.c.user_id == user_id, teams.c.name == name)
    holder = connection.execute(wanted).scalar()
    if holder is not None and holder != except_id:
        raise Fault(409, f"Team '{name}' already exists")


def insert_team(connection: Connection, user_id: str, name: str, description: str) -> Team:
    """Store one whose name `require_free_name` passed."""
    team = Team(new_id(), name, description, user_id, now_text(), 0)
    fields = msgspec.structs.asdict(team)
    del fields["agent_count"]
    connection.execute(insert(teams).values(**fields))
    return team


def add_team(connection: Connection, user_id: str, name: str, description: str) -> Team:
    """Raises Fault 409."""
    require_free_name(connection, user_id, name)
    return insert_team(connection, user_id, name, description)


def change_team(connection: Connection, user_id: str, team_id: str, changes: dict[str, str]) -> Team:
    """`changes`: columns and their new values. Raises Fault 404, 409."""
    find_team(connection, user_id, team_id)
    if "name" in changes:
        require_free_name(connection, user_id, changes["name"], team_id)
    if changes:
        connection.execute(update(teams).where(teams.c.id == team_id).values(**changes))
    return find_team(connection, user_id, team_id)


def delete_team(connection: Connection, user_id: str, team_id: str) -> None:
    """Its agents stay, in no team. Raises Fault 404."""
    find_team(connection, user_id, team_id)
    connection.execute(update(agents).where(agents.c.team_id == team_id).values(team_id=None))
    connection.execute(teams.delete().where(teams.c.id == team_id))


def add_to_team(connection: Connection, user_id: str, team_id: str, agent_id: str) -> None:
    """Raises Fault 404, 409 (it is in another one)."""
    find_team(connection, user_id, team_id)
    agent = find_agent(connection, user_id, agent_id, to_change=True)
    if agent.team_id not in (None, team_id):
        raise Fault(409, "Agent already belongs to another team")
    change_agent(connection, user_id, agent.id, {"team_id": team_id})


def remove_from_team(connection: Connection, user_id: str, team_id: str, agent_id: str) -> None:
    """Raises Fault 404."""
    find_team(connection, user_id, team_id)
    if find_agent(connection, user_id, agent_id, to_change=True).team_id != team_id:
        raise Fault(404, "Agent not in this team")
    change_agent(connection, user_id, agent_id, {"team_id": None})
