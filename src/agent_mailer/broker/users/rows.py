"""Users, invite codes and API keys as rows: what the routes and the command line share."""

from __future__ import annotations

import re
import secrets
import string
import time
import uuid

import msgspec
from sqlalchemy import ColumnElement, Connection, insert, select, update

from agent_mailer.broker.directory import key_hash
from agent_mailer.broker.engines import Alone, do_alone
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import (
    agents,
    api_keys,
    ended_tokens,
    invite_codes,
    known_hosts,
    system_settings,
    users,
)

NOBODY = "00000000-0000-0000-0000-000000000000"
"""Who made the first invite code."""
USERNAME = r"^[a-z0-9-]{3,30}$"
SHORTEST_PASSWORD = 8
MOST_KNOWN_HOSTS = 50
KEPT_ENDED = 86400
"""Seconds for which a token that was logged out is known after its end: the clock may be set back."""
_CODE_LETTERS = string.ascii_letters + string.digits


class User(msgspec.Struct, frozen=True):
    """`standing`: a value of `standing.Standing`."""

    id: str
    username: str
    is_superadmin: bool
    created_at: str
    filter_tags: list[str]
    standing: str = "active"


class Login(msgspec.Struct, frozen=True):
    """A user with what a password and a token are held against."""

    user: User
    password_hash: str
    token_version: int


class Invite(msgspec.Struct, frozen=True):
    code: str
    created_by: str
    used_by: str | None
    used_at: str | None
    created_at: str


class Key(msgspec.Struct, frozen=True):
    """An API key without the key itself, of which only a hash is stored."""

    id: str
    name: str
    created_at: str
    last_used_at: str | None
    is_active: bool
    agent_id: str | None


class BoundAgent(msgspec.Struct, frozen=True):
    """The agent that a key is bound to."""

    id: str
    name: str
    address: str
    status: str


_USER = select(
    users.c.id, users.c.username, users.c.is_superadmin, users.c.created_at, users.c.filter_tags, users.c.standing
)
_INVITE = select(
    invite_codes.c.code,
    invite_codes.c.created_by,
    invite_codes.c.used_by,
    invite_codes.c.used_at,
    invite_codes.c.created_at,
)
_KEY = select(
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.created_at,
    api_keys.c.last_used_at,
    api_keys.c.is_active,
    api_keys.c.agent_id,
)
_INVITE_REQUIRED = system_settings.c.key == "invite_required"


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
    user = User(new_id(), username, _is_first(connection), now_text(), [])
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


def _any_user(connection: Connection) -> bool:
    return connection.execute(select(users.c.id).limit(1)).first() is not None


def _is_first(connection: Connection) -> bool:
    """Whether there is no user yet; then nobody else makes one until this transaction ends."""
    if _any_user(connection):
        return False
    do_alone(connection, Alone.BEGINNING)
    return not _any_user(connection)


def all_users(connection: Connection) -> list[User]:
    """Oldest first, deleted ones too."""
    return [User(*row) for row in connection.execute(_USER.order_by(users.c.created_at, users.c.id))]


def find_user(connection: Connection, username: str) -> User | None:
    found = find_login(connection, users.c.username == username)
    return None if found is None else found.user


def user_of(connection: Connection, user_id: str) -> User:
    """Raises Fault 401: whoever asks is no user any more."""
    found = find_login(connection, users.c.id == user_id)
    if found is None:
        raise Fault(401, "User not found")
    return found.user


def find_login(connection: Connection, which: ColumnElement[bool], *, to_change: bool = False) -> Login | None:
    """The one user for whom `which` is true, and who is not deleted. `to_change`: whoever else changes them waits until
    this transaction ends.
    """
    wanted = _USER.add_columns(users.c.password_hash, users.c.token_version).where(which, users.c.standing != "deleted")
    row = connection.execute(wanted.with_for_update(key_share=True) if to_change else wanted).first()
    return None if row is None else Login(User(*row[:6]), row.password_hash, row.token_version)


def set_password(connection: Connection, user_id: str, password_hash: str) -> None:
    """All tokens of the user are void from now on."""
    values = {"password_hash": password_hash, "token_version": users.c.token_version + 1}
    connection.execute(update(users).where(users.c.id == user_id).values(**values))


def replace_hash(connection: Connection, user_id: str, before: str, password_hash: str) -> None:
    """The same password as another hash; tokens stay good. Nothing happens where it was changed meanwhile."""
    same = (users.c.id == user_id, users.c.password_hash == before)
    connection.execute(update(users).where(*same).values(password_hash=password_hash))


def is_known_host(connection: Connection, user_id: str, host: str) -> bool:
    """Whether the user has logged in from there before."""
    where = (known_hosts.c.user_id == user_id, known_hosts.c.host == host)
    return connection.execute(select(known_hosts.c.host).where(*where)).first() is not None


