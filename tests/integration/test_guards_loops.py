"""Agents that always answer each other are stopped, and the operator is asked once; who works is not touched."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
from tests.amq_tree import write
from tests.broker_desk import running_broker
from tests.clocks import FakeClock
from tests.desk import until
from tests.guard_desk import ANSWERS, REPEATS, Company, forwards, nothing_is_lost, stages, writes_anew
from tests.integration.test_amp_watch import AmpDesk
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.clock import iso
from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.layout import make_root
from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.held import Guard
from agent_mailer.state.records import PauseReason
from agent_mailer.watch.guards.rounds import (
    DAY,
    REMEMBERED,
    TIDIED_AFTER,
    GuardPolicy,
    Round,
    Rounds,
)


def stopped(company: Company, *guards: Guard, killed: bool = False) -> None:
    """One message, by one of these; one question; nothing is lost, and another thread goes on.

    `killed`: where the watcher was while the operator's command ran, the same question is put to it again.
    """
    assert [entry.guard for entry in company.all_held() if entry.guard not in guards] == []
    assert len(company.all_held()) == 1
    asked = company.questions()
    assert len(set(asked) if killed else asked) == 1
    nothing_is_lost(company)
    first = company.names[0]
    before = company.turns(first)
    mine = company.send(first, "mine", key="mine")
    company.work()
    assert mine in company.place(first).state.processed
    assert company.turns(first) > before
    nothing_is_lost(company)


def turns(company: Company) -> int:
    return sum(map(company.turns, company.names))


def test_two_that_always_answer(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": ANSWERS, "reviewer": ANSWERS})
    company.send("coder", "loop", sender="reviewer")
    company.work()
    assert 16 <= turns(company) <= 18
    [question] = company.questions()
    assert "coder and reviewer have written 8 times in" in question or "reviewer and coder have written 8" in question
    stopped(company, Guard.PAIR)


@LONG
def test_the_same_text_again_counts_double(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": REPEATS, "reviewer": REPEATS})
    company.send("coder", "loop", sender="reviewer")
    company.work()
    assert 8 <= turns(company) <= 12
    stopped(company, Guard.PAIR)


@LONG
def test_empty_answers_count_double(tmp_path: Path) -> None:
    empty = stages("reply", body=" ")
    company = Company(tmp_path, {"coder": empty, "reviewer": empty})
    company.send("coder", "loop", sender="reviewer")
    company.work()
    assert 8 <= turns(company) <= 12
    assert all(r.counted is not None and r.counted.double for r in company.records("reviewer"))
    stopped(company, Guard.PAIR)


def test_a_chain_that_is_forged_downwards_is_bounded_by_the_turns_of_an_hour(tmp_path: Path) -> None:
    """Who writes files into the mailbox by hand may say what he likes of hops and chain."""
    company = Company(
        tmp_path, {"coder": "cat >/dev/null; echo done"}, guards={"turns_per_hour": 12}, auto_reply="never"
    )
    for number in range(20):
        forged = {"agent_mailer": {"hops": 0, "visited": ["user"]}}
        write(company.root, "coder", "reviewer", f"word {number}", thread="loop", refs=["x"], context=forged)
    company.work()
    assert (company.turns("coder"), company.all_held()) == (12, [])
    pause = company.place("coder").state.pause.read()
    assert pause is not None
    assert pause.reason is PauseReason.TOO_MANY_TURNS


@LONG
def test_answers_in_new_threads(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": writes_anew("reviewer"), "reviewer": writes_anew("coder")})
    company.send("coder", "loop", sender="reviewer")
    company.work()
    assert 16 <= turns(company) <= 18
    assert len({entry.envelope.thread for entry in company.all_held() if entry.envelope}) == 1


@LONG
@pytest.mark.parametrize("number", [3, 5])
def test_mail_that_goes_round_in_a_circle(tmp_path: Path, number: int) -> None:
    names = [f"a{n}" for n in range(number)]
    company = Company(tmp_path, {name: forwards(names[(n + 1) % number]) for n, name in enumerate(names)})
    company.send("a0", "loop")
    company.work()
    [entry] = company.all_held()
    assert entry.guard in (Guard.PAIR, Guard.HOPS)
    assert turns(company) <= 9 * number
    assert len(company.questions()) == 1
    nothing_is_lost(company)


@LONG
def test_a_second_address_does_not_help(tmp_path: Path) -> None:
    """`coder` writes to the second address of `reviewer`, and that one to the second of `coder`."""
    company = Company(
        tmp_path,
        {
            "coder": forwards("reviewer2"),
            "reviewer2": forwards("coder2"),
            "coder2": forwards("reviewer"),
            "reviewer": forwards("coder"),
        },
    )
    company.send("coder", "loop")
    company.work()
    assert turns(company) <= 9 * 4
    assert len(company.all_held()) == len(company.questions()) == 1


@LONG
def test_a_restart_gives_no_fresh_allowance(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": ANSWERS, "reviewer": ANSWERS})
    company.send("coder", "loop", sender="reviewer")
    company.work(lives=6)
    assert 16 <= turns(company) <= 18
    stopped(company, Guard.PAIR)


@LONG
def test_dates_of_long_ago_do_not_make_it_begin_anew(tmp_path: Path) -> None:
    script = ANSWERS.replace("$(date +%s)", "1700000000")
    company = Company(tmp_path, {"coder": script, "reviewer": script})
    company.send("coder", "loop", sender="reviewer")
    company.work(most=20.0)
    assert 16 <= turns(company) <= 18
    stopped(company, Guard.PAIR)


@LONG
def test_go_on_gives_as_many_again_and_stop_ends_it(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": ANSWERS, "reviewer": ANSWERS})
    company.send("coder", "loop", sender="reviewer")
    company.work()
    done = turns(company)
    [entry] = company.all_held()
    whose = next(name for name in company.names if company.held(name))
    assert type_in(tmp_path / whose, "held", "release", entry.message_id).status == 0
    company.work()
    assert turns(company) >= done + 14
    assert len(company.questions()) == 2
    [entry] = company.all_held()
    whose = next(name for name in company.names if company.held(name))
    assert type_in(tmp_path / whose, "held", "drop", entry.message_id).status == 0
    done = turns(company)
    company.work()
    assert (turns(company), company.all_held()) == (done, [])


@LONG
def test_a_person_in_between_is_a_new_beginning(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": ANSWERS}, guards={"pair_rounds": 1, "ring_rounds": 1})
    for number in range(6):
        company.send("coder", "t", key=f"k{number}")
    company.work()
    assert (company.turns("coder"), company.all_held()) == (6, [])


@LONG
def test_who_asks_another_for_a_person_each_time_is_no_loop(tmp_path: Path) -> None:
    """Of a program that carries no chain, in the one thread that the two have."""
    draft = '{"key":"k","action":"send","created":%s,"to":["%s"],"body":"%s"}'
    asks = f"""cat >/dev/null; cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
