"""A program that is talked with by its streams, line by line, from within a turn: the turn's end finds it by its id.

It shares our session and our stderr. Whoever talks with it says when it leaves: first its input is closed, then it is
asked, then it is ended. What it leaves behind is the holder's to find.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PIECE = 256 * 1024
_ASKED = 2.0


class Stop:
    """Whether we are to end, and since when (monotonic seconds); `woken` can be read once we are."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.woken, writing = os.pipe()
        for fd in (self.woken, writing):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._told())

    def _told(self) -> None:
        if self.since is None:
            self.since = time.monotonic()


class Talking:
    """Raises OSError where it cannot be started. `longest`: bytes of a line that is kept; a longer one is dropped."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, longest: int) -> None:
        self._process = subprocess.Popen(
            list(argv), env=dict(env), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._longest = longest
        self._unsent = bytearray()
        self._rest = bytearray()
        self._dropping = False
        self._hung_up = False
        self.listening = True
        """It may still say something."""

    def say(self, line: bytes) -> None:
        """Sent as far as it is taken; the rest with the next `wait`."""
        self._unsent += line
        self._send()

    def hang_up(self) -> None:
        """Its input ends once what was said has been taken."""
        self._hung_up = True
        self._send()

    def wait(self, seconds: float | None, woken_by: int) -> list[bytes]:
        """Its lines, after so many seconds at most; none where `woken_by` can be read, or it says no more."""
        looked = select.poll()
        looked.register(woken_by, select.POLLIN)
        if self.listening:
            looked.register(self._out, select.POLLIN)
        if self._unsent:
            looked.register(self._in, select.POLLOUT)
        ready = dict(looked.poll(None if seconds is None else max(0.0, seconds) * 1000))
        if self._in in ready:
            self._send()
        return list(self._lines()) if self._out in ready else []

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._in, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            # It does not listen any more; that it leaves is seen by its output.
            self._unsent.clear()
        if self._hung_up and not self._unsent and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _lines(self) -> Iterator[bytes]:
        try:
            piece = os.read(self._out, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.listening = False
            return
        *whole, rest = piece.split(b"\n")
        for part in whole:
            line, dropped = bytes(self._rest) + part, self._dropping
            self._rest.clear()
            self._dropping = False
            if not dropped and len(line) <= self._longest:
                yield line
        if len(self._rest) + len(rest) > self._longest:
            self._rest.clear()
            self._dropping = True
        elif not self._dropping:
            self._rest += rest

    def end(self, grace: float) -> int:
        """Close its input, give it so many seconds, ask it, end it; returns its exit status, 128 + n after signal n."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        if not self._leaves_within(grace):
            self._process.send_signal(signal.SIGTERM)
            if not self._leaves_within(_ASKED):
                self._process.kill()
        status = shell_status(self._process.wait())
        self._process.stdout.close()
        return status

    def _leaves_within(self, seconds: float) -> bool:
        """What it says meanwhile is read, so that no full pipe keeps it, and counts for nothing."""
        until = time.monotonic() + seconds
        looked = select.poll()
        if self.listening:
            looked.register(self._out, select.POLLIN)
        with suppress(OSError, AttributeError):
            pidfd = os.pidfd_open(self._process.pid)
            looked.register(pidfd, select.POLLIN)
        try:
            while (status := self._process.poll()) is None and (left := until - time.monotonic()) > 0:
                for fd, _ in looked.poll(min(left, 0.1) * 1000):
                    if fd == self._out and not self._drained():
                        looked.unregister(self._out)
            return status is not None
        finally:
            with suppress(OSError, UnboundLocalError):
                os.close(pidfd)

    def _drained(self) -> bool:
        try:
            return bool(os.read(self._out, _PIECE))
        except BlockingIOError:
            return True
        except OSError:
            return False


def shell_status(returncode: int) -> int:
    """128 + n after signal n."""
    return returncode if returncode >= 0 else 128 - returncode
