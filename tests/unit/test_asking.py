"""What a turn may ask, what it is told of answers, and what becomes of both at its end; and who is told by a link."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene, scene_at

from agent_mailer.approvals.calls import Call
from agent_mailer.approvals.edits import EDITS
from agent_mailer.approvals.turn import Told, TurnApprovals, Word
from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Automatic, Capabilities, Delivered, Envelope, MailboxUnavailable
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.reservations.hook import argv_for
from agent_mailer.state.approvals import Answer, By, Verdict, id_of
from agent_mailer.state.notices import Channel, Notice, NoticeKind
from agent_mailer.state.records import Batched, Phase, Provisional, RetryEntry, Settlement, TurnRecord
from agent_mailer.watch.asking import (
    MOST_CARRIED,
    ONLY_ALONE,
    apply,
    approvals_of,
    as_words,
    asking_of,
    carried,
    goes_on_by_itself,
    judge_asking,
)
from agent_mailer.watch.linking import LinkMaker
from agent_mailer.watch.rules import ApprovePolicy
from agent_mailer.watch.telling import Teller

NOW = 1_800_000_000.0
FIRST, SECOND = "20261129T100000-0a0b0c0d", "20261129T110000-0a0b0c0d"
PUSH, WIPE = Call("Bash", '{"command":"git push"}', "call-1", "because"), Call("Bash", '{"command":"rm -r ."}')
MAIL = Envelope("m", "th", "ann", 1.0, "", "")
ASKS = ApprovePolicy(rules=("Bash",), expires=3600)


scene = scene_at(lambda: FakeClock(NOW))


def ended(*calls: Call, used: tuple[str, ...] = (), finished: bool = False) -> Settlement:
    outcome = Outcome.ASKED if calls else Outcome.DONE
    return Settlement(outcome, "x", NOW, 1.0, finished=finished, asked=calls, asked_until=NOW + 3600, used=used)


def turn(turn_id: str, *asked: str) -> TurnRecord:
    return TurnRecord(turn_id, MAIL, Phase.RUNNING, "command", NOW, rerun=RetryEntry(MAIL, asked=asked))


def words(scene: Scene, turn_id: str, *asked: str) -> list[Word]:
    return [one.word for one in approvals_of(scene.state, ASKS, turn(turn_id, *asked)).told]


def test_a_yes_is_one_turns_until_that_ends_and_is_used_up_for_ever(scene: Scene) -> None:
    book, questions = scene.state.approvals, [id_of(FIRST, one) for one in (PUSH, WIPE)]
    for _ in range(2):  # a settlement may be applied again
        apply(scene.state, turn(FIRST), ended(PUSH, WIPE))
    assert [(one.id, one.expires_at) for one in book.open()] == [(one, NOW + 3600) for one in sorted(questions)]
    assert len({one.code for one in book.all()}) == 2
    for one in book.all():
        book.answer(one, Answer(Verdict.ALLOW, NOW, By.COMMAND))
    assert words(scene, SECOND, *questions) == [Word.ALLOW] * 2
    # A turn beside it, or after it where nobody knows its end, is not told of the same yes.
    assert words(scene, "t-3", *questions) == [Word.UNKNOWN] * 2
    apply(scene.state, turn(SECOND, *questions), ended(used=(questions[0],)))
    assert words(scene, "t-4", *questions) == [Word.UNKNOWN, Word.ALLOW]
    apply(scene.state, turn("t-4", *questions), ended(finished=True))
    assert words(scene, "t-5", *questions) == [Word.UNKNOWN] * 2
    assert book.open() == []


def test_what_is_allowed_for_good_is_answered_at_once_and_nobody_is_asked(scene: Scene) -> None:
    book = scene.state.approvals
    apply(scene.state, turn(FIRST), ended(PUSH))
    [one] = book.all()
    book.answer(one, Answer(Verdict.ALLOW, NOW, By.COMMAND, always=True))
    apply(scene.state, turn(SECOND), ended(PUSH, WIPE))
    assert [one.call for one in book.open()] == [WIPE]
    standing = book.answer_to(id_of(SECOND, PUSH))
    assert standing is not None
    assert (standing.verdict, standing.by) == (Verdict.ALLOW, By.STANDING)
    asked = [(one["turn_id"], one["question"]) for one in scene.told(EventName.APPROVAL_ASKED)]
    assert asked == [(FIRST, id_of(FIRST, PUSH)), (SECOND, id_of(SECOND, WIPE))]

    def always(policy: ApprovePolicy, record: TurnRecord) -> tuple[tuple[str, ...], str]:
        found = approvals_of(scene.state, policy, record)
        return found.always, found.forbidden

    record = turn(SECOND)
    assert always(ASKS, record) == ((PUSH.digest,), "")
    # In plan mode nothing is let through, whatever was allowed before; nor where nothing is asked about.
    assert always(msgspec.structs.replace(ASKS, forbidden="plan mode"), record) == ((), "plan mode")
    assert always(ApprovePolicy(), record) == ((), "")
    record.batch = (Batched(MAIL),)
    assert always(ASKS, record)[1] == ONLY_ALONE
    assert book.revoke(one.id)
    assert always(ASKS, turn(SECOND)) == ((), "")


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize("rules", [(), ("Bash(git push *)", "WebFetch")])
def test_the_program_asks_before_what_the_operator_has_named_and_before_edits_where_others_have_reserved_files(
    scene: Scene, *, refused: bool, edits: bool, rules: tuple[str, ...]
) -> None:
    policy = ApprovePolicy(rules=rules, refused=refused, edits=edits, expires=3600)
    told = approvals_of(scene.state, policy, turn(FIRST))
    assert told == TurnApprovals(rules=rules, refused=refused, edits=edits)
    folder = Path("/turn")
    asking = asking_of(told, folder, "-I")
    assert asking.tools == (*(EDITS if edits else ()), *(("Bash", "WebFetch") if rules else ()))
    assert asking.refusals == (refused or bool(rules))
    assert asking.around == (argv_for(folder) if edits else ())


@pytest.mark.parametrize(
    ("outcome", "deferred", "left", "rerun", "becomes", "asks"),
    [
        (Outcome.DONE, None, (PUSH,), None, Outcome.ASKED, (PUSH,)),
        (Outcome.BLOCKED, None, (PUSH, PUSH, WIPE), None, Outcome.ASKED, (PUSH, WIPE)),
        (Outcome.ASKED, PUSH, (WIPE,), None, Outcome.ASKED, (PUSH, WIPE)),
        (Outcome.DONE, PUSH, (), None, Outcome.DONE, ()),
        (Outcome.FAILED, PUSH, (PUSH,), None, Outcome.FAILED, ()),
        (Outcome.INTERRUPTED, None, (PUSH,), None, Outcome.INTERRUPTED, ()),
        (Outcome.ASKED, None, (), None, Outcome.FAILED, ()),
        (Outcome.ASKED, None, (), RetryEntry(MAIL), Outcome.FAILED, ()),
        (Outcome.ASKED, None, (), RetryEntry(MAIL, asked=("q-1",)), Outcome.ASKED, ()),
        (Outcome.ASKED, None, (), RetryEntry(MAIL, asked=("q-1",), by_prompt=True), Outcome.FAILED, ()),
    ],
)
def test_a_turn_that_left_questions_waits_whatever_its_last_words_are(
    outcome: Outcome,
    deferred: Call | None,
    left: tuple[Call, ...],
    rerun: RetryEntry | None,
    becomes: Outcome,
    asks: tuple[Call, ...],
) -> None:
    judged, asked = judge_asking(Judgement(outcome), deferred, left, "said", rerun, shared=False)
    assert (judged.outcome, [one.digest for one in asked]) == (becomes, [one.digest for one in asks])
    # What the agent said last stands in for a reason that it did not give.
    assert [one.why for one in asked] == [one.why or "said" for one in asks]
    together, none = judge_asking(Judgement(outcome), deferred, left, "said", rerun, shared=True)
    mine = outcome in (Outcome.DONE, Outcome.BLOCKED, Outcome.ASKED)
    assert (together.outcome, none) == (Outcome.INTERRUPTED if mine else outcome, ())


def test_the_next_turn_knows_of_what_was_asked_and_not_of_what_was_used_up() -> None:
    entry, new = RetryEntry(MAIL), id_of(SECOND, WIPE)
    before = RetryEntry(MAIL, asked=("q-1", "q-2"))
    asked = carried(entry, before, ended(WIPE, used=("q-1",)), SECOND)
    assert (asked.asked, asked.by_prompt) == (("q-2", new), False)
    # It ended otherwise: what it used up may have been done, and its rerun is told so.
    failed = msgspec.structs.replace(ended(used=("q-1",)), outcome=Outcome.FAILED)
    assert carried(entry, before, failed, SECOND).asked == ("q-1", "q-2")
    assert carried(entry, msgspec.structs.replace(before, by_prompt=True), failed, SECOND).by_prompt
    waits = msgspec.structs.replace(ended(), outcome=Outcome.ASKED)
    assert carried(entry, before, waits, SECOND).by_prompt, "it has asked for nothing new: no call is pending"
    assert carried(entry, None, failed, SECOND) is entry
    many = RetryEntry(MAIL, asked=tuple(f"q-{n}" for n in range(MOST_CARRIED)))
    assert carried(entry, many, ended(WIPE), SECOND).asked == (*many.asked[1:], new)


def test_a_session_goes_on_by_itself_only_in_the_call_that_was_asked_about() -> None:
    told = TurnApprovals(told=(Told("q-1", "Bash", "{}", "d", Word.ALLOW, "call-1"),))
    rerun = RetryEntry(MAIL, provisional=Provisional("s-1", "claude", Outcome.ASKED))
    assert goes_on_by_itself(told, rerun, "s-1")
    for other in (
        (told, None, "s-1"),
        (told, rerun, None),
        (told, rerun, "s-2"),
        (told, msgspec.structs.replace(rerun, provisional=None), "s-1"),
        (told, msgspec.structs.replace(rerun, by_prompt=True), "s-1"),
        (TurnApprovals(told=told.told * 2), rerun, "s-1"),
        (TurnApprovals(told=(msgspec.structs.replace(told.told[0], call_id=""),)), rerun, "s-1"),
    ):
        assert not goes_on_by_itself(*other)
    assert "denied" in as_words([msgspec.structs.replace(told.told[0], word=Word.DENY, reason="no")])
    assert as_words([]) == ""


class Linking(MaildirMailbox):
    """A mailbox at which a page answers a question."""

    async def offer_link(self, token: str, seconds: int, shown: Mapping[str, str]) -> str:
        assert token
        assert seconds <= 3600
        return "https://page.example/once"


@pytest.mark.parametrize("tells_codes", [True, False])
def test_a_link_is_the_operators_alone(scene: Scene, tells_codes: bool) -> None:
    """Whoever has it answers as the operator; where the agent reads the mail neither it nor the code stands there."""
    apply(scene.state, turn(FIRST), ended(PUSH))
    [asked] = scene.state.approvals.all()
    policy = scene.policy
    approve = msgspec.structs.replace(policy.approve, tells_codes=tells_codes, asks_sender=True)
    notify = msgspec.structs.replace(policy.notify, address="planner")
    policy = msgspec.structs.replace(policy, approve=approve, notify=notify)
    notice = Notice("n-1", NoticeKind.APPROVAL, NOW, "asked", FIRST, "m", "th", "user", question=asked.id)
    mailbox = Linking(Disk(), scene.desk.root, "coder")
    for channel in (Channel.MAIL, Channel.SENDER):
        told = asyncio.run(Teller(policy, mailbox, scene.state.approvals).tell(notice, channel))
        assert told == Delivered()
    [to_operator], [to_sender] = scene.desk.inbox("planner"), scene.desk.inbox("user")
    code = f"{asked.code[:4]}-{asked.code[4:]}"
    link = "https://page.example/once"
    assert (link in to_operator.body, code in to_operator.body) == (tells_codes, tells_codes)
    assert (link in to_sender.body, code in to_sender.body) == (False, tells_codes)
    assert to_operator.envelope.id != to_sender.envelope.id, "one would be taken for the other"
    # What answers mail by itself must not answer that.
    assert {one.envelope.automatic for one in (to_operator, to_sender)} == {Automatic.NOTICE}


def test_each_question_has_the_link_of_itself_and_has_it_once(scene: Scene) -> None:
    offered: list[str] = []

    class Pages(Linking):
        async def offer_link(self, token: str, seconds: int, shown: Mapping[str, str]) -> str:
            offered.append(shown["question"])
            return f"https://page.example/{shown['question']}"

    apply(scene.state, turn(FIRST), ended(PUSH, WIPE))
    asked = scene.state.approvals.all()
    assert len({one.id for one in asked}) == 2
    maker = LinkMaker(Pages(Disk(), scene.desk.root, "coder"))
    for one in (*asked, *asked):
        assert asyncio.run(maker.link_of(one, 60.0)) == f"https://page.example/{one.id}"
    assert offered == [one.id for one in asked]


class Vouching(MaildirMailbox):
    """A mailbox that says who a sender is."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, vouches=True)


