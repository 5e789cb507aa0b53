"""The settlement's record, field by field: what the tables of `test_watch_deciding` do not tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.test_watch_deciding import (
    ENVELOPE,
    NOW,
    PROCESS,
    PROMPT,
    STAGED,
    compose,
    rerun,
    sent,
    settled,
    turn_end,
)

from agent_mailer.approvals.calls import Call
from agent_mailer.clock import iso
from agent_mailer.mailbox.port import Action, Automatic, Draft, Kind, Message, Outgoing, Refused
from agent_mailer.outcomes import Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.runtimes.port import Observation, Usage
from agent_mailer.state.approvals import id_of
from agent_mailer.state.records import (
    AfterStop,
    Attempt,
    ItemState,
    Provisional,
    SessionEntry,
    SettledItem,
    Settlement,
    Sitter,
    StopAsked,
)
from agent_mailer.turn_tools.folder import FinishKind, FinishNote, NoteScope, NoteWrite, Sealed
from agent_mailer.watch.deciding import HISTORY_KEPT, MAX_WORDS, TurnEnd, decide_settlement, mark_of
from agent_mailer.watch.rules import WatchPolicy

CALL = Call("Bash", '{"command":"git push"}', "call-1")
POLICY = WatchPolicy(Path("/w"))


def drafted(end: TurnEnd, policy: WatchPolicy = POLICY) -> list[Draft]:
    """What the mailbox is asked to compose."""
    seen: list[Draft] = []

    def watch(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
        assert origin is end.origin
        seen.append(draft)
        return compose(draft, origin, turn_id)

    decide_settlement(end, policy, watch)
    return seen


def test_what_the_turn_said_of_itself_is_in_the_record() -> None:
    notes = (NoteWrite(NoteScope.THREAD, "remember"),)
    end = turn_end(Outcome.DONE, used_up=frozenset({"q-2", "q-1"}), started_at=NOW - 10.12345)
    end = msgspec.structs.replace(end, sealed=Sealed((), None, notes=notes))
    end.observation.model = "some-model"
    record = settled(end)
    assert (record.notes, record.used, record.model) == (notes, ("q-1", "q-2"), "some-model")
    assert (record.asked, record.asked_until, record.seconds) == ((), 0.0, 10.123)


def test_bounds_are_these() -> None:
    assert (HISTORY_KEPT, MAX_WORDS) == (20, 262144)
    assert (turn_end(Outcome.DONE).address, turn_end(Outcome.DONE).went_through) == ("", 0.0)


# What a person is asked.


def test_a_turn_that_asks_waits_for_as_long_as_a_question_lasts() -> None:
    record = settled(turn_end(Outcome.ASKED, drafts=[STAGED], starts=3))
    assert record.outcome is Outcome.ASKED
    assert [call.digest for call in record.asked] == [CALL.digest]
    assert record.asked_until == NOW + 259200
    assert record.retry is not None
    assert record.retry.asked == (id_of("turn-1", record.asked[0]),)
    assert (record.retry.dropped, record.retry.by_prompt) == (0, False)
    assert [entry.item.payload for entry in record.items] == ["staged"], (
        "it goes on in its session, where it has sent it"
    )
    unworked = settled(turn_end(Outcome.ASKED, worked=False)).retry
    assert unworked is not None
    assert record.retry.provisional is not None
    assert record.retry.provisional == unworked.provisional
    assert record.retry.starts == 2, "however often it asks, that is no start that failed"


def test_what_the_programs_hook_left_is_asked_too_and_alone() -> None:
    left = settled(turn_end(Outcome.DONE, left_asked=(CALL,)))
    assert (left.outcome, left.detail) == (Outcome.ASKED, "asks a person: Bash")
    assert settled(turn_end(Outcome.DONE)).outcome is Outcome.DONE
    # One that failed has asked nothing.
    assert settled(turn_end(Outcome.FAILED, left_asked=(CALL,))).asked == ()


def test_a_turn_that_asks_for_nothing_new_goes_on_waiting_for_the_answer_it_has_none_of() -> None:
    end = turn_end(Outcome.ASKED, rerun=rerun(asked=("q-1",)))
    end.observation.result = None
    record = settled(end)
    assert (record.outcome, record.asked) == (Outcome.ASKED, ())
    assert record.retry is not None
    assert (record.retry.asked, record.retry.by_prompt) == (("q-1",), True)
    # Where nothing had been asked it has failed.
    nothing = turn_end(Outcome.ASKED, rerun=rerun())
    nothing.observation.result = None
    assert settled(nothing).outcome is Outcome.FAILED


def test_questions_of_a_rerun_are_carried_on_by_one_that_fails() -> None:
    record = settled(turn_end(Outcome.FAILED, rerun=rerun(asked=("q-1",))))
    assert record.retry is not None
    assert record.retry.asked == ("q-1",)


# Starts and attempts.


def test_a_turn_that_failed_before_any_work_is_a_start_and_one_that_never_ran_is_none() -> None:
    failed = settled(turn_end(Outcome.FAILED, worked=False, starts=3))
    assert failed.retry is not None
    assert failed.retry.starts == 3
    never = settled(turn_end(Outcome.LIMITED, process=None, starts=3))
    assert never.retry is not None
    assert never.retry.starts == 2


def test_a_limit_before_any_work_is_a_start_where_it_met_one_before_and_others_went_through() -> None:
    history = (Attempt("turn-0", Outcome.LIMITED, "", NOW - 50),)
    for went_through, starts in ((NOW - 10, 3), (NOW - 60, 2)):
        end = turn_end(Outcome.LIMITED, worked=False, starts=3, rerun=rerun(history=history))
        record = settled(msgspec.structs.replace(end, went_through=went_through))
        assert record.retry is not None
        assert record.retry.starts == starts


def test_of_several_messages_none_is_given_up_together() -> None:
    end = turn_end(Outcome.FAILED, starts=2)
    waits = settled(msgspec.structs.replace(end, shared=True))
    assert waits.retry is not None
    assert waits.retry.not_before == NOW + 5, "as by itself"
    last = settled(msgspec.structs.replace(end, shared=True), max_retries=0)
    assert last.retry is not None
    assert (last.dead, last.retry.not_before) == (None, NOW)


def test_what_is_known_of_a_message_goes_with_each_retry() -> None:
    known = rerun(fetches=2, fetching_since=5.0, put_back=3, released=True, session_lost=True)
    for outcome in (one for one in Outcome if not one.settles):
        again = settled(turn_end(outcome, rerun=known)).retry
        assert again is not None, outcome
        assert (again.fetches, again.fetching_since, again.put_back) == (2, 5.0, 3)
        assert (again.released, again.session_lost) == (True, True)
    letters = [settled(turn_end(Outcome.FAILED, rerun=one), max_retries=0).dead for one in (known, rerun(), None)]
    assert [one and one.put_back for one in letters] == [3, 0, 0]
    first = settled(turn_end(Outcome.FAILED)).retry
    assert first is not None
    assert (first.fetches, first.fetching_since, first.put_back) == (0, 0.0, 0)
    assert (first.released, first.session_lost) == (False, False)


def test_mail_for_several_is_each_ones_whatever_becomes_of_the_turn() -> None:
    for_two = msgspec.structs.replace(STAGED, to=("ann", "bob"))

    def items(settlement: Settlement) -> list[tuple[str, ItemState]]:
        return [(entry.item.recipient, entry.state) for entry in settlement.items if not entry.own]

    assert items(settled(turn_end(Outcome.DONE, drafts=[for_two]))) == [
        ("ann", ItemState.PENDING), ("bob", ItemState.PENDING)
    ]  # fmt: skip
    assert items(settled(turn_end(Outcome.FAILED, drafts=[for_two]), max_retries=0)) == [
        ("ann", ItemState.KEPT), ("bob", ItemState.KEPT)
    ]  # fmt: skip
    at_once = msgspec.structs.replace(for_two, at_once=True)
    again = settled(turn_end(Outcome.FAILED, drafts=[at_once, PROMPT])).retry
    assert again is not None
    assert again.sent == ("a message to ann", "a message to bob", "a message to user")


def test_an_answer_to_the_agent_and_to_others_is_no_note_to_itself() -> None:
    def to_all(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
        return compose(msgspec.structs.replace(draft, to=("coder", "ann")), origin, turn_id)

    end = turn_end(Outcome.DONE, drafts=[STAGED], address="coder")
    found = decide_settlement(end, POLICY, to_all)
    assert [(entry.item.recipient, entry.own) for entry in found.items] == [("coder", False), ("ann", False)]
    drafts = list[Draft]()

    def noted(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
        drafts.append(draft)
        return to_all(draft, origin, turn_id)

    decide_settlement(end, POLICY, noted)
    assert [one.automatic for one in drafts] == [Automatic.NO]


def test_what_a_blocked_agent_has_said_in_its_mail_counts_whatever_else_has_left_before() -> None:
    end = turn_end(Outcome.BLOCKED, drafts=[PROMPT, STAGED], text="")
    assert settled(end).outcome is Outcome.DONE
    assert settled(turn_end(Outcome.BLOCKED, drafts=[PROMPT], text="")).outcome is Outcome.BLOCKED


def test_what_was_staged_and_did_not_leave_is_counted() -> None:
    again = settled(turn_end(Outcome.FAILED, drafts=[STAGED, PROMPT, msgspec.structs.replace(STAGED, key="k9")])).retry
    assert again is not None
    assert again.dropped == 2
    odd = Draft("k3", Action.SEND, 6.0, to=("a b\nc",), body="at once", at_once=True)
    told = settled(turn_end(Outcome.FAILED, drafts=[odd])).retry
    assert told is not None
    assert [words.partition("-")[0] for words in told.sent] == ["a message to recipient"]


@pytest.mark.parametrize(
    ("live", "process", "told"), [(True, PROCESS, True), (True, None, False), (False, PROCESS, False)]
)
def test_the_history_says_what_a_live_session_had(live: bool, process: ProcessIdentity | None, told: bool) -> None:
    end = turn_end(Outcome.FAILED, process=process)
    end.record.live = Sitter("ann", PROCESS) if live else None
    dead = settled(end, max_retries=0).dead
    assert dead is not None
    assert dead.history[-1].live is told
    retry = settled(end).retry
    assert retry is not None
    assert [one.live for one in retry.history] == [told], "it is not offered anew"


# A person's stop.


@pytest.mark.parametrize(
    ("then", "reason", "detail"),
    [
        (AfterStop.RETRY, "", "stopped by hand"),
        (AfterStop.RETRY, "late", "stopped by hand: late"),
        (AfterStop.DROP, "late", "stopped by hand; dropped: late"),
        (AfterStop.ASK, "", "stopped by hand; its sender is asked"),
    ],
)
def test_a_stop_says_what_was_wanted_and_forgets_the_limit(then: AfterStop, reason: str, detail: str) -> None:
    stop = StopAsked(then, NOW, reason)
    record = settled(turn_end(Outcome.LIMITED, stop=stop, retry_at=NOW + 900))
    assert (record.outcome, record.detail, record.pause) == (Outcome.INTERRUPTED, detail, None)


@pytest.mark.parametrize("reason", ["", "too late"])
def test_whoever_is_told_of_a_stop_is_told_once_in_these_words(reason: str) -> None:
    tail = f"\n\nReason: {reason}" if reason else ""
    [asked] = drafted(turn_end(Outcome.FAILED, stop=StopAsked(AfterStop.ASK, NOW, reason)))
    body = f"The work on this message was stopped by hand before its end.{tail}\n\nHow is it to go on?"
    assert (asked.body, asked.kind, asked.automatic) == (body, Kind.QUESTION, Automatic.NO)
    [dropped] = drafted(turn_end(Outcome.FAILED, stop=StopAsked(AfterStop.DROP, NOW, reason)))
    body = f"This message was dropped by hand; it will not be worked on.{tail}"
    assert (dropped.body, dropped.kind, dropped.automatic) == (body, Kind.STATUS, Automatic.NOTICE)


# What it writes.


def test_a_notice_of_giving_up_is_a_status_and_a_question_a_question() -> None:
    policy = WatchPolicy(Path("/w"), max_retries=0)
    note = FinishNote(FinishKind.BLOCKED, "red or blue?")
    notice, question = drafted(turn_end(Outcome.FAILED, finish=note), policy)
    assert (notice.kind, notice.automatic) == (Kind.STATUS, Automatic.NOTICE)
    assert (question.kind, question.body) == (Kind.QUESTION, "red or blue?")
    [asked] = drafted(turn_end(Outcome.BLOCKED, finish=note))
    assert (asked.kind, asked.body) == (Kind.QUESTION, "red or blue?")


def kept_of(record: Settlement) -> list[SettledItem]:
    return [one for one in record.items if one.state is ItemState.KEPT]


def test_what_is_kept_says_why_and_is_nobodys_word_but_the_agents() -> None:
    [kept] = kept_of(settled(turn_end(Outcome.FAILED, drafts=[STAGED]), max_retries=0))
    assert (kept.why, kept.own) == ("its turn did not end well: 1 failed attempt", False)
    [stopped] = kept_of(settled(turn_end(Outcome.FAILED, drafts=[STAGED], stop=StopAsked(AfterStop.ASK, NOW))))
    assert stopped.why == "its turn did not end well: stopped by hand; its sender is asked"
    lost = msgspec.structs.replace(STAGED, key="k9", to=("nobody",))
    [refused] = kept_of(settled(turn_end(Outcome.FAILED, drafts=[lost]), max_retries=0))
    assert refused.why == "there is no nobody"
    long = turn_end(Outcome.FAILED, drafts=[STAGED], stop=StopAsked(AfterStop.ASK, NOW, "x" * 500))
    assert len(kept_of(settled(long))[0].why) == len("its turn did not end well: ") + 300


def test_who_is_blocked_without_a_word_needs_a_decision() -> None:
    note = FinishNote(FinishKind.BLOCKED)
    end = turn_end(Outcome.DONE, finish=note, text="")
    silent = msgspec.structs.replace(end, judgement=msgspec.structs.replace(end.judgement, detail=""))
    record = settled(silent)
    assert (record.outcome, record.detail, record.question) == (
        Outcome.BLOCKED,
        "asks a human",
        "The agent needs a decision.",
    )
    assert settled(end).detail == "detail"
    # With no note at all it is asked with its own words.
    assert settled(turn_end(Outcome.BLOCKED, text="")).question == "detail"


def test_words_that_are_no_text_are_sent_as_far_as_they_are() -> None:
    half = "\ud800" + "x" * MAX_WORDS
    [item] = settled(turn_end(Outcome.DONE, text=half)).items
    assert item.item.payload.startswith("?xxx")
    [cut] = settled(turn_end(Outcome.DONE, text="x" + "ü" * MAX_WORDS)).items
    assert cut.item.payload.partition("\n")[0] == "x" + "ü" * (MAX_WORDS // 2 - 1)


def test_the_mark_of_a_further_message_is_the_same_each_time() -> None:
    assert (mark_of("m-1"), mark_of("")) == ("-a461b472cb41", "")
    assert len(mark_of("\ud800")) == 13


def test_what_cannot_be_composed_is_kept_as_it_was_to_be() -> None:
    to_two = Draft("k8", Action.SEND, 5.0, to=("nobody", "bob"), thread="other", body="hello")
    [item] = settled(turn_end(Outcome.DONE, drafts=[to_two])).items
    assert item == SettledItem(
        Outgoing("k8", "nobody, bob", "other", "hello"), ItemState.REFUSED, "there is no nobody", to_two
    )
    [without] = settled(turn_end(Outcome.DONE, drafts=[msgspec.structs.replace(to_two, thread="")])).items
    assert without.item.thread == ENVELOPE.thread


@pytest.mark.parametrize(
    ("action", "to", "why"),
    [
        (Action.REPLY, (), "no way back"),
        (Action.REPLY, ("bob",), "refused"),
        (Action.SEND, ("bob",), "refused"),
        (Action.SEND, (), "refused"),
    ],
)
def test_a_reply_that_has_no_way_back_says_so(action: Action, to: tuple[str, ...], why: str) -> None:
    end = turn_end(Outcome.DONE, drafts=[Draft("k7", action, 5.0, to=to, body="x")])
    end.record.no_way = "no way back"
    record = decide_settlement(end, POLICY, lambda *_: Refused("refused"))
    assert [item.why for item in record.items if item.draft in end.sealed.drafts] == [why]


def test_a_word_of_ours_that_the_mailbox_refuses_is_kept_too() -> None:
    policy = WatchPolicy(Path("/w"), max_retries=0)
    [notice] = decide_settlement(turn_end(Outcome.FAILED, address="me"), policy, lambda *_: Refused("full")).items
    assert (notice.state, notice.why, notice.own) == (ItemState.REFUSED, "full", True)


def test_mail_to_oneself_is_made_of_the_same_message() -> None:
    origins: list[Message | None] = []

    def itself(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
        origins.append(origin)
        return (Outgoing(f"{turn_id}-{draft.key}", "me", "thread", draft.automatic.value),)

    end = turn_end(Outcome.DONE, drafts=[STAGED], address="me")
    decide_settlement(end, POLICY, itself)
    assert origins == [end.origin, end.origin]
    # Whoever has no address writes to nobody of that name; what goes elsewhere is no mail to itself.
    assert [item.item.payload for item in decide_settlement(turn_end(Outcome.DONE), POLICY, itself).items] == [
        Automatic.AUTO_REPLY.value
    ]
    assert sent(settled(turn_end(Outcome.DONE, address="me"))) == ["auto-reply"]
    elsewhere = turn_end(Outcome.DONE, address="me", drafts=[Draft("k4", Action.SEND, 5.0, to=("bob",), body="x")])
    assert sent(settled(elsewhere)) == ["k4"]


# Sessions and what they cost.


def observed(session_id: str | None, usage: Usage | None) -> Observation:
    return Observation(session_id=session_id, usage=usage, worked=True)


def entry(name: str, **changes: Any) -> SessionEntry:
    known = SessionEntry(name, 2, "then", "then", "claude", generation=7, spent=Usage(100, 10, 1.0))
    return msgspec.structs.replace(known, **changes)


def test_a_lost_session_leaves_the_moment_and_the_runtime() -> None:
    record = settled(turn_end(Outcome.SESSION_LOST, session=entry("s-1"), resume="s-1"))
    assert record.session is not None
    assert record.session.entry == SessionEntry(last_used_at=iso(NOW), runtime="claude", generation=8)


def test_a_bound_session_knows_what_it_has_spent() -> None:
    seen = Usage(150, 20, 1.5, of_session=True)
    end = turn_end(Outcome.DONE, session=entry("s-1"), resume="s-1", observation=observed("s-1", seen))
    record = settled(end)
    assert record.usage == Usage(50, 10, 0.5)
    assert record.session is not None
    assert record.session.entry.spent == seen
    # One that said nothing has spent what it had.
    silent = settled(turn_end(Outcome.DONE, session=entry("s-1"), resume="s-1", observation=observed("s-1", None)))
    assert silent.session is not None
    assert silent.session.entry.spent == Usage(100, 10, 1.0)
    # And another one nothing yet.
    other = settled(turn_end(Outcome.DONE, session=entry("s-1"), observation=observed("s-2", None)))
    assert other.session is not None
    assert other.session.entry.spent == Usage()


def test_a_session_that_was_not_named_again_is_the_one_that_was_resumed() -> None:
    seen = Usage(150, 20, 1.5, of_session=True)
    end = turn_end(Outcome.DONE, session=entry("s-1"), resume="s-1", observation=observed(None, seen))
    assert settled(end).usage == Usage(50, 10, 0.5)


def test_a_rerun_counts_from_what_its_own_session_had_spent() -> None:
    own = Provisional("own", "claude", Outcome.LIMITED, Usage(30, 3, 0.25))
    seen = Usage(50, 5, 0.75, of_session=True)
    end = turn_end(Outcome.DONE, session=entry("s-1"), rerun=rerun(provisional=own), observation=observed("own", seen))
    assert settled(end).usage == Usage(20, 2, 0.5)
    resumed = turn_end(
        Outcome.DONE, session=entry("s-1"), rerun=rerun(provisional=own), observation=observed("s-1", seen)
    )
    assert settled(resumed).usage == Usage(0, 0, 0.0)
