"""What becomes of a message: every outcome, at every count of attempts and starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_mailer.outcomes import Outcome
from agent_mailer.watch.rules import RetryDecision, Step, WatchPolicy, backoff, decide_retry

NOW = 1_000_000.0
POLICY = WatchPolicy(Path("/w"), max_retries=3, max_starts=10, retry_first=10.0, retry_longest=600.0)

SETTLES = {Outcome.DONE, Outcome.BLOCKED}
COUNTS = {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED}
FREE = {
    Outcome.ASKED,
    Outcome.SESSION_LOST,
    Outcome.LIMITED,
    Outcome.SIGNED_OUT,
    Outcome.UNAVAILABLE,
    Outcome.INTERRUPTED,
}


def decide(outcome: Outcome, attempts: int, starts: int, jitter: float = 0.5, **policy: int) -> RetryDecision:
    changed = WatchPolicy(Path("/w"), **{"max_retries": 3, "max_starts": 10, **policy})  # type: ignore[arg-type]
    return decide_retry(outcome, attempts=attempts, starts=starts, now=NOW, policy=changed, jitter=jitter)


def test_the_three_kinds_are_all_outcomes() -> None:
    assert set(Outcome) == SETTLES | COUNTS | FREE


@pytest.mark.parametrize("outcome", sorted(SETTLES))
@pytest.mark.parametrize("attempts", [0, 3, 99])
@pytest.mark.parametrize("starts", [1, 10, 99])
def test_a_good_end_settles_whatever_came_before(outcome: Outcome, attempts: int, starts: int) -> None:
    assert decide(outcome, attempts, starts) == RetryDecision(Step.SETTLE, 0)


@pytest.mark.parametrize("outcome", sorted(COUNTS))
@pytest.mark.parametrize(
    ("attempts", "step", "after"),
    [(0, Step.RETRY, 1), (1, Step.RETRY, 2), (2, Step.RETRY, 3), (3, Step.GIVE_UP, 4), (7, Step.GIVE_UP, 8)],
)
def test_three_retries_are_one_run_and_three_more(outcome: Outcome, attempts: int, step: Step, after: int) -> None:
    decision = decide(outcome, attempts, attempts + 1)
    assert (decision.step, decision.attempts) == (step, after)


@pytest.mark.parametrize("outcome", sorted(COUNTS))
def test_no_retries_means_one_run(outcome: Outcome) -> None:
    assert decide(outcome, 0, 1, max_retries=0).step is Step.GIVE_UP


@pytest.mark.parametrize("outcome", sorted(FREE))
@pytest.mark.parametrize("attempts", [0, 1, 3, 99])
def test_what_is_not_the_messages_fault_costs_no_attempt_and_no_wait(outcome: Outcome, attempts: int) -> None:
    """I6: not even where the attempts are used up already."""
    assert decide(outcome, attempts, 9) == RetryDecision(Step.RETRY, attempts, not_before=NOW)


@pytest.mark.parametrize("outcome", sorted(COUNTS | FREE))
@pytest.mark.parametrize(("starts", "step"), [(1, Step.RETRY), (9, Step.RETRY), (10, Step.GIVE_UP), (11, Step.GIVE_UP)])
def test_starts_end_it_whatever_the_outcome(outcome: Outcome, starts: int, step: Step) -> None:
    decision = decide(outcome, 0, starts)
    assert decision.step is step
    assert ("10 starts" in decision.why) == (starts == 10)


def test_giving_up_says_why() -> None:
    assert decide(Outcome.FAILED, 3, 4).why == "4 failed attempts"
    assert decide(Outcome.FAILED, 0, 1, max_retries=0).why == "1 failed attempt"
    assert decide(Outcome.INTERRUPTED, 0, 1, max_starts=1).why == "1 start without an end"
    assert decide(Outcome.INTERRUPTED, 0, 2, max_starts=2).why == "2 starts without an end"


@pytest.mark.parametrize("outcome", sorted(COUNTS))
@pytest.mark.parametrize(("attempts", "longest"), [(0, 10), (1, 20), (2, 40), (5, 320), (6, 600), (60, 600)])
@pytest.mark.parametrize("jitter", [0.0, 0.25, 0.999])
def test_the_wait_is_anywhere_up_to_the_backoff(outcome: Outcome, attempts: int, longest: int, jitter: float) -> None:
    decision = decide(outcome, attempts, 1, jitter, max_retries=1000)
    assert decision.not_before == pytest.approx(NOW + longest * jitter)


def test_the_backoff_doubles_to_its_longest_and_never_overflows() -> None:
    assert [backoff(n, 10, 600) for n in (0, 1, 2, 5, 6, 7)] == [10, 20, 40, 320, 600, 600]
    assert backoff(100_000, 10, 600) == 600
    assert backoff(0, 900, 600) == 600
