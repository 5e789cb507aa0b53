"""The last look before a claim: may this message start a turn now? And the memory of what did.

The durable record of a claim is the count: it is folded again from the turns at the first look of a watcher, so that
neither a restart nor a reboot gives a fresh allowance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.mailbox.port import Envelope, Message
from agent_mailer.outcomes import Outcome
from agent_mailer.state import State
from agent_mailer.state.held import Guard
from agent_mailer.state.records import GUARDS, Counted, Pause, PauseReason, RetryEntry, TurnRecord
from agent_mailer.state.turns import shares
from agent_mailer.watch.guards.budgets import Ledger, Over, Shared, Spent, limit_today, midnight, of_the_day, shared_of
from agent_mailer.watch.guards.calm import wanted_pause
from agent_mailer.watch.guards.holding import Stop, question_of
from agent_mailer.watch.guards.rounds import Round, Rounds, begins_anew, ring_of
from agent_mailer.watch.probes import in_turn
from agent_mailer.watch.rules import Candidate, WatchPolicy

HOUR = 3600.0
_CALM = frozenset({PauseReason.QUIET_HOURS, PauseReason.MACHINE})


class Admitted(msgspec.Struct, frozen=True):
    """`go` may start now, `stops` are held; `pause` keeps the rest waiting."""

    go: tuple[Candidate, ...] = ()
    stops: tuple[Stop, ...] = ()
    pause: Pause | None = None


def ran(record: TurnRecord) -> bool:
    """Whether something of the turn ran, or still may."""
    return record.settlement is None or record.process is not None


def counts_hourly(record: TurnRecord) -> bool:
    """Whether `turns_per_hour` counts it: what a person is known to want it does not."""
    return record.counted is None or not record.counted.free


class Gate:
    def __init__(
        self, state: State, policy: Callable[[], WatchPolicy], clock: Clock, address: str, *, looks_only: bool = False
    ) -> None:
        """`policy` gives the one that counts now: another one is folded anew. `looks_only`: nobody starts anything, so
        that those who share a day need not be told.
        """
        self._state = state
        self._current = policy
        self._policy = policy()
        self._clock = clock
        self._own = address
        self._looks_only = looks_only
        self._rounds: Rounds | None = None
        self._turns: deque[float] = deque()
        """When turns were claimed within the hour, the oldest first, but for those of a person who is known."""
        self._people: frozenset[str] = frozenset()
        self._texts: deque[str] = deque(maxlen=64)
        self._last_turn = 0.0
        self.went_through = 0.0
        """When a turn last ended in another way than in a pause."""
        self._ledger: Ledger | None = None
        self._shared: Shared | None = None

    def admit(self, candidates: Sequence[Candidate], now: float) -> Admitted:
        """Judge heads of threads in their order; each that goes is to be claimed, or put back. Raises OSError where the
        turns cannot be read now, or those who share the day not be told: then none goes.
        """
        try:
            return self._admit(candidates, now)
        except BaseException:
            for candidate in candidates:
                self.put_back(candidate.envelope)
            raise

    def _admit(self, candidates: Sequence[Candidate], now: float) -> Admitted:
        rounds = self._known(now)
        if candidates and (calm := self.calm(now)) is not None:
            return Admitted(pause=calm)
        go: list[Candidate] = []
        stops: list[Stop] = []
        bound, hourly = 0, None
        for candidate in candidates:
            envelope, retry = candidate.envelope, candidate.retry
            released = retry is not None and retry.released
            if not released and not self._is_persons(envelope) and not (retry is not None and retry.history):
                fresh = begins_anew(envelope, now)
                verdict = None if fresh else rounds.judge(envelope, rounds.depth_of(envelope), now)
                if verdict is not None:
                    ours = retry is not None and not retry.listed_only
                    about = question_of(verdict.guard, verdict.about)
                    stops.append(Stop(envelope, verdict.guard, verdict.why, about, ours))
                    continue
            free = self._is_free(candidate)
            if not free and (hourly := hourly or self._too_many(bound, now)) is not None:
                # Behind it there may be what a person wants.
                continue
            if self._ledger is not None and (over := self._over(self._ledger, envelope, now)) is not None:
                if over.whose == "day":
                    ended = Pause(PauseReason.BUDGET, now, midnight(now, 1), over.why)
                    return Admitted(tuple(go), tuple(stops), ended)
                if not released:
                    about = question_of(Guard.BUDGET, over.key, getattr(envelope, over.whose))
                    stops.append(
                        Stop(envelope, Guard.BUDGET, over.why, about, retry is not None and not retry.listed_only)
                    )
                    continue
            go.append(candidate)
            bound += not free
        return Admitted(tuple(go), tuple(stops), hourly)

    @contextmanager
    def until_begun(self, go: Sequence[Candidate]) -> Iterator[deque[Candidate]]:
        """What was admitted, each to be taken out once it is begun: what is left then is put back."""
        left = deque(go)
        try:
            yield left
        finally:
            for candidate in left:
                self.put_back(candidate.envelope)

    def past(self, pause: Pause | None, ready: list[Candidate]) -> tuple[Pause | None, list[Candidate]]:
        """What of `ready` the pause lets by, and the pause that counts for that: too many turns are no person's."""
        if pause is None:
            return None, ready
        if pause.reason is not PauseReason.TOO_MANY_TURNS:
            return pause, in_turn(ready)
        return None, [candidate for candidate in ready if self._is_free(candidate)]

    def calm(self, now: float) -> Pause | None:
        """The pause that hours or the machine ask for, whoever waits."""
        policy = self._current()
        return wanted_pause(policy.guards.calm, policy.workdir, now) if policy.guards.calm is not None else None

    def beside(self, head: Envelope, batch: Sequence[Envelope], now: float) -> tuple[Envelope, ...]:
        """Of what would go into the turn of `head` with it, as much as no guard stops: the rest is judged by itself.

        A turn is charged to one sender, and to a person or to none. Raises OSError where the turns cannot be read now.
        """
        rounds = self._known(now)
        found: list[Envelope] = []
        for envelope in batch:
            if self._is_known(envelope) != self._is_known(head):
                break
            if self._ledger is not None and envelope.sender != head.sender:
                break
            anew = self._is_persons(envelope) or begins_anew(envelope, now)
            if not anew and rounds.judge(envelope, rounds.depth_of(envelope), now) is not None:
                break
            found.append(envelope)
        return tuple(found)

    def pause(self, known: Pause | None, now: float, wanted: Pause | None = None) -> Pause | None:
        """What counts after a guard's pause has run out, or `wanted` has begun. Raises OSError."""
        pauses = self._state.pause
        if wanted is not None and (known is None or known.reason is wanted.reason):
            wanted = wanted if known is None else msgspec.structs.replace(wanted, since=known.since)
            pauses.begin(wanted)
            return wanted
        if known is None or known.reason not in GUARDS:
            return known
        again = self._still_calm(known, now) if known.reason in _CALM else known
        if again is None or (again is known and not self._stands(known, now)):
            pauses.lift(known)
            return None
        if again != known:
            pauses.write(again)
        return again

    def _still_calm(self, known: Pause, now: float) -> Pause | None:
        """It may last longer than it was to, or end sooner. Nobody has to hear of that each minute."""
        until = known.until or 0.0
        if known.reason is PauseReason.MACHINE and until > now and self._current().guards.calm is not None:
            return known
        again = self.calm(now)
        return msgspec.structs.replace(again, since=known.since) if again and again.reason is known.reason else None

    def _stands(self, pause: Pause, now: float) -> bool:
        """Whether its time is not up, and nobody has switched off or raised what it came of."""
        if pause.until is None or pause.until <= now:
            return False
        self._known(now)
        if pause.reason is PauseReason.TOO_MANY_TURNS:
            return self._too_many(0, now) is not None
        if pause.reason is PauseReason.BUDGET:
            ledger, shared = self._ledger, self._shared
            others = shared.others(now) if shared is not None else Spent()
            return ledger is not None and ledger.day_over(now, self._limit, others) is not None
        return True

    def counted(self, envelope: Envelope, retry: RetryEntry | None) -> Counted:
        """What the record of a claim says for the guards."""
        now = self._clock.now()
        known = self._known(now)
        person = (retry is not None and retry.released) or self._is_persons(envelope)
        depth = 0 if person or begins_anew(envelope, now) else known.depth_of(envelope)
        return Counted(depth, person=person, free=self._is_free(Candidate(envelope, retry)))

    def claimed(self, record: TurnRecord) -> None:
        """It is durable, and counts."""
        self._note(record)

    def taken(self, record: TurnRecord, message: Message) -> Message:
        """The message as the turn gets it: what a person has said, or what lay long, begins a chain anew."""
        counted = record.counted
        if counted is None:
            return message
        if not message.body.strip() or record.digest in self._texts:
            record.counted = msgspec.structs.replace(counted, double=True)
            self._note_round(record)
        self._texts.append(record.digest)
        envelope = message.envelope
        if (envelope.hops or envelope.visited) and (counted.person or begins_anew(envelope, record.claimed_at)):
            return msgspec.structs.replace(message, envelope=msgspec.structs.replace(envelope, hops=0, visited=()))
        return message

    def nothing_ran(self, record: TurnRecord) -> None:
        """It was never ours, or its program never started: that was no turn."""
        if record.claimed_at in self._turns:
            self._turns.remove(record.claimed_at)
        if self._ledger is not None:
            self._ledger.forget(record)
            self._share(self._clock.now())

    def put_back(self, envelope: Envelope) -> None:
        """Where it was admitted, and is not claimed all the same, it takes nothing of the day."""
        if self._ledger is not None and self._ledger.put_back(envelope):
            self._share(self._clock.now())

    def last_turn(self, now: float) -> float:
        """When a turn was claimed last. One that a clock which was set back has left ahead counts as of the first look
        after that.
        """
        self._last_turn = min(self._last_turn, now)
        return self._last_turn

    def settled(self, record: TurnRecord) -> None:
        """What it took is known, what it has written, and whether the way is clear."""
        done = record.settlement
        if done is not None and not done.outcome.pauses and done.outcome is not Outcome.INTERRUPTED:
            self.went_through = max(self.went_through, done.decided_at)
        self._goes_on_elsewhere(record)
        if self._ledger is not None:
            self._ledger.note(record)
            self._share(self._clock.now())

    def _is_persons(self, envelope: Envelope) -> bool:
        # Most people have a plain name, and every mail asks this.
        sender = envelope.sender
        if sender in self._people or (len(self._people) > 0 and self._policy.who.is_person(sender)):
            return True
        return self._is_scheduled(envelope)

    def _is_scheduled(self, envelope: Envelope) -> bool:
        return bool(self._policy.schedules) and envelope.id in self._state.schedules.sent

    def _is_wanted(self, envelope: Envelope) -> bool:
        """Whether a person is known to want it."""
        return envelope.sender in self._policy.who.vouched or self._is_scheduled(envelope)

    def _is_free(self, candidate: Candidate) -> bool:
        """Whether `turns_per_hour` does not count it."""
        released = candidate.retry is not None and candidate.retry.released
        return released or self._is_wanted(candidate.envelope)

    def _is_known(self, envelope: Envelope) -> tuple[bool, bool]:
        return self._is_persons(envelope), self._is_wanted(envelope)

    def _too_many(self, more: int, now: float) -> Pause | None:
        limit = self._policy.guards.turns_per_hour
        if not limit:
            return None
        turns = self._turns
        while turns and turns[0] <= now - HOUR:
            turns.popleft()
        if len(turns) + more < limit:
            return None
        limit = int(self._state.lifts.raised("turns_per_hour") or limit)
        if len(turns) + more < limit:
            return None
        # A clock that was set back has left moments ahead of it.
        oldest = min(turns[len(turns) - limit] if len(turns) >= limit else now, now)
        more_today = f"agent-mailer limits raise turns_per_hour {2 * limit} --today"
        detail = f"{limit} turns within an hour (guards.turns_per_hour; more today: {more_today})"
        return Pause(PauseReason.TOO_MANY_TURNS, now, oldest + HOUR, detail)

    def _known(self, now: float) -> Rounds:
        policy = self._current()
        if self._rounds is None or policy is not self._policy:
            self._policy = policy
            self._people = frozenset(policy.who.people) - {self._own}
            self._rounds = Rounds(self._own, policy.guards)
            self._turns.clear()
            self._ledger = Ledger(policy.budget) if policy.budget.limits else None
            self._shared = shared_of(policy.budget, self._state.folder.workdir, self._state.folder.disk)
            for record in of_the_day(self._state.turns, now):
                if not record.resends and ran(record):
                    self._note(record)
            self._share(now)
        return self._rounds

    def _over(self, ledger: Ledger, envelope: Envelope, now: float) -> Over | None:
        """Where it is not, its turn is reserved. Raises OSError."""
        if self._shared is None or self._looks_only:
            others = self._shared.others(now) if self._shared is not None else Spent()
            over = ledger.over(now, envelope, self._limit, others)
            if over is None:
                ledger.reserve(envelope, now)
            return over
        with self._shared.alone():
            over = ledger.over(now, envelope, self._limit, self._shared.others(now))
            if over is None:
                ledger.reserve(envelope, now)
                self._shared.write(now, ledger.today(now))
        return over

    def _share(self, now: float) -> None:
        """Have those that share the day know what is taken here; before the next turn it is written in any case."""
        if self._shared is None or self._ledger is None or self._looks_only:
            return
        spent = self._ledger.today(now)
        if spent.turns or self._shared.own(now).turns:
            with suppress(OSError):
                self._shared.write(now, spent)

    def _limit(self, key: str) -> float:
        return limit_today(self._policy.budget, key, self._state.lifts.raised(key))

    def _note(self, record: TurnRecord) -> None:
        self._last_turn = max(self._last_turn, record.claimed_at)
        if counts_hourly(record):
            self._turns.append(record.claimed_at)
        for one in shares(record) if record.batch else (record,):
            self._note_round(one)
            if one.digest:
                self._texts.append(one.digest)
        self._goes_on_elsewhere(record)
        if self._ledger is not None:
            self._ledger.note(record)

    def _goes_on_elsewhere(self, record: TurnRecord) -> None:
        """Where a person's turn has written, his chain goes on: what comes back without one is no further round."""
        if self._rounds is None or record.settlement is None or record.counted is None or not record.counted.person:
            return
        for thread in {entry.item.thread for entry in record.settlement.items} - {record.envelope.thread}:
            self._rounds.note(Round(record.claimed_at, thread, "", 0, person=True))

    def _note_round(self, record: TurnRecord) -> None:
        counted, envelope = record.counted or Counted(0), record.envelope
        rounds = self._known(record.claimed_at)
        if counted.person and envelope.thread not in rounds.threads:
            # Most mail is a person's, and nothing is to be forgotten for it.
            return
        ring = ring_of(envelope, self._own)
        sender, double, person = envelope.sender, counted.double, counted.person
        at, thread, answers = record.claimed_at, envelope.thread, envelope.answers
        rounds.note(Round(at, thread, sender, counted.depth, double, person, ring, answers))
