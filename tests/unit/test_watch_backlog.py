"""What one look makes of a listing and the state: what may run, and what has to be put away first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Automatic, Envelope, Kind, Listing, Priority, Unreadable
from agent_mailer.outcomes import Outcome
from agent_mailer.schedules.due import Known
from agent_mailer.state import State
from agent_mailer.state.approvals import Verdict
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Ended, Guard, HeldEntry
from agent_mailer.state.records import Attempt, DeadLetter, RetryEntry
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch import backlog
from agent_mailer.watch.answering import Said
from agent_mailer.watch.backlog import (
    Answered,
    DropRetry,
    Hold,
    LetGo,
    Look,
    PassBy,
    PutAway,
    Revive,
    SetAside,
    is_owed_an_answer,
    see,
    stranger,
)
from agent_mailer.watch.guards.holding import Stop
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import MOST_PUT_BACK, Candidate, WatchPolicy

NOW = 2_000_000_000.0
DENIES = WhoPolicy(deny=("mallory",))


@pytest.fixture
def state(tmp_path: Path) -> State:
    folder = StateFolder(tmp_path, Disk(), FakeClock(NOW))
    folder.prepare()
    folder.hold()
    return State(folder, EventLog(folder.log, folder.disk, folder.clock))


def mail(name: str = "m", **changes: Any) -> Envelope:
    return msgspec.structs.replace(Envelope(name, f"thread-{name}", "user", NOW - 60, name, f"{name}.md"), **changes)


def seen(
    state: State,
    *envelopes: Envelope,
    open_ids: Collection[str] = (),
    returns: bool = True,
    answers: Mapping[str, Said] | None = None,
    more: bool = False,
    unreadable: tuple[Unreadable, ...] = (),
    **policy: Any,
) -> Look:
    listing = Listing(envelopes, unreadable, more)
    return see(
        listing, state, WatchPolicy(state.folder.workdir, **policy), open_ids, returns=returns, answers=answers or {}
    )


def hold(state: State, envelope: Envelope) -> None:
    state.held.add([HeldEntry(envelope.id, NOW, Guard.PAIR, "too often", envelope=envelope)])


def letter(about: Envelope, **changes: Any) -> DeadLetter:
    known = DeadLetter(about.id, about.thread, 4, "no luck", "2033-05-18T03:33:20Z", "turn-1", envelope=about)
    return msgspec.structs.replace(known, **changes)


def test_what_is_listed_and_nobody_knows_may_run_in_the_order_of_the_listing(state: State) -> None:
    one, two = mail("one"), mail("two")
    assert seen(state, one, two) == Look((Candidate(one), Candidate(two)), ())


def test_what_is_listed_twice_runs_once(state: State) -> None:
    assert seen(state, mail(), mail()) == Look((Candidate(mail()),), ())


def test_what_is_in_work_is_nothing_to_do_listed_or_to_be_tried_again(state: State) -> None:
    state.retries.put(RetryEntry(mail("again"), 1, 1, revision=1))
    state.retries.put(RetryEntry(mail("given"), listed_only=True, revision=1))
    assert seen(state, mail(), mail("again"), mail("given"), open_ids={"m", "again", "given"}) == Look((), ())


def test_what_is_no_message_is_put_away(state: State) -> None:
    bad = Unreadable("x.md", "no header")
    assert seen(state, unreadable=(bad,)) == Look((), (PutAway(bad),))


def test_a_notice_is_passed_by_and_what_another_watcher_wrote_by_itself_is_not(state: State) -> None:
    notice, reply = mail("n", automatic=Automatic.NOTICE), mail("r", automatic=Automatic.AUTO_REPLY)
    assert seen(state, notice, reply) == Look((Candidate(reply),), (PassBy(notice),))


def test_what_is_stuck_is_left_alone_listed_or_to_be_tried_again(state: State) -> None:
    for name in ("listed", "again"):
        state.stuck.add(StuckKind.NO_WAY_BACK, name, mail(name), "no such place")
    state.retries.put(RetryEntry(mail("again"), 1, 1, revision=1))
    assert seen(state, mail("listed"), mail("again"), mail()) == Look((Candidate(mail()),), ())


# Retries.


def test_a_retry_runs_at_its_moment_listed_or_not(state: State) -> None:
    entry = RetryEntry(mail(), 1, 1, NOW + 30, revision=1)
    state.retries.put(entry)
    for envelopes in ((), (mail(),)):
        assert seen(state, *envelopes) == Look((Candidate(mail(), entry),), ())


@pytest.mark.parametrize(("retry_longest", "longest"), [(600.0, 600.0), (60.0, 120.0)])
def test_a_moment_beyond_any_wait_of_ours_is_now(state: State, retry_longest: float, longest: float) -> None:
    """The clock was set back."""
    for ahead, moment in ((longest, NOW + longest), (longest + 1, NOW)):
        state.retries.put(RetryEntry(mail(), 1, 1, NOW + ahead, revision=1), force=True)
        [candidate] = seen(state, retry_longest=retry_longest, trouble_longest=120.0).candidates
        assert candidate.not_before == moment


def test_a_retry_that_was_settled_is_dropped(state: State) -> None:
    state.retries.put(RetryEntry(mail(), 1, 1, revision=1))
    state.processed.add("m")
    assert seen(state) == Look((), (DropRetry("m"),))
    # Its message, listed once more, is put aside.
    assert seen(state, mail()) == Look((), (DropRetry("m"), SetAside(mail())))


def test_what_could_not_be_fetched_waits_while_it_is_listed(state: State) -> None:
    entry = RetryEntry(mail(), fetches=2, not_before=NOW + 5, listed_only=True, revision=1)
    state.retries.put(entry)
    assert seen(state, mail()) == Look((Candidate(mail(), entry),), ())
    other = mail("other")
    state.retries.put(RetryEntry(other, fetches=1, not_before=NOW + 5, listed_only=True, revision=1))
    assert seen(state) == Look((), (DropRetry("m"), DropRetry("other")))
    assert seen(state, mail()).actions == (DropRetry("other"),)
    # Behind what this look shows it may stand still.
    assert seen(state, more=True) == Look((), ())
    assert seen(state, open_ids={"m", "other"}) == Look((), ())


def test_what_another_client_has_tried_counts(state: State) -> None:
    (state.folder.path / "retries.json").write_bytes(b'{"m": 2}')
    assert seen(state, mail()) == Look((Candidate(mail(), RetryEntry(mail(), attempts=2, starts=2)),), ())


@pytest.mark.parametrize("kind", ["listed only", "settled", "in work", "stuck", "held"])
def test_a_retry_that_does_not_run_keeps_no_other_from_it(state: State, kind: str) -> None:
    state.retries.put(RetryEntry(mail("first"), 1, 1, listed_only=kind == "listed only", revision=1))
    state.retries.put(RetryEntry(mail("second"), 1, 1, revision=1))
    if kind == "settled":
        state.processed.add("first")
    elif kind == "stuck":
        state.stuck.add(StuckKind.NO_WAY_BACK, "first", mail("first"), "no such place")
    elif kind == "held":
        hold(state, mail("first"))
    found = seen(state, open_ids={"first"} if kind == "in work" else (), more=True)
    assert [one.envelope.id for one in found.candidates] == ["second"]


# What a guard holds.


def test_a_stranger_is_held_and_whoever_a_person_has_let_in_is_not(state: State) -> None:
    strange = mail(sender="mallory")
    [action] = seen(state, strange, mail("other"), who=DENIES).actions
    assert action == Hold(Stop(strange, Guard.WHO, "deny_from has mallory", "who\0mallory"))
    assert seen(state, strange, mail("other"), who=DENIES).candidates == (Candidate(mail("other")),)
    state.lifts.allow(("mallory",))
    assert seen(state, strange, who=DENIES) == Look((Candidate(strange),), ())


def test_only_whom_allow_from_has_is_let_in(state: State) -> None:
    policy = WhoPolicy(allow=("ann",))
    found = seen(state, mail(), mail("a", sender="ann"), who=policy)
    assert found.candidates == (Candidate(mail("a", sender="ann")),)
    assert found.actions == (Hold(Stop(mail(), Guard.WHO, "allow_from does not have its sender", "who\0user")),)


def test_a_stranger_whose_mail_is_ours_already_is_held_as_ours(state: State) -> None:
    strange = mail(sender="mallory")
    entry = RetryEntry(strange, 1, 1, revision=1)
    state.retries.put(entry)
    stop = Stop(strange, Guard.WHO, "deny_from has mallory", "who\0mallory", ours=True)
    assert seen(state, who=DENIES) == Look((), (Hold(stop),))
    # Where nobody is kept out he is not asked for.
    assert seen(state) == Look((Candidate(strange, entry),), ())
    released = msgspec.structs.replace(entry, released=True)
    state.retries.put(released, force=True)
    assert seen(state, who=DENIES) == Look((Candidate(strange, released),), ())


def test_mail_that_a_schedule_sent_is_nobodys(state: State) -> None:
    policy = WatchPolicy(state.folder.workdir, who=DENIES)
    assert stranger(mail(sender="user"), state, policy) is None
    assert stranger(mail(sender="mallory"), state, policy) is not None
    state.schedules.put("nightly", Known("30 2 * * * UTC", 0.0, sent=(mail().id,)))
    assert stranger(mail(sender="mallory"), state, policy) is None
    assert stranger(mail("other", sender="mallory"), state, policy) is not None


def test_what_is_held_stays_so_until_a_person_lets_it_go(state: State) -> None:
    entry = RetryEntry(mail(), 1, 1, revision=1)
    state.retries.put(entry)
    hold(state, mail())
    assert seen(state) == Look((), ())
    assert seen(state, mail()) == Look((), ())
    released = msgspec.structs.replace(entry, released=True)
    state.retries.put(released, force=True)
    assert seen(state) == Look((Candidate(mail(), released),), (LetGo("m"),))


def test_what_is_held_and_still_listed_is_taken_once_more(state: State) -> None:
    hold(state, mail())
    assert seen(state, mail()) == Look((), (Hold(Stop(mail(), Guard.WHO, "", "")),))
    state.held.end(["m"], Ended.RELEASED)
    assert seen(state, mail()) == Look((Candidate(mail()),), ())


def test_an_answer_to_a_question_is_taken_and_starts_no_turn(state: State) -> None:
    said = Said(Verdict.ALLOW, "ABCD1234")
    assert seen(state, mail(), mail("x"), answers={"m": said}) == Look(
        (Candidate(mail("x")),), (Answered(mail(), said),)
    )
    # Whoever is kept out answers nothing.
    strange = mail(sender="mallory")
    [action] = seen(state, strange, answers={"m": said}, who=DENIES).actions
    assert isinstance(action, Hold)


# What is settled and comes once more.


def test_what_is_done_and_listed_again_is_set_aside(state: State) -> None:
    state.processed.add("m")
    assert seen(state, mail(), mail("x")) == Look((Candidate(mail("x")),), (SetAside(mail()),))


def test_what_was_given_up_and_put_back_runs_again_with_its_history(state: State) -> None:
    history = (Attempt("turn-1", Outcome.FAILED, "no luck", NOW - 5),)
    state.processed.add("m")
    state.dead_letters.add(letter(mail(), history=history), again=False)
    assert seen(state, mail()) == Look(
        (Candidate(mail(), RetryEntry(mail(), history=history, put_back=1)),), (Revive(mail()),)
    )


@pytest.mark.parametrize(
    ("changes", "returns"),
    [
        ({"turn_id": ""}, True),
        ({"put_back": MOST_PUT_BACK}, True),
        ({"put_back": MOST_PUT_BACK + 1}, True),
        ({"envelope": mail(thread="other")}, True),
        ({"envelope": mail(sender="other")}, True),
        ({}, False),
    ],
)
def test_what_was_given_up_is_set_aside_where_nobody_has_put_it_back(
    state: State, changes: dict[str, Any], returns: bool
) -> None:
    state.processed.add("m")
    state.dead_letters.add(letter(mail(), **changes), again=False)
    assert seen(state, mail(), returns=returns) == Look((), (SetAside(mail()),))


def test_put_back_once_less_than_too_often_it_runs(state: State) -> None:
    state.processed.add("m")
    state.dead_letters.add(letter(mail(), put_back=MOST_PUT_BACK - 1), again=False)
    assert seen(state, mail()).actions == (Revive(mail()),)
    # Whoever does not say otherwise has a mailbox that lists nothing again by itself.
    assert see(Listing((mail(),)), state, WatchPolicy(state.folder.workdir), ()).actions == (Revive(mail()),)
    assert MOST_PUT_BACK == 5


# The look itself.


def test_the_look_plans_without_what_turned_out_to_be_none_to_run(state: State) -> None:
    found = seen(state, mail("one", priority=Priority.LOW), mail("two"))
    assert [one.envelope.id for one in found.plan(set(), NOW).ready] == ["two", "one"]
    assert [one.envelope.id for one in found.plan({"thread-two"}, NOW).ready] == ["one"]
    assert found.without({"two"}) == Look((Candidate(mail("one", priority=Priority.LOW)),), ())


def test_who_waits_for_an_answer_and_is_not_ours_yet_is_owed_one() -> None:
    assert is_owed_an_answer(Candidate(mail()))
    assert not is_owed_an_answer(Candidate(mail(), RetryEntry(mail())))
    assert not is_owed_an_answer(Candidate(mail(kind=Kind.STATUS)))


def test_a_look_lists_this_many() -> None:
    assert backlog.LIST_LIMIT == 1000
