"""A broker as a person asks it, with the token of a login: their agents, a new one, a key."""

from __future__ import annotations

import msgspec

from agent_mailer.mailbox.amp.answers import Answer, RequestRefused, decode, detail_of, trouble
from agent_mailer.mailbox.amp.client import AgentInfo
from agent_mailer.mailbox.amp.transport import Transport
from agent_mailer.mailbox.port import MailboxRefused

_NO_KEY = "none"
"""People's calls do not look at the header that holds an agent's key."""


class NewAgent(msgspec.Struct, frozen=True):
    """What a new agent shall be. `address_local` is what stands before the @; empty = from its name."""

    name: str
    address_local: str = ""
    role: str = ""
    description: str = ""
    system_prompt: str = ""


class MadeAgent(AgentInfo, frozen=True):
    """A new agent, with the key that was made for it. The key is a secret."""

    api_key_plaintext: str = ""

    def __repr__(self) -> str:
        return f"MadeAgent({self.address!r})"


class _NewKey(msgspec.Struct):
    raw_key: str


class AccountClient:
    """One person at one broker. Raises as `BrokerClient` does."""

    def __init__(self, url: str, token: str) -> None:
        """Raises ConfigFault for a URL that can be none."""
        self._transport = Transport(url, _NO_KEY)
        self._headers = {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> AccountClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def agents(self) -> list[AgentInfo]:
        """This person's agents that are not deleted."""
        found: list[AgentInfo] = []
        for raw in decode(await self._ask("GET", "/users/me/agents"), list[msgspec.Raw]):
            try:
                found.append(msgspec.json.decode(raw, type=AgentInfo))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue
        return [agent for agent in found if agent.status != "deleted"]

    async def add_agent(self, new: NewAgent) -> MadeAgent:
        """RequestRefused with status 409 where the address is taken."""
        wanted = {key: value for key, value in msgspec.structs.asdict(new).items() if value}
        return decode(await self._ask("POST", "/users/me/agents", msgspec.json.encode(wanted)), MadeAgent)

    async def add_key(self, agent_id: str) -> str:
        """One more key for an agent; those that it has go on working. It ends with the agent."""
        wanted = {"name": f"agent:{agent_id}", "agent_id": agent_id}
        return decode(await self._ask("POST", "/users/api-keys", msgspec.json.encode(wanted)), _NewKey).raw_key

    async def operator(self) -> str:
        """The id of the agent under whose name this person writes; made where there is none."""
        return decode(await self._ask("GET", "/admin/human-operator"), _Operator).agent_id

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> Answer:
        tries = 1 if method == "POST" else 3
        answer = await self._transport.ask(method, path, content=content, headers=self._headers, tries=tries)
        if answer.ok:
            return answer
        detail = detail_of(answer)
        if detail is not None and answer.status == 401:
            raise MailboxRefused("login_refused", f"{answer.where}: {detail} (401)", "amp login")
        if detail is not None and answer.status in (400, 403, 404, 409, 413, 422):
            raise RequestRefused(answer.where, answer.status, detail)
        raise trouble(answer)
