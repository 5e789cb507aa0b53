"""What did not leave: whom it is told to, once; sent again once, or dropped; and what a disk refuses on that way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import On, Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.disk import SystemCalls
from agent_mailer.mailbox.port import Action, Automatic, Draft, Envelope, Message, Outgoing, Route
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import Batched, ItemState, Phase, SettledItem, Settlement, TurnRecord
from agent_mailer.state.turns import shares
from agent_mailer.watch.unsent import (
    composed_again,
    drop_unsent,
    send_again,
    take_over_resent,
    word_to_sender,
)

NOW = 1_800_000_000.0
DRAFT = Draft("k", Action.SEND, NOW, to=("stranger",), body="x")


scene = scene_at(lambda: FakeClock(NOW))


def item(to: str = "stranger", state: ItemState = ItemState.REFUSED, **more: Any) -> SettledItem:
    return SettledItem(Outgoing(f"to-{to}", to, "t", "---json\n"), state, "nobody is called so", **more)


def turn(*items: SettledItem, finished: bool = True, sender: str = "user", **more: Any) -> TurnRecord:
    envelope = Envelope("m", "t", sender, NOW, "o", "l")
    made = TurnRecord(new_turn_id(NOW), envelope, Phase.SETTLING, "command", NOW, **more)
    made.settlement = Settlement(Outcome.DONE, "", NOW, 1.0, finished=finished, items=items)
    return made


# Its sender is told.


def told(scene: Scene, record: TurnRecord, automatic: Automatic = Automatic.NO) -> list[SettledItem]:
    origin = Message(msgspec.structs.replace(record.envelope, automatic=automatic))
    return [*word_to_sender(record, record, scene.room.mailbox, origin)]


@pytest.mark.parametrize(
    ("entry", "more", "word"),
    [
        (item(), {}, ["user"]),
        (item(draft=DRAFT), {}, ["user"]),
        (item(state=ItemState.DELIVERED), {}, []),
        (item(own=True), {}, []),
        (item(about="another of its batch"), {}, []),
        (item("user"), {}, []),
        (item("user", draft=DRAFT), {}, ["user"]),
        (item(), {"finished": False}, []),
        (item(), {"resends": "20260101T000000-00000000.0"}, []),
        (item(), {"sender": "coder"}, []),
        (item(), {"sender": ""}, []),
        (item(), {"automatic": Automatic.NOTICE}, []),
    ],
)
def test_who_waits_for_a_turn_that_is_over_is_told_what_of_it_did_not_leave(
    scene: Scene, entry: SettledItem, more: dict[str, Any], word: list[str]
) -> None:
    """But for words of ours, for others, and where he is the one who cannot be reached."""
    automatic = more.pop("automatic", Automatic.NO)
    assert [one.item.recipient for one in told(scene, turn(entry, **more), automatic)] == word


def test_he_is_told_once(scene: Scene) -> None:
    record = turn(item())
    [word] = told(scene, record)
    assert (word.own, word.state) == (True, ItemState.PENDING)
    assert record.settlement is not None
    record.settlement = msgspec.structs.replace(record.settlement, items=(*record.settlement.items, word))
    assert told(scene, record) == []


def test_each_of_a_batch_is_told_how_to_have_his_own_sent(scene: Scene) -> None:
    other = Envelope("m-2", "t", "planner", NOW, "o", "l")
    record = turn(
        item("ann"), item("bob", about="m-2"), item("eve", ItemState.DELIVERED), item("dan"), item("joe", about="m-2")
    )
    record.batch = (Batched(other, settlement=record.settlement),)
    scene.state.turns.create(record)
    scene.state.turns.mark_settled(record.turn_id)
    for one, his in zip(shares(record), (("ann", "dan"), ("bob", "joe")), strict=True):
        [word] = word_to_sender(record, one, scene.room.mailbox, Message(one.envelope))
        assert word.about == ("" if one.envelope.id == "m" else one.envelope.id)
        keys = word.item.payload.strip().rpartition("stuck retry ")[2].split()
        assert send_again(scene.state, keys) == [
            (True, f"{key}: will be sent to {to}") for key, to in zip(keys, his, strict=True)
        ]


# What a person asks.


def refused(scene: Scene, *, settled: bool = True) -> tuple[TurnRecord, str]:
    record = turn(item())
    scene.state.turns.create(record)
    if settled:
        scene.state.turns.mark_settled(record.turn_id)
    scene.state.unsent.note(record)
    key = scene.state.unsent.all()[-1]
    return record, key


def resent(scene: Scene, key: str, state: ItemState) -> TurnRecord:
    """It was tried once more, and this became of it."""
    assert [ok for ok, _ in send_again(scene.state, [key])] == [True]
    [turn_id] = scene.state.turns.open_ids()
    again = scene.state.turns.load(turn_id)
    assert again is not None
    assert again.settlement is not None
    [entry] = again.settlement.items
    entry = msgspec.structs.replace(entry, state=state, why="still nobody" if state is ItemState.REFUSED else "")
    again.settlement = msgspec.structs.replace(again.settlement, items=(entry,))
    return again


def entry_of(scene: Scene, record: TurnRecord) -> SettledItem:
    known = scene.desk.place().state.turns.load(record.turn_id)
    assert known is not None
    assert known.settlement is not None
    return known.settlement.items[0]


def test_asked_twice_it_is_sent_once_and_not_dropped_meanwhile(scene: Scene) -> None:
    _, key = refused(scene)
    assert send_again(scene.state, [key, key]) == [
        (True, f"{key}: will be sent to stranger"),
        (True, f"{key}: is being sent to stranger"),
    ]
    assert [ok for ok, _ in send_again(scene.state, [key])] == [True]
    assert len(scene.state.turns.open_ids()) == 1
    assert drop_unsent(scene.state, [key]) == [(False, f"{key}: it is being sent")]
    assert scene.state.unsent.all() == [key]


def test_of_a_turn_that_is_still_being_settled_nothing_is_sent_again_or_dropped(scene: Scene) -> None:
    record, key = refused(scene, settled=False)
    why = [(False, f"{key}: its turn is still being settled")]
    assert send_again(scene.state, [key]) == drop_unsent(scene.state, [key]) == why
    assert scene.state.turns.open_ids() == [record.turn_id]
    assert entry_of(scene, record).state is ItemState.REFUSED


def test_what_is_dropped_is_wanted_by_nobody(scene: Scene) -> None:
    record, key = refused(scene)
    other, others = refused(scene)
    assert drop_unsent(scene.state, [key, others]) == [(True, f"{key}: dropped"), (True, f"{others}: dropped")]
    assert entry_of(scene, other).state is ItemState.DROPPED
    assert (entry_of(scene, record).state, entry_of(scene, record).item.payload) == (ItemState.DROPPED, "")
    assert scene.desk.place().state.unsent.all() == []
    assert send_again(scene.state, [key]) == drop_unsent(scene.state, [key]) == [(False, f"{key}: it is not stuck")]


@pytest.mark.parametrize("state", [ItemState.DELIVERED, ItemState.REFUSED])
def test_what_was_sent_again_is_known_where_it_was_refused_first(scene: Scene, state: ItemState) -> None:
    record, key = refused(scene)
    again = resent(scene, key, state)
    take_over_resent(scene.state, again)
    entry = entry_of(scene, record)
    assert (entry.state, entry.why) == (state, "still nobody" if state is ItemState.REFUSED else "nobody is called so")
    assert scene.desk.place().state.unsent.all() == ([key] if state is ItemState.REFUSED else [])
    assert scene.state.turns.open_ids() == []


def test_until_that_is_written_down_it_stays_stuck_and_its_turn_open(scene: Scene) -> None:
    """Whoever comes after has it to do still; that what has arrived is not sent twice its mailbox sees."""
    record, key = refused(scene)
    again = resent(scene, key, ItemState.DELIVERED)
    scene.state.folder.disk.system = Refusing(f"{record.turn_id}/turn.json", On.REPLACE)
    with pytest.raises(OSError, match="No space"):
        take_over_resent(scene.state, again)
    scene.state.folder.disk.system = SystemCalls()
    state = scene.desk.place().state
    assert (state.unsent.all(), state.turns.open_ids()) == ([key], [again.turn_id])


def test_an_answer_for_one_of_a_batch_is_sent_again_as_that_ones(scene: Scene) -> None:
    other = Envelope("m-2", "t", "planner", NOW, "o", "l")
    record = turn(item(about="m-2"), batch=(Batched(other),))
    scene.state.turns.create(record)
    scene.state.turns.mark_settled(record.turn_id)
    again = resent(scene, f"{record.turn_id}.0", ItemState.PENDING)
    assert again.envelope == other


def test_what_a_server_refused_is_composed_anew_for_the_same_people_in_the_same_thread(scene: Scene) -> None:
    record = turn(SettledItem(Outgoing("out", "ann, bob", "th", "what it says"), ItemState.REFUSED, "503"))
    scene.state.turns.create(record)
    scene.state.turns.mark_settled(record.turn_id)
    again = resent(scene, f"{record.turn_id}.0", ItemState.PENDING)
    made = Draft("out", Action.REPLY, NOW, to=("ann", "bob"), thread="th", body="what it says")
    assert entry_of(scene, again).draft == made


def test_what_cannot_be_composed_again_says_why(scene: Scene) -> None:
    record = turn(item(draft=msgspec.structs.replace(DRAFT, to=("no\nname",))))
    scene.state.turns.create(record)
    scene.state.turns.mark_settled(record.turn_id)
    again = resent(scene, f"{record.turn_id}.0", ItemState.PENDING)
    composed = composed_again(again, scene.room.mailbox, Message(again.envelope), ())
    assert composed is not None
    [entry] = composed
    assert entry.state is ItemState.REFUSED
    assert "name" in entry.why


def test_however_often_a_draft_is_composed_again_its_mail_is_the_same(scene: Scene) -> None:
    """Whom it reached the first time gets it once, though another of its recipients was refused again."""
    found = []
    for _ in range(2):
        entry = item("user", ItemState.PENDING, draft=msgspec.structs.replace(DRAFT, to=("user", "planner")))
        record = turn(entry, resends="20260101T000000-00000000.0")
        again = composed_again(record, scene.room.mailbox, Message(record.envelope), ())
        assert again is not None
        found.append([(one.item.id, one.item.recipient) for one in again])
    assert found[0] == found[1]
    assert {recipient for _, recipient in found[0]} == {"user", "planner"}


def test_it_leaves_by_the_way_that_is_now_to_the_place_that_was_meant(scene: Scene) -> None:
    was = Route("bob@there", "/mail", 1, 2, "bob")
    sent = msgspec.structs.replace(item(state=ItemState.PENDING).item, route=was)
    record = turn(SettledItem(sent), resends="20260101T000000-00000000.0")
    mailbox, origin = scene.room.mailbox, Message(record.envelope)
    remade = msgspec.structs.replace(was, inode=3)
    for now in (was, msgspec.structs.replace(remade, place="/other"), msgspec.structs.replace(remade, address="eve")):
        assert composed_again(record, mailbox, origin, (now,)) is None
    found = composed_again(record, mailbox, origin, (remade,))
    assert found is not None
    assert [one.item.route for one in found] == [remade]
