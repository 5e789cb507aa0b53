"""Pauses and their probes: when one begins, which message tries whether it is over, and whose fault it was. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.state.pauses import LONGEST_PAUSE
from agent_mailer.state.records import Pause, PauseReason, RetryEntry
from agent_mailer.watch.rules import Candidate, backoff

FIRST_PROBE = 30.0
LONGEST_BETWEEN_PROBES = 3600.0

_REASONS = {
    Outcome.LIMITED: PauseReason.LIMITED,
    Outcome.SIGNED_OUT: PauseReason.SIGNED_OUT,
    Outcome.UNAVAILABLE: PauseReason.UNAVAILABLE,
}


def decide_pause(judgement: Judgement, current: Pause | None, now: float, jitter: float) -> Pause | None:
    """The pause after a turn that ended so; None = nothing stands in the way.

    A pause by hand stays until a hand ends it. The provider's own moment is believed, but never past a week; without
    one the intervals between probes grow. `jitter` in [0, 1) spreads watchers that wait for the same moment.
    """
    if current is not None and current.reason is PauseReason.BY_HAND:
        return current
    reason = _REASONS.get(judgement.outcome)
    if reason is None:
        # An interruption says nothing about the account.
        return current if judgement.outcome is Outcome.INTERRUPTED else None
    probes = current.probes + 1 if current is not None else 0
    since = current.since if current is not None else now
    named = judgement.retry_at is not None and judgement.retry_at > now
    if judgement.retry_at is not None and named:
        until = min(judgement.retry_at, now + LONGEST_PAUSE - 60) + 5 * jitter
    else:
        until = now + backoff(probes, FIRST_PROBE, LONGEST_BETWEEN_PROBES) * (0.75 + jitter / 2)
    elsewhere = current is not None and current.reason is reason and current.elsewhere
    return Pause(reason, since, until, judgement.detail, probes, elsewhere, guessed=not named)


PROBES_IN_A_ROW: Final = 2
"""So often one message tries whether a pause is over, before another does: it may be the message that brings it."""


def in_turn(ready: Sequence[Candidate]) -> list[Candidate]:
    """The order in which a pause lets messages try: as they wait, but what has met it again and again steps back."""
    return sorted(ready, key=lambda candidate: max(0, times_met(candidate.retry) - PROBES_IN_A_ROW))


def times_met(retry: RetryEntry | None) -> int:
    """How many of a message's last turns have ended in a pause, one after the other."""
    ended = [attempt.outcome for attempt in retry.history] if retry is not None else []
    said = (outcome for outcome in reversed(ended) if outcome is not Outcome.INTERRUPTED)
    return sum(1 for _ in takewhile(lambda outcome: outcome.pauses, said))


def is_a_start(judgement: Judgement, rerun: RetryEntry | None, *, worked: bool, went_through: float) -> bool:
    """Whether a turn counts as one of its message's starts. One that met a limit or an outage before any work is
    nobody's loop, unless it is the message's own doing: it met one before, and turns of others went through since.

    `went_through`: when the last of those ended, seconds since the epoch; 0 = none. A moment that the provider named is
    believed: a quota is used up again and again.
    """
    if worked or not judgement.outcome.pauses:
        return True
    if judgement.retry_at is not None or rerun is None or not times_met(rerun):
        return False
    return went_through > rerun.history[-1].at
