"""A short command beside a running event loop: fed, listened to and ended without holding anything up."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from agent_mailer.process.commands import Brief
from agent_mailer.process.handle import wait_gone
from agent_mailer.process.holder import TURN_ID_VARIABLE
from agent_mailer.process.identity import identify
from agent_mailer.process.tree import sweep

MOST_BESIDE = 16 * 1024


async def run_beside(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, seconds: float, mark: str, stdin: bytes = b""
) -> Brief:
    """Run `argv` for at most `seconds`; keeps the first 16 KiB of both output streams. Raises OSError.

    `stdin` is all it can read, at most what a pipe holds. `mark` names it among all processes: what an earlier run of
    the same mark left is ended first. When this returns, or is cancelled, nothing that it started runs any more.
    """
    await sweep(mark, grace=0.0)
    process = _start_beside(argv, {**env, TURN_ID_VARIABLE: mark}, cwd)
    assert process.stdin is not None
    assert process.stdout is not None
    output, loop, fd = bytearray(), asyncio.get_running_loop(), process.stdout.fileno()
    os.set_blocking(fd, False)

    def listen() -> None:
        if not _take(fd, output):
            loop.remove_reader(fd)

    loop.add_reader(fd, listen)
    try:
        _feed_at_once(process.stdin, stdin)
        identity = identify(process.pid)
        if identity is not None:
            await wait_gone([identity], seconds)
        status = process.poll()
        _take(fd, output)
    finally:
        loop.remove_reader(fd)
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        await sweep(mark, grace=0.0)
    shown = bytes(output[:MOST_BESIDE]).decode("utf-8", "replace")
    return Brief(None if status is None else _status(status), shown, len(output) > MOST_BESIDE)


def _start_beside(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv),
        env=env,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _feed_at_once(stream: IO[bytes], data: bytes) -> None:
    """What fits into the pipe at once: the write waits for nobody."""
    with stream:
        os.set_blocking(stream.fileno(), False)
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(stream.fileno(), data)


def _take(fd: int, output: bytearray) -> bool:
    """Read what is there; False once there will be no more."""
    for _ in range(16):
        try:
            piece = os.read(fd, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not piece:
            return False
        output += piece[: max(0, MOST_BESIDE + 1 - len(output))]
    return True