case $AGENT_MAILER_FROM in user) to=bob;; *) to=user;; esac
printf '{draft}' "$(date +%s)" $to "$AGENT_MAILER_TURN_ID" >k.json; printf '{{"kind":"done"}}' >finish
"""
    company, clock = Company(tmp_path, {"coder": asks}, guards={"pair_rounds": 2}), FakeClock()
    make_root(Disk(), company.root, ["bob"])

    def bob_writes(body: str) -> None:
        clock.moment += 10
        write(company.root, "coder", "bob", body, thread="p2p/bob__coder", refs=["x"], created=iso(clock.now()))
        clock.moment += 1
        company.once("coder", clock)

    for number in range(5):
        company.send("coder", f"job {number}", key=f"k{number}")
        clock.moment += 1
        company.once("coder", clock)
        bob_writes(f"answer {number}")
    assert (company.turns("coder"), company.all_held()) == (10, [])
    for number in range(5):
        bob_writes(f"and {number}?")
    assert {entry.guard for entry in company.all_held()} == {Guard.PAIR}, "without a person it is one"


@LONG
def test_one_that_asks_many_gets_many_answers(tmp_path: Path) -> None:
    """Forty answers to forty questions of one turn are one round, and begin no threads."""
    draft = '{"key":"k%s","action":"send","created":%s,"to":["coder"],"thread":"q%s","body":"%s"}'
    asks = f"""cat >/dev/null; echo ok; [ -e ../asked ] && exit 0; touch ../asked; cd $AGENT_MAILER_TURN_DIR/outbox
