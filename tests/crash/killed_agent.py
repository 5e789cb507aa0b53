"""The agent of the kill loops: `python killed_agent.py BASE`; it answers in two parts, and a witness hears each step.

The first part goes by way of its tool server, the second by the command, or the other way round. A tool that dies is
asked again, as a careful agent does. `BASE/witness.jsonl` gets a synced line for the start, each tool, each part that a
tool has confirmed, and the end. The lock of its thread is held as long as anything of the turn lives. Nothing but the
standard library is loaded: there are many of these.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HOPELESS = "hopeless"
PARTS = ("first", "second")
TRIES = 20

_TURN_DIR = os.environ.get("AGENT_MAILER_TURN_DIR", "")
_MESSAGE = os.environ.get("AGENT_MAILER_MESSAGE_ID", "")


def main(base: Path) -> int:
    lock = os.open(base / f"thread-{os.environ['AGENT_MAILER_THREAD_ID']}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _tell(base, "overlap")
    _tell(base, "start")
    sys.stdin.buffer.read()
    if (Path(_TURN_DIR) / "message.md").read_text().rstrip().endswith(HOPELESS):
        return 1
    ways: list[Callable[[Path, int, str], bool]] = [_by_server, _by_command]
    if sum(_MESSAGE.encode()) % 2:
        ways.reverse()
    for part, way in zip(PARTS, ways, strict=True):
        time.sleep(0.02)
        if not any(way(base, lock, f"{part} {_MESSAGE}") for _ in range(TRIES)):
            return 2
        _tell(base, "reply", part=part)
    _tell(base, "end")
    return 0


def _by_server(base: Path, lock: int, body: str) -> bool:
    client = {"name": "killed", "version": "1"}
    calls = [
        ("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}),
        ("tools/call", {"name": "reply", "arguments": {"body": body}}),
    ]
    argv = [sys.executable, "-m", "agent_mailer.turn_tools.mcp", _TURN_DIR]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lock]) as server:
        _tell(base, "tool", server.pid)
        assert server.stdin is not None
        assert server.stdout is not None
        answer = b""
        with suppress(BrokenPipeError):
            for method, params in calls:
                call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
                server.stdin.write(json.dumps(call).encode() + b"\n")
                server.stdin.flush()
                answer = server.stdout.readline()
        with suppress(BrokenPipeError):
            server.stdin.close()
    return b'"isError":false' in answer


def _by_command(base: Path, lock: int, body: str) -> bool:
    argv = [sys.executable, "-m", "agent_mailer.cli.app", "mail", "reply", "--body", body]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[lock]) as command:
        _tell(base, "tool", command.pid)
        return command.wait() == 0


def _tell(base: Path, mark: str, pid: int = 0, **more: str) -> None:
    turn = os.environ["AGENT_MAILER_TURN_ID"]
    line = {"mark": mark, "turn": turn, "message": _MESSAGE, "pid": pid or os.getpid(), **more}
    fd = os.open(base / "witness.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # No line lies in two pages: who reads beside a writer, or after one that was killed, finds it whole or not.
        os.write(fd, json.dumps(line).encode().ljust(511) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
