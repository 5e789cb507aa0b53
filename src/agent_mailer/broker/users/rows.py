"""Users, invite codes and API keys as rows: what the routes and the command line share."""

from __future__ import annotations

import re
import secrets
import string
import uuid

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import key_hash
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import agents, api_keys, invite_codes, system_settings, users

NOBODY = "00000000-0000-0000-0000-000000000000"
"""Who made the first invite code."""
USERNAME = r"^[a-z0-9-]{3,30}$"
SHORTEST_PASSWORD = 8
_CODE_LETTERS = string.ascii_letters + string.digits


class Invite(msgspec.Struct, frozen=True):
    code: str
    created_by: str
    used_by: str | None
    used_at: str | None
    created_at: str


class User(msgspec.Struct, frozen=True):
    id: str
    username: str
    is_superadmin: bool
    created_at: str
    filter_tags: list[str]


class Key(msgspec.Struct, frozen=True):
    """An API key without the key itself, of which only a hash is stored."""

    id: str
    name: str
    created_at: str
    last_used_at: str | None
    is_active: bool
    agent_id: str | None


USER = select(users.c.id, users.c.username, users.c.is_superadmin, users.c.created_at, users.c.filter_tags)
_INVITE = select(
    invite_codes.c.code,
    invite_codes.c.created_by,
    invite_codes.c.used_by,
    invite_codes.c.used_at,
    invite_codes.c.created_at,
)
KEY = select(
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.created_at,
    api_keys.c.last_used_at,
    api_keys.c.is_active,
    api_keys.c.agent_id,
)


def new_id() -> str:
    return str(uuid.uuid4())


def check_username(username: str) -> None:
    """Raises Fault 400."""
    if not re.fullmatch(USERNAME, username):
        raise Fault(400, "Username must be 3-30 characters, lowercase letters, digits, and hyphens only")


def check_password(password: str) -> None:
    """Raises Fault 400."""
    if len(password) < SHORTEST_PASSWORD:
        raise Fault(400, f"Password must be at least {SHORTEST_PASSWORD} characters")


def invite_required(connection: Connection) -> bool:
    stored = connection.execute(
        select(system_settings.c.value).where(system_settings.c.key == "invite_required")
    ).scalar()
    return stored != "0"


def require_invite(connection: Connection, code: str | None) -> None:
    """Raises Fault 400 where a code is needed and this is none, or a used one."""
    if not invite_required(connection):
        return
    if not code:
        raise Fault(400, "Invite code is required")
    wanted = select(invite_codes.c.used_by).where(invite_codes.c.code == code)
    # Of two who come at the same time with one code the second waits here (where the database can do that).
    row = connection.execute(wanted.with_for_update()).first()
    if row is None or row.used_by is not None:
        raise Fault(400, "Invalid or already used invite code")


def require_free_name(connection: Connection, username: str) -> None:
    """Raises Fault 409."""
    if connection.execute(select(users.c.id).where(users.c.username == username)).first() is not None:
        raise Fault(409, "Username already taken")


def add_user(connection: Connection, username: str, password_hash: str, code: str | None, *, invited: bool) -> User:
    """Store a user, the first one as superadmin; the code is used up. `invited`: one is asked for where the settings
    say so. Raises Fault 400, 409.
    """
    if invited:
        require_invite(connection, code)
    require_free_name(connection, username)
    first = connection.execute(select(users.c.id).limit(1)).first() is None
    user = User(new_id(), username, first, now_text(), [])
    connection.execute(
        insert(users).values(**msgspec.structs.asdict(user), password_hash=password_hash, token_version=1)
    )
    if code:
        connection.execute(
            update(invite_codes)
            .where(invite_codes.c.code == code, invite_codes.c.used_by.is_(None))
            .values(used_by=user.id, used_at=user.created_at)
        )
    return user


def find_user(connection: Connection, username: str) -> User | None:
    row = connection.execute(USER.where(users.c.username == username)).first()
    return None if row is None else User(*row)


def all_users(connection: Connection) -> list[User]:
    """Oldest first."""
    return [User(*row) for row in connection.execute(USER.order_by(users.c.created_at, users.c.id))]


def set_password(connection: Connection, user_id: str, password_hash: str) -> None:
    """All tokens of the user are void from now on."""
    connection.execute(
        update(users)
        .where(users.c.id == user_id)
        .values(password_hash=password_hash, token_version=users.c.token_version + 1)
    )


