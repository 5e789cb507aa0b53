"""An agent's place at a broker: the key is tried, the agent found there or registered, its texts fetched.

Nothing is written here. What was registered before a crash is found again by its address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.config import MailboxKind
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.mailbox.amp.account import AccountClient, NewAgent
from agent_mailer.mailbox.amp.answers import RequestRefused
from agent_mailer.mailbox.amp.client import AgentInfo, BrokerClient, at_broker
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable
from agent_mailer.names import printable
from agent_mailer.setup import Wishes, missing
from agent_mailer.setup.documents import Self
from agent_mailer.setup.found import default_name
from agent_mailer.setup.logins import Login, find_login

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

_TAKEN = 409


class Wish(msgspec.Struct, frozen=True):
    """Which agent is meant. `agent_id` counts before `address`, that before `name`; `fallback` names it otherwise.

    `address` may be what stands before the @ alone. `role` and what follows is for a new agent.
    """

    agent_id: str = ""
    address: str = ""
    name: str = ""
    fallback: str = ""
    role: str = ""
    description: str = ""
    system_prompt: str = ""

    @property
    def called(self) -> str:
        return self.name or self.address.partition("@")[0] or self.fallback


class Registration(msgspec.Struct, frozen=True):
    """An agent of the broker and a key for it. The key is a secret. `identity` is the broker's text of AGENT.md."""

    me: Self
    api_key: str
    identity: str
    is_new: bool

    @property
    def values(self) -> dict[str, object]:
        """The keys of the configuration that it decides."""
        me = self.me
        found = {"broker_url": me.broker_url, "api_key": self.api_key, "agent_id": me.agent_id, "address": me.address}
        return {**found, "agent_name": me.name} if me.name else {**found}

    def __repr__(self) -> str:
        return f"Registration({self.me!r})"


def is_due(place: Workplace, values: Mapping[str, object], wishes: Wishes) -> bool:
    """Nobody is asked about an agent whose file is whole, so that the rest can be changed while the broker is down."""
    config = place.config
    named = {"broker_url", "api_key", "agent_id", "address", "agent_name"} & set(values)
    whole = config.agent_id and config.address and config.api_key
    return place.at_broker and bool(named or wishes.from_login or not whole)


class NameMade(msgspec.Struct, frozen=True):
    """A name in a mailbox or at a server. `where` is for people; `new`: it was not there before."""

    name: str
    where: str
    new: bool


def register_name(place: Workplace, name: str) -> NameMade:
    """In the folder mailbox, or at the server, now or before.

    Raises ConfigFault, UsageFault, RefusedFault, UnavailableFault, MailerError.
    """
    if place.in_folder:
        from agent_mailer.mailbox.maildir.layout import add_handle, known
        from agent_mailer.setup.workdir import require_handle

        require_handle(name)
        root = place.maildir_root()
        before = known(root, name)
        add_handle(place.disk, root, name, place.clock)
        return NameMade(name, str(root), new=not before)
    from agent_mailer.at_server import mcp_agent_mail
    from agent_mailer.names import shown_url
    from agent_mailer.people.server import in_words

    if place.config.mailbox_kind is MailboxKind.RELAY:
        return _at_relay(place, name)
    mailbox = mcp_agent_mail(place, name)
    there = mailbox.registered
    with in_words():
        me = asyncio.run(mailbox.register())
    url = printable(shown_url(place.config.broker_url), 100)
    return NameMade(me.name, f"{url}, project {printable(me.slug)}", new=there is None)


def _at_relay(place: Workplace, name: str) -> NameMade:
    """One that is there is left as it is: to register it again would end the watcher that has it."""
    from agent_mailer.at_server import relay
    from agent_mailer.mailbox.relay.session import require_name
    from agent_mailer.names import shown_url
    from agent_mailer.people.server import in_words

    require_name(name)
    mailbox = relay(place, name)

    async def look() -> bool:
        if await mailbox.registered() is not None:
            return False
        await mailbox.register()
        return True

    with in_words():
        made = asyncio.run(look())
    return NameMade(name, printable(shown_url(place.config.broker_url), 100), new=made)


def register(place: Workplace, wishes: Wishes, *, by_login: bool) -> Registration:
    """The agent that configuration and wishes mean, found or registered. `by_login`: of whoever has logged in there.

    Raises ConfigFault where something is missing, and what the broker answers.
    """
    config = place.config
    if place.folder.path.exists():
        place.folder.check()
    lacking = [(key, flag) for key, flag in missing(place, wishes) if not (by_login and key == "api_key")]
    if lacking:
        named = ", ".join(f"{key} ({flag})" for key, flag in lacking)
        raise ConfigFault("incomplete", f"{place.folder.config}: missing {named}", "give the flags, or use a terminal")
    wish = Wish(
        agent_id=config.agent_id,
        address=config.address,
        name=config.agent_name,
        fallback=default_name(place.workdir),
        role=wishes.role,
        description=wishes.description,
        system_prompt=wishes.system_prompt,
    )
    if by_login:
        return _with_login(find_login(Path.home(), config.broker_url), config.api_key, wish)
    return _with_key(config.broker_url, config.api_key, wish)


def _with_key(url: str, key: str, wish: Wish) -> Registration:
    """Raises ConfigFault, RefusedFault, UnavailableFault, MailerError."""

    async def run() -> Registration:
        async with BrokerClient(url, key) as client:
            known = await client.agents()
            found = await _named(client, wish, known)
            agent = found or await _register(client, wish, known)
            return await _told(client, agent, url, key, wish, is_new=found is None)

    with at_broker("agent-mailer init --help"):
        return asyncio.run(run())


