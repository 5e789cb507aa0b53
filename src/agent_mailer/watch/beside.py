"""What goes on beside the loop, from the first moment to the last, also while the mailbox cannot be opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from agent_mailer.file_events import FileEvents
from agent_mailer.watch.housekeeping import keep_house
from agent_mailer.watch.pulse import Ear, learn_login
from agent_mailer.watch.reporting import operated_from_afar
from agent_mailer.watch.room import Pump, Room
from agent_mailer.watch.settings import Settings
from agent_mailer.watch.trees import keep_out_of_trees


@asynccontextmanager
async def going_on(stories: Iterator[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Each is begun before the next is asked for: none is left behind where that one fails. All are over at the end."""
    tasks: list[asyncio.Task[None]] = []
    try:
        for story in stories:
            tasks.append(asyncio.create_task(story))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def beside_the_loop(
    room: Room, ear: Ear, pump: Pump, settings: Settings | None
) -> Iterator[Coroutine[None, None, None]]:
    """As long as the watcher waits for mail."""
    if settings is not None:
        yield pump_folders(pump, settings.folders, settings.heed, changes=True)
    yield learn_login(room)
    yield keep_out_of_trees(room, pump)
    yield keep_house(room)
    yield from operated_from_afar(room, ear, pump)


async def pump_folders(
    pump: Pump, folders: Sequence[Path], heed: Callable[[], bool] | None = None, *, changes: bool = False
) -> None:
    """What this opens it opens itself: who is cancelled before his first step has nothing open."""
    with closing(FileEvents(folders, changes=changes)) as events:
        await pump(events.wait, heed)
