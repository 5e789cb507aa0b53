"""How much does a broker carry? A fleet of agents, each with a watcher's own client, does a watcher's work but turns.

Each agent listens, looks, claims what came and settles it, as `watch` does; what a turn would do in between takes no
time. Nothing is invented: what is told was measured from outside, of the broker's process where it runs here.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.mailbox.amp.adapter import AmpMailbox
from agent_mailer.mailbox.amp.client import AgentInfo, BrokerClient, Credentials
from agent_mailer.mailbox.port import Action, Delivered, Draft, Envelope, Message

AT_ONCE = 16
"""Agents that register, and begin to listen, at a time."""
SENDERS = 8
PACED = 10.0
"""Messages a second while it is looked how long one takes."""
LONGEST_WAIT = 30.0
"""Seconds without one that is settled before the fleet waits no longer."""
LISTED = 100
AGAIN = 0.5
"""Seconds after which it looks again where the broker was away."""
BODY = "What is the state of the build? " * 8
_TICKS = os.sysconf("SC_CLK_TCK")


class Broker(msgspec.Struct, frozen=True):
    """`pid`: its process, where it runs on this machine and may be looked at; else 0."""

    url: str
    api_key: str
    pid: int = 0

    def __repr__(self) -> str:
        return f"Broker({self.url!r})"


class Process(msgspec.Struct, frozen=True):
    """What the broker's process takes. `idle`: the share of a core that keeps all of them listening; `memory`: bytes,
    at the end; `cost`: CPU seconds for a message that is sent, told, claimed and settled.
    """

    connections: int
    idle: float
    memory: int
    cost: float


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen with so many agents. `p50`, `p99`: seconds from before a send until its recipient has claimed it,
    at `PACED` a second. `sends`: messages a second that `SENDERS` senders got answered, while recipients claimed and
    settled them (`settled` a second). `lost`: messages that were sent and are not settled. `process`: None where it
    is not to be seen.
    """

    agents: int
    p50: float
    p99: float
    sends: float
    settled: float
    lost: int
    process: Process | None


class Reckoned(msgspec.Struct, frozen=True):
    """What so many agents would take, by what each more took; `a_minute`: messages for each where a core is full."""

    agents: int
    connections: int
    memory: int
    idle: float
    a_minute: float


def reckon(few: Carried, many: Carried, agents: int) -> Reckoned | None:
    """From what was seen with few and with many; None where that says nothing."""
    less, more = few.process, many.process
    if less is None or more is None or few.agents == many.agents or more.cost <= 0:
        return None
    beyond, between = agents - many.agents, many.agents - few.agents
    return Reckoned(
        agents,
        more.connections + round(beyond * (more.connections - less.connections) / between),
        more.memory + round(beyond * max(0, more.memory - less.memory) / between),
        more.idle + beyond * max(0.0, more.idle - less.idle) / between,
        60 / more.cost / agents,
    )


async def measure(broker: Broker, counts: Sequence[int], seconds: float, tell: Callable[[str], None]) -> list[Carried]:
    """With each of these numbers of agents, growing; each part takes `seconds`. Raises as `BrokerClient` does."""
    found: list[Carried] = []
    async with AsyncExitStack() as stack:
        fleet = _Fleet(broker, stack)
        for count in sorted(counts):
            tell(f"{count} agents begin to listen")
            await fleet.grow(count)
            tell(f"{count} agents: listening, then sending")
            found.append(await fleet.measured(seconds))
    return found


class _Agent:
    def __init__(self, info: AgentInfo, box: AmpMailbox) -> None:
        self.info, self.box = info, box
        self.seen: dict[str, float] = {}
        """When what came was in a list (monotonic seconds), by subject."""
        self.settled = 0

    async def work(self) -> None:
        """As a watcher does, but for the turn."""
        woken = False
        while True:
            try:
                # What did not fit into one list is in the next.
                while envelopes := (await self.box.pending(LISTED, woken=woken)).envelopes:
                    for envelope in envelopes:
                        await self._settle(envelope)
                    woken = False
                await self.box.wait()
                woken = True
            except MailerError:
                woken = False
                await asyncio.sleep(AGAIN)

    async def _settle(self, envelope: Envelope) -> None:
        message = await self.box.claim(envelope, turn_id=envelope.id)
        if isinstance(message, Message):
            self.seen[message.subject] = time.monotonic()
            await self.box.done(envelope)
            self.settled += 1


