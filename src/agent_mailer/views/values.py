"""What `status` knows of a workdir: the values that its JSON prints and its screen shows.

Moments are seconds since the epoch. Text that came from outside is as it came: the screen makes it printable.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Problem(StrEnum):
    """What makes a workdir unhealthy: somebody has to do something, or its mail lies."""

    NO_WATCHER = "no_watcher"
    WATCHER_HALTED = "watcher_halted"
    TROUBLE = "trouble"
    MAILBOX = "mailbox"
    SIGNED_OUT = "signed_out"
    PAUSED = "paused"
    DEAD_LETTERS = "dead_letters"
    STATE_DAMAGED = "state_damaged"
    UNREADABLE = "unreadable"


class ProblemView(msgspec.Struct, frozen=True):
    """`fix` is the command that mends it; empty where there is none."""

    code: Problem
    text: str
    fix: str = ""


class QueuedView(msgspec.Struct, frozen=True):
    message_id: str
    thread: str
    sender: str
    priority: str
    seconds: float


class MailboxView(msgspec.Struct, frozen=True):
    """`root` is the folder or the broker's URL; `waiting` leaves out what is settled or in work, and is None where
    nobody was asked; `problem` says why nothing is known. `queue` holds the oldest that wait, oldest first, where the
    mailbox tells them.
    """

    kind: str
    address: str
    root: str | None = None
    waiting: int | None = 0
    unreadable: int = 0
    problem: str | None = None
    queue: tuple[QueuedView, ...] = ()


class WatcherView(msgspec.Struct, frozen=True):
    """`seconds` is how long it has run; `halted`: it was stopped with a signal (SIGSTOP) and does nothing."""

    running: bool
    pid: int | None = None
    version: str | None = None
    seconds: float | None = None
    halted: bool = False


class TurnView(msgspec.Struct, frozen=True):
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


class RetryView(msgspec.Struct, frozen=True):
    message_id: str
    thread: str
    attempts: int
    starts: int
    due_in_seconds: float
    last_outcome: str | None


class PauseView(msgspec.Struct, frozen=True):
    """`until` None = until `agent-mailer resume`."""

    reason: str
    since: float
    until: float | None
    detail: str


class TroubleView(msgspec.Struct, frozen=True):
    """What keeps the watcher from its work just now: the mailbox, its credentials, or the disk."""

    what: str
    since: float
    why: str
    fix: str


class TodayView(msgspec.Struct, frozen=True):
    """Days are UTC."""

    turns: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cost_usd: float


class ResultView(msgspec.Struct, frozen=True):
    """How a turn ended; `at` is when it was judged."""

    turn_id: str
    message_id: str
    thread: str
    sender: str
    outcome: str
    at: float
    seconds: float
    cost_usd: float
    detail: str


class BlockedView(msgspec.Struct, frozen=True):
    """A question that has no answer yet; `asked` is who has it."""

    thread: str
    message_id: str
    turn_id: str
    asked: str
    since: float
    question: str


class Wake(StrEnum):
    """What the watcher waits for."""

    MAIL = "mail"
    TURN = "turn"
    RETRY = "retry"
    PROBE = "probe"
    RESUME = "resume"
    TROUBLE = "trouble"


class WakeView(msgspec.Struct, frozen=True):
    """`at` None = at no moment that is known."""

    why: Wake
    at: float | None = None


class StatusView(msgspec.Struct, frozen=True):
    """What `status --json` prints. `next_wake` is None where no watcher runs."""

    workdir: str
    agent: str
    runtime: str | None
    healthy: bool
    problems: tuple[ProblemView, ...]
    watcher: WatcherView
    mailbox: MailboxView
    running: tuple[TurnView, ...]
    retries: tuple[RetryView, ...]
    blocked: tuple[BlockedView, ...]
    dead_letters: int
    pause: PauseView | None
    trouble: TroubleView | None
    results: tuple[ResultView, ...]
    today: TodayView
    next_wake: WakeView | None
    last_events: tuple[dict[str, object], ...]


class FaultView(msgspec.Struct, frozen=True):
    """A workdir that cannot be looked at, in `status --all --json`."""

    workdir: str
    problems: tuple[ProblemView, ...]
    healthy: bool = False


class AllView(msgspec.Struct, frozen=True):
    """What `status --all --json` prints: those first that need a person."""

    healthy: bool
    workdirs: tuple[StatusView | FaultView, ...]
