"""What a person is told of, and in which words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import msgspec
import pytest

from agent_mailer.approvals.calls import Call
from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Automatic, Envelope, Kind
from agent_mailer.outcomes import Outcome
from agent_mailer.state.approvals import Approval, id_of
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.notices import Channel, Notice, NoticeBook, NoticeKind, Trouble, TroubleWith
from agent_mailer.state.records import DeadLetter, Pause, PauseReason, Phase, Settlement, TurnRecord
from agent_mailer.watch.occasions import lasts_from, of_questions, of_settlement, worth_telling
from agent_mailer.watch.telling import draft_of, facts_of

NOW = 2_000_000_000.0
EVIL = "x'; touch /tmp/pwned; echo $(id)\n-- <b>"
RECORD = TurnRecord("turn-1", Envelope(EVIL, EVIL, EVIL, 0.0, "1", "m"), Phase.SETTLING, "claude", NOW)


@pytest.mark.parametrize(
    ("pause", "told"),
    [
        (Pause(PauseReason.SIGNED_OUT, NOW, NOW + 30), True),
        (Pause(PauseReason.LIMITED, NOW, NOW + 30), False),
        (Pause(PauseReason.LIMITED, NOW, NOW + 90, probes=1), True),
        (Pause(PauseReason.LIMITED, NOW, NOW + 3600), True),
        (Pause(PauseReason.UNAVAILABLE, NOW, NOW + 37), False),
        (Pause(PauseReason.UNAVAILABLE, NOW, NOW + 60, probes=1), True),
        (Pause(PauseReason.SIGNED_OUT, NOW, NOW + 30, elsewhere=True), False),
        (Pause(PauseReason.BY_HAND, NOW), False),
    ],
)
def test_which_pause_is_worth_a_word(pause: Pause, told: bool) -> None:
    assert worth_telling(pause) is told


def test_a_refused_key_lasts_from_the_beginning() -> None:
    assert lasts_from(Trouble(TroubleWith.MAILBOX, "down", NOW), 300) == NOW + 300
    assert lasts_from(Trouble(TroubleWith.CREDENTIALS, "refused", NOW), 300) == NOW


def _settled(outcome: Outcome, dead: DeadLetter | None = None) -> Notice | None:
    return of_settlement(RECORD, Settlement(outcome, "agent words", NOW, 1.0, finished=True, dead=dead, question=EVIL))


def test_of_each_call_that_a_turn_asks_about_a_person_is_told_by_itself() -> None:
    calls = tuple(Call("Bash", json.dumps({"command": command}), f"c-{command}") for command in ("one", "two"))
    asks = Settlement(Outcome.ASKED, "x", NOW, 1.0, finished=False, asked=calls, asked_until=NOW + 60)
    told = of_questions(RECORD, asks)
    assert [one.question for one in told] == [id_of(RECORD.turn_id, call) for call in calls]
    assert len({one.id for one in told}) == 2
    assert {(one.kind, one.until) for one in told} == {(NoticeKind.APPROVAL, NOW + 60)}


def test_only_questions_and_messages_given_up_need_a_person() -> None:
    asked = _settled(Outcome.BLOCKED)
    gone = _settled(Outcome.TIMED_OUT, DeadLetter("m", retries=3))
    assert asked is not None
    assert gone is not None
    assert (asked.kind, asked.reason) == (NoticeKind.BLOCKED, "blocked")
    assert (gone.kind, gone.reason, gone.attempts) == (NoticeKind.DEAD_LETTER, "timed_out", 4)
    assert [outcome for outcome in Outcome if _settled(outcome) is not None] == [Outcome.BLOCKED]


@pytest.mark.parametrize("kind", list(NoticeKind))
def test_nothing_that_a_sender_or_an_agent_wrote_is_in_it(kind: NoticeKind) -> None:
    notice = Notice("n-1", kind, NOW, "limited", "turn-1", EVIL, EVIL, EVIL, until=NOW + 60, fix="df -h")
    facts = facts_of(notice, "coder", "/home/some one/coder", "host")
    written = msgspec.json.encode(facts).decode()
    assert "touch" not in written
    assert "agent words" not in written
    if kind is not NoticeKind.TROUBLE:
        assert shlex.split(facts.fix)[-2:] == ["-C", "/home/some one/coder"]
    draft = draft_of(notice, facts, "boss")
    assert "touch" not in draft.body + draft.subject
    assert facts.text in draft.body
    assert "\n" not in facts.text + draft.subject
    assert draft == draft_of(notice, facts, "boss")


def test_a_person_hears_all_that_is_known_of_what_he_is_asked_and_where() -> None:
    call = Call("Bash", '{"command":"git push"}', why="it is needed")
    asked = Approval("q-1", "ABCDEFGH", call, call.digest, "turn-1", "m-1", "th", "ann", "", NOW, NOW + 60)
    notice = Notice(
        "n-1", NoticeKind.APPROVAL, NOW, "asked", "turn-1", "m-1", "th", "ann", 2, NOW + 60, why="why", question="q-1"
    )
    facts = facts_of(notice, "coder", "/srv/coder", "host", asked, "http://127.0.0.1/x")
    until = "2033-05-18T03:34:20.000Z"
    assert (facts.id, facts.kind, facts.reason, facts.at, facts.until) == (
        "n-1", "approval", "asked", "2033-05-18T03:33:20.000Z", until
    )  # fmt: skip
    assert (facts.agent, facts.workdir, facts.host, facts.question) == ("coder", "/srv/coder", "host", "q-1")
    assert (facts.message_id, facts.thread, facts.sender, facts.turn_id) == ("m-1", "th", "ann", "turn-1")
    assert (facts.attempts, facts.why, facts.link) == (2, "why", "http://127.0.0.1/x")
    assert (facts.act, facts.said) == ("Bash: git push", "it is needed")
    assert facts.code.replace("-", "") == asked.code
    draft = draft_of(notice, facts, "boss", by_mail=True)
    assert (draft.to, draft.thread, draft.kind, draft.automatic) == (("boss",), "th", Kind.QUESTION, Automatic.NOTICE)
    assert draft.subject == "coder asks for a yes"
    for word in ("Bash: git push", "it is needed", "ann, message m-1", "/srv/coder", until, facts.code, facts.link):
        assert word in draft.body, word


@pytest.mark.parametrize(("kind", "thread"), [(NoticeKind.DEAD_LETTER, ""), (NoticeKind.APPROVAL, "th")])
def test_what_befell_an_agent_is_a_notice_of_its_own_and_what_became_of_an_answer_stands_where_it_was_given(
    kind: NoticeKind, thread: str
) -> None:
    notice = Notice("n-1", kind, NOW, "failed", "turn-1", "m-1", "th", "ann", 2, why="no luck")
    draft = draft_of(notice, facts_of(notice, "coder", "/srv/coder", "host"), "boss")
    assert (draft.to, draft.thread, draft.kind, draft.automatic) == (("boss",), thread, Kind.STATUS, Automatic.NOTICE)
    assert draft.subject == f"coder: {kind.value.replace('_', ' ')}"
    assert "why: no luck" in draft.body


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    found = StateFolder(tmp_path, Disk(), SystemClock())
    found.prepare()
    return found


NOTICE = Notice("n-1", NoticeKind.BLOCKED, NOW, "blocked", "turn-1", left=(Channel.COMMAND, Channel.MAIL))


def test_a_turn_is_remembered_once_and_waits_until_all_is_told(folder: StateFolder) -> None:
    NoticeBook(folder).add(NOTICE)
    book = NoticeBook(folder)
    book.add(NOTICE)
    assert book.told.waiting == (NOTICE,)
    book.put(msgspec.structs.replace(NOTICE, left=(Channel.MAIL,), tries=2))
    assert NoticeBook(folder).told.waiting == (msgspec.structs.replace(NOTICE, left=(Channel.MAIL,), tries=2),)
    book.put(msgspec.structs.replace(NOTICE, left=()))
    book = NoticeBook(folder)
    book.add(NOTICE)
    assert (book.told.waiting, book.told.turns) == ((), ("turn-1",))


@pytest.mark.parametrize(
    "kind", [NoticeKind.APPROVAL, NoticeKind.STUCK, NoticeKind.INSTRUCTIONS, NoticeKind.RESERVED, NoticeKind.HELD]
)
def test_what_else_is_told_of_a_turn_does_not_hide_what_it_asks(folder: StateFolder, kind: NoticeKind) -> None:
    book, beside = NoticeBook(folder), msgspec.structs.replace(NOTICE, id="n-0", kind=kind)
    for notice in (beside, NOTICE, beside, NOTICE):
        book.add(notice)
    assert book.told.waiting == (beside, NOTICE)


def test_of_several_that_wait_each_waits_until_it_is_told_itself(folder: StateFolder) -> None:
    book = NoticeBook(folder)
    both = (Channel.COMMAND, Channel.MAIL)
    notices = [Notice(f"n-{name}", NoticeKind.BLOCKED, NOW, "x", f"turn-{name}", left=both) for name in "abc"]
    for notice in notices:
        book.add(notice)
    book.done(notices[1], Channel.COMMAND)
    book.put(msgspec.structs.replace(notices[2], tries=3))

    def waits() -> list[tuple[str, int, tuple[Channel, ...]]]:
        return [(one.id, one.tries, one.left) for one in NoticeBook(folder).told.waiting]

    assert waits() == [("n-a", 0, both), ("n-b", 0, (Channel.MAIL,)), ("n-c", 3, both)]
    book.done(notices[1].without(Channel.COMMAND), Channel.MAIL, "no such mailbox")
    assert waits() == [("n-a", 0, both), ("n-c", 3, both)]
    for channel in both:
        book.done(notices[0], channel, "it ended with 1")
    assert [one.by for one in book.told.untold] == [*both]
    book.works(Channel.MAIL)
    assert [one.by for one in NoticeBook(folder).told.untold] == [Channel.COMMAND]


def test_what_the_disk_refuses_is_told_by_this_watcher_all_the_same(folder: StateFolder) -> None:
    book = NoticeBook(folder)
    assert book.told.waiting == ()
    trouble = Notice("t-1", NoticeKind.TROUBLE, NOW, "disk", left=(Channel.COMMAND,))
    folder.path.rename(folder.path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        book.add(NOTICE)
    assert book.told.waiting == ()
    book.add(trouble, trouble="disk", even_if_refused=True)
    assert book.told == msgspec.structs.replace(book.told, waiting=(trouble,), trouble="disk")


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"notices": {"waiting": 5}}', b"\xff\0"])
def test_a_damaged_book_is_set_aside_and_begun_anew(folder: StateFolder, garbage: bytes) -> None:
    (folder.path / "guards.json").write_bytes(garbage)
    book = NoticeBook(folder)
    assert book.told.waiting == ()
    book.add(NOTICE)
    assert NoticeBook(folder).told.waiting == (NOTICE,)
    assert len(list(folder.path.glob("guards.json.corrupt-*"))) == 1
