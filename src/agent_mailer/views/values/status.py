"""What a workdir does now, what waits there, and whether somebody has to look at it."""

from __future__ import annotations

from enum import StrEnum

from agent_mailer.views.values import Part, View
from agent_mailer.views.values.history import SpentView


class Problem(StrEnum):
    """What makes a workdir unhealthy: somebody has to do something, or its mail lies."""

    CONFIG = "config"
    NO_WATCHER = "no_watcher"
    WATCHER_HALTED = "watcher_halted"
    WATCHER_SILENT = "watcher_silent"
    TROUBLE = "trouble"
    MAILBOX = "mailbox"
    UNTRUSTED = "untrusted"
    PROGRAM = "program"
    SIGNED_OUT = "signed_out"
    OUTAGE = "outage"
    PAUSED = "paused"
    ANSWER_WAITS = "answer_waits"
    UNTOLD = "untold"
    DEAD_LETTERS = "dead_letters"
    STUCK = "stuck"
    STATE_DAMAGED = "state_damaged"
    UNREADABLE = "unreadable"


class ProblemView(Part, frozen=True):
    """`fix` is the command that fixes it; empty where there is none."""

    code: Problem
    text: str
    fix: str = ""


class QueuedView(View, frozen=True):
    ABOUT = "message_id"
    AGES = ("seconds",)

    message_id: str
    thread: str
    sender: str
    priority: str
    seconds: float


class MailboxView(Part, frozen=True):
    """`root` is the folder or the broker's URL; `waiting` leaves out what is settled or in work, and is None where
    nobody was asked; `problem` says why nothing is known. `queue` holds the oldest that wait, oldest first, where the
    mailbox tells them. `elsewhere` counts what lies in `cur` and never was this watcher's.
    """

    kind: str
    address: str
    root: str | None = None
    waiting: int | None = 0
    unreadable: int = 0
    problem: str | None = None
    queue: tuple[QueuedView, ...] = ()
    elsewhere: int = 0


class WatcherView(Part, frozen=True):
    """`seconds` is how long it has run; `halted`: it was stopped with a signal (SIGSTOP) and does nothing."""

    AGES = ("seconds",)

    running: bool
    pid: int | None = None
    version: str | None = None
    seconds: float | None = None
    halted: bool = False


class RunningView(View, frozen=True):
    ABOUT = "turn_id"
    AGES = ("seconds", "tool_seconds")

    turn_id: str
    message_id: str
    thread: str
    sender: str
    phase: str
    seconds: float
    doing: str = ""
    tool: str = ""
    tool_seconds: float | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    batch: tuple[str, ...] = ()


class SettlingView(View, frozen=True):
    """A turn that has ended, at `since`, and is not settled. `why` says what keeps its answer to `to` (its end alone
    where that is empty) from leaving now; it is empty where nothing does.
    """

    ABOUT = "turn_id"

    turn_id: str
    message_id: str
    thread: str
    sender: str
    since: float
    to: str = ""
    why: str = ""


class RetryView(View, frozen=True):
    """`not_before` is the moment of which `due_in_seconds` tells how far it is."""

    ABOUT = "message_id"
    AGES = ("due_in_seconds",)

    message_id: str
    thread: str
    attempts: int
    starts: int
    due_in_seconds: float
    last_outcome: str | None
    not_before: float = 0.0


class PauseView(Part, frozen=True):
    """`until` None = until `agent-mailer resume`; `guessed`: nobody has named that moment, we look again then."""

    reason: str
    since: float
    until: float | None
    detail: str
    guessed: bool = False


class TroubleView(Part, frozen=True):
    """What keeps the watcher from its work just now: the mailbox, its credentials, or the disk."""

    what: str
    since: float
    why: str
    fix: str


class ResultView(View, frozen=True):
    """How a turn ended; `at` is when it was judged."""

    ABOUT = "turn_id"

    turn_id: str
    message_id: str
    thread: str
    sender: str
    outcome: str
    at: float
    seconds: float
    cost_usd: float
    detail: str


class BlockedView(View, frozen=True):
    """A question that has no answer yet; `asked` is who has it."""

    ABOUT = "thread"

    thread: str
    message_id: str
    turn_id: str
    asked: str
    since: float
    question: str


class OfferedView(View, frozen=True):
    """Mail that waits for one of the live sessions `to` to take it, since `since`; the agent's own turn begins at
    `until`, or when all of them have gone.
    """

    ABOUT = "message_id"

    message_id: str
    to: tuple[str, ...]
    since: float
    until: float


