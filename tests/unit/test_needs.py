"""What needs a person, by what watchers report."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent_mailer.broker.remote.rows import well_since
from agent_mailer.console.operating.needs import SILENT_AFTER, needs_of
from agent_mailer.console.operating.pages import A_PAGE, LIMITS, first_of
from agent_mailer.remote.port import Counted, Question, Report, Resting, Scheduled, Standing, Stuck, Trouble, Working
from agent_mailer.remote.watched import Watched, Watcher, sums_of
from agent_mailer.views.values.needs import NeedKind
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.guards.raising import HOURLY

NOW = 1_800_000_000.0
REPORTED = "2027-01-15T08:00:00.000000+00:00"
HERE = Watcher("a host", REPORTED)


def watched(name: str = "a", *, there: bool = True, unread: int = 0, **said: Any) -> Watched:
    report = Report("1", said.pop("remote", "operate"), **said)
    lost = not there and not report.ended
    holder = HERE if there else None
    return Watched(name, name, f"{name}@x", unread, holder, lost, report.standing, REPORTED, 0, report)


def kinds(*agents: Watched, now: float = NOW) -> list[NeedKind]:
    return [need.kind for need in needs_of(agents, now)]


def test_who_works_or_rests_in_peace_needs_nobody() -> None:
    quiet = watched(working=(Working("t", "m", "th", 1.0, "Bash"),), waiting=3, oldest=1.0)
    unknown = msgspec.structs.replace(watched("b"), report=None, standing=None)
    assert kinds(quiet, watched("c"), unknown) == []


@pytest.mark.parametrize(
    ("said", "kind", "verb", "may"),
    [
        ({"signed_out": 5.0, "runtime": "claude"}, NeedKind.SIGNED_OUT, "resume", True),
        ({"pause": Resting("signed_out", 5.0)}, NeedKind.SIGNED_OUT, "resume", True),
        ({"trouble": Trouble("disk", 5.0)}, NeedKind.TROUBLE, "", False),
        ({"pause": Resting("unavailable", 5.0, 9.0)}, NeedKind.OUTAGE, "resume", True),
        ({"pause": Resting("budget", 5.0, 9.0), "remote": "none"}, NeedKind.BUDGET, "resume", False),
        ({"pause": Resting("limited", 5.0, 9.0)}, NeedKind.LIMITED, "resume", True),
        ({"pause": Resting("by_hand", 5.0), "remote": "novel"}, NeedKind.PAUSED, "resume", False),
        ({"questions": (Question("t1", "th", "m", 5.0),)}, NeedKind.QUESTION, "", False),
        ({"questions": (Question("q-1", "th", "m", 5.0, tool="Bash"),)}, NeedKind.APPROVAL, "approve", False),
        (
            {"questions": (Question("q-1", "th", "m", 5.0, tool="Bash"),), "remote": "all"},
            NeedKind.APPROVAL,
            "approve",
            True,
        ),
        ({"working": (Working("t", "m", "th", 5.0, settles=True, waits=True),)}, NeedKind.ANSWER_WAITS, "", False),
    ],
)
def test_each_has_the_one_act_that_ends_it(said: dict[str, Any], kind: NeedKind, verb: str, *, may: bool) -> None:
    [need] = needs_of([watched(**said)], NOW)
    assert (need.kind, need.since, need.verb, need.may) == (kind, 5.0, verb, may)
    assert need.command or kind is NeedKind.QUESTION


WORKS, LEAVES = Working("t1", "m1", "th1", 1.0, "Bash"), Scheduled("daily", "0 3 * * * UTC", 9.0)
WAITS, WITHHELD = Working("t2", "m2", "th2", 5.0, settles=True, waits=True), Scheduled("weekly", "@w", 9.0, why="body")


@pytest.mark.parametrize(
    "said",
    [
        {"trouble": Trouble("disk", 5.0)},
        {"signed_out": 5.0},
        {"pause": Resting("by_hand", 5.0)},
        {"questions": (Question("q-1", "th", "m", 5.0),)},
        {"stuck_counts": (Counted("given-up", 1),)},
        {"held_counts": (Counted("pair", 1),)},
        {"working": (WORKS, WAITS)},
        {"working": (WAITS, WORKS)},
        {"schedules": (WITHHELD, LEAVES)},
        {"schedules": (LEAVES, WITHHELD)},
    ],
    ids=lambda said: next(iter(said)),
)
def test_one_thing_that_waits_for_somebody_is_told_however_well_all_else_goes(said: dict[str, Any]) -> None:
    well: dict[str, Any] = {"working": (WORKS,), "schedules": (LEAVES,), "waiting": 3, "retries": 1}
    told = [Report("1", "operate", **{**well, **more}).needs_somebody for more in ({}, said)]
    assert told == [False, True]
    assert [len(kinds(watched(**{**well, **more}))) for more in ({}, said)] == [0, 1]


def test_of_all_that_an_agent_does_the_word_for_it_is_what_a_person_has_to_know_first() -> None:
    """Who asks waits for him, also where it works at something else meanwhile."""
    report = Report(
        "1",
        "operate",
        working=(Working("t", "m", "th", 1.0, "Bash"),),
        pause=Resting("by_hand", 1.0),
        trouble=Trouble("disk", 1.0),
        signed_out=1.0,
        waiting=1,
        questions=(Question("q-1", "th", "m", 1.0),),
        ended="stopped",
    )
    told = [report.standing]
    for name in ("ended", "signed_out", "trouble", "pause", "questions", "working", "waiting"):
        report = msgspec.structs.replace(report, **{name: getattr(Report("", ""), name)})
        told.append(report.standing)
    others = {"limited": Standing.LIMITED, "unavailable": Standing.OUTAGE, "budget": Standing.BUDGET}
    assert told == [one for one in Standing if one not in others.values()]
    for why, word in others.items():
        paused = msgspec.structs.replace(report, pause=Resting(why, 1.0), questions=(Question("q", "th", "m", 1.0),))
        assert paused.standing is word


def test_what_is_stuck_or_held_for_one_reason_is_one_row_of_its_oldest() -> None:
    stuck = (Stuck("given-up", "m2", 7.0, "th2", "m2"), Stuck("given-up", "m1", 6.0, "th1", "m1"))
    agent = watched(
        stuck=(*stuck, Stuck("unreadable", "f", 3.0)),
        stuck_counts=(Counted("given-up", 70), Counted("unreadable", 1)),
        held=(Stuck("who", "m3", 4.0, "th3", "m3"), Stuck("chains", "m4", 2.0, "th4", "m4")),
        held_counts=(Counted("who", 1), Counted("chains", 1)),
    )
    found = {(need.kind, need.why): need for need in needs_of([agent], NOW)}
    given_up = found[NeedKind.STUCK, "given-up"]
    assert (given_up.many, given_up.since, given_up.thread) == (70, 6.0, "th1")
    assert (given_up.targets, given_up.may) == (("given-up m2", "given-up m1"), True)
    assert (found[NeedKind.HELD, "who"].targets, found[NeedKind.HELD, "who"].may) == (("m3",), False)
    assert found[NeedKind.HELD, "chains"].targets == ("m4",)
    assert len(found) == 4


@pytest.mark.parametrize("kind", ["stuck", "held"])
def test_of_what_is_only_counted_nothing_is_asked(kind: str) -> None:
    """An act without targets is for all there is, whatever its reason."""
    named = Stuck("given-up", "m1", 6.0, "th1", "m1")
    said: dict[str, Any] = {kind: (named,), f"{kind}_counts": (Counted("given-up", 1), Counted("who", 70))}
    agent = watched(remote="all", **said)
    found = {need.why: (need.many, bool(need.verb), len(need.targets), need.may) for need in needs_of([agent], NOW)}
    assert found == {"given-up": (1, True, 1, True), "who": (70, False, 0, False)}


def test_who_is_lost_comes_first_and_can_be_asked_nothing() -> None:
    paused = watched("b", pause=Resting("by_hand", 1.0))
    gone = watched("a", there=False, pause=Resting("by_hand", 1.0), stuck_counts=(Counted("given-up", 1),))
    found = needs_of([paused, gone], NOW)
    assert [need.kind for need in found] == [NeedKind.LOST, NeedKind.STUCK, NeedKind.PAUSED]
    assert not found[1].may


def test_who_was_stopped_is_missed_when_mail_waits() -> None:
    stopped = watched(there=False, ended="stopped", unread=2)
    since = needs_of([stopped], NOW + 1e9)[0].since
    assert kinds(stopped, now=since + SILENT_AFTER - 1) == []
    assert kinds(stopped, now=since + SILENT_AFTER) == [NeedKind.SILENT]
    assert kinds(msgspec.structs.replace(stopped, unread=0), now=NOW + 1e9) == []


def test_the_page_offers_every_limit_that_a_watcher_raises() -> None:
    assert set(LIMITS) == {HOURLY, *BudgetPolicy().names()}


EARLY, LATE = "2027-01-15T08:00:00.000000+00:00", "2027-01-15T09:00:00.000000+00:00"
WELL, ASKS = (
    Report("1", "operate", since=5.0),
    Report("1", "operate", since=5.0, stuck_counts=(Counted("given-up", 1),)),
)


@pytest.mark.parametrize(
    ("report", "before", "well", "expected"),
    [
        (ASKS, WELL, EARLY, None),
        (WELL, None, None, LATE),
        (WELL, ASKS, None, LATE),
        (WELL, WELL, EARLY, EARLY),
        # Of one that has gone without a word nobody knows how long nobody watched.
        (msgspec.structs.replace(WELL, since=9.0), WELL, EARLY, LATE),
        # It was stopped, for longer than mail may wait.
        (msgspec.structs.replace(WELL, since=9.0), msgspec.structs.replace(WELL, ended="stopped"), EARLY, LATE),
        (msgspec.structs.replace(WELL, ended="stopped"), WELL, EARLY, EARLY),
    ],
)
def test_since_when_all_is_well_is_known_by_what_was_reported(
    report: Report, before: Report | None, well: str | None, expected: str | None
) -> None:
    assert well_since(report, before, EARLY, well, LATE) == expected


def test_who_was_stopped_for_a_moment_needed_nobody() -> None:
    stopped, anew = msgspec.structs.replace(WELL, ended="stopped"), msgspec.structs.replace(WELL, since=9.0)
    assert well_since(anew, stopped, LATE, EARLY, "2027-01-15T09:05:00.000000+00:00") == EARLY


def test_all_is_well_since_the_last_that_needed_somebody_did_whoever_still_watches() -> None:
    agents = [msgspec.structs.replace(watched(name), well_since=at) for name, at in (("a", LATE), ("b", EARLY))]
    unreported = msgspec.structs.replace(watched("c"), report=None, standing=None)
    assert sums_of([*agents, unreported], "").well_since == LATE
    for there in (True, False):
        assert sums_of([*agents, watched("d", there=there)], "").well_since == ""
    assert sums_of([unreported], "").well_since == ""


@pytest.mark.parametrize("many", [0, 1, A_PAGE - 1, A_PAGE, A_PAGE + 1, 2 * A_PAGE])
def test_each_is_on_one_page_and_whoever_asks_for_more_is_shown_the_last(many: int) -> None:
    rows = list(range(many))
    pages = [rows[first : first + A_PAGE] for first in (first_of(number, many) for number in range(1, 5))]
    last = max(1, -(-many // A_PAGE))
    assert [row for page in pages[:last] for row in page] == rows
    assert pages[last:] == [pages[last - 1]] * (4 - last)
    assert {first_of(number, many) for number in (0, -1)} == {0}
