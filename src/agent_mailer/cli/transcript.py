"""A turn replayed as readable text: what the agent said and did, from the output that was kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent_mailer.names import printable
from agent_mailer.process import STDERR_FILE, STDOUT_FILE, LineFramer, OutputTail, tail_text
from agent_mailer.runtimes.port import Doomed, Event, Progress, Result, Runtime, ToolStarted, Trouble, Usage

TEXT_SHOWN = 64 * 1024
STDERR_SHOWN = 4 * 1024


def replay(turn_dir: Path, runtime: Runtime) -> Iterator[str]:
    """Lines for a terminal, in the order in which things happened; nothing where no output was kept."""
    if not runtime.traits.has_events:
        yield from raw(turn_dir)
        return
    said = ""
    for line in _lines(turn_dir / STDOUT_FILE):
        for event in runtime.parse(line):
            if isinstance(event, Result) and event.text == said:
                event = Result(event.outcome, detail=event.detail)
            said = event.text if isinstance(event, Progress) else said
            yield from _told(event)
    yield from _errors(turn_dir)


def raw(turn_dir: Path) -> Iterator[str]:
    """The end of the output as it was printed."""
    yield from _paragraph(tail_text(turn_dir / STDOUT_FILE, TEXT_SHOWN))
    yield from _errors(turn_dir)


def _errors(turn_dir: Path) -> Iterator[str]:
    errors = tail_text(turn_dir / STDERR_FILE, STDERR_SHOWN).strip()
    if errors:
        yield "stderr:"
        yield from (f"  {line}" for line in _paragraph(errors))


def _lines(path: Path) -> Iterator[bytes]:
    tail, framer = OutputTail(path), LineFramer()
    while data := tail.read():
        yield from framer.feed(data)
    last = framer.finish()
    if last:
        yield last


def _told(event: Event) -> Iterator[str]:
    match event:
        case Progress(text=text):
            yield from _paragraph(text)
        case ToolStarted(name=name, detail=detail):
            yield f"> {printable(name, 60)} {printable(detail, 200)}".rstrip()
        case Usage():
            paid = f", ${event.cost_usd:.4f}" if event.cost_usd else ""
            yield f"  [{event.input_tokens} tokens in, {event.output_tokens} out{paid}]"
        case Trouble(outcome=outcome, detail=detail) | Doomed(outcome=outcome, detail=detail):
            yield f"! {outcome.value}: {printable(detail, 300)}"
        case Result(outcome=outcome, text=text, detail=detail):
            yield f"= {outcome.value}" + (f": {printable(detail, 300)}" if detail else "")
            yield from _paragraph(text)
        case _:
            return


def _paragraph(text: str) -> Iterator[str]:
    """Line by line, so that what the agent wrote keeps its shape and nothing else of it reaches the terminal."""
    yield from (printable(line, 2000) for line in text.splitlines())
