"""A thread's story and a turn's output, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent_mailer.assemble import Workplace
from agent_mailer.cli.terminal.printing import (
    dollars,
    duration,
    in_its_colour,
    local_iso,
    local_time,
    note,
    say,
)
from agent_mailer.cli.terminal.screen import fit, width
from agent_mailer.clock import from_iso
from agent_mailer.errors import MailerError
from agent_mailer.names import printable, running_on
from agent_mailer.runtimes.port import Doomed, Event, Progress, Result, Runtime, ToolStarted, Trouble, Usage
from agent_mailer.views.turns import errors_printed, events, printed
from agent_mailer.views.values.history import MessageView, SpentView, ThreadView, TurnView, WholeTurnView


def tell_story(story: ThreadView) -> None:
    """Print it in the order in which things happened."""
    moments = [(from_iso(message.created), _message_line(message)) for message in (*story.messages, *story.unlisted)]
    for turn in story.turns:
        moments += [(turn.started_at or turn.claimed_at, line) for line in _turn_lines(turn)]
    room = width()
    for _, line in sorted(moments, key=lambda moment: moment[0]):
        say(line if room is None else fit(line, room))
    for entry in story.waiting:
        when = f", not before {local_time(entry.not_before)}" if entry.not_before else ""
        say(f"waits: message {printable(entry.message_id, 64)}, attempt {entry.attempts + 1}{when}")
    for message_id in story.dead_letters:
        say(f"given up: agent-mailer dead-letter show {printable(message_id, 64)}")
    if story.turns:
        say(f"\n{spent_words(story.spent)}")
    if story.mailbox_problem:
        note(f"its messages cannot be listed: {printable(story.mailbox_problem, 300)}")


def spent_words(spent: SpentView) -> str:
    tokens = f"{spent.input_tokens:,} tokens in, {spent.output_tokens:,} out" if spent.input_tokens else ""
    number = f"{spent.turns} turn{'' if spent.turns == 1 else 's'}"
    return ", ".join(part for part in (number, duration(spent.seconds), dollars(spent.cost_usd), tokens) if part)


def took(turn: TurnView) -> str:
    return duration(turn.seconds) if turn.seconds is not None else ""


def _message_line(message: MessageView) -> str:
    to = printable(", ".join(message.to), 60)
    ways = f"{printable(message.sender, 40)} -> {to}" if to else f"from {printable(message.sender, 40)}"
    mark = f" ({message.automatic})" if message.automatic != "no" else ""
    subject = f"  {printable(message.subject, 80)}" if message.subject else ""
    return f"{local_iso(message.created)}  {ways}{mark}{subject}  [{printable(message.id, 64)}]"


def _turn_lines(turn: WholeTurnView) -> Iterator[str]:
    attempt = f"attempt {turn.attempt}" if turn.attempt > 1 else ""
    facts = [part for part in (took(turn), dollars(turn.cost_usd or 0.0), attempt) if part]
    detail = f": {printable(turn.detail, 200)}" if turn.detail else ""
    told = ", ".join([in_its_colour(turn.state), *facts])
    yield f"{local_time(turn.started_at or turn.claimed_at)}    turn {turn.turn_id}  {told}{detail}"
    if turn.question:
        yield f"{'':<20}asks: {running_on(turn.question, 300)}"
    for sent in turn.sent:
        if sent.state != "delivered":
            why = f" ({printable(sent.why, 200)})" if sent.why else ""
            yield f"{'':<20}to {printable(sent.to, 60)}: {sent.state}{why}"


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
