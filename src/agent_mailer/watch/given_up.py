"""What was given up, its words; taken up again or forgotten, by a command or because its mailbox lists it once more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from agent_mailer.clock import iso
from agent_mailer.events import EventName
from agent_mailer.names import printable
from agent_mailer.outcomes import Judgement
from agent_mailer.state import State
from agent_mailer.state.records import Attempt, DeadLetter, RetryEntry, TurnRecord
from agent_mailer.state.turns import ids_of, share_of


def letter_of(
    record: TurnRecord, judgement: Judgement, attempts: int, history: tuple[Attempt, ...], now: float
) -> DeadLetter:
    """Of the message of a turn that was its last. Pure."""
    envelope = record.envelope
    return DeadLetter(
        msg_id=envelope.id,
        thread_id=envelope.thread,
        retries=max(0, attempts - 1),
        last_error=printable(judgement.detail, 600),
        stuck_at=iso(now),
        turn_id=record.turn_id,
        outcome=judgement.outcome,
        envelope=envelope,
        history=history,
        put_back=record.rerun.put_back if record.rerun else 0,
    )


def words_of_giving_up(message_id: str, judgement: Judgement, why: str, left: int) -> str:
    """For its sender; `left`: how much of what the agent wrote is kept. Pure."""
    kept = (
        f"What the agent wrote for it ({left}) is kept: agent-mailer stuck list --reason not-sent\n\n" if left else ""
    )
    return (
        "This message was given up and will not be worked on again unless somebody asks for it.\n\n"
        f"Reason: {why} ({judgement.outcome})\nLast error: {printable(judgement.detail, 300) or 'none reported'}\n\n"
        f"{kept}"
        f"To have it tried again, on the agent's machine: agent-mailer dead-letter retry {message_id}"
    )


def revival(state: State, message_id: str) -> RetryEntry | None:
    """The retry with which a message runs that its mailbox lists again; None where none is known. Writes nothing."""
    letter = state.dead_letters.find(message_id)
    turns = _settled_turns(state, [message_id])
    return _revived(letter, turns, put_back=True) if letter is not None else None


def take_up_again(state: State, ids: Sequence[str], *, put_back: bool = False) -> list[tuple[bool, str]]:
    """Pending again, from the beginning; whether it is, and a line for people. Asked twice it runs once.

    `put_back`: because its mailbox lists it, and no command asks.
    """
    letters = state.dead_letters.among(ids)
    turns = _settled_turns(state, letters)
    for turn in turns:
        # It must never apply again over the new start.
        state.turns.mark_settled(turn.turn_id, durable=True)
    entries = [_revived(letter, turns, put_back=put_back) for letter in letters.values()]
    state.retries.put_all([entry for entry in entries if entry is not None], force=True)
    state.processed.remove(*letters)
    for message_id, letter in letters.items():
        state.log.emit(EventName.MESSAGE_REVIVED, message_id=message_id, thread=letter.thread_id)
    state.dead_letters.remove(letters)
    told = [(one in letters, "pending again" if one in letters else "no dead letter") for one in ids]
    lines = [(ok, f"{printable(one)}: {what}") for one, (ok, what) in zip(ids, told, strict=True)]
    return lines or [(True, "no dead letters")]


def forget(state: State, ids: Collection[str]) -> list[tuple[bool, str]]:
    """The messages stay where they are, settled."""
    letters = state.dead_letters.among(ids)
    for letter in letters.values():
        # Its settlement must never apply again and bring it back.
        if letter.turn_id and state.turns.is_settled(letter.turn_id):
            state.turns.mark_settled(letter.turn_id, durable=True)
    removed = state.dead_letters.remove(letters)
    return [(removed > 0 or not ids, f"{removed} dead letters removed")]


def _revived(letter: DeadLetter, turns: Iterable[TurnRecord], *, put_back: bool) -> RetryEntry | None:
    if letter.envelope is None:
        return None
    message_id = letter.msg_id
    reruns = [share_of(turn, message_id).rerun for turn in turns if message_id in ids_of(turn)]
    revision = max((rerun.revision + 1 if rerun is not None else 1 for rerun in reruns), default=0)
    times = letter.put_back + 1 if put_back else 0
    return RetryEntry(letter.envelope, history=letter.history, revision=revision, put_back=times)


def _settled_turns(state: State, ids: Collection[str]) -> list[TurnRecord]:
    """Those of any of these messages; each record is read once, however many they are."""
    if not ids:
        return []
    found = (state.turns.load(turn_id) for turn_id in state.turns.ids() if state.turns.is_settled(turn_id))
    return [turn for turn in found if turn is not None and not ids_of(turn).isdisjoint(ids)]
