"""What of an agent's mail is offered to live sessions, for how long, and who gets it: the rules alone."""

from __future__ import annotations

import pytest

from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.state.presence import Offer
from agent_mailer.state.records import Attempt, Pause, PauseReason, RetryEntry, Sitter
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.offering import choose, wanted
from agent_mailer.watch.rules import Candidate

ANN = Sitter("ann", ProcessIdentity(10, 1, "boot"))
BEN = Sitter("ben", ProcessIdentity(11, 1, "boot"))
NOW, WAIT = 1000.0, 60.0


def mail(name: str, *attempts: Attempt) -> Candidate:
    envelope = Envelope(id=name, thread=f"t-{name}", sender="user", created=1.0, order=name, locator=name)
    return Candidate(envelope, RetryEntry(envelope, history=attempts) if attempts else None)


TRIED = Attempt("turn", Outcome.FAILED, "", 1.0)
WAS_LIVE = Attempt("turn", Outcome.INTERRUPTED, "", 1.0, live=True)


def ids(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.envelope.id for candidate in candidates]


def test_it_is_held_for_who_is_there_until_the_time_is_up_and_not_anew() -> None:
    first = choose([mail("a")], {}, [ANN], lambda _: True, NOW, WAIT)
    assert (ids(first.headless), first.due, first.offers[0]) == ([], NOW + WAIT, Offer("a", NOW + WAIT, (ANN,), NOW))
    known = {"a": first.offers[0]}
    # Whoever comes later changes nothing, and the clock goes on.
    later = choose([mail("a")], known, [ANN, BEN], lambda _: True, NOW + 59, WAIT)
    assert (ids(later.headless), later.due, later.offers) == ([], NOW + WAIT, first.offers)
    over = choose([mail("a")], known, [ANN, BEN], lambda _: True, NOW + WAIT, WAIT)
    assert (ids(over.headless), over.due) == (["a"], None)
    # A clock that was set back, or a wait that was made shorter, holds it for no longer.
    assert ids(choose([mail("a")], known, [ANN], lambda _: True, NOW - 3600, WAIT).headless) == ["a"]
    assert ids(choose([mail("a")], known, [ANN], lambda _: True, NOW, 5.0).headless) == ["a"]


def test_nobody_there_or_everybody_gone_holds_nothing() -> None:
    assert ids(choose([mail("a")], {}, [], lambda _: True, NOW, WAIT).headless) == ["a"]
    known = {"a": Offer("a", NOW + WAIT, (ANN, BEN))}
    assert ids(choose([mail("a")], known, [], lambda one: one == BEN, NOW, WAIT).headless) == []
    assert ids(choose([mail("a")], known, [], lambda _: False, NOW, WAIT).headless) == ["a"]


def test_a_rerun_is_not_offered() -> None:
    assert ids(choose([mail("a", TRIED), mail("b")], {}, [ANN], lambda _: True, NOW, WAIT).headless) == ["a"]


@pytest.mark.parametrize(
    ("typed", "candidates", "ready", "pause", "said"),
    [
        ("msg", [mail("msg_1"), mail("msg_2")], [], None, "more than one"),
        ("msg_3", [mail("msg_1")], [], None, "no such mail"),
        ("", [mail("msg_1")], [mail("msg_1")], None, "no such mail"),
        ("msg_1", [mail("msg_1", WAS_LIVE)], [mail("msg_1", WAS_LIVE)], None, "had it before"),
        ("msg_1", [mail("msg_1", WAS_LIVE, TRIED)], [mail("msg_1", WAS_LIVE, TRIED)], None, "had it before"),
        ("msg_1", [mail("msg_1")], [], None, "an older mail"),
        ("msg_1", [mail("msg_1")], [mail("msg_1")], Pause(PauseReason.BY_HAND, since=1.0), "paused (by_hand)"),
    ],
)
def test_who_asks_in_vain_is_told_why(
    typed: str, candidates: list[Candidate], ready: list[Candidate], pause: Pause | None, said: str
) -> None:
    found = wanted(Request(Verb.TAKE, (typed,), by=ANN), candidates, ready, pause)
    assert isinstance(found, str)
    assert said in found


def test_who_asks_gets_it_by_its_whole_id_or_a_part_of_it_also_after_a_failed_turn() -> None:
    asked = (
        ("msg_1", mail("msg_1")),
        ("msg_1", mail("msg_12")),
        ("msg", mail("msg_1", TRIED)),
        ("…g_1", mail("msg_1")),
    )
    for typed, candidate in asked:
        found = wanted(Request(Verb.TAKE, (typed,), by=ANN), [candidate], [candidate], None)
        assert isinstance(found, Candidate)
        assert (found.envelope.id, found.taker) == (candidate.envelope.id, ANN)
    both = [mail("msg_1"), mail("msg_12")]
    found = wanted(Request(Verb.TAKE, ("msg_1",), by=ANN), both, both, None)
    assert isinstance(found, Candidate)
    assert found.envelope.id == "msg_1"
