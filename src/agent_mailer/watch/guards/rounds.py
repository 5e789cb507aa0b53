"""Rounds without a person: how often mail has come back to an agent, and when that is too often. Pure.

A message's **depth** is how often its agent stands in the chain of those who caused it, since the last person: the
hops and the chain travel with the mail where the mailbox can hold them, else the depth is reckoned from the thread.
What is counted is the depths below a message's own, not messages: whoever asks twenty at once is answered twenty times
in one round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import TypeVar

import msgspec

from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import prompt_word
from agent_mailer.state.held import Guard
from agent_mailer.watch.guards.alarm import AlarmPolicy
from agent_mailer.watch.guards.calm import CalmPolicy

CHAIN_GAP = 6 * 3600.0
"""Mail that lay so long begins a chain anew: one round a night is no loop."""

DAY = 86400.0
REMEMBERED = 16
"""Of each thread the newest claims, by which the depth of mail without a chain is reckoned."""

TIDIED_AFTER = 4096
"""So many claims later, what is over is looked for once more."""


class GuardPolicy(msgspec.Struct, frozen=True):
    """Rounds, hops and turns; 0 switches one off. `window` is in seconds."""

    max_hops: int = 64
    pair_rounds: int = 8
    ring_rounds: int = 12
    new_threads: int = 30
    rounds_per_day: int = 200
    turns_per_hour: int = 120
    window: float = 600.0
    calm: CalmPolicy | None = None
    """None where neither hours nor the machine matter."""
    alarm: AlarmPolicy | None = None
    """None where no silence is told."""


class Round(msgspec.Struct, frozen=True):
    """What a claim's record tells of it. `double`: its text was there before, or is empty. `ring`: as `ring_of`."""

    at: float
    thread: str
    sender: str
    depth: int
    double: bool = False
    person: bool = False
    ring: tuple[str, ...] = ()
    answers: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """Which guard stops a message, why (words of ours), and what its question is about."""

    guard: Guard
    why: str
    about: str


K = TypeVar("K")
_Depths = dict[int, tuple[float, int]]
"""By depth: when it was last reached, and what it counts."""


