"""The stream of events, which wakes and tells nothing else: its contents and what of it is sent again is not known."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import httpx

from agent_mailer.mailbox.http import Peer

FIRST_WAIT: Final = 2.0
LONGEST_WAIT: Final = 120.0
LASTING: Final = 30.0
"""A stream that held so long is one that works: its loss is the first."""

SILENCE: Final = 300.0
"""Seconds without a byte after which it is made anew: whether it has a heartbeat is not known."""

LONGEST_LINE: Final = 256 * 1024

_OTHERS = ("agent.",)
"""Events of these names bring no mail; what has another name may."""


class Lines:
    """From parts of a stream to whether an event in them is worth a look. Raises ValueError for endless lines."""

    def __init__(self) -> None:
        self._open = b""
        self._name = ""
        self._has_data = False

    def take(self, part: bytes) -> bool:
        """Whether an event that may bring mail has ended in it."""
        *lines, self._open = (self._open + part).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._open) > LONGEST_LINE:
            raise ValueError("a line that does not end")
        wakes = False
        for line in lines:
            if not line:
                wakes = wakes or (self._has_data and not self._name.startswith(_OTHERS))
                self._name, self._has_data = "", False
            elif line.startswith(b"event:"):
                self._name = line[6:].decode("utf-8", "replace").strip()
                self._has_data = True
            elif line.startswith((b"data:", b"id:")):
                self._has_data = True
        return wakes


class Events:
    """Listens until it is closed. `woken` is called for every event, and whenever the connection has changed."""

    def __init__(self, peer: Peer, whose: str, woken: Callable[[], None]) -> None:
        self._peer = peer
        self._whose = whose
        self._woken = woken
        self._task: asyncio.Task[None] | None = None
        self.healthy = False
        """Whether arrivals would reach us now."""

    def start(self) -> None:
        self._task = self._task or asyncio.create_task(self._listen_on())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.healthy = False

    async def _listen_on(self) -> None:
        tries, loop = 0, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._listen()
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
                pass  # told by the next listing, which has the same trouble
            finally:
                lost, self.healthy = self.healthy, False
                if lost:
                    self._woken()
            tries = 1 if loop.time() - began >= LASTING else tries + 1
            await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries - 1, 20)) * random.random())

    async def _listen(self) -> None:
        lines = Lines()
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        async with (
            self._peer.client(SILENCE) as client,
            client.stream("GET", f"{self._peer.url}/events", params={"for": self._whose}, headers=headers) as response,
        ):
            if response.status_code != 200 or "event-stream" not in response.headers.get("content-type", ""):
                return
            # What came before this moment no event tells.
            self.healthy = True
            self._woken()
            async for part in response.aiter_raw():
                if lines.take(part):
                    self._woken()
