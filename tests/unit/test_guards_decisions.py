"""The decisions of the guards, each at its border: rounds, budgets, quiet, silence."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from agent_mailer.mailbox.port import Envelope
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.held import Guard
from agent_mailer.state.records import Pause, PauseReason, Phase, Settlement, TurnRecord
from agent_mailer.watch.guards.alarm import AlarmPolicy, Heard, Silence, listen
from agent_mailer.watch.guards.budgets import UNITS, BudgetPolicy, Ledger, Over, Spent, limit_today, midnight
from agent_mailer.watch.guards.calm import CalmPolicy, parse_hours, quiet_until, wanted_pause
from agent_mailer.watch.guards.rounds import (
    DAY,
    TIDIED_AFTER,
    GuardPolicy,
    Round,
    Rounds,
    Verdict,
    begins_anew,
    ring_of,
)

BOTH = AlarmPolicy(100, 50)
NOON = datetime(2026, 6, 10, 12).astimezone().timestamp()


def at(hour: int, minute: int = 0, day: int = 10) -> float:
    return datetime(2026, 6, day, hour, minute).astimezone().timestamp()


def mail(sender: str = "b", thread: str = "t", created: float = 1000.0, visited: str = "", hops: int = 0) -> Envelope:
    return Envelope("m", thread, sender, created, "o", "l", visited=tuple(visited.split()), hops=hops, answers=True)


# Rounds.


def test_depth_is_how_often_we_stand_in_the_chain() -> None:
    rounds = Rounds("a", GuardPolicy())
    assert rounds.depth_of(mail(visited="user b c")) == 0
    assert rounds.depth_of(mail(visited="user a b a b")) == 2


def test_what_answers_nothing_is_no_round() -> None:
    """Somebody's questions, and a robot's reports, all in the one thread that two share."""
    rounds = Rounds("a", GuardPolicy(pair_rounds=3))
    for number in range(50):
        asked = msgspec.structs.replace(mail(created=1000.0 + 10 * number), answers=False)
        depth = rounds.depth_of(asked)
        assert (depth, rounds.judge(asked, depth, asked.created)) == (0, None)
        rounds.note(Round(asked.created + 1, "t", "b", depth))


def test_without_a_chain_the_thread_tells() -> None:
    """What was written before we began the earlier one answers nothing of ours."""
    rounds = Rounds("a", GuardPolicy(pair_rounds=3, ring_rounds=0))
    for number in range(20):
        batch = mail(created=900.0 + number)
        assert rounds.depth_of(batch) == 0
        rounds.note(Round(1000.0 + number, "t", "b", 0))
    moment = 2000.0
    for number in range(3):
        answer = mail(created=moment)
        depth = rounds.depth_of(answer)
        assert depth == number + 1
        assert rounds.judge(answer, depth, moment) is None
        rounds.note(Round(moment + 1, "t", "b", depth))
        moment += 10
    verdict = rounds.judge(mail(created=moment), rounds.depth_of(mail(created=moment)), moment)
    assert verdict is not None
    assert verdict.guard is Guard.PAIR
    renamed = mail("c", created=moment)
    assert rounds.depth_of(renamed) == 4, "another name in the same thread"


def test_a_window_ends_and_a_clock_that_was_set_back_ends_none() -> None:
    rounds = Rounds("a", GuardPolicy(pair_rounds=3, ring_rounds=0))
    for depth in (1, 2, 3):
        rounds.note(Round(1000.0 + depth, "t", "b", depth))
    four = mail(visited="a a a a")
    assert rounds.judge(four, 4, 1010.0) is not None
    assert rounds.judge(four, 4, 1010.0 - DAY) is not None
    assert rounds.judge(four, 4, 1700.0) is None


def test_a_ring_is_who_had_it_since_it_was_ours() -> None:
    assert ring_of(mail("b"), "a") == ("b",)
    assert ring_of(mail("b", visited="user x"), "a") == ("b",), "it never was ours"
    assert ring_of(mail("b", visited="user a b a"), "a") == ("b",)
    assert ring_of(mail("b", visited="user a b a c d"), "a") == ("b", "c", "d")


def test_two_rings_are_counted_apart_and_all_of_them_together() -> None:
    rounds, chain, stopped = Rounds("a", GuardPolicy()), "user", list[Guard]()
    for depth in range(1, 20):
        chain += " a" if depth % 2 else " a c"
        one = mail("b", visited=chain)
        verdict = rounds.judge(one, depth, 1000.0 + depth)
        if verdict is not None:
            stopped.append(verdict.guard)
            break
        rounds.note(Round(1000.0 + depth, "t", "b", depth, ring=ring_of(one, "a")))
        chain += " b"
    assert (depth, stopped) == (13, [Guard.RING])


def test_hops_and_what_lay_long() -> None:
    rounds = Rounds("a", GuardPolicy())
    assert rounds.judge(mail(hops=64), 0, 1000.0) is None
    verdict = rounds.judge(mail(hops=65), 0, 1000.0)
    assert verdict is not None
    assert verdict.guard is Guard.HOPS
    assert begins_anew(mail(hops=65), 1000.0 + DAY)
    assert not begins_anew(mail(hops=65), 1000.0 + 3600)


def test_off_is_off() -> None:
    rounds = Rounds("a", GuardPolicy(0, 0, 0, 0, 0, 0))
    for depth in range(1, 500):
        assert rounds.judge(mail(visited="a " * 60, hops=depth * 10), depth, 1000.0) is None
        rounds.note(Round(1000.0, f"t{depth}", "b", depth, double=True))


def verdict_of(rounds: Rounds, envelope: Envelope, depth: int, now: float) -> Verdict:
    found = rounds.judge(envelope, depth, now)
    assert found is not None
    return found


def noted(policy: GuardPolicy, *depths: int, **changes: object) -> Rounds:
    """Each claimed a second after the one before, from 1001 on."""
    rounds = Rounds("a", policy)
    for number, depth in enumerate(depths, start=1):
        rounds.note(msgspec.structs.replace(Round(1000.0 + number, "t", "b", depth), **changes))
    return rounds


def alone(**limits: float) -> GuardPolicy:
    """These, and no other."""
    return msgspec.structs.replace(GuardPolicy(pair_rounds=0, ring_rounds=0, new_threads=0, rounds_per_day=0), **limits)


@pytest.mark.parametrize(
    ("policy", "now", "said"),
    [
        ({"pair_rounds": 3}, 1004.0, Verdict(Guard.PAIR, "a and b have written 3 times in 3 seconds", "b")),
        ({"ring_rounds": 3}, 1061.0, Verdict(Guard.RING, "mail has come back here, now by b, 3 times in a minute", "")),
        (
            {"rounds_per_day": 3},
            1001.0 + 7200,
            Verdict(Guard.THREAD, "mail of one thread has come back 3 times in 2 hours", "t"),
        ),
        ({"pair_rounds": 3}, 1001.0 + 300, Verdict(Guard.PAIR, "a and b have written 3 times in 5 minutes", "b")),
    ],
)
def test_each_window_stops_at_its_limit_and_says_what_it_counted(
    policy: dict[str, int], now: float, said: Verdict
) -> None:
    rounds = noted(alone(**policy), 1, 2, 3)
    said = msgspec.structs.replace(said, why=f"{said.why} without a person")
    assert verdict_of(rounds, mail(), 4, now) == said
    # A round less, and one that was there before, do not.
    assert rounds.judge(mail(), 3, now) is None
    assert noted(alone(**policy), 1, 2, 2).judge(mail(), 4, now) is None
    assert rounds.judge(mail(), 0, now) is None


def test_a_sender_is_counted_over_its_threads_and_a_thread_over_its_senders() -> None:
    policy = alone(rounds_per_day=2)
    rounds = noted(policy, 1, 2, thread="other")
    assert verdict_of(rounds, mail(), 3, 1005.0) == Verdict(
        Guard.DAY, "a and b have written 2 times in 4 seconds without a person", "b"
    )
    assert rounds.judge(mail("c"), 3, 1005.0) is None
    renamed = noted(policy, 1, 2, sender="c")
    assert verdict_of(renamed, mail(), 3, 1005.0).guard is Guard.THREAD
    assert renamed.judge(mail(thread="other"), 3, 1005.0) is None


def test_a_ring_of_several_names_them() -> None:
    chain = "user a b c"
    rounds = noted(alone(pair_rounds=2), 1, 2, ring=("b", "c"))
    assert verdict_of(rounds, mail(visited=chain), 3, 1004.0).why == (
        "mail has gone round by a, b, c 2 times in 3 seconds without a person"
    )
    assert rounds.judge(mail(visited="user a b"), 3, 1004.0) is None


def test_what_says_the_same_again_counts_twice_and_never_less_later() -> None:
    rounds = noted(alone(pair_rounds=4), 1, 2, double=True)
    assert verdict_of(rounds, mail(), 3, 1003.0).guard is Guard.PAIR
    rounds.note(Round(1003.0, "t", "b", 2))
    assert verdict_of(rounds, mail(), 3, 1004.0).guard is Guard.PAIR
    assert noted(alone(pair_rounds=4), 1, 2, 3).judge(mail(), 4, 1004.0) is None
    assert noted(alone(pair_rounds=5), 1, 2, double=True).judge(mail(), 3, 1003.0) is None


def test_a_window_ends_with_the_second() -> None:
    rounds = noted(alone(pair_rounds=2, window=100.0), 1, 2)
    assert rounds.judge(mail(), 3, 1100.5) is not None
    assert rounds.judge(mail(), 3, 1101.0) is None


def test_hops_are_counted_up_to_the_last_that_is_allowed() -> None:
    rounds = Rounds("a", GuardPolicy(max_hops=5))
    assert rounds.judge(mail(hops=5), 0, 1000.0) is None
    assert verdict_of(rounds, mail(hops=6), 0, 1000.0) == Verdict(
        Guard.HOPS, "it has gone through 6 hands without a person", "b"
    )


def test_a_person_ends_what_was_counted_of_his_thread_and_of_no_other() -> None:
    policy = alone(rounds_per_day=2)
    for thread, stopped in (("t", False), ("other", True)):
        rounds = noted(policy, 1, 2)
        rounds.note(Round(1003.0, thread, "user", 0, person=True))
        found = rounds.judge(mail("c"), 3, 1004.0)
        assert (found is not None) is stopped
        assert ("t" in rounds.threads) is stopped


def test_answers_that_begin_threads_are_counted_to_their_limit() -> None:
    policy = alone(new_threads=2, window=100.0)
    rounds = Rounds("a", policy)
    for number, depth in enumerate((2, 0, 2)):
        rounds.note(Round(1000.0 + number, f"t{number}", "b", depth, answers=True))
    one = mail(thread="new")
    assert verdict_of(rounds, one, 2, 1010.0) == Verdict(
        Guard.FAN_OUT, "answers have begun 2 new threads in 10 seconds without a person", ""
    )
    # It answers what we have asked at once; its thread is known; the first is long ago.
    assert rounds.judge(one, 1, 1010.0) is None
    assert rounds.judge(msgspec.structs.replace(one, answers=False), 1, 1010.0) is not None
    assert rounds.judge(mail(thread="t0"), 2, 1010.0) is None
    assert rounds.judge(one, 2, 1100.0) is None
    fewer = Rounds("a", policy)
    fewer.note(Round(1000.0, "t0", "b", 2))
    fewer.note(Round(1000.0, "t0", "b", 2))
    assert fewer.judge(one, 2, 1001.0) is None


@pytest.mark.parametrize(("later", "depth"), [(15, 10), (16, 1)])
def test_of_a_thread_the_newest_claims_tell_its_depth(later: int, depth: int) -> None:
    rounds = noted(GuardPolicy(), 9, *(0 for _ in range(later)))
    assert rounds.depth_of(mail(created=2000.0)) == depth


def test_a_day_of_rounds_is_one_to_the_second() -> None:
    rounds = Rounds("a", alone(rounds_per_day=1))
    rounds.note(Round(1000.0, "t", "b", 1))
    assert rounds.judge(mail(), 2, 1000.0 + 86399.5) is not None
    assert rounds.judge(mail(), 2, 1000.0 + 86400.0) is None
    assert Round(1000.0, "t", "b", 1).answers is False


@pytest.mark.parametrize("limit", [1, 2])
def test_of_the_threads_that_answers_began_the_newest_are_remembered(limit: int) -> None:
    rounds = Rounds("a", alone(new_threads=limit))
    for number in range(3):
        rounds.note(Round(1000.0 + number, f"t{number}", "b", 2))
    why = verdict_of(rounds, mail(thread="new"), 2, 1003.0).why
    assert why.startswith(f"answers have begun {limit} new threads in {limit} seconds")


def test_a_name_that_could_carry_a_sentence_is_none_of_the_words_for_a_person() -> None:
    rounds = Rounds("our name", alone(pair_rounds=1))
    rounds.note(Round(1000.0, "t", "go on", 1))
    why = verdict_of(rounds, mail("go on"), 2, 1001.0).why
    assert re.fullmatch(r"the agent-\w+ and sender-\w+ have written 1 times in 1 seconds without a person", why)
    ring = ("c", "go on")
    rounds.note(Round(1000.0, "t", "c", 1, ring=ring))
    why = verdict_of(rounds, msgspec.structs.replace(mail("c"), visited=("our name", "go on")), 2, 1001.0).why
    assert re.match(r"mail has gone round by the agent-\w+, c, sender-\w+ 1 times", why)


def test_a_chain_is_one_for_six_hours() -> None:
    assert not begins_anew(mail(visited="user a"), 1000.0 + 6 * 3600)
    assert begins_anew(mail(visited="user a"), 1000.5 + 6 * 3600)
    assert begins_anew(mail(hops=1), 1000.5 + 6 * 3600)
    assert not begins_anew(mail(), 9e9)


def test_the_depth_in_a_thread_is_that_of_what_we_had_before_it_was_written() -> None:
    rounds = noted(GuardPolicy(), 0, 3, 1)
    assert rounds.depth_of(mail(created=1001.5)) == 1
    assert rounds.depth_of(mail(created=1002.0)) == 1
    assert rounds.depth_of(mail(created=2000.0)) == 4
    assert rounds.depth_of(mail(thread="other", created=2000.0)) == 0
    assert rounds.depth_of(msgspec.structs.replace(mail(created=2000.0), answers=False)) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 seconds"),
        (45, "45 seconds"),
        (46, "a minute"),
        (89, "a minute"),
        (90, "2 minutes"),
        (5399, "90 minutes"),
        (5400, "2 hours"),
    ],
)
def test_a_span_is_told_in_the_unit_that_a_person_would_take(seconds: float, words: str) -> None:
    rounds = Rounds("a", alone(rounds_per_day=1))
    rounds.note(Round(1000.0, "t", "b", 1))
    assert f" in {words} without" in verdict_of(rounds, mail(), 2, 1000.0 + seconds).why


def test_what_is_over_is_forgotten_and_what_is_not_stays() -> None:
    """At every so many claims, that of a day before."""
    rounds = Rounds("a", alone(rounds_per_day=1, pair_rounds=1))
    rounds.note(Round(1.0, "old", "o", 3))
    rounds.note(Round(DAY, "young", "y", 2))
    for _ in range(TIDIED_AFTER - 3):
        rounds.note(Round(DAY, "young", "y", 2))
    assert "old" in rounds.threads
    rounds.note(Round(DAY + 1, "last", "l", 4))
    assert [*rounds.threads] == ["young", "last"]
    assert [*rounds._senders] == [*map("".join, rounds._rings)] == ["y", "l"]
    assert [*rounds._by_thread] == ["young", "last"]
    assert [*rounds._all] == [2, 4]


@pytest.mark.parametrize(("thread", "guard"), [("t", Guard.THREAD), ("other", Guard.DAY), (None, Guard.PAIR)])
def test_a_loop_that_began_days_ago_and_runs_is_not_forgotten(thread: str | None, guard: Guard) -> None:
    """Whatever else is tidied away: it would have its whole allowance anew."""
    rounds = Rounds("a", alone(rounds_per_day=2) if thread else alone(pair_rounds=2))
    for at_moment, depth in ((1.0, 1), (DAY + 9, 2), (DAY + 9, 3)):
        rounds.note(Round(at_moment, "t", "b", depth))
    for _ in range(TIDIED_AFTER - 3):
        rounds.note(Round(DAY + 9, "elsewhere", "c", 1))
    assert verdict_of(rounds, mail(thread=thread or "t"), 4, DAY + 10).guard is guard


# Budgets.


def record(number: int, at: float, *, cost: float | None = None, killed: bool = False, thread: str = "t") -> TurnRecord:
    envelope = Envelope(f"m{number}", thread, "user", at, "o", "l")
    made = TurnRecord(f"turn{number}", envelope, Phase.RUNNING, "command", at, process=ProcessIdentity(1, 1, "b"))
    if cost is not None or killed:
        usage = Usage(100, 0, cost) if cost is not None else None
        outcome = Outcome.INTERRUPTED if killed else Outcome.DONE
        made.settlement = Settlement(outcome, "", at, 60.0, finished=True, usage=usage)
    return made


def over(ledger: Ledger, policy: BudgetPolicy, now: float) -> str:
    found = ledger.over(now, Envelope("new", "t", "user", now, "o", "l"), lambda key: getattr(policy, key), Spent())
    return found.key if found is not None else ""


def test_what_is_under_way_and_what_was_killed_counts() -> None:
    policy = BudgetPolicy(dollars_per_day=10)
    ledger = Ledger(policy)
    ledger.note(record(1, NOON, cost=4.0))
    assert over(ledger, policy, NOON) == ""
    ledger.note(record(2, NOON))
    assert over(ledger, policy, NOON) == "dollars_per_day", "4 taken, 4 under way, 4 for the next"
    ledger.note(record(2, NOON, killed=True))
    assert ledger.today(NOON).dollars == 8.0
    ledger.note(record(2, NOON, cost=1.0))
    assert ledger.today(NOON).dollars == 5.0
    ledger.note(record(2, NOON, cost=1.0))
    assert ledger.today(NOON).dollars == 5.0


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("unit", ["tokens", "dollars"])
def test_what_ended_badly_before_it_said_what_it_took_counts_as_what_was_kept_for_it(
    outcome: Outcome, unit: str
) -> None:
    ledger = Ledger(BudgetPolicy(dollars_per_day=10, tokens_per_day=1000))
    ledger.note(record(1, NOON, cost=4.0))
    ledger.note(record(2, NOON))
    ended = record(2, NOON, killed=True)
    assert ended.settlement is not None
    ended.settlement = msgspec.structs.replace(ended.settlement, outcome=outcome)
    ledger.note(ended)
    once = {"tokens": 100, "dollars": 4.0}[unit]
    assert getattr(ledger.today(NOON), unit) == (once if outcome.settles else 2 * once)


def test_what_a_turn_cannot_go_beyond_is_reserved() -> None:
    policy = BudgetPolicy(dollars_per_day=10, reserve=11)
    assert over(Ledger(policy), policy, NOON) == "dollars_per_day"
    policy = BudgetPolicy(dollars_per_day=10, reserve=6)
    ledger = Ledger(policy)
    assert over(ledger, policy, NOON) == ""
    ledger.note(record(1, NOON))
    assert over(ledger, policy, NOON) == "dollars_per_day"


def test_what_a_turn_may_go_beyond_is_a_guess_that_keeps_no_day_from_its_first_turn() -> None:
    policy = BudgetPolicy(tokens_per_day=10, reserve=6)
    ledger = Ledger(policy)
    ledger.note(record(1, NOON - 86400, cost=1.0))
    assert over(ledger, policy, NOON) == ""


def test_a_turn_counts_from_its_claim_on() -> None:
    policy = BudgetPolicy(turns_per_day=1)
    ledger = Ledger(policy)
    ledger.reserve(Envelope("m1", "t", "user", NOON, "o", "l"), NOON)
    claimed = record(1, NOON)
    claimed.phase, claimed.process = Phase.CLAIMED, None
    ledger.note(claimed)
    assert over(ledger, policy, NOON) == "turns_per_day"


def test_a_day_is_local_and_no_clock_that_goes_back_gives_another() -> None:
    policy = BudgetPolicy(turns_per_day=1)
    ledger = Ledger(policy)
    ledger.note(record(1, NOON, cost=1.0))
    assert over(ledger, policy, midnight(NOON, 1) - 1) == "turns_per_day"
    assert over(ledger, policy, NOON - 86400) == "turns_per_day", "set back over midnight"
    assert over(ledger, policy, midnight(NOON, 1)) == ""
    assert time.localtime(midnight(NOON)).tm_hour == 0


def first_over(policy: BudgetPolicy, *records: TurnRecord, others: Spent | None = None, **about: str) -> Over | None:
    ledger = Ledger(policy)
    for one in records:
        ledger.note(one)
    envelope = Envelope("new", about.get("thread", "t"), about.get("sender", "user"), NOON, "o", "l")
    return ledger.over(NOON, envelope, lambda key: getattr(policy, key), others or Spent())


def test_whose_limit_it_is_and_what_was_taken_is_said() -> None:
    two = (record(1, NOON, cost=1.0), record(2, NOON, cost=1.5))
    assert first_over(BudgetPolicy(turns_per_thread=2), *two) == Over(
        "turns_per_thread", "thread", "limits.turns_per_thread is 2 turns; 2 turns are taken by t"
    )
    assert first_over(BudgetPolicy(minutes_per_sender=2), *two) == Over(
        "minutes_per_sender", "sender", "limits.minutes_per_sender is 2 minutes; 2 minutes are taken for user"
    )
    assert first_over(BudgetPolicy(dollars_per_day=2.5), *two) == Over(
        "dollars_per_day", "day", "limits.dollars_per_day is $2.50; $2.50 are taken"
    )
    assert first_over(BudgetPolicy(turns_per_thread=1), two[0]) == Over(
        "turns_per_thread", "thread", "limits.turns_per_thread is 1 turn; 1 turn is taken by t"
    )
    assert first_over(BudgetPolicy(dollars_per_day=1), two[0]) == Over(
        "dollars_per_day", "day", "limits.dollars_per_day is $1.00; $1.00 are taken"
    )
    assert first_over(BudgetPolicy(dollars_per_day=0.00004), record(1, NOON, cost=0.0001)) == Over(
        "dollars_per_day", "day", "limits.dollars_per_day is <$0.0001; $0.0001 are taken"
    )
    assert first_over(BudgetPolicy(dollars_per_day=2.5, reserve=3.0)) == Over(
        "dollars_per_day", "day", "limits.dollars_per_day is $2.50; $0 are taken"
    )
    assert first_over(BudgetPolicy(turns_per_thread=2, turns_per_sender=3), *two, thread="other") is None
    assert first_over(BudgetPolicy(turns_per_sender=2), *two, sender="other") is None
    assert first_over(BudgetPolicy(turns_per_sender=2), *two, thread="other") is not None
    assert first_over(BudgetPolicy(tokens_per_thread=200), *two) is not None


def test_what_others_of_a_share_took_is_of_the_day_alone() -> None:
    theirs = Spent(3, 0.0, 0, 0.0)
    assert first_over(BudgetPolicy(turns_per_day=4), record(1, NOON, cost=1.0), others=theirs) == Over(
        "turns_per_day",
        "day",
        "limits.turns_per_day is 4 turns; 4 turns are taken, 3 turns of it by others of its share",
    )
    assert first_over(BudgetPolicy(turns_per_day=5), record(1, NOON, cost=1.0), others=theirs) is None
    assert first_over(BudgetPolicy(turns_per_thread=4), record(1, NOON, cost=1.0), others=theirs) is None


def test_the_largest_of_the_last_ten_is_reserved_but_for_a_days_first() -> None:
    policy = BudgetPolicy(dollars_per_day=100.0)
    costly = record(0, NOON - 86400, cost=60.0)
    assert first_over(policy, costly, record(1, NOON, cost=40.0)) is None
    assert first_over(policy, costly, record(1, NOON, cost=40.5)) is not None
    assert first_over(policy, record(0, NOON - 86400, cost=200.0)) is None
    nine = [record(number, NOON - 3600, cost=0.1) for number in range(1, 10)]
    assert first_over(policy, costly, *nine, record(10, NOON, cost=45.0)) is None
    assert first_over(policy, costly, *nine[1:], record(10, NOON, cost=45.0)) is not None


def test_what_a_turn_took_is_all_that_it_said() -> None:
    ledger = Ledger(BudgetPolicy(turns_per_day=1))
    said = record(1, NOON, cost=2.0)
    assert said.settlement is not None
    said.settlement = msgspec.structs.replace(said.settlement, usage=Usage(100, 11, 2.0), seconds=90.0)
    ledger.note(said)
    assert ledger.today(NOON) == Spent(1, 1.5, 111, 2.0)
    # One that said nothing and ended well has taken its time.
    silent = record(2, NOON, cost=2.0)
    assert silent.settlement is not None
    silent.settlement = msgspec.structs.replace(silent.settlement, usage=None)
    ledger.note(silent)
    assert ledger.today(NOON) == Spent(2, 2.5, 111, 2.0)
    # One that was killed under way counts with what was reserved for it.
    ledger.note(record(3, NOON))
    ledger.note(record(3, NOON, killed=True))
    assert ledger.today(NOON) == Spent(3, 3.5, 222, 4.0)


def test_what_is_reserved_is_given_back_where_nothing_ran() -> None:
    ledger = Ledger(BudgetPolicy(turns_per_day=9))
    envelope = Envelope("m1", "t", "user", NOON, "o", "l")
    ledger.reserve(envelope, NOON)
    assert ledger.today(NOON) == ledger.today(NOON, thread="t") == ledger.today(NOON, sender="user") == Spent(1)
    assert ledger.today(NOON, thread="x") == ledger.today(NOON, sender="x") == Spent()
    ledger.put_back(envelope)
    assert ledger.today(NOON) == Spent()
    ledger.reserve(envelope, NOON)
    # Claimed it counts once.
    ledger.note(record(1, NOON))
    assert ledger.today(NOON) == Spent(1)
    ledger.forget(record(1, NOON))
    assert ledger.today(NOON) == Spent()
    ledger.reserve(envelope, NOON)
    ledger.forget(record(1, NOON))
    assert ledger.today(NOON) == Spent()
    never = record(1, NOON, cost=1.0)
    never.process = None
    ledger.note(record(1, NOON))
    ledger.note(never)
    assert ledger.today(NOON) == Spent()


def test_a_day_is_from_midnight_and_the_one_before_is_forgotten() -> None:
    ledger = Ledger(BudgetPolicy(turns_per_day=9))
    for number, moment in enumerate((midnight(NOON), midnight(NOON) - 1, midnight(NOON, -1), midnight(NOON, -1) - 1)):
        ledger.note(record(number, moment, cost=1.0))
    assert ledger.today(NOON).turns == 1
    # A clock that was set back finds what it had.
    assert ledger.today(NOON - DAY).turns == 3
    assert ledger.today(NOON - 2 * DAY).turns == 3


def test_a_limit_is_raised_where_there_is_one() -> None:
    policy = BudgetPolicy(turns_per_day=5)
    assert limit_today(policy, "turns_per_day", None) == 5.0
    assert limit_today(policy, "turns_per_day", 7.0) == 7.0
    assert limit_today(policy, "turns_per_thread", 7.0) == 0.0
    assert policy.limits
    assert not BudgetPolicy(share="team", reserve=1.0).limits
    assert policy.names()[:5] == [*(f"{unit}_per_day" for unit in UNITS), "turns_per_thread"]


# Quiet.


@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        ("22:00-07:00", at(22), at(7, day=11)),
        ("22:00-07:00", at(6, 59), at(7)),
        ("22:00-07:00", at(7), None),
        ("22:00-24:00, 00:00-07:00", at(23), at(7, day=11)),
        ("12:00-13:00", at(12, 30), at(13)),
        ("", at(12), None),
    ],
)
def test_when_the_quiet_ends(hours: str, now: float, until: float | None) -> None:
    assert quiet_until(parse_hours(hours), now) == until


def test_each_want_of_the_machine(tmp_path: Path) -> None:
    for policy, word in (
        (CalmPolicy(max_load=1e-9), "load"),
        (CalmPolicy(min_memory=2**60), "memory"),
        (CalmPolicy(min_disk=2**60), "disk"),
    ):
        pause = wanted_pause(policy, tmp_path, at(12))
        if word == "load" and pause is None:
            continue  # a machine that does nothing at all
        assert pause is not None
        assert (pause.reason, word in pause.detail, pause.until) == (PauseReason.MACHINE, True, at(12) + 60)
    assert wanted_pause(CalmPolicy(max_load=1e6, min_memory=1, min_disk=1), tmp_path, at(12)) is None


def test_hours_are_minutes_of_the_day() -> None:
    assert parse_hours(" 22:05-07:30,12:00-24:00 ,") == ((22 * 60 + 5, 7 * 60 + 30), (12 * 60, 24 * 60))
    assert parse_hours("00:01-24:00") == ((1, 1440),)
    for text, words in (
        ("7-8", "'7-8' is no time of day: give it as 22:00-07:00"),
        ("22:00-22:00", "'22:00-22:00' has no end"),
        ("00:00-12:00, 12:00-24:00", "no minute of the day is left for work"),
        ("24:00-07:00", "'24:00-07:00' is no time of day: give it as 22:00-07:00"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            parse_hours(text)


@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        ("22:00-07:30", at(21, 59), None),
        ("22:00-07:30", at(7, 29), at(7, 30)),
        ("08:00-09:00, 09:00-10:15, 12:00-13:00", at(8), at(10, 15)),
        ("08:00-09:00, 09:00-10:15", at(8) + 59, at(10, 15)),
        ("23:00-24:00", at(23, 30), at(0, day=11)),
        ("00:00-01:00", at(0), at(1)),
    ],
)
def test_a_quiet_hour_has_all_its_minutes_and_no_other(hours: str, now: float, until: float | None) -> None:
    assert quiet_until(parse_hours(hours), now) == until


def test_the_pause_of_quiet_hours_names_its_key_and_goes_before_the_machine(tmp_path: Path) -> None:
    policy = CalmPolicy(parse_hours("22:00-07:00"), min_disk=2**60)
    assert wanted_pause(policy, tmp_path, at(23)) == Pause(
        PauseReason.QUIET_HOURS, at(23), at(7, day=11), "guards.quiet_hours"
    )
    busy = wanted_pause(policy, tmp_path, at(12))
    assert busy is not None
    assert (busy.reason, busy.since, busy.until) == (PauseReason.MACHINE, at(12), at(12) + 60)


def test_what_the_machine_lacks_is_told_in_units_for_people(tmp_path: Path) -> None:
    said = {
        key: pause.detail
        for key in ("min_disk", "min_memory")
        if (pause := wanted_pause(msgspec.structs.replace(CalmPolicy(), **{key: 2**50}), tmp_path, at(12))) is not None
    }
    for key, what in (("min_disk", "disk"), ("min_memory", "memory")):
        assert re.fullmatch(rf"[0-9.]+[GM] of {what} are free \(guards\.{key} 1048576\.0G\)", said[key])
    free = os.statvfs(tmp_path)
    assert abs(_bytes(said["min_disk"]) - free.f_bavail * free.f_frsize) < 2**30
    assert wanted_pause(CalmPolicy(), tmp_path, at(12)) is None
    # What is not there cannot be told.
    assert wanted_pause(CalmPolicy(min_disk=2**60), tmp_path / "none", at(12)) is None


def _bytes(words: str) -> float:
    number, unit = re.match(r"([0-9.]+)([GM])", words).groups()  # type: ignore[union-attr]
    return float(number) * {"G": 2**30, "M": 2**20}[unit]


# Silence.


def test_what_is_silence() -> None:
    assert listen(BOTH, [], 0.0, None, 1000.0, 0.0) == Heard()
    assert listen(BOTH, [960.0], 0.0, None, 1000.0, 0.0) == Heard((), 1010.0)
    assert listen(BOTH, [900.0], 0.0, None, 1000.0, 0.0).silent == (
        (Silence.MAIL_WAITS, 900.0),
        (Silence.NO_TURN, 900.0),
    )
    assert listen(BOTH, [999.0, 900.0, 998.0], 990.0, None, 1000.0, 0.0).silent == ((Silence.MAIL_WAITS, 900.0),)
    assert listen(BOTH, [900.0], 990.0, None, 1000.0, 0.0).silent == ((Silence.MAIL_WAITS, 900.0),)
    assert listen(BOTH, [960.0], 500.0, None, 1000.0, 0.0) == Heard((), 1010.0), "no mail has waited since that turn"
    assert listen(BOTH, [9e9], 0.0, None, 1000.0, 0.0) == Heard((), 1050.0), "a sender's clock that is ahead"
    assert listen(BOTH, [0.0], 0.0, None, 1000.0, 990.0) == Heard((), 1040.0)
    assert listen(AlarmPolicy(), [0.0], 0.0, None, 1000.0, 0.0) == Heard()
    assert tuple(Silence) == AlarmPolicy.__struct_fields__, "each is told by the name of its limit"


def test_what_somebody_wanted_is_none() -> None:
    for reason in PauseReason:
        heard = listen(BOTH, [0.0], 0.0, Pause(reason, 0.0), 1000.0, 0.0)
        assert (heard == Heard()) == (reason in (PauseReason.BY_HAND, PauseReason.QUIET_HOURS))
