"""Short commands that are no agent: an editor in the terminal, programs beside a command or a running event loop."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from agent_mailer.process.handle import identify, wait_gone
from agent_mailer.process.holder import TURN_ID_VARIABLE
from agent_mailer.process.tree import sweep

_POLL = 0.02


class Finished(msgspec.Struct, frozen=True):
    """How a command ended: its exit status (128 + n after signal n) and its output, both streams."""

    status: int
    output: str


class Brief(msgspec.Struct, frozen=True):
    """How a bounded command ended: `status` None = its time was up; `cut` = it said more than was kept."""

    status: int | None
    output: str
    cut: bool = False


class RunningCommand:
    """A program that runs beside us. The caller stops it or sees it end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """Its exit status, 128 + n after signal n; None while it runs."""
        status = self._process.poll()
        return None if status is None else _status(status)

    def ask_to_stop(self) -> None:
        """SIGTERM, if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, grace: float) -> int:
        """Ask, wait `grace` seconds, then kill; returns its exit status."""
        self.ask_to_stop()
        end = time.monotonic() + grace
        while (status := self.status()) is None and time.monotonic() < end:
            time.sleep(_POLL)
        if status is None:
            self._process.kill()
            self._process.wait()
            status = self.status()
        return status or 0


def start_command(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: Path) -> RunningCommand:
    """Start `argv` with nothing on stdin, both output streams appended to `output`. Raises OSError."""
    with output.open("ab") as stream:
        return RunningCommand(_start(argv, env, cwd, stream))


def run_command(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Finished:
    """Run `argv` to its end with nothing on stdin. Raises OSError."""
    done = subprocess.run(
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Finished(_status(done.returncode), done.stdout.decode("utf-8", "replace"))


def run_briefly(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    most_bytes: int = 64 * 1024,
    stdin: bytes = b"",
) -> Brief:
    """Run `argv` for at most `seconds` and keep the first `most_bytes` of both output streams. Raises OSError.

    `stdin`, at most 4096 bytes, is all it can read. When this returns, nothing that it started runs any more. Not for
    use in a running event loop.
    """
    mark = f"brief-{secrets.token_hex(8)}"
    process = subprocess.Popen(
        list(argv),
        env={**env, TURN_ID_VARIABLE: mark},
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _feed(process, stdin)
        output, cut = _listen(process, time.monotonic() + seconds, most_bytes)
        status = process.poll()
    finally:
        _end_all(process, mark)
    return Brief(None if status is None else _status(status), output.decode("utf-8", "replace"), cut)


def run_in_terminal(argv: Sequence[str]) -> int:
    """Run an interactive program on our own terminal and wait; returns its exit status. Raises OSError."""
    # The terminal's Ctrl-C is for that program, and must not leave it behind. A handler, unlike ignoring the signal, is
    # not inherited.
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return _status(subprocess.Popen(list(argv)).wait())
    finally:
        signal.signal(signal.SIGINT, previous)


def _start(argv: Sequence[str], env: Mapping[str, str], cwd: Path, stream: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv), env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
    )


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """So little fits into the pipe: the write waits for nobody."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(data[: select.PIPE_BUF])
        process.stdin.close()


def _listen(process: subprocess.Popen[bytes], end: float, most_bytes: int) -> tuple[bytes, bool]:
    """What it says until it has ended or the time is up, however long others hold its output open."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    os.set_blocking(fd, False)
    kept, cut, open_still = bytearray(), False, True
    while True:
        ended = process.poll() is not None
        while open_still:
            try:
                piece = os.read(fd, 65536)
            except BlockingIOError:
                break
            open_still = bool(piece)
            cut = cut or len(kept) + len(piece) > most_bytes
            kept += piece[: most_bytes - len(kept)]
            if time.monotonic() >= end:
                break
        if ended or time.monotonic() >= end:
            return bytes(kept), cut
        if open_still:
            select.select([fd], [], [], _POLL)
        else:
            time.sleep(_POLL)


def _end_all(process: subprocess.Popen[bytes], mark: str) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    asyncio.run(sweep(mark, grace=0.0))
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


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
