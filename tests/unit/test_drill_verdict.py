"""What a drill calls lost, twice, out of order: from what an outsider saw."""

from __future__ import annotations

from collections import Counter

from agent_mailer.drill.verdict import Evidence, Sent, judge

ONE, TWO = Sent("red", "id1", "drill 1"), Sent("red", "id2", "drill 2")
ANSWERS = ["Re: drill 1", "Re: drill 2"]


def seen(runs: list[str], answers: list[str], **killed_in: int) -> Evidence:
    return Evidence([ONE, TWO], runs, answers, Counter(killed_in), Counter({"the watcher": 3}))


def test_all_is_well_where_each_ran_and_was_answered_once() -> None:
    verdict = judge(seen(["id1", "id2"], ANSWERS))
    assert verdict.held
    assert verdict.sentence == "3 kills, 2 messages: 0 lost, 0 twice, 0 out of order, 0 left running"


def test_a_run_more_is_explained_by_a_kill_in_its_turn_only() -> None:
    assert judge(seen(["id1", "id1", "id2"], ANSWERS, id1=1)).held
    assert judge(seen(["id1", "id1", "id2"], ANSWERS)).twice == ("drill 1: 2 runs where 0 kills explain 1",)


def test_an_answer_that_is_missing_or_comes_again_is_named() -> None:
    verdict = judge(seen(["id1", "id2"], ["Re: drill 1", "Re: drill 1"]))
    assert (verdict.lost, verdict.twice) == (("drill 2: no answer",), ("drill 1: 2 answers",))
    assert not verdict.held


def test_a_thread_has_an_order_and_nothing_may_stay() -> None:
    evidence = seen(["id2", "id1"], ANSWERS)
    evidence.left.append("process 4711 of turn x")
    verdict = judge(evidence)
    assert (verdict.order, verdict.left) == (("drill 2 ran before drill 1",), ("process 4711 of turn x",))


def test_in_its_thread_a_message_stands_where_it_ran_first() -> None:
    settled_then_killed = judge(seen(["id1", "id2", "id1"], ANSWERS, id1=1))
    assert settled_then_killed.held
    ran_too_early = judge(seen(["id2", "id1", "id2"], ANSWERS, id2=1))
    assert (ran_too_early.order, ran_too_early.twice) == (("drill 2 ran before drill 1",), ())


def test_one_is_told_as_one() -> None:
    evidence = Evidence([ONE], ["id1"], ANSWERS[:1], kills=Counter({"the watcher": 1}))
    assert judge(evidence).sentence.startswith("1 kill, 1 message: ")
