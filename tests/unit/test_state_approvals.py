"""A question, its answer, and which turn is told of it, over a real state folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.approvals.calls import Call
from agent_mailer.approvals.turn import Word
from agent_mailer.disk import Disk
from agent_mailer.state.approvals import UNREADABLE, Answer, Approval, Approvals, ApprovalState, By, Verdict
from agent_mailer.state.folder import StateFolder

NOW = 2_100_000_000.0
CALL = Call("Bash", '{"command":"git push"}', "call-7")
YES = Answer(Verdict.ALLOW, NOW, By.COMMAND)


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    found = StateFolder(tmp_path / ".agent-mailer", Disk(), FakeClock(NOW))
    found.prepare()
    return found


@pytest.fixture
def approvals(folder: StateFolder) -> Approvals:
    found = Approvals(folder)
    found.ask([Approval("q-1", "", CALL, CALL.digest, "t-1", "m", "th", "user", "", NOW, NOW + 3600)])
    return found


def known(approvals: Approvals) -> Approval:
    found = approvals.get("q-1")
    assert found is not None
    return found


def test_a_question_is_asked_once_and_keeps_its_code(folder: StateFolder, approvals: Approvals) -> None:
    first = known(approvals)
    assert len(first.code) == 8
    approvals.ask([msgspec.structs.replace(first, code="", token="", asked_at=NOW + 9)])
    assert known(Approvals(folder)) == first
    assert approvals.by_code(f" {first.code[:4].lower()} -{first.code[4:]} ") == first
    assert approvals.by_token(first.token) == first
    assert approvals.by_token("") is None


def test_of_several_questions_each_has_its_code_its_answer_and_its_end(folder: StateFolder) -> None:
    book = Approvals(folder)
    calls = [Call("Bash", f'{{"command":"{number}"}}') for number in range(3)]
    book.ask(
        Approval(f"q-{number}", "", one, one.digest, "t-1", "m", "th", "user", "", NOW, NOW + 60 * (number + 1))
        for number, one in enumerate(calls)
    )
    asked = book.all()
    assert [one.id for one in asked] == ["q-0", "q-1", "q-2"]
    assert [book.by_code(one.code) for one in asked] == [book.by_token(one.token) for one in asked] == asked
    names = [one.id for one in asked]
    due = book.dues(NOW)
    assert [due(names), due(names[:2]), due(["q-unknown"])] == [NOW + 180, NOW + 120, 0.0]
    for number, one in enumerate(asked[:2]):
        book.answer(one, msgspec.structs.replace(YES, at=NOW + number, always=True))
    assert [one.id for one in book.standing()] == ["q-0", "q-1"]
    due = book.dues(NOW)
    assert [due(names), due(names[:2])] == [NOW + 180, 0.0], "as long as one waits"
    book.close(names)
    assert [one.over for one in book.all()] == [True] * 3
    assert book.open() == []


def test_the_first_answer_counts_whoever_answers_next(approvals: Approvals) -> None:
    one = known(approvals)
    no = Answer(Verdict.DENY, NOW, By.MAIL, "not on a Friday", who="ann")
    assert approvals.answer(one, no) == no
    assert approvals.answer(one, YES) == no
    assert approvals.answer_to("q-1") == no
    assert sorted(path.suffix for path in approvals.folder.iterdir() if path.is_file()) == [".answer", ".json"]


def test_a_denial_is_told_with_its_reason_and_whatever_nobody_answered_has_expired(approvals: Approvals) -> None:
    approvals.answer(known(approvals), Answer(Verdict.DENY, NOW, By.COMMAND, "not on a Friday"))
    told = approvals.grant("q-1", "t-2")
    assert told is not None
    assert (told.word, told.reason, told.call_id, told.digest) == (Word.DENY, "not on a Friday", "call-7", CALL.digest)
    approvals.ask([msgspec.structs.replace(known(approvals), id="q-2")])
    late = approvals.grant("q-2", "t-2")
    assert late is not None
    assert late.word is Word.EXPIRED
    assert approvals.grant("q-3", "t-2") is None


@pytest.mark.parametrize(("back", "waits"), [(0.0, True), (86400.0, True), (86401.0, False)])
def test_nobody_waits_for_what_a_clock_that_was_far_ahead_has_asked(
    folder: StateFolder, approvals: Approvals, back: float, waits: bool
) -> None:
    clock = folder.clock
    assert isinstance(clock, FakeClock)
    clock.moment -= back
    for book in (approvals, Approvals(folder)):
        assert book.dues(clock.now())(["q-1"]) == (NOW + 3600 if waits else 0)


def test_an_answer_is_for_one_turn_and_for_another_only_where_that_one_left_it_unused(approvals: Approvals) -> None:
    approvals.answer(known(approvals), msgspec.structs.replace(YES, changed='{"command":"git push --dry-run"}'))

    def word(turn_id: str) -> Word:
        told = approvals.grant("q-1", turn_id)
        assert told is not None
        return told.word

    assert approvals.state_of(known(approvals)) is ApprovalState.ANSWERED
    assert [word("t-2"), word("t-2"), word("t-3")] == [Word.ALLOW, Word.ALLOW, Word.UNKNOWN]
    assert approvals.state_of(known(approvals)) is ApprovalState.GRANTED
    told = approvals.grant("q-1", "t-2")
    assert told is not None
    assert told.changed == '{"command":"git push --dry-run"}'
    # Another turn's end is not this one's.
    approvals.ended(["q-1"], "t-9", (), over=False)
    assert word("t-3") is Word.UNKNOWN
    approvals.ended(["q-1", "gone"], "t-2", (), over=False)
    assert word("t-3") is Word.ALLOW
    approvals.ended(["q-1"], "t-3", ["q-1"], over=False)
    assert approvals.state_of(known(approvals)) is ApprovalState.USED
    assert known(approvals).used == "t-3"
    # Done again it changes nothing.
    approvals.ended(["q-1"], "t-4", ["q-1"], over=False)
    assert known(approvals).used == "t-3"
    assert word("t-5") is Word.UNKNOWN


def test_of_a_message_that_is_over_nobody_is_asked(approvals: Approvals) -> None:
    assert [one.id for one in approvals.open()] == ["q-1"]
    due = approvals.dues(NOW)
    assert (due(["q-1", "gone"]), due(["gone"])) == (NOW + 3600, 0.0)
    approvals.ended(["q-1"], "t-1", (), over=True)
    assert approvals.open() == []
    assert approvals.state_of(known(approvals)) is ApprovalState.SETTLED
    assert known(approvals).used == ""
    approvals.ended(["q-1"], "t-2", (), over=False)
    assert known(approvals).over, "it is not opened again by a turn that knows less"
    approvals.answer(known(approvals), YES)
    late = approvals.grant("q-1", "t-2")
    assert late is not None
    assert late.word is Word.UNKNOWN


def test_what_cannot_be_an_answer_allows_nothing_and_nobody_answers_in_its_place(approvals: Approvals) -> None:
    one = known(approvals)
    (approvals.folder / "q-1.answer").write_bytes(b'{"verdict": "all')
    found = approvals.answer(one, YES)
    assert (found.verdict, found.reason) == (Verdict.EXPIRED, UNREADABLE)
    told = approvals.grant("q-1", "t-2")
    assert told is not None
    assert told.word is Word.EXPIRED
    # Nor is the copy of a question another one.
    (approvals.folder / "q-2.json").write_bytes((approvals.folder / "q-1.json").read_bytes())
    assert approvals.get("q-2") is None
    assert [found.id for found in approvals.all()] == ["q-1"]


def test_only_the_answer_that_counts_allows_for_good_and_only_what_was_asked(approvals: Approvals) -> None:
    one = known(approvals)
    for_good = msgspec.structs.replace(YES, always=True)
    approvals.answer(one, Answer(Verdict.DENY, NOW, By.MAIL))
    assert approvals.answer(one, for_good).verdict is Verdict.DENY
    assert approvals.standing() == ()
    for name, changed in (("q-2", '{"command":"git push --dry-run"}'), ("q-3", "")):
        other = msgspec.structs.replace(one, id=name)
        approvals.ask([other])
        approvals.answer(other, msgspec.structs.replace(for_good, changed=changed))
    assert [standing.id for standing in approvals.standing()] == ["q-3"]


def test_what_came_within_the_tick_of_the_folders_time_is_seen(approvals: Approvals) -> None:
    """As where its file system tells no finer moments, and its time stands still."""
    assert approvals.answered() == frozenset()
    at = approvals.folder.stat().st_mtime_ns
    approvals.answer(known(approvals), YES)
    os.utime(approvals.folder, ns=(at, at))
    assert approvals.answered() == {"q-1"}


def test_a_question_without_a_token_is_opened_by_no_link(folder: StateFolder, approvals: Approvals) -> None:
    path = approvals.folder / "q-1.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(known(approvals), token="")))
    assert Approvals(folder).by_token("") is None


def test_of_what_is_over_the_newest_are_kept_and_all_that_a_message_needs(
    approvals: Approvals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.state.approvals.KEPT", 2)
    for number in range(2, 7):
        one = msgspec.structs.replace(known(approvals), id=f"q-{number}", asked_at=NOW + number)
        approvals.ask([one])
        approvals.answer(one, YES)
    young, old = approvals.folder / ".tmp.q-8.0123456789ab", approvals.folder / ".tmp.q-9.0123456789ab"
    for path in (young, old):
        path.touch()
    os.utime(old, (0.0, 0.0))
    approvals.prune({"q-1", "q-3"})
    assert [one.id for one in approvals.all()] == ["q-1", "q-3", "q-5", "q-6"]
    assert approvals.answered() == {"q-3", "q-5", "q-6"}
    assert (young.exists(), old.exists()) == (True, False)
