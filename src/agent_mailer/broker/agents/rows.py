"""Agents as rows: made, found, changed. Every query names the user."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, or_, select, update

from agent_mailer.broker.protocol import LOCAL_PART, Fault, age_seconds, now_text
from agent_mailer.broker.tables import agents, api_keys, former_addresses, teams
from agent_mailer.broker.users.rows import add_key, new_id, own_key_name
from agent_mailer.names import HOOK, is_hook

OPERATOR = "operator"
OPERATORS_LOCAL_PART = "human-operator"
ONLINE_SECONDS = 60
IDLE_SECONDS = 300
# What may be in a path, a query, a shell word and a table without being taken for anything else, or for another name.
_HARMLESS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+-]{0,62}[A-Za-z0-9_+-])?")
_NOT_HARMLESS = re.compile(r"[^A-Za-z0-9_.+-]+")
_SEPARATORS = re.compile(r"[_.+-]+")
_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l"})


class Agent(msgspec.Struct, frozen=True):
    id: str
    name: str
    address: str
    role: str
    description: str
    system_prompt: str
    tags: list[str]
    created_at: str
    last_seen: str | None
    status: str
    team_id: str | None
    api_key_suffix: str | None


_c = agents.c
_AGENT = select(
    _c.id,
    _c.name,
    _c.address,
    _c.role,
    _c.description,
    _c.system_prompt,
    _c.tags,
    _c.created_at,
    _c.last_seen,
    _c.status,
    _c.team_id,
    _c.api_key_suffix,
)


def _agent(row: Sequence[Any]) -> Agent:
    return Agent(*row)


class NewAgent(msgspec.Struct, frozen=True):
    """An agent to be made. `raw_key`: a key of its own, stored as a hash and bound to it."""

    name: str
    address: str
    role: str
    description: str
    system_prompt: str
    tags: list[str] = []
    team_id: str | None = None
    raw_key: str | None = None


def presence(role: str, last_seen: str | None) -> str:
    """`online`, `idle` or `offline`, as the protocol counts it."""
    if role == OPERATOR:
        return "online"
    age = float("inf") if last_seen is None else age_seconds(last_seen)
    return "online" if age <= ONLINE_SECONDS else "idle" if age <= IDLE_SECONDS else "offline"


def strict_local_part(text: str) -> str:
    """The first part of an address, for who asks for it with a login. Raises Fault 400."""
    local = text.lower()
    if not re.fullmatch(LOCAL_PART, local):
        raise Fault(
            400,
            "The local part of an address has 1-63 lower-case letters, digits, dots, hyphens and underscores, and"
            " begins and ends with a letter or digit",
        )
    return local


def derived_local_part(name: str) -> str:
    """The first part of an address for a name that may hold anything. Raises Fault 400."""
    local = _NOT_HARMLESS.sub("-", name).strip("-._+")[:64].rstrip(".-")
    if not _HARMLESS.fullmatch(local):
        raise Fault(400, "The name holds nothing that an address could begin with; give an address")
    return local


def check_address(address: str, username: str, domain: str) -> str:
    """An address that an agent asks for itself. Raises Fault 400."""
    ending = f"@{username}.{domain}"
    if not address.endswith(ending):
        raise Fault(400, f"Address must end with {ending}")
    if not _HARMLESS.fullmatch(address.removesuffix(ending)):
        raise Fault(
            400,
            f"What stands before {ending} has 1-64 letters, digits, dots, hyphens, underscores and plus signs, and"
            " begins with a letter or digit",
        )
    return address


def require_free_address(
    connection: Connection, user_id: str, address: str, except_id: str | None = None, *, of_hook: bool = False
) -> None:
    """Raises Fault 409 where it is another's, was another's, or a person would take it for another's."""
    shape = _shape(address)
    if shape == _shape(f"{OPERATORS_LOCAL_PART}{address[address.index('@') :]}"):
        raise Fault(409, f"Address '{address}' is kept for the human operator")
    if is_hook(address) and not of_hook:
        raise Fault(409, f"Address '{address}' is kept for a hook: those begin with {HOOK}")
    former = select(former_addresses.c.agent_id).where(former_addresses.c.address == address)
    holder = connection.execute(select(_c.id).where(_c.address == address)).scalar()
    holder = holder or connection.execute(former).scalar()
    if holder is not None and holder != except_id:
        raise Fault(409, f"Address '{address}' is already taken")
    others = select(_c.id, _c.address).where(_c.user_id == user_id)
    for other_id, other in connection.execute(others):
        if other_id != except_id and _shape(other) == shape:
            raise Fault(409, f"Address '{address}' would be taken for '{other}'")


def _shape(address: str) -> str:
    """The same for addresses that a person takes for each other."""
    local, _, domain = address.partition("@")
    return f"{_SEPARATORS.sub('', local.casefold()).translate(_ALIKE).replace('rn', 'm')}@{domain}"


def require_team(connection: Connection, user_id: str, team_id: str) -> None:
    """Raises Fault 400."""
    wanted = select(teams.c.id).where(teams.c.id == team_id, teams.c.user_id == user_id)
    if connection.execute(wanted).first() is None:
        raise Fault(400, "Team not found")


def check_new(connection: Connection, user_id: str, new: NewAgent, *, of_hook: bool = False) -> None:
    """Raises Fault 400 (team), 409 (address)."""
    if new.team_id is not None:
        require_team(connection, user_id, new.team_id)
    require_free_address(connection, user_id, new.address, of_hook=of_hook)


