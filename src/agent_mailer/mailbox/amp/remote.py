"""The way to an agent's operator over its broker: the last report is told in the background, and what is asked there is
fetched when the stream says so.

With a broker that knows neither nothing is told, and nobody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from agent_mailer.mailbox.amp.answers import Answer, decode, may_pass, unavailable
from agent_mailer.mailbox.amp.client import REPORTS
from agent_mailer.mailbox.amp.link import Link
from agent_mailer.mailbox.amp.transport import path_of
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.remote.port import Answered, Asked, Became, Report

PAUSES: Final = (1.0, 3.0, 10.0, 30.0, 120.0)
"""Seconds before a report that could not leave is tried again."""


class _Kept(msgspec.Struct, frozen=True):
    asked: int = 0


class _Told(msgspec.Struct, frozen=True):
    """The body of `PUT /agents/{id}/requests/{number}`."""

    became: Became
    lines: tuple[str, ...]


class AmpRemote:
    """Implements `agent_mailer.remote.port.Remote`. `longest_wait`: seconds between two looks without a word."""

    def __init__(self, link: Link, longest_wait: Callable[[], float]) -> None:
        self._link = link
        self._longest_wait = longest_wait
        self._asked = asyncio.Event()
        self._last: bytes | None = None
        self._left: bytes | None = None
        """What the broker has."""
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Something was asked, or what happened meanwhile is not known."""
        self._asked.set()

    def begin(self) -> None:
        """We hold the agent anew: what the broker has may be another's, or of before it was put back."""
        self._left = None
        self._asked.set()
        self._start()

    def tell(self, report: Report) -> None:
        self._last = msgspec.json.encode(report)
        self._start()

    async def asked(self) -> Sequence[Asked]:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._longest_wait()):
                await self._asked.wait()
        self._asked.clear()
        try:
            async with self._link.connected():
                if not await self._knows():
                    return ()
                answer = await self._link.ask(
                    lambda transport, agent_id: transport.ask("GET", path_of("agents", agent_id, "requests"))
                )
            if not answer.ok:
                raise unavailable(answer)
            return _known(answer)
        except BaseException:
            self._asked.set()
            raise

    async def answer(self, answered: Answered) -> None:
        body = msgspec.json.encode(_Told(answered.became, answered.lines))
        number = str(answered.number)
        async with self._link.connected():
            if not await self._knows():
                return
            answer = await self._link.ask(
                lambda transport, agent_id: transport.ask(
                    "PUT", path_of("agents", agent_id, "requests", number), content=body, headers=self._link.fence
                )
            )
        if may_pass(answer):
            raise unavailable(answer)

    async def close(self, seconds: float) -> None:
        task, self._task = self._task, None
        if task is not None:
            if not task.done():
                await asyncio.wait([task], timeout=seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _start(self) -> None:
        if self._last is not None and (self._task is None or self._task.done()):
            with suppress(RuntimeError):
                self._task = asyncio.get_running_loop().create_task(self._tell_on())

    async def _tell_on(self) -> None:
        tries = 0
        while (body := self._last) is not None and body != self._left:
            if await self._tell(body):
                self._left, tries = body, 0
            else:
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1

    async def _tell(self, body: bytes) -> bool:
        """False where it should be tried again."""
        try:
            async with self._link.connected():
                if not await self._knows():
                    return True
                answer = await self._link.ask(
                    lambda transport, agent_id: transport.ask(
                        "PUT", path_of("agents", agent_id, "report"), content=body, headers=self._link.fence
                    )
                )
        except MailboxUnavailable:
            return False
        if answer.ok:
            with suppress(MailboxUnavailable):
                if decode(answer, _Kept).asked:
                    self._asked.set()
        # What it refuses for good it would refuse again.
        return not may_pass(answer)

    async def _knows(self) -> bool:
        info = await self._link.broker()
        return info.ours and REPORTS in info.extensions


def _known(answer: Answer) -> list[Asked]:
    """Without what a newer broker may let people ask."""
    found: list[Asked] = []
    for raw in decode(answer, list[msgspec.Raw]):
        with suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(raw, type=Asked))
    return found
