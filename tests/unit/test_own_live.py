"""The streams of the pages of this machine, fed by the files' events; where these fail, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from agent_mailer.console.live import CHANGED, PING
from agent_mailer.console.own.gate import Door
from agent_mailer.console.own.live import Pages


def test_where_nothing_can_be_watched_pages_are_told_to_look_again() -> None:
    async def changes() -> AsyncIterator[None]:
        yield
        raise OSError("no watch is left")

    async def all_of_it() -> list[bytes]:
        door = Door(9)
        pages = Pages(door, changes, heartbeat=0.01)
        stream = pages.stream(str(door.number))
        told: list[bytes] = []
        async with asyncio.timeout(30):
            async for said in stream:
                told += [said] if said.startswith(b"event: changed") else []
                if len(told) == 3:
                    break
        pages.close()
        return told

    assert len(asyncio.run(all_of_it())) == 3


def test_a_page_that_is_closed_takes_from_no_other_what_it_is_told() -> None:
    written, unwatched = asyncio.Semaphore(0), asyncio.Event()

    async def changes() -> AsyncIterator[None]:
        try:
            while await written.acquire():
                yield
        finally:
            unwatched.set()

    async def next_of(stream: AsyncIterator[bytes]) -> str:
        return (await anext(stream)).decode().splitlines()[0]

    async def close(stream: AsyncIterator[bytes]) -> None:
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()

    async def all_of_it() -> None:
        door = Door(9)
        # Long before a heartbeat.
        pages = Pages(door, changes, heartbeat=3600)
        one, other = (pages.stream(str(door.number)) for _ in range(2))
        async with asyncio.timeout(30):
            assert [await next_of(page) for page in (one, other)] == ["event: hello"] * 2
            written.release()
            assert [await next_of(page) for page in (one, other)] == ["event: changed"] * 2
            await close(one)
            written.release()
            assert await next_of(other) == "event: changed"
            assert not unwatched.is_set()
            # With the last of them nothing is watched, and with the next one it is.
            await close(other)
            await unwatched.wait()
            another = pages.stream(str(door.number))
            assert await next_of(another) == "event: hello"
            written.release()
            assert await next_of(another) == "event: changed"
            await close(another)

    asyncio.run(all_of_it())


def test_what_changes_while_a_page_is_told_of_an_earlier_change_is_told_next() -> None:
    async def changes() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    async def all_of_it() -> list[bytes]:
        door = Door(9)
        pages = Pages(door, changes, heartbeat=0.01)
        stream = pages.stream(str(door.number))
        told = [await anext(stream)]
        for _ in range(3):
            # Until it is asked for more the stream stands where it has told the one before.
            pages.changed()
            told.append(await anext(stream))
        told.append(await anext(stream))
        pages.close()
        return told[1:]

    assert asyncio.run(all_of_it()) == [CHANGED] * 3 + [PING]
