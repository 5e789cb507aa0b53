"""Which session a turn goes on in (I5), and which prompt that calls for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent_mailer.clock import iso
from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Outcome
from agent_mailer.prompts import PromptKind
from agent_mailer.state.records import Attempt, Provisional, RetryEntry, SessionEntry
from agent_mailer.watch.rules import SessionChoice, WatchPolicy, choose_session

NOW = 2_000_000_000.0
DAY = 86400.0
POLICY = WatchPolicy(Path("/w"), session_max_age_days=7, session_max_turns=50)
ENVELOPE = Envelope("m", "t", "user", 0.0, "1", "m.md")


def session(
    name: str = "s", *, turns: int = 1, age: float = 0.0, runtime: str = "claude", last: str | None = None
) -> SessionEntry:
    return SessionEntry(name, turns, "", iso(NOW - age) if last is None else last, runtime, generation=3)


def rerun(
    *outcomes: Outcome, kept: str | None = None, runtime: str = "claude", session_lost: bool = False
) -> RetryEntry:
    history = tuple(Attempt(f"turn-{n}", outcome, "", 0.0) for n, outcome in enumerate(outcomes))
    provisional = Provisional(kept, runtime, outcomes[-1]) if kept else None
    return RetryEntry(ENVELOPE, history=history, provisional=provisional, session_lost=session_lost)


def choose(entry: SessionEntry | None, again: RetryEntry | None = None, *, resumes: bool = True) -> SessionChoice:
    return choose_session(entry, again, runtime="claude", resumes=resumes, now=NOW, policy=POLICY)


def test_a_new_thread_starts_fresh() -> None:
    assert choose(None) == SessionChoice(None, PromptKind.FRESH)


def test_a_fit_session_is_resumed() -> None:
    assert choose(session()) == SessionChoice("s", PromptKind.RESUMED)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (session(turns=50), "was closed after 50 turns"),
        (session(turns=51), "was closed after 51 turns"),
        (session(age=7 * DAY + 1), "has expired after 7 days"),
        (session(age=400 * DAY), "has expired after 7 days"),
        (session(age=-DAY - 1), f"carries a date in the future ({iso(NOW + DAY + 1)[:20]})"),
        (session(last="2999-01-01T00:00:00Z"), "carries a date in the future (2999-01-01T00:00:00Z)"),
        (session(runtime="codex"), "belongs to another runtime (codex)"),
        (session(""), "was dropped"),
    ],
)
def test_an_unfit_session_is_not_resumed_and_the_prompt_says_why(entry: SessionEntry, why: str) -> None:
    assert choose(entry) == SessionChoice(None, PromptKind.LOST, why)


@pytest.mark.parametrize(
    "entry",
    [
        session(turns=49),
        session(age=7 * DAY - 1),
        session(age=-DAY),  # the clock jumped
        session(last=""),
        session(last="yesterday"),
        session(runtime=""),  # written by another client
    ],
)
def test_a_doubtful_entry_is_resumed(entry: SessionEntry) -> None:
    assert choose(entry) == SessionChoice("s", PromptKind.RESUMED)


@pytest.mark.parametrize("entry", [None, session(), session("")])
def test_a_runtime_that_resumes_nothing_starts_fresh(entry: SessionEntry | None) -> None:
    assert choose(entry, resumes=False) == SessionChoice(None, PromptKind.FRESH)
    again = rerun(Outcome.LIMITED, kept="p")
    assert choose(entry, again, resumes=False) == SessionChoice(None, PromptKind.RERUN)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.keeps_session])
@pytest.mark.parametrize("entry", [None, session(), session("")])
def test_a_rerun_goes_on_in_its_own_session(outcome: Outcome, entry: SessionEntry | None) -> None:
    assert choose(entry, rerun(outcome, kept="own")) == SessionChoice("own", PromptKind.RERUN)


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.CRASHED])
def test_the_same_fault_twice_in_a_row_starts_fresh(outcome: Outcome) -> None:
    again = rerun(outcome, outcome, kept="own")
    assert choose(session(), again) == SessionChoice(None, PromptKind.RERUN)


@pytest.mark.parametrize(
    "outcomes",
    [
        (Outcome.LIMITED, Outcome.LIMITED, Outcome.LIMITED),
        (Outcome.INTERRUPTED, Outcome.INTERRUPTED),
        (Outcome.UNAVAILABLE, Outcome.UNAVAILABLE),
        (Outcome.TIMED_OUT, Outcome.CRASHED),
        (Outcome.CRASHED, Outcome.INTERRUPTED),
        (Outcome.CRASHED, Outcome.LIMITED, Outcome.CRASHED),
    ],
)
def test_limits_and_stops_say_nothing_of_the_session(outcomes: tuple[Outcome, ...]) -> None:
    assert choose(None, rerun(*outcomes, kept="own")) == SessionChoice("own", PromptKind.RERUN)


def test_a_provisional_session_of_another_runtime_is_not_resumed() -> None:
    again = rerun(Outcome.LIMITED, kept="own", runtime="codex")
    assert choose(session(), again) == SessionChoice("s", PromptKind.RERUN)
    assert choose(None, again) == SessionChoice(None, PromptKind.RERUN)


def test_a_rerun_without_a_session_of_its_own_takes_the_threads_if_that_is_fit() -> None:
    assert choose(session(), rerun(Outcome.FAILED)) == SessionChoice("s", PromptKind.RERUN)
    assert choose(session(turns=50), rerun(Outcome.FAILED)) == SessionChoice(None, PromptKind.RERUN)


def test_once_lost_the_rerun_starts_fresh_whatever_is_known() -> None:
    again = rerun(Outcome.SESSION_LOST, session_lost=True)
    assert choose(session("other"), again) == SessionChoice(None, PromptKind.LOST, "could not be resumed")
    # A later failure is what the next prompt tells of, with what was sent already.
    later = rerun(Outcome.SESSION_LOST, Outcome.FAILED, session_lost=True)
    assert choose(session("other"), later) == SessionChoice(None, PromptKind.RERUN)


def test_the_session_begun_after_a_loss_is_kept_like_any_other() -> None:
    again = rerun(Outcome.SESSION_LOST, Outcome.LIMITED, kept="begun-after", session_lost=True)
    assert choose(session(""), again) == SessionChoice("begun-after", PromptKind.RERUN)


@pytest.mark.parametrize("entry", [None, session()])
def test_a_message_that_never_ran_is_no_rerun(entry: SessionEntry | None) -> None:
    """Given back before its agent was started, or counted by another client: no turn of it is to be told of."""
    assert choose(entry, RetryEntry(ENVELOPE, attempts=2, starts=2)) == choose(entry)


def test_a_session_that_has_grown_too_large_is_not_resumed() -> None:
    large = SessionEntry("s-1", turn_count=1, last_used_at=iso(NOW), runtime="claude", transcript_bytes=20_000_000)
    choice = choose_session(large, None, runtime="claude", resumes=True, now=NOW, policy=POLICY)
    assert (choice.session_id, choice.prompt) == (None, PromptKind.LOST)
    assert choice.why_lost == "was closed after 20 MB of output"
    smaller = msgspec.structs.replace(large, transcript_bytes=19_999_999)
    assert choose_session(smaller, None, runtime="claude", resumes=True, now=NOW, policy=POLICY).session_id == "s-1"
