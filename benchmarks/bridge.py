"""What the bridge to an agent of the Agent Client Protocol adds to a turn, beside the agent's own start."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tests import acp_agent
from tests.desk import until

from agent_mailer.runtimes.acp.adapter import BRIDGE
from agent_mailer.runtimes.acp.orders import Orders
from agent_mailer.turn_tools import ISOLATED
from benchmarks.measuring import resident_mib, row

TURNS = 15
_INITIALIZE = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1,"clientCapabilities":{}}}\n'


def bridge() -> None:
    """A whole turn of an agent that only answers, through the bridge and by hand; and the memory of the bridge."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        base = Path(folder)
        script, go = base / "script.json", base / "go"
        _follow(script, {"answer": {"stopReason": "end_turn"}})
        agent = (sys.executable, acp_agent.__file__, str(script))
        through = _bridged(agent, base)
        by_hand, bridged = [], []
        for _ in range(TURNS):
            by_hand.append(_seconds(agent, _INITIALIZE))
            bridged.append(_seconds(through, b"do it"))
        alone = statistics.median(by_hand) * 1e3
        added = statistics.median(bridged) * 1e3 - alone
        text = f"{added:.0f} ms (the agent alone {alone:.0f} ms{_of_a_real_one()})"
        row("a turn through the bridge, over the agent by hand", text, "under 80 ms", met=added < 80)
        there = base / "there"
        _follow(script, {"touch": str(there)}, {"await": str(go)}, {"answer": {"stopReason": "end_turn"}})
        process = subprocess.Popen(through, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.close()
        until(there.exists, "the prompt")
        taken = resident_mib(process.pid)
        go.touch()
        process.wait()
        row("memory of the bridge", f"{taken:.1f} MiB", "under 30 MiB", met=taken < 30)


def _follow(script: Path, *steps: dict[str, object]) -> None:
    methods = {
        "initialize": [{"answer": {"protocolVersion": 1}}],
        "session/new": [{"answer": {"sessionId": "s1"}}],
        "session/prompt": list(steps),
    }
    script.write_text(json.dumps(methods))


def _bridged(agent: Sequence[str], base: Path) -> list[str]:
    turn = base / ".agent-mailer" / "turns" / "t1"
    (turn / "outbox").mkdir(parents=True)
    orders = Orders(argv=tuple(agent), title="agent", workdir=str(base), turn_dir=str(turn))
    return [sys.executable, ISOLATED, "-m", BRIDGE, msgspec.json.encode(orders).decode()]


def _seconds(argv: Sequence[str], said: bytes) -> float:
    began = time.monotonic()
    subprocess.run(argv, input=said, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def _of_a_real_one() -> str:
    """The start of one that is installed, in the same run."""
    if shutil.which("opencode") is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        began = time.monotonic()
        env = {"PATH": os.environ["PATH"], "HOME": home}
        process = subprocess.Popen(
            ["opencode", "acp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=home
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_INITIALIZE)
        process.stdin.flush()
        process.stdout.readline()
        took = time.monotonic() - began
        process.kill()
        process.wait()
    return f", OpenCode's start {took * 1e3:.0f} ms"
