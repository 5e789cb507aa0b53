"""Doorbells in a seeded loop: a session's hook waits for mail beside it as a life of the loop, and may be killed there.

The doorbell's code waits nowhere but in `asyncio.run`. Here that is a place where everything else goes on, in the same
loop.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy.util import await_only, greenlet_spawn
from tests.crash.seeded import SeededLoop

from agent_mailer.disk import Disk
from agent_mailer.live.doorbell import RUNG, Doorbell, quietly
from agent_mailer.live.heard import Heard, Moment, Program
from agent_mailer.live.sessions import LiveSession, LiveSessions
from agent_mailer.people import Person, arrivals
from agent_mailer.state.presence import Presence

REST = 5.0
"""Seconds within which a session that was woken, or whose hook has ended, has the next one."""


@contextmanager
def waiting_in_the_loop(monotonic: Callable[[], float]) -> Iterator[None]:
    """What a doorbell waits for it waits for in the loop that runs, by that clock."""
    alone = asyncio.run

    def run(work: Coroutine[Any, Any, Any], **more: Any) -> Any:
        inside = getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False)
        return await_only(work) if inside else alone(work, **more)

    clock = SimpleNamespace(monotonic=monotonic)
    with patch.object(asyncio, "run", run), patch.object(arrivals, "time", clock):
        yield


class BelledSession:
    """A session of a person: a hook waits beside it, at each end of one comes the next. `life`: the first free number
    of a life; each hook is one. `rings`: the words of each ring that has arrived.
    """

    def __init__(self, name: str, base: Path, person: Callable[[], Person], lot: random.Random, life: int) -> None:
        self.name, self._lot, self._life = name, lot, life
        self.rings: list[str] = []
        self.faults: list[str] = []
        self.kills = 0
        self._said: list[str] = []
        environ = {"CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDE_PID": str(os.getpid())}
        self._sessions, presence = LiveSessions(base / "live", Disk()), Presence(base / "project", Disk())
        self._bell = Doorbell(self._sessions, person, environ, lambda _: None, self._said.append, presence)
        self._hook: asyncio.Task[int] | None = None

    async def sit(self) -> None:
        """As long as the session lasts."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        moment = Moment.BEGINS
        while True:
            self._said.clear()
            call, self._life = Heard(self.name, moment), self._life + 1
            hook = self._hook = loop.begin(self._life, self._listen(call))
            while not (hook.done() or hook is not self._hook):
                await asyncio.wait({hook}, timeout=1.0)
            if hook.done():
                # An end with `RUNG` wakes the session, and it hears what was said.
                if hook.result() == RUNG:
                    self.rings += self._said
                else:
                    self.faults.append(f"the bell of {self.name} has gone, and the session is there")
            await asyncio.sleep(self._lot.uniform(0.0, REST))
            moment = Moment.RESTS

    def kill(self, loop: SeededLoop) -> None:
        """The hook, as it waits or rings."""
        if self._hook is not None and not self._hook.done():
            loop.kill(self._life)
            self.kills += 1
            self._hook = None

    def counted(self) -> list[str]:
        """What no hook rings for any more: it was told, or was there before the first of them had begun."""
        known = self._sessions.known(LiveSession(Program.CLAUDE, self.name))
        return [] if known is None else [*known.told, *(known.before or ())]

    async def _listen(self, call: Heard) -> int:
        return await greenlet_spawn(quietly, lambda: self._bell.hear(Program.CLAUDE, call, os.getpid()))
