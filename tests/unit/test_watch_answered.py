"""What shows in a turn's thread that the agent has answered by itself: by the mailbox's own program, say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.clocks import FakeClock
from tests.watch_room import Scene

from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Action, Automatic, Delivered, Draft, Envelope, Message, Outgoing
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import (
    Attempt,
    Batched,
    Phase,
    RetryEntry,
    SettledItem,
    Settlement,
    TurnRecord,
)
from agent_mailer.turn_tools.commands import PROGRESS
from agent_mailer.turn_tools.folder import Facts
from agent_mailer.watch.turn import CLOCKS_APART, _answered

NOW = 2_100_000_000.0
MAIL = Envelope("m", "th", "user", NOW - 60, "1", "m.md")
BESIDE = Envelope("beside", "th", "user", NOW - 50, "2", "beside.md")
_serial = itertools.count()


class Turn:
    """It was claimed at `NOW`, and shown its thread."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.record = TurnRecord(new_turn_id(NOW), MAIL, Phase.RUNNING, "command", NOW)
        self.folder = scene.state.turns.folder(self.record.turn_id)

    def shown(self, *thread: str) -> None:
        self.scene.state.turns.create(self.record)
        told = [Message(MAIL, body="please"), *(Message(Envelope(one, "th", "coder", NOW, "1", "")) for one in thread)]
        facts = Facts(self.record.turn_id, "coder", 1024 * 1024, "/memory/global.md", "/memory/t.md")
        self.folder.prepare(told[0], told, (), facts)

    def writes(self, after: float = 1.0, sender: str = "coder", to: str = "user", about: str = "", **more: Any) -> str:
        """Into the thread; `about` is the message that it answers."""
        mailbox = MaildirMailbox(self.scene.desk.disk, self.scene.desk.root, sender)
        action, origin = Action.SEND, None
        if about:
            action, origin = Action.REPLY, Message(Envelope(about, "th", to, NOW, "1", "", to=(sender,)), body="?")
        more |= {"to": (to,), "thread": "th"} if not about else {}
        draft = Draft(f"k{next(_serial)}", action, NOW + after, body="x", **more)
        items = mailbox.compose(draft, origin, "by hand")
        assert not hasattr(items, "why"), items
        assert self.scene.run(mailbox.deliver(items[0])) == Delivered()
        return items[0].id

    def answered(self) -> set[str]:
        return set(self.scene.run(_answered(self.scene.room, self.record, self.folder)))


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[Turn]:
    scene = Scene(tmp_path, FakeClock(NOW))
    yield Turn(scene)
    scene.close()


@pytest.mark.parametrize(
    ("written", "counts"),
    [
        ({}, True),
        ({"about": "m"}, True),
        ({"labels": (PROGRESS,)}, False),
        ({"automatic": Automatic.NOTICE}, False),
        ({"to": "coder"}, False),
        ({"sender": "planner"}, False),
        ({"after": -1.0}, False),
    ],
)
def test_what_the_agent_writes_to_others_after_the_claim_is_an_answer(
    turn: Turn, written: dict[str, Any], counts: bool
) -> None:
    turn.shown()
    turn.writes(**written)
    assert turn.answered() == ({"m"} if counts else set())


def test_another_machine_may_date_what_was_not_there_before_the_claim(turn: Turn) -> None:
    """Where the thread was shown, what it had then is known."""
    known = turn.writes(-10.0)
    turn.shown(known)
    assert turn.answered() == set()
    turn.writes(-CLOCKS_APART - 1)
    assert turn.answered() == set()
    turn.writes(-CLOCKS_APART + 1)
    assert turn.answered() == {"m"}


def test_what_another_turn_sends_into_the_thread_is_about_its_own_message(turn: Turn) -> None:
    turn.shown()
    sent = SettledItem(Outgoing(turn.writes(), "user", "th", "text"))
    settlement = Settlement(Outcome.DONE, "", NOW, 0.0, finished=True, items=(sent,))
    other = Envelope("o", "elsewhere", "user", NOW, "1", "o.md")
    turn.scene.state.turns.create(
        TurnRecord(new_turn_id(NOW), other, Phase.SETTLING, "command", NOW, settlement=settlement)
    )
    assert turn.answered() == set()


@pytest.mark.parametrize(("about", "counts"), [("", True), ("m", True), ("another", False)])
def test_where_it_is_lost_what_was_shown_what_answers_another_message_is_none(
    turn: Turn, about: str, counts: bool
) -> None:
    turn.scene.state.turns.create(turn.record)
    turn.writes(about=about)
    assert turn.answered() == ({"m"} if counts else set())


@pytest.mark.parametrize(("history", "counts"), [((), True), ((Attempt("t", Outcome.FAILED, "", NOW),), False)])
def test_what_another_client_had_in_work_may_be_answered_before_the_claim(
    turn: Turn, history: tuple[Attempt, ...], counts: bool
) -> None:
    turn.record.rerun = RetryEntry(MAIL, attempts=1, history=history)
    turn.shown(turn.writes(-10.0, about="m"))
    assert turn.answered() == ({"m"} if counts else set())


@pytest.mark.parametrize(("about", "found"), [("beside", {"beside"}), ("m", {"m"}), ("", {"m", "beside"})])
def test_of_a_shared_turn_what_names_one_of_its_messages_answers_that_one(
    turn: Turn, about: str, found: set[str]
) -> None:
    turn.record.batch = (Batched(BESIDE),)
    turn.shown()
    turn.writes(about=about)
    assert turn.answered() == found