def insert_agent(connection: Connection, user_id: str, new: NewAgent, agent_id: str | None = None) -> Agent:
    """Store what `check_new` passed."""
    agent = Agent(
        id=agent_id or new_id(),
        name=new.name,
        address=new.address,
        role=new.role,
        description=new.description,
        system_prompt=new.system_prompt,
        tags=new.tags,
        created_at=now_text(),
        last_seen=None,
        status="active",
        team_id=new.team_id,
        api_key_suffix=new.raw_key[-6:] if new.raw_key else None,
    )
    connection.execute(insert(agents).values(**msgspec.structs.asdict(agent), user_id=user_id, inbox_seq=0))
    if new.raw_key:
        add_key(connection, user_id, own_key_name(agent.id), new.raw_key, agent.id)
    return agent


def add_agent(connection: Connection, user_id: str, new: NewAgent) -> Agent:
    """Raises Fault 400 (team), 409 (address)."""
    check_new(connection, user_id, new)
    return insert_agent(connection, user_id, new)


def operator_id(user_id: str) -> str:
    """The id of the agent under whose name the user writes as a person."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, user_id))


def add_operator(connection: Connection, user_id: str, username: str, domain: str) -> Agent:
    """That agent; it is made where there is none. Raises Fault 409."""
    agent_id, address = operator_id(user_id), f"{OPERATORS_LOCAL_PART}@{username}.{domain}"
    taken = _AGENT.add_columns(_c.user_id).where(or_(_c.id == agent_id, _c.address == address))
    for row in connection.execute(taken):
        if row.user_id != user_id:
            raise Fault(409, f"The address {address} is taken by an agent of another user")
        return _agent(row[:-1])
    new = NewAgent("Human Operator", address, OPERATOR, "The person behind the agents", system_prompt="")
    return insert_agent(connection, user_id, new, agent_id)


def find_agent(connection: Connection, user_id: str, agent_id: str, *, to_change: bool = False) -> Agent:
    """Raises Fault 404. `to_change`: whoever else changes it waits until this transaction ends."""
    wanted = _AGENT.where(_c.id == agent_id, _c.user_id == user_id)
    row = connection.execute(wanted.with_for_update(key_share=True) if to_change else wanted).first()
    if row is None:
        raise Fault(404, "Agent not found")
    return _agent(row)


def agents_of(connection: Connection, user_id: str) -> list[Agent]:
    """Oldest first, deleted ones too."""
    wanted = _AGENT.where(_c.user_id == user_id).order_by(_c.created_at, _c.id)
    return [_agent(row) for row in connection.execute(wanted)]


def companions(connection: Connection, user_id: str, agent_id: str) -> list[Agent]:
    """Those of the agent's team, or those of none, and operators. Raises Fault 404."""
    agent = find_agent(connection, user_id, agent_id)
    return [
        other for other in agents_of(connection, user_id) if other.team_id == agent.team_id or other.role == OPERATOR
    ]


def members(connection: Connection, user_id: str, team_id: str) -> list[Agent]:
    """Oldest first; without those that are deleted."""
    return [agent for agent in agents_of(connection, user_id) if agent.team_id == team_id and agent.status == "active"]


def change_agent(connection: Connection, user_id: str, agent_id: str, changes: dict[str, object]) -> Agent:
    """`changes`: columns and their new values. Raises Fault 400 (team), 404."""
    find_agent(connection, user_id, agent_id)
    team_id = changes.get("team_id")
    if isinstance(team_id, str):
        require_team(connection, user_id, team_id)
    if changes:
        connection.execute(update(agents).where(_c.id == agent_id).values(**changes))
    return find_agent(connection, user_id, agent_id)


def delete_agent(connection: Connection, user_id: str, agent_id: str) -> bool:
    """Mark it deleted and end its keys; True if it was so before. Raises Fault 404, 409 (the operator's)."""
    agent = find_agent(connection, user_id, agent_id, to_change=True)
    if agent.role == OPERATOR and agent.address.startswith(f"{OPERATORS_LOCAL_PART}@"):
        raise Fault(409, "The human operator's mailbox cannot be deleted")
    if agent.status == "deleted":
        return True
    connection.execute(update(agents).where(_c.id == agent_id).values(status="deleted"))
    connection.execute(update(api_keys).where(api_keys.c.agent_id == agent_id).values(is_active=False))
    return False


def replace_key(connection: Connection, user_id: str, agent_id: str, raw_key: str) -> None:
    """End the key that the agent was made with and give it another. Raises Fault 404, 409 (deleted)."""
    agent = find_agent(connection, user_id, agent_id, to_change=True)
    if agent.status == "deleted":
        raise Fault(409, "The agent is deleted")
    name = own_key_name(agent_id)
    connection.execute(
        update(api_keys).where(api_keys.c.agent_id == agent_id, api_keys.c.name == name).values(is_active=False)
    )
    add_key(connection, user_id, name, raw_key, agent_id)
    connection.execute(update(agents).where(_c.id == agent_id).values(api_key_suffix=raw_key[-6:]))


def move_agent(connection: Connection, user_id: str, agent_id: str, address: str) -> Agent:
    """Give it another address. Mail that was sent keeps what was true then, and the address before still leads to it.

    Raises Fault 404, 409.
    """
    agent = find_agent(connection, user_id, agent_id, to_change=True)
    if agent.address == address:
        return agent
    if agent.address.startswith(f"{OPERATORS_LOCAL_PART}@"):
        raise Fault(409, "The human operator's address stays")
    require_free_address(connection, user_id, address, agent_id)
    connection.execute(update(agents).where(_c.id == agent_id).values(address=address))
    connection.execute(former_addresses.delete().where(former_addresses.c.address == address))
    connection.execute(insert(former_addresses).values(address=agent.address, agent_id=agent_id, left_at=now_text()))
    return find_agent(connection, user_id, agent_id)
