"""A person's mail at a broker: under the operator's name, or an agent's that the key may act for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.errors import ConfigFault, MailerError, RefusedFault, UsageFault
from agent_mailer.mailbox.amp.account import AccountClient
from agent_mailer.mailbox.amp.adapter import AmpMailbox
from agent_mailer.mailbox.amp.client import AgentInfo, BrokerClient, Credentials, at_broker
from agent_mailer.mailbox.amp.reading import PAGE, BrokerInbox, Step
from agent_mailer.mailbox.port import (
    Delivered,
    Delivery,
    Draft,
    Message,
    Outgoing,
    Refused,
    Unknown,
    Unreadable,
)
from agent_mailer.names import printable
from agent_mailer.outcomes import Outcome
from agent_mailer.people.at_server import AtServer
from agent_mailer.people.port import (
    EVERYTHING,
    Found,
    MessageState,
    Receipt,
    Report,
    Rest,
    Search,
    Sent,
    Standing,
    Told,
    dedupe_conflict,
    unknown_recipients,
)

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


OPERATOR = "operator"
LOOK_EVERY, LOOK_SELDOM = 0.3, 2.0
"""Seconds between two looks for an answer: at our broker, which they cost little, and at any other."""

_BOUND = "another agent only"
"""In a broker's words: the key is bound."""


def mail_of(place: Workplace, whose: str | None) -> BrokerMail:
    """The operator's, or that of the agent called `whose`: by address, name or id. Raises ConfigFault, UsageFault."""
    config = place.config
    lacking = [key for key in ("broker_url", "api_key") if not getattr(config, key)]
    if lacking:
        raise ConfigFault(
            "incomplete",
            f"mail at a broker needs {' and '.join(lacking)}",
            "export " + " ".join(f"AGENT_MAILER_{key.upper()}=..." for key in lacking) + ", or agent-mailer init",
        )

    key = _persons_key(place)

    async def choose() -> AgentInfo:
        async with BrokerClient(config.broker_url, key) as client:
            known = await client.agents()
            if whose is not None:
                return _named(whose, known)
            operator = next((agent for agent in known if agent.role == OPERATOR), None)
            return operator or await client.operator() or await _make_operator(client, config.broker_url, known)

    with at_broker():
        me = asyncio.run(choose())
    is_watched = me.id == config.agent_id or (me.status == "online" and me.role != OPERATOR)
    return BrokerMail(place, me, key, is_watched=is_watched)


def _persons_key(place: Workplace) -> str:
    """The key that was given, else that of the person's login there; in the file stands the agent's."""
    from agent_mailer.config import Source
    from agent_mailer.setup.logins import find_login

    config = place.config
    if place.loaded.source("api_key") in (Source.ENVIRONMENT, Source.FLAG):
        return config.api_key
    with suppress(ConfigFault):
        return find_login(Path.home(), config.broker_url).api_key or config.api_key
    return config.api_key


def agents_mail(place: Workplace) -> BrokerMail:
    """That of the workdir's own agent."""
    place.require_complete()
    return BrokerMail(
        place, AgentInfo(place.config.agent_id, place.config.address), place.config.api_key, is_watched=True
    )


