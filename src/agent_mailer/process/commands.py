"""Short commands that are no agent: one that is asked something, one that runs beside us, one in our terminal."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from agent_mailer.process.environment import without_theirs
from agent_mailer.process.holder import TURN_ID_VARIABLE
from agent_mailer.process.leashed import Leashed
from agent_mailer.process.talking import shell_status
from agent_mailer.process.tree import sweep

MOST_OUTPUT = 64 * 1024
_PIECE = 64 * 1024
_PIECES_AT_ONCE = 16


class Brief(msgspec.Struct, frozen=True):
    """How a bounded command ended: `status` None = its time was up; `cut` = it said more than was kept."""

    status: int | None
    output: str
    cut: bool = False


def run_briefly(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    most_bytes: int = MOST_OUTPUT,
    stdin: bytes = b"",
) -> Brief:
    """`run_briefly_async` for a caller without an event loop."""
    return asyncio.run(run_briefly_async(argv, env=env, cwd=cwd, seconds=seconds, most_bytes=most_bytes, stdin=stdin))


async def run_briefly_async(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    most_bytes: int = MOST_OUTPUT,
    stdin: bytes = b"",
    mark: str = "",
) -> Brief:
    """Run `argv` for at most `seconds` and keep the first `most_bytes` of both output streams. Raises OSError.

    `stdin` is all it can read, at most what a pipe holds. `mark` names it among all processes: what an earlier run of
    the same mark left is ended first. When this returns, or is cancelled, nothing that it started runs any more.
    """
    if mark:
        await sweep(mark, grace=0.0)
    mark = mark or f"brief-{secrets.token_hex(8)}"
    leashed = Leashed(argv, env={**env, TURN_ID_VARIABLE: mark}, cwd=cwd)
    assert leashed.process.stdin is not None
    assert leashed.process.stdout is not None
    loop, fd = asyncio.get_running_loop(), leashed.process.stdout.fileno()
    output = bytearray()

    def listen() -> None:
        if not _take(fd, output, most_bytes):
            loop.remove_reader(fd)

    try:
        os.set_blocking(fd, False)
        loop.add_reader(fd, listen)
        _feed(leashed.process.stdin, stdin)
        await leashed.until_ended(seconds)
        status = leashed.status
        _take(fd, output, most_bytes)
    finally:
        loop.remove_reader(fd)
        leashed.let_go()
        try:
            await leashed.until_gone()
        finally:
            leashed.bury()
            leashed.process.stdout.close()
        await sweep(mark, grace=0.0)
    if leashed.why is not None:
        raise leashed.why
    shown = bytes(output[:most_bytes]).decode("utf-8", "replace")
    return Brief(status, shown, len(output) > most_bytes)


def _feed(stream: IO[bytes], data: bytes) -> None:
    """What fits into the pipe at once: the write waits for nobody."""
    with stream:
        os.set_blocking(stream.fileno(), False)
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(stream.fileno(), data)


def _take(fd: int, output: bytearray, most_bytes: int) -> bool:
    """Read what is there, and keep one byte more than is wanted; False once there will be no more."""
    for _ in range(_PIECES_AT_ONCE):
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not piece:
            return False
        output += piece[: max(0, most_bytes + 1 - len(output))]
    return True


class Finished(msgspec.Struct, frozen=True):
    """How a command ended that had all the time it wanted: its exit status and its output, both streams."""

    status: int
    output: str


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
    return Finished(shell_status(done.returncode), done.stdout.decode("utf-8", "replace"))


class RunningCommand:
    """A program that runs beside us, and ends when we end. The caller stops it or sees it end."""

    def __init__(self, leashed: Leashed) -> None:
        self._leashed = leashed

    @property
    def pid(self) -> int:
        return self._leashed.pid

    def status(self) -> int | None:
        """Its exit status, 128 + n after signal n; None while it runs."""
        self._leashed.hear()
        return self._leashed.status

    def ask_to_stop(self) -> None:
        """SIGTERM, if it still runs."""
        if not self._leashed.ended:
            self._leashed.process.terminate()

    def stop(self, grace: float) -> int:
        """Ask, wait `grace` seconds, then end it and all that it has started; returns its exit status."""
        self.ask_to_stop()
        self._leashed.wait(grace)
        status = self._leashed.status
        self._leashed.bury()
        return 128 + signal.SIGKILL if status is None else status


def start_command(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: Path) -> RunningCommand:
    """Start `argv` with nothing on stdin, both output streams appended to `output`. Raises OSError."""
    with output.open("ab") as stream:
        leashed = Leashed(argv, env=env, cwd=cwd, output=stream.fileno())
    leashed.wait(None, known=True)
    if leashed.why is not None:
        leashed.bury()
        raise leashed.why
    return RunningCommand(leashed)


class CommandApart:
    """A program of which only its end is of interest here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """Its exit status, 128 + n after signal n; None while it runs."""
        status = self._process.poll()
        return None if status is None else shell_status(status)


def start_apart(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, errors: Path) -> CommandApart:
    """Start `argv` in a session of its own, to outlive us and our terminal; only what it complains of is kept.

    It is appended to `errors`. Raises OSError.
    """
    with errors.open("ab") as stream:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
    return CommandApart(process)


def run_in_terminal(argv: Sequence[str], theirs: Sequence[Path] = ()) -> int:
    """Run an interactive program on our own terminal and wait; returns its exit status. Raises OSError.

    `theirs`: folders that agents write in, out of which it takes no program.
    """
    # The terminal's Ctrl-C is for that program, and must not leave it behind. A handler, unlike ignoring the signal, is
    # not inherited.
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return shell_status(subprocess.Popen(list(argv), env=without_theirs(os.environ, theirs)).wait())
    finally:
        signal.signal(signal.SIGINT, previous)
