"""What waits at our broker, kept here: each look asks only for what is new since the last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from agent_mailer.mailbox.amp.answers import Answer, TooLarge
from agent_mailer.mailbox.amp.wire import BY_ID, Stretch, by_hash, id_within, parse_list, parse_object
from agent_mailer.mailbox.port import Envelope, Listing, Unreadable

RESYNC_SECONDS: Final = 3600.0
MAX_STRETCH: Final = 1000
FAR_AHEAD: Final = 2**62
"""A cursor that no inbox reaches."""

Fetch = Callable[[int, int], Awaitable[Answer]]
"""The listing after a cursor, at most so many: `(after, limit)`."""


class Mirror:
    """The oldest of what waits, up to the largest limit that was asked for.

    While it is full its cursor stays behind what it holds; once taken messages make room, it moves on.
    """

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self._waiting: dict[str, Envelope] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._cursor = 0
        self._size = 0
        self._fresh_until = 0.0

    def forget(self) -> None:
        """Ask for everything at the next look."""
        self._fresh_until = 0.0

    def drop(self, name: str) -> None:
        """A message that waits no longer, by its id, or what was no message, by its locator."""
        self._waiting.pop(name, None)
        self._unreadable.pop(name, None)

    async def look(self, fetch: Fetch, limit: int, now: float) -> Listing:
        """One request, or a few where much is new. `now` is monotonic seconds."""
        self._size = max(self._size, limit)
        if now >= self._fresh_until:
            # Emptied only once the answer is there: a broker that fails now leaves what we know.
            answer = await _ask(fetch, 0, self._size)
            self._waiting.clear()
            self._unreadable.clear()
            self._cursor = 0
            self._fresh_until = now + RESYNC_SECONDS
            more = self._take(answer)
        elif (room := self._size - len(self._waiting)) > 0:
            more = self._take(await _ask(fetch, self._cursor, room))
        else:
            # Nobody wants more than is held; whether the broker is there, its shortest answer tells.
            await fetch(FAR_AHEAD, 1)
            more = False
        while more and len(self._waiting) < self._size:
            more = self._take(await _ask(fetch, self._cursor, self._size - len(self._waiting)))
        listed = sorted(self._waiting.values(), key=lambda envelope: envelope.order)
        return Listing(tuple(listed[:limit]), tuple(self._unreadable.values()))

    def _take(self, answer: Answer | Unreadable) -> bool:
        """Take in what came; whether there is more."""
        if isinstance(answer, Unreadable):
            # It stays in the way of what comes after it until it is marked read.
            self._note_unreadable(answer)
            return False
        stretch = parse_object(answer, Stretch)
        for heard in parse_list(answer, bytes(stretch.messages)):
            if isinstance(heard, Unreadable):
                self._note_unreadable(heard)
            elif heard.message.envelope.id not in self._aside:
                envelope = heard.message.envelope
                self._waiting[envelope.id] = envelope
        moved = stretch.cursor > self._cursor
        if stretch.cursor < self._cursor:
            # The broker knows less than we do: its database is an earlier one.
            self.forget()
        self._cursor = max(self._cursor, stretch.cursor)
        return stretch.more and moved

    def _note_unreadable(self, item: Unreadable) -> None:
        if item.locator not in self._aside:
            self._unreadable[item.locator] = item


async def _ask(fetch: Fetch, after: int, limit: int) -> Answer | Unreadable:
    limit = min(MAX_STRETCH, limit)
    while True:
        try:
            return await fetch(after, limit)
        except TooLarge as fault:
            if limit == 1:
                return too_large(fault)
            limit //= 2


def too_large(fault: TooLarge) -> Unreadable:
    """The one message that an answer too large for us consists of."""
    found = id_within(fault.start)
    return Unreadable(BY_ID + found if found else by_hash(fault.start), fault.message)


class Aside:
    """A name is passed over from `put` until `let_go`, and then by the listings that were under way at that moment."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._leaving: set[str] = set()

    def put(self, name: str) -> None:
        self._names.add(name)
        self._leaving.discard(name)

    def let_go(self, name: str) -> None:
        if name in self._names:
            self._leaving.add(name)

    def begin(self) -> None:
        """A listing begins: from here on the mailbox itself knows what was let go before."""
        self._names -= self._leaving
        self._leaving.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)
