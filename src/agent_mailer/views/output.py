"""What a turn's program has printed, in lines that are safe to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.amounts import dollars
from agent_mailer.errors import MailerError
from agent_mailer.names import printable
from agent_mailer.process.holder import STDERR_FILE, STDOUT_FILE
from agent_mailer.process.output import LineFramer, OutputTail, tail_text
from agent_mailer.runtimes.port import Doomed, Event, Progress, Result, Runtime, ToolStarted, Trouble, Usage

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.views.values.history import WholeTurnView

TEXT_SHOWN = 64 * 1024
STDERR_SHOWN = 4 * 1024


def output_lines(place: Workplace, turn: WholeTurnView) -> Iterator[str]:
    """In the order in which things happened; nothing where no output was kept."""
    turn_dir = Path(turn.folder)
    runtime = _runtime_of(place, turn.runtime)
    if runtime is not None:
        for event in events(turn_dir, runtime):
            yield from _told(event)
    else:
        yield from _paragraph(printed(turn_dir))
    errors = errors_printed(turn_dir)
    if errors:
        yield "stderr:"
        yield from (f"  {line}" for line in _paragraph(errors))


def _runtime_of(place: Workplace, name: str) -> Runtime | None:
    """The adapter that ran the turn, where it is the one that is configured still and can tell events from text."""
    try:
        traits = (runtime := place.runtime()).traits
    except MailerError:
        return None
    return runtime if traits.name == name and traits.has_events else None


def _told(event: Event) -> Iterator[str]:
    match event:
        case Progress(text=text):
            yield from _paragraph(text)
        case ToolStarted(name=name, detail=detail):
            yield f"> {printable(name, 60)} {printable(detail, 200)}".rstrip()
        case Usage():
            paid = f", {told}" if (told := dollars(event.cost_usd)) else ""
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


def errors_printed(turn_dir: Path) -> str:
    """The end of what went to stderr."""
    return tail_text(turn_dir / STDERR_FILE, STDERR_SHOWN).strip()


def _lines(path: Path) -> Iterator[bytes]:
    tail, framer = OutputTail(path), LineFramer()
    while data := tail.read():
        yield from framer.feed(data)
    last = framer.finish()
    if last:
        yield last
