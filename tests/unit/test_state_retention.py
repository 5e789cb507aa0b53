"""What is kept of a settled message and its turns: all that somebody may still need, and no mail beyond that."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from tests.clocks import FakeClock

from agent_mailer.approvals.calls import Call
from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state import State, approvals
from agent_mailer.state.approvals import Approval
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import (
    Attempt,
    Batched,
    DeadLetter,
    ItemState,
    Phase,
    RetryEntry,
    SettledItem,
    Settlement,
    TurnRecord,
)

WHOLE = ["mail.json", "stdout"]


def envelope(name: str) -> Envelope:
    return Envelope(name, "t", "user", 0.0, "1", f"{name}.md")


def settlement(*states: ItemState, dead: str = "") -> Settlement:
    items = tuple(SettledItem(Outgoing(f"out-{one}", "user", "t", f"{one} text"), one, about="m2") for one in states)
    letter = DeadLetter(dead, "t", envelope=envelope(dead)) if dead else None
    return Settlement(Outcome.FAILED, "", 0.0, 0.0, finished=True, items=items, dead=letter)


class House:
    def __init__(self, base: Path) -> None:
        self.clock = FakeClock(1_800_000_000.0)
        folder = StateFolder(base, Disk(), self.clock)
        self.disk = folder.disk
        self.state = State(folder, EventLog(folder.log, folder.disk, self.clock))
        self.state.prepare()

    def turn(self, days: float = 0.0, name: str = "m", **changes: Any) -> TurnRecord:
        """Settled so many days ago."""
        moment = self.clock.now() - days * 86400
        changes.setdefault("settlement", settlement())
        made = TurnRecord(new_turn_id(moment), envelope(name), Phase.SETTLING, "command", moment, **changes)
        self.state.turns.create(made)
        for name in WHOLE:
            (self.path(made) / name).write_text("what was written")
        self.state.turns.mark_settled(made.turn_id)
        os.utime(self.path(made) / "settled", (moment, moment))
        return made

    def path(self, turn: TurnRecord) -> Path:
        return self.state.turns.path(turn.turn_id)

    def left(self, turn: TurnRecord) -> list[str]:
        return [name for name in WHOLE if (self.path(turn) / name).exists()]

    def give_up(self, turn: TurnRecord, name: str = "m") -> None:
        letter = DeadLetter(name, "t", turn_id=turn.turn_id, envelope=envelope(name))
        self.state.dead_letters.add(letter, again=False)

    def prune(self, days: int = 7, needed: Collection[str] = ()) -> None:
        for _ in self.state.retention.prune(days, lambda: needed):
            pass


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_of_a_finished_message_its_id_is_kept_and_nothing_that_was_to_be_done(house: House) -> None:
    house.state.retries.put(RetryEntry(envelope("m")))
    house.state.retention.finish_message("m")
    assert "m" in house.state.processed
    assert (house.state.retries.get("m"), house.state.cursor.read()) == (None, "m")


@pytest.mark.parametrize("kept", [ItemState.REFUSED, ItemState.KEPT, ItemState.DROPPED])
def test_what_did_not_leave_is_kept_with_its_text_and_what_left_without(house: House, kept: ItemState) -> None:
    record = house.turn(settlement=settlement(ItemState.DELIVERED, kept, ItemState.PENDING))
    before = house.disk.syncs
    house.state.retention.summarise(record)
    waits = kept is not ItemState.DROPPED
    assert house.disk.syncs - before == waits, "what waits for a person is nowhere else"
    short = house.state.turns.load(record.turn_id)
    assert short is not None
    assert short.settlement is not None
    assert [(entry.state, entry.item.payload) for entry in short.settlement.items] == [
        (ItemState.DELIVERED, ""), (kept, f"{kept} text"), (ItemState.DELIVERED, "")
    ]  # fmt: skip
    assert {entry.about for entry in short.settlement.items} == {"m2"}, "which of its messages has an answer"


@pytest.mark.parametrize(("keep", "left"), [(7, ["stdout"]), (0, [])])
def test_the_mail_of_a_finished_message_goes_from_every_turn_of_it(house: House, keep: int, left: list[str]) -> None:
    earlier = [house.turn() for _ in range(3)]
    history = tuple(Attempt(turn.turn_id, Outcome.FAILED, "", 0.0) for turn in earlier)
    last = house.turn(rerun=RetryEntry(envelope("m"), history=history))
    assert house.state.retention.strip_message(last, keep)
    assert [house.left(turn) for turn in (*earlier, last)] == [left] * 4


@pytest.mark.parametrize("alone", [False, True])
def test_mail_that_was_handed_over_together_stays_until_the_last_is_finished(house: House, alone: bool) -> None:
    """Also where the first is finished by a turn of its own, which follows it."""
    turn = house.turn(batch=(Batched(envelope("other")),))
    history = (Attempt(turn.turn_id, Outcome.FAILED, "", 0.0),)
    last = house.turn(rerun=RetryEntry(envelope("m"), history=history)) if alone else turn
    house.state.processed.add("m")
    house.state.retention.strip_message(last, 7)
    assert house.left(turn) == WHOLE
    house.state.processed.add("other")
    house.state.retention.strip_message(last, 7)
    assert house.left(turn) == ["stdout"]


@pytest.mark.parametrize("why", ["given up", "another of it given up", "given up, and unreadable", "did not leave"])
def test_of_what_waits_for_a_person_the_record_stays_without_the_mail(house: House, why: str) -> None:
    match why:
        case "given up":
            turn = house.turn(30, settlement=settlement(dead="m"))
        case "another of it given up":
            turn = house.turn(30, batch=(Batched(envelope("other"), settlement=settlement(dead="other")),))
        case "given up, and unreadable":
            turn = house.turn(30)
            (house.path(turn) / "turn.json").write_text("garbage")
        case _:
            turn = house.turn(30, settlement=settlement(ItemState.REFUSED))
    if why != "did not leave":
        house.give_up(turn, "other" if "another" in why else "m")
    gone = house.turn(30, name="gone")
    house.prune()
    assert house.state.turns.ids() == [turn.turn_id]
    assert house.left(turn) == []
    assert house.state.unsent.all() == ([f"{turn.turn_id}.0"] if why == "did not leave" else [])
    assert not house.path(gone).exists()
    if why != "did not leave":
        house.state.dead_letters.remove(["m", "other"])
        house.prune()
        assert house.state.turns.ids() == [], "nobody waits for it any more"


def test_what_is_wanted_again_while_others_are_looked_at_stays(house: House) -> None:
    """Its retry can be rebuilt from it alone."""
    turns = house.turn(30, "again"), house.turn(30, "over")
    needed: set[str] = set()
    steps = house.state.retention.prune(7, lambda: needed)
    # Both were seen by then, and are still to go.
    for _ in range(2):
        next(steps)
    needed.add("again")
    list(steps)
    assert [house.path(turn).exists() for turn in turns] == [True, False]


def test_what_a_message_under_way_has_asked_stays_however_old(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "KEPT", 1)
    book, now, call = house.state.approvals, house.clock.now(), Call("Bash", '{"command":"git push"}')
    for age, name in enumerate(("young", "over", "asks")):
        book.ask([Approval(f"q-{name}", "", call, call.digest, "t", name, "th", "user", "", now - age, now + 1)])
    known = {one.message_id: one.id for one in book.all()}
    house.state.retries.put(RetryEntry(envelope("first"), asked=("q-gone",)))
    house.state.retries.put(RetryEntry(envelope("asks"), asked=("q-gone", known["asks"])))
    house.prune()
    assert [one.message_id for one in book.all()] == ["asks", "young"]


def test_where_none_are_kept_a_turn_stays_for_a_day(house: House) -> None:
    """Whoever looks what became of his message."""
    young, old = house.turn(0.9), house.turn(1.1)
    house.prune(0)
    assert (house.path(young).exists(), house.path(old).exists()) == (True, False)


def test_where_there_is_too_much_the_oldest_goes_and_of_what_is_counted_the_output(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.state.retention.MAX_TOTAL_BYTES", 0)
    counted, old = house.turn(0.5), house.turn(2.0)
    house.prune()
    assert (house.path(old).exists(), house.left(counted)) == (False, [])
    assert house.state.turns.load(counted.turn_id) == counted
