"""Standard streams that are there, and that never hold up a loop: a terminal may be held, a pipe's reader may hang."""

from __future__ import annotations

import atexit
import errno
import io
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

MOST_BYTES = 64 * 1024
"""What waits for a reader beyond this is dropped: he has that much to read when he comes back."""

LAST_WORDS_SECONDS = 1.0
OUTPUT = "standard output"
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)


def open_what_is_closed() -> None:
    """A daemoniser may have closed the standard descriptors: the next file that we open would become our output."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            stream = open(fd, "r" if fd == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - ours until the end
            setattr(sys, name, stream)
    name_the_output()


class _Output(io.FileIO):
    """What it refuses says so by its file name, OUTPUT, whoever printed: we, or who writes the help."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


def name_the_output() -> None:
    before = sys.stdout
    if isinstance(before, io.TextIOWrapper):
        raw = io.BufferedWriter(_Output(before.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(raw, encoding=before.encoding, line_buffering=before.line_buffering)


class Unhurried(io.BufferedIOBase):
    """Bytes for a descriptor, written by a thread of its own: `write` never waits. What finds no room is counted."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._gone = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Buffer) -> int:
        found = bytes(data)
        with self._changed:
            if self._gone or not found:
                return len(found)
            # One gap, not many: nothing more until all that waits has been read.
            if self._bytes and (self._lost or self._bytes + len(found) > MOST_BYTES):
                self._lost += max(1, found.count(b"\n"))
                return len(found)
            if not self._has_thread():
                self._put_what_fits(found)
                return len(found)
            self._waiting.append(found)
            self._bytes += len(found)
            self._changed.notify_all()
        return len(found)

    def _has_thread(self) -> bool:
        """Where no more can be started there is none."""
        if self._thread is None:
            thread = threading.Thread(target=self._pump, name=f"output {self._fd}", daemon=True)
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread
        return self._thread is not None

    def _put_what_fits(self, data: bytes) -> None:
        with suppress(OSError):
            # So much a pipe takes as a whole, once it takes anything.
            fits = len(data) <= select.PIPE_BUF and bool(select.select((), (self._fd,), (), 0)[1])
            if fits and os.write(self._fd, data) == len(data):
                return
        self._lost += max(1, data.count(b"\n"))

    def take_lost(self, *, at_the_end: bool = False) -> int:
        """How many lines were dropped, as soon as somebody reads again; counted anew from there."""
        with self._changed:
            if self._bytes and not at_the_end:
                return 0
            lost, self._lost = self._lost, 0
            return lost

    def drain(self, seconds: float) -> None:
        """Wait until all is written, if that is soon."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._bytes and not self._gone and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _pump(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                data = self._waiting.popleft()
            gone = not self._put(data)
            with self._changed:
                self._bytes -= len(data)
                if gone:
                    # Whoever read us is not there any more. The log has everything.
                    self._gone = True
                    self._waiting.clear()
                    self._bytes = 0
                self._changed.notify_all()

    def _put(self, data: bytes) -> bool:
        """False where nobody will ever read again. What a full disk refuses is lost, and counted."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                select.select((), (self._fd,), ())
            except OSError as error:
                if error.errno in _GONE:
                    return False
                with self._changed:
                    self._lost += max(1, data.count(b"\n"))
                return True
        return True


def unhurried() -> tuple[Unhurried, Unhurried]:
    """From here on standard output and errors never wait for a reader. Returns what they are written to."""
    # Nor for a terminal that stops whoever writes to it from the background (`stty tostop`). What we start has it anew.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    made = []
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        with suppress(OSError, ValueError):
            before.flush()
        stream = Unhurried(before.fileno())
        text = io.TextIOWrapper(stream, encoding=before.encoding, errors="backslashreplace", line_buffering=True)  # type: ignore[type-var]
        setattr(sys, name, text)
        made.append(stream)
    _made.extend(made)
    return made[0], made[1]


_made: list[Unhurried] = []


def last_words() -> None:
    """At the end of a command: what it has said is read, if that is soon."""
    for stream in _made:
        stream.drain(LAST_WORDS_SECONDS)


def let_go(stream: TextIO) -> None:
    """What it did not take, and what is written to it from here on, is gone: no exit complains of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave(status: int) -> NoReturn:
    """End the program: what it has said is out, what was to be done at the exit is done.

    Its memory is the system's to take back: to take it down piece by piece costs as much as a tenth of a short command.
    """
    ordinary = threading.active_count() > 1 or bool(os.environ.get("AGENT_MAILER_DEBUG"))
    if not ordinary:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            let_go(stream)  # Python would tell of it in its own words, and leave another status
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                status = status or 1
        except ValueError:
            ordinary = True  # closed
    if ordinary:
        sys.exit(status)
    os._exit(status)
