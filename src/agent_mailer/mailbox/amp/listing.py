"""What waits at a broker that has pages only, kept here between two looks; and what every listing leaves out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec

from agent_mailer.mailbox.amp.answers import Answer, TooLarge
from agent_mailer.mailbox.amp.wire import (
    BY_ID,
    Heard,
    Page,
    by_hash,
    heard_in,
    names_within,
    parse_list,
    parse_object,
)
from agent_mailer.mailbox.port import Envelope, Listing, Unreadable, oldest_of_each

RESYNC_SECONDS: Final = 3600.0
LARGEST_PAGE: Final = 100
STEP: Final = 64
"""The size of a page where there are several: it can be halved down to one without shifting."""

ENOUGH: Final = 100
"""Threads after which a walk may stop: a long one hides no other."""

MOST_WALKED: Final = 10_000
"""Messages after which it stops all the same: their bodies come along."""

LOW: Final = 25
WALKS: Final = 3

Fetch = Callable[[int, int], Awaitable[Answer]]
"""One answer of a listing: by cursor `(after, limit)`, by page `(page, page_size)`."""


class Skipped:
    """What a listing leaves out: a name from `add` until `release`, and then for the listings under way just then."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._leaving: set[str] = set()

    def add(self, name: str) -> None:
        self._names.add(name)
        self._leaving.discard(name)

    def release(self, name: str) -> None:
        if name in self._names:
            self._leaving.add(name)

    def begin(self) -> None:
        """A listing begins: from here on the mailbox itself knows what was released before."""
        self._names -= self._leaving
        self._leaving.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)


def too_large(fault: TooLarge) -> Unreadable:
    """The one message that an answer too large for us consists of."""
    said = names_within(fault.start)
    name, thread, sender = (said.get(one, "") for one in ("id", "thread_id", "from_agent"))
    locator = BY_ID + name if name else by_hash(fault.start)
    return Unreadable(locator, fault.message, too_large=True, id=name, thread=thread, sender=sender)


class _Sight(msgspec.Struct, frozen=True):
    """What one small request tells: enough to see a change."""

    newest: str
    total: int


class _Shifted(Exception):
    """The pages moved while they were walked."""


class PagedMailbox:
    """The oldest of what is unread, until a hundred threads are known. Reading moves nothing here: what is ours is
    skipped.
    """

    def __init__(self, skipped: Skipped) -> None:
        self._skipped = skipped
        self._known: dict[str, Envelope] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._sight: _Sight | None = None
        self._whole = False
        """What is known is all there is."""
        self._beside: Collection[str] = ()
        self._fresh_until = 0.0

    def forget(self) -> None:
        self._sight = None

    def marked_read(self, message_id: str) -> None:
        """We have taken one out of the total: no reason to look at all of it again."""
        if self._known.pop(message_id, None) is not None and self._sight is not None:
            self._sight = _Sight(self._sight.newest, self._sight.total - 1)

    def drop_unreadable(self, locator: str) -> None:
        self._unreadable.pop(locator, None)

    async def pending(self, fetch: Fetch, limit: int, now: float, beside: Collection[str] = ()) -> Listing:
        """`now` is monotonic seconds."""
        self._beside = beside
        newest, sight = await self._glance(fetch)
        if self._must_walk(sight, newest, now):
            await self._walk_until_still(fetch, sight)
            self._fresh_until = now + RESYNC_SECONDS
        elif self._sight != sight:
            if isinstance(newest, Heard):
                self._add(newest)
            self._sight = sight
        unreadable = [item for item in self._unreadable.values() if item.locator not in self._skipped]
        waiting = self._waiting()
        more = not self._whole or len(waiting) > limit
        return Listing(oldest_of_each(waiting, limit), tuple(unreadable), more=more)

    async def _glance(self, fetch: Fetch) -> tuple[Heard | Unreadable | None, _Sight]:
        try:
            answer = await fetch(1, 1)
        except TooLarge as fault:
            newest = too_large(fault)
            # A page beyond the end holds no message, but it counts them.
            page = parse_object(await fetch(10**9, 1), Page)
            return newest, _Sight(newest.locator, page.total)
        page = parse_object(answer, Page)
        found = parse_list(answer, bytes(page.messages))
        return (found[0], _Sight(_name(found[0]), page.total)) if found else (None, _Sight("", page.total))

    def _must_walk(self, sight: _Sight, newest: Heard | Unreadable | None, now: float) -> bool:
        known = self._sight
        if known is None or now >= self._fresh_until:
            return True
        if not self._whole and self._runs_low():
            return True
        if sight == known:
            return False
        if sight.total > known.total and not self._whole:
            return False  # what is new lies behind what we have not reached yet
        one_more = sight.total == known.total + 1 and isinstance(newest, Heard) and sight.newest not in self._known
        return not one_more

    async def _walk_until_still(self, fetch: Fetch, sight: _Sight) -> None:
        total = sight.total
        for attempt in range(WALKS):
            walk = _Walk(fetch, self._is_beside)
            last = attempt == WALKS - 1
            try:
                whole = await walk.run(total, still=not last)
            except _Shifted:
                total = walk.total
                continue
            self._known, self._unreadable, self._whole = walk.found, walk.unreadable, whole
            # Pages that moved to the end may have hidden something: then the next look walks again.
            self._sight = None if walk.total != total else _Sight(sight.newest, total)
            return

    def _runs_low(self) -> bool:
        waiting = self._waiting()
        return len({envelope.thread for envelope in waiting}) < LOW and len(waiting) < MOST_WALKED // 2

    def _add(self, heard: Heard) -> None:
        envelope = heard.message.envelope
        self._known[envelope.id] = envelope

    def _waiting(self) -> list[Envelope]:
        return [envelope for envelope in self._known.values() if not self._is_beside(envelope.id)]

    def _is_beside(self, name: str) -> bool:
        return name in self._skipped or name in self._beside


