"""What is still to be done: what the mailbox lists plus what is ours already, minus what is settled or in work.

One look serves the engine, `watch --dry-run` and `status`: it takes no lock and writes nothing. What has to be put away
on the way is part of what it returns; only the watcher does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import (
    Automatic,
    Envelope,
    Listing,
    Mailbox,
    MailboxUnavailable,
    NoWay,
    Route,
    Unreadable,
)
from agent_mailer.state import State
from agent_mailer.state.approvals import Due
from agent_mailer.state.held import Ended, Guard
from agent_mailer.state.records import RetryEntry
from agent_mailer.watch.answering import Said, answers_in, take_answer
from agent_mailer.watch.given_up import revival, take_up_again
from agent_mailer.watch.guards.holding import Stop, question_of
from agent_mailer.watch.rules import MOST_PUT_BACK, Candidate, Plan, WatchPolicy, make_plan, wants_answer

if TYPE_CHECKING:
    from agent_mailer.watch.room import Room  # and with it the whole engine, which `status` does not use

LIST_LIMIT = 1000
"""So many decide what runs next, of each thread its oldest and most urgent; the rest moves up."""


class PutAway(msgspec.Struct, frozen=True, tag=True):
    """A file that is no message: it is put where it blocks no neighbour."""

    item: Unreadable


class SetAside(msgspec.Struct, frozen=True, tag=True):
    """A settled message that is listed once more."""

    envelope: Envelope


class PassBy(msgspec.Struct, frozen=True, tag=True):
    """A notice never starts a turn: it is taken and done, and stays in the mailbox for people to read."""

    envelope: Envelope


class Answered(msgspec.Struct, frozen=True, tag=True):
    """A person's answer to what the agent has asked: it is taken at once, before its thread goes on."""

    envelope: Envelope
    said: Said


class Revive(msgspec.Struct, frozen=True, tag=True):
    """A message that was given up, and that somebody put back."""

    envelope: Envelope


class DropRetry(msgspec.Struct, frozen=True, tag=True):
    """A retry that was settled after it was written (the settlement's own removal was lost), or is listed no longer."""

    message_id: str


class Strand(msgspec.Struct, frozen=True, tag=True):
    """A message that wants an answer where none can be delivered: it waits for a person."""

    envelope: Envelope
    why: str


class Hold(msgspec.Struct, frozen=True, tag=True):
    """A message that a guard stops: it waits for a person, and its thread goes on without it."""

    stop: Stop


class LetGo(msgspec.Struct, frozen=True, tag=True):
    """A message that a person has released, while that it is held no more could not be written down."""

    message_id: str


Action = PutAway | SetAside | PassBy | Answered | Revive | DropRetry | Strand | Hold | LetGo


class Look(msgspec.Struct, frozen=True):
    """What one look found. `candidates` may run, now or later; `actions` come before any of them is started."""

    candidates: tuple[Candidate, ...]
    actions: tuple[Action, ...]

    def plan(self, busy_threads: Set[str], now: float) -> Plan:
        """`now` may be later than the look: what was read as due then must not lie ahead."""
        return make_plan(self.candidates, busy_threads, now)

    def without(self, message_ids: Set[str]) -> Look:
        kept = tuple(one for one in self.candidates if one.envelope.id not in message_ids)
        return msgspec.structs.replace(self, candidates=kept)


async def look(
    mailbox: Mailbox, state: State, policy: WatchPolicy, open_ids: Collection[str], *, woken: bool = False
) -> Look:
    """What is to be done beside the messages `open_ids`, which are in work. `woken`: whoever looks hears of arrivals.

    Writes nothing, and may run beside a watcher. Raises MailboxUnavailable and OSError.
    """
    stuck = state.stuck.waiting
    # What waits for a person takes nobody's place in the listing.
    listing = await mailbox.pending(LIST_LIMIT, frozenset(stuck) if stuck else (), woken=woken)
    answers: dict[str, Said] = {}
    if listing.envelopes and (policy.approve.mail_hidden or mailbox.capabilities.vouches):
        answers = await answers_in(mailbox, state, policy, listing.envelopes)
    returns = mailbox.capabilities.keeps_done
    found = see(listing, state, policy, open_ids, returns=returns, answers=answers)
    stranded = await _without_way_back(mailbox, found.candidates)
    if not stranded:
        return found
    lost = {strand.envelope.id for strand in stranded}
    candidates = tuple(one for one in found.candidates if one.envelope.id not in lost)
    return Look(candidates, (*found.actions, *stranded))


