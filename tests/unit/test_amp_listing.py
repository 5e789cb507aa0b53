"""What waits at a broker, kept here: by cursor at ours, by pages at any other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from tests.raw_broker import message
from tests.sizes import LONG

from agent_mailer.mailbox.amp.answers import Answer, TooLarge
from agent_mailer.mailbox.amp.listing import LOW, RESYNC_SECONDS, PagedMailbox, Skipped, find
from agent_mailer.mailbox.amp.mirror import Mirror
from agent_mailer.mailbox.port import Listing, MailboxUnavailable

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def ids(listing: Listing) -> list[str]:
    return [envelope.id for envelope in listing.envelopes]


class Shelf:
    """The mail of one agent, numbered as it came, behind the kinds of listing.

    `asked` are the requests, `given` counts what was listed.
    """

    def __init__(self, count: int = 0, *, large: int = 10**9) -> None:
        self.mail: dict[int, dict[str, Any]] = {}
        self.newest = 0
        self.large = large
        self.asked: list[tuple[int, int]] = []
        self.given = 0
        self.meanwhile: Callable[[], None] | None = None
        for _ in range(count):
            self.arrive()

    def arrive(self, **changes: Any) -> None:
        self.newest += 1
        thread = {"thread_id": f"t{self.newest}"}
        self.mail[self.newest] = message(self.newest, cursor=self.newest, **(thread | changes))

    def read(self, number: int) -> None:
        self.mail.pop(number, None)

    async def heads(self, limit: int) -> Answer:
        """Of each thread the oldest, then the oldest of the rest."""
        self.asked.append((0, limit))
        found = sorted(self.mail.values(), key=lambda mail: mail["cursor"])
        leading = {mail["thread_id"]: mail["cursor"] for mail in reversed(found)}
        chosen = sorted(found, key=lambda mail: (mail["cursor"] not in leading.values(), mail["cursor"]))[:limit]
        given = sorted(chosen, key=lambda mail: mail["cursor"])
        return self._answer({"messages": given, "cursor": self.newest, "more": len(found) > limit})

    async def stretch(self, after: int, limit: int) -> Answer:
        self.asked.append((after, limit))
        found = [mail for number, mail in sorted(self.mail.items()) if number > after]
        given = found[:limit]
        more = len(found) > limit
        return self._answer({"messages": given, "cursor": given[-1]["cursor"] if more else self.newest, "more": more})

    async def page(self, page: int, size: int) -> Answer:
        self.asked.append((page, size))
        found = [
            {k: v for k, v in mail.items() if k != "cursor"} for _, mail in sorted(self.mail.items(), reverse=True)
        ]
        answer = self._answer({"messages": found[(page - 1) * size : page * size], "total": len(found), "page": page})
        if self.meanwhile is not None and len(self.asked) > 1:
            self.meanwhile()
        return answer

    def _answer(self, data: dict[str, Any]) -> Answer:
        body = json.dumps(data).encode()
        self.given += len(data["messages"])
        if len(body) > self.large:
            raise TooLarge("GET http://b/x", 200, body[:4096], self.large)
        return Answer("GET http://b/x", 200, body)


def numbered(first: int, last: int) -> list[str]:
    return [f"m{number}" for number in range(first, last + 1)]


def look(mirror: Mirror, shelf: Shelf, limit: int = 1000, now: float = 0.0, beside: set[str] | None = None) -> Listing:
    return run(mirror.pending(shelf.heads, shelf.stretch, limit, now, beside or set()))


class TestMirror:
    def test_each_look_asks_only_for_what_is_new(self) -> None:
        shelf, mirror = Shelf(3), Mirror(Skipped())
        assert ids(look(mirror, shelf)) == numbered(1, 3)
        shelf.arrive()
        assert ids(look(mirror, shelf)) == numbered(1, 4)
        assert ids(look(mirror, shelf)) == numbered(1, 4)
        assert [after for after, _ in shelf.asked] == [0, 3, 4]

    @pytest.mark.parametrize("each", [1, 7, pytest.param(10**6, marks=LONG)])
    def test_a_backlog_is_worked_off_in_the_order_of_each_thread(self, each: int) -> None:
        """However many a thread has, and more than is held."""
        shelf, mirror = Shelf(), Mirror(Skipped(), size=100)
        for number in range(700):
            shelf.arrive(thread_id=f"t{number // each}" if each < 10 else "t")
        seen: list[str] = []
        threads: dict[str, list[int]] = {}
        while found := look(mirror, shelf, 100).envelopes:
            assert len(found) <= 100
            taken = {envelope.thread: envelope for envelope in reversed(found)}
            for envelope in [*taken.values()][:30]:
                seen.append(envelope.id)
                threads.setdefault(envelope.thread, []).append(int(envelope.id[1:]))
                shelf.read(int(envelope.id[1:]))
                mirror.drop(envelope.id)
            if len(seen) % 3 == 0 and shelf.newest < 720:
                shelf.arrive(thread_id=f"t{len(seen) % 90}")
        assert sorted(seen) == sorted(numbered(1, shelf.newest))
        assert all(numbers == sorted(numbers) for numbers in threads.values())
        assert max(limit for _, limit in shelf.asked[:3]) <= 100

    def test_a_look_costs_the_same_however_much_is_unread(self) -> None:
        for count in (10, 5000):
            shelf, mirror = Shelf(count), Mirror(Skipped())
            assert len(look(mirror, shelf, 100).envelopes) == min(count, 100)
            look(mirror, shelf, 100)
            look(mirror, shelf, 1)
            assert len(shelf.asked) == 3
            assert shelf.given <= 1000

    def test_a_long_thread_hides_no_other(self) -> None:
        shelf, mirror = Shelf(), Mirror(Skipped())
        for _ in range(1001):
            shelf.arrive(thread_id="flood")
        shelf.arrive()
        found = ids(look(mirror, shelf))
        assert (len(found), found[0], found[-1]) == (1000, "m1", "m1002")

    def test_what_waits_for_a_person_hides_nothing_of_its_thread(self) -> None:
        shelf, mirror = Shelf(), Mirror(Skipped(), size=10)
        for number in range(60):
            shelf.arrive(thread_id="t1" if number < 30 else f"t{number}")
        found = ids(look(mirror, shelf, 60, beside=set(numbered(1, 20))))
        assert found == numbered(21, 60)

    def test_it_says_whether_that_is_all(self) -> None:
        """What is not listed counts as taken by somebody else, if it is."""
        skipped = Skipped()
        shelf, mirror = Shelf(10), Mirror(skipped, size=10)
        assert not look(mirror, shelf, 10).more
        assert look(mirror, shelf, 9).more
        shelf.arrive()
        mirror.forget()
        assert look(mirror, shelf, 10).more
        shelf.read(11)
        skipped.add("m3")
        mirror.forget()
        assert look(mirror, shelf, 10).more, "one is being taken just now, and may come back"

    def test_one_that_was_left_out_is_back_when_it_was_not_taken(self) -> None:
        skipped = Skipped()
        shelf, mirror = Shelf(30), Mirror(skipped, size=10)
        skipped.add("m1")
        assert ids(look(mirror, shelf)) == numbered(2, 10)
        # Taken: the next one moves up, though this one was never held.
        shelf.read(1)
        skipped.release("m1")
        mirror.drop("m1")
        assert ids(look(mirror, shelf)) == numbered(2, 11)

    def test_what_came_while_more_waits_does_not_overtake(self) -> None:
        shelf, mirror = Shelf(), Mirror(Skipped(), size=10)
        for number in range(20):
            shelf.arrive(thread_id=f"t{number}")
        assert ids(look(mirror, shelf)) == numbered(1, 10)
        shelf.arrive(thread_id="t15")
        assert ids(look(mirror, shelf)) == numbered(1, 10), "m16 comes before it"

    def test_now_and_then_and_when_told_it_looks_at_everything(self) -> None:
        shelf, mirror = Shelf(3), Mirror(Skipped())
        look(mirror, shelf)
        shelf.read(2)
        assert ids(look(mirror, shelf, now=1.0)) == numbered(1, 3)
        assert ids(look(mirror, shelf, now=RESYNC_SECONDS + 1)) == ["m1", "m3"]
        shelf.read(1)
        mirror.forget()
        assert ids(look(mirror, shelf, now=RESYNC_SECONDS + 2)) == ["m3"]

    def test_a_broker_that_knows_less_than_before_is_asked_for_everything(self) -> None:
        for size in (1000, 5):
            shelf, mirror = Shelf(9), Mirror(Skipped(), size=size)
            look(mirror, shelf)
            assert ids(look(mirror, Shelf(4))) == numbered(1, 4)

    def test_trouble_forgets_nothing(self) -> None:
        shelf, mirror = Shelf(2), Mirror(Skipped())
        look(mirror, shelf)

        async def broken(*_: int) -> Answer:
            raise MailboxUnavailable("x", "y")

        mirror.forget()
        with pytest.raises(MailboxUnavailable):
            run(mirror.pending(broken, broken, 10, 1.0))
        shelf.arrive()
        assert ids(look(mirror, shelf, now=2.0)) == numbered(1, 3)

    @pytest.mark.parametrize("late", [False, True])
    def test_a_look_at_everything_that_failed_is_made_at_the_next(self, late: bool) -> None:
        """What was asked for again, or is read by now, is told by no other."""
        shelf, mirror = Shelf(3), Mirror(Skipped())
        back = shelf.mail.pop(1)
        look(mirror, shelf)
        shelf.mail[1] = back
        shelf.read(2)
        if not late:
            mirror.forget()

        async def broken(*_: int) -> Answer:
            raise MailboxUnavailable("x", "y")

        now = RESYNC_SECONDS + 1 if late else 1.0
        for _ in range(2):
            with pytest.raises(MailboxUnavailable):
                run(mirror.pending(broken, shelf.stretch, 10, now))
        assert ids(look(mirror, shelf, now=now)) == ["m1", "m3"]

    def test_what_was_taken_during_a_listing_is_not_in_it(self) -> None:
        skipped = Skipped()
        shelf, mirror = Shelf(2), Mirror(skipped)

        async def slow(limit: int) -> Answer:
            answer = await shelf.heads(limit)
            skipped.add("m1")
            skipped.release("m1")
            shelf.read(1)
            return answer

        skipped.begin()
        assert ids(run(mirror.pending(slow, shelf.stretch, 10, 0.0))) == ["m2"]

    def test_a_message_too_large_is_told_and_the_others_follow_once_it_is_gone(self) -> None:
        shelf, mirror = Shelf(2, large=20_000), Mirror(Skipped())
        shelf.arrive(subject="x" * 30_000)
        shelf.arrive()
        listing = look(mirror, shelf)
        listing = look(mirror, shelf)
        assert ids(listing) == ["m1", "m2"]
        assert [item.locator for item in listing.unreadable] == ["id:m3"]
        [told] = listing.unreadable
        assert (told.too_large, told.id, told.thread, told.sender) == (True, "m3", "t3", message(3)["from_agent"])
        shelf.read(3)
        mirror.drop("id:m3")
        listing = look(mirror, shelf)
        assert (ids(listing), listing.unreadable) == (["m1", "m2", "m4"], ())


class TestPages:
    def test_nothing_new_is_one_message_transferred(self) -> None:
        for count in (0, 3, 99, 1000):
            shelf, paged = Shelf(count), PagedMailbox(Skipped())
            run(paged.pending(shelf.page, 1000, 0.0))
            shelf.asked.clear()
            run(paged.pending(shelf.page, 1000, 1.0))
            assert shelf.asked == [(1, 1)]

    def test_the_oldest_come_first_and_only_as_many_as_are_needed(self) -> None:
        shelf, paged = Shelf(1000), PagedMailbox(Skipped())
        found = ids(run(paged.pending(shelf.page, 1000, 0.0)))
        assert found == numbered(1, len(found))
        assert 100 <= len(found) < 200
        assert len(shelf.asked) <= 4

    def test_a_long_thread_hides_no_other(self) -> None:
        shelf, paged = Shelf(), PagedMailbox(Skipped())
        for _ in range(1001):
            shelf.arrive(thread_id="flood")
        shelf.arrive()
        found = ids(run(paged.pending(shelf.page, 1000, 0.0)))
        assert (len(found), found[0], found[-1]) == (1000, "m1", "m1002")
        shelf.asked.clear()
        run(paged.pending(shelf.page, 1000, 1.0))
        assert shelf.asked == [(1, 1)]

    def test_it_says_whether_that_is_all(self) -> None:
        for count, more in ((99, False), (400, True)):
            shelf, paged = Shelf(count), PagedMailbox(Skipped())
            assert run(paged.pending(shelf.page, 1000, 0.0)).more is more

    def test_what_waits_for_a_person_ends_no_walk(self) -> None:
        shelf, paged = Shelf(400), PagedMailbox(Skipped())
        stuck = set(numbered(1, 300))
        found = ids(run(paged.pending(shelf.page, 1000, 0.0, stuck)))
        assert found == numbered(301, 400)

    def test_one_arrival_is_one_message_transferred(self) -> None:
        shelf, paged = Shelf(3), PagedMailbox(Skipped())
        run(paged.pending(shelf.page, 1000, 0.0))
        shelf.asked.clear()
        shelf.arrive()
        assert ids(run(paged.pending(shelf.page, 1000, 1.0))) == numbered(1, 4)
        assert shelf.asked == [(1, 1)]
        shelf.arrive()
        shelf.arrive()
        assert ids(run(paged.pending(shelf.page, 1000, 2.0))) == numbered(1, 6)
        assert shelf.asked[1:] == [(1, 1), (1, 100)]

    def test_one_that_came_while_one_was_read_is_seen(self) -> None:
        shelf, paged = Shelf(3), PagedMailbox(Skipped())
        run(paged.pending(shelf.page, 1000, 0.0))
        shelf.read(2)
        shelf.arrive()
        assert ids(run(paged.pending(shelf.page, 1000, 1.0))) == ["m1", "m3", "m4"]

    def test_what_no_glance_tells_is_seen_after_an_hour_also_where_the_first_walk_fails(self) -> None:
        shelf, paged = Shelf(4), PagedMailbox(Skipped())
        one = shelf.mail.pop(1)
        run(paged.pending(shelf.page, 1000, 0.0))
        shelf.read(2)
        shelf.mail[1] = one  # as many as before, and the newest is the same

        async def breaks_off(page: int, size: int) -> Answer:
            if size > 1:
                raise MailboxUnavailable("x", "y")
            return await shelf.page(page, size)

        with pytest.raises(MailboxUnavailable):
            run(paged.pending(breaks_off, 1000, RESYNC_SECONDS))
        assert ids(run(paged.pending(shelf.page, 1000, RESYNC_SECONDS))) == ["m1", "m3", "m4"]

    @LONG
    def test_a_backlog_is_worked_off_in_order_with_few_walks(self) -> None:
        skipped = Skipped()
        shelf, paged = Shelf(700), PagedMailbox(skipped)
        seen: list[str] = []
        while True:
            skipped.begin()
            found = ids(run(paged.pending(shelf.page, 1000, 0.0)))
            if not found:
                break
            name = found[0]
            seen.append(name)
            skipped.add(name)
            shelf.read(int(name[1:]))
            skipped.release(name)
            paged.marked_read(name)
        assert seen == numbered(1, 700)
        assert sum(size for _, size in shelf.asked if size > 1) < 700 * 8

    def test_claimed_ones_are_passed_over_and_more_are_fetched(self) -> None:
        skipped = Skipped()
        shelf, paged = Shelf(500), PagedMailbox(skipped)
        for _ in range(4):
            found = ids(run(paged.pending(shelf.page, 1000, 0.0)))
            assert len(found) >= LOW
            for name in found:
                skipped.add(name)
        assert len(skipped) >= 400

    def test_arrivals_during_a_walk_hide_nothing(self) -> None:
        shelf, paged = Shelf(300), PagedMailbox(Skipped())
        left = 2

        def arrive() -> None:
            nonlocal left
            if left:
                left -= 1
                shelf.arrive()

        shelf.meanwhile = arrive
        found = ids(run(paged.pending(shelf.page, 1000, 0.0)))
        assert found[:100] == numbered(1, 100)

    def test_where_mail_never_stops_to_arrive_the_last_walk_counts(self) -> None:
        shelf, paged = Shelf(300), PagedMailbox(Skipped())
        shelf.meanwhile = shelf.arrive
        found = ids(run(paged.pending(shelf.page, 1000, 0.0)))
        assert len(found) >= 100
        assert found[:9] == numbered(1, 9)
        shelf.meanwhile = None
        assert ids(run(paged.pending(shelf.page, 1000, 1.0)))[:100] == numbered(1, 100)

    def test_reading_during_a_walk_hides_nothing_for_long(self) -> None:
        shelf, paged = Shelf(400), PagedMailbox(Skipped())
        numbers = iter(range(400, 300, -1))
        shelf.meanwhile = lambda: shelf.read(next(numbers))
        run(paged.pending(shelf.page, 1000, 0.0))
        shelf.meanwhile = None
        found = ids(run(paged.pending(shelf.page, 1000, 1.0)))
        assert found[:100] == numbered(1, 100)

    def test_a_page_too_large_is_halved_and_one_too_large_is_told(self) -> None:
        shelf, paged = Shelf(40, large=20_000), PagedMailbox(Skipped())
        shelf.arrive(body="x" * 30_000)
        for _ in range(40):
            shelf.arrive(body="y" * 1000)
        listing = run(paged.pending(shelf.page, 1000, 0.0))
        assert ids(listing) == [*numbered(1, 40), *numbered(42, 81)]
        assert [item.locator for item in listing.unreadable] == ["id:m41"]

    def test_the_newest_may_be_the_one_too_large(self) -> None:
        shelf, paged = Shelf(2, large=20_000), PagedMailbox(Skipped())
        shelf.arrive(body="x" * 30_000)
        listing = run(paged.pending(shelf.page, 1000, 0.0))
        assert (ids(listing), [item.locator for item in listing.unreadable]) == (["m1", "m2"], ["id:m3"])
        shelf.arrive()
        assert ids(run(paged.pending(shelf.page, 1000, 1.0))) == ["m1", "m2", "m4"]

    def test_finding_one_in_the_pages(self) -> None:
        shelf = Shelf(150, large=20_000)
        found = run(find(shelf.page, "m5"))
        assert found is not None
        assert found.message.envelope.id == "m5"
        assert run(find(shelf.page, "m999")) is None
        assert run(find(Shelf().page, "m1")) is None
