"""Which messages may start now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set

import msgspec

from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.records import RetryEntry


class Candidate(msgspec.Struct, frozen=True):
    """A message that is still to be done: listed by the mailbox, or ours already (`retry`)."""

    envelope: Envelope
    retry: RetryEntry | None = None

    @property
    def not_before(self) -> float:
        return self.retry.not_before if self.retry is not None else 0.0


class Plan(msgspec.Struct, frozen=True):
    """`ready`: heads of threads that may start, most urgent first; `next_due`: when the next one may, if known."""

    ready: tuple[Candidate, ...]
    next_due: float | None


def make_plan(candidates: Iterable[Candidate], busy_threads: Set[str], now: float) -> Plan:
    """Within a thread strictly oldest first: a thread whose oldest message waits, waits (I2).

    Among threads the most urgent message counts, then age: an urgent mail pulls the thread it waits in.
    """
    threads: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        threads.setdefault(candidate.envelope.thread, []).append(candidate)
    heads: list[tuple[int, str, Candidate]] = []
    next_due: float | None = None
    for thread, members in threads.items():
        if thread in busy_threads:
            continue
        head = min(members, key=lambda c: c.envelope.order)
        if head.not_before > now:
            next_due = head.not_before if next_due is None else min(next_due, head.not_before)
            continue
        urgency = min(c.envelope.priority.rank for c in members)
        heads.append((urgency, head.envelope.order, head))
    heads.sort(key=lambda item: item[:2])
    return Plan(tuple(head for _, _, head in heads), next_due)
