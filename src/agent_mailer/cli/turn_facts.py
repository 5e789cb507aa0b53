"""A turn in a few words, for people and for scripts: how it stands, how long it took, what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.cli.printing import dollars, duration
from agent_mailer.cli.terminal import Ink, paint
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import ItemState

if TYPE_CHECKING:
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
