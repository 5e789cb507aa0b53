"""The values kept in `.agent-mailer/`: what a turn, a retry, a session and a dead letter are on disk.

Moments are seconds since the epoch in our own records, ISO 8601 where another AMP client reads the same file.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent_mailer.approvals.calls import Call
from agent_mailer.mailbox.port import Draft, Envelope, Outgoing, Route
from agent_mailer.names import is_session_id
from agent_mailer.outcomes import Outcome, StopReason
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.reservations.port import Touched
from agent_mailer.runtimes.port import Usage
from agent_mailer.turn_tools.folder import NoteWrite


class Phase(StrEnum):
    """How far a turn has got. The order is the only one in which they occur."""

    CLAIMED = "claimed"
    RUNNING = "running"
    SETTLING = "settling"


class Sitter(msgspec.Struct, frozen=True):
    """A live session: what people know it by, and the process with which it ends."""

    who: str
    process: ProcessIdentity


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a message's history. `live`: a live session had it."""

    turn_id: str
    outcome: Outcome
    detail: str
    at: float
    live: bool = False


class Provisional(msgspec.Struct, frozen=True, omit_defaults=True):
    """The session of a turn that did not finish, kept for that message's own rerun only (I5).

    `spent` is the session's own sum of usage so far, where the runtime counts per session.
    """

    session_id: str
    runtime: str
    outcome: Outcome
    spent: Usage = Usage()


class RetryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that is ours and still to be done. `not_before` is the earliest next start.

    `attempts` counts failures of its own turns, `starts` every start whatever the outcome (I6). `sent` tells the rerun
    what left already, `dropped` how many staged items did not. `revision` grows with every settlement, so that an old
    one that is applied again takes nothing back.

    `fetches` counts claims in a row, since the moment `fetching_since`, that gave no message; with `listed_only` it was
    never ours, and is still to be done only while the mailbox lists it. `put_back`: how often it came back after it was
    given up. `released`: a person wants it worked on, whatever a guard says.

    `asked` names questions to a person: it waits until each is answered, and not for `not_before`. `by_prompt`: no call
    is pending in the session any more.
    """

    envelope: Envelope
    attempts: int = 0
    starts: int = 0
    not_before: float = 0.0
    history: tuple[Attempt, ...] = ()
    provisional: Provisional | None = None
    session_lost: bool = False
    sent: tuple[str, ...] = ()
    dropped: int = 0
    revision: int = 0
    fetches: int = 0
    fetching_since: float = 0.0
    listed_only: bool = False
    put_back: int = 0
    released: bool = False
    asked: tuple[str, ...] = ()
    by_prompt: bool = False

    @property
    def last_outcome(self) -> Outcome | None:
        return self.history[-1].outcome if self.history else None


class SessionEntry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A thread's session. Without `session_id` it was invalidated; `generation` grows with every change.

    `spent` is the session's own sum of usage so far, where the runtime counts per session.
    """

    session_id: str = ""
    turn_count: int = 0
    first_seen_at: str = ""
    last_used_at: str = ""
    runtime: str = ""
    transcript_bytes: int = 0
    generation: int = 0
    spent: Usage = Usage()


class SessionChange(msgspec.Struct, frozen=True):
    """What a settlement writes for a thread, if its generation still is `expected`."""

    thread: str
    expected: int
    entry: SessionEntry


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message given up. The first five names are those that other AMP clients write."""

    msg_id: str
    thread_id: str = ""
    retries: int = 0
    last_error: str = ""
    stuck_at: str = ""
    turn_id: str = ""
    outcome: Outcome | None = None
    envelope: Envelope | None = None
    history: tuple[Attempt, ...] = ()
    put_back: int = 0


class TurnProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """`progress.json`: what a running turn does, for people who look. `doing` is one untrusted line; `at`, `tool_since`
    are moments; `usage` is this turn's own as far as known. Of a turn that has ended, `waits` says why its end, or its
    answer to `waits_for`, cannot be settled now.
    """

    at: float
    doing: str = ""
    tool: str = ""
    tool_since: float | None = None
    usage: Usage | None = None
    waits: str = ""
    waits_for: str = ""


class PauseReason(StrEnum):
    LIMITED = "limited"
    SIGNED_OUT = "signed_out"
    UNAVAILABLE = "unavailable"
    BY_HAND = "by_hand"
    TOO_MANY_TURNS = "too_many_turns"
    BUDGET = "budget"
    QUIET_HOURS = "quiet_hours"
    MACHINE = "machine"


GUARDS = frozenset({PauseReason.TOO_MANY_TURNS, PauseReason.BUDGET, PauseReason.QUIET_HOURS, PauseReason.MACHINE})
"""These a guard has begun, and ends by itself when the time is up: no turn has to find out."""


class Counted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a claim counts for the guards: how often its mail had come back here, since the last `person`.

    `double`: its text was there before, or is empty; `free`: a person who is known wants it.
    """

    depth: int = 0
    double: bool = False
    person: bool = False
    free: bool = False


