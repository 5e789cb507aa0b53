"""What the mail tools cost an agent program: their start, their memory, their calls."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Contact, Envelope, Message
from agent_mailer.turn_tools.folder import MAX_STAGED, Facts, NoteScope, TurnFolder
from benchmarks.measuring import percentile, quiet, resident_mib, row, seconds

STARTS = 15
READS = 200


def tools() -> None:
    """A server as an agent program starts it, over a thread of 20 mails of 2 KiB."""
    with _turn() as folder:
        starts = [_start(folder) for _ in range(STARTS)]
        bare = statistics.median(seconds(lambda: quiet([sys.executable, "-c", ""])) for _ in range(STARTS))
        middle = statistics.median(starts)
        text = f"{middle * 1e3:.0f} ms ({middle / bare:.1f} x a bare Python)"
        row("tools: start to tools/list answered, median", text, "under 300 ms", met=middle < 0.3)
        with _server(folder) as server:
            _greet(server)
            reads = [_timed(server, "read_thread", {}) for _ in range(READS)]
            stages = [_timed(server, "reply", {"body": f"answer {n} " * 100}) for n in range(MAX_STAGED)]
            memory = resident_mib(server.pid)
    row("tools: resident memory after 300 calls", f"{memory:.1f} MiB", "under 40 MiB", met=memory < 40)
    for name, values in (("read_thread", reads), ("reply (durable)", stages)):
        high = percentile(values, 0.95) * 1e3
        text = f"{high:.2f} ms (median {statistics.median(values) * 1e3:.2f})"
        row(f"tools: round trip of {name}, p95", text, "under 30 ms", met=high < 30)


@contextmanager
def _turn() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as base:
        path = Path(base) / "turn"
        envelope = Envelope("m1", "thread", "user", 1763712900.0, "1", "x.md")
        message = Message(envelope, "Colour", "Which one? " * 200, reply_to="user")
        facts = Facts("turn", "coder", 10 * 1024 * 1024, "", "")
        folder = TurnFolder(path, Disk())
        folder.prepare(message, (message,) * 20, (Contact("user"),), facts, {NoteScope.GLOBAL: b"# Known\n" * 100})
        yield path


@contextmanager
def _server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "agent_mailer.turn_tools.mcp", str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield server


def _start(folder: Path) -> float:
    began = time.perf_counter()
    with _server(folder) as server:
        _greet(server)
        return time.perf_counter() - began


def _greet(server: subprocess.Popen[bytes]) -> None:
    client = {"name": "benchmark", "version": "1"}
    _ask(server, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
    _ask(server, "tools/list", {})


def _timed(server: subprocess.Popen[bytes], tool: str, arguments: dict[str, object]) -> float:
    began = time.perf_counter()
    answer = _ask(server, "tools/call", {"name": tool, "arguments": arguments})
    took = time.perf_counter() - began
    assert b'"isError":false' in answer, answer
    return took


def _ask(server: subprocess.Popen[bytes], method: str, params: dict[str, object]) -> bytes:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + b"\n")
    server.stdin.flush()
    return server.stdout.readline()
