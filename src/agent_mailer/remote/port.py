"""What a watcher tells of its workdir to whoever operates it from elsewhere, what they ask of it, and over which port.

A report holds names, counts, moments and ids: never a command line, the text of a mail, or what a tool was told. All of
its words are text, so that who is older than the watcher can still read it. Moments are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from agent_mailer.remote.access import RemoteVerb

MOST_LISTED: Final = 50
"""So many of a kind are named in a report; the counts are of all."""

LONGEST_WORD: Final = 64
"""Characters."""

LONGEST_NAME: Final = 1024
"""Characters. What has a longer id is counted, and not named."""

LARGEST_REPORT: Final = 256 * 1024
"""Bytes, as JSON."""

MOST_TARGETS: Final = 100
LONGEST_REASON: Final = 500
MOST_LINES: Final = 50
LONGEST_LINE: Final = 1000

Word = Annotated[str, Meta(max_length=LONGEST_WORD)]
Name = Annotated[str, Meta(max_length=LONGEST_NAME)]
Moment = Annotated[float, Meta(ge=0, le=1e11)]
Number = Annotated[int, Meta(ge=0, le=2**53)]


class Standing(StrEnum):
    """What an agent does, in a word; the first that is true."""

    ENDED = "ended"
    SIGNED_OUT = "signed_out"
    TROUBLE = "trouble"
    PAUSED = "paused"
    LIMITED = "limited"
    OUTAGE = "outage"
    BUDGET = "budget"
    ASKS = "asks"
    WORKS = "works"
    QUEUED = "queued"
    IDLE = "idle"


class Working(msgspec.Struct, frozen=True, omit_defaults=True):
    """A turn: since when, on which tool since when. `settles`: its program has ended; `waits`: what it has to send, or
    its end, cannot leave.
    """

    turn_id: Name
    message_id: Name
    thread: Name
    since: Moment
    tool: Word = ""
    tool_since: Moment | None = None
    settles: bool = False
    waits: bool = False


class Resting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pause: why, and until when; None = until a person ends it. `guessed`: nobody has named that moment."""

    reason: Word
    since: Moment
    until: Moment | None = None
    guessed: bool = False


class Trouble(msgspec.Struct, frozen=True):
    """What keeps the watcher from its work."""

    what: Word
    since: Moment


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """What waits for a person's word: an agent's question, answered by mail in its thread, or, with a `tool`, whether a
    call of that may be, until a moment; `asked` is who got it.
    """

    id: Name
    thread: Name
    message_id: Name
    since: Moment
    asked: Name = ""
    tool: Word = ""
    until: Moment | None = None


class Stuck(msgspec.Struct, frozen=True, omit_defaults=True):
    """What waits for a person: why, and under which key of that reason it is retried, or a message's id is released."""

    reason: Word
    key: Name
    since: Moment
    thread: Name = ""
    message_id: Name = ""


class Scheduled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is sent by the clock: `when` is its cron line and zone, `next_at` None where no instant comes any more,
    `due` the instant that is to leave now. `sent` is the message that left last, `sent_at` when; `why` is a word for
    what keeps it from leaving.
    """

    name: Word
    when: Name
    next_at: Moment | None = None
    due: Moment | None = None
    sent: Name = ""
    sent_at: Moment | None = None
    why: Word = ""


class Counted(msgspec.Struct, frozen=True):
    word: Word
    many: Number


class Ended(msgspec.Struct, frozen=True):
    """How the last turn ended."""

    turn_id: Name
    message_id: Name
    thread: Name
    outcome: Word
    at: Moment
    seconds: float
    cost_usd: float


class Spent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sums of a day (UTC)."""

    day: Word = ""
    turns: Number = 0
    seconds: float = 0.0
    input_tokens: Number = 0
    output_tokens: Number = 0
    cost_usd: float = 0.0


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A workdir as its watcher knows it. `waiting` counts what is not begun, the oldest is of `oldest`; `retries` run
    again by themselves; `stuck` and `held` name the newest, their counts are of all; of `schedules` those that do not
    leave, then those that leave next. `seen` is the number of the last request that the watcher has had. `ended`: how
    the watcher left, empty while it watches.
    """

    version: Word
    remote: Word
    runtime: Word = ""
    since: Moment = 0.0
    working: tuple[Working, ...] = ()
    pause: Resting | None = None
    trouble: Trouble | None = None
    signed_out: Moment | None = None
    waiting: Number = 0
    oldest: Moment | None = None
    retries: Number = 0
    next_retry: Moment | None = None
    questions: tuple[Question, ...] = ()
    stuck: tuple[Stuck, ...] = ()
    stuck_counts: tuple[Counted, ...] = ()
    held: tuple[Stuck, ...] = ()
    held_counts: tuple[Counted, ...] = ()
    schedules: tuple[Scheduled, ...] = ()
    last: Ended | None = None
    today: Spent = Spent()
    seen: Number = 0
    ended: Word = ""

    @property
    def standing(self) -> Standing:
        """Says nothing of whether anybody still watches."""
        if self.ended:
            return Standing.ENDED
        reason = self.pause.reason if self.pause is not None else ""
        if self.signed_out is not None or reason == "signed_out":
            return Standing.SIGNED_OUT
        if self.trouble is not None:
            return Standing.TROUBLE
        if reason:
            return _OF_PAUSES.get(reason, Standing.PAUSED)
        if self.questions:
            return Standing.ASKS
        if self.working:
            return Standing.WORKS
        return Standing.QUEUED if self.waiting else Standing.IDLE

    @property
    def needs_somebody(self) -> bool:
        """Whether anything waits for a person."""
        stopped = self.trouble is not None or self.signed_out is not None or self.pause is not None
        waits = any(turn.waits for turn in self.working)
        withheld = any(one.why for one in self.schedules)
        return stopped or waits or withheld or bool(self.questions or self.stuck_counts or self.held_counts)


_OF_PAUSES: Mapping[str, Standing] = {
    "limited": Standing.LIMITED,
    "unavailable": Standing.OUTAGE,
    "budget": Standing.BUDGET,
}


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request from afar: its number, which only grows, who asks, and for how many seconds it still counts.

    `then`: what becomes of the message of a turn that is stopped: retry, drop or ask.
    """

    number: int
    verb: RemoteVerb
    person: str
    seconds: float
    targets: tuple[str, ...] = ()
    reason: str = ""
    then: Annotated[str, Meta(pattern=r"^(retry|drop|ask)\Z")] = "retry"


class Became(StrEnum):
    """What came of a request."""

    DONE = "done"
    REFUSED = "refused"
    EXPIRED = "expired"


class Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """`lines` are for people."""

    number: int
    became: Became
    lines: tuple[str, ...] = ()


class Remote(Protocol):
    """The way to whoever operates an agent from elsewhere. `asked` and `answer` may raise MailboxUnavailable."""

    def tell(self, report: Report) -> None:
        """Have it known, in place of any before. Never waits, never raises; of many the last counts."""

    async def asked(self) -> Sequence[Asked]:
        """Return when something may have been asked: all that waits, the oldest first, the same again until it is
        answered.
        """

    async def answer(self, answered: Answered) -> None:
        """Tell what came of it; once more changes nothing. Nobody wanting to know any more is no failure."""

    async def close(self, seconds: float) -> None:
        """Wait so long for the last report to leave."""
