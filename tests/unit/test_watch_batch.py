"""What may share a turn, and what of its end is each message's: nobody is answered twice, nor for another; it is paid
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.test_watch_deciding import TOUCHED, turn_end

from agent_mailer.mailbox.port import Action, Automatic, Draft, Envelope, Message, Outgoing, Priority, Refused, Route
from agent_mailer.outcomes import AutoReply, Outcome
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.records import Batched, Pause, PauseReason, RetryEntry, Settlement
from agent_mailer.turn_tools.folder import FinishKind, FinishNote, Sealed
from agent_mailer.watch.batch import MOST_BATCHED, batch_of, settle_each
from agent_mailer.watch.rules import ApprovePolicy, Candidate, WatchPolicy

IDS = ("m-1", "m-2", "m-3")
FOR_ALL = Draft("k", Action.REPLY, 5.0, body="all")
ONE, TWO = (msgspec.structs.replace(FOR_ALL, key=name, body=name, about=name) for name in IDS[:2])
MAIL = Draft("s", Action.SEND, 5.0, to=("planner",), body="look")
AT_ONCE = msgspec.structs.replace(MAIL, key="p", body="so far", at_once=True)


def compose(
    draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
) -> Sequence[Outgoing] | Refused:
    assert origin is not None
    return (Outgoing(f"{turn_id}-{draft.key}", draft.to[0] if draft.to else origin.envelope.id, "thread", draft.body),)


def settled(
    *drafts: Draft,
    outcome: Outcome = Outcome.DONE,
    answered: Sequence[str] = (),
    finish: FinishNote | None = None,
    auto_reply: AutoReply = AutoReply.IF_SILENT,
    **more: Any,
) -> list[Settlement]:
    """A turn of three messages: what it decided of each; all that leaves is the first's."""
    end = turn_end(outcome, **more)
    head = end.record.envelope
    end.record.batch = tuple(Batched(msgspec.structs.replace(head, id=name)) for name in IDS[1:])
    messages = {one.envelope.id: msgspec.structs.replace(end.origin, envelope=one.envelope) for one in end.record.batch}
    end = msgspec.structs.replace(end, sealed=Sealed(drafts, finish))
    policy = WatchPolicy(Path("/w"), auto_reply=auto_reply)
    first, others = settle_each(end, messages, frozenset(answered), policy, compose)
    return [first, *(one.settlement for one in others if one.settlement is not None)]


def test_what_may_go_together() -> None:
    policy = WatchPolicy(Path("/w"), batch_low=True)

    def candidate(number: int, thread: str = "t", priority: Priority = Priority.LOW) -> Candidate:
        return Candidate(Envelope(f"m{number}", thread, "user", 0.0, f"{number:03}", "", priority=priority))

    many = [candidate(number) for number in range(40)]
    away = candidate(1, "elsewhere")
    assert len(batch_of(many[0], [*many, away], policy)) == MOST_BATCHED - 1
    assert [one.id for one in batch_of(many[0], [many[2], away, many[0], many[3]], policy)] == ["m2", "m3"]
    assert batch_of(many[0], many, WatchPolicy(Path("/w"))) == ()
    assert batch_of(many[0], [*many, candidate(50, "other", Priority.NORMAL)], policy) == ()
    assert batch_of(many[0], many, WatchPolicy(Path("/w"), batch_low=True, max_starts=1)) == ()
    asks = ApprovePolicy(rules=("Bash",))
    assert batch_of(many[0], many, WatchPolicy(Path("/w"), batch_low=True, approve=asks)) == ()
    # What runs alone is not overtaken by what came after it.
    tried = Candidate(many[2].envelope, RetryEntry(many[2].envelope, attempts=1))
    assert batch_of(tried, [tried, *many[3:]], policy) == ()
    robots = Candidate(msgspec.structs.replace(many[2].envelope, automatic=Automatic.AUTO_REPLY))
    for alone in (tried, robots):
        assert [one.id for one in batch_of(many[0], [*many[:2], alone, *many[3:]], policy)] == ["m1"]