for n in $(seq 40); do printf '{draft}' $n $(date +%s) $n $n >k$n.json; done
"""
    company = Company(tmp_path, {"planner": asks, "coder": ANSWERS}, max_parallel_turns=4, auto_reply="never")
    company.send("planner")
    company.work()
    assert (company.turns("coder"), company.turns("planner"), company.all_held()) == (40, 41, [])


@LONG
def test_answers_that_begin_ever_more_threads_are_stopped(tmp_path: Path) -> None:
    company = Company(
        tmp_path, {"coder": writes_anew("reviewer"), "reviewer": writes_anew("coder")}, guards={"new_threads": 3}
    )
    company.send("coder", "loop", sender="reviewer")
    company.work()
    assert [entry.guard for entry in company.all_held()] == [Guard.FAN_OUT]


@LONG
def test_so_many_turns_an_hour_and_the_rest_waits(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": "cat >/dev/null; echo done"}, guards={"turns_per_hour": 3})
    for number in range(5):
        company.send("coder", f"t{number}", key=f"k{number}")
    company.work(lives=2)
    assert company.turns("coder") == 3
    pause = company.place("coder").state.pause.read()
    assert pause is not None
    assert pause.reason is PauseReason.TOO_MANY_TURNS
    assert pause.until == pytest.approx(pause.since + 3600, abs=60)
    assert company.all_held() == []
    seen = type_in(tmp_path / "coder", "status")
    assert "3 turns within an hour (guards.turns_per_hour" in seen.out
    assert type_in(tmp_path / "coder", "resume").status == 0
    company.work()
    assert company.turns("coder") == 3, "a request that an agent can write lifts nothing"


def test_beyond_the_turns_of_an_hour_what_a_person_let_go_does_not_wait(tmp_path: Path) -> None:
    company = Company(
        tmp_path, {"coder": "cat >/dev/null; echo done"}, deny_from=["planner"], guards={"turns_per_hour": 2}
    )
    first, second = (company.send("coder", f"h{n}", sender="planner", key=f"h{n}") for n in range(2))
    for number in range(3):
        company.send("coder", f"t{number}", key=f"k{number}")
    clock = FakeClock()
    company.once("coder", clock)
    pause = company.place("coder").state.pause.read()
    assert (company.turns("coder"), pause and pause.reason) == (2, PauseReason.TOO_MANY_TURNS)
    for number, released in enumerate((first, second), 3):
        assert type_in(tmp_path / "coder", "held", "release", released).status == 0
        company.once("coder", clock)
        assert (company.turns("coder"), released in company.place("coder").state.processed) == (number, True)
    assert company.place("coder").state.pause.read() == pause
    clock.moment += 3601
    company.once("coder", clock)
    assert company.turns("coder") == 5


ROLES = """cat >/dev/null; echo ok; cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
count() { n=$(cat "$AGENT_MAILER_WORKDIR/n" 2>/dev/null || echo 0); echo $((n + 1)) >"$AGENT_MAILER_WORKDIR/n"; }
write() { printf '{"key":"k","action":"%s","created":%s,"to":["%s"],"body":"%s"}' $1 $(date +%s) $2 "$3" >k.json; }
count
case $(basename "$AGENT_MAILER_WORKDIR") in
planner) if [ "$n" = 0 ]; then write forward coder "build it"; else write send user "it is built"; fi ;;
coder) write forward reviewer "change $n" ;;
reviewer) if [ "$n" -lt 5 ]; then write forward coder "not yet: $n"; else write forward runner "run it"; fi ;;
runner) write forward planner "it runs: $n" ;;
esac
printf '{"kind":"done"}' >finish
"""


@LONG
def test_four_roles_that_are_sent_back_five_times_finish(tmp_path: Path) -> None:
    company = Company(tmp_path, dict.fromkeys(("planner", "coder", "reviewer", "runner"), ROLES), auto_reply="never")
    company.send("planner", "work")
    company.work()
    assert [message.body.strip() for message in company.inbox()] == ["it is built"]
    assert [company.turns(name) for name in company.names] == [2, 6, 6, 1]
    assert (company.all_held(), company.questions()) == ([], [])


TWO_JUDGES = ROLES.replace('write forward runner "run it"', 'write forward runner "run it: $n"').replace(
    'runner) write forward planner "it runs: $n" ;;',
    'runner) if [ "$n" -lt 5 ]; then write forward coder "it fails: $n"; else write forward planner "it runs"; fi ;;',
)


@LONG
def test_two_quick_judges_that_each_send_back_five_times_are_not_a_loop(tmp_path: Path) -> None:
    """The first has what the coder mends for either of them, ten times."""
    company = Company(
        tmp_path, dict.fromkeys(("planner", "coder", "reviewer", "runner"), TWO_JUDGES), auto_reply="never"
    )
    company.send("planner", "work")
    company.work()
    assert [message.body.strip() for message in company.inbox()] == ["it is built"]
    assert [company.turns(name) for name in company.names] == [2, 11, 11, 6]
    assert (company.all_held(), company.questions()) == ([], [])


@LONG
def test_one_round_a_night_is_no_loop(tmp_path: Path) -> None:
    script = ANSWERS.replace("$(date +%s)", f"$(cat {tmp_path}/now)")
    company = Company(tmp_path, {"coder": script, "reviewer": script})
    clock = FakeClock()
    (tmp_path / "now").write_text(str(int(clock.now())))
    company.send("coder", "loop", sender="reviewer")
    for _ in range(60):
        for name in company.names:
            company.once(name, clock)
        clock.moment += DAY
        (tmp_path / "now").write_text(str(int(clock.now())))
    assert (company.all_held(), company.questions()) == ([], [])
    assert len(company.place("coder").state.processed) == 60


def _come_as_far(company: Company, number: int) -> bool:
    return turns(company) >= number or bool(company.all_held())


@LONG
def test_killed_again_and_again_they_are_stopped_all_the_same(tmp_path: Path) -> None:
    company = Company(tmp_path, {"coder": ANSWERS, "reviewer": ANSWERS}, max_retries=100, max_starts=1000)
    company.send("coder", "loop", sender="reviewer")
    lot = random.Random(7)

    def some_more() -> None:
        until(partial(_come_as_far, company, turns(company) + lot.randint(1, 3)), "some more turns, or the end")

    kills = company.kill_until(company.all_held, some_more, lot)
    company.work()
    assert kills > 2
    rounds = sum(len({record.envelope.id for record in company.records(name)}) for name in company.names)
    assert rounds <= 18
    assert turns(company) <= rounds + 2 * kills
    stopped(company, Guard.PAIR, killed=True)


# The windows themselves


def mail(sender: str = "b", thread: str = "t", created: float = 1000.0, visited: str = "", hops: int = 0) -> Envelope:
    return Envelope("m", thread, sender, created, "o", "l", visited=tuple(visited.split()), hops=hops, answers=True)


@LONG
def test_a_thread_of_a_hundred_thousand_costs_no_memory() -> None:
    """Persons' mail, robots' mail, and rounds with the guards off."""
    rounds, off = Rounds("a", GuardPolicy()), Rounds("a", GuardPolicy(0, 0, 0, 0, 0, 0))
    for number in range(100_000):
        rounds.note(Round(float(number), "t", "b", 0, person=number % 3 == 0))
        off.note(Round(float(number), "t", "b", number))
    assert sum(map(len, rounds.threads.values())) <= REMEMBERED
    assert rounds.judge(mail(created=100_000.0, visited="user a"), 1, 100_000.0) is None
    assert off.judge(mail(created=100_000.0), 100_000, 100_000.0) is None
    assert len(off._all) <= DAY + TIDIED_AFTER


def test_names_without_number_cost_no_memory() -> None:
    rounds = Rounds("a", GuardPolicy())
    for number in range(20_000):
        rounds.note(Round(number * 60.0, f"t{number}", f"b{number}", 1))
    assert len(rounds.threads) < 10_000


@LONG
@pytest.mark.parametrize("script", [ANSWERS, "anew"])
def test_at_a_broker(tmp_path: Path, script: str) -> None:
    """`coder` and its planner answer each other; at our broker the chain travels with the mail."""
    with running_broker(tmp_path) as broker:
        person = broker.person("someone")
        desks = [AmpDesk(tmp_path / name, broker, person) for name in ("one", "two")]
        for desk, other in zip(desks, reversed(desks), strict=True):
            wanted = script if script == ANSWERS else writes_anew(other.coder["address"])
            desk.configure(command=["/bin/sh", "-c", wanted])
        ends = [desk.coder for desk in desks]
        broker.send(person, ends[1], ends[0]["address"], subject="s", body="begin")
        with desks[0].watching(), desks[1].watching():
            until(lambda: sum(len(desk.place().state.held.waiting) for desk in desks), "the hold", 120)
        [entry] = [entry for desk in desks for entry in desk.place().state.held.all()]
        assert entry.guard is Guard.PAIR
        assert sum(len(desk.place().state.turns.ids()) for desk in desks) <= 18
