"""Mail that a guard stops: written down, its operator told once, taken off the mailbox's list; and let go again.

The line is durable first, then the operator is to be told, then the mailbox hands the message over, and no sender
hears of it. Each is done once, however often it is begun again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope, Gone, Mailbox, MailboxUnavailable
from agent_mailer.names import printable, prompt_word
from agent_mailer.state import State
from agent_mailer.state.held import Ended, Guard, HeldEntry
from agent_mailer.state.lifts import Order, OrderVerb, Raised
from agent_mailer.state.records import GUARDS, RetryEntry

if TYPE_CHECKING:
    from agent_mailer.watch.notices import Notices
    from agent_mailer.watch.stuck import StuckMail

MOST_AT_ONCE = 1000
"""So many are let go by one order: the watcher's loop stands still meanwhile."""


class Stop(msgspec.Struct, frozen=True):
    """A guard's word on one message. `question` is the same for all that one question to the operator is about."""

    envelope: Envelope
    guard: Guard
    why: str
    question: str
    ours: bool = False
    """It was claimed before, by a turn that did not finish it."""


class HeldMail:
    def __init__(self, mailbox: Mailbox, state: State, notices: Notices, stuck: StuckMail, clock: Clock) -> None:
        self._mailbox = mailbox
        self._state = state
        self._notices = notices
        self._stuck = stuck
        self._clock = clock
        self._left: set[str] = set()
        self._asked: dict[str, str] | None = None
        """By what a question is about, the message of which it was first asked."""

    async def hold(self, stops: Sequence[Stop]) -> int:
        """How many the mailbox lists no longer. Raises OSError."""
        state, now = self._state, self._clock.now()
        new = [
            msgspec.structs.replace(stop, question=self._question(stop))
            for stop in stops
            if stop.envelope.id not in state.held.waiting
        ]
        state.held.add(HeldEntry(s.envelope.id, now, s.guard, s.why, s.question, s.envelope) for s in new)
        for stop in new:
            state.log.emit(
                EventName.MESSAGE_HELD,
                message_id=stop.envelope.id,
                thread=stop.envelope.thread,
                sender=stop.envelope.sender,
                guard=stop.guard.value,
                why=stop.why,
            )
        known = state.held.find([stop.envelope.id for stop in stops if not stop.why])
        for stop in (*new, *_untold(known.values())):
            self._notices.held(stop.guard, stop.question, stop.envelope, stop.why)
        return sum([await self._take(s.envelope, known.get(s.envelope.id)) for s in stops if not s.ours])

    def _question(self, stop: Stop) -> str:
        """A stranger is told of once. What goes round is asked about anew, once nothing of it waits for an answer."""
        if stop.guard is Guard.WHO:
            return stop.question
        waiting = self._state.held.waiting
        if self._asked is None:
            entries = self._state.held.all() if any(guard is not Guard.WHO for guard in waiting.values()) else ()
            questions = (e.question.rpartition("\0") for e in entries if e.guard is not Guard.WHO)
            self._asked = {about: first for about, _, first in questions}
        first = self._asked.get(stop.question, "")
        if first not in waiting:
            first = self._asked[stop.question] = stop.envelope.id
        return f"{stop.question}\0{first}"

    async def _take(self, envelope: Envelope, known: HeldEntry | None) -> bool:
        """Whether it is listed no longer. What is not handed over just now holds up no other; it is told once."""
        try:
            if known is not None and (there := await self._mailbox.settled(known.envelope or envelope)) is not None:
                await self._stuck.beside_held(envelope, there)
                return True
            found = await self._mailbox.claim(envelope, again=known is not None, silent=True)
        except MailboxUnavailable as fault:
            if envelope.id not in self._left:
                self._left.add(envelope.id)
                self._state.log.emit(EventName.MAILBOX_TROUBLE, why=fault.message, fix=fault.fix or None)
            return False
        if not isinstance(found, Gone):
            return True
        # It was never ours: nobody has to decide about it.
        self._state.held.end([envelope.id], Ended.DROPPED)
        if found.unreadable is not None:
            await self._stuck.unreadable(found.unreadable)
        elif found.name_taken:
            await self._stuck.name_taken(envelope)
        return False


def _untold(known: Iterable[HeldEntry]) -> list[Stop]:
    """What an earlier watcher wrote down and did not take: it may not have come to telling it."""
    return [Stop(e.envelope, e.guard, e.why, e.question) for e in known if e.envelope is not None]


# What a person orders.