def _with_login(login: Login, key: str, wish: Wish) -> Registration:
    """As `_with_key`, for a person who has logged in. `key` is one that the folder has already, or empty.

    A key that an agent has already is never ended: a watcher may run on it.
    """

    async def run() -> Registration:
        async with AccountClient(login.broker_url, login.token) as account:
            known = await account.agents()
            found = _find(wish, known)
            if found is None and wish.agent_id:
                raise _no_such_agent(wish.agent_id, known)
            if found is None:
                new = NewAgent(wish.called, _local(wish), wish.role, wish.description, wish.system_prompt)
                made = await account.add_agent(new)
                agent: AgentInfo = made
                own_key = made.api_key_plaintext
            else:
                agent = found
                own_key = key if key and await _works(login.broker_url, key, found) else ""
            own_key = own_key or await account.add_key(agent.id)
        async with BrokerClient(login.broker_url, own_key) as client:
            return await _told(client, agent, login.broker_url, own_key, wish, is_new=found is None)

    with at_broker("agent-mailer init --help"):
        return asyncio.run(run())


async def _named(client: BrokerClient, wish: Wish, known: Sequence[AgentInfo]) -> AgentInfo | None:
    if wish.agent_id and all(agent.id != wish.agent_id for agent in known):
        try:
            return _checked(await client.agent(wish.agent_id), wish)
        except MailboxRefused as fault:
            if fault.code != "agent_refused":
                raise
            raise _no_such_agent(wish.agent_id, known) from None
    return _find(wish, known)


def _find(wish: Wish, known: Sequence[AgentInfo]) -> AgentInfo | None:
    """The agent that is meant, of those that are known. Raises ConfigFault where the wish contradicts itself."""
    if wish.agent_id:
        return next((_checked(agent, wish) for agent in known if agent.id == wish.agent_id), None)
    if "@" in wish.address:
        return next((agent for agent in known if agent.address == wish.address), None)
    local = _local(wish)
    found = [agent for agent in known if agent.address.partition("@")[0] == local]
    if len(found) > 1:
        named = ", ".join(printable(agent.address, 100) for agent in found)
        raise ConfigFault("ambiguous", f"{printable(local, 60)!r} could be {named}", "give the whole --address")
    return found[0] if found else None


def _checked(agent: AgentInfo, wish: Wish) -> AgentInfo:
    differs = agent.address != wish.address if "@" in wish.address else agent.address.partition("@")[0] != wish.address
    if wish.address and differs:
        raise ConfigFault(
            "address_mismatch",
            f"agent {printable(wish.agent_id, 60)} has the address {printable(agent.address)} at its broker, "
            f"not {printable(wish.address)}",
            f"give --address {printable(agent.address)}, or another --agent-id",
        )
    return agent


def _local(wish: Wish) -> str:
    return wish.address.partition("@")[0] or wish.called.lower()


async def _register(client: BrokerClient, wish: Wish, known: Sequence[AgentInfo]) -> AgentInfo:
    if wish.agent_id:
        raise _no_such_agent(wish.agent_id, known)
    name = wish.called
    if not name:
        raise ConfigFault("no_name", "the agent has no name yet", "give --agent-name NAME or --address ADDRESS")
    address = wish.address if "@" in wish.address else _complete(_local(wish), known)
    prompt = wish.system_prompt or f"You are {name}. You work on the mail that you get."
    try:
        return await client.register(name, wish.role or "agent", prompt, description=wish.description, address=address)
    except RequestRefused as fault:
        if fault.status == _TAKEN:
            raise MailerError("address_taken", fault.message, "give another --address") from None
        raise MailerError(fault.code, fault.message, "give --address NAME@USER.DOMAIN, as the broker says") from None
    except MailboxUnavailable as fault:
        if "one agent only" not in fault.message:
            raise
        named = ", ".join(printable(agent.address, 100) for agent in known) or "none"
        fix = "give the --address of the agent that the key is for, or a key of the user"
        raise ConfigFault("bound_key", f"{fault.message}; the agents there: {named}", fix) from None


def _complete(local: str, known: Sequence[AgentInfo]) -> str:
    """The address at the user's domain, as far as that is known; empty: the broker makes it of the name."""
    ends = {agent.address.partition("@")[2] for agent in known if "@" in agent.address}
    return f"{local}@{ends.pop()}" if len(ends) == 1 else ""


async def _works(url: str, key: str, agent: AgentInfo) -> bool:
    try:
        async with BrokerClient(url, key) as client:
            return (await client.agent(agent.id)).address == agent.address
    except (MailerError, RequestRefused):
        return False


async def _told(
    client: BrokerClient, agent: AgentInfo, url: str, key: str, wish: Wish, *, is_new: bool
) -> Registration:
    try:
        identity = (await client.setup(agent.id)).agent_md.replace(key, "<your_api_key>")
    except (MailerError, RequestRefused):
        identity = ""  # its texts are a convenience: ours do
    me = Self(
        name=agent.name or wish.called,
        address=agent.address,
        agent_id=agent.id,
        broker_url=url,
        role=agent.role or wish.role,
        system_prompt=wish.system_prompt,
    )
    return Registration(me, key, identity, is_new)


def _no_such_agent(agent_id: str, known: Sequence[AgentInfo]) -> ConfigFault:
    named = ", ".join(f"{printable(agent.address, 100)} ({printable(agent.id, 60)})" for agent in known[:20]) or "none"
    return ConfigFault(
        "no_such_agent",
        f"there is no agent {printable(agent_id, 60)!r} under this key; known: {named}",
        "give another --agent-id, or --address to register one",
    )
