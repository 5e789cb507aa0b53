"""What becomes of an event: told at once, counted, over, or nothing. Pure; whoever keeps deliveries asks this."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent_mailer.outside.event import Event, Ignored, State

FIRST_WAIT_MS, LONGEST_WAIT_MS = 60_000, 6 * 3600_000
MOST_TRIES = 12
LOOK_EVERY = 30.0
"""Seconds between two looks for what failed."""
KEPT_DAYS = 90
"""So long what came and is over is known again."""


class Outcome(StrEnum):
    SENT = "sent"
    COUNTED = "counted"
    """It is open already, and was told."""
    RESOLVED = "resolved"
    IGNORED = "ignored"
    FAILED = "failed"
    """It is kept, and tried again."""


class Taken(msgspec.Struct, frozen=True, rename="camel"):
    """`reason`: why it became no mail. `occurrence_count`: how often what it is about was told since it began."""

    delivery: str
    outcome: Outcome
    reason: str = ""
    message_ids: tuple[str, ...] = ()
    occurrence_count: int = 0
    replayed: bool = False


BEGINS_FIRST = "begins_first"
"""The reason of an end whose beginning could not leave yet: told in its place, it would begin what is over."""


class Item(msgspec.Struct, frozen=True):
    """What is told once until it is resolved. `moment_ms`: by its sender's clock; what is older came late."""

    is_open: bool
    occurrences: int
    thread: str
    moment_ms: int | None = None

    @property
    def begins(self) -> bool:
        return self.is_open and self.occurrences == 1


class ToSend(msgspec.Struct, frozen=True):
    """A mail in `thread`; once it has left, `outcome` is what came of it, and `after` what the item is."""

    thread: str
    outcome: Outcome
    occurrences: int = 0
    after: Item | None = None


class NotSent(msgspec.Struct, frozen=True):
    """No mail. `after`: what the item is then, where that has changed."""

    outcome: Outcome
    reason: str
    occurrences: int = 0
    after: Item | None = None


def decide(event: Event | Ignored, item: Item | None, thread: str) -> ToSend | NotSent:
    """`item`: what is known of what the event is about; `thread`: the one that begins with it."""
    if isinstance(event, Ignored):
        return NotSent(Outcome.IGNORED, event.reason.value)
    if event.state is State.NEWS:
        return ToSend(thread, Outcome.SENT)
    before = item.moment_ms if item is not None else None
    late = event.at_ms is not None and before is not None and event.at_ms < before
    moment = before if late or event.at_ms is None else event.at_ms
    if event.state is State.RESOLVED:
        if late:
            return NotSent(Outcome.IGNORED, "came_late")
        if item is None or not item.is_open:
            # So that the beginning, where it comes after its end, is known for what it is.
            return NotSent(
                Outcome.IGNORED, "nothing_open", 0, Item(is_open=False, occurrences=0, thread=thread, moment_ms=moment)
            )
        over = Item(is_open=False, occurrences=item.occurrences, thread=item.thread, moment_ms=moment)
        return ToSend(item.thread, Outcome.RESOLVED, item.occurrences, over)
    if item is not None and item.is_open:
        many = item.occurrences + 1
        counted = Item(is_open=True, occurrences=many, thread=item.thread, moment_ms=moment)
        return NotSent(Outcome.COUNTED, "open_already", many, counted)
    if late:
        return NotSent(Outcome.IGNORED, "resolved_already")
    return ToSend(thread, Outcome.SENT, 1, Item(is_open=True, occurrences=1, thread=thread, moment_ms=moment))


def thread_words(event: Event, delivery_id: str) -> tuple[str, ...]:
    """What names the thread that begins with it: what is news of one thing has one thread; what was resolved begins
    another when it comes again.
    """
    about = ("news", event.origin, event.key) if event.state is State.NEWS and event.key else ("one", delivery_id)
    return ("hook", *about)


def wait_ms(tries: int) -> int | None:
    """Until what failed so often is tried again; None where it is not, by itself."""
    return min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2**tries) if tries < MOST_TRIES else None