def carry_out(state: State, order: Order) -> tuple[list[tuple[bool, str]], int]:
    """One line a target, and how many are left for another order. The caller holds the workdir's lock. Carried out
    twice it changes nothing more.
    """
    if order.verb is OrderVerb.ALLOW:
        return _allow(state, order.targets), 0
    if order.verb is OrderVerb.DISALLOW:
        return _disallow(state, order.targets), 0
    if order.verb is OrderVerb.RAISE:
        return _raise(state, order), 0
    targets = order.targets[:MOST_AT_ONCE]
    known = state.held.find(targets)
    results = [(False, f"{printable(one)}: it is not held") for one in targets if one not in known]
    done = _release(state, known.values()) if order.verb is OrderVerb.RELEASE else _drop(state, known.values())
    return [*done, *results], len(order.targets) - len(targets)


def _release(state: State, entries: Iterable[HeldEntry]) -> list[tuple[bool, str]]:
    chosen = [entry for entry in entries if entry.envelope is not None]
    envelopes = [entry.envelope for entry in chosen if entry.envelope and entry.message_id not in state.processed]
    released = (
        msgspec.structs.replace(
            state.retries.get(envelope.id) or RetryEntry(envelope), released=True, listed_only=False, not_before=0.0
        )
        for envelope in envelopes
    )
    state.retries.put_all(released, force=True)
    state.held.end((entry.message_id for entry in chosen), Ended.RELEASED)
    for entry in chosen:
        state.log.emit(EventName.MESSAGE_RELEASED, message_id=entry.message_id, guard=entry.guard.value, how="released")
    return [(True, f"{printable(entry.message_id)}: will be worked on") for entry in chosen]


def _drop(state: State, entries: Iterable[HeldEntry]) -> list[tuple[bool, str]]:
    """It counts as settled, and stays in the mailbox for people to read. Its sender hears nothing."""
    chosen = list(entries)
    for entry in chosen:
        state.processed.add(entry.message_id)
        state.retries.remove(entry.message_id)
    state.held.end((entry.message_id for entry in chosen), Ended.DROPPED)
    for entry in chosen:
        state.log.emit(EventName.MESSAGE_RELEASED, message_id=entry.message_id, guard=entry.guard.value, how="dropped")
    return [(True, f"{printable(entry.message_id)}: dropped") for entry in chosen]


def _allow(state: State, senders: Sequence[str]) -> list[tuple[bool, str]]:
    state.lifts.allow(tuple(senders))
    wanted = set(senders)
    theirs = [e for e in state.held.all() if e.guard is Guard.WHO and e.envelope and e.envelope.sender in wanted]
    released = Counter(e.envelope.sender for e in theirs[:MOST_AT_ONCE] if e.envelope)
    left = Counter(e.envelope.sender for e in theirs[MOST_AT_ONCE:] if e.envelope)
    _release(state, theirs[:MOST_AT_ONCE])
    return [(True, _allowed(sender, released[sender], left[sender])) for sender in senders]


def _allowed(sender: str, released: int, left: int) -> str:
    more = f", {left} more after: agent-mailer held release --from {prompt_word(sender, 'sender')}" if left else ""
    return f"{printable(sender)}: allowed; {released} held messages will be worked on{more}"


def _disallow(state: State, senders: Sequence[str]) -> list[tuple[bool, str]]:
    known = state.lifts.standing.allowed
    state.lifts.disallow(tuple(senders))
    told = {True: "allow_from and deny_from decide again", False: "nobody had allowed it"}
    return [(sender in known, f"{printable(sender)}: {told[sender in known]}") for sender in senders]


def _raise(state: State, order: Order) -> list[tuple[bool, str]]:
    found: dict[str, Raised] = {}
    for target in order.targets:
        key, _, value = target.partition("=")
        found[key] = Raised(float(value), order.until)
    state.lifts.set_aside(found)
    known = state.pause.read()
    if known is not None and known.reason in GUARDS:
        # What is still beyond a limit pauses again at the next look.
        state.pause.lift(known, by_hand=True)
    held = sum(guard is Guard.BUDGET for guard in state.held.waiting.values())
    # What it has stopped a person lets go by itself: some of it he may not want.
    more = f"; {held} held for a budget: agent-mailer held list --guard budget" if held else ""
    return [(True, f"{key} is {one.value:.15g} until the day ends{more}") for key, one in found.items()]


def question_of(guard: Guard, *parts: str) -> str:
    """Names what one question to the operator is about."""
    return "\0".join((guard.value, *parts))
