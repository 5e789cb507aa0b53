"""A broker as a person who has logged in asks it: my agents, a key for one, my teams."""

from __future__ import annotations

import msgspec

from agent_mailer.mailbox.amp.answers import Answer, RequestRefused, decode, detail_of, unavailable
from agent_mailer.mailbox.amp.client import AgentInfo, Operator, agents_in
from agent_mailer.mailbox.amp.transport import Transport, path_of
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


class NewKey(msgspec.Struct, frozen=True):
    """A key as it is made; its text is told this once."""

    id: str
    raw_key: str

    def __repr__(self) -> str:
        return f"NewKey({self.id!r})"


class Account(msgspec.Struct, frozen=True):
    """The person as the broker shows it. The name is untrusted."""

    username: str


class TeamInfo(msgspec.Struct, frozen=True):
    """A team as its broker shows it. The strings are untrusted."""

    id: str
    name: str


class _Session(msgspec.Struct):
    token: str


async def log_in(url: str, username: str, password: str) -> str:
    """A token for that person. Raises as `AccountClient`; MailboxRefused for a wrong name or password."""
    transport = Transport(url, _NO_KEY)
    try:
        body = msgspec.json.encode({"username": username, "password": password})
        answer = await transport.ask("POST", "/users/login", content=body)
        detail = detail_of(answer)
        if answer.status in (401, 403) and detail is not None:
            raise MailboxRefused("login_refused", f"{answer.where}: {detail} ({answer.status})", "amp login")
        if not answer.ok:
            if detail is not None and answer.status in (400, 422):
                raise RequestRefused(answer.where, answer.status, detail)
            raise unavailable(answer)
        return decode(answer, _Session).token
    finally:
        await transport.close()


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
        found = agents_in(await self.ask("GET", "/users/me/agents"))
        return [agent for agent in found if agent.status != "deleted"]

    async def add_agent(self, new: NewAgent) -> MadeAgent:
        """RequestRefused with status 409 where the address is taken."""
        wanted = {key: value for key, value in msgspec.structs.asdict(new).items() if value}
        return decode(await self.ask("POST", "/users/me/agents", msgspec.json.encode(wanted)), MadeAgent)

    async def add_key(self, agent_id: str) -> str:
        """One more key for an agent; those that it has go on working. It ends with the agent."""
        wanted = {"name": f"agent:{agent_id}", "agent_id": agent_id}
        return decode(await self.ask("POST", "/users/api-keys", msgspec.json.encode(wanted)), NewKey).raw_key

    async def me(self) -> Account:
        """Who has logged in. Raises MailboxRefused where the token counts no longer."""
        return decode(await self.ask("GET", "/users/me"), Account)

    async def log_out(self) -> None:
        """End the token at the broker."""
        await self.ask("POST", "/users/logout", b"{}")

    async def team(self, name: str) -> TeamInfo:
        """This person's team of that name; made where there is none."""

        async def known() -> TeamInfo | None:
            teams = decode(await self.ask("GET", "/admin/teams"), list[TeamInfo])
            return next((team for team in teams if team.name == name), None)

        if (found := await known()) is not None:
            return found
        try:
            return decode(await self.ask("POST", "/admin/teams", msgspec.json.encode({"name": name})), TeamInfo)
        except RequestRefused as fault:
            if fault.status == 409 and (found := await known()) is not None:
                return found  # made by somebody else meanwhile
            raise

    async def change_agent(self, agent_id: str, *, team_id: str, role: str, description: str, prompt: str) -> None:
        """What an agent is from now on; it keeps its keys and its mail."""
        wanted = {"team_id": team_id, "role": role, "description": description, "system_prompt": prompt}
        await self.ask("PUT", path_of("users", "me", "agents", agent_id), msgspec.json.encode(wanted))

    async def add_own_key(self, name: str) -> NewKey:
        """A key that acts for this person and all their agents."""
        return decode(await self.ask("POST", "/users/api-keys", msgspec.json.encode({"name": name})), NewKey)

    async def remove_key(self, key_id: str) -> None:
        try:
            await self.ask("DELETE", path_of("users", "api-keys", key_id))
        except RequestRefused as fault:
            # Removed before, or by this very call, whose first answer was lost.
            if fault.status != 404:
                raise

    async def operator(self) -> str:
        """The id of the agent under whose name this person writes; made where there is none."""
        return decode(await self.ask("GET", "/admin/human-operator"), Operator).agent_id

    async def ask(self, method: str, path: str, content: bytes | None = None) -> Answer:
        """Any of people's calls, which succeeds. A GET is asked again where the broker is away for a moment."""
        tries = 1 if method == "POST" else 3
        answer = await self._transport.ask(method, path, content=content, headers=self._headers, tries=tries)
        if answer.ok:
            return answer
        detail = detail_of(answer)
        if detail is not None and answer.status == 401:
            raise MailboxRefused("login_refused", f"{answer.where}: {detail} (401)", "amp login")
        if detail is not None and answer.status in (400, 403, 404, 409, 413, 422):
            raise RequestRefused(answer.where, answer.status, detail)
        raise unavailable(answer)
