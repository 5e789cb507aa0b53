"""What becomes of what comes from outside: which of it is wanted, and what is told of an item that is open."""

from __future__ import annotations

import pytest

from agent_mailer.outside.calls import Call, read_call
from agent_mailer.outside.event import Event, Ignored, Reason, Source, State
from agent_mailer.outside.items import Item, NotSent, Outcome, ToSend, decide
from agent_mailer.outside.rules import Rules
from agent_mailer.outside.signature import HEADER


@pytest.mark.parametrize(
    ("labels", "wanted"), [(None, True), ((), False), (("bug",), True), (("docs",), False), (("docs", "bug"), True)]
)
def test_a_rule_that_wants_a_label_passes_what_has_it_and_what_can_have_none(
    labels: tuple[str, ...] | None, wanted: bool
) -> None:
    event = Event("issues", "x", "repo", labels=labels)
    found = Rules(labels=("bug*",)).wanted(event)
    assert found == (event if wanted else Ignored(Reason.LABEL_NOT_WANTED, "issues"))


def test_what_comes_late_sets_no_moment_back_and_ends_nothing() -> None:
    def told(state: State, at: int | None, item: Item | None) -> ToSend | NotSent:
        return decide(Event("alarm", "x", "monitor", key="db", state=state, at_ms=at), item, "t")

    begun = told(State.OPEN, 100, None)
    assert (begun.outcome, begun.after) == (Outcome.SENT, Item(is_open=True, occurrences=1, thread="t", moment_ms=100))
    again = told(State.OPEN, 50, begun.after)
    assert (again.outcome, again.after) == (
        Outcome.COUNTED,
        Item(is_open=True, occurrences=2, thread="t", moment_ms=100),
    )
    assert told(State.RESOLVED, 70, again.after) == NotSent(Outcome.IGNORED, "came_late")
    worse = told(State.OPEN, 108, again.after)
    assert told(State.RESOLVED, 106, worse.after) == NotSent(Outcome.IGNORED, "came_late"), "it was said again since"
    untimed = told(State.OPEN, None, worse.after)
    assert told(State.RESOLVED, 106, untimed.after) == NotSent(Outcome.IGNORED, "came_late"), "what says no moment"
    over = told(State.RESOLVED, 110, again.after)
    assert (over.outcome, over.occurrences) == (Outcome.RESOLVED, 2)
    assert told(State.OPEN, 105, over.after) == NotSent(Outcome.IGNORED, "resolved_already")


def test_the_same_words_said_again_are_another_delivery_unless_their_sender_names_it() -> None:
    """A signature has the moment at which it was made."""

    def called(signature: str, key: str | None = None, body: bytes = b'{"title": "the backup is done"}') -> Call:
        return read_call(Source.GENERIC, {HEADER: signature}.get, body, "ci", Rules(), key)  # type: ignore[arg-type]

    first, again, later = called("t=1,v1=a"), called("t=1,v1=a"), called("t=2,v1=b")
    assert (first.id, first.digest) == (again.id, again.digest)
    assert later.id != first.id
    named = called("t=1,v1=a", "run-7")
    assert (named.id, named.digest) == ("run-7", called("t=2,v1=b", "run-7").digest)
    assert called("t=3,v1=c", "run-7", b'{"title": "another"}').digest != named.digest