class _Fleet:
    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self._broker, self._stack = broker, stack
        self._agents: list[_Agent] = []
        self._senders: list[_Agent] = []
        self._number = self._sent = 0
        self._run = f"{os.getpid():x}-{int(time.time()):x}"
        self._before = _look(broker.pid)

    async def grow(self, count: int) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def add(client: BrokerClient, name: str, *, works: bool) -> _Agent:
            async with slots:
                info = await client.register(name, "simulated", "of broker simulate")
                credentials = Credentials(self._broker.url, info.id, self._broker.api_key)
                agent = _Agent(info, AmpMailbox(lambda: credentials, info.address))
                await agent.box.open()
                self._stack.push_async_callback(agent.box.close)
                if works:
                    self._stack.callback(asyncio.create_task(agent.work()).cancel)
                return agent

        async with BrokerClient(self._broker.url, self._broker.api_key) as client:
            if not self._senders:
                names = [f"sender-{self._run}-{number}" for number in range(SENDERS)]
                self._senders = list(await asyncio.gather(*(add(client, name, works=False) for name in names)))
            names = [f"agent-{self._run}-{number}" for number in range(len(self._agents), count)]
            self._agents += await asyncio.gather(*(add(client, name, works=True) for name in names))

    async def measured(self, seconds: float) -> Carried:
        await asyncio.sleep(min(1.0, seconds))
        began, before = time.monotonic(), _look(self._broker.pid)
        await asyncio.sleep(seconds)
        idle_seconds, idle = time.monotonic() - began, _look(self._broker.pid)
        waits = await self._paced(seconds)
        settled, began, full = self._settled(), time.monotonic(), _look(self._broker.pid)
        sent = await self._burst(seconds)
        took = time.monotonic() - began
        await self._until_settled()
        whole, done, after = time.monotonic() - began, self._settled() - settled, _look(self._broker.pid)
        process = None
        if before and idle and full and after and self._before and sent:
            process = Process(
                after.sockets - self._before.sockets,
                (idle.cpu - before.cpu) / idle_seconds,
                after.memory,
                (after.cpu - full.cpu) / sent,
            )
        return Carried(
            agents=len(self._agents),
            p50=_part(waits, 0.5),
            p99=_part(waits, 0.99),
            sends=sent / took,
            settled=done / whole,
            lost=self._sent - self._settled(),
            process=process,
        )

    async def _paced(self, seconds: float) -> list[float]:
        """To whom the lot falls on, so many a second; how long each took."""
        chosen = random.Random(1)
        sent: list[tuple[_Agent, str, float]] = []
        tasks = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            agent = chosen.choice(self._agents)
            subject = self._subject()
            sent.append((agent, subject, time.monotonic()))
            tasks.append(asyncio.create_task(self._send(self._senders[len(sent) % SENDERS], agent, subject)))
            await asyncio.sleep(1 / PACED)
        await asyncio.gather(*tasks)
        await self._until_settled()
        return [agent.seen[subject] - began for agent, subject, began in sent if subject in agent.seen]

    async def _burst(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        sent = 0

        async def go(sender: _Agent, first: int) -> None:
            nonlocal sent
            number = first
            while time.monotonic() < end:
                if await self._send(sender, self._agents[number % len(self._agents)], self._subject()):
                    sent += 1
                number += SENDERS

        await asyncio.gather(*(go(sender, number) for number, sender in enumerate(self._senders)))
        return sent

    async def _send(self, sender: _Agent, to: _Agent, subject: str) -> bool:
        draft = Draft(subject, Action.SEND, time.time(), to=(to.info.address,), subject=subject, body=BODY)
        items = sender.box.compose(draft, None, f"simulate-{self._run}")
        if not isinstance(items, Sequence):
            return False
        if not isinstance(await sender.box.deliver(items[0]), Delivered):
            return False
        self._sent += 1
        return True

    async def _until_settled(self) -> None:
        last, since = self._settled(), time.monotonic()
        while self._settled() < self._sent and time.monotonic() - since < LONGEST_WAIT:
            await asyncio.sleep(0.05)
            if self._settled() != last:
                last, since = self._settled(), time.monotonic()

    def _settled(self) -> int:
        return sum(agent.settled for agent in self._agents)

    def _subject(self) -> str:
        self._number += 1
        return f"simulated {self._number}"


def _part(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


class _Look(msgspec.Struct, frozen=True):
    """A process as it is: CPU seconds that it has taken, bytes, open sockets."""

    cpu: float
    memory: int
    sockets: int


def _look(pid: int) -> _Look | None:
    """None where it is not to be seen."""
    if not pid:
        return None
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        memory = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        sockets = sum(_is_socket(one) for one in (folder / "fd").iterdir())
    except (OSError, IndexError, ValueError):
        return None
    return _Look((int(fields[11]) + int(fields[12])) / _TICKS, memory, sockets)


def _is_socket(descriptor: Path) -> bool:
    with suppress(OSError):
        return str(descriptor.readlink()).startswith("socket:")
    return False
