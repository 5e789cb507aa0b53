"""Trying again what the disk, the system or the mailbox cannot take now, for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.state.records import TurnRecord
from agent_mailer.watch.retry import backoff
from agent_mailer.watch.room import Room

T = TypeVar("T")


async def until_disk_takes_it(room: Room, record: TurnRecord, write: Callable[[], T]) -> T:
    """What `write` returns, once it raises no OSError. Raises what the room's guard raises."""
    tries = 0
    while True:
        # Where the workdir has vanished no waiting helps, and nothing may be made in its place.
        room.guard()
        try:
            result = write()
        except OSError as error:
            room.troubles.begin(record.turn_id, error)
        else:
            room.troubles.over(record.turn_id)
            return result
        await wait(room, record, tries)
        tries += 1


async def until_system_lets(room: Room, record: TurnRecord, call: Callable[[], Awaitable[T]]) -> T:
    """The same for what is awaited, and needs descriptors or processes rather than the workdir."""
    tries = 0
    while True:
        try:
            result = await call()
        except OSError as error:
            room.troubles.begin(record.turn_id, error)
        else:
            room.troubles.over(record.turn_id)
            return result
        await wait(room, record, tries)
        tries += 1


async def until_mailbox_takes_it(room: Room, record: TurnRecord, call: Callable[[], Awaitable[None]]) -> None:
    tries = 0
    while True:
        try:
            await call()
        except MailboxUnavailable as fault:
            room.troubles.begin(record.turn_id, fault)
        else:
            room.troubles.over(record.turn_id)
            return
        await wait(room, record, tries)
        tries += 1


async def wait(room: Room, record: TurnRecord, tries: int) -> None:
    seconds = backoff(tries, room.policy.trouble_first, room.policy.trouble_longest)
    room.stuck.add(record.turn_id)
    try:
        await asyncio.sleep(seconds * (0.5 + room.jitter() / 2))
    finally:
        room.stuck.discard(record.turn_id)