class BrokerMail(AtServer[AmpMailbox]):
    """Implements `agent_mailer.people.port.PersonalMail`. `is_watched`: a watcher takes this mail."""

    def __init__(self, place: Workplace, me: AgentInfo, key: str, *, is_watched: bool) -> None:
        credentials = Credentials(place.config.broker_url, me.id, key)
        self.mailbox = AmpMailbox(lambda: credentials, me.address, clock=place.clock)
        self._box = BrokerInbox(credentials, me.address)
        self._address = me.address
        self._url = place.config.broker_url.rstrip("/")
        self._told: list[Step] = []
        self._is_watched = is_watched

    @contextmanager
    def faults(self) -> Iterator[None]:
        try:
            with at_broker():
                yield
        except MailerError as fault:
            if _BOUND not in fault.message:
                raise
            raise RefusedFault(
                "bound_key",
                f"the key is bound to another agent and cannot speak for {printable(self._address)}",
                f"amp login {self._url}, or a key of yours: export AGENT_MAILER_API_KEY=amk_...",
            ) from None

    async def listed(self, search: Search = EVERYTHING, *, read_too: bool) -> Sequence[Found]:
        if search.context:
            raise UsageFault("no_context", "mail at a broker has no context", "leave out --context")
        if not search.limit:
            listed = [Found(one.message, not one.is_read) for one in await self._box.listed(read_too=read_too)]
            matching = [one for one in listed if search.takes(one.message)]
            return matching[: max(0, len(matching) - search.offset)]
        wanted, found = search.offset + search.limit, list[Found]()
        size = PAGE if search.chooses else wanted
        async with aclosing(self._box.newest_first(read_too=read_too, size=size)) as newest:
            async for one in newest:
                if search.takes(one.message):
                    found.append(Found(one.message, not one.is_read))
                if len(found) == wanted:
                    break
        return sorted(found[search.offset :], key=lambda one: one.message.envelope.order)

    def no_messages(self) -> Sequence[str]:
        return ()

    async def find(self, typed: str) -> Found:
        heard = await self._box.whole(typed)
        if heard is not None:
            return Found(heard.message, not heard.is_read and self._address in heard.message.envelope.to)
        return await self.picked(typed, await self.listed(read_too=True))

    async def not_carried(self, draft: Draft) -> Sequence[str]:
        marks = [name for name in ("labels", "kind", "priority") if getattr(draft, name)]
        return [] if not marks or (await self.mailbox.asked()).carries_marks else marks

    async def require_known(self, recipients: Sequence[str]) -> None:
        known = {contact.address for contact in await self.mailbox.contacts()} | {self._address}
        if not known.issuperset(recipients):
            # Contacts are the agent's own team; mail may go to any agent of the user.
            known |= {agent.address for agent in await self._box.agents()}
        if unknown := [name for name in recipients if name not in known]:
            raise unknown_recipients(unknown, "at the broker", known)

    async def as_first_sent(self, items: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """The broker compares, and refuses a second content when it is delivered."""
        return items

    async def deliver(self, item: Outgoing) -> Delivery:
        outcome = await self.mailbox.deliver(item)
        if isinstance(outcome, Refused) and outcome.why.startswith("409"):
            raise dedupe_conflict(item.id, f"agent-mailer mail read {item.id}")
        if isinstance(outcome, Refused) and _BOUND in outcome.why:
            raise MailerError("not_sent", outcome.why)
        if isinstance(outcome, Unknown) and await self.mailbox.look(item):
            return Delivered()
        return outcome

    async def drained(self, limit: int) -> AsyncIterator[Message | Unreadable]:
        for one in (await self._box.listed(read_too=False))[: limit or None]:
            message = await self.mailbox.read(one.message.envelope)
            if isinstance(message, Message):
                # In this order: whether a mark was made is not known where its answer is lost.
                yield message
                await self.mailbox.done(message.envelope)

    async def require_receipts(self, recipients: Sequence[str], *, dead_letters: bool) -> None:
        if dead_letters:
            raise UsageFault("no_dead_letters", "a broker has no dead letters to wait for", "--wait-for drained")
        if len(recipients) > 1:
            raise UsageFault("several", "a broker keeps receipts by message, and each recipient has one", "send to one")
        if not await self._box.is_ours():
            raise UsageFault("no_receipts", "this broker keeps no receipts", "wait for the answer: --wait SECONDS")

    async def who(self) -> Sequence[Standing]:
        """What the broker counts as there: who asked for mail a moment ago, which need not be a watcher."""
        agents = sorted(await self._box.agents(), key=lambda agent: agent.address)
        return [Standing(agent.address, agent.status or "", note=agent.role or "") for agent in agents]

    async def told(self, typed: str | None, newest: int) -> Sequence[Told]:
        del newest
        if not await self._box.is_ours():
            raise MailerError("no_receipts", "this broker keeps no receipts", "agent-mailer mail thread THREAD")
        if typed is None:
            raise UsageFault("no_message", "which message? a broker keeps receipts by message", "give its id")
        heard = await self._box.whole(typed)
        message = heard.message if heard is not None else (await self.find(typed)).message
        recipient = ", ".join(message.envelope.to)
        steps = await self._box.receipts(message.envelope.id)
        if not steps:
            return [Told(message.envelope.id, recipient)]
        return [Told(message.envelope.id, recipient, step.stage, step.at, step.said) for step in steps]

    async def sent(self, newest: int) -> Sequence[Message]:
        del newest
        raise MailerError(
            "not_listed", "a broker lists the mail that came, not what was sent", "agent-mailer mail thread THREAD"
        )

    @asynccontextmanager
    async def listening(self, sent: Sent | None) -> AsyncIterator[Rest]:
        if sent is None and await self._box.is_ours():
            async with self._box.told() as told:
                yield told
            return

        async def rest(longest: float) -> None:
            pause = LOOK_EVERY if await self._box.is_ours() else LOOK_SELDOM
            await asyncio.sleep(min(pause, longest))

        yield rest

    async def receipts(self, sent: Sent, taken: Set[str]) -> Sequence[Receipt]:
        """The broker keeps them by message, not by recipient."""
        self._told = await self._box.receipts(sent.id)
        return [Receipt(sent.recipients[0])] if self._told and not taken else []

    async def standing(self, sent: Sent, recipient: str) -> Report | None:
        """The broker keeps receipts by message, not by recipient; of an end by force it does not hear."""
        return _as_told(self._told[-1]) if self._told and recipient == sent.recipients[0] else None

    def is_of(self, place: Workplace, recipient: str) -> bool:
        config = place.config
        return place.at_broker and config.address == recipient and config.broker_url.rstrip("/") == self._url

    async def arrived(self, sent: Sent, seen: Set[str]) -> Sequence[Message]:
        thread = await self.mailbox.thread(sent.thread)
        mine = [message for message in thread if self._address in message.envelope.to]
        return [message for message in mine if message.envelope.id not in seen]


def _as_told(last: Step) -> Report:
    if last.stage != "settled":
        return Report(MessageState.BEGUN, "has begun a turn on it; what became of that is not told yet")
    why = f": {printable(last.detail)}" if last.detail else ""
    outcome = printable((last.outcome or "").replace("_", " "))
    if not last.final and last.outcome == Outcome.ASKED:
        return Report(MessageState.ASKS, "waits for a person's yes before it goes on with it")
    if not last.final:
        return Report(MessageState.AGAIN, f"has tried it, its turn ended {outcome}{why}; it is tried again")
    if last.outcome in (Outcome.DONE, Outcome.BLOCKED):
        return Report(MessageState.DONE, "is done with it")
    return Report(MessageState.GIVEN_UP, f"has given it up: {outcome}{why}", final=True)


async def _make_operator(client: BrokerClient, url: str, known: Sequence[AgentInfo]) -> AgentInfo:
    """The operator, made now where somebody has logged in. Raises ConfigFault."""
    from agent_mailer.setup.logins import find_login

    try:
        login = find_login(Path.home(), url)
    except MailerError:
        named = ", ".join(printable(agent.address, 100) for agent in known) or "none"
        raise ConfigFault(
            "no_operator",
            f"this key's user has no operator at the broker, so who is it that sends? known agents: {named}",
            f"name an agent with --from (--as), or: amp login {url}",
        ) from None
    async with AccountClient(url, login.token) as account:
        return await client.agent(await account.operator())


def _named(whose: str, known: Sequence[AgentInfo]) -> AgentInfo:
    exact = [agent for agent in known if whose in (agent.address, agent.id)]
    found = exact or [agent for agent in known if whose in (agent.name, agent.address.partition("@")[0])]
    if len(found) == 1:
        return found[0]
    named = ", ".join(printable(agent.address, 100) for agent in (found or known)) or "none"
    if found:
        raise UsageFault("ambiguous", f"{printable(whose)!r} could be {named}", "give the whole address")
    raise UsageFault("unknown_sender", f"there is no agent {printable(whose)!r} under this key", f"known: {named}")
