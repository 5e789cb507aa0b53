"""When a page of this machine may be old: something has happened in a workdir, or mail has moved in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.errors import MailerError
from agent_mailer.file_events import FileEvents

if TYPE_CHECKING:
    from agent_mailer.desk.looking import Looking

EVERY = 1.0
"""Seconds between two words."""

IN_ANY_CASE = 15.0
"""Ages grow, and a watcher that is killed writes nothing."""


async def changes(looking: Looking) -> AsyncIterator[None]:
    """At once, then as said. Agents and mailboxes that are made meanwhile are followed within `IN_ANY_CASE`."""
    folders: tuple[Path, ...] = ()
    events: FileEvents | None = None
    looked = -IN_ANY_CASE
    try:
        while True:
            now = asyncio.get_running_loop().time()
            if events is None or now - looked >= IN_ANY_CASE:
                looked = now
                found = await asyncio.to_thread(lambda: tuple(dict.fromkeys(_folders(looking))))
                if events is None or found != folders:
                    if events is not None:
                        events.close()
                    folders, events = found, FileEvents(found, changes=True, rescan_seconds=IN_ANY_CASE)
            await events.wait()
            yield
            await asyncio.sleep(EVERY)
    finally:
        if events is not None:
            events.close()


def _folders(looking: Looking) -> Iterator[Path]:
    from agent_mailer.people.overseen import folders_of

    for place in looking.places():
        yield place.folder.path
        if place.in_folder:
            with suppress(MailerError, OSError):
                yield from folders_of(place.maildir_root())
