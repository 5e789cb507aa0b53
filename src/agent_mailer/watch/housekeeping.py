"""What is past its time goes, while mail is worked on: a history of thousands of turns keeps no message waiting.

A watcher that takes what waits and leaves (`--once`) does it before it looks: nothing comes after.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_mailer.watch.room import Room

SOON = 10.0
"""Seconds after a start: what waits then goes first."""

EVERY = 6 * 3600.0
PAUSE = 0.02
"""Seconds that are left to others after each step, of some milliseconds."""


async def keep_house(room: Room) -> None:
    """As long as the watcher runs. What the disk refuses is tried the next time."""
    # By then it knows what earlier watchers have left to be done.
    await asyncio.sleep(SOON)
    while True:
        with suppress(OSError):
            await prune(room, PAUSE)
        await asyncio.sleep(EVERY)


async def prune(room: Room, pause: float = 0.0) -> None:
    """Once. What is needed for a message that is not settled stays, also where that has become so since it began.

    Raises OSError.
    """
    retention, retries = room.state.retention, room.state.retries
    for _ in retention.prune(room.policy.keep_transcripts, lambda: [entry.envelope.id for entry in retries.all()]):
        await asyncio.sleep(pause)
