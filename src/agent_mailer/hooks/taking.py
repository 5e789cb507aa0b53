"""What becomes of a delivery in a folder: written down, sent, written down again; whoever is killed between goes on.

What is to be sent is in the book as failed and due before it leaves, and its mail has its id from the delivery: after
a crash it is tried again, and found to be there. So a delivery is one mail however often it comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.hooks.book import Book, Row
from agent_mailer.mailbox.port import Action, Delivered, Draft, Mailbox, MailboxUnavailable, Refused
from agent_mailer.names import DEDUPE_KEY, printable
from agent_mailer.outside.calls import Call
from agent_mailer.outside.event import Event, State, body_of, subject_of
from agent_mailer.outside.items import (
    BEGINS_FIRST,
    KEPT_DAYS,
    NotSent,
    Outcome,
    Taken,
    ToSend,
    decide,
    thread_words,
    wait_ms,
)

AT_ONCE = 100
BEGUN = "begun"
"""The reason of what is being sent, or was when its sender was killed."""
Tell = Callable[[str], None]


class OtherBody(Exception):
    """This delivery id came with something else before."""


class Taking:
    """`mailbox` is the hook's own end, `to` the agents that get its mail. One thread at a time is in it.

    `forget_mail`: lets go what is in that mailbox from before a moment, and is over.
    """

    def __init__(
        self,
        name: str,
        mailbox: Mailbox,
        to: tuple[str, ...],
        book: Book,
        clock: Clock,
        tell: Tell,
        forget_mail: Callable[[float], object],
    ) -> None:
        self._name = name
        self._mailbox = mailbox
        self._to = to
        self._book = book
        self._clock = clock
        self._tell = tell
        self._forget_mail = forget_mail
        self._turn = threading.Lock()

    def take(self, call: Call) -> Taken:
        """Durable when it returns. Raises OtherBody, sqlite3.Error."""
        with self._turn:
            known = self._known(call)
            if known is not None and known.outcome is not Outcome.FAILED:
                given = (known.message_id,) if known.message_id else ()
                return Taken(known.delivery, known.outcome, known.reason, given, known.occurrences, replayed=True)
            # Whoever sends again what failed wants it tried again.
            row = known or _row(call, self._clock.now())
            return self._place(row, call.event if known is None else _held(row))

    def sweep(self) -> int:
        """Try again what failed and is due; how many that were. Raises sqlite3.Error."""
        with self._turn:
            found = self._book.due(int(self._clock.now() * 1000), AT_ONCE)
            for row in found:
                self._place(row, _held(row))
        return len(found)

    def forget(self) -> None:
        """What is long over. Raises OSError, sqlite3.Error."""
        before = self._clock.now() - KEPT_DAYS * 86400
        with self._turn, self._book.change():
            self._book.forget(before)
        self._forget_mail(before)

    def _known(self, call: Call) -> Row | None:
        same = self._book.by_digest(call.digest)
        if same is None and self._book.by_id(call.id) is not None:
            raise OtherBody
        return same

    def _place(self, row: Row, event: object) -> Taken:
        if not isinstance(event, Event):
            plan = decide(event, None, "")  # type: ignore[arg-type]
        else:
            if event.state is State.RESOLVED and (due := self._book.due_before(row)) is not None:
                return self._told(self._failed(row, event, BEGINS_FIRST, due))
            item = None if event.state is State.NEWS else self._book.item(event)
            plan = decide(event, item, self._thread(event, row.delivery))
        if isinstance(plan, NotSent) or not isinstance(event, Event):
            assert isinstance(plan, NotSent)
            ended = msgspec.structs.replace(
                row, outcome=plan.outcome, reason=plan.reason, occurrences=plan.occurrences, due_ms=None, held=None
            )
            with self._book.change():
                self._book.put(ended)
                if plan.after is not None and isinstance(event, Event):
                    self._book.put_item(event, plan.after, self._clock.now())
            return self._told(ended)
        return self._send(row, event, plan)

    def _send(self, row: Row, event: Event, plan: ToSend) -> Taken:
        begun = self._failed(row, event, row.reason or BEGUN, 0)
        sent = self._deliver(begun, event, plan.thread)
        if isinstance(sent, Refused):
            wait = wait_ms(row.tries)
            due = None if wait is None else int(self._clock.now() * 1000) + wait
            tried = msgspec.structs.replace(begun, tries=row.tries + 1)
            return self._told(self._failed(tried, event, sent.why, due))
        ended = msgspec.structs.replace(
            begun,
            outcome=plan.outcome,
            reason="",
            message_id=sent.id,
            occurrences=plan.occurrences,
            due_ms=None,
            held=None,
        )
        with self._book.change():
            self._book.put(ended)
            if plan.after is not None:
                self._book.put_item(event, plan.after, self._clock.now())
        return self._told(ended)

    def _failed(self, row: Row, event: Event, why: str, due_ms: int | None) -> Row:
        """It is kept, and tried again at that moment. Durable when it returns."""
        held = msgspec.json.encode(event).decode()
        kept = msgspec.structs.replace(row, outcome=Outcome.FAILED, reason=why, due_ms=due_ms, held=held)
        with self._book.change():
            self._book.put(kept)
        return kept

    def _deliver(self, row: Row, event: Event, thread: str) -> Delivered | Refused:
        """To all; Refused with a reason, in a word or a line, where one of them does not have it."""
        draft = Draft(
            f"{DEDUPE_KEY}hook:{self._name}:{row.digest}",
            Action.SEND,
            row.at,
            to=self._to,
            subject=subject_of(event),
            body=body_of(event, self._name),
            thread=thread,
            labels=("hook",),
        )
        items = self._mailbox.compose(draft, None, "")
        if isinstance(items, Refused):
            return items
        for item in items:
            try:
                outcome = asyncio.run(self._mailbox.deliver(item))
            except MailboxUnavailable as error:
                return Refused(printable(f"mailbox_unavailable: {error.message}", 300))
            if not isinstance(outcome, Delivered):
                return Refused(printable(outcome.why, 300))
        return Delivered(items[0].id)

    def _thread(self, event: Event, delivery: str) -> str:
        words = "\0".join((self._name, *thread_words(event, delivery)))
        return f"hook-{self._name}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"

    def _told(self, row: Row) -> Taken:
        given = (row.message_id,) if row.message_id else ()
        about = printable(f"{row.event} {row.origin} {row.item}".strip(), 120)
        # Whoever reads along may be gone: what was taken is taken all the same.
        with suppress(OSError):
            self._tell(f"{printable(row.delivery, 60)}: {about}: {row.outcome} {row.reason or row.message_id}".rstrip())
        return Taken(row.delivery, row.outcome, row.reason, given, row.occurrences)


def _row(call: Call, now: float) -> Row:
    event = call.event
    origin, key = (event.origin, event.key) if isinstance(event, Event) else ("", "")
    return Row(call.digest, call.id, now, event.name, origin, key, Outcome.FAILED)


def _held(row: Row) -> Event:
    return msgspec.json.decode(row.held or "", type=Event)
