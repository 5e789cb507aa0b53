"""What becomes of a message after a turn: settled, tried again, or given up. Pure."""

from __future__ import annotations

from enum import Enum

import msgspec

from agent_mailer.outcomes import Outcome
from agent_mailer.watch.policy import WatchPolicy


class Step(Enum):
    SETTLE = "settle"
    RETRY = "retry"
    GIVE_UP = "give up"


class RetryDecision(msgspec.Struct, frozen=True):
    """`attempts` is the new count; `not_before` the earliest next start, seconds since the epoch."""

    step: Step
    attempts: int
    not_before: float = 0.0
    why: str = ""


def decide_retry(
    outcome: Outcome, *, attempts: int, starts: int, now: float, policy: WatchPolicy, jitter: float
) -> RetryDecision:
    """`attempts` and `starts` as they were when the turn began, this start included; `jitter` in [0, 1).

    Full jitter: the wait is anywhere between nothing and the backoff, so that many watchers on one cause spread out.
    """
    if outcome.settles:
        return RetryDecision(Step.SETTLE, 0)
    if outcome.counts:
        attempts += 1
        if attempts > policy.max_retries:
            return RetryDecision(Step.GIVE_UP, attempts, why=f"{attempts} failed attempts")
    if starts >= policy.max_starts:
        return RetryDecision(Step.GIVE_UP, attempts, why=f"{starts} starts without an end")
    wait = backoff(attempts - 1, policy.retry_first, policy.retry_longest) * jitter if outcome.counts else 0.0
    return RetryDecision(Step.RETRY, attempts, not_before=now + wait)


def backoff(number: int, first: float, longest: float) -> float:
    """`first` doubled `number` times, at most `longest`."""
    return min(longest, first * 2.0 ** min(number, 40))
