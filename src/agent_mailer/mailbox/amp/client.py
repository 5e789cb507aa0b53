"""A broker as a program with an agent's key asks it: who am I, who else is there, a new one, its texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.errors import MailerError, RefusedFault, UnavailableFault
from agent_mailer.mailbox.amp.answers import (
    NO_JSON,
    Answer,
    RequestRefused,
    credentials_refused,
    decode,
    detail_of,
    unavailable,
)
from agent_mailer.mailbox.amp.transport import Limits, Transport, path_of
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable

CAPABILITIES = "/.well-known/agent-mailer"
EXTENSIONS = frozenset(
    {"inbox-cursor", "inbox-heads", "stream", "idempotency", "marks", "claims", "receipts", "message-get"}
)
"""What our broker can do beyond the protocol. A broker that lacks any of them is used as one that has none."""


WITH_THREAD = "claim-thread"
"""The extension by which a claim brings the message's thread, and tells that the turn has started."""
GROUP_MAIL = "group-mail"
"""The one by which the first of a group that claims its copy of a message has it."""

LINKS = "approval-links"
"""The extension by which a person answers a question on a page of the broker's."""

MEMORIES = "team-memories"
REPORTS = "watcher-reports"
"""The extension by which an agent's operator is told what its watcher does, and asks something of it."""
RESERVATIONS = "file-reservations"


class Credentials(msgspec.Struct, frozen=True):
    """What an agent shows at its broker."""

    broker_url: str
    agent_id: str
    api_key: str

    def __repr__(self) -> str:
        return f"Credentials(agent_id={self.agent_id!r})"


class AgentInfo(msgspec.Struct, frozen=True):
    """An agent as its broker shows it. All strings are untrusted."""

    id: str
    address: str
    name: str = ""
    role: str | None = ""
    description: str | None = ""
    status: str | None = ""
    team_id: str | None = None


class SetupTexts(msgspec.Struct, frozen=True):
    """The documents that the broker writes for an agent."""

    agent_md: str
    claude_md: str = ""
    infiniti_md: str = ""
    instructions: str = ""


class BrokerInfo(msgspec.Struct, frozen=True):
    """What the broker says of itself. `heartbeat_seconds` is that of its streams; `ours`: it has every extension."""

    version: str = ""
    extensions: tuple[str, ...] = ()
    max_body_bytes: int = 0
    heartbeat_seconds: float = 15.0

    @property
    def ours(self) -> bool:
        return set(self.extensions) >= EXTENSIONS


class _Told(msgspec.Struct):
    protocol: str
    version: str
    extensions: tuple[str, ...]
    max_body_bytes: int
    heartbeat_seconds: float


class Operator(msgspec.Struct):
    """Whom a person's mail at the broker is from."""

    agent_id: str