@pytest.mark.parametrize(
    ("drafts", "answered", "leaves"),
    [
        ((), (), {"m-1": "words", "m-2": "words", "m-3": "words"}),
        ((), ("m-2",), {"m-1": "words", "m-3": "words"}),
        ((FOR_ALL,), (), {"m-1": "all", "m-2": "all", "m-3": "all"}),
        ((FOR_ALL, ONE), (), {"m-1": "m-1", "m-2": "all", "m-3": "all"}),
        ((FOR_ALL, TWO), (), {"m-1": "all", "m-2": "m-2", "m-3": "all"}),
        ((TWO,), (), {"m-1": "words", "m-2": "m-2", "m-3": "words"}),
        ((MAIL,), (), {"planner": "look"}),
        ((ONE, MAIL), (), {"m-1": "m-1", "planner": "look"}),
        ((FOR_ALL, msgspec.structs.replace(MAIL, about="m-2")), (), {**dict.fromkeys(IDS, "all"), "planner": "look"}),
        ((msgspec.structs.replace(FOR_ALL, to=("planner",)),), (), {"planner": "all", "m-2": "words", "m-3": "words"}),
        ((AT_ONCE,), (), {"m-1": "words", "m-2": "words", "m-3": "words", "planner": "so far"}),
    ],
)
def test_each_gets_one_answer_its_own_before_that_for_all_before_the_last_words(
    drafts: tuple[Draft, ...], answered: tuple[str, ...], leaves: dict[str, str]
) -> None:
    first, *others = settled(*drafts, answered=answered)
    assert sorted((entry.item.recipient, entry.item.payload.strip()) for entry in first.items) == sorted(leaves.items())
    assert len({entry.item.id for entry in first.items}) == len(leaves)
    assert all(entry.item.recipient in ((entry.about or "m-1"), "planner") for entry in first.items)
    assert [one.items for one in others] == [(), ()]


def test_all_that_is_for_all_is_each_ones_answer() -> None:
    first, *_ = settled(FOR_ALL, TWO, msgspec.structs.replace(FOR_ALL, key="k2", body="more"))
    left = [(entry.item.recipient, entry.item.payload.strip()) for entry in first.items]
    for_all = [(name, body) for name in ("m-1", "m-3") for body in ("all", "more")]
    assert sorted(left) == sorted([*for_all, ("m-2", "m-2")])
    assert len({entry.item.id for entry in first.items}) == len(left)


def test_who_always_answers_gives_each_his_last_words_beside_other_mail() -> None:
    first, *_ = settled(MAIL, auto_reply=AutoReply.ALWAYS)
    left = [(entry.item.recipient, entry.item.payload.strip()) for entry in first.items]
    assert sorted(left) == [*((name, "words") for name in IDS), ("planner", "look")]


@pytest.mark.parametrize("name", IDS)
def test_a_word_on_the_way_to_one_of_them_is_no_answer_to_it(name: str) -> None:
    so_far = msgspec.structs.replace(FOR_ALL, key="p", body="so far", about=name, at_once=True)
    first, *_ = settled(FOR_ALL, so_far)
    left = [(entry.item.recipient, entry.item.payload.strip()) for entry in first.items]
    assert sorted(left) == sorted([(name, "so far"), *((one, "all") for one in IDS)])


def test_a_word_on_the_way_that_names_none_of_them_leaves_once() -> None:
    so_far = msgspec.structs.replace(FOR_ALL, key="p", body="so far", at_once=True)
    first, *_ = settled(so_far)
    left = [(entry.item.recipient, entry.item.payload.strip()) for entry in first.items]
    assert sorted(left) == sorted([("m-1", "so far"), *((one, "words") for one in IDS)])


def test_what_the_turn_took_and_met_is_told_once() -> None:
    limited = Pause(PauseReason.LIMITED, 1.0, 2.0)
    first, *others = settled(outcome=Outcome.LIMITED, pause=limited, touched=(TOUCHED,))
    assert (first.usage, first.touched, first.pause is None) == (Usage(10, 20, 0.5), (TOUCHED,), False)
    assert [(one.usage, one.touched, one.pause) for one in others] == [(None, (), None)] * 2


@pytest.mark.parametrize(
    ("replied", "asked"), [((), IDS), (IDS[:1], IDS[1:]), (IDS[1:], IDS[:1]), (IDS, IDS)], ids=["", "1", "23", "123"]
)
def test_a_question_is_asked_for_those_that_have_no_answer_and_else_for_all(
    replied: tuple[str, ...], asked: tuple[str, ...]
) -> None:
    drafts = [msgspec.structs.replace(FOR_ALL, key=name, body=name, about=name) for name in replied]
    found = settled(*drafts, finish=FinishNote(FinishKind.BLOCKED, "Which one?"))
    assert [name for name, one in zip(IDS, found, strict=True) if one.question] == list(asked)
