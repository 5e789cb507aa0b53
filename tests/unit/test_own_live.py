"""The stream of a page of this machine, where the files' events fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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
