"""Mail that comes while a person waits for it or takes it, and what becomes of mail that was sent."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from agent_mailer.people.send import patiently

if TYPE_CHECKING:
    import asyncio

    from agent_mailer.mailbox.port import Message, Unreadable
    from agent_mailer.people.port import PersonalMail, Search, Sent, Tell


class Arrival(StrEnum):
    """Whether a message was there already, in AMQ's words."""

    EXISTING = "existing"
    NEW = "new_message"


class Fate(StrEnum):
    """How far a message is with its recipient, in AMQ's words."""

    DRAINED = "drained"
    DLQ = "dlq"


Arrived = Callable[["Message", Arrival], None]
Drained = Callable[["Message | Unreadable"], None]

_LONG = 3600.0
_LEAST, _MOST, _POLLED = 0.01, 15.0, 5.0
"""Seconds between two looks of who waits for news; rests under `_POLLED` are those of a mailbox that is polled."""


async def watch(mail: PersonalMail, search: Search, arrived: Arrived, *, seconds: float | None, follow: bool) -> bool:
    """Tell of what waits, and with `follow` of what comes after; nothing is taken. Whether there was any.

    Without `follow` it ends with the first mail; in any case after `seconds`. Raises BusyFault where a watcher takes
    this mail.
    """
    mail.require_unwatched()
    end = None if seconds is None else time.monotonic() + seconds
    told, arrival, came = frozenset[str](), Arrival.EXISTING, False
    async with mail.listening(None) as rest:
        while True:
            waiting = [found.message for found in await mail.listed(search, read_too=False)]
            for message in waiting:
                if message.envelope.id not in told:
                    arrived(message, arrival)
                    came = True
            told, arrival = frozenset(message.envelope.id for message in waiting), Arrival.NEW
            left = _LONG if end is None else end - time.monotonic()
            if (came and not follow) or left <= 0:
                return came
            await rest(left)


Choice = Callable[[Sequence[str]], Sequence[str]]
"""Which of the messages that wait are news, by id."""


async def await_news(mail: PersonalMail, choose: Choice, over: Callable[[], Awaitable[object]]) -> Sequence[str]:
    """Wait for mail of which `choose` chooses some, and say which; nothing, once `over` has come to an end.

    It takes nothing, and may last for days: where the mailbox has no way of telling, it is asked ever more seldom.
    Raises BusyFault where a watcher takes this mail.
    """
    import asyncio

    mail.require_unwatched()
    ending = asyncio.ensure_future(over())
    pause = _LEAST
    try:
        async with mail.listening(None) as rest:
            while True:
                waiting = [found.message.envelope.id for found in await mail.listed(read_too=False)]
                if news := choose(waiting):
                    return news
                asked = time.monotonic()
                resting = asyncio.ensure_future(rest(_LONG))
                await asyncio.wait({ending, resting}, return_when=asyncio.FIRST_COMPLETED)
                if not resting.done():
                    resting.cancel()
                    return ()
                resting.result()
                pause = min(2 * pause, _MOST) if time.monotonic() - asked < _POLLED else _LEAST
                if await _ended(ending, pause):
                    return ()
    finally:
        ending.cancel()


async def _ended(ending: asyncio.Future[object], seconds: float) -> bool:
    import asyncio

    await asyncio.wait({ending}, timeout=seconds)
    return ending.done()


async def drain(mail: PersonalMail, limit: int, drained: Drained) -> None:
    """Take what waits, oldest first, each just before it is told: what our end keeps us from stays unread.

    A limit of 0 is none. Raises BusyFault where a watcher takes this mail.
    """
    mail.require_unwatched()
    async for taken in mail.drained(limit):
        drained(taken)


async def wait_for_fate(mail: PersonalMail, sent: Sent, wanted: Fate, seconds: float, tell: Tell) -> Fate | None:
    """Wait until every recipient is so far; the other fate where that has become impossible, None where time is up."""

    async def look_once() -> Fate | None:
        receipts = await mail.receipts(sent, frozenset())
        unreadable = {one.recipient for one in receipts if one.unreadable}
        taken = {one.recipient for one in receipts if not one.unreadable}
        if (unreadable if wanted is Fate.DLQ else taken).issuperset(sent.recipients):
            return wanted
        return Fate.DLQ if unreadable and wanted is Fate.DRAINED else None

    async with mail.listening(sent) as rest:
        return await patiently(look_once, rest, seconds, tell)