class _Walk:
    """One walk from the oldest end towards the newest, until there is enough that is not `beside`."""

    def __init__(self, fetch: Fetch, beside: Callable[[str], bool]) -> None:
        self._fetch = fetch
        self._beside = beside
        self.found: dict[str, Envelope] = {}
        self.unreadable: dict[str, Unreadable] = {}
        self.total = 0

    async def run(self, total: int, *, still: bool) -> bool:
        """Whether all of `total` was seen. Raises _Shifted if `still` is asked for and the pages moved."""
        self.total = total
        if total <= 0:
            return True
        if total <= LARGEST_PAGE and await self._try_one_page():
            self._require(total, still=still)
            return True
        for page in range((total + STEP - 1) // STEP, 0, -1):
            await self._region(page, STEP)
            self._require(total, still=still)
            if self._enough():
                return page == 1
        return True

    async def _try_one_page(self) -> bool:
        try:
            self._take(await self._fetch(1, LARGEST_PAGE))
        except TooLarge:
            return False
        return True

    async def _region(self, page: int, size: int) -> None:
        """A page, in two halves where it is too large to be read."""
        try:
            self._take(await self._fetch(page, size))
        except TooLarge as fault:
            if size == 1:
                item = too_large(fault)
                self.unreadable[item.locator] = item
                return
            for half in (2 * page, 2 * page - 1):
                await self._region(half, size // 2)

    def _take(self, answer: Answer) -> None:
        page = parse_object(answer, Page)
        self.total = page.total
        for heard in parse_list(answer, bytes(page.messages)):
            if isinstance(heard, Unreadable):
                self.unreadable[heard.locator] = heard
            elif not heard.is_read:
                self.found[heard.message.envelope.id] = heard.message.envelope

    def _require(self, total: int, *, still: bool) -> None:
        if still and self.total != total:
            raise _Shifted

    def _enough(self) -> bool:
        waiting = [envelope for name, envelope in self.found.items() if not self._beside(name)]
        return len(waiting) >= MOST_WALKED or len({envelope.thread for envelope in waiting}) >= ENOUGH


def _name(item: Heard | Unreadable) -> str:
    return item.locator if isinstance(item, Unreadable) else item.message.envelope.id


async def find(fetch: Fetch, message_id: str) -> Heard | None:
    """One message with its body, by walking the pages from the newest: for what no other call gives."""
    page = 1
    while True:
        found, pages = await _find_on(fetch, page, STEP, message_id)
        if found is not None or page >= pages:
            return found
        page += 1


async def _find_on(fetch: Fetch, page: int, size: int, message_id: str) -> tuple[Heard | None, int]:
    try:
        answer = await fetch(page, size)
    except TooLarge:
        if size == 1:
            return None, page + 1  # how many there are is not known: the next page tells
        for half in (2 * page - 1, 2 * page):
            found, pages = await _find_on(fetch, half, size // 2, message_id)
            if found is not None:
                break
        return found, (pages + 1) // 2
    told = parse_object(answer, Page)
    for heard in heard_in(answer, bytes(told.messages)):
        if heard.message.envelope.id == message_id:
            return heard, page
    return None, (told.total + size - 1) // size
