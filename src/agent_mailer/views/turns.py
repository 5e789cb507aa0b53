"""Turns and threads as people read them: in a few words, as a story, replayed from the output that was kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli.terminal.printing import dollars, duration, local_time
from agent_mailer.cli.terminal.screen import Ink, fit, paint, width
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.port import Automatic, Message
from agent_mailer.names import pick, printable
from agent_mailer.outcomes import Outcome
from agent_mailer.process.holder import STDERR_FILE, STDOUT_FILE
from agent_mailer.process.output import LineFramer, OutputTail, tail_text
from agent_mailer.runtimes.port import Doomed, Event, Progress, Result, Runtime, ToolStarted, Trouble, Usage
from agent_mailer.state.records import DeadLetter, ItemState, RetryEntry, TurnRecord

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state import State
    from agent_mailer.state.records import SettledItem, TurnRecord


_GOOD, _BAD = (Outcome.DONE.value,), tuple(outcome.value for outcome in Outcome if outcome.counts)


class Spent(msgspec.Struct, frozen=True):
    """What turns took together: seconds, tokens, US dollars as far as the agent program counts them."""

    turns: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cost_usd: float

    @property
    def words(self) -> str:
        tokens = f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out" if self.input_tokens else ""
        number = f"{self.turns} turn{'' if self.turns == 1 else 's'}"
        return ", ".join(part for part in (number, duration(self.seconds), dollars(self.cost_usd), tokens) if part)


def spent(records: Iterable[TurnRecord]) -> Spent:
    """The sum over those that have ended."""
    ended = [record.settlement for record in records if record.settlement is not None]
    used = [settlement.usage for settlement in ended if settlement.usage is not None]
    return Spent(
        turns=len(ended),
        seconds=round(sum(settlement.seconds for settlement in ended), 3),
        input_tokens=sum(usage.input_tokens for usage in used),
        output_tokens=sum(usage.output_tokens for usage in used),
        cost_usd=round(sum(usage.cost_usd for usage in used), 6),
    )


def state_of(state: State, record: TurnRecord) -> str:
    """The outcome of a settled turn, the phase of an open one."""
    if record.settlement is not None and state.turns.is_settled(record.turn_id):
        return record.settlement.outcome.value
    return record.phase.value


def painted(word: str) -> str:
    """A state or outcome in its colour."""
    ink = Ink.GREEN if word in _GOOD else Ink.RED if word in _BAD else Ink.YELLOW
    return paint(word, ink)


def took(record: TurnRecord) -> str:
    return duration(record.settlement.seconds) if record.settlement else ""


def cost(record: TurnRecord) -> str:
    usage = record.settlement.usage if record.settlement else None
    return dollars(usage.cost_usd) if usage is not None else ""


def fate(state: State, record: TurnRecord, entry: SettledItem) -> str:
    """What became of an item: a settled turn has delivered whatever was not refused, and need not have noted it."""
    if entry.state is ItemState.PENDING and state.turns.is_settled(record.turn_id):
        return ItemState.DELIVERED.value
    return entry.state.value


def summary(state: State, record: TurnRecord) -> dict[str, object]:
    """For scripts."""
    settlement = record.settlement
    usage = settlement.usage if settlement else None
    return {
        "turn_id": record.turn_id,
        "message_id": record.envelope.id,
        "thread": record.envelope.thread,
        "from": record.envelope.sender,
        "runtime": record.runtime,
        "attempt": record.attempt,
        "phase": record.phase.value,
        "settled": state.turns.is_settled(record.turn_id),
        "outcome": settlement.outcome.value if settlement else None,
        "detail": settlement.detail if settlement else None,
        "seconds": settlement.seconds if settlement else None,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cost_usd": usage.cost_usd if usage else None,
        "claimed_at": record.claimed_at,
    }


class Story(msgspec.Struct, frozen=True):
    """`messages` oldest first, without those that the mailbox no longer has; `problem`: why it could not be asked."""

    thread: str
    messages: tuple[Message, ...]
    turns: tuple[TurnRecord, ...]
    waiting: tuple[RetryEntry, ...]
    given_up: tuple[DeadLetter, ...]
    problem: str = ""


def find_thread(state: State, typed: str) -> str:
    """The thread whose name begins so, or that of the message whose id does. Raises MailerError, UsageFault."""
    threads: set[str] = {thread for thread, entry in state.sessions.all() if entry.session_id}
    messages: dict[str, str] = {}
    for record in _records(state):
        messages[record.envelope.id] = record.envelope.thread
    for entry in state.retries.all():
        messages[entry.envelope.id] = entry.envelope.thread
    for letter in state.dead_letters.all():
        messages[letter.msg_id] = letter.thread_id
    threads.update(thread for thread in messages.values() if thread)
    fix = "agent-mailer turns list"
    try:
        return pick(typed, threads, "thread", fix)
    except MailerError as fault:
        if fault.code != "unknown":
            raise
        return messages[pick(typed, messages, "thread", fix)]


def gather(place: Workplace, thread: str) -> Story:
    """All that the state and the mailbox know of the thread; a mailbox that does not answer only lacks its part."""
    from agent_mailer.people import agent_of

    state, problem = place.state, ""
    messages: Sequence[Message] = ()
    try:
        messages = agent_of(place).thread(thread)
    except MailerError as fault:
        problem = "" if fault.code == "unknown" else fault.message
    return Story(
        thread,
        tuple(messages),
        tuple(record for record in _records(state) if record.envelope.thread == thread),
        tuple(entry for entry in state.retries.all() if entry.envelope.thread == thread),
        tuple(letter for letter in state.dead_letters.all() if letter.thread_id == thread),
        problem,
    )


def story_lines(state: State, story: Story) -> Iterator[str]:
    """Lines for a terminal, in the order in which things happened."""
    moments = [(message.envelope.created, _message_line(message)) for message in story.messages]
    known = {message.envelope.id for message in story.messages}
    for record in story.turns:
        envelope = record.envelope
        if envelope.id not in known:
            known.add(envelope.id)
            moments.append((envelope.created, _message_line(Message(envelope))))
        moments += [(record.started_at or record.claimed_at, line) for line in _turn_lines(state, record)]
    room = width()
    for _, line in sorted(moments, key=lambda moment: moment[0]):
        yield line if room is None else fit(line, room)
    for entry in story.waiting:
        when = f", not before {local_time(entry.not_before)}" if entry.not_before else ""
        yield f"waits: message {printable(entry.envelope.id, 64)}, attempt {entry.attempts + 1}{when}"
    for letter in story.given_up:
        yield f"given up: agent-mailer dead-letter show {printable(letter.msg_id, 64)}"
    if story.turns:
        yield f"\n{spent(story.turns).words}"


def story_json(state: State, story: Story) -> dict[str, object]:
    """The same for scripts; `mailbox_problem` is why `messages` may be missing, null where they are not."""
    from agent_mailer.cli.mail.options import head

    return {
        "thread": story.thread,
        "messages": [head(message) for message in story.messages],
        "mailbox_problem": story.problem or None,
        "turns": [summary(state, record) for record in story.turns],
        "waiting": [
            {"message_id": entry.envelope.id, "attempts": entry.attempts, "not_before": entry.not_before or None}
            for entry in story.waiting
        ],
        "dead_letters": [letter.msg_id for letter in story.given_up],
        "spent": spent(story.turns),
    }


def _records(state: State) -> Iterator[TurnRecord]:
    return filter(None, map(state.turns.load, state.turns.ids()))


def _message_line(message: Message) -> str:
    envelope = message.envelope
    to = printable(", ".join(envelope.to), 60)
    ways = f"{printable(envelope.sender, 40)} -> {to}" if to else f"from {printable(envelope.sender, 40)}"
    mark = f" ({envelope.automatic.value})" if envelope.automatic is not Automatic.NO else ""
    subject = f"  {printable(message.subject, 80)}" if message.subject else ""
    return f"{local_time(envelope.created)}  {ways}{mark}{subject}  [{printable(envelope.id, 64)}]"


def _turn_lines(state: State, record: TurnRecord) -> Iterator[str]:
    settlement = record.settlement
    attempt = f"attempt {record.attempt}" if record.attempt > 1 else ""
    facts = [part for part in (took(record), cost(record), attempt) if part]
    detail = f": {printable(settlement.detail, 200)}" if settlement and settlement.detail else ""
    told = ", ".join([painted(state_of(state, record)), *facts])
    yield f"{local_time(record.started_at or record.claimed_at)}    turn {record.turn_id}  {told}{detail}"
    if settlement is None:
        return
    if settlement.question:
        yield f"{'':<20}asks: {printable(settlement.question, 300)}"
    for entry in settlement.items:
        if entry.state is ItemState.REFUSED or fate(state, record, entry) == ItemState.PENDING.value:
            why = f" ({printable(entry.why, 200)})" if entry.why else ""
            yield f"{'':<20}to {printable(entry.item.recipient, 60)}: {fate(state, record, entry)}{why}"


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
