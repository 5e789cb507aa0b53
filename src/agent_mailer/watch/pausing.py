"""When the whole account waits, and until when. Pure."""

from __future__ import annotations

from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.state.pauses import LONGEST_PAUSE
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.watch.retry import backoff

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
    if judgement.retry_at is not None and judgement.retry_at > now:
        until = min(judgement.retry_at, now + LONGEST_PAUSE - 60) + 5 * jitter
    else:
        until = now + backoff(probes, FIRST_PROBE, LONGEST_BETWEEN_PROBES) * (0.75 + jitter / 2)
    elsewhere = current is not None and current.reason is reason and current.elsewhere
    return Pause(reason, since, until, judgement.detail, probes, elsewhere)


def may_start(pause: Pause | None, now: float, running: int, slots: int) -> int:
    """How many turns may be started now. A pause that has run out lets one probe through."""
    if pause is None:
        return max(0, slots - running)
    if pause.until is None or now < pause.until or running:
        return 0
    return 1