class InTheWayView(View, frozen=True):
    """A file, or a pattern of files, that the agent's next turn wants and that `holder` has until `until`."""

    ABOUT = "path"

    path: str
    holder: str
    until: float


class Wake(StrEnum):
    """What the watcher waits for."""

    MAIL = "mail"
    TURN = "turn"
    RETRY = "retry"
    SCHEDULE = "schedule"
    OFFER = "offer"
    FILES = "files"
    PROBE = "probe"
    RESUME = "resume"
    TROUBLE = "trouble"


class WakeView(Part, frozen=True):
    """`at` None = at no moment that is known."""

    AGES = ("at",)

    why: Wake
    at: float | None = None


class StuckCountView(Part, frozen=True):
    """How much is stuck for one reason."""

    reason: str
    count: int


class HeldCountView(Part, frozen=True):
    """How much mail one guard holds."""

    guard: str
    count: int


class AskedView(Part, frozen=True):
    """A question to a person whether a call of a tool may be; its mail waits until `until`."""

    question: str
    tool: str
    thread: str
    message_id: str
    at: float
    until: float


class ScheduleView(View, frozen=True):
    """Mail that a person sends by the clock: `next_at` is None where no instant comes any more, `sending` is the one
    that is due, `last_message` the last that left, at `sent_at`. `why`: it would not leave now,
    or did not the last time.
    """

    ABOUT = "name"

    name: str
    cron: str
    zone: str
    subject: str
    body: str
    thread: str
    next_at: float | None
    sending: float | None = None
    last_message: str = ""
    why: str = ""
    sent_at: float | None = None


class StatusView(View, frozen=True):
    """A workdir now. `next_wake` is None where no watcher runs; `today` is the day in UTC; `last_events` as
    logged; `stuck` counts what was given up, too; `held` is no problem: it waits for a person, or for ever; `sandbox`
    is the kind that stands around a turn; `untrusted` names keys and templates that do not count as they are;
    `settling` are turns that are open, though nothing of them runs any more; `unknown` are keys of the configuration
    that nothing here knows; `asked` waits for a person's yes, which is no problem, and of which the agent may give
    itself one where it is `self_approving`; `offered` waits for a live session; `in_the_way` is what
    waiting mail needs and others have reserved; `uncounted` are limits that hold nothing, since the agent program does
    not count what they are of; `stopped` is the command that starts its team, which a person has stopped.
    """

    ABOUT = "workdir"

    workdir: str
    agent: str
    runtime: str | None
    healthy: bool
    problems: tuple[ProblemView, ...]
    watcher: WatcherView
    mailbox: MailboxView
    running: tuple[RunningView, ...]
    retries: tuple[RetryView, ...]
    blocked: tuple[BlockedView, ...]
    dead_letters: int
    pause: PauseView | None
    trouble: TroubleView | None
    results: tuple[ResultView, ...]
    today: SpentView
    next_wake: WakeView | None
    last_events: tuple[dict[str, object], ...]
    stuck: tuple[StuckCountView, ...] = ()
    sandbox: str = "off"
    untrusted: tuple[str, ...] = ()
    held: tuple[HeldCountView, ...] = ()
    asked: tuple[AskedView, ...] = ()
    self_approving: bool = False
    settling: tuple[SettlingView, ...] = ()
    schedules: tuple[ScheduleView, ...] = ()
    unknown: tuple[str, ...] = ()
    offered: tuple[OfferedView, ...] = ()
    in_the_way: tuple[InTheWayView, ...] = ()
    uncounted: tuple[str, ...] = ()
    stopped: str = ""


class FaultView(View, frozen=True):
    """A workdir that cannot be looked at."""

    ABOUT = "workdir"

    workdir: str
    problems: tuple[ProblemView, ...]
    healthy: bool = False


class AllView(Part, frozen=True):
    """Every workdir of a user, those first that need a person."""

    healthy: bool
    workdirs: tuple[StatusView | FaultView, ...]


class DifferenceView(Part, frozen=True):
    """`name` is a key, or `templates/` and a file; `trusted` is what counts, `there` what the workdir says, each on one
    line; `lines` tell more of a template or a table.
    """

    name: str
    trusted: str
    there: str
    lines: tuple[str, ...] = ()


class TrustView(View, frozen=True):
    """`trusted` is false where something does not count as it is there; `basis` is why what counts does; `hash` is that
    of what is there, for the environment variable AGENT_MAILER_TRUST.
    """

    ABOUT = "workdir"

    workdir: str
    trusted: bool
    basis: str
    why: str
    hash: str
    differences: tuple[DifferenceView, ...] = ()
