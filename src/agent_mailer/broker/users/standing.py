"""Whether a user may use the broker. What they have written stays, and stays theirs: no row goes, and no name is given
to anybody else.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from sqlalchemy import Connection, update

from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import agents, api_keys, users
from agent_mailer.broker.users.rows import User, find_login


class Standing(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    """No login, key or stream counts until it is active again."""
    DELETED = "deleted"
    """The same for good, and so are all agents."""


def set_standing(connection: Connection, user_id: str, standing: Standing) -> User:
    """The user as it is then; their logins are over, unless they are active. Raises Fault 404 (unknown, deleted), 409
    (the superadmin: nobody could undo that).
    """
    found = find_login(connection, users.c.id == user_id, to_change=True)
    if found is None:
        raise Fault(404, "User not found")
    if found.user.is_superadmin and standing is not Standing.ACTIVE:
        raise Fault(409, "The superadmin stays active")
    values: dict[str, object] = {"standing": standing.value}
    if standing is not Standing.ACTIVE:
        values["token_version"] = users.c.token_version + 1
    if standing is Standing.DELETED:
        values["password_hash"] = ""
        connection.execute(update(agents).where(agents.c.user_id == user_id).values(status="deleted"))
        connection.execute(update(api_keys).where(api_keys.c.user_id == user_id).values(is_active=False))
    connection.execute(update(users).where(users.c.id == user_id).values(**values))
    return msgspec.structs.replace(found.user, standing=standing.value)