def add_known_host(connection: Connection, user_id: str, host: str) -> None:
    """The user logs in from there. The `MOST_KNOWN_HOSTS` where they did last are kept."""
    of_user, now = known_hosts.c.user_id == user_id, now_text()
    again = update(known_hosts).where(of_user, known_hosts.c.host == host)
    if connection.execute(again.values(last_login_at=now)).rowcount:
        return
    connection.execute(insert(known_hosts).values(user_id=user_id, host=host, last_login_at=now))
    kept = select(known_hosts.c.host).where(of_user).order_by(known_hosts.c.last_login_at.desc())
    hosts = [row.host for row in connection.execute(kept.limit(MOST_KNOWN_HOSTS))]
    connection.execute(known_hosts.delete().where(of_user, known_hosts.c.host.not_in(hosts)))


def end_token(connection: Connection, token_id: str, expires: int) -> None:
    """It counts no more; `expires` in seconds since 1970. Those that have expired meanwhile are forgotten."""
    connection.execute(ended_tokens.delete().where(ended_tokens.c.expires < int(time.time()) - KEPT_ENDED))
    if connection.execute(select(ended_tokens.c.id).where(ended_tokens.c.id == token_id)).first() is None:
        connection.execute(insert(ended_tokens).values(id=token_id, expires=expires))


def set_filter_tags(connection: Connection, user_id: str, tags: list[str]) -> User:
    connection.execute(update(users).where(users.c.id == user_id).values(filter_tags=tags))
    return user_of(connection, user_id)


def invite_required(connection: Connection) -> bool:
    return connection.execute(select(system_settings.c.value).where(_INVITE_REQUIRED)).scalar() != "0"


def set_invite_required(connection: Connection, *, required: bool) -> None:
    values = {"value": "1" if required else "0", "updated_at": now_text()}
    if not connection.execute(update(system_settings).where(_INVITE_REQUIRED).values(**values)).rowcount:
        connection.execute(insert(system_settings).values(key="invite_required", **values))


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


def add_invite(connection: Connection, created_by: str) -> Invite:
    code = "".join(secrets.choice(_CODE_LETTERS) for _ in range(8))
    invite = Invite(code, created_by, None, None, now_text())
    connection.execute(insert(invite_codes).values(**msgspec.structs.asdict(invite)))
    return invite


def all_invites(connection: Connection) -> list[Invite]:
    """Newest first."""
    order = (invite_codes.c.created_at.desc(), invite_codes.c.code)
    return [Invite(*row) for row in connection.execute(_INVITE.order_by(*order))]


def first_invite(connection: Connection) -> str | None:
    """The code with which the first user registers, the same at each start until it is used; None once there is a
    user.
    """
    if not _is_first(connection):
        return None
    unused = connection.execute(
        select(invite_codes.c.code)
        .where(invite_codes.c.created_by == NOBODY, invite_codes.c.used_by.is_(None))
        .order_by(invite_codes.c.created_at)
    ).scalar()
    return unused or add_invite(connection, NOBODY).code


def new_raw_key() -> str:
    return f"amk_{secrets.token_hex(32)}"


def own_key_name(agent_id: str) -> str:
    """The name of the key that an agent was made with."""
    return f"agent:{agent_id}"


def add_key(connection: Connection, user_id: str, name: str, raw_key: str, agent_id: str | None = None) -> Key:
    """`agent_id`: the key acts for that agent only, which is one of the user's. Raises Fault 404."""
    if agent_id is not None:
        own = select(agents.c.id).where(
            agents.c.id == agent_id, agents.c.user_id == user_id, agents.c.status == "active"
        )
        # Whoever deletes the agent ends the keys that there are: this one is among them, or not made.
        if connection.execute(own.with_for_update(key_share=True)).first() is None:
            raise Fault(404, "Agent not found")
    key = Key(new_id(), name, now_text(), None, is_active=True, agent_id=agent_id)
    connection.execute(
        insert(api_keys).values(**msgspec.structs.asdict(key), user_id=user_id, key_hash=key_hash(raw_key))
    )
    return key


def keys_of(connection: Connection, user_id: str) -> list[Key]:
    """Newest first."""
    order = (api_keys.c.created_at.desc(), api_keys.c.id)
    return [Key(*row) for row in connection.execute(_KEY.where(api_keys.c.user_id == user_id).order_by(*order))]


def _find_key(connection: Connection, user_id: str, key_id: str) -> tuple[Key, BoundAgent | None]:
    """The key, and the agent that it is bound to, which nobody deletes until the transaction ends. Raises Fault 404."""
    row = connection.execute(_KEY.where(api_keys.c.id == key_id, api_keys.c.user_id == user_id)).first()
    if row is None:
        raise Fault(404, "API key not found")
    key = Key(*row)
    wanted = select(agents.c.id, agents.c.name, agents.c.address, agents.c.status).with_for_update(key_share=True)
    bound = connection.execute(wanted.where(agents.c.id == key.agent_id)).first() if key.agent_id else None
    return key, None if bound is None else BoundAgent(*bound)


def set_key_active(connection: Connection, user_id: str, key_id: str, *, active: bool) -> None:
    """Raises Fault 404, 409 (its agent is deleted)."""
    _, agent = _find_key(connection, user_id, key_id)
    if active and agent is not None and agent.status == "deleted":
        raise Fault(409, "The agent of this API key is deleted")
    connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(is_active=active))


def delete_key(connection: Connection, user_id: str, key_id: str) -> None:
    """Raises Fault 404, 409 (a living agent was made with it)."""
    key, agent = _find_key(connection, user_id, key_id)
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
