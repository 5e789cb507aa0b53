"""What the bridge to an agent of the Agent Client Protocol adds to a turn, beside the agent's own start."""

from __future__ import annotations

import json
import os
import resource
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
        pairs = [(_took(agent, _INITIALIZE), _took(through, b"do it")) for _ in range(TURNS)]
        # Of each pair by itself: what else the machine does falls on both.
        wall, cpu = (statistics.median(two[n] - one[n] for one, two in pairs) * 1e3 for n in range(2))
        alone = statistics.median(one[0] for one, _ in pairs) * 1e3
        bare = statistics.median(_took([sys.executable, "-c", "pass"], b"")[0] for _ in range(TURNS)) * 1e3
        text = f"{wall:.0f} ms ({wall / bare:.1f} x a bare Python; the agent alone {alone:.0f} ms{_of_a_real_one()})"
        row("a turn through the bridge, over the agent by hand: wall", text, "under 80 ms", met=wall < 80)
        row("a turn through the bridge, over the agent by hand: CPU", f"{cpu:.0f} ms", "under 80 ms", met=cpu < 80)
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


def _took(argv: Sequence[str], said: bytes) -> tuple[float, float]:
    """Wall and CPU, in seconds, of it and all that it has waited for."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, input=said, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
