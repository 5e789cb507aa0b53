"""The agent program of the turns that start now: how it is, and that it keeps its turns from what they must not do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_mailer.meanwhile import meanwhile
from agent_mailer.outcomes import NOT_EXECUTED
from agent_mailer.process.commands import run_briefly_async
from agent_mailer.runtimes.port import ASKS, FENCE, Runtime, RuntimeMissing

FENCE_SECONDS = 30.0


class Program:
    """A runtime, and what it is like: known once."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.traits = runtime.traits
        self._trying = asyncio.Lock()
        self._holds: dict[str, object] = {}
        """Which file, started how, was seen to keep its turns from what they must not do; by the probe's name."""

    async def require_fence(self, workdir: Path, turn_id: str, *, sandbox: bool) -> None:
        """Before the first turn, and once the program has changed: by an upgrade, say. `sandbox`: its own is in use.

        Raises RuntimeMissing where it lets a turn touch what it must not, and OSError. What does not start opens none.
        """
        wanted = (FENCE, ASKS) if sandbox or not self.traits.own_sandbox else (ASKS,)
        for probe in [one for one in self.runtime.probes(workdir) if one.name in wanted]:
            async with self._trying:
                file = await meanwhile(Path(probe.argv[0]).stat)
                this = (probe.argv, file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)
                if self._holds.get(probe.name) == this:
                    continue
                mark = f"fence-{turn_id}"
                done = await run_briefly_async(
                    probe.argv, env=probe.env, cwd=probe.cwd, seconds=FENCE_SECONDS, mark=mark
                )
                if done.status is not None and done.status not in NOT_EXECUTED:
                    finding = self.runtime.read_probe(probe, done.status, done.output)
                    if finding.opens:
                        raise RuntimeMissing("fence_open", finding.text, finding.fix)
                    self._holds[probe.name] = this
