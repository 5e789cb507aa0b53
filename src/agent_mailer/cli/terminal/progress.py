"""Long work shows how far it is: one line on stderr, after a second, while a person sits before it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from agent_mailer.amounts import duration
from agent_mailer.cli.terminal.screen import Ink, cells, fit, is_dumb, paint, plain

if TYPE_CHECKING:
    from agent_mailer.progress import Step, Tell

AFTER = 1.0
"""Seconds; what is over by then never shows a line."""

LEAST = 10
"""Columns of the narrowest terminal; some say that they have none."""

A_SECOND = 4
"""Times that the line is drawn anew."""


@contextmanager
def shown(what: str, *, quiet: bool = False) -> Iterator[Tell]:
    """Where the work in the block tells how far it is; `what` it does, until it says so itself.

    Nothing is drawn where it is to be `quiet` (`--quiet`, `--json`), where stderr is no terminal, or one that can only
    be written to. The line is gone before anything else is printed.
    """
    from agent_mailer.progress import Step, untold  # not for the help of a command

    if quiet or is_dumb() or not sys.stderr.isatty():
        yield untold
        return
    line = _Line(Step(what))
    try:
        yield line.tell
    finally:
        line.end()


def line_of(step: Step, seconds: float) -> str:
    """`copies messages: 12,345 of 30,000 (41 %), 8 s`."""
    counted = ""
    if step.total > 0:
        counted = f": {step.done:,} of {step.total:,} ({min(100, 100 * step.done // step.total)} %)"
    elif step.done:
        counted = f": {step.done:,}"
    return f"{step.what}{counted}, {duration(seconds)}"


class _Line:
    """Drawn by a thread of its own, over itself, as the live lines of `watch` are."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._since = time.monotonic()
        self._over = threading.Event()
        self._drawn = ""
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        with suppress(RuntimeError):  # where no thread is to be had, nothing is drawn
            self._thread.start()

    def tell(self, step: Step) -> None:
        self._step = step

    def end(self) -> None:
        """Take it away again."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(AFTER)
        self._put("")

    def _draw(self) -> None:
        rest = AFTER
        while not self._over.wait(rest):
            rest = 1 / A_SECOND
            words = line_of(self._step, time.monotonic() - self._since)
            self._put(plain(fit(words, _room() - 1), sys.stderr))

    def _put(self, line: str) -> None:
        """In the place of what was drawn before; a terminal that was made narrower since has broken that."""
        if line == self._drawn:
            return
        rows = -(-cells(self._drawn) // _room()) if self._drawn else 1
        # On its first row tmux takes what is cleared to the end of the screen for something to scroll back to.
        before = f"\r\x1b[{rows - 1}A\x1b[J" if rows > 1 else "\r\x1b[K"
        self._drawn = line
        with suppress(OSError, ValueError):
            sys.stderr.write(before + paint(line, Ink.CYAN, sys.stderr))
            sys.stderr.flush()


def _room() -> int:
    try:
        return max(os.get_terminal_size(sys.stderr.fileno()).columns, LEAST)
    except (OSError, ValueError):
        return LEAST
