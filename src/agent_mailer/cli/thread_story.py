"""The story of one thread: its messages, the turns over them, how each ended and what it cost, what is still open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli.choosing import pick
from agent_mailer.cli.printing import local_time
from agent_mailer.cli.terminal import fit, width
from agent_mailer.cli.turn_facts import cost, fate, painted, spent, state_of, summary, took
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.port import Automatic, Message
from agent_mailer.names import printable
from agent_mailer.state.records import DeadLetter, ItemState, RetryEntry, TurnRecord

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state import State


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
    from agent_mailer.cli.person import agent_of

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
    from agent_mailer.cli.mail_options import head

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
