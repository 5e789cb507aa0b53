"""What the parts of the engine share: the ports, the state, the policy and the clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from agent_mailer.clock import Clock
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Mailbox
from agent_mailer.prompts import PromptRoom
from agent_mailer.runtimes.port import Runtime, ToolServer
from agent_mailer.state import State
from agent_mailer.watch.notices import Notices
from agent_mailer.watch.rules import WatchPolicy
from agent_mailer.watch.trouble import Troubles


class Room:
    """One watcher's surroundings.

    `guard` raises BusyFault when the workdir's lock is no longer ours; `tools` is how the mail tools of a turn's folder
    are started.
    """

    def __init__(
        self,
        *,
        mailbox: Mailbox,
        runtime: Runtime,
        state: State,
        policy: WatchPolicy,
        prompts: PromptRoom,
        clock: Clock,
        guard: Callable[[], None],
        tools: Callable[[Path], ToolServer],
    ) -> None:
        self.mailbox = mailbox
        self.runtime = runtime
        self.state = state
        self.policy = policy
        self.prompts = prompts
        self.clock = clock
        self.guard = guard
        self.tools = tools
        self.settling: set[str] = set()
        """Turns that are decided and only have to be applied: they hold a thread, but no place of a running turn."""
        self.stuck: set[str] = set()
        """Those of them that wait for a mailbox or a disk."""
        self.in_hand: set[str] = set()
        """Ids of the open turns that a task of this watcher sees through."""
        self.troubles = Troubles(state, clock)
        self.notices = Notices(self)
        self.troubles.changed = self.notices.wake
        self.stopping = asyncio.Event()
        self.stop_at: float | None = None
        """Monotonic: when running turns are ended, once we are stopping."""

    @property
    def log(self) -> EventLog:
        return self.state.log

    def jitter(self) -> float:
        return random.random()

    def request_stop(self, grace: float) -> None:
        self.stop_at = self.clock.monotonic() + grace
        self.stopping.set()
