"""Hooks as rows: made, found, changed. Every query names the user, but the one that a stranger's call begins with."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from agent_mailer.broker.agents.rows import NewAgent, check_new, insert_agent, require_team
from agent_mailer.broker.hooks.tables import hook_callbacks, hooks
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import agents, teams, users
from agent_mailer.broker.users.rows import new_id
from agent_mailer.names import HOOK
from agent_mailer.outside.callbacks import BadTarget, target_of
from agent_mailer.outside.event import Source
from agent_mailer.outside.rules import BAD_NAME, Rules, bad_pattern, is_hook_name

ROLE = "hook"
MOST = 200
"""Hooks of one user."""


class Standing(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    """Its calls are answered, and become no mail."""
    DELETED = "deleted"


class State(StrEnum):
    """Of what is told back."""

    WAITS = "waits"
    POSTED = "posted"
    FAILED = "failed"
    """Given up."""


class Hook(msgspec.Struct, frozen=True):
    """`path`: where it is called. `to`: an agent's address, or empty; `team_id`: whose agents all get it. `callback`:
    where answers are told back, or empty; `callback_hosts`: which an operator listed.
    """

    id: str
    name: str
    path: str
    kind: Source
    standing: Standing
    address: str
    to: str
    team_id: str | None
    rules: Rules
    version: int
    created_at: str
    callback: str
    callback_hosts: list[str]


class NewHook(msgspec.Struct, frozen=True):
    """`to`: the address of an agent; or else a team."""

    name: str
    kind: Source
    to: str = ""
    team_id: str | None = None
    rules: Rules = Rules()
    callback: str = ""
    callback_hosts: tuple[str, ...] = ()


class Called(msgspec.Struct, frozen=True):
    """What is known of a hook when it is called, before anything is believed."""

    id: str
    version: int
    kind: Source
    rules: Rules
    path: str


_h, _to, _from = hooks.c, agents.alias("hook_to"), agents.alias("hook_from")
_HOOK = (
    select(
        *(_h.id, _h.name, users.c.username, _h.kind, _h.standing, _from.c.address),
        *(_to.c.address, _h.team_id, _h.rules, _h.version, _h.created_at, _h.callback, _h.callback_hosts),
    )
    .join(users, users.c.id == _h.user_id)
    .join(_from, _from.c.id == _h.sender_id)
    .outerjoin(_to, _to.c.id == _h.agent_id)
    .where(_h.standing != Standing.DELETED)
)


def secret_of(secret: str, hook_id: str, version: int) -> str:
    """What its caller signs with: nothing of it lies in the database. `secret`: the broker's."""
    key = hashlib.sha256(b"agent-mailer hook\0" + secret.encode()).digest()
    return f"amh_{hmac.new(key, f'{hook_id}:{version}'.encode(), hashlib.sha256).hexdigest()}"


def path_name(name: str, username: str) -> str:
    """What of a hook's path is its own: no other user's hook can have it."""
    return f"{name}.{username}"


def called(connection: Connection, path: str) -> Called | None:
    """The hook at that path, whoever calls it; none of a user who is not active."""
    name, _, username = path.partition(".")
    wanted = (
        select(_h.id, _h.version, _h.kind, _h.rules)
        .join(users, users.c.id == _h.user_id)
        .where(_h.name == name, users.c.username == username, users.c.standing == "active")
        .where(_h.standing != Standing.DELETED)
    )
    row = connection.execute(wanted).first()
    return None if row is None else Called(row[0], row[1], Source(row[2]), _rules(row[3]), path)


def hooks_of(connection: Connection, user_id: str) -> list[Hook]:
    """Oldest first."""
    wanted = _HOOK.where(_h.user_id == user_id).order_by(_h.created_at, _h.id)
    return [_hook(row) for row in connection.execute(wanted)]


def find_hook(connection: Connection, user_id: str, hook_id: str, *, to_change: bool = False) -> Hook:
    """Raises Fault 404. `to_change`: whoever else changes it waits until this transaction ends."""
    wanted = _HOOK.where(_h.user_id == user_id, _h.id == hook_id)
    row = connection.execute(wanted.with_for_update(of=hooks) if to_change else wanted).first()
    if row is None:
        raise Fault(404, "Hook not found")
    return _hook(row)


