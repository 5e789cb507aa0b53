"""A turn's end becomes its settlement: what is sent, what is bound, what is kept for the rerun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.approvals.calls import Call
from agent_mailer.clock import iso
from agent_mailer.mailbox.port import Action, Automatic, Draft, Envelope, Kind, Message, Outgoing, Refused
from agent_mailer.names import whole_digest
from agent_mailer.outcomes import AutoReply, Judgement, Outcome
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.reservations.port import Doubt, How, Touched
from agent_mailer.runtimes.port import Observation, Result, Usage
from agent_mailer.state.records import (
    AfterStop,
    Attempt,
    ItemState,
    Pause,
    PauseReason,
    Phase,
    Provisional,
    RetryEntry,
    SessionEntry,
    Settlement,
    StopAsked,
    TurnRecord,
)
from agent_mailer.turn_tools.folder import FinishKind, FinishNote, Sealed
from agent_mailer.watch.deciding import HISTORY_KEPT, MAX_WORDS, TurnEnd, decide_settlement
from agent_mailer.watch.rules import WatchPolicy

NOW = 2_000_000_000.0
ENVELOPE = Envelope("m-1", "thread", "user", 0.0, "1", "m-1.md")
PROCESS = ProcessIdentity(4242, 1, "boot")
STAGED = Draft("k1", Action.REPLY, 5.0, body="staged")
PROMPT = Draft("k2", Action.REPLY, 6.0, body="at once", at_once=True)
ENDS_BADLY = [outcome for outcome in Outcome if not outcome.settles and outcome is not Outcome.ASKED]


def compose(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
    """A mailbox that takes everything but what is for `nobody`."""
    assert origin is not None
    if "nobody" in draft.to:
        return Refused("there is no nobody")
    first, *others = draft.to or (origin.envelope.sender,)
    ids = [f"{turn_id}-{draft.key}", *(f"{turn_id}-{draft.key}-{name}" for name in others)]
    return [Outgoing(id_, to, "thread", draft.body) for id_, to in zip(ids, (first, *others), strict=True)]


def rerun(**changes: Any) -> RetryEntry:
    history = (Attempt("turn-0", Outcome.FAILED, "before", 1.0),)
    return msgspec.structs.replace(RetryEntry(ENVELOPE, 1, 1, history=history, revision=4), **changes)


def turn_end(
    outcome: Outcome, *, drafts: Sequence[Draft] = (), finish: FinishNote | None = None, **changes: Any
) -> TurnEnd:
    """A turn that worked in the new session `s-new` and said `words`; `changes` are fields of TurnEnd or its parts."""
    record = TurnRecord(
        "turn-1", ENVELOPE, Phase.RUNNING, "claude", NOW - 20, generation=7, process=PROCESS, started_at=NOW - 10
    )
    for name in ("resume", "rerun", "starts", "process", "started_at"):
        if name in changes:
            setattr(record, name, changes.pop(name))
    envelope = msgspec.structs.replace(ENVELOPE, automatic=changes.pop("automatic", Automatic.NO))
    observation = Observation(
        session_id=changes.pop("session_id", "s-new"), usage=Usage(10, 20, 0.5), worked=changes.pop("worked", True)
    )
    if outcome is Outcome.ASKED:
        observation.result = Result(outcome, asked=Call("Bash", '{"command":"git push"}', "call-1"))
    text = changes.pop("text", " words ")
    end = TurnEnd(
        record=record,
        origin=Message(envelope, "subject", "body"),
        judgement=Judgement(outcome, "detail", text, changes.pop("retry_at", None)),
        observation=observation,
        sealed=Sealed(tuple(drafts), finish),
        resumes=True,
        session=None,
        pause=None,
        transcript_bytes=100,
        answered=False,
        ended=NOW,
        now=NOW,
        jitter=0.5,
    )
    return msgspec.structs.replace(end, **changes)


def settled(end: TurnEnd, **policy: Any) -> Settlement:
    return decide_settlement(end, WatchPolicy(Path("/w"), **policy), compose)


def sent(settlement: Settlement) -> list[str]:
    """The keys of what leaves."""
    return [item.item.id.removeprefix("turn-1-") for item in settlement.items if item.state is ItemState.PENDING]


# What leaves.


def test_a_good_end_sends_what_was_staged_and_nothing_of_its_own() -> None:
    for outcome in (Outcome.DONE, Outcome.BLOCKED):
        assert sent(settled(turn_end(outcome, drafts=[STAGED, PROMPT]))) == ["k1", "k2"]


@pytest.mark.parametrize("outcome", ENDS_BADLY)
def test_a_bad_end_sends_only_what_was_to_leave_at_once(outcome: Outcome) -> None:
    settlement = settled(turn_end(outcome, drafts=[STAGED, PROMPT], rerun=rerun(sent=("earlier",))))
    assert sent(settlement) == ["k2"]
    assert settlement.retry is not None
    assert settlement.retry.sent == ("earlier", "a message to user")
    assert settlement.retry.dropped == 1


TOUCHED = Touched("src/a", How.CHANGED, "planner", "src/**", Doubt.IDLE)
TO_PLANNER = f"touched-{whole_digest('planner')[:16]}"


def test_what_changed_of_others_is_in_the_record_and_told_to_them_however_the_turn_ended() -> None:
    good = settled(turn_end(Outcome.DONE, drafts=[STAGED], touched=(TOUCHED,)))
    assert (sent(good), good.touched) == (["k1", TO_PLANNER], (TOUCHED,))
    assert [item.own for item in good.items] == [False, True]
    assert "src/a (planner has src/**" in good.items[0].item.payload
    bad = settled(turn_end(Outcome.FAILED, drafts=[STAGED], touched=(TOUCHED,)))
    assert sent(bad) == [TO_PLANNER]
    assert bad.retry is not None
    assert bad.retry.sent == (), "no mail of the agent's own"
    assert settled(turn_end(Outcome.DONE)).touched == ()


def test_a_holder_is_told_once_for_all_messages_of_a_turn_and_never_is_the_agent_itself() -> None:
    assert sent(settled(turn_end(Outcome.DONE, drafts=[STAGED], touched=(TOUCHED,), mark="-m"))) == ["k1"]
    assert sent(settled(turn_end(Outcome.DONE, drafts=[STAGED], touched=(TOUCHED,), address="planner"))) == ["k1"]


@pytest.mark.parametrize("then", [None, AfterStop.ASK, AfterStop.DROP])
@pytest.mark.parametrize("earlier", [(), (STAGED,)])
def test_what_was_staged_is_kept_where_nobody_writes_it_anew(
    then: AfterStop | None, earlier: tuple[Draft, ...]
) -> None:
    drafts = [PROMPT, *(() if earlier else (STAGED,))]
    stop = StopAsked(then, NOW) if then is not None else None
    outcome = Outcome.FAILED if then is None else Outcome.INTERRUPTED
    end = turn_end(outcome, drafts=drafts, earlier=earlier, stop=stop, process=PROCESS)
    settlement = settled(end, max_retries=0)
    assert settlement.finished
    kept = [entry for entry in settlement.items if entry.state is ItemState.KEPT]
    assert [entry.item.id for entry in kept] == ([] if then is AfterStop.DROP else ["turn-1-k1"])
    assert not any(entry.own for entry in kept)
    assert settled(turn_end(outcome, drafts=drafts, earlier=earlier), max_retries=9).retry is not None


def test_a_question_of_a_turn_that_failed_for_good_is_kept_too() -> None:
    note = FinishNote(FinishKind.BLOCKED, "red or blue?")
    settlement = settled(turn_end(Outcome.CRASHED, drafts=[STAGED], finish=note), max_retries=0)
    kept = {entry.item.id: entry.item.payload for entry in settlement.items if entry.state is ItemState.KEPT}
    assert kept == {"turn-1-k1": "staged", "turn-1-question": "red or blue?"}
    [notice] = [entry.item.payload for entry in settlement.items if entry.own]
    assert "What the agent wrote for it (2) is kept" in notice


@pytest.mark.parametrize("outcome", ENDS_BADLY)
def test_a_bad_end_never_answers_with_its_last_words(outcome: Outcome) -> None:
    assert sent(settled(turn_end(outcome), auto_reply=AutoReply.ALWAYS)) == []


NO_REPLY = FinishNote(FinishKind.DONE, reply_wanted=False)


@pytest.mark.parametrize(
    ("mode", "changes", "answers"),
    [
        (AutoReply.IF_SILENT, {}, True),
        (AutoReply.IF_SILENT, {"drafts": [STAGED]}, False),
        (AutoReply.IF_SILENT, {"drafts": [PROMPT]}, True),
        (AutoReply.IF_SILENT, {"drafts": [PROMPT, STAGED]}, False),
        (AutoReply.IF_SILENT, {"answered": True}, False),
        (AutoReply.IF_SILENT, {"text": " \n"}, False),
        (AutoReply.IF_SILENT, {"finish": NO_REPLY}, False),
        (AutoReply.IF_SILENT, {"finish": FinishNote(FinishKind.DONE)}, True),
        (AutoReply.IF_SILENT, {"automatic": Automatic.AUTO_REPLY}, False),
        (AutoReply.IF_SILENT, {"automatic": Automatic.NOTICE}, False),
        (AutoReply.ALWAYS, {"drafts": [STAGED]}, True),
        (AutoReply.ALWAYS, {"finish": NO_REPLY}, False),
        (AutoReply.ALWAYS, {"automatic": Automatic.AUTO_REPLY}, False),
        (AutoReply.ALWAYS, {"text": ""}, False),
        (AutoReply.NEVER, {}, False),
    ],
)
def test_the_automatic_answer(mode: AutoReply, changes: dict[str, Any], answers: bool) -> None:
    settlement = settled(turn_end(Outcome.DONE, **changes), auto_reply=mode)
    assert ("auto-reply" in sent(settlement)) is answers
    if answers:
        [item] = [item.item for item in settlement.items if item.item.id.endswith("auto-reply")]
        assert item.payload == "words"


def test_an_automatic_answer_says_that_it_is_one() -> None:
    seen: list[Draft] = []

    def watch(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
        seen.append(draft)
        return compose(draft, origin, turn_id)

    decide_settlement(turn_end(Outcome.DONE), WatchPolicy(Path("/w")), watch)
    decide_settlement(turn_end(Outcome.DONE, drafts=[STAGED]), WatchPolicy(Path("/w")), watch)
    decide_settlement(turn_end(Outcome.FAILED), WatchPolicy(Path("/w"), max_retries=0), watch)
    assert [d.automatic for d in seen] == [Automatic.AUTO_REPLY, Automatic.NO, Automatic.NOTICE]


@pytest.mark.parametrize(
    ("changes", "keys", "question"),
    [
        ({"finish": FinishNote(FinishKind.BLOCKED, "red?")}, ["question"], "red?"),
        ({"finish": FinishNote(FinishKind.BLOCKED, "red?"), "drafts": [STAGED]}, ["k1", "question"], "red?"),
        ({"finish": FinishNote(FinishKind.BLOCKED, " ")}, ["question"], "words"),
        ({"finish": FinishNote(FinishKind.BLOCKED), "text": ""}, ["question"], "detail"),
        ({"finish": FinishNote(FinishKind.BLOCKED), "drafts": [STAGED]}, ["k1"], "words"),
        ({"finish": FinishNote(FinishKind.BLOCKED), "drafts": [PROMPT]}, ["k2", "question"], "words"),
    ],
)
def test_who_says_blocked_asks_and_is_settled(changes: dict[str, Any], keys: list[str], question: str) -> None:
    """The note turns a done into a blocked: nothing is answered automatically, the question goes to the sender."""
    settlement = settled(turn_end(Outcome.DONE, **changes), auto_reply=AutoReply.ALWAYS)
    assert (settlement.outcome, settlement.finished, settlement.retry) == (Outcome.BLOCKED, True, None)
    assert sent(settlement) == keys
    assert settlement.question == question


@pytest.mark.parametrize("outcome", ENDS_BADLY)
def test_a_word_of_being_blocked_makes_no_bad_end_good(outcome: Outcome) -> None:
    settlement = settled(turn_end(outcome, finish=FinishNote(FinishKind.BLOCKED, "red?")))
    assert settlement.outcome is not Outcome.BLOCKED
    assert sent(settlement) == []
    assert settlement.question == ""


def test_what_the_mailbox_refuses_is_kept_and_does_not_undo_the_turn() -> None:
    lost = Draft("k9", Action.SEND, 5.0, to=("nobody",), body="into the void")
    settlement = settled(turn_end(Outcome.DONE, drafts=[lost, STAGED]))
    assert (settlement.outcome, settlement.finished) == (Outcome.DONE, True)
    [refused] = [item for item in settlement.items if item.state is ItemState.REFUSED]
    assert (refused.why, refused.item.payload, refused.item.recipient) == (
        "there is no nobody",
        "into the void",
        "nobody",
    )
    assert sent(settlement) == ["k1"]


def test_what_was_refused_is_not_told_as_sent() -> None:
    lost = msgspec.structs.replace(PROMPT, to=("nobody",))
    settlement = settled(turn_end(Outcome.FAILED, drafts=[lost]))
    assert settlement.retry is not None
    assert settlement.retry.sent == ()


# What becomes of the message.


@pytest.mark.parametrize("outcome", list(Outcome))
def test_one_of_three_ends(outcome: Outcome) -> None:
    settlement = settled(turn_end(outcome, resume="s-old"))
    assert settlement.finished is (settlement.retry is None)
    assert settlement.dead is None
    assert settlement.finished is outcome.settles
    if settlement.retry is not None:
        assert settlement.retry.attempts == (1 if outcome.counts else 0)


@pytest.mark.parametrize("automatic", list(Automatic))
def test_giving_up_tells_the_sender_once_and_never_answers_a_notice(automatic: Automatic) -> None:
    end = turn_end(Outcome.CRASHED, rerun=rerun(attempts=3), starts=4, automatic=automatic, drafts=[STAGED, PROMPT])
    settlement = settled(end)
    assert settlement.finished
    assert settlement.retry is None
    assert sent(settlement) == ["k2", *(["notice"] if automatic is not Automatic.NOTICE else [])]
    dead = settlement.dead
    assert dead is not None
    assert (dead.msg_id, dead.thread_id, dead.retries, dead.stuck_at) == ("m-1", "thread", 3, iso(NOW))
    assert [attempt.turn_id for attempt in dead.history] == ["turn-0", "turn-1"]
    assert dead.envelope == ENVELOPE


@pytest.mark.parametrize("outcome", ENDS_BADLY)
def test_too_many_starts_end_it_with_one_notice(outcome: Outcome) -> None:
    settlement = settled(turn_end(outcome, rerun=rerun(starts=9), starts=10))
    assert settlement.dead is not None
    assert sent(settlement) == ["notice"]
    assert "10 starts" in settlement.items[0].item.payload
    assert "agent-mailer dead-letter retry m-1" in settlement.items[0].item.payload


@pytest.mark.parametrize("outcome", [Outcome.LIMITED, Outcome.SIGNED_OUT, Outcome.UNAVAILABLE])
def test_a_start_that_met_a_limit_before_any_work_does_not_count(outcome: Outcome) -> None:
    for worked, starts in ((True, 5), (False, 4)):
        settlement = settled(turn_end(outcome, rerun=rerun(starts=4), starts=5, worked=worked))
        assert settlement.retry is not None
        assert settlement.retry.starts == starts


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.INTERRUPTED])
def test_any_other_start_counts_though_nothing_was_seen_of_it(outcome: Outcome) -> None:
    settlement = settled(turn_end(outcome, starts=5, worked=False))
    assert settlement.retry is not None
    assert settlement.retry.starts == 5


def test_where_nothing_ran_nothing_counts_and_nothing_is_history() -> None:
    settlement = settled(turn_end(Outcome.INTERRUPTED, rerun=rerun(), starts=2, process=None, started_at=None))
    assert settlement.retry is not None
    assert (settlement.retry.attempts, settlement.retry.starts) == (1, 1)
    assert settlement.retry.history == rerun().history


def test_a_revision_grows_with_every_settlement() -> None:
    for before, after in ((None, 1), (rerun(), 5)):
        settlement = settled(turn_end(Outcome.FAILED, rerun=before))
        assert settlement.retry is not None
        assert settlement.retry.revision == after


def test_history_is_bounded_and_keeps_the_newest() -> None:
    long = tuple(Attempt(f"turn-{n}", Outcome.LIMITED, "", 0.0) for n in range(HISTORY_KEPT + 5))
    settlement = settled(turn_end(Outcome.FAILED, rerun=rerun(history=long)))
    assert settlement.retry is not None
    assert len(settlement.retry.history) == HISTORY_KEPT
    assert settlement.retry.history[-1].turn_id == "turn-1"


def test_details_are_one_bounded_line() -> None:
    end = turn_end(Outcome.FAILED)
    end = msgspec.structs.replace(end, judgement=Judgement(Outcome.FAILED, "a\nb\x1b[2J" + "x" * 5000))
    settlement = settled(end, max_retries=0)
    assert settlement.dead is not None
    for text in (settlement.detail, settlement.dead.last_error, settlement.dead.history[-1].detail):
        assert text.isprintable()
        assert len(text) <= 600


def test_a_clock_that_went_back_gives_no_negative_time() -> None:
    assert settled(turn_end(Outcome.DONE, started_at=NOW + 3600)).seconds == 0.0


# Sessions (I5).


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_finished_turn_binds_the_session(outcome: Outcome) -> None:
    change = settled(turn_end(outcome)).session
    if not outcome.settles:
        assert change is None
        return
    assert change is not None
    assert (change.thread, change.expected) == ("thread", 7)
    entry = change.entry
    assert (entry.session_id, entry.turn_count, entry.generation) == ("s-new", 1, 8)
    assert (entry.first_seen_at, entry.last_used_at, entry.runtime) == (iso(NOW), iso(NOW), "claude")


def test_a_resumed_session_grows_and_a_new_one_starts_at_one() -> None:
    known = SessionEntry("s-old", 4, "first", "before", "claude", 1000, 7)
    for seen, turns, first, size in (
        ("s-old", 5, "first", 1100),
        (None, 5, "first", 1100),
        ("s-new", 1, iso(NOW), 100),
    ):
        change = settled(turn_end(Outcome.DONE, resume="s-old", session=known, session_id=seen)).session
        assert change is not None
        entry = change.entry
        assert (entry.turn_count, entry.first_seen_at, entry.transcript_bytes) == (turns, first, size)
        assert entry.session_id == (seen or "s-old")


def test_a_session_changed_meanwhile_is_not_expected_any_more() -> None:
    """The generation is that of the start: whoever writes compares it with what is there now."""
    invalidated = SessionEntry(last_used_at=iso(NOW), runtime="claude", generation=8)
    change = settled(turn_end(Outcome.DONE, session=invalidated)).session
    assert change is not None
    assert change.entry.generation == 8


@pytest.mark.parametrize("changes", [{"resumes": False}, {"session_id": None}, {"session_id": ""}])
def test_no_session_nothing_bound(changes: dict[str, Any]) -> None:
    assert settled(turn_end(Outcome.DONE, **changes)).session is None


def test_a_lost_session_is_dropped_and_costs_no_attempt() -> None:
    known = SessionEntry("s-old", 4, "first", "before", "claude", 1000, 7)
    settlement = settled(turn_end(Outcome.SESSION_LOST, resume="s-old", session=known, session_id=None))
    assert settlement.session is not None
    assert settlement.session.entry.session_id == ""
    assert settlement.session.entry.generation == 8
    assert settlement.retry is not None
    assert settlement.retry.session_lost
    assert (settlement.retry.attempts, settlement.retry.not_before) == (0, NOW)
    assert settlement.retry.provisional is None


def test_a_lost_session_that_is_not_the_threads_leaves_the_threads_alone() -> None:
    known = SessionEntry("other", 4, "first", "before", "claude", 1000, 7)
    settlement = settled(turn_end(Outcome.SESSION_LOST, resume="own", session=known, session_id=None, rerun=rerun()))
    assert (settlement.outcome, settlement.session) == (Outcome.SESSION_LOST, None)


@pytest.mark.parametrize(
    "changes",
    [{"resume": None}, {"resume": "s", "rerun": rerun(session_lost=True)}],
    ids=["none", "second"],
)
def test_a_session_is_lost_once_per_message(changes: dict[str, Any]) -> None:
    settlement = settled(turn_end(Outcome.SESSION_LOST, **changes))
    assert settlement.outcome is Outcome.FAILED
    assert settlement.retry is not None
    assert settlement.retry.attempts == (2 if "rerun" in changes else 1)


@pytest.mark.parametrize("outcome", ENDS_BADLY)
def test_a_session_with_work_in_it_is_kept_for_the_rerun(outcome: Outcome) -> None:
    for named, session in (("s-new", "s-new"), (None, "s-old")):
        retry = settled(turn_end(outcome, resume="s-old", session_id=named)).retry
        assert retry is not None
        assert retry.provisional == (Provisional(session, "claude", outcome) if outcome.keeps_session else None)


def test_without_work_the_rerun_keeps_what_it_had() -> None:
    had = Provisional("own", "claude", Outcome.CRASHED)
    for before, kept in ((None, None), (rerun(), None), (rerun(provisional=had), had)):
        retry = settled(turn_end(Outcome.LIMITED, worked=False, rerun=before)).retry
        assert retry is not None
        assert retry.provisional == kept


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.UNAVAILABLE, Outcome.FAILED])
@pytest.mark.parametrize("resumes", [True, False])
def test_where_nothing_ran_the_rerun_is_told_what_it_was_to_be_told(outcome: Outcome, resumes: bool) -> None:
    """Its session is not even chosen where the claim fails; begun work would begin again from nothing."""
    had = rerun(provisional=Provisional("own", "claude", Outcome.LIMITED), dropped=2, sent=("earlier",))
    nothing: dict[str, Any] = {"process": None, "session_id": None, "worked": False, "resumes": resumes}
    retry = settled(turn_end(outcome, rerun=had, **nothing)).retry
    assert retry is not None
    assert (retry.provisional, retry.dropped, retry.sent, retry.history) == (
        had.provisional,
        had.dropped,
        had.sent,
        had.history,
    )
    first = settled(turn_end(outcome, **nothing)).retry
    assert first is not None
    assert (first.provisional, first.dropped) == (None, 0)


def test_a_runtime_that_resumes_nothing_keeps_nothing() -> None:
    retry = settled(turn_end(Outcome.CRASHED, resumes=False)).retry
    assert retry is not None
    assert retry.provisional is None


# The account.


def test_the_pause_is_part_of_the_record() -> None:
    limited = settled(turn_end(Outcome.LIMITED, retry_at=NOW + 60)).pause
    assert limited is not None
    assert limited.until == NOW + 60 + 2.5
    standing = Pause(PauseReason.LIMITED, NOW - 5, NOW - 1)
    assert settled(turn_end(Outcome.DONE, pause=standing)).pause is None
    by_hand = Pause(PauseReason.BY_HAND, NOW - 5)
    assert settled(turn_end(Outcome.DONE, pause=by_hand)).pause == by_hand


def test_the_question_is_marked_as_one() -> None:
    seen: list[Kind | None] = []

    def watch(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
        seen.append(draft.kind)
        return compose(draft, origin, turn_id)

    decide_settlement(turn_end(Outcome.BLOCKED), WatchPolicy(Path("/w")), watch)
    assert seen == [Kind.QUESTION]


def test_usage_is_taken_over() -> None:
    assert settled(turn_end(Outcome.FAILED)).usage == Usage(10, 20, 0.5)


def test_what_a_failed_turn_spent_in_the_session_is_not_counted_again() -> None:
    before = SessionEntry("s-1", turn_count=2, runtime="claude", generation=7, spent=Usage(100, 10, 1.0))
    seen = Usage(150, 20, 1.5, of_session=True)
    observation = Observation(session_id="s-1", usage=seen)
    failed = settled(turn_end(Outcome.FAILED, session=before, observation=observation, resume="s-1"))
    assert failed.usage == Usage(50, 10, 0.5)
    assert failed.session is not None
    entry = failed.session.entry
    assert (entry.session_id, entry.turn_count, entry.generation, entry.spent) == ("s-1", 2, 8, seen)
    # Of another session than the thread's, or of the turn alone, nothing is spent there.
    elsewhere = msgspec.structs.replace(observation, session_id="s-2")
    alone = msgspec.structs.replace(observation, usage=Usage(50, 10, 0.5))
    for other in (elsewhere, alone):
        assert settled(turn_end(Outcome.FAILED, session=before, observation=other, resume="s-1")).session is None


def test_denied_tools_do_not_block_a_turn_that_has_answered_in_its_mail() -> None:
    assert settled(turn_end(Outcome.BLOCKED, drafts=[STAGED], text="")).outcome is Outcome.DONE
    assert settled(turn_end(Outcome.BLOCKED, drafts=[PROMPT], text="")).outcome is Outcome.BLOCKED
    assert settled(turn_end(Outcome.BLOCKED, text="")).outcome is Outcome.BLOCKED
    assert settled(turn_end(Outcome.BLOCKED, drafts=[STAGED], text="red or blue?")).outcome is Outcome.BLOCKED
    asked = FinishNote(FinishKind.BLOCKED, "red or blue?")
    assert settled(turn_end(Outcome.BLOCKED, drafts=[STAGED], text="", finish=asked)).outcome is Outcome.BLOCKED
    for drafts, wanted, ends in (
        ([], True, Outcome.BLOCKED),
        ([PROMPT], True, Outcome.BLOCKED),
        ([STAGED], True, Outcome.DONE),
        ([], False, Outcome.DONE),
    ):
        said = FinishNote(FinishKind.DONE, reply_wanted=wanted)
        assert settled(turn_end(Outcome.BLOCKED, drafts=drafts, text="", finish=said)).outcome is ends


# A person stopped it.


@pytest.mark.parametrize("outcome", ENDS_BADLY)
def test_a_stopped_turn_says_nothing_of_message_or_account(outcome: Outcome) -> None:
    settlement = settled(turn_end(outcome, stop=StopAsked(AfterStop.RETRY, 1.0), rerun=rerun(), starts=2))
    assert (settlement.outcome, settlement.finished, settlement.pause) == (Outcome.INTERRUPTED, False, None)
    assert settlement.retry is not None
    assert (settlement.retry.attempts, settlement.retry.starts) == (1, 2)


@pytest.mark.parametrize(("then", "key"), [(AfterStop.DROP, "notice"), (AfterStop.ASK, "question")])
def test_what_a_person_asked_for_instead_of_a_retry(then: AfterStop, key: str) -> None:
    end = turn_end(Outcome.FAILED, drafts=[STAGED], stop=StopAsked(then, 1.0, "why not"))
    settlement = settled(end, max_retries=0)
    assert (settlement.outcome, settlement.finished, settlement.dead) == (Outcome.INTERRUPTED, True, None)
    assert sent(settlement) == [key]
    assert "why not" in settlement.items[0].item.payload
    asking = msgspec.structs.replace(end, sealed=Sealed((STAGED,), FinishNote(FinishKind.BLOCKED, "red or blue?")))
    assert [one.item.id for one in settled(asking).items] == [one.item.id for one in settlement.items], "one question"
    assert (settlement.session is not None) == (then is AfterStop.ASK), "an answer goes on in the session"


@pytest.mark.parametrize("then", AfterStop)
@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.BLOCKED])
def test_what_ended_well_in_spite_of_a_stop_stands(outcome: Outcome, then: AfterStop) -> None:
    assert settled(turn_end(outcome, stop=StopAsked(then, 1.0))) == settled(turn_end(outcome))


def test_a_dropped_notice_is_answered_by_nobody() -> None:
    end = turn_end(Outcome.FAILED, automatic=Automatic.NOTICE, stop=StopAsked(AfterStop.DROP, 1.0))
    assert sent(settled(end)) == []


# What it would send to itself.


def itself(draft: Draft, origin: Message | None, turn_id: str) -> Sequence[Outgoing] | Refused:
    """A mailbox whose agent answers its own message."""
    return (Outgoing(f"{turn_id}-{draft.key}", draft.to[0] if draft.to else "me", "thread", draft.automatic.value),)


def test_mail_to_oneself_is_not_answered_by_itself() -> None:
    policy = WatchPolicy(Path("/w"), max_retries=0)
    for outcome in (Outcome.DONE, Outcome.BLOCKED, Outcome.FAILED):
        settlement = decide_settlement(turn_end(outcome, address="me"), policy, itself)
        assert settlement.items == ()
        assert settlement.finished


def test_what_an_earlier_turn_would_have_sent_to_itself_is_kept_too() -> None:
    end = turn_end(Outcome.FAILED, earlier=(STAGED,), address="me")
    [kept] = decide_settlement(end, WatchPolicy(Path("/w"), max_retries=0), itself).items
    assert (kept.state, kept.item.id) == (ItemState.KEPT, "turn-1-k1")


def test_a_reply_that_cannot_be_composed_is_kept_for_whom_it_was() -> None:
    for to, shown in ((), "user"), (("ann", "nobody"), "ann, nobody"):
        draft = Draft("k1", Action.REPLY, 5.0, to=to, body="staged")
        end = turn_end(Outcome.DONE, drafts=[draft])
        items = decide_settlement(end, WatchPolicy(Path("/w")), lambda *_: Refused("no way")).items
        assert [(one.item.recipient, one.state) for one in items] == [(shown, ItemState.REFUSED)]


def test_a_reply_to_oneself_stays_in_the_thread_and_starts_nothing() -> None:
    by_name = msgspec.structs.replace(STAGED, key="k3", to=("me",))
    settlement = decide_settlement(
        turn_end(Outcome.DONE, drafts=[STAGED, by_name, PROMPT], address="me"), WatchPolicy(Path("/w")), itself
    )
    assert [item.item.payload for item in settlement.items] == ["notice", "no", "notice"]


def test_long_words_are_cut_with_a_mark() -> None:
    words = "ü" * MAX_WORDS
    settlement = settled(turn_end(Outcome.DONE, text=words))
    body = settlement.items[0].item.payload
    assert body.startswith(words[: MAX_WORDS // 2])
    assert body.endswith(
        f"[cut here, after {MAX_WORDS} of {2 * MAX_WORDS} bytes; the whole is in the output of turn turn-1]"
    )
    gone = settled(turn_end(Outcome.DONE, text=words), keep_transcripts=0)
    assert gone.items[0].item.payload.endswith("bytes; the rest is not kept (keep_transcripts = 0)]")
    whole = settled(turn_end(Outcome.DONE, text="x" * MAX_WORDS)).items[0].item.payload
    assert whole == "x" * MAX_WORDS


def test_who_ended_its_turn_without_an_answer_blocks_nobody() -> None:
    note = FinishNote(FinishKind.DONE, reply_wanted=False)
    assert settled(turn_end(Outcome.BLOCKED, finish=note, text="")).outcome is Outcome.DONE
    assert settled(turn_end(Outcome.BLOCKED, text="")).outcome is Outcome.BLOCKED