@pytest.mark.parametrize("asks_sender", [True, False])
def test_a_sender_is_asked_for_an_answer_by_mail_only_where_his_would_count(scene: Scene, asks_sender: bool) -> None:
    """The configuration may have changed since it was settled that he is told."""
    apply(scene.state, turn(FIRST), ended(PUSH))
    [asked] = scene.state.approvals.all()
    approve = msgspec.structs.replace(scene.policy.approve, asks_sender=asks_sender)
    policy = msgspec.structs.replace(scene.policy, approve=approve)
    notice = Notice("n-1", NoticeKind.APPROVAL, NOW, "asked", FIRST, "m", "th", "user", question=asked.id)
    teller = Teller(policy, Vouching(Disk(), scene.desk.root, "coder"), scene.state.approvals)
    assert asyncio.run(teller.tell(notice, Channel.SENDER)) == Delivered()
    [word] = scene.desk.inbox("user")
    assert ("or by mail to coder" in word.body) is asks_sender


@pytest.mark.parametrize("how", ["hangs", "is away", "has none"])
def test_what_makes_no_link_just_now_keeps_nobody_from_being_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("agent_mailer.watch.linking.PATIENCE", 0.01)
    apply(scene.state, turn(FIRST), ended(PUSH))
    [asked] = scene.state.approvals.all()

    class Trouble(Linking):
        trouble = how

        async def offer_link(self, token: str, seconds: int, shown: Mapping[str, str]) -> str:
            if self.trouble == "hangs":
                await asyncio.Event().wait()
            if self.trouble == "is away":
                raise MailboxUnavailable("away", "nobody answers")
            return "" if self.trouble else await super().offer_link(token, seconds, shown)

    mailbox = Trouble(Disk(), scene.desk.root, "coder")
    maker = LinkMaker(mailbox)
    assert asyncio.run(maker.link_of(asked, 60.0)) == ""
    mailbox.trouble = ""
    assert asyncio.run(maker.link_of(asked, 0.5)) == "", "too late"
    assert asyncio.run(maker.link_of(asked, 60.0)) == "https://page.example/once"
