"""What happened, as one stable vocabulary; the log file and whoever else listens get the same records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from agent_mailer.beneath import is_there, status
from agent_mailer.clock import Clock, iso
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.names import printable, prompt_word, running_on

ROTATE_AT_BYTES = 5 * 1024 * 1024
"""A watcher that settles a message a minute fills this in about a week."""

KEEP_ROTATED = 3
SHOWN = 200
"""Characters of a subject or a question; a terminal cuts them to its width."""

Value = str | int | float | bool | None


class EventName(StrEnum):
    """Every event there is; names are never reused for another meaning (SPEC 8.6)."""

    WATCH_STARTED = "watch_started"
    WATCH_STOPPING = "watch_stopping"
    WATCH_STOPPED = "watch_stopped"
    WATCH_HANDED_OVER = "watch_handed_over"
    WATCH_GONE = "watch_gone"
    MESSAGE_UNREADABLE = "message_unreadable"
    MESSAGE_SET_ASIDE = "message_set_aside"
    MESSAGE_STUCK = "message_stuck"
    MESSAGE_HELD = "message_held"
    MESSAGE_RELEASED = "message_released"
    MESSAGE_OFFERED = "message_offered"
    MESSAGE_GONE = "message_gone"
    MESSAGE_SKIPPED = "message_skipped"
    MESSAGE_DONE = "message_done"
    MESSAGE_REVIVED = "message_revived"
    TAKEN_OVER = "taken_over"
    GIT_KEPT_OUT = "git_kept_out"
    GIT_TROUBLE = "git_trouble"
    TURN_CLAIMED = "turn_claimed"
    TURN_STARTED = "turn_started"
    TURN_ADOPTED = "turn_adopted"
    TURN_UNLIMITED = "turn_unlimited"
    TURN_PROGRESS = "turn_progress"
    TURN_STOPPING = "turn_stopping"
    TURN_ENDED = "turn_ended"
    TURN_SETTLED = "turn_settled"
    TURN_DROPPED = "turn_dropped"
    SURVIVORS = "survivors"
    ITEM_DELIVERED = "item_delivered"
    ITEM_REFUSED = "item_refused"
    ITEM_POSTPONED = "item_postponed"
    RETRY_SCHEDULED = "retry_scheduled"
    DEAD_LETTER = "dead_letter"
    SESSION_BOUND = "session_bound"
    SESSION_DROPPED = "session_dropped"
    APPROVAL_ASKED = "approval_asked"
    APPROVAL_ANSWERED = "approval_answered"
    PAUSED = "paused"
    RESUMED = "resumed"
    REQUEST_APPLIED = "request_applied"
    REQUEST_REFUSED = "request_refused"
    STATE_DAMAGED = "state_damaged"
    STATE_TROUBLE = "state_trouble"
    MAILBOX_TROUBLE = "mailbox_trouble"
    MAILBOX_REFUSED = "mailbox_refused"
    MAILBOX_BACK = "mailbox_back"
    TEMPLATE_INVALID = "template_invalid"
    CONFIG_TAKEN = "config_taken"
    CONFIG_REFUSED = "config_refused"
    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    NOTE_CHANGED = "note_changed"
    INSTRUCTIONS_CHANGED = "instructions_changed"
    RESERVATION_CONFLICT = "reservation_conflict"
    RESERVATION_RELEASED = "reservation_released"
    RESERVATION_LOST = "reservation_lost"
    RESERVATION_TOUCHED = "reservation_touched"
    SCHEDULE_SENT = "schedule_sent"
    SCHEDULE_REFUSED = "schedule_refused"
    NOTICE_SENT = "notice_sent"
    NOTICE_FAILED = "notice_failed"
    NOTICE_GIVEN_UP = "notice_given_up"
    MACHINE_SHORT = "machine_short"
    OUTPUT_DROPPED = "output_dropped"
    WATCH_FAULT = "watch_fault"


class LogRecord(msgspec.Struct, frozen=True):
    """One line of `log.jsonl`. `fields` never holds a body, a subject or a key (I8).

    A `passing` record is for a terminal only: it is written nowhere. So is `shown`, which may quote mail.
    """

    ts: str
    event: EventName
    fields: dict[str, Value]
    passing: bool = False
    shown: str = ""

    def line(self) -> bytes:
        return msgspec.json.encode({"ts": self.ts, "event": self.event.value, **self.fields})


Listener = Callable[[LogRecord], None]


class EventLog:
    """Appends to `log.jsonl` and tells the listeners. Never raises: a full disk must not stop the watcher."""

    def __init__(self, path: Path, disk: Disk, clock: Clock) -> None:
        self._path = path
        self._disk = disk
        self._clock = clock
        self._listeners: list[Listener] = []
        self._size: int | None = None

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def emit(self, event: EventName, shown: str = "", /, **fields: Value) -> None:
        """`shown` is a line of somebody's mail for whoever watches now; it is not logged (I8)."""
        record = msgspec.structs.replace(self._record(event, fields), shown=running_on(shown, SHOWN))
        with suppress(OSError):
            self._rotate_when_full()
            # Lost lines are harmless: the log explains, the other state files decide.
            self._size = self._disk.append_line(self._path, record.line(), sync=Sync.NONE)
        self._tell(record)

    def has_of(self, event: EventName, turn_id: str) -> bool:
        """Whether it was told of this turn lately. What cannot be read says nothing."""
        marks = (f'"event":"{event.value}"'.encode(), f'"turn_id":"{turn_id}"'.encode())
        with suppress(OSError):
            lines = read_regular(self._path, 2 * ROTATE_AT_BYTES).splitlines()
            return any(all(mark in line for mark in marks) for line in reversed(lines))
        return False

    def show(self, event: EventName, **fields: Value) -> None:
        """For whoever watches now: what an agent says may quote mail, and no mail goes into the log (I8)."""
        self._tell(msgspec.structs.replace(self._record(event, fields), passing=True))

    def _record(self, event: EventName, fields: dict[str, Value]) -> LogRecord:
        shown = {name: _shown(name, value) for name, value in fields.items() if value is not None}
        return LogRecord(iso(self._clock.now()), event, shown)

    def _tell(self, record: LogRecord) -> None:
        for listener in self._listeners:
            listener(record)

    def _rotate_when_full(self) -> None:
        if self._size is None:
            self._size = status(self._path).st_size if is_there(self._path) else 0
        if self._size < ROTATE_AT_BYTES:
            return
        self._size = None
        oldest = self._path.with_name(f"{self._path.name}.{KEEP_ROTATED}")
        self._disk.remove(oldest)
        for number in range(KEEP_ROTATED - 1, 0, -1):
            with suppress(FileNotFoundError):
                source = self._path.with_name(f"{self._path.name}.{number}")
                self._disk.move(source, self._path.with_name(f"{self._path.name}.{number + 1}"), sync=Sync.NONE)
        self._disk.move(self._path, self._path.with_name(f"{self._path.name}.1"), sync=Sync.NONE)


# What others have chosen, and what a program or a shell may be given out of the log: never more than a word.
_WORDS = {"message_id": "message", "thread": "thread", "sender": "sender", "to": "recipient"}


def _shown(name: str, value: Value) -> Value:
    if not isinstance(value, str):
        return value
    return prompt_word(value, _WORDS[name]) if value and name in _WORDS else printable(value, 600)
