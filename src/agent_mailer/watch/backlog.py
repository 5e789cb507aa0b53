"""What is still to be done: what the mailbox lists plus what is ours already, minus what is settled or open."""

from __future__ import annotations

from collections.abc import Set

import msgspec

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Envelope, MailboxUnavailable, Unreadable
from agent_mailer.state.records import RetryEntry
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import Candidate

LIST_LIMIT = 1000
"""The oldest thousand decide what runs next; the rest moves up."""


class Backlog:
    """Reads what is pending, and puts away what must not be."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._next_prune = 0.0
        self._stuck: set[str] = set()
        self._hold_until = 0.0

    @property
    def hold_remaining(self) -> float:
        """Seconds for which nothing is offered."""
        return max(0.0, self._hold_until - self._room.clock.monotonic())

    def hold_off(self, seconds: float) -> None:
        """Offer nothing for a while: a claim has just failed, and the next would."""
        self._hold_until = self._room.clock.monotonic() + seconds

    async def candidates(self, open_ids: Set[str]) -> list[Candidate]:
        """Raises MailboxUnavailable and OSError."""
        room = self._room
        listing = await room.mailbox.pending(LIST_LIMIT)
        for item in listing.unreadable:
            await self._reject(item)
        ours = {entry.envelope.id: entry for entry in self._retries()}
        found = [Candidate(entry.envelope, entry) for entry in ours.values() if entry.envelope.id not in open_ids]
        seen = set(ours) | set(open_ids)
        for envelope in listing.envelopes:
            if envelope.id in seen:
                continue
            seen.add(envelope.id)
            candidate = await self._admit(envelope)
            if candidate is not None:
                found.append(candidate)
        return found

    def prune_when_due(self, every: float) -> None:
        now = self._room.clock.monotonic()
        if now < self._next_prune:
            return
        self._next_prune = now + every
        state = self._room.state
        needed = {entry.envelope.id for entry in state.retries.all()}
        state.turns.prune(self._room.policy.keep_transcripts, needed)

    def _retries(self) -> list[RetryEntry]:
        state = self._room.state
        kept: list[RetryEntry] = []
        for entry in state.retries.all():
            if entry.envelope.id in state.processed:
                # Settled after this entry was written; the settlement's own removal was lost.
                state.retries.remove(entry.envelope.id)
                continue
            moment = state.folder.clamp(entry.not_before, self._room.policy.retry_longest)
            kept.append(msgspec.structs.replace(entry, not_before=moment))
        return kept

    async def _admit(self, envelope: Envelope) -> Candidate | None:
        """A listed message that may run: not settled, no notice. A dead one that somebody put back is run again."""
        state = self._room.state
        if envelope.id in state.processed:
            letter = state.dead_letters.find(envelope.id)
            # What another client gave up it leaves listed: nobody has put it back.
            if letter is None or not letter.turn_id:
                await self._room.mailbox.set_aside(envelope)
                self._room.log.emit(EventName.MESSAGE_SET_ASIDE, message_id=envelope.id, thread=envelope.thread)
                return None
            apply(state, Request(Verb.DEAD_LETTER_RETRY, (envelope.id,)))
            entry = state.retries.get(envelope.id)
            return Candidate(envelope, entry)
        if envelope.automatic is Automatic.NOTICE:
            await self._pass_by(envelope)
            return None
        return Candidate(envelope, state.retries.adopt(envelope))

    async def _pass_by(self, envelope: Envelope) -> None:
        """A notice never starts a turn: it is taken and done. It stays in the mailbox for people to read."""
        room = self._room
        # No turn remembers it: taken before it counts as settled, it would be nobody's after a crash between the two.
        room.state.processed.add(envelope.id)
        await room.mailbox.claim(envelope)
        await room.mailbox.done(envelope)
        room.log.emit(EventName.MESSAGE_SKIPPED, message_id=envelope.id, thread=envelope.thread, why="notice")

    async def _reject(self, item: Unreadable) -> None:
        """What cannot even be put away is told once and passed over: it blocks no neighbour."""
        why = item.why
        try:
            await self._room.mailbox.reject(item)
            self._stuck.discard(item.locator)
        except MailboxUnavailable as fault:
            if item.locator in self._stuck:
                return
            self._stuck.add(item.locator)
            why = f"{why}; it cannot be put away: {fault.message}"
        self._room.log.emit(EventName.MESSAGE_UNREADABLE, file=item.locator, why=why)
