"""A person's side of a mailbox at a broker: under the operator's name, or an agent's that the key may act for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent_mailer.cli.terminal.printing import note
from agent_mailer.errors import ConfigFault, MailerError, RefusedFault, UnavailableFault, UsageFault
from agent_mailer.mailbox.amp.adapter import AmpMailbox
from agent_mailer.mailbox.amp.client import AccountClient, AgentInfo, BrokerClient, Credentials, at_broker
from agent_mailer.mailbox.amp.reading import BrokerInbox
from agent_mailer.mailbox.port import (
    DEDUPE_KEY,
    Contact,
    Delivered,
    Draft,
    Gone,
    Message,
    Outgoing,
    Refused,
)
from agent_mailer.names import pick, printable
from agent_mailer.people.port import Ending, Person, Sent, Tell, Waited, ending_of
from agent_mailer.setup.registering import find_login

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


OPERATOR = "operator"
LOOK_EVERY, LOOK_SELDOM = 0.3, 2.0
"""Seconds between two looks for an answer: at our broker, which they cost little, and at any other."""

_BOUND = "another agent only"
"""In a broker's words: the key is bound."""

T = TypeVar("T")


def broker_person(place: Workplace, whose: str | None) -> BrokerPerson:
    """The operator, or the agent that `whose` names by address, name or id. Raises ConfigFault, UsageFault."""
    config = place.config
    lacking = [key for key in ("broker_url", "api_key") if not getattr(config, key)]
    if lacking:
        raise ConfigFault(
            "incomplete",
            f"mail at a broker needs {' and '.join(lacking)}",
            "export " + " ".join(f"AGENT_MAILER_{key.upper()}=..." for key in lacking) + ", or agent-mailer init",
        )

    async def choose() -> AgentInfo:
        async with BrokerClient(config.broker_url, config.api_key) as client:
            known = await client.agents()
            if whose is not None:
                return _named(whose, known)
            operator = next((agent for agent in known if agent.role == OPERATOR), None)
            return operator or await client.operator() or await _make_operator(client, config.broker_url, known)

    with at_broker():
        me = asyncio.run(choose())
    return BrokerPerson(place, me, is_watched=me.id == config.agent_id or (me.status == "online" and not _is_human(me)))


def broker_agent(place: Workplace) -> BrokerPerson:
    """Who looks into the mailbox of the workdir's own agent."""
    place.require_complete()
    return BrokerPerson(place, AgentInfo(place.config.agent_id, place.config.address), is_watched=True)