def add_invite(connection: Connection, created_by: str) -> Invite:
    code = "".join(secrets.choice(_CODE_LETTERS) for _ in range(8))
    invite = Invite(code, created_by, None, None, now_text())
    connection.execute(insert(invite_codes).values(**msgspec.structs.asdict(invite)))
    return invite


def all_invites(connection: Connection) -> list[Invite]:
    """Newest first."""
    order = (invite_codes.c.created_at.desc(), invite_codes.c.code)
    return [Invite(*row) for row in connection.execute(_INVITE.order_by(*order))]


async def ensure_bootstrap_code(store: Store) -> str | None:
    """The code with which the first user registers, the same at each start until it is used; None once there is a
    user.
    """

    def work(connection: Connection) -> str | None:
        if connection.execute(select(func.count()).select_from(users)).scalar_one():
            return None
        unused = connection.execute(
            select(invite_codes.c.code)
            .where(invite_codes.c.created_by == NOBODY, invite_codes.c.used_by.is_(None))
            .order_by(invite_codes.c.created_at)
        ).scalar()
        return unused or add_invite(connection, NOBODY).code

    return await store.write(work)


def new_raw_key() -> str:
    return f"amk_{secrets.token_hex(32)}"


def add_key(connection: Connection, user_id: str, name: str, raw_key: str, agent_id: str | None = None) -> Key:
    """`agent_id`: the key acts for that agent only, which is one of the user's. Raises Fault 404."""
    if agent_id is not None:
        own = select(agents.c.id).where(
            agents.c.id == agent_id, agents.c.user_id == user_id, agents.c.status == "active"
        )
        if connection.execute(own).first() is None:
            raise Fault(404, "Agent not found")
    key = Key(new_id(), name, now_text(), None, is_active=True, agent_id=agent_id)
    connection.execute(
        insert(api_keys).values(**msgspec.structs.asdict(key), user_id=user_id, key_hash=key_hash(raw_key))
    )
    return key


def keys_of(connection: Connection, user_id: str) -> list[Key]:
    """Newest first."""
    order = (api_keys.c.created_at.desc(), api_keys.c.id)
    return [Key(*row) for row in connection.execute(KEY.where(api_keys.c.user_id == user_id).order_by(*order))]


def find_key(connection: Connection, user_id: str, key_id: str) -> Key:
    """Raises Fault 404."""
    row = connection.execute(KEY.where(api_keys.c.id == key_id, api_keys.c.user_id == user_id)).first()
    if row is None:
        raise Fault(404, "API key not found")
    return Key(*row)


class BoundAgent(msgspec.Struct, frozen=True):
    id: str
    name: str
    address: str
    status: str


def agent_of_key(connection: Connection, key: Key) -> BoundAgent | None:
    """The agent that a key is bound to."""
    if key.agent_id is None:
        return None
    wanted = select(agents.c.id, agents.c.name, agents.c.address, agents.c.status)
    row = connection.execute(wanted.where(agents.c.id == key.agent_id)).first()
    return None if row is None else BoundAgent(*row)


def set_key_active(connection: Connection, user_id: str, key_id: str, *, active: bool) -> None:
    """Raises Fault 404, 409 (its agent is deleted)."""
    key = find_key(connection, user_id, key_id)
    agent = agent_of_key(connection, key)
    if active and agent is not None and agent.status == "deleted":
        raise Fault(409, "The agent of this API key is deleted")
    connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(is_active=active))


def own_key_name(agent_id: str) -> str:
    """The name of the key that an agent was made with."""
    return f"agent:{agent_id}"


def delete_key(connection: Connection, user_id: str, key_id: str) -> None:
    """Raises Fault 404, 409 (a living agent was made with it)."""
    key = find_key(connection, user_id, key_id)
    agent = agent_of_key(connection, key)
    if agent is not None and agent.status == "active" and key.name == own_key_name(agent.id):
        words = "This API key is in use by an agent; delete the agent or regenerate its key first"
        raise Fault(
            409,
            words,
            extra={
                "error": "api_key_in_use",
                "message": words,
                "agents": [{"id": agent.id, "name": agent.name, "address": agent.address}],
            },
        )
    connection.execute(api_keys.delete().where(api_keys.c.id == key_id))
