"""What becomes of what comes from outside: which of it is wanted, and what is told of an item that is open."""

from __future__ import annotations

import pytest

from agent_mailer.outside.event import Event, Ignored, Reason, State
from agent_mailer.outside.items import Item, NotSent, Outcome, ToSend, decide
from agent_mailer.outside.rules import Rules


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
    def told(state: State, at: int, item: Item | None) -> ToSend | NotSent:
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
    over = told(State.RESOLVED, 110, again.after)
    assert (over.outcome, over.occurrences) == (Outcome.RESOLVED, 2)
    assert told(State.OPEN, 105, over.after) == NotSent(Outcome.IGNORED, "resolved_already")
