"""Each bound of the guards by itself: patterns, windows, limits."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope, Kind
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.runtimes.port import Usage
from agent_mailer.state import State
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Guard
from agent_mailer.state.records import Phase, Settlement, TurnRecord
from agent_mailer.state.workdirs import user_state
from agent_mailer.watch.guards.budgets import (
    UNITS,
    WHOSE,
    BudgetPolicy,
    Ledger,
    Shared,
    Spent,
    midnight,
    of_the_day,
    shared_of,
)
from agent_mailer.watch.guards.calm import CalmPolicy, parse_hours, quiet_until, wanted_pause
from agent_mailer.watch.guards.rounds import GuardPolicy, Round, Rounds, ring_of
from agent_mailer.watch.guards.who import WhoPolicy, bad_pattern, is_pattern

NOON = datetime(2026, 6, 10, 12).astimezone().timestamp()


def mail(
    sender: str, *, kind: Kind | None = None, reply_to: str = "", thread: str = "t", visited: str = ""
) -> Envelope:
    chain = tuple(visited.split())
    return Envelope("m", thread, sender, NOON, "o", "l", kind=kind, reply_to=reply_to, visited=chain, answers=True)


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("boss@acme.example", ["boss@acme.example", "BOSS@Acme.example"], ["boss@evil.example", "xboss@acme.example"]),
        ("boss", ["boss", "boss@here.example"], ["boss@evil.example", "bossy"]),
        ("@acme.example", ["a@acme.example", "b.c@ACME.example"], ["a@acme.example.evil", "acme.example"]),
        ("build-*", ["build-1", "Build-x"], ["rebuild-1"]),
        ("*@*.acme.example", ["a@x.acme.example"], ["a@acme.example"]),
        ("*", ["anybody", "a@b.c"], []),
        # A name is that of a neighbour, whatever else has an @.
        ("boss@here.example", ["boss@here.example"], ["boss@here.example@here.example", "boss"]),
        ("a", ["a@here.example"], ["a@b@here.example", "a@b"]),
        ("a@b", ["a@b"], ["a@b@here.example", "a@here.example"]),
    ],
)
def test_a_pattern_fits_whom_it_names(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    allow, deny = (
        WhoPolicy(allow=(pattern,), address="coder@here.example"),
        WhoPolicy(deny=(pattern,), address="coder@here.example"),
    )
    for sender in fits:
        assert (allow.why_held(mail(sender)), deny.why_held(mail(sender)) != "") == ("", True), sender
    for sender in fits_not:
        assert (allow.why_held(mail(sender)) != "", deny.why_held(mail(sender))) == (True, ""), sender


def test_who_is_denied_only_by_what_stands_for_many_is_worked_on_where_he_is_a_person() -> None:
    many, his = ("b?ss", "[b]oss", "*", "kind:question"), ("boss", "BOSS")
    for pattern in (*many, *his):
        who = WhoPolicy(deny=(pattern,), people=("boss",), address="coder")
        asked = msgspec.structs.replace(mail("boss"), kind=Kind.QUESTION)
        assert bool(who.why_held(asked)) is (pattern in his), pattern
    for pattern in ("@here.example", "boss@here.example"):
        who = WhoPolicy(deny=(pattern,), people=("boss@here.example",), address="coder@here.example")
        assert bool(who.why_held(mail("boss@here.example"))) is (pattern[0] != "@"), pattern
    assert WhoPolicy(allow=("boss",), address="coder").why_held(mail("boss@coder")) != "", "there is no domain here"


def test_no_agent_and_no_hook_is_a_person_whatever_the_pattern_and_a_person_is_always_heard() -> None:
    everybody = WhoPolicy(people=("*",), address="coder", agents=frozenset({"tester"}))
    known = {"": False, "coder": False, "tester": False, "hook--github": False, "ann": True}
    assert {name: everybody.is_person(name) for name in known} == known
    own = {"": False, "coder": False, "tester": False, "Hook--github": False, "planner": True}
    assert {name: everybody.may_answer_own(name, vouched=True) for name in own} == own
    assert WhoPolicy(allow=("planner",), people=("ann",), address="coder").why_held(mail("ann")) == ""


def test_where_answers_are_to_go_has_to_be_allowed_too() -> None:
    why = WhoPolicy(allow=("boss",), address="coder").why_held(mail("boss", reply_to="boss@other:project"))
    assert why == "allow_from has its sender, but not the place where its answers are to go"


def test_a_long_pattern_is_shown_within_sixty_characters() -> None:
    assert WhoPolicy(deny=("*" * 200,)).why_held(mail("x")) == f"deny_from has {'*' * 59}…"


@pytest.mark.parametrize("pattern", ["b*", "b?", "[b]", "@acme.example", "kind:question", "KIND:x"])
def test_what_stands_for_several_senders_is_a_pattern(pattern: str) -> None:
    assert is_pattern(pattern)


@pytest.mark.parametrize("address", ["boss", "boss@acme.example", "X", "kind"])
def test_one_address_is_no_pattern(address: str) -> None:
    assert not is_pattern(address)


def test_what_fits_nothing_is_told() -> None:
    for bad in ("", "[boss]", "[a, b]", "a b", "a,b", '"a"', "a'", "a\x07", "a\tb"):
        assert bad_pattern(["boss", bad]) == f"{bad!r} is no address: nothing fits it"
    kinds = ", ".join(Kind)
    assert bad_pattern(["kind:nothing"]) == f"'kind:nothing' names no kind of mail: kind: and one of {kinds}"
    sound = ("boss", "*", "[ab]?", "[ab]c[d]", "b]", "@x", "X", "kind:question", "KIND:Question", "boss@acme.example")
    assert bad_pattern(sound) == ""


def test_why_it_is_held_shows_the_pattern_as_it_was_written() -> None:
    for pattern in ("*", "build-*", "@acme.example", "[ab]?", "KIND:question"):
        denied = WhoPolicy(deny=(pattern,), address="coder@here.example")
        one = mail("build-a@acme.example", kind=Kind.QUESTION)
        assert denied.why_held(one) in (f"deny_from has {pattern}", ""), pattern
    assert WhoPolicy(deny=("*",)).why_held(mail("x")) == "deny_from has *"


def test_a_kind_and_a_way_back_elsewhere_count() -> None:
    questions = WhoPolicy(allow=("kind:question",), address="coder")
    assert questions.why_held(mail("x", kind=Kind.QUESTION)) == ""
    assert questions.why_held(mail("x", kind=Kind.STATUS)) != ""
    assert questions.why_held(mail("x")) != ""
    named = WhoPolicy(allow=("boss",), address="coder")
    assert "has its sender, but not the place" in named.why_held(mail("boss", reply_to="boss@other:project"))
    assert WhoPolicy(deny=("*@other*",), address="coder").why_held(mail("boss", reply_to="boss@other:project")) != ""


@pytest.mark.parametrize(("back", "held"), [("", False), ("coder@web", True), ("infra:coder", True)])
def test_a_namesake_elsewhere_is_not_the_agent_itself(back: str, held: bool) -> None:
    only = WhoPolicy(allow=("boss",), address="coder")
    assert (only.why_held(mail("coder", reply_to=back)) != "") is held


def test_of_a_day_no_more_than_so_many_rounds_of_a_thread_or_an_agent() -> None:
    """Slow enough for the window of ten minutes, and so no loop to it."""
    for same_thread, wanted in ((True, Guard.THREAD), (False, Guard.DAY)):
        rounds = Rounds("a", GuardPolicy(rounds_per_day=20))
        for depth in range(1, 30):
            now = NOON + depth * 900
            one = mail(
                "b" if not same_thread else f"b{depth}",
                thread="t" if same_thread else f"t{depth}",
                visited="a " * depth,
            )
            verdict = rounds.judge(one, depth, now)
            if verdict is not None:
                break
            rounds.note(Round(now, one.thread, one.sender, depth, ring=ring_of(one, "a")))
        assert verdict is not None
        assert (depth, verdict.guard) == (21, wanted)


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Berlin", "2026-03-28T00:00"),
        ("Europe/Berlin", "2026-10-24T00:00"),
        ("America/New_York", "2026-03-07T00:00"),
        ("Australia/Lord_Howe", "2026-10-03T00:00"),  # by half an hour
        ("Africa/Cairo", "2026-04-23T00:00"),  # over midnight
        ("Pacific/Apia", "2011-12-29T00:00"),  # a whole day
    ],
)
def test_a_clock_that_is_put_forward_or_back_leaves_quiet_hours_and_days_whole(
    stand_in: Callable[[str], None], zone: str, start: str
) -> None:
    stand_in(zone)
    first = datetime.fromisoformat(start).timestamp()
    for hours in ("01:30-02:30", "22:00-02:30", "23:00-00:15", "23:30-00:00"):
        [(begin, end)] = windows = parse_hours(hours)
        for moment in range(int(first), int(first) + 2 * 86400, 600):
            here = datetime.fromtimestamp(moment).astimezone()
            minute = here.hour * 60 + here.minute
            inside = begin <= minute < end if begin < end else minute >= begin or minute < end
            until = quiet_until(windows, moment)
            assert (until is not None) == inside, (hours, here)
            assert until is None or moment < until <= moment + 6 * 3600, (hours, here)
            assert midnight(moment) <= moment < midnight(moment, 1), here


def test_who_renames_itself_each_time_is_stopped_all_the_same() -> None:
    rounds = Rounds("a", GuardPolicy())
    for depth in range(1, 30):
        one = mail(f"name{depth}", thread=f"t{depth}", visited="a " * depth)
        verdict = rounds.judge(one, depth, NOON + depth)
        if verdict is not None:
            break
        rounds.note(Round(NOON + depth, one.thread, one.sender, depth, ring=ring_of(one, "a")))
    assert verdict is not None
    assert (depth, verdict.guard, verdict.about) == (13, Guard.RING, "")


def test_answers_to_what_was_asked_at_once_begin_no_threads_and_what_comes_of_them_does() -> None:
    for depth, answers, stopped in ((1, True, 0), (1, False, 30), (2, True, 30)):
        rounds, found = Rounds("a", GuardPolicy()), list[Guard]()
        for number in range(60):
            one = msgspec.structs.replace(mail("b", thread=f"q{number}", visited="a b " * depth), answers=answers)
            verdict = rounds.judge(one, depth, NOON + number)
            if verdict is not None:
                found.append(verdict.guard)
                continue
            rounds.note(Round(NOON + number, one.thread, "b", depth, ring=ring_of(one, "a"), answers=answers))
        assert found == [Guard.FAN_OUT] * stopped, (depth, answers)


@pytest.mark.parametrize("key", BudgetPolicy().names())
def test_each_limit_counts_its_unit_of_its_owner(key: str) -> None:
    unit, _, whose = key.partition("_per_")
    assert (unit in UNITS, whose in WHOSE) == (True, True)
    policy = msgspec.structs.replace(BudgetPolicy(), **{key: 3.0})
    ledger, own = Ledger(policy), mail("x", thread="mine")

    def over() -> str:
        found = ledger.over(NOON, own, lambda name: getattr(policy, name), Spent())
        return found.key if found is not None else ""

    for number in range(6):
        # Another's counts against the day alone.
        thread, sender = ("mine", "x") if number % 2 == 0 else ("other", "y")
        envelope = Envelope(f"m{number}", thread, sender, NOON, "o", "l")
        record = TurnRecord(
            f"turn{number}", envelope, Phase.SETTLING, "command", NOON, process=ProcessIdentity(1, 1, "b")
        )
        record.settlement = Settlement(Outcome.DONE, "", NOON, 60.0, finished=True, usage=Usage(1, 0, 1.0))
        before = over()
        taken = number if whose == "day" else (number + 1) // 2
        assert before == (key if taken >= 3 else ""), f"{taken} taken"
        ledger.note(record)


def test_a_sum_of_another_that_is_damaged_or_of_yesterday_is_none(tmp_path: Path) -> None:
    mine, other = (Shared(tmp_path, "team", tmp_path / name, Disk()) for name in ("a", "b"))
    other.write(NOON, Spent(3))
    assert mine.others(NOON) == Spent(3)
    assert other.others(NOON) == Spent(), "its own is not among them"
    assert mine.others(NOON + 86400) == Spent()
    [path] = (tmp_path / "team").glob("*.json")
    for damage in (b"", b"{", b'{"since": "x"}', b"\xff" * 100):
        path.write_bytes(damage)
        assert mine.others(NOON) == Spent()


def test_whoever_shares_a_day_looks_alone_and_takes_the_place_of_what_is_no_sum(tmp_path: Path) -> None:
    mine, other = (Shared(tmp_path / "new", "team", tmp_path / name, Disk()) for name in ("a", "b"))
    with mine.alone():
        lock = tmp_path / "new/team/.lock"
        assert lock.stat().st_mode & 0o777 == 0o600
    mine.write(NOON, Spent(2))
    [path] = (tmp_path / "new/team").glob("*.json")
    path.unlink()
    path.mkdir()
    mine.write(NOON, Spent(3))
    assert other.others(NOON) == Spent(3)
    assert [one.is_dir() for one in path.parent.glob("*.corrupt-*")] == [True]
    assert len([*path.parent.iterdir()]) == 3


def test_who_has_no_limit_or_no_share_shares_nothing(tmp_path: Path) -> None:
    limited = BudgetPolicy(turns_per_day=1, share="team")
    assert shared_of(BudgetPolicy(turns_per_day=1), tmp_path, Disk()) is None
    assert shared_of(BudgetPolicy(share="team"), tmp_path, Disk()) is None
    shared = shared_of(limited, tmp_path, Disk())
    assert shared is not None
    shared.write(NOON, Spent(1))
    assert (user_state() / "budgets/team").is_dir()


def only(key: str, limit: float) -> Callable[[str], float]:
    return lambda name: limit if name == key else 0.0


def test_a_thread_or_sender_of_many_words_stands_in_no_reason() -> None:
    policy = BudgetPolicy(turns_per_thread=1, turns_per_sender=1)
    for whose, envelope in (("thread", mail("x", thread="in order to")), ("sender", mail("a b c"))):
        ledger = Ledger(policy)
        ledger.reserve(envelope, NOON)
        found = ledger.over(NOON, envelope, only(f"turns_per_{whose}", 1.0), Spent())
        assert found is not None
        assert f" {whose}-" in found.why


def test_the_next_turn_may_take_as_many_minutes_as_the_longest_of_late_and_half_a_turn_is_none() -> None:
    ledger, own = Ledger(BudgetPolicy(minutes_per_day=15)), mail("x")
    record = TurnRecord("turn", own, Phase.SETTLING, "command", NOON, process=ProcessIdentity(1, 1, "b"))
    record.settlement = Settlement(Outcome.DONE, "", NOON, 600.0, finished=True, usage=Usage(1, 0, 1.0))
    assert ledger.day_over(NOON, only("minutes_per_day", 15.0), Spent()) is None
    ledger.note(record)
    found = ledger.day_over(NOON, only("minutes_per_day", 15.0), Spent())
    assert found is not None
    assert found.why == "limits.minutes_per_day is 15 minutes; 10 minutes are taken"
    assert Ledger(BudgetPolicy()).day_over(NOON, only("turns_per_day", 0.5), Spent()) is not None


def test_of_a_watcher_that_begins_the_last_day_counts_and_what_came_before_it_today(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, Disk(), FakeClock(NOON))
    folder.prepare()
    turns = State(folder, EventLog(folder.log, folder.disk, folder.clock)).turns
    begun = [NOON - 90_000, NOON - 86_000, NOON - 43_300, NOON - 60]
    for moment in begun:
        turns.create(TurnRecord(new_turn_id(moment), mail("x"), Phase.CLAIMED, "command", moment))
    assert [one.claimed_at for one in of_the_day(turns, NOON)] == begun[1:]


def lacks(policy: CalmPolicy) -> str | None:
    found = wanted_pause(policy, Path("/"), NOON)
    return None if found is None else found.detail


def test_without_a_word_about_it_the_machine_may_be_as_busy_as_it_likes() -> None:
    assert CalmPolicy() == CalmPolicy((), 0.0, 0, 0)


def test_a_machine_has_enough_to_do_beyond_each_bound_and_not_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 9.0, 9.0))
    assert lacks(CalmPolicy(max_load=3.0)) is None
    assert lacks(CalmPolicy(max_load=2.5)) == "the load is 3.0 (guards.max_load 2.5)"
    blocks = SimpleNamespace(f_bavail=2**17, f_frsize=2**12)
    monkeypatch.setattr(os, "statvfs", lambda _: blocks)
    assert lacks(CalmPolicy(min_disk=2**29)) is None
    assert lacks(CalmPolicy(min_disk=2**30)) == "512M of disk are free (guards.min_disk 1.0G)"
    assert lacks(CalmPolicy(min_disk=2**30 - 2**20)) == "512M of disk are free (guards.min_disk 1023M)"


def test_memory_is_what_the_kernel_says_is_available_and_what_it_does_not_say_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = "MemTotal:  9999999 kB\nMemAvailable:  2048 kB\nCached: 1 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda _, *__: said)
    assert lacks(CalmPolicy(min_memory=2**21)) is None
    assert lacks(CalmPolicy(min_memory=2**21 + 1)) == "2M of memory are free (guards.min_memory 2M)"
    assert lacks(CalmPolicy(min_memory=2**21 + 2**20)) == "2M of memory are free (guards.min_memory 3M)"
    for said in ("MemTotal: 1 kB\n", "MemAvailable: much kB\n"):  # noqa: B007 - what is read reads it
        assert lacks(CalmPolicy(min_memory=2**60)) is None
    monkeypatch.undo()
    monkeypatch.setattr(os, "getloadavg", lambda: (_ for _ in ()).throw(OSError("no load here")))
    assert lacks(CalmPolicy(max_load=0.1)) is None
