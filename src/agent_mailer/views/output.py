"""What the agent of a turn said and did: the output that was kept, as events or as it was printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent_mailer.process.holder import STDERR_FILE, STDOUT_FILE
from agent_mailer.process.output import LineFramer, OutputTail, tail_text
from agent_mailer.runtimes.port import Event, Progress, Result, Runtime

TEXT_SHOWN = 64 * 1024
STDERR_SHOWN = 4 * 1024


def events(turn_dir: Path, runtime: Runtime) -> Iterator[Event]:
    """In the order in which they happened; a result does not say once more what was said last."""
    said = ""
    for line in _lines(turn_dir / STDOUT_FILE):
        for event in runtime.parse(line):
            if isinstance(event, Result) and event.text == said:
                event = Result(event.outcome, detail=event.detail)
            said = event.text if isinstance(event, Progress) else said
            yield event


def printed(turn_dir: Path) -> str:
    """The end of the output."""
    return tail_text(turn_dir / STDOUT_FILE, TEXT_SHOWN)


def errors(turn_dir: Path) -> str:
    """The end of what went to stderr."""
    return tail_text(turn_dir / STDERR_FILE, STDERR_SHOWN).strip()


def _lines(path: Path) -> Iterator[bytes]:
    tail, framer = OutputTail(path), LineFramer()
    while data := tail.read():
        yield from framer.feed(data)
    last = framer.finish()
    if last:
        yield last
