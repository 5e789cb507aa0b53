"""What happened in a workdir, and what is kept of it: turns, threads, sessions, dead letters, notes, the log."""

from __future__ import annotations

import msgspec

from agent_mailer.views.values import Part, View


class SpentView(Part, frozen=True):
    """What turns took together: seconds, tokens, US dollars as far as the agent program counts them."""

    turns: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cost_usd: float


class SpendingView(Part, frozen=True):
    """What turns took since the day `since` (UTC): `rows` by what `by` says, each a name and a sum."""

    by: str
    since: str
    rows: tuple[tuple[str, SpentView], ...]
    total: SpentView


class SentView(Part, frozen=True):
    """What left from a turn, or did not, and why: `delivered`, `pending`, `refused`, `dropped`, or `kept` (the turn
    failed for good).
    """

    id: str
    to: str
    state: str
    why: str


class TurnView(View, frozen=True):
    """A turn, open or settled. Until it has ended, `outcome` and what follows up to the cost is None.

    `batch`: further messages that it was handed. `waits`: why it has ended and is not settled, and with an answer for
    whom.
    """

    ABOUT = "turn_id"

    turn_id: str
    message_id: str
    thread: str
    sender: str = msgspec.field(name="from")
    runtime: str
    attempt: int
    phase: str
    settled: bool
    outcome: str | None
    detail: str | None
    seconds: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    claimed_at: float
    batch: tuple[str, ...]
    waits: str

    @property
    def state(self) -> str:
        """The outcome of a settled turn, the phase of an open one, which may have to wait."""
        if self.waits and not self.settled:
            return "waits to settle"
        return self.outcome if self.outcome is not None and self.settled else self.phase


class WholeTurnView(TurnView, frozen=True):
    """A turn with all that is known of it. `resumed` is the session it went on in, `session` the one it left; `touched`
    one line on what changed of others' reserved files meanwhile.
    """

    resumed: str | None
    pid: int | None
    stopped: str | None
    session: str | None
    question: str | None
    sent: tuple[SentView, ...]
    folder: str
    started_at: float | None
    touched: str


class MessageView(View, frozen=True):
    """A message without its text; `created` is ISO 8601. The last three are what it names of the way back."""

    ABOUT = "id"

    id: str
    thread: str
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...]
    created: str
    subject: str
    kind: str | None
    priority: str
    automatic: str
    refs: tuple[str, ...]
    labels: tuple[str, ...]
    reply_to: str
    reply_project: str
    from_project: str


class WaitingView(View, frozen=True):
    """A message of a thread that is to be tried again."""

    ABOUT = "message_id"

    message_id: str
    attempts: int
    not_before: float | None


class ThreadView(View, frozen=True):
    """A thread's story. `messages` are those that the mailbox has, oldest first, `unlisted` what only turns still tell
    of; `mailbox_problem`: why the mailbox could not be asked; `dead_letters` are ids of messages.
    """

    ABOUT = "thread"

    thread: str
    messages: tuple[MessageView, ...]
    mailbox_problem: str | None
    turns: tuple[WholeTurnView, ...]
    waiting: tuple[WaitingView, ...]
    dead_letters: tuple[str, ...]
    spent: SpentView
    unlisted: tuple[MessageView, ...]


class SessionView(View, frozen=True):
    """The agent program's session of a thread; moments are ISO 8601, `bytes` what its turns have printed."""

    ABOUT = "thread"

    thread: str
    session_id: str
    runtime: str
    turns: int
    bytes: int
    generation: int
    first_seen_at: str
    last_used_at: str


class AttemptView(Part, frozen=True):
    turn_id: str
    outcome: str
    detail: str
    at: float


class DeadLetterView(View, frozen=True):
    """A message given up; `stuck_at` and `created` are ISO 8601. Other clients leave out what they do not know."""

    ABOUT = "message_id"

    message_id: str
    thread: str
    sender: str | None = msgspec.field(name="from")
    retries: int
    outcome: str | None
    last_error: str
    stuck_at: str
    turn_id: str
    history: tuple[AttemptView, ...]
    created: str | None


class HeldView(View, frozen=True):
    """Mail that waits until a person says what is to become of it; `guard` is who holds it, `at` since when."""

    ABOUT = "message_id"

    message_id: str
    guard: str
    why: str
    at: float
    thread: str
    sender: str = msgspec.field(name="from")
    created: float = 0.0


class ApprovalView(View, frozen=True):
    """A question to a person whether a call may be; `act` is it word for word, `beside` the rest of its input as JSON
    where `act` is a command alone, `said` the agent's words on it.

    `state` is asked, answered, granted, used or settled; `verdict`, `reason`, `by` and `answered_at` are those of the
    answer. `code` is what answers it, while it waits.
    """

    ABOUT = "question"

    question: str
    state: str
    tool: str
    act: str
    said: str
    message_id: str
    thread: str
    turn_id: str
    folder: str
    asked_at: float
    expires_at: float
    sender: str = msgspec.field(name="from")
    code: str = ""
    verdict: str | None = None
    reason: str = ""
    by: str | None = None
    answered_at: float | None = None
    changed: str = ""
    beside: str = ""


class StandingView(View, frozen=True):
    """A call that a person has allowed for good, since `since`."""

    ABOUT = "question"

    question: str
    tool: str
    act: str
    since: float
    beside: str = ""


class LimitView(View, frozen=True):
    """One limit of the day: `limit` as it counts now, `taken` of it (with what is reserved for turns under way);
    `raised`: a person has set it so until the day ends. `taken` is None for limits of a thread or a sender; `others` is
    how much of it agents of the same `share` took. `turns_per_hour` is of the last hour. Not `counted`: the
    program tells nothing of it, and the limit holds nothing.
    """

    ABOUT = "name"

    name: str
    limit: float
    taken: float | None
    raised: bool
    until: float
    others: float = 0.0
    counted: bool = True


class StuckView(View, frozen=True):
    """Something that waits for a person; `reason` is why, `at` the moment since which. `to`, `text` and `turn_id`: what
    an agent wrote, where that did not leave.
    """

    ABOUT = "key"

    key: str
    reason: str
    why: str
    at: float
    message_id: str
    thread: str
    sender: str = msgspec.field(name="from")
    to: str = ""
    text: str = ""
    turn_id: str = ""


class NoteView(View, frozen=True):
    """One of the agent's notes; `modified` is a moment."""

    ABOUT = "name"

    name: str
    bytes: int
    modified: float


class NoteChangeView(View, frozen=True):
    """A change of a note: by which turn, for whose message; `how` is `tool`, `file` (written into the file itself while
    the turn ran), `refused` (the same, undone) or `by-hand`. `before` and `after` are null where there was none, or it
    is too large.
    """

    ABOUT = "id"

    id: str
    note: str
    at: float
    how: str
    turn_id: str
    thread: str
    sender: str = msgspec.field(name="from")
    before: str | None = None
    after: str | None = None


class NoteTextView(View, frozen=True):
    """What stands in a note; `thread` as it was asked for, None = the global note."""

    ABOUT = "file"

    thread: str | None
    file: str
    text: str


class LineView(View, frozen=True):
    """One line of the log: as it stands, and as a record (empty where it is none). No line ever changes."""

    raw: bytes
    record: dict[str, object]

    @property
    def key(self) -> str:
        return self.version
