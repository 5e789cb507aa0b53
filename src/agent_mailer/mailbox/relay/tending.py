"""What a watcher does there beside its mail: it keeps its presence and its claims alive, and shows how it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final

from agent_mailer.clock import Clock
from agent_mailer.errors import BusyFault
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.mailbox.relay.claims import Claims
from agent_mailer.mailbox.relay.session import HEARTBEAT_SECONDS, Session, Standing

AGAIN: Final = 5.0
"""Seconds until a server that did not answer is asked once more."""

MOST_ERRANDS: Final = 100

Errand = Callable[[], Coroutine[object, object, object]]


class Tending:
    """In the background, until it is closed. `anew` is called after a registration that the server had lost, `woken`
    where a watcher has something to hear.
    """

    def __init__(
        self, session: Session, claims: Claims, clock: Clock, anew: Callable[[], None], woken: Callable[[], None]
    ) -> None:
        self._session = session
        self._claims = claims
        self._clock = clock
        self._anew = anew
        self._woken = woken
        self._in_work = set[str]()
        self._takes_mail = True
        self._told: Standing | None = None
        self._errands: list[Errand] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._task or asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Others see at once that nobody takes mail here any more."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with suppress(MailboxUnavailable, TimeoutError):
            async with asyncio.timeout(AGAIN):
                await self._session.tell(Standing.OFFLINE)

    @property
    def standing(self) -> Standing:
        """What others are to see: idle is who would begin with what comes now."""
        return Standing.IDLE if self._takes_mail and not self._in_work else Standing.BUSY

    def work(self, message: str, *, on: bool) -> None:
        """A turn has begun with the message, or ended, whether the message is finished with it or not."""
        (self._in_work.add if on else self._in_work.discard)(message)
        self._changed.set()

    def take_mail(self, *, on: bool) -> None:
        self._takes_mail = on
        self._changed.set()

    def do(self, errand: Errand) -> None:
        """Soon, once; what fails is not tried again."""
        if len(self._errands) < MOST_ERRANDS:
            self._errands.append(errand)
            self._changed.set()

    def claimed(self) -> None:
        """There may be something to be renewed."""
        self._changed.set()

    async def _tend(self) -> None:
        beaten = self._clock.monotonic()
        while self._session.lost is None:
            try:
                if self._clock.monotonic() - beaten >= HEARTBEAT_SECONDS:
                    if not await self._session.beat():
                        self._told = None
                        self._anew()
                    beaten = self._clock.monotonic()
                await self._claims.renew()
                while self._errands:
                    await self._errands.pop(0)()
                if self._told is not (wanted := self.standing):
                    await self._session.tell(wanted)
                    self._told = wanted
                rest = min(HEARTBEAT_SECONDS - (self._clock.monotonic() - beaten), self._claims.next_due)
            except BusyFault:
                break
            except MailboxUnavailable:
                rest = AGAIN
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, rest)):
                    await self._changed.wait()
            self._changed.clear()
        self._woken()