async def _without_way_back(mailbox: Mailbox, candidates: Iterable[Candidate]) -> list[Strand]:
    """Of what names a way back. Whether a plain sender can be answered, `claim` finds out when it is to run."""
    ways: dict[tuple[str, str], Route | NoWay | None] = {}
    stranded = []
    for envelope in (one.envelope for one in candidates if is_owed_an_answer(one)):
        if not envelope.reply_to:
            continue
        end = (envelope.reply_to, envelope.sender)
        if end not in ways:
            ways[end] = await mailbox.way_back(envelope)
        if isinstance(way := ways[end], NoWay):
            stranded.append(Strand(envelope, way.why))
    return stranded


def is_owed_an_answer(candidate: Candidate) -> bool:
    """What is ours already is worked on in any case, and its answer kept should there be no way back."""
    return candidate.retry is None and wants_answer(candidate.envelope)


def see(
    listing: Listing,
    state: State,
    policy: WatchPolicy,
    open_ids: Collection[str],
    *,
    returns: bool = True,
    answers: Mapping[str, Said] = MappingProxyType({}),
) -> Look:
    """The same over a listing that is there already. `returns`: what is done and listed again, somebody put back;
    `answers`: what of it answers questions.
    """
    actions: list[Action] = [PutAway(item) for item in listing.unreadable]
    candidates: list[Candidate] = []
    seen = set(open_ids)
    stuck = state.stuck.waiting
    listed_only: dict[str, RetryEntry] = {}
    held = state.held.waiting
    asks = bool(policy.who.allow or policy.who.deny)
    dues = cache(lambda: state.approvals.dues(state.folder.clock.now()))
    for entry in state.retries.all():
        if entry.listed_only and entry.envelope.id not in open_ids:
            listed_only[entry.envelope.id] = entry
            continue
        if entry.envelope.id in state.processed:
            actions.append(DropRetry(entry.envelope.id))
            continue
        seen.add(entry.envelope.id)
        if entry.envelope.id in open_ids or entry.envelope.id in stuck:
            continue
        if entry.envelope.id in held:
            if not entry.released:
                continue
            actions.append(LetGo(entry.envelope.id))
        if asks and not entry.released and (stop := stranger(entry.envelope, state, policy, ours=True)):
            actions.append(Hold(stop))
        else:
            candidates.append(_waiting(entry, state, policy, dues))
    settled = state.processed.among([*map(attrgetter("id"), listing.envelopes)])
    letters = state.dead_letters.among(settled) if settled else {}
    for envelope in listing.envelopes:
        if envelope.id in seen:
            continue
        seen.add(envelope.id)
        if envelope.id not in settled:
            if envelope.id in stuck:
                # It waits for a person, and its thread goes on without it.
                continue
            if envelope.automatic is Automatic.NOTICE:
                actions.append(PassBy(envelope))
            elif envelope.id in held:
                # Whoever wrote that down did not come to taking it, or the mailbox has forgotten.
                actions.append(Hold(Stop(envelope, Guard.WHO, "", "")))
            elif asks and (stop := stranger(envelope, state, policy)):
                actions.append(Hold(stop))
            elif envelope.id in answers:
                actions.append(Answered(envelope, answers[envelope.id]))
            elif (known := listed_only.pop(envelope.id, None)) is not None:
                candidates.append(_waiting(known, state, policy, dues))
            else:
                candidates.append(Candidate(envelope, state.retries.adopt(envelope)))
            continue
        letter = letters.get(envelope.id)
        # What another client gave up it leaves listed: nobody has put it back.
        another = letter is not None and _another(letter.envelope, envelope)
        if letter is None or not letter.turn_id or another or not returns or letter.put_back >= MOST_PUT_BACK:
            actions.append(SetAside(envelope))
        else:
            actions.append(Revive(envelope))
            candidates.append(Candidate(envelope, revival(state, envelope.id)))
    if not listing.more:
        # Somebody else has taken them.
        actions += [DropRetry(message_id) for message_id in listed_only]
    return Look(tuple(candidates), tuple(actions))


