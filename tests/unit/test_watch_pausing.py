"""When the account waits: every outcome against every pause that may stand already."""

from __future__ import annotations

import msgspec
import pytest

from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.state.pauses import LONGEST_PAUSE
from agent_mailer.state.records import Attempt, Pause, PauseReason, RetryEntry
from agent_mailer.watch.probes import decide_pause, in_turn, is_a_start
from agent_mailer.watch.rules import Candidate, may_start

NOW = 1_000_000.0
PAUSING = {
    Outcome.LIMITED: PauseReason.LIMITED,
    Outcome.SIGNED_OUT: PauseReason.SIGNED_OUT,
    Outcome.UNAVAILABLE: PauseReason.UNAVAILABLE,
}
STANDING = {
    "none": None,
    "limited": Pause(PauseReason.LIMITED, NOW - 100, NOW - 1, "quota", 2),
    "signed out": Pause(PauseReason.SIGNED_OUT, NOW - 100, NOW - 1, "", 0),
    "unavailable": Pause(PauseReason.UNAVAILABLE, NOW - 100, NOW + 50, "", 1),
}
BY_HAND = Pause(PauseReason.BY_HAND, NOW - 100)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_hand_ends_a_pause_by_hand(outcome: Outcome) -> None:
    assert decide_pause(Judgement(outcome, retry_at=NOW + 60), BY_HAND, NOW, 0.5) == BY_HAND


@pytest.mark.parametrize("standing", list(STANDING))
@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in PAUSING and o is not Outcome.INTERRUPTED])
def test_whatever_got_through_ends_the_pause(outcome: Outcome, standing: str) -> None:
    assert decide_pause(Judgement(outcome), STANDING[standing], NOW, 0.5) is None


@pytest.mark.parametrize("standing", list(STANDING))
def test_an_interruption_says_nothing_of_the_account(standing: str) -> None:
    assert decide_pause(Judgement(Outcome.INTERRUPTED), STANDING[standing], NOW, 0.5) == STANDING[standing]


@pytest.mark.parametrize("standing", list(STANDING))
@pytest.mark.parametrize("outcome", list(PAUSING))
def test_a_pause_begins_or_goes_on_with_one_probe_more(outcome: Outcome, standing: str) -> None:
    current = STANDING[standing]
    pause = decide_pause(Judgement(outcome, "why"), current, NOW, 0.5)
    assert pause is not None
    assert (pause.reason, pause.detail) == (PAUSING[outcome], "why")
    assert pause.since == (current.since if current else NOW)
    assert pause.probes == (current.probes + 1 if current else 0)
    assert pause.until is not None
    assert pause.until > NOW


@pytest.mark.parametrize(("probes", "wait"), [(None, 30), (0, 60), (1, 120), (5, 1920), (6, 3600), (500, 3600)])
def test_probes_grow_rarer_up_to_an_hour(probes: int | None, wait: float) -> None:
    current = None if probes is None else Pause(PauseReason.LIMITED, NOW, NOW, probes=probes)
    for jitter, share in ((0.0, 0.75), (0.5, 1.0), (0.999, 1.2495)):
        pause = decide_pause(Judgement(Outcome.LIMITED), current, NOW, jitter)
        assert pause is not None
        assert pause.until == pytest.approx(NOW + wait * share)


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_the_providers_moment_is_believed_for_a_week(jitter: float) -> None:
    soon = decide_pause(Judgement(Outcome.LIMITED, retry_at=NOW + 7200), None, NOW, jitter)
    assert soon is not None
    assert soon.until == pytest.approx(NOW + 7200 + 5 * jitter)
    far = decide_pause(Judgement(Outcome.LIMITED, retry_at=NOW + 1e9), None, NOW, jitter)
    assert far is not None
    assert far.until is not None
    # Read back it must not look like a clock that jumped.
    assert NOW + LONGEST_PAUSE - 61 < far.until <= NOW + LONGEST_PAUSE


