"""Which messages may start: a thread strictly in order, threads by urgency and age."""

from __future__ import annotations

import itertools

import pytest

from agent_mailer.mailbox.port import Envelope, Priority, oldest_of_each
from agent_mailer.state.records import RetryEntry
from agent_mailer.watch.rules import Candidate, make_plan, urgent_beside

NOW = 1_000.0


def mail(
    name: str, thread: str, order: str, priority: Priority = Priority.NORMAL, not_before: float | None = None
) -> Candidate:
    envelope = Envelope(name, thread, "user", 0.0, order, f"{name}.md", priority=priority)
    return Candidate(envelope, None if not_before is None else RetryEntry(envelope, not_before=not_before))


def ready(*candidates: Candidate, busy: set[str] | None = None) -> list[str]:
    """The same whatever the order in which they are listed."""
    plans = {
        tuple(c.envelope.id for c in make_plan(row, busy or set(), NOW).ready)
        for row in itertools.islice(itertools.permutations(candidates), 24)
    }
    [one] = plans
    return list(one)


def test_nothing_gives_nothing() -> None:
    plan = make_plan([], set(), NOW)
    assert (plan.ready, plan.next_due) == ((), None)


def test_only_the_oldest_of_a_thread_is_ready() -> None:
    assert ready(mail("b", "t", "2"), mail("a", "t", "1"), mail("c", "t", "3")) == ["a"]


def test_threads_by_age() -> None:
    assert ready(mail("x", "t1", "3"), mail("y", "t2", "1"), mail("z", "t3", "2")) == ["y", "z", "x"]


def test_threads_by_urgency_before_age() -> None:
    assert ready(
        mail("low", "t1", "1", Priority.LOW), mail("normal", "t2", "2"), mail("urgent", "t3", "3", Priority.URGENT)
    ) == ["urgent", "normal", "low"]


def test_urgent_mail_pulls_the_thread_it_waits_in_but_passes_nobody_there() -> None:
    assert ready(
        mail("head", "t1", "2", Priority.LOW), mail("urgent", "t1", "3", Priority.URGENT), mail("other", "t2", "1")
    ) == ["head", "other"]


def test_a_busy_thread_offers_nothing_and_is_due_at_no_moment() -> None:
    plan = make_plan([mail("a", "t", "1", not_before=NOW + 5), mail("b", "t", "2")], {"t"}, NOW)
    assert (plan.ready, plan.next_due) == ((), None)


@pytest.mark.parametrize(("not_before", "names"), [(NOW - 1, ["a"]), (NOW, ["a"]), (NOW + 0.001, [])])
def test_a_head_that_waits_holds_its_thread(not_before: float, names: list[str]) -> None:
    assert ready(mail("a", "t", "1", not_before=not_before), mail("b", "t", "2", Priority.URGENT)) == names


def test_the_next_moment_is_the_soonest_head_and_no_other() -> None:
    plan = make_plan(
        [
            mail("a", "t1", "1", not_before=NOW + 50),
            mail("behind", "t1", "2", not_before=NOW + 1),
            mail("c", "t2", "3", not_before=NOW + 20),
            mail("d", "t3", "4"),
        ],
        set(),
        NOW,
    )
    assert [c.envelope.id for c in plan.ready] == ["d"]
    assert plan.next_due == NOW + 20


def listed(limit: int, *waiting: Candidate) -> list[str]:
    envelopes = [candidate.envelope for candidate in waiting]
    assert oldest_of_each(reversed(envelopes), limit) == oldest_of_each(envelopes, limit)
    return [envelope.id for envelope in oldest_of_each(envelopes, limit)]


FLOOD = [mail(f"f{number}", "flood", f"1{number}") for number in range(5)]


def test_what_fits_is_listed_whole_and_in_order() -> None:
    assert listed(5, *FLOOD) == ["f0", "f1", "f2", "f3", "f4"]
    assert oldest_of_each([], 0) == ()


def test_a_bound_keeps_each_threads_head_before_anybodys_second() -> None:
    assert listed(3, *FLOOD, mail("x", "t1", "20"), mail("y", "t1", "21"), mail("z", "t2", "22")) == ["f0", "x", "z"]


def test_a_bound_keeps_each_threads_most_urgent() -> None:
    late = mail("now", "flood", "30", Priority.URGENT)
    assert listed(3, *FLOOD, mail("x", "t1", "20"), late) == ["f0", "x", "now"]


def test_with_more_threads_than_fit_the_urgent_and_the_oldest_are_kept() -> None:
    others = [mail(f"x{number}", f"t{number}", f"2{number}") for number in range(5)]
    urgent = mail("now", "late", "30", Priority.URGENT)
    assert listed(3, *others, urgent) == ["x0", "x1", "now"]
    assert listed(1, *others, urgent) == ["now"]


def test_room_that_is_left_goes_to_the_oldest() -> None:
    assert listed(4, *FLOOD, mail("x", "t1", "20")) == ["f0", "f1", "f2", "x"]


def test_what_waits_for_a_person_takes_nobodys_place() -> None:
    waiting = [candidate.envelope for candidate in (*FLOOD, mail("x", "t1", "20"))]
    assert [one.id for one in oldest_of_each(waiting, 2, {"f0", "f1"})] == ["f2", "x"]


def test_two_files_of_one_id_are_two() -> None:
    twins = [mail("same", "flood", f"1{number}") for number in range(3)]
    assert listed(2, *twins) == ["same", "same"]


def test_what_is_urgent_is_known_by_the_head_of_its_thread() -> None:
    pulled, late = mail("head", "t1", "2"), mail("now", "t1", "3", Priority.URGENT)
    plan = make_plan([pulled, late, mail("x", "t2", "1")], set(), NOW)
    assert plan.urgent == {"head"}
    assert make_plan([pulled, late], {"t1"}, NOW).urgent == frozenset()


def test_a_running_turn_is_told_of_the_urgent_mail_of_its_own_thread() -> None:
    waiting = [
        mail("b", "t1", "3", Priority.URGENT),
        mail("a", "t1", "2", Priority.URGENT),
        mail("c", "t1", "4"),
        mail("d", "t2", "1", Priority.URGENT),
    ]
    found = urgent_beside(waiting, {"t1": "turn-1", "t3": "turn-3"})
    assert {turn: [one.id for one in those] for turn, those in found.items()} == {"turn-1": ["a", "b"]}
