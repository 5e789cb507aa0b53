"""Long work shows how far it is: one line on stderr, after a second, while a person sits before it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from agent_mailer.cli.terminal.printing import duration
from agent_mailer.cli.terminal.screen import fit, is_dumb, plain
from agent_mailer.progress import Step, Tell, untold

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

AFTER = 1.0
"""Seconds; what is over by then never shows a line."""

A_SECOND = 4
"""Times that the line is drawn anew."""


@contextmanager
def shown(what: str, *, quiet: bool = False) -> Iterator[Tell]:
    """Where the work in the block tells how far it is; `what` it does, until it says so itself.

    Nothing is drawn where it is to be `quiet` (`--quiet`, `--json`), where stderr is no terminal, or one that can only
    be written to. The line is gone before anything else is printed.
    """
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
    def __init__(self, step: Step) -> None:
        self._step = step
        self._since = time.monotonic()
        self._live: Live | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(AFTER, self._begin)
        self._timer.daemon = True
        with suppress(RuntimeError):  # where no thread is to be had, nothing is drawn
            self._timer.start()

    def tell(self, step: Step) -> None:
        self._step = step

    def end(self) -> None:
        """Take it away again."""
        self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._live is not None:
                self._live.stop()

    def _begin(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console, stream = Console(file=sys.stderr, highlight=False), sys.stderr

        def drawn() -> Text:
            from rich.text import Text

            words = line_of(self._step, time.monotonic() - self._since)
            return Text(plain(fit(words, console.width - 1), stream), no_wrap=True, style="cyan")

        with self._lock:
            if not self._ended:
                # What is noted meanwhile on stderr stands above the line; what rich puts there hides stdout's encoding.
                self._live = Live(
                    get_renderable=drawn,
                    console=console,
                    refresh_per_second=A_SECOND,
                    transient=True,
                    redirect_stdout=False,
                )
                self._live.start()
