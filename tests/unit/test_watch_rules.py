"""What nobody has configured, and the small rules of the watcher: each at its border."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest

from agent_mailer.choices import AutoReply, RemoteAccess
from agent_mailer.clock import iso
from agent_mailer.config import Config, leaves
from agent_mailer.config_tables import Takes
from agent_mailer.mailbox.port import Automatic, Envelope, Kind
from agent_mailer.outcomes import Outcome
from agent_mailer.policies import PLANS, Where, approve_of, policy_of
from agent_mailer.prompts import PromptKind
from agent_mailer.state.notices import Channel
from agent_mailer.state.records import Attempt, Provisional, RetryEntry, SessionEntry
from agent_mailer.trust.standing import in_place
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import (
    MOST_FETCHES,
    MOST_PUT_BACK,
    ApprovePolicy,
    Candidate,
    NotifyPolicy,
    SessionChoice,
    WatchPolicy,
    cannot_be_fetched,
    choose_session,
    decide_retry,
    fetch_again,
    make_plan,
    wants_answer,
)

NOW = 2_000_000_000.0
W = Path("/w")
POLICY = WatchPolicy(W, trouble_first=1.0, trouble_longest=20.0, undeliverable_after=3600.0)
MAIL = Envelope("m", "t", "user", 0.0, "1", "m.md")


def mail(name: str, **changes: object) -> Envelope:
    return msgspec.structs.replace(MAIL, id=name, thread=name, **changes)


def test_a_rule_that_nobody_gave_is_what_an_empty_configuration_gives() -> None:
    where = Where(W, None, handle="", own="", surroundings={}, out_of_git=(), agents=tuple)
    assert policy_of(Config(), where) == WatchPolicy(W, who=WhoPolicy(people=("user",)))


_ROUNDS = ("max_hops", "pair_rounds", "ring_rounds", "new_threads", "rounds_per_day", "turns_per_hour", "window")
_SAME = ("max_retries", "max_starts", "max_parallel_turns", "session_max_age_days", "session_max_turns", "turn_timeout")
_CLOCKS = ("tool_timeout", "first_output_timeout", "silence_timeout")
SET: list[tuple[str, object, str, object]] = [
    *((name, 9, name, 9) for name in (*_SAME, "stop_grace", "keep_transcripts", "live_wait", "live_time", *_CLOCKS)),
    *((name, 0, name, None) for name in _CLOCKS),
    *((f"retry.{name}", 7, f"retry_{name}", 7) for name in ("first", "longest")),
    *((f"limits.{name}", 7, f"budget.{name}", 7) for name in BudgetPolicy().names()),
    *((f"guards.{name}", 7, f"guards.{name}", 7) for name in _ROUNDS),
    *((f"alarm.{name}", 7, f"guards.alarm.{name}", 7) for name in ("mail_waits", "no_turn")),
    *((f"notify.{name}", 7, f"notify.{name}", 7) for name in ("trouble_after", "timeout")),
    ("turn_timeout", 7, "live_time", 7),
    ("batch_low", True, "batch_low", True),
    ("session_max_megabytes", 7, "session_max_bytes", 7_000_000),
    ("session_max_megabytes", 0, "session_max_bytes", None),
    ("auto_reply", "never", "auto_reply", AutoReply.NEVER),
    ("memory_global", "read", "global_note_fixed", True),
    ("turn_memory", "64M", "turn_memory", 2**26),
    ("max_budget_usd", 7, "budget.reserve", 7),
    ("limits.share", "ours", "budget.share", "ours"),
    ("guards.quiet_hours", "22:00-07:00", "guards.calm.quiet", ((1320, 420),)),
    ("guards.max_load", 7, "guards.calm.max_load", 7),
    ("guards.min_memory", "64M", "guards.calm.min_memory", 2**26),
    ("guards.min_disk", "64M", "guards.calm.min_disk", 2**26),
    ("notify.command", ["say"], "notify.command", ("say",)),
    ("notify.address", "ann", "notify.address", "ann"),
    ("notify.address", "ann", "who.people", ("user", "ann")),
    ("notify.apprise", ["json://x"], "notify.urls", ("json://x",)),
    ("people", ["b*"], "who.people", ("b*", "user")),
    ("allow_from", ["bob"], "who.allow", ("bob",)),
    ("deny_from", ["bob"], "who.deny", ("bob",)),
    ("approve.tools", ["Bash"], "approve.rules", ("Bash",)),
    ("approve.expires", 7, "approve.expires", 7),
    ("approve.by", "sender", "approve.asks_sender", True),
    ("remote", "none", "remote", RemoteAccess.NONE),
]
"""A key, what it is set to, the rule that it becomes."""

ELSEWHERE = {"agent_id", "api_key", "schedule"}
"""Keys that are taken at once by others than the engine, and mail by the clock, which has tests of its own."""


@pytest.mark.parametrize(("key", "value", "rule", "wanted"), SET)
def test_what_somebody_sets_is_what_the_watcher_goes_by(key: str, value: object, rule: str, wanted: object) -> None:
    where = Where(W, None, handle="", own="", surroundings={}, out_of_git=(), agents=tuple)
    policy = policy_of(msgspec.convert(in_place({}, key, value), Config), where)
    assert attrgetter(rule)(policy) == wanted
    with suppress(AttributeError):  # of a table that is not there
        known = attrgetter(rule)(policy_of(Config(), where))
        assert known != wanted or value == 0, "or nobody would see that it counts"


_HIDES = {"sandbox": {"kind": "bwrap", "mailbox": "hide"}}
_TOLD = {"notify": {"address": "ann"}}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"permission_mode": "acceptEdits"}, {}),
        ({"permission_mode": "plan"}, {"forbidden": PLANS}),
        ({"permission_mode": "acceptEdits", "approve": {"refused": True}}, {}),
        ({"permission_mode": "acceptEdits", "approve": {"refused": True}, **_TOLD}, {"refused": True}),
        ({"permission_mode": "bypassPermissions", "approve": {"refused": True}, **_TOLD}, {}),
        ({"permission_mode": "acceptEdits", **_HIDES}, {"tells_codes": True, "mail_hidden": True}),
        ({"permission_mode": "acceptEdits", "broker_url": "http://127.0.0.1:9"}, {"tells_codes": True}),
        ({"permission_mode": "acceptEdits", "broker_url": "http://127.0.0.1:9", **_HIDES}, {"tells_codes": True}),
        ({"permission_mode": "acceptEdits", "runtime": "claude", "reserve": ["src"]}, {"edits": True}),
        ({"permission_mode": "acceptEdits", "runtime": "command", "reserve": ["src"]}, {}),
    ],
)
def test_when_a_person_is_asked_and_how_he_may_answer(settings: dict[str, object], wanted: dict[str, object]) -> None:
    found = msgspec.structs.asdict(approve_of(msgspec.convert(settings, Config)))
    plain = {"refused": False, "forbidden": "", "tells_codes": False, "mail_hidden": False, "edits": False}
    assert {name: found[name] for name in plain} == {**plain, **wanted}


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({}, False),
        ({"people": ["ann"]}, True),
        ({"approve": {"by": "sender"}}, True),
        ({"notify": {"address": "ann"}, "sandbox": {"kind": "off"}}, False),
        ({"notify": {"address": "ann"}, "sandbox": {"kind": "bwrap"}}, True),
    ],
)
def test_where_a_persons_words_count_for_more_it_is_known_who_is_an_agent(
    settings: dict[str, object], known: bool
) -> None:
    where = Where(W, None, handle="", own="", surroundings={}, out_of_git=(), agents=lambda: ("planner",))
    who = policy_of(msgspec.convert(settings, Config), where).who
    assert who.agents == (frozenset({"planner"}) if known else frozenset())


def test_no_key_that_is_taken_at_once_was_forgotten() -> None:
    live = {leaf.name for leaf in leaves() if leaf.takes is Takes.LIVE}
    assert live - {key for key, *_ in SET} == ELSEWHERE


def test_the_operators_program_sees_his_environment_without_our_keys() -> None:
    surroundings = {"HOME": "/h", "TOKEN": "his", "AGENT_MAILER_API_KEY": "ours"}
    where = Where(W, None, handle="coder", own="", surroundings=surroundings, out_of_git=(), agents=tuple, hurried=True)
    policy = policy_of(Config(), where)
    assert policy.notify.env == {"HOME": "/h", "TOKEN": "his"}
    assert policy.notify.agent == "coder"
    assert policy.stop_grace == 2.0, "an engine kills its container after ten seconds"


def test_what_no_key_changes_has_these_values() -> None:
    policy = WatchPolicy(W)
    waits = (policy.finish_grace, policy.trouble_first, policy.trouble_longest, policy.undeliverable_after)
    assert waits == (5.0, 1.0, 120.0, 86400.0)
    assert (policy.notify.again_after, policy.retry_first, policy.approve.expires) == (5.0, 10.0, 259200.0)


@pytest.mark.parametrize(
    ("policy", "channels"),
    [
        (NotifyPolicy(), ()),
        (NotifyPolicy(command=("say",)), (Channel.COMMAND,)),
        (NotifyPolicy(address="ann"), (Channel.MAIL,)),
        (NotifyPolicy(urls=("json://x",)), (Channel.APPRISE,)),
        (NotifyPolicy(("say",), "ann", ("json://x",)), (Channel.COMMAND, Channel.MAIL, Channel.APPRISE)),
    ],
)
def test_who_is_told_by_what_there_is(policy: NotifyPolicy, channels: tuple[Channel, ...]) -> None:
    assert policy.channels == channels


@pytest.mark.parametrize(
    ("policy", "asks"),
    [
        (ApprovePolicy(), False),
        (ApprovePolicy(expires=1.0, forbidden="x", tells_codes=True, mail_hidden=True, asks_sender=True), False),
        (ApprovePolicy(rules=("Bash",)), True),
        (ApprovePolicy(refused=True), True),
        (ApprovePolicy(edits=True), True),
    ],
)
def test_a_person_is_asked_where_one_thing_asks_for_it(policy: ApprovePolicy, asks: bool) -> None:
    assert policy.asks is asks


@pytest.mark.parametrize(
    ("automatic", "kind", "wants"),
    [
        (Automatic.NO, None, True),
        (Automatic.NO, Kind.TODO, True),
        (Automatic.NO, Kind.QUESTION, True),
        (Automatic.NO, Kind.STATUS, False),
        (Automatic.NO, Kind.ANSWER, False),
        (Automatic.NO, Kind.REVIEW_RESPONSE, False),
        (Automatic.NO, Kind.DECISION, False),
        (Automatic.AUTO_REPLY, Kind.TODO, False),
        (Automatic.NOTICE, None, False),
    ],
)
def test_who_waits_for_an_answer(automatic: Automatic, kind: Kind | None, wants: bool) -> None:
    assert wants_answer(mail("m", automatic=automatic, kind=kind)) is wants


# What is listed and gives nothing.


def test_what_gave_nothing_is_fetched_again_after_a_wait_that_grows_and_was_never_ours() -> None:
    entry, waits = None, []
    for number in range(1, 8):
        entry = fetch_again(entry, MAIL, NOW + number, POLICY, answered=True)
        waits.append(entry.not_before - NOW - number)
        assert entry == RetryEntry(
            MAIL, fetches=number, fetching_since=NOW + 1, not_before=entry.not_before, listed_only=True
        )
    assert waits == [1, 2, 4, 8, 16, 20, 20]


def test_a_mailbox_that_failed_once_may_have_given_it() -> None:
    entry = fetch_again(None, MAIL, NOW, POLICY, answered=False)
    assert not entry.listed_only
    assert not fetch_again(entry, MAIL, NOW, POLICY, answered=True).listed_only


def test_what_is_known_of_it_stays_and_its_failures_are_counted_from_the_first_in_a_row() -> None:
    known = RetryEntry(MAIL, 2, 3, fetching_since=5.0, revision=7)
    entry = fetch_again(known, MAIL, NOW, POLICY, answered=True)
    assert entry == msgspec.structs.replace(known, fetches=1, fetching_since=NOW, not_before=NOW + 1)
    # The clock was set back since.
    assert fetch_again(entry, MAIL, NOW - 9, POLICY, answered=True).fetching_since == NOW - 9


@pytest.mark.parametrize(
    ("fetches", "since", "answered", "stuck"),
    [
        (6, NOW, True, True),
        (7, NOW - 9, True, True),
        (5, NOW - 9999, True, False),
        (6, NOW - 3600, False, True),
        (6, NOW - 3599, False, False),
        (99, NOW - 3599, False, False),
        (5, NOW - 3600, False, False),
    ],
)
def test_it_waits_for_a_person_after_six_answers_or_a_day_of_failures(
    fetches: int, since: float, answered: bool, stuck: bool
) -> None:
    entry = RetryEntry(MAIL, fetches=fetches, fetching_since=since)
    assert cannot_be_fetched(entry, NOW, POLICY, answered=answered) is stuck
    assert (MOST_FETCHES, MOST_PUT_BACK) == (6, 5)


# Retries, plans, sessions: what the tables beside this do not tell.


def test_a_second_failed_attempt_is_one_of_several_and_a_good_end_waits_for_nothing() -> None:
    policy = WatchPolicy(W, max_retries=1)
    given_up = decide_retry(Outcome.FAILED, attempts=1, starts=2, now=NOW, policy=policy, jitter=0.5)
    assert given_up.why == "2 failed attempts"
    done = decide_retry(Outcome.DONE, attempts=1, starts=2, now=NOW, policy=policy, jitter=0.5)
    assert (done.not_before, done.why) == (0.0, "")


def test_a_thread_that_waits_or_is_busy_keeps_no_other_waiting_nor_do_two_of_one_age() -> None:
    waits = Candidate(mail("a"), RetryEntry(mail("a"), not_before=NOW + 9))
    plan = make_plan([Candidate(mail("x")), waits, Candidate(mail("b")), Candidate(mail("c"))], {"x"}, NOW)
    assert [one.envelope.id for one in plan.ready] == ["b", "c"]
    assert plan.next_due == NOW + 9
    assert Candidate(mail("b")).not_before == 0.0


def choose(entry: SessionEntry | None, again: RetryEntry | None = None, days: int = 7) -> SessionChoice:
    policy = WatchPolicy(W, session_max_age_days=days)
    return choose_session(entry, again, runtime="claude", resumes=True, now=NOW, policy=policy)


def test_a_session_is_as_old_as_it_may_be_and_one_without_a_date_is_new() -> None:
    week = SessionEntry("s", 1, "", iso(NOW - 7 * 86400), "claude")
    assert choose(week).prompt is PromptKind.RESUMED
    assert choose(msgspec.structs.replace(week, last_used_at=""), days=0).prompt is PromptKind.RESUMED
    assert choose(None).why_lost == ""


def test_the_last_two_of_a_long_history_tell_of_the_same_fault() -> None:
    outcomes = (Outcome.FAILED, Outcome.LIMITED, Outcome.CRASHED, Outcome.CRASHED)
    history = tuple(Attempt("turn-1", outcome, "", 0.0) for outcome in outcomes)
    again = RetryEntry(MAIL, history=history, provisional=Provisional("own", "claude", Outcome.CRASHED))
    assert choose(None, again) == SessionChoice(None, PromptKind.RERUN)
