"""What a program is tried for before its turns: each of it for itself, and again until it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import ASKS, FENCE, CommandOutput, Finding, Probe, RuntimeMissing
from agent_mailer.watch.program import Program


class Tried(CommandRuntime):
    """Its probes are a shell's: one that exits with 1 opens."""

    def __init__(self, fence: str, asks: str) -> None:
        super().__init__(["x"], CommandOutput.JSONL, {})
        self.scripts = {FENCE: fence, ASKS: asks}

    def probes(self, workdir: Path) -> Sequence[Probe]:
        return [Probe(name, ("/bin/sh", "-c", script), {}, workdir) for name, script in self.scripts.items()]

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        return Finding(status == 0, f"{probe.name}: {output.strip()}", opens=status == 1)


def test_what_holds_is_tried_once_and_vouches_for_nothing_else(tmp_path: Path) -> None:
    fence, asks, closed = tmp_path / "fence", tmp_path / "asks", tmp_path / "closed"
    runtime = Tried(f"echo x >>{fence}", f"echo x >>{asks}; [ -e {closed} ] || {{ echo open; exit 1; }}")
    program = Program(runtime)
    for turn in ("turn-1", "turn-2"):
        with pytest.raises(RuntimeMissing, match="asks: open"):
            asyncio.run(program.require_fence(tmp_path, turn, sandbox=True))
    closed.touch()
    for turn in ("turn-3", "turn-4"):
        asyncio.run(program.require_fence(tmp_path, turn, sandbox=True))
    assert [path.read_text().count("x") for path in (fence, asks)] == [1, 3]
