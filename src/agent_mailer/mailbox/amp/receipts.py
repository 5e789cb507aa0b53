"""Receipts: how far a message is, told to the broker in the background. What cannot be told is dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import msgspec

from agent_mailer.mailbox.amp.answers import Answer, may_pass
from agent_mailer.mailbox.amp.link import Link
from agent_mailer.mailbox.amp.transport import path_of
from agent_mailer.mailbox.port import MailboxUnavailable, Progress

MOST_WAITING: Final = 500
MOST_OF_AN_ID: Final = 64
PAUSES: Final = (1.0, 3.0)
"""Seconds before the second and the third attempt."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of `POST /messages/{id}/receipts`."""

    stage: str
    turn_id: str
    outcome: str = ""
    detail: str = ""
    final: bool = False


def receipt_of(progress: Progress, *, final: bool) -> bytes:
    detail = progress.detail.replace("\0", "").encode("utf-8", "replace").decode()[:600]
    receipt = Receipt(progress.stage.value, progress.turn_id[:MOST_OF_AN_ID], progress.outcome[:32], detail, final)
    return msgspec.json.encode(receipt)


async def post_receipt(link: Link, message_id: str, body: bytes) -> Answer:
    """Raises MailboxUnavailable, and ValueError for an id that can be none."""
    path = path_of("messages", message_id, "receipts")
    return await link.ask(lambda transport, _: transport.ask("POST", path, content=body, headers=link.fence))


class Reporter:
    """Tells in order, in the background, as long as the loop runs."""

    def __init__(self, link: Link, pauses: tuple[float, ...] = PAUSES) -> None:
        self._link = link
        self._pauses = pauses
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=MOST_WAITING)
        self._task: asyncio.Task[None] | None = None

    def tell(self, message_id: str, progress: Progress) -> None:
        self._waiting.append((message_id, receipt_of(progress, final=False)))
        if self._task is None or self._task.done():
            with suppress(RuntimeError):
                self._task = asyncio.get_running_loop().create_task(self._tell_all())

    async def flush(self, seconds: float) -> None:
        """Wait until all is told, at most `seconds` seconds."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=seconds)

    async def close(self, seconds: float) -> None:
        await self.flush(seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._waiting.clear()

    async def _tell_all(self) -> None:
        async with self._link.connected():
            while self._waiting:
                message_id, body = self._waiting.popleft()
                with suppress(MailboxUnavailable, ValueError):
                    if (await self._link.broker()).ours:
                        await self._tell(message_id, body)

    async def _tell(self, message_id: str, body: bytes) -> None:
        for pause in (*self._pauses, None):
            with suppress(MailboxUnavailable):
                answer = await post_receipt(self._link, message_id, body)
                if not may_pass(answer):
                    return
            if pause is None:
                return
            await asyncio.sleep(pause)