@pytest.mark.parametrize("retry_at", [NOW, NOW - 1, 0.0, -1e9])
def test_a_moment_that_is_over_is_no_moment(retry_at: float) -> None:
    pause = decide_pause(Judgement(Outcome.LIMITED, retry_at=retry_at), None, NOW, 0.5)
    assert pause is not None
    assert pause.until == NOW + 30


def limited(until: float | None) -> Pause:
    return Pause(PauseReason.LIMITED, NOW, until)


@pytest.mark.parametrize(
    ("pause", "running", "slots", "allowed"),
    [
        (None, 0, 1, 1),
        (None, 1, 1, 0),
        (None, 1, 4, 3),
        (None, 5, 4, 0),
        (limited(NOW + 1), 0, 4, 0),
        (limited(NOW), 0, 4, 1),
        (limited(NOW - 1), 0, 4, 1),
        (limited(NOW - 1), 1, 4, 0),
        (limited(None), 0, 4, 0),
        (BY_HAND, 0, 4, 0),
    ],
)
def test_a_pause_that_has_run_out_lets_one_probe_through(
    pause: Pause | None, running: int, slots: int, allowed: int
) -> None:
    assert may_start(pause, NOW, running, slots) == allowed
    if pause is not None:
        assert may_start(pause, NOW, running, slots, urgent=5) == allowed, "a pause holds for urgent mail, too"


@pytest.mark.parametrize(
    ("running", "urgent", "allowed"),
    [(0, 0, 2), (0, 2, 2), (0, 3, 3), (0, 9, 3), (1, 1, 1), (1, 2, 2), (2, 0, 0), (2, 1, 1), (2, 9, 1), (3, 9, 0)],
)
def test_urgent_mail_takes_one_place_beyond(running: int, urgent: int, allowed: int) -> None:
    assert may_start(None, NOW, running, 2, urgent) == allowed


def met(name: str, *ended: Outcome) -> Candidate:
    envelope = Envelope(name, name, "user", NOW, name, "")
    history = tuple(Attempt(f"t{number}", outcome, "", NOW - 10) for number, outcome in enumerate(ended))
    return Candidate(envelope, RetryEntry(envelope, history=history) if ended else None)


def test_what_meets_a_pause_again_and_again_steps_back() -> None:
    limited, interrupted = Outcome.LIMITED, Outcome.INTERRUPTED
    first, second, fresh = met("a", limited, limited), met("b", limited), met("c")
    assert in_turn([first, second, fresh]) == [first, second, fresh], "a limit that ends is tried by who met it"
    poison = met("a", limited, interrupted, Outcome.UNAVAILABLE, limited)
    assert in_turn([poison, second, fresh]) == [second, fresh, poison]
    worse = met("b", *[limited] * 4)
    assert in_turn([worse, poison]) == [poison, worse], "in an outage they take turns"
    assert in_turn([met("a", limited, limited, limited, Outcome.FAILED), fresh])[1] is fresh, "it had gone through"


def test_a_pause_counts_only_where_others_have_gone_through_since() -> None:
    rerun = met("a", Outcome.UNAVAILABLE).retry
    for outcome in PAUSING:
        assert not is_a_start(Judgement(outcome), None, worked=False, went_through=NOW)
        assert not is_a_start(Judgement(outcome), rerun, worked=False, went_through=0.0)
        assert not is_a_start(Judgement(outcome), rerun, worked=False, went_through=NOW - 11)
        assert not is_a_start(Judgement(outcome, retry_at=NOW + 60), rerun, worked=False, went_through=NOW)
        assert is_a_start(Judgement(outcome), rerun, worked=False, went_through=NOW)
        assert is_a_start(Judgement(outcome), None, worked=True, went_through=0.0)
    assert is_a_start(Judgement(Outcome.FAILED), None, worked=False, went_through=0.0)
    assert rerun is not None
    before = msgspec.structs.replace(rerun.history[0], at=NOW - 100)
    again = msgspec.structs.replace(rerun, history=(before, *rerun.history))
    assert not is_a_start(Judgement(Outcome.LIMITED), again, worked=False, went_through=NOW - 50), "since the last one"
