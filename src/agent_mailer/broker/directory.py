"""Who is who: keys, agents and users, kept in memory for a moment, because nearly every request asks for them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker.database import Store
from agent_mailer.broker.protocol import now_text
from agent_mailer.broker.tables import agents, api_keys, ended_tokens, former_addresses, users

V = TypeVar("V")
log = logging.getLogger("agent_mailer.broker")

LIFE = 2.0
"""Seconds for which an entry is believed; what this process changes itself is forgotten at once."""
KEPT_EVERY = 10.0
"""Seconds between two writes of who was seen."""
MOST = 50_000


class AgentCaller(msgspec.Struct, frozen=True):
    """A program that came with an API key. `agent_id`: the key acts for that agent only."""

    user_id: str
    username: str
    key_id: str
    agent_id: str | None

    def may_act_as(self, agent_id: str) -> bool:
        return self.agent_id is None or self.agent_id == agent_id


class AgentRow(msgspec.Struct, frozen=True):
    """What is asked of an agent again and again."""

    id: str
    name: str
    address: str
    user_id: str
    status: str
    role: str
    team_id: str | None


class UserRow(msgspec.Struct, frozen=True):
    id: str
    username: str
    is_superadmin: bool
    token_version: int


_KEY = (
    select(api_keys.c.user_id, users.c.username, api_keys.c.id, api_keys.c.agent_id)
    .join(users, users.c.id == api_keys.c.user_id)
    .where(api_keys.c.key_hash == bindparam("wanted"), api_keys.c.is_active, users.c.standing == "active")
)
_AGENT = select(
    agents.c.id,
    agents.c.name,
    agents.c.address,
    agents.c.user_id,
    agents.c.status,
    agents.c.role,
    agents.c.team_id,
)
_AGENT_BY_ID = _AGENT.where(agents.c.id == bindparam("wanted"))
_AGENT_BY_ADDRESS = _AGENT.where(agents.c.address == bindparam("wanted"))
_AGENT_BY_FORMER_ADDRESS = _AGENT.join(former_addresses, former_addresses.c.agent_id == agents.c.id).where(
    former_addresses.c.address == bindparam("wanted")
)
_USER = select(users.c.id, users.c.username, users.c.is_superadmin, users.c.token_version).where(
    users.c.id == bindparam("wanted"), users.c.standing == "active"
)
_SEEN = (
    update(agents)
    .where(
        agents.c.id == bindparam("who"),
        or_(agents.c.last_seen.is_(None), agents.c.last_seen < bindparam("moment")),
    )
    .values(last_seen=bindparam("moment"))
)
_ENDED = select(ended_tokens.c.id).where(ended_tokens.c.id == bindparam("wanted"))
_USED = update(api_keys).where(api_keys.c.id == bindparam("who")).values(last_used_at=bindparam("moment"))


def key_hash(raw_key: str) -> str:
    """How a key is stored."""
    return hashlib.sha256(raw_key.encode("utf-8", "replace")).hexdigest()


_Moment = dict[str, str]
"""Who, and when."""


class _Known(Generic[V]):
    def __init__(self, find: Callable[[str], Awaitable[V | None]]) -> None:
        self._find = find
        self._entries: dict[str, tuple[float, V]] = {}
        self._generation = 0

    async def get(self, wanted: str) -> V | None:
        entry = self._entries.get(wanted)
        now = time.monotonic()
        if entry is not None and now < entry[0]:
            return entry[1]
        generation = self._generation
        found = await self._find(wanted)
        if found is None:
            self._entries.pop(wanted, None)
        elif generation == self._generation:  # else it was read before a change, and may be of before it
            if len(self._entries) >= MOST:
                self._entries.clear()
            self._entries[wanted] = (now + LIFE, found)
        return found

    def known(self, wanted: str) -> V | None:
        """What is believed now; None where it would have to be found."""
        entry = self._entries.get(wanted)
        return entry[1] if entry is not None and time.monotonic() < entry[0] else None

    def forget(self) -> None:
        self._generation += 1
        self._entries.clear()


class Directory:
    """One per process, over its open store; `open` before use, `close` before the store's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = _Known(self._find_key)
        self._by_id = _Known(self._find_agent)
        self._by_address = _Known(self._find_address)
        self._users = _Known(self._find_user)
        self._tokens = _Known(self._counts)
        self._seen: dict[str, str] = {}
        self._used: dict[str, str] = {}
        self._unsaved_seen: set[str] = set()
        self._unsaved_used: set[str] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._keeper = asyncio.create_task(self._keep_on())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self.keep()

    async def key(self, raw_key: str) -> AgentCaller | None:
        """Whom an active key belongs to. That it was used is noted."""
        if not raw_key.startswith("amk_") or len(raw_key) > 200:
            return None
        caller = await self._keys.get(key_hash(raw_key))
        if caller is not None:
            self.used(caller)
        return caller

    def known_key(self, raw_key: str) -> AgentCaller | None:
        """The same where nobody has to be asked for it, else None; that it was used is not noted."""
        return self._keys.known(key_hash(raw_key))

    def known_agent(self, agent_id: str) -> AgentRow | None:
        """The same as `agent` where nobody has to be asked for it, else None."""
        return self._by_id.known(agent_id)

    def used(self, caller: AgentCaller) -> None:
        """The caller's key counts as used now."""
        self._used[caller.key_id] = now_text()
        self._unsaved_used.add(caller.key_id)

    async def agent(self, agent_id: str) -> AgentRow | None:
        """The agent of that id, whosever it is, deleted or not."""
        return await self._by_id.get(agent_id)

    async def by_address(self, address: str) -> AgentRow | None:
        """The agent of that address, whosever it is, deleted or not."""
        return await self._by_address.get(address)

    async def user(self, user_id: str) -> UserRow | None:
        return await self._users.get(user_id)

    async def has_ended(self, token_id: str) -> bool:
        """Whether that token was logged out."""
        return not await self._tokens.get(token_id)

    def forget(self) -> None:
        """After every committed change of a key, an agent or a user."""
        for known in (self._keys, self._by_id, self._by_address, self._users, self._tokens):
            known.forget()

    def seen(self, agent_id: str) -> None:
        """The agent asked for its mail just now."""
        self._seen[agent_id] = now_text()
        self._unsaved_seen.add(agent_id)

    def last_seen(self, agent_id: str, stored: str | None) -> str | None:
        """When the agent was seen last; `stored` is what its row says."""
        return _later(stored, self._seen.get(agent_id))

    def last_used(self, key_id: str, stored: str | None) -> str | None:
        """When the key was used last; `stored` is what its row says."""
        return _later(stored, self._used.get(key_id))

    async def keep(self) -> None:
        """Write who was seen since the last time; what fails is tried again the next time."""
        seen, self._unsaved_seen = self._unsaved_seen, set()
        used, self._unsaved_used = self._unsaved_used, set()
        if not seen and not used:
            return
        seen_rows = [{"who": agent_id, "moment": self._seen[agent_id]} for agent_id in sorted(seen)]
        used_rows = [{"who": key_id, "moment": self._used[key_id]} for key_id in sorted(used)]

        try:
            await self._store.write_each(_keep_all, (seen_rows, used_rows))
        except SQLAlchemyError as error:
            log.warning("who was seen could not be written down: %s", str(error).splitlines()[0])
            self._unsaved_seen |= seen
            self._unsaved_used |= used

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(KEPT_EVERY)
            await self.keep()

    async def _find_key(self, wanted: str) -> AgentCaller | None:
        row = await self._store.read(lambda c: c.execute(_KEY, {"wanted": wanted}).first())
        return None if row is None else AgentCaller(*row)

    async def _find_agent(self, wanted: str) -> AgentRow | None:
        row = await self._store.read(lambda c: c.execute(_AGENT_BY_ID, {"wanted": wanted}).first())
        return None if row is None else AgentRow(*row)

    async def _find_address(self, wanted: str) -> AgentRow | None:
        def work(connection: Connection) -> Sequence[Any] | None:
            named = {"wanted": wanted}
            return (
                connection.execute(_AGENT_BY_ADDRESS, named).first()
                or connection.execute(_AGENT_BY_FORMER_ADDRESS, named).first()
            )

        row = await self._store.read(work)
        return None if row is None else AgentRow(*row)

    async def _find_user(self, wanted: str) -> UserRow | None:
        row = await self._store.read(lambda c: c.execute(_USER, {"wanted": wanted}).first())
        return None if row is None else UserRow(*row)

    async def _counts(self, wanted: str) -> bool | None:
        row = await self._store.read(lambda c: c.execute(_ENDED, {"wanted": wanted}).first())
        return True if row is None else None


def _keep_all(connection: Connection, kept: Sequence[tuple[list[_Moment], list[_Moment]]]) -> list[None]:
    for seen, used in kept:
        if seen:
            connection.execute(_SEEN, seen)
        if used:
            connection.execute(_USED, used)
    return [None] * len(kept)


def _later(one: str | None, other: str | None) -> str | None:
    return max((moment for moment in (one, other) if moment), default=None)
