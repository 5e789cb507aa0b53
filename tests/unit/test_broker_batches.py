"""What a broker writes together, by a clock that stands until a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent_mailer.broker.batches import IN_VAIN, LONGEST, PATIENCE, Batches

MOST = 8


class _Standing(asyncio.SelectorEventLoop):
    now = 100.0

    def time(self) -> float:
        return self.now


class _Room:
    def __init__(self, loop: _Standing) -> None:
        self.loop = loop
        self.batches: Batches[str] = Batches(MOST)
        self.taking: asyncio.Task[list[str]] | None = None

    async def taken(self) -> list[str] | None:
        """The next batch; None as long as it waits for others."""
        if self.taking is None:
            self.taking = asyncio.ensure_future(self.batches.take())
        for _ in range(20):
            await asyncio.sleep(0)
        if not self.taking.done():
            return None
        batch, self.taking = self.taking.result(), None
        return batch

    async def wrote(self, *works: str, seconds: float = 0.002) -> None:
        """A batch of these, which took so long."""
        assert await self.taken() is None
        for work in works:
            self.batches.put(work)
        assert await self.taken() == list(works)
        self.loop.now += seconds
        self.batches.done()


def played(story: Callable[[_Room], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=_Standing) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _Standing)

        async def play() -> None:
            room = _Room(loop)
            await story(room)
            if room.taking is not None:
                room.taking.cancel()

        runner.run(play())


def test_one_who_writes_again_and_again_waits_for_nobody() -> None:
    async def story(room: _Room) -> None:
        for n in range(5):
            await room.wrote(f"{n}")

    played(story)


def test_who_was_answered_is_waited_for() -> None:
    async def story(room: _Room) -> None:
        await room.wrote("a", "b", "c")
        assert await room.taken() is None
        room.batches.put("a again")
        assert await room.taken() is None
        room.batches.put("b again")
        assert await room.taken() is None
        room.batches.put("c again")
        assert await room.taken() == ["a again", "b again", "c again"]

    played(story)


def test_who_came_meanwhile_waits_for_those_who_were_answered() -> None:
    async def story(room: _Room) -> None:
        room.batches.put("a")
        assert await room.taken() == ["a"]
        room.batches.put("b")
        room.loop.now += 0.002
        room.batches.done()
        assert await room.taken() is None
        room.batches.put("a again")
        assert await room.taken() == ["b", "a again"]

    played(story)


@pytest.mark.parametrize(("took", "patience"), [(0.002, 0.002 * PATIENCE), (60.0, LONGEST)])
def test_but_not_for_long(took: float, patience: float) -> None:
    async def story(room: _Room) -> None:
        await room.wrote("a", "b", seconds=took)
        assert await room.taken() is None
        room.batches.put("a again")
        room.loop.now += patience * 0.9
        assert await room.taken() is None
        room.loop.now += patience * 1.1
        assert await room.taken() == ["a again"]

    played(story)


def test_after_waiting_in_vain_some_batches_wait_for_nobody() -> None:
    async def story(room: _Room) -> None:
        await room.wrote("a", "b")
        assert await room.taken() is None
        room.batches.put("c")
        assert await room.taken() is None
        room.loop.now += LONGEST
        assert await room.taken() == ["c"]
        for n in range(IN_VAIN):
            # Some came while the last was written, as if somebody always did.
            room.batches.put(f"{n}")
            room.batches.done()
            assert await room.taken() == [f"{n}"]
        room.batches.put("d")
        room.loop.now += 0.002
        assert await room.taken() is None

    played(story)


def test_more_than_the_most_are_two_batches() -> None:
    async def story(room: _Room) -> None:
        for n in range(MOST + 1):
            room.batches.put(f"{n}")
        assert await room.taken() == [f"{n}" for n in range(MOST)]
        room.loop.now += 1.0
        room.batches.done()
        assert await room.taken() is None
        room.loop.now += LONGEST
        assert await room.taken() == [f"{MOST}"]

    played(story)


def test_all_is_done_once_nothing_waits_and_nothing_is_written() -> None:
    async def story(room: _Room) -> None:
        await room.batches.all_done()
        room.batches.put("a")
        ended = asyncio.ensure_future(room.batches.all_done())
        assert await room.taken() == ["a"]
        room.batches.put("b")
        room.loop.now += 0.002
        room.batches.done()
        assert await room.taken() is None
        assert not ended.done()
        room.loop.now += LONGEST
        assert await room.taken() == ["b"]
        assert not ended.done()
        room.batches.done()
        await ended

    played(story)
