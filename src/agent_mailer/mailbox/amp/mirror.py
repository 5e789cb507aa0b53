"""What waits at our own broker, kept here between two looks: what can be worked on next, never all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from agent_mailer.mailbox.amp.answers import Answer, TooLarge
from agent_mailer.mailbox.amp.listing import RESYNC_SECONDS, Fetch, Skipped, too_large
from agent_mailer.mailbox.amp.wire import Stretch, parse_list, parse_object
from agent_mailer.mailbox.port import MAX_WAITING, Envelope, Listing, Unreadable, oldest_of_each

MAX_STRETCH: Final = 1000

Heads = Callable[[int], Awaitable[Answer]]
"""One answer of at most so many messages: what of each thread comes next."""


class Mirror:
    """What can be worked on next, kept between two looks: of each thread its oldest and its most urgent message, as
    our broker chooses them; all that waits, where that is no more than `size`.

    A look asks for what came since the last one. Where others wait that are not held here, it asks anew for what comes
    next once something was taken or has come: nobody could tell otherwise which message of a thread is its next.
    """

    def __init__(self, skipped: Skipped, size: int = MAX_STRETCH) -> None:
        self._skipped = skipped
        self._size = size
        self._waiting: dict[str, Envelope] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._cursor = 0
        self._passed: set[str] = set()
        """What was left out of what is held."""
        self._fresh_until = 0.0
        self._more = False
        """Others wait beside what is held."""
        self._most = 2 * size
        """So much may gather of what came bit by bit."""
        self._listed: tuple[int, Collection[str], tuple[Envelope, ...]] | None = None
        """The last answer, while it still holds."""

    def forget(self) -> None:
        """Ask anew at the next look."""
        self._fresh_until = 0.0

    def drop(self, name: str) -> None:
        """A message that waits no longer, by its id, or what was no message, by its locator."""
        self._listed = None
        stood = (self._waiting.pop(name, None), self._unreadable.pop(name, None)) != (None, None)
        if self._more and (stood or name in self._passed):
            self.forget()

    async def pending(
        self, heads: Heads, fetch: Fetch, limit: int, now: float, beside: Collection[str] = (), *, quiet: bool = False
    ) -> Listing:
        """One request, or a few where much is new; none where it is `quiet`: we would have heard of an arrival.

        `now` is monotonic seconds.
        """
        if now >= self._fresh_until or (not quiet and await self._is_out_of_date(fetch)):
            await self._look_anew(heads, fetch)
            self._fresh_until = now + RESYNC_SECONDS
        if self._more and not self._waiting.keys().isdisjoint(beside):
            await self._walk(fetch)
        known = self._listed
        if known is None or known[:2] != (limit, beside):
            self._listed = known = (limit, beside, oldest_of_each(self._waiting.values(), limit, beside))
        more = self._more or len(self._waiting) > limit or bool(self._passed)
        return Listing(known[2], tuple(self._unreadable.values()), more=more)

    async def _look_anew(self, heads: Heads, fetch: Fetch) -> None:
        try:
            answer = await heads(self._size)
        except TooLarge:
            await self._walk(fetch)
            return
        # Only now: a broker that fails leaves what we know.
        self._empty()
        self._most = 2 * self._size
        self._more = self._take(answer)

    async def _is_out_of_date(self, fetch: Fetch) -> bool:
        """Takes in what has come, if it can; whether all has to be asked for anew."""
        before = self._cursor
        if not self._more:
            return self._take(await _ask(fetch, before)) or len(self._waiting) > self._most or self._cursor < before
        try:
            answer = await fetch(before, 1)
        except TooLarge:
            return True
        stretch = parse_object(answer, Stretch)
        self._cursor = stretch.cursor
        return bool(parse_list(answer, bytes(stretch.messages))) or stretch.cursor < before

    async def _walk(self, fetch: Fetch) -> None:
        """Through all there is, where something stands in front of others that only we know to be in the way: what
        waits for a person, or is too large to be read.
        """
        answer = await _ask(fetch, 0)
        self._empty()
        self._most = MAX_WAITING
        while (more := self._take(answer)) and len(self._waiting) < MAX_WAITING:
            answer = await _ask(fetch, self._cursor)
        self._more = more

    def _empty(self) -> None:
        self._listed = None
        self._waiting.clear()
        self._unreadable.clear()
        self._passed.clear()
        self._cursor = 0

    def _take(self, answer: Answer | Unreadable) -> bool:
        """Take in what came; whether there is more."""
        if isinstance(answer, Unreadable):
            # It stays in the way of what comes after it until it is marked read.
            self._note_unreadable(answer)
            return False
        stretch = parse_object(answer, Stretch)
        for heard in parse_list(answer, bytes(stretch.messages)):
            self._listed = None
            if isinstance(heard, Unreadable):
                self._note_unreadable(heard)
            elif (envelope := heard.message.envelope).id in self._skipped:
                self._passed.add(envelope.id)
            else:
                self._waiting[envelope.id] = envelope
        self._cursor = stretch.cursor
        return stretch.more

    def _note_unreadable(self, item: Unreadable) -> None:
        self._listed = None
        if item.locator not in self._skipped:
            self._unreadable[item.locator] = item


async def _ask(fetch: Fetch, after: int) -> Answer | Unreadable:
    limit = MAX_STRETCH
    while True:
        try:
            return await fetch(after, limit)
        except TooLarge as fault:
            if limit == 1:
                return too_large(fault)
            limit //= 2
