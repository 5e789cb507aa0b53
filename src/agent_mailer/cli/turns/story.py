"""A thread's story and a turn's output, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from agent_mailer.amounts import counted, dollars, duration
from agent_mailer.cli.terminal.printing import (
    in_its_colour,
    local_iso,
    local_time,
    note,
    say,
)
from agent_mailer.cli.terminal.screen import fit, width
from agent_mailer.clock import from_iso
from agent_mailer.names import printable, running_on
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
    number = counted(spent.turns, "turn")
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