class Pause(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why nothing is started now. `until` is when one probe may start; None = only a person ends it.

    `elsewhere`: another watcher on the account met it first, and tells the operator of it. `guessed`: nobody has named
    that moment, it is only when we look again.
    """

    reason: PauseReason
    since: float
    until: float | None = None
    detail: str = ""
    probes: int = 0
    elsewhere: bool = False
    guessed: bool = False


class AfterStop(StrEnum):
    """What becomes of a message whose turn a person stops."""

    RETRY = "retry"
    DROP = "drop"
    ASK = "ask"


class StopAsked(msgspec.Struct, frozen=True, omit_defaults=True):
    """`stop.json`: a person wants this turn to end. Durable before he hears so; `reason` is his own line."""

    then: AfterStop
    at: float
    reason: str = ""


class ItemState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    REFUSED = "refused"
    DROPPED = "dropped"
    """Not sent, and a person wants it no more."""
    KEPT = "kept"
    """Staged in a turn that did not end well, for a message that no turn follows for by itself."""


UNSENT = frozenset({ItemState.REFUSED, ItemState.KEPT})
"""These wait for a person, who has them sent or dropped."""


class SettledItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One outgoing item of a settlement. Only `state` and `why` change after the record is written.

    `draft`: it could not be composed, and what it was to be made of; `own`: a word of ours, which nobody waits for.
    `about`: the message it is for, where that is another of the turn's batch.
    """

    item: Outgoing
    state: ItemState = ItemState.PENDING
    why: str = ""
    draft: Draft | None = None
    own: bool = False
    about: str = ""


class Settlement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The one record that decides a turn. Nothing is decided after it; applying it twice equals applying it once.

    `finished`: the message is settled by it (done, blocked or dead); otherwise `retry` is set. `pause` is the account's
    pause from here on, None = none. `notes` are the agent's new texts where it ended well, else only kept for people.
    `asked` are the calls that a person is asked about until `asked_until`, `used` the answers that the turn used up.
    `model` is the one that answered, as the program calls it; empty where it did not say. `touched`: what changed of
    others' reserved files meanwhile.
    """

    outcome: Outcome
    detail: str
    decided_at: float
    seconds: float
    finished: bool
    items: tuple[SettledItem, ...] = ()
    usage: Usage | None = None
    session: SessionChange | None = None
    retry: RetryEntry | None = None
    dead: DeadLetter | None = None
    pause: Pause | None = None
    question: str = ""
    notes: tuple[NoteWrite, ...] = ()
    asked: tuple[Call, ...] = ()
    asked_until: float = 0.0
    used: tuple[str, ...] = ()
    model: str = ""
    touched: tuple[Touched, ...] = ()


class Batched(msgspec.Struct, frozen=True, omit_defaults=True):
    """A further message of a turn that was handed several: what was claimed, its way back, how it was settled.

    Of its settlement the items stand in the turn's own, `about` it, and so does what is the turn's as a whole: usage,
    session, pause, notes.
    """

    envelope: Envelope
    digest: str = ""
    content: str = ""
    route: Route | None = None
    settlement: Settlement | None = None
    counted: Counted | None = None


class TurnRecord(msgspec.Struct, omit_defaults=True):
    """`turn.json`: the turn's envelope, phase and settlement; the one redo log.

    `resume` is the session the turn goes on in, `fresh` the id chosen for a new one; `generation` the thread's session
    generation when it started; `starts` includes this turn; `rerun` is the retry entry as it was at the claim;
    `process` None = nothing ran. `resends` names the item of an earlier turn that this record, in which nothing ever
    runs, sends again; `digest` is that of the message's text, `content` of all that tells it from another under its id
    (an earlier version wrote none). `route` is the way of an answer as it was found
    before the claim, where it is not the mailbox's own; `no_way` says why no answer can leave. `batch`: the younger
    messages that the turn was handed with its own. `counted`: for guards. `live`: the session that has taken it.
    `has_events`: its stdout carries typed events (None: nothing ran, or an earlier version wrote none).
    """

    turn_id: str
    envelope: Envelope
    phase: Phase
    runtime: str
    claimed_at: float
    attempt: int = 1
    starts: int = 1
    generation: int = 0
    resume: str | None = None
    fresh: str | None = None
    rerun: RetryEntry | None = None
    process: ProcessIdentity | None = None
    started_at: float | None = None
    stopped: StopReason | None = None
    settlement: Settlement | None = None
    resends: str = ""
    digest: str = ""
    content: str = ""
    route: Route | None = None
    no_way: str = ""
    batch: tuple[Batched, ...] = ()
    counted: Counted | None = None
    live: Sitter | None = None
    has_events: bool | None = None


def is_sound(record: TurnRecord) -> bool:
    """Whether a watcher can have written the record: it speaks of its messages in one thread, and names sessions."""
    rerun = record.rerun
    if (record.settlement is not None) != (record.phase is Phase.SETTLING):
        return False
    if rerun is not None and not _is_of(rerun.envelope, record.envelope):
        return False
    named = [record.resume, record.fresh, _provisional_id(rerun)]
    if record.settlement is not None and (change := record.settlement.session) is not None:
        if change.thread != record.envelope.thread:
            return False
        named.append(change.entry.session_id or None)
    for envelope, settlement in (
        (record.envelope, record.settlement),
        *((other.envelope, other.settlement) for other in record.batch),
    ):
        if envelope.thread != record.envelope.thread:
            return False
        if settlement is not None:
            retry, dead = settlement.retry, settlement.dead
            if retry is not None and not _is_of(retry.envelope, envelope):
                return False
            if dead is not None and not (dead.msg_id == envelope.id and _is_of(dead.envelope or envelope, envelope)):
                return False
            named.append(_provisional_id(retry))
    return all(is_session_id(one) for one in named if one is not None)


def _is_of(one: Envelope, message: Envelope) -> bool:
    return (one.id, one.thread) == (message.id, message.thread)


def _provisional_id(retry: RetryEntry | None) -> str | None:
    return retry.provisional.session_id if retry is not None and retry.provisional is not None else None