class BrokerPerson(Person):
    """`is_watched`: a watcher takes this mail."""

    def __init__(self, place: Workplace, me: AgentInfo, *, is_watched: bool) -> None:
        config = place.config
        credentials = Credentials(config.broker_url, me.id, config.api_key)
        self._amp = AmpMailbox(lambda: credentials, me.address, clock=place.clock)
        super().__init__(self._amp, place.clock)
        self._box = BrokerInbox(credentials, me.address)
        self._is_watched = is_watched

    def inbox(self, *, read_too: bool) -> list[tuple[Message, bool]]:
        heard = self._run(self._box.listed(read_too=read_too))
        return [(one.message, not one.is_read) for one in heard]

    def find(self, typed: str) -> tuple[Message, bool]:
        return self._run(self._find(typed))

    def take(self, message: Message) -> None:
        if self._is_watched:
            note(f"left unread: {self.address} is an agent, and its mail is its watcher's to take")
            return
        self._run(self._amp.done(message.envelope))

    def thread(self, typed: str) -> Sequence[Message]:
        messages = self._run(self._amp.thread(typed))
        if messages:
            return messages
        message, _ = self.find(typed)
        return self._run(self._amp.thread(message.envelope.thread))

    def contacts(self) -> Sequence[Contact]:
        return self._run(self._amp.contacts())

    async def send(self, draft: Draft, origin: Message | None = None) -> Sent:
        with self._words():
            return await self._send(draft, origin)

    async def wait_for_answer(self, sent: Sent, seconds: float, tell: Tell) -> Waited:
        end = time.monotonic() + seconds
        watch = _Watch(self._amp, self._box, sent, tell)
        pause = LOOK_EVERY
        while True:
            with self._words():
                found = await watch.look()
                pause = LOOK_EVERY if await self._box.is_ours() else LOOK_SELDOM
            if found is not None:
                if found.answer is not None and not self._is_watched:
                    with self._words():
                        await self._amp.done(found.answer.envelope)
                return found
            left = end - time.monotonic()
            if left <= 0:
                return Waited(Ending.TIMEOUT, taken=watch.taken)
            await asyncio.sleep(min(pause, left))

    async def _find(self, typed: str) -> tuple[Message, bool]:
        heard = await self._box.whole(typed)
        if heard is not None:
            return heard.message, not heard.is_read and self.address in heard.message.envelope.to
        listed = {one.message.envelope.id: one for one in await self._box.listed(read_too=True)}
        chosen = listed[pick(typed, listed, "message", "agent-mailer mail inbox --all")]
        message = await self._amp.read(chosen.message.envelope)
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(typed)}: {message.why}", "agent-mailer mail inbox --all")
        return message, not chosen.is_read

    async def _send(self, draft: Draft, origin: Message | None) -> Sent:
        composed = self._amp.compose(draft, origin, "")
        if isinstance(composed, Refused):
            raise UsageFault("refused", composed.why, "agent-mailer mail contacts")
        await self._require_known(composed)
        once = draft.key.startswith(DEDUPE_KEY)
        there = [once and await self._amp.look(item) for item in composed]
        names = [await self._deliver(item) for item in composed]
        first = names[0]
        recipients = tuple(item.recipient for item in composed)
        # The broker's clock decides what is an answer; in a thread that goes on only what comes from now on is one.
        created = 0.0
        if draft.thread or origin is not None or all(there):
            stored = await self._amp.thread(first.thread)
            created = next((one.envelope.created for one in stored if one.envelope.id == first.id), 0.0)
        return Sent(first.id, first.thread, recipients, created, already=all(there))

    async def _require_known(self, items: Sequence[Outgoing]) -> None:
        """All or nothing: one unknown recipient, and the message goes to none."""
        known = {contact.address for contact in await self._amp.contacts()} | {self.address}
        unknown = [item.recipient for item in items if item.recipient not in known]
        if unknown:
            # Contacts are the agent's own team; mail may go to any agent of the user.
            known |= {agent.address for agent in await self._box.agents()}
            unknown = [name for name in unknown if name not in known]
        if unknown:
            raise UsageFault(
                "unknown_recipient",
                f"nobody is called {', '.join(printable(name, 100) for name in unknown)} at the broker",
                f"known are: {', '.join(printable(name, 100) for name in sorted(known))}",
            )

    async def _deliver(self, item: Outgoing) -> Delivered:
        """Deliver; returns the message's and thread's names at the broker."""
        outcome = await self._amp.deliver(item)
        if isinstance(outcome, Delivered):
            return Delivered(outcome.id or item.id, outcome.thread or item.thread)
        if isinstance(outcome, Refused):
            if outcome.why.startswith("409"):
                raise MailerError(
                    "dedupe_conflict",
                    f"another message was sent under this dedupe key before: {item.id}",
                    f"use another --dedupe-key, or look at it: agent-mailer mail read {item.id}",
                )
            if _BOUND in outcome.why:
                raise self._bound()
            raise MailerError("not_sent", f"not sent to {item.recipient}: {outcome.why}", "agent-mailer mail contacts")
        if await self._amp.look(item):
            return Delivered(item.id, item.thread)
        raise UnavailableFault(
            "unconfirmed",
            f"{item.id} to {item.recipient} may or may not have arrived: {outcome.why}",
            f"agent-mailer mail thread {item.thread}",
        )

    def _run(self, work: Coroutine[object, object, T]) -> T:
        with self._words():
            return asyncio.run(work)

    @contextmanager
    def _words(self) -> Iterator[None]:
        try:
            with at_broker():
                yield
        except MailerError as fault:
            if _BOUND in fault.message:
                raise self._bound() from None
            raise

    def _bound(self) -> RefusedFault:
        return RefusedFault(
            "bound_key",
            f"the key is bound to another agent and cannot speak for {printable(self.address)}",
            "give it a key of yours: export AGENT_MAILER_API_KEY=amk_... (agent-mailer broker key add)",
        )


class _Watch:
    def __init__(self, mailbox: AmpMailbox, box: BrokerInbox, sent: Sent, tell: Tell) -> None:
        self._mailbox = mailbox
        self._box = box
        self._sent = sent
        self._tell = tell
        self._seen = {sent.id}
        self.taken = False

    async def look(self) -> Waited | None:
        # Receipts first: whoever answered had taken the message before.
        if not self.taken and await self._box.stages(self._sent.id):
            self.taken = True
            self._tell(f"{self._sent.recipients[0]} has taken it and is at work")
        for message in await self._mailbox.thread(self._sent.thread):
            if message.envelope.id in self._seen:
                continue
            self._seen.add(message.envelope.id)
            if self._mailbox.address not in message.envelope.to:
                continue
            ending = ending_of(message, self._sent, self._tell)
            if ending is not None:
                return Waited(ending, message, taken=True)
        return None


async def _make_operator(client: BrokerClient, url: str, known: Sequence[AgentInfo]) -> AgentInfo:
    """The operator, made now where somebody has logged in. Raises ConfigFault."""
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


def _is_human(agent: AgentInfo) -> bool:
    return agent.role == OPERATOR