def stranger(envelope: Envelope, state: State, policy: WatchPolicy, *, ours: bool = False) -> Stop | None:
    """What `allow_from` and `deny_from` say to a message, if anything; a person's `held allow` overrules them."""
    why = policy.who.why_held(envelope)
    if not why or envelope.sender in state.lifts.standing.allowed or envelope.id in state.schedules.sent:
        return None
    return Stop(envelope, Guard.WHO, why, question_of(Guard.WHO, envelope.sender), ours)


def _waiting(entry: RetryEntry, state: State, policy: WatchPolicy, dues: Callable[[], Due]) -> Candidate:
    """`dues`: the folder of the questions is looked at where somebody has asked one."""
    moment = state.folder.clamp(entry.not_before, max(policy.retry_longest, policy.trouble_longest))
    if entry.asked:
        moment = max(moment, dues()(entry.asked))
    return Candidate(entry.envelope, msgspec.structs.replace(entry, not_before=moment))


def _another(known: Envelope | None, envelope: Envelope) -> bool:
    """Whether this is no message that was given up, but one that has its id."""
    return known is not None and (known.thread, known.sender) != (envelope.thread, envelope.sender)


class Doer:
    """Does what a look found is to be done. The caller holds the workdir's lock."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._left: set[str] = set()
        self.taken = 0
        """How many the last call has taken off the list, for a person or of his: what they hid moves up."""

    async def do(self, actions: Sequence[Action]) -> set[str]:
        """Returns the ids of what turned out to be none to run. Raises MailboxUnavailable and OSError."""
        state = self._room.state
        if state.stuck.waiting and state.stuck.unheard:
            await self._room.stuck.tell_unheard()
        none_to_run: set[str] = set()
        stops = [action.stop for action in actions if isinstance(action, Hold)]
        self.taken = await self._room.held.hold(stops) if stops else 0
        for action in actions:
            match action:
                case PutAway(item=item):
                    await self._room.stuck.unreadable(item)
                case SetAside(envelope=envelope):
                    await self._taken_off(envelope, self._room.stuck.listed_again(envelope))
                case PassBy(envelope=envelope):
                    # No turn remembers it: taken before it counts as settled, it would be nobody's after a crash
                    # between the two.
                    state.processed.add(envelope.id)
                    if await self._taken_off(envelope, self._take_and_end(envelope)):
                        state.log.emit(
                            EventName.MESSAGE_SKIPPED, message_id=envelope.id, thread=envelope.thread, why="notice"
                        )
                case Answered(envelope=envelope, said=said):
                    take_answer(state, self._room.notices, envelope, said)
                    state.processed.add(envelope.id)
                    # What it answers can go on now.
                    self.taken += 1
                    if await self._taken_off(envelope, self._take_and_end(envelope)):
                        state.log.emit(
                            EventName.MESSAGE_SKIPPED, message_id=envelope.id, thread=envelope.thread, why="answer"
                        )
                case Revive(envelope=envelope):
                    if await self._room.stuck.was_another(envelope):
                        none_to_run.add(envelope.id)
                    else:
                        take_up_again(state, (envelope.id,), put_back=True)
                case LetGo(message_id=message_id):
                    state.held.end([message_id], Ended.RELEASED)
                case DropRetry(message_id=message_id):
                    state.retries.remove(message_id)
                case Strand(envelope=envelope, why=why):
                    self._room.stuck.no_way_back(envelope, why)
        return none_to_run

    async def _take_and_end(self, envelope: Envelope) -> None:
        await self._room.mailbox.claim(envelope)
        await self._room.mailbox.done(envelope)

    async def _taken_off(self, envelope: Envelope, call: Awaitable[None]) -> bool:
        """One message that the mailbox does not take off its list holds up no other; it is told once."""
        try:
            await call
        except MailboxUnavailable as fault:
            if envelope.id not in self._left:
                self._left.add(envelope.id)
                self._room.log.emit(EventName.MAILBOX_TROUBLE, why=fault.message, fix=fault.fix or None)
            return False
        return True