class Rounds:
    """The windows, folded from claims in their order."""

    def __init__(self, own: str, policy: GuardPolicy) -> None:
        self._own = own
        self._policy = policy
        self._senders: dict[str, _Depths] = {}
        self._rings: dict[tuple[str, ...], _Depths] = {}
        """By those through whose hands mail came back: a pair has one beside us."""
        self._by_thread: dict[str, _Depths] = {}
        self._all: _Depths = {}
        self.threads: dict[str, deque[tuple[float, int]]] = {}
        """By thread, when what came without a person was claimed, and its depth."""
        self._noted = 0
        self._new_threads: deque[float] = deque(maxlen=max(1, policy.new_threads))

    def depth_of(self, envelope: Envelope) -> int:
        """By its chain; without one an answer is one deeper than what we had claimed of its thread before it was
        written. What answers nothing is no round, however much of it comes: somebody's questions, a robot's reports.
        """
        if envelope.visited:
            return sum(name == self._own for name in envelope.visited)
        if not envelope.answers:
            return 0
        known = self.threads.get(envelope.thread, ())
        return max((depth + 1 for at, depth in known if at < envelope.created), default=0)

    def note(self, one: Round) -> None:
        if one.person:
            # From here on the thread counts anew.
            self.threads.pop(one.thread, None)
            self._by_thread.pop(one.thread, None)
            return
        if one.thread not in self.threads and _begins_thread(one.depth, answers=one.answers):
            self._new_threads.append(one.at)
        self.threads.setdefault(one.thread, deque(maxlen=REMEMBERED)).append((one.at, one.depth))
        if one.depth:
            weight = 2 if one.double else 1
            for depths in (
                self._rings.setdefault(one.ring or (one.sender,), {}),
                self._senders.setdefault(one.sender, {}),
                self._by_thread.setdefault(one.thread, {}),
                self._all,
            ):
                depths[one.depth] = (one.at, max(weight, depths.get(one.depth, (0.0, 0))[1]))
        self._noted += 1
        if self._noted >= TIDIED_AFTER:
            self._noted = 0
            self._forget(one.at - DAY)

    def judge(self, envelope: Envelope, depth: int, now: float) -> Verdict | None:
        """The first guard that stops it, if any."""
        policy, other = self._policy, prompt_word(envelope.sender, "sender")
        if policy.max_hops and envelope.hops > policy.max_hops:
            why = f"it has gone through {envelope.hops} hands without a person"
            return Verdict(Guard.HOPS, why, envelope.sender)
        if not depth:
            return None
        us, ring = prompt_word(self._own, "the agent"), ring_of(envelope, self._own)
        both = f"{us} and {other} have written"
        names = both if len(ring) == 1 else f"mail has gone round by {us}, {', '.join(map(_name, ring))}"
        daily = policy.rounds_per_day
        windows = (
            (Guard.PAIR, policy.pair_rounds, self._rings.get(ring, {}), policy.window, names),
            (Guard.RING, policy.ring_rounds, self._all, policy.window, f"mail has come back here, now by {other},"),
            (Guard.THREAD, daily, self._by_thread.get(envelope.thread, {}), DAY, "mail of one thread has come back"),
            (Guard.DAY, daily, self._senders.get(envelope.sender, {}), DAY, both),
        )
        for guard, limit, depths, window, what in windows:
            if not limit:
                continue
            below = [found for reached, found in depths.items() if reached < depth and found[0] > now - window]
            if sum(weight for _, weight in below) >= limit:
                since = now - min(at for at, _ in below)
                why = f"{what} {len(below)} times in {_span(since)} without a person"
                # A ring is one question, by whatever name its mail comes.
                about = {Guard.THREAD: envelope.thread, Guard.RING: ""}.get(guard, envelope.sender)
                return Verdict(guard, why, about)
        new, limit = self._new_threads, policy.new_threads
        begins = envelope.thread not in self.threads and _begins_thread(depth, answers=envelope.answers)
        if limit and begins and len(new) == limit and new[0] > now - policy.window:
            why = f"answers have begun {len(new)} new threads in {_span(now - new[0])} without a person"
            return Verdict(Guard.FAN_OUT, why, "")
        return None

    def _forget(self, before: float) -> None:
        self.threads = {thread: found for thread, found in self.threads.items() if found[-1][0] > before}
        self._rings = _without(self._rings, before)
        self._senders = _without(self._senders, before)
        self._by_thread = _without(self._by_thread, before)
        self._all = {depth: found for depth, found in self._all.items() if found[0] > before}


def ring_of(envelope: Envelope, own: str) -> tuple[str, ...]:
    """Who had it since it was last ours, by name; without a chain its sender alone.

    So whoever is sent back by two judges in turn goes round in two rings, and not twice as often with either.
    """
    since = list(takewhile(lambda name: name != own, reversed(envelope.visited)))
    return tuple(sorted({envelope.sender, *(since if len(since) < len(envelope.visited) else ())}))


def _begins_thread(depth: int, *, answers: bool) -> bool:
    """Whether mail in a thread that was none before has begun it. Where somebody is asked much at once, each question
    in a thread of its own, the answers to it have not: what comes of them may.
    """
    return depth > 1 or (depth == 1 and not answers)


def begins_anew(envelope: Envelope, now: float) -> bool:
    """Whether its chain is too old to be one."""
    return bool(envelope.visited or envelope.hops) and now - envelope.created > CHAIN_GAP


def _name(name: str) -> str:
    return prompt_word(name, "sender")


def _without(found: Mapping[K, _Depths], before: float) -> dict[K, _Depths]:
    return {key: depths for key, depths in found.items() if max(_moments(depths.values())) > before}


def _moments(found: Iterable[tuple[float, int]]) -> Iterable[float]:
    return (at for at, _ in found)


def _span(seconds: float) -> str:
    """In the unit that a person would take."""
    for unit, length in (("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}s"
    return "a minute" if seconds > 45 else f"{max(1, round(seconds))} seconds"