class BrokerClient:
    """One broker under one key. Every method raises MailboxUnavailable where the broker cannot be asked now,
    MailboxRefused where it refuses the key or the agent, RequestRefused where it refuses what was asked for.
    """

    def __init__(self, url: str, key: str, *, limits: Limits | None = None, clock: Clock | None = None) -> None:
        """Raises ConfigFault for a URL or a key that can be none."""
        self.transport = Transport(url, key, limits=limits, clock=clock)

    async def __aenter__(self) -> BrokerClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.transport.close()

    async def discover(self) -> BrokerInfo:
        """What the broker can do beyond the protocol: nothing, where it has no such document."""
        answer = await self.transport.ask("GET", CAPABILITIES)
        if answer.status >= 500 or answer.status in (408, 429):
            raise unavailable(answer)
        if not answer.ok:
            return BrokerInfo()
        try:
            told = msgspec.json.decode(answer.body, type=_Told)
        except NO_JSON:
            return BrokerInfo()
        if told.protocol != "amp" or not 0 < told.heartbeat_seconds < 3600:
            return BrokerInfo()
        return BrokerInfo(told.version, told.extensions, told.max_body_bytes, told.heartbeat_seconds)

    async def agent(self, agent_id: str) -> AgentInfo:
        """Checks key and agent at once: MailboxRefused for a wrong key, and for an agent that is not this user's."""
        return decode(self._sound(await self.transport.ask("GET", _agent_path(agent_id))), AgentInfo)

    async def agents(self, seen_by: str = "") -> list[AgentInfo]:
        """All agents of the user; with `seen_by` (an agent's id) those that this agent may write to."""
        query = {"agent_id": seen_by} if seen_by else None
        return agents_in(self._sound(await self.transport.ask("GET", "/agents", query=query)))

    async def register(
        self, name: str, role: str, system_prompt: str, *, description: str = "", address: str = ""
    ) -> AgentInfo:
        """A new agent of the key's user. RequestRefused with status 409 where the address is taken."""
        wanted = {"name": name, "role": role, "system_prompt": system_prompt, "description": description}
        if address:
            wanted["address"] = address
        body = msgspec.json.encode(wanted)
        answer = await self.transport.ask("POST", "/agents/register", content=body, tries=1)
        return decode(self._sound(answer), AgentInfo)

    async def operator(self) -> AgentInfo | None:
        """The person behind the key, made now where there is none yet; None where the broker makes none by key."""
        answer = await self.transport.ask("POST", "/agents/operator", content=b"{}")
        if answer.status in (403, 404, 405):
            return None
        return await self.agent(decode(self._sound(answer), Operator).agent_id)

    async def setup(self, agent_id: str) -> SetupTexts:
        """The texts of the agent's identity files, with the broker's URL and the ids filled in."""
        return decode(self._sound(await self.transport.ask("GET", f"{_agent_path(agent_id)}/setup")), SetupTexts)

    def _sound(self, answer: Answer) -> Answer:
        if answer.ok:
            return answer
        refused = credentials_refused(answer)
        if refused is not None:
            raise refused
        detail = detail_of(answer)
        if detail is not None and answer.status in (400, 409, 413, 422):
            raise RequestRefused(answer.where, answer.status, detail)
        raise unavailable(answer)


def agents_in(answer: Answer) -> list[AgentInfo]:
    """The agents of a list, without what is none. Raises MailboxUnavailable where it is no list."""
    found: list[AgentInfo] = []
    for raw in decode(answer, list[msgspec.Raw]):
        with suppress(*NO_JSON):
            found.append(msgspec.json.decode(raw, type=AgentInfo))
    return found


class _Tagged(msgspec.Struct):
    id: str
    tags: tuple[str, ...] = ()


def tags_in(answer: Answer) -> dict[str, tuple[str, ...]]:
    """The tags of a list's agents, by id; none where they are of another shape. Raises as `agents_in`."""
    found: dict[str, tuple[str, ...]] = {}
    for raw in decode(answer, list[msgspec.Raw]):
        with suppress(*NO_JSON):
            one = msgspec.json.decode(raw, type=_Tagged)
            found[one.id] = one.tags
    return found


def _agent_path(agent_id: str) -> str:
    try:
        return path_of("agents", agent_id)
    except ValueError:
        raise MailboxRefused(
            "agent_refused", f"{agent_id!r} is no agent's id", "agent-mailer config set agent_id ID"
        ) from None


@contextmanager
def at_broker(refused_fix: str = "") -> Iterator[None]:
    """Raises RefusedFault (77), UnavailableFault (69) or MailerError (1) for what a broker says no to."""
    try:
        yield
    except MailboxRefused as fault:
        raise RefusedFault(fault.code, fault.message, fault.fix) from None
    except MailboxUnavailable as fault:
        raise UnavailableFault(fault.code, fault.message, fault.fix) from None
    except RequestRefused as fault:
        raise MailerError(fault.code, fault.message, fault.fix or refused_fix) from None
