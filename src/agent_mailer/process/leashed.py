"""A program below a process of ours that ends all of it: when it is let go, when we end, and when we are killed.

A turn's holder outlives the watcher, and the next one takes it over; of everything else that we start (what a program
is asked, a sandbox that is tried, a command that tells a person) nothing may.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agent_mailer.process import leash
from agent_mailer.process.handle import waited_for
from agent_mailer.process.talking import shell_status

LETTING_GO = leash.PATIENCE + 1.0
"""Seconds that it is given to end everything."""
_PROGRAM = str(leash.__file__)


class Leashed:
    """A program below a process of ours (`leash`) that ends all of it when it is let go, or when we end ourselves.

    Raises OSError where that process cannot be started; that the program cannot be is `why`, once it is `known`.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: int | None = None) -> None:
        """`output`: where both streams go, with nothing on stdin; None = pipes."""
        kept, self._leash = os.pipe()
        self._report, reporting = os.pipe()
        python = getattr(sys, "_base_executable", "") or sys.executable
        words = [str(kept), str(reporting), "kept" if "LC_CTYPE" in env else ""]
        try:
            self.process = subprocess.Popen(
                [python, "-I", "-S", _PROGRAM, *words, *argv],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.PIPE if output is None else subprocess.DEVNULL,
                stdout=subprocess.PIPE if output is None else output,
                stderr=subprocess.STDOUT if output is None else output,
                start_new_session=True,
                pass_fds=(kept, reporting),
            )
        except BaseException:
            os.close(self._report)
            os.close(self._leash)
            raise
        finally:
            os.close(kept)
            os.close(reporting)
        waited_for.add(self.process.pid)
        self._name = argv[0]
        self._said = b""
        self._held = True
        self._buried = False
        self.gone = False
        """That process has ended, and with it, as far as it could, everything below it."""
        os.set_blocking(self._report, False)

    def hear(self) -> None:
        """Take what it has said by now."""
        if self.gone:
            return
        with suppress(BlockingIOError):
            while word := os.read(self._report, 64):
                self._said += word
            self.gone = True

    @property
    def known(self) -> bool:
        """Whether the program was started is known."""
        return self.gone or b"\n" in self._said

    @property
    def pid(self) -> int:
        """The program's, once it is known; 0 where it could not be started."""
        return int(self._said.split()[0]) if self._said.startswith(b"+") else 0

    @property
    def why(self) -> OSError | None:
        """Why it could not be started."""
        if not self._said.startswith(b"!"):
            return None
        number = int(self._said[1:])
        return OSError(number, os.strerror(number), self._name)

    @property
    def ended(self) -> bool:
        return self.gone or self._said.count(b"\n") > 1

    @property
    def status(self) -> int | None:
        """The program's exit status, 128 + n after signal n; None while it runs."""
        if not self.ended:
            return None
        said = self._said.split()
        return int(said[1]) if len(said) > 1 else shell_status(self.process.wait())

    async def until_ended(self, seconds: float) -> None:
        """Wait for the program's end, at most `seconds` seconds."""
        await self._until(lambda: self.ended, seconds)

    async def until_gone(self) -> None:
        """Wait for the end of everything, once it was let go."""
        await self._until(lambda: self.gone, LETTING_GO)

    async def _until(self, there: Callable[[], bool], seconds: float) -> None:
        import asyncio

        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        def hear() -> None:
            self.hear()
            if there() or self.gone:
                loop.remove_reader(self._report)
                heard.set()

        loop.add_reader(self._report, hear)
        try:
            async with asyncio.timeout(seconds):
                await heard.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(self._report)

    def wait(self, seconds: float | None, *, known: bool = False) -> None:
        """The same without an event loop; `known`: for its beginning instead."""
        until = None if seconds is None else time.monotonic() + seconds
        looked = select.poll()
        looked.register(self._report, select.POLLIN)
        while not (self.known if known else self.ended):
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not looked.poll(left):
                return
            self.hear()

    def let_go(self) -> None:
        """Everything below is ended, in a moment."""
        if self._held:
            self._held = False
            os.close(self._leash)

    def bury(self) -> None:
        """Wait for the end of that process, once it was let go."""
        self.let_go()
        try:
            self.process.wait(LETTING_GO)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        waited_for.discard(self.process.pid)
        if not self._buried:
            self.hear()
            self._buried = self.gone = True
            os.close(self._report)