def add_hook(connection: Connection, user_id: str, username: str, domain: str, new: NewHook) -> Hook:
    """With an address of its own. A name that was deleted gets the same address, and another secret.

    Raises Fault 400 (name, rules, nobody or both to get it), 404 (no such agent), 409 (taken, too many).
    """
    if not is_hook_name(new.name):
        raise Fault(400, BAD_NAME)
    if words := bad_pattern((*new.rules.events, *new.rules.actions, *new.rules.branches, *new.rules.labels)):
        raise Fault(400, words)
    if new.callback:
        try:
            target_of(new.callback, new.callback_hosts)
        except BadTarget as error:
            raise Fault(400, str(error)) from None
    if bool(new.to) == (new.team_id is not None):
        raise Fault(400, "A hook's mail goes to one agent, or to one team")
    agent_id = _agent_at(connection, user_id, new.to) if new.to else None
    if new.team_id is not None:
        require_team(connection, user_id, new.team_id)
    before = connection.execute(
        select(_h.id, _h.standing, _h.version, _h.sender_id)
        .where(_h.user_id == user_id, _h.name == new.name)
        .with_for_update()
    ).first()
    if before is not None and before.standing != Standing.DELETED:
        raise Fault(409, f"There is a hook '{new.name}' already")
    if len(hooks_of(connection, user_id)) >= MOST:
        raise Fault(409, f"A user has at most {MOST} hooks")
    fields = {
        "kind": new.kind.value,
        "standing": Standing.ACTIVE.value,
        "agent_id": agent_id,
        "team_id": new.team_id,
        "rules": msgspec.to_builtins(new.rules),
        "created_at": now_text(),
        "callback": new.callback or None,
        "callback_hosts": list(new.callback_hosts),
    }
    if before is not None:
        connection.execute(update(agents).where(agents.c.id == before.sender_id).values(status="active"))
        # What came under the name before is told back to nobody.
        newest = select(agents.c.inbox_seq).where(agents.c.id == before.sender_id).scalar_subquery()
        anew = {**fields, "version": before.version + 1, "callback_seq": newest}
        connection.execute(update(hooks).where(_h.id == before.id).values(**anew))
        return find_hook(connection, user_id, before.id)
    address = f"{HOOK}{new.name}@{username}.{domain}"
    sender = NewAgent(f"Hook {new.name}", address, ROLE, "What comes from outside", system_prompt="")
    check_new(connection, user_id, sender, of_hook=True)
    sender_id, hook_id = insert_agent(connection, user_id, sender).id, new_id()
    names = {"id": hook_id, "user_id": user_id, "name": new.name, "version": 1, "sender_id": sender_id}
    connection.execute(insert(hooks).values(**names, **fields))
    return find_hook(connection, user_id, hook_id)


def set_standing(connection: Connection, user_id: str, hook_id: str, standing: Standing) -> Hook:
    """The hook as it is then, or was before it was deleted. Raises Fault 404."""
    hook = find_hook(connection, user_id, hook_id, to_change=True)
    connection.execute(update(hooks).where(_h.id == hook_id).values(standing=standing.value))
    if standing is Standing.DELETED:
        sender = select(_h.sender_id).where(_h.id == hook_id).scalar_subquery()
        connection.execute(update(agents).where(agents.c.id == sender).values(status="deleted"))
        # Another hook may get the name, and tell back to somebody else.
        over = {"state": State.FAILED.value, "why": "the hook was deleted", "due_ms": None}
        waits = (hook_callbacks.c.hook_id == hook_id, hook_callbacks.c.due_ms.is_not(None))
        connection.execute(update(hook_callbacks).where(*waits).values(**over))
        return hook
    return find_hook(connection, user_id, hook_id)


def roll(connection: Connection, user_id: str, hook_id: str) -> Hook:
    """With another secret; the one before counts no more. Raises Fault 404."""
    hook = find_hook(connection, user_id, hook_id, to_change=True)
    connection.execute(update(hooks).where(_h.id == hook_id).values(version=hook.version + 1))
    return find_hook(connection, user_id, hook_id)


def recipients(connection: Connection, user_id: str, agent_id: str | None, team_id: str | None) -> tuple[str, ...]:
    """The addresses of those who get its mail, and are there."""
    wanted = select(agents.c.address).where(agents.c.user_id == user_id, agents.c.status == "active")
    if agent_id is not None:
        wanted = wanted.where(agents.c.id == agent_id)
    else:
        of_team = select(teams.c.id).where(teams.c.id == team_id, teams.c.user_id == user_id)
        wanted = wanted.where(agents.c.team_id.in_(of_team)).order_by(agents.c.created_at, agents.c.id)
    return tuple(connection.execute(wanted).scalars())


def _agent_at(connection: Connection, user_id: str, address: str) -> str:
    own = select(agents.c.id).where(
        agents.c.user_id == user_id, agents.c.address == address, agents.c.status == "active", agents.c.role != ROLE
    )
    found = connection.execute(own).scalar()
    if found is None:
        raise Fault(404, f"There is no agent '{address[:200]}'")
    return str(found)


def _rules(stored: object) -> Rules:
    return msgspec.convert(stored, Rules)


def _hook(row: Sequence[Any]) -> Hook:
    identity, name, username, kind, standing, address, to, team_id, rules, version, created_at, callback, hosts = row
    path = f"/hooks/{path_name(name, username)}"
    who = (address, to or "", team_id, _rules(rules))
    return Hook(
        identity, name, path, Source(kind), Standing(standing), *who, version, created_at, callback or "", hosts or []
    )
