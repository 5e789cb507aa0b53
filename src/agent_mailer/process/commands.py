"""Commands that a person's command starts: an editor in the terminal, and programs beside it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

_POLL = 0.02


class Finished(msgspec.Struct, frozen=True):
    """How a command ended: its exit status (128 + n after signal n) and its output, both streams."""

    status: int
    output: str


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


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode
