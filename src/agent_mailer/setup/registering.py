"""An agent's place at a broker: the key is tried, the agent found there or registered, its texts fetched.

Nothing is written here. What was registered before a crash is found again by its address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.errors import ConfigFault, MailerError, UsageFault
from agent_mailer.mailbox.amp.answers import RequestRefused
from agent_mailer.mailbox.amp.client import AccountClient, AgentInfo, BrokerClient, BrokerInfo, NewAgent, at_broker
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable
from agent_mailer.names import printable
from agent_mailer.setup.documents import Self
from agent_mailer.setup.found import Login

LARGEST_PROMPT = 256 * 1024
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


class Joined(msgspec.Struct, frozen=True):
    """An agent of the broker and a key for it. The key is a secret. `identity` is the broker's text of AGENT.md."""

    me: Self
    api_key: str
    identity: str
    broker: BrokerInfo
    registered: bool

    def __repr__(self) -> str:
        return f"Joined({self.me!r})"


def read_prompt(path: Path | None) -> str:
    """The text of `--system-prompt-file`. Raises UsageFault."""
    if path is None:
        return ""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_PROMPT + 1)
    except OSError as error:
        raise UsageFault("bad_prompt", f"--system-prompt-file: {path}: {error.strerror}", f"ls -l {path}") from None
    if len(data) > LARGEST_PROMPT:
        raise UsageFault("bad_prompt", f"--system-prompt-file: {path} has more than {LARGEST_PROMPT} bytes", "")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageFault("bad_prompt", f"--system-prompt-file: {path} is not UTF-8 text", "") from None


def join_with_key(url: str, key: str, wish: Wish) -> Joined:
    """Raises ConfigFault, RefusedFault, UnavailableFault, MailerError."""

    async def run() -> Joined:
        async with BrokerClient(url, key) as client:
            known = await client.agents()
            found = await _named(client, wish, known)
            agent = found or await _register(client, wish, known)
            return await _told(client, agent, url, key, wish, registered=found is None)

    with at_broker("agent-mailer init --help"):
        return asyncio.run(run())


def join_with_login(login: Login, key: str, wish: Wish) -> Joined:
    """As `join_with_key`, for a person who has logged in. `key` is one that the folder has already, or empty.

    A key that an agent has already is never ended: a watcher may run on it.
    """

    async def run() -> Joined:
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
            return await _told(client, agent, login.broker_url, own_key, wish, registered=found is None)

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


async def _told(client: BrokerClient, agent: AgentInfo, url: str, key: str, wish: Wish, *, registered: bool) -> Joined:
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
    return Joined(me, key, identity, await client.discover(), registered)


def _no_such_agent(agent_id: str, known: Sequence[AgentInfo]) -> ConfigFault:
    named = ", ".join(f"{printable(agent.address, 100)} ({printable(agent.id, 60)})" for agent in known[:20]) or "none"
    return ConfigFault(
        "no_such_agent",
        f"there is no agent {printable(agent_id, 60)!r} under this key; known: {named}",
        "give another --agent-id, or --address to register one",
    )
