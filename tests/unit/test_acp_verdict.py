"""`end_turn` is no proof of work: what eight agents answer to a failing provider never counts as done."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent_mailer.outcomes import Outcome
from agent_mailer.runtimes.acp.descriptor import Meaning
from agent_mailer.runtimes.acp.orders import Ended, Failure, Staged
from agent_mailer.runtimes.acp.shelf import Shelf
from agent_mailer.runtimes.acp.verdict import judge, of_a_second_word, rests_on_words

NOTHING = Staged()


def of(ended: Ended, staged: Staged = NOTHING, *, resumed: bool = False) -> Outcome:
    return judge(ended, staged, resumed=resumed).outcome


def test_words_are_believed_where_the_model_was_asked() -> None:
    assert of(Ended("end_turn", "42", tokens=120)) is Outcome.DONE
    assert of(Ended("end_turn", "42")) is Outcome.DONE, "it does not count"
    # gemini: a stream that was cut, the halves of four attempts, and no token.
    assert of(Ended("end_turn", "half of an half of an", tokens=0)) is Outcome.UNAVAILABLE


def test_a_bare_end_is_an_outage_unless_the_turn_left_something() -> None:
    # kimi after 429, quota, 404, a full context, 500, and a refused connection.
    bare = Ended("end_turn")
    assert of(bare) is Outcome.UNAVAILABLE
    assert of(bare, Staged(mail=True)) is Outcome.DONE
    assert of(bare, Staged(finished=True)) is Outcome.DONE
    assert of(bare, Staged(asked=True)) is Outcome.DONE, "a person is asked"


def test_words_alone_are_doubted_and_only_finish_or_mail_vouches_for_them() -> None:
    # kimi, after it has tried a cut stream ten times: the ten halves, and `end_turn`.
    halves = Ended("end_turn", "half of anhalf of an")
    assert rests_on_words(halves, NOTHING, ())
    shown = (Staged(mail=True), Staged(finished=True), Staged(asked=True))
    assert not any(rests_on_words(halves, staged, ()) for staged in shown)
    assert not rests_on_words(Ended("end_turn"), NOTHING, ())
    assert not rests_on_words(halves, NOTHING, (Meaning("unavailable", text="half of"),))

    again = of_a_second_word(halves, Ended("end_turn", "half of an"), NOTHING)
    assert again is not None
    assert again.outcome is Outcome.FAILED
    assert of_a_second_word(halves, Ended("end_turn"), NOTHING) is None, "an outage, as always"
    assert of_a_second_word(halves, Ended(failure=Failure("429")), NOTHING) is None
    assert of_a_second_word(halves, Ended("max_tokens", "and on and on"), NOTHING) is None
    for staged in shown:
        for then, text in (
            (Ended("end_turn", "Yes."), halves.text),
            (Ended("end_turn", "Yes.", "It is 42."), "It is 42."),
        ):
            known = of_a_second_word(halves, then, staged)
            assert known is not None
            assert (known.outcome, known.text) == (Outcome.DONE, text)


def test_what_was_said_before_finish_is_the_answer() -> None:
    ended = Ended("end_turn", before="The answer.")
    assert judge(ended, Staged(finished=True), resumed=False).text == "The answer."
    assert judge(ended, NOTHING, resumed=False).outcome is Outcome.UNAVAILABLE


def test_an_end_after_a_refused_tool_is_the_messages_own() -> None:
    verdict = judge(Ended("end_turn", rejected=("bash", "bash")), NOTHING, resumed=False)
    assert (verdict.outcome, verdict.detail.count("bash")) == (Outcome.FAILED, 1)


@pytest.mark.parametrize("stop", ["max_tokens", "max_turn_requests", "refusal", "cancelled", "", "soon"])
def test_other_ends_are_no_success(stop: str) -> None:
    assert of(Ended(stop, "words", tokens=5), Staged(mail=True)) is Outcome.FAILED


FAILURES = [
    # opencode 1.18.33, seen: the provider's text, and APIError for all of them.
    (Failure("Internal error: bad key", -32603, kind="APIError"), Outcome.SIGNED_OUT),
    (Failure("Internal error: quota exceeded", -32603, kind="APIError"), Outcome.LIMITED),
    (Failure("Internal error: boom", -32603, kind="APIError"), Outcome.UNAVAILABLE),
    (Failure("Session too large to compact", -32603, kind="ContextOverflowError"), Outcome.FAILED),
    # gemini, qwen, vibe, cline, claude and codex, as measured elsewhere.
    (Failure("x", 401), Outcome.SIGNED_OUT),
    (Failure("x", 403), Outcome.SIGNED_OUT),
    (Failure("401 no such key", -32603), Outcome.SIGNED_OUT),
    (Failure("the model is overloaded", 429), Outcome.LIMITED),
    (Failure("usage limit", -32603, kind="usageLimitExceeded"), Outcome.LIMITED),
    (Failure("x", -32000), Outcome.SIGNED_OUT),
    (Failure("x", kind="access"), Outcome.SIGNED_OUT),
    (Failure("x", kind="limit"), Outcome.LIMITED),
    (Failure("x", kind="service"), Outcome.UNAVAILABLE),
    (Failure("x", kind="connection"), Outcome.UNAVAILABLE),
    (Failure("x", kind="request"), Outcome.FAILED),
    (Failure("x", -32603, status=503), Outcome.UNAVAILABLE),
    (Failure("fetch failed: ECONNREFUSED", -32603), Outcome.UNAVAILABLE),
    (Failure("the maximum context length is 8192 tokens", 400), Outcome.FAILED),
    (Failure("something is odd", -32603), Outcome.FAILED),
]


@pytest.mark.parametrize(("failure", "outcome"), FAILURES)
def test_errors_have_their_outcome(failure: Failure, outcome: Outcome) -> None:
    assert of(Ended(failure=failure)) is outcome
    # Whatever has been said and staged before.
    assert of(Ended("end_turn", "words", tokens=9, failure=failure), Staged(mail=True)) is outcome


def test_a_full_context_loses_the_session_that_was_resumed() -> None:
    failure = Failure("prompt is too long", 400)
    assert of(Ended(failure=failure), resumed=True) is Outcome.SESSION_LOST
    assert of(Ended(failure=failure)) is Outcome.FAILED


def test_a_descriptor_has_the_first_word() -> None:
    rows = (Meaning("limited", code=-31002), Meaning("signed_out", text="Please run /login"))
    ended = Ended(failure=Failure("x", -31002))
    assert judge(ended, NOTHING, resumed=False, errors=rows).outcome is Outcome.LIMITED
    said = Ended("end_turn", "Please run /login now", tokens=3)
    assert judge(said, NOTHING, resumed=False, answers=rows).outcome is Outcome.SIGNED_OUT
    quoted = msgspec.structs.replace(said, text="It says: Please run /login")
    assert judge(quoted, NOTHING, resumed=False, answers=rows).outcome is Outcome.DONE


def test_kimi_that_cannot_make_room_has_answered_nothing(tmp_path: Path) -> None:
    """As 2.1.0 ended, seen with a model server that refuses a full context; where it has made room it goes on."""
    answers = Shelf({}, tmp_path).find("kimi").descriptor.answers
    begins = "Compacting conversation context…"
    blocked = f"{begins}Compaction is blocked by the current turn; retry when the turn is idle.Compaction cancelled."
    for resumed, outcome in ((True, Outcome.SESSION_LOST), (False, Outcome.FAILED)):
        found = judge(Ended("end_turn", blocked), NOTHING, resumed=resumed, answers=answers)
        assert found.outcome is outcome
    made = Ended("end_turn", f"{begins} The answer.")
    assert judge(made, NOTHING, resumed=True, answers=answers).outcome is Outcome.DONE
