"""What the record of a claim says, and what of a batch goes with it; over a real state and mailbox."""

from __future__ import annotations

import errno

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import On, Refusing
from tests.watch_room import Scene, scene_at

from agent_mailer.disk import SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Envelope, MailboxUnavailable, Message, NoWay, Route
from agent_mailer.names import new_turn_id
from agent_mailer.state.records import RetryEntry, SessionEntry, TurnRecord
from agent_mailer.watch.claim import BATCH_CHARACTERS, _in_folder, open_turn, take, take_batch
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.turn import give_back

NOW = 2_100_000_000.0
AWAY = Route("user@web", "/elsewhere", 1, 1, "user")

scene = scene_at(lambda: FakeClock(NOW))


def opened(scene: Scene, candidate: Candidate, *batch: Envelope) -> TurnRecord:
    record = scene.run(open_turn(scene.room, candidate, new_turn_id(NOW), "command", batch))
    assert record is not None
    return record


def test_it_says_which_session_of_its_thread_there_was_and_counts(scene: Scene) -> None:
    guards = msgspec.structs.replace(scene.policy.guards, turns_per_hour=1)
    scene.room.policy = msgspec.structs.replace(scene.policy, guards=guards)
    one, another = scene.mail(thread="green"), Candidate(scene.mail(body="another"))
    scene.state.sessions.put("green", SessionEntry("s-1", runtime="command", generation=3))
    assert scene.room.gate.admit([another], NOW).go == (another,)
    record = opened(scene, Candidate(one))
    assert record.generation == 3
    assert scene.state.turns.load(record.turn_id) == record
    assert scene.room.gate.admit([another], NOW).go == ()


def test_one_that_the_disk_refused_leaves_nothing(scene: Scene) -> None:
    envelope = scene.mail()
    scene.place.disk.system = Refusing("turn.json", On.SYNC, code=errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        opened(scene, Candidate(envelope))
    assert [*scene.state.turns.ids()] == []
    assert [path for path in (scene.desk.state / "turns").iterdir() if path.is_dir()] == []


def test_the_mailbox_hears_of_which_turn_it_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[object, object]] = []
    claim = MaildirMailbox.claim

    async def noted(box: MaildirMailbox, envelope: Envelope, **more: bool | str) -> object:
        heard.append((more.get("again"), more.get("turn_id")))
        return await claim(box, envelope, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MaildirMailbox, "claim", noted)
    record = opened(scene, Candidate(scene.mail()))
    assert isinstance(scene.run(take(scene.room, record)), Message)
    assert heard == [(False, record.turn_id)]


def test_what_cannot_be_answered_ends_a_batch_and_nothing_goes_with_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, *batch = (scene.mail(body=f"chore {number}") for number in range(4))
    ways: dict[str, Route | NoWay] = {batch[0].id: AWAY, batch[1].id: NoWay("nobody is there")}

    async def way_back(_: MaildirMailbox, envelope: Envelope) -> Route | NoWay | None:
        return ways.get(envelope.id)

    monkeypatch.setattr(MaildirMailbox, "way_back", way_back)
    record = opened(scene, Candidate(head), *batch)
    assert [(one.envelope.id, one.route) for one in record.batch] == [(batch[0].id, AWAY)]
    ways[head.id] = NoWay("nobody is there")
    ours = opened(scene, Candidate(head, RetryEntry(head, 1, 1)), *batch)
    assert (ours.no_way, ours.batch) == ("nobody is there", ())


def test_what_goes_with_it_is_counted_as_if_it_had_come_alone(scene: Scene) -> None:
    head, again, other = scene.mail(body="ping"), scene.mail(body="ping"), scene.mail(body="news")
    record = opened(scene, Candidate(head), again, other)
    scene.run(take(scene.room, record))
    scene.run(take_batch(scene.room, record))
    counted = (record.counted, *(one.counted for one in record.batch))
    assert [one.double if one is not None else None for one in counted] == [False, True, False]
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert [one.counted is None for one in kept.batch] == [False, False]


def test_no_more_text_goes_into_one_turn_than_it_may_and_the_rest_leaves_the_record(scene: Scene) -> None:
    head, *batch = (scene.mail(body="x" * (BATCH_CHARACTERS // 2 + 1)) for _ in range(5))
    record = opened(scene, Candidate(head), *batch)
    scene.run(take(scene.room, record))
    taken = scene.run(take_batch(scene.room, record))
    assert [one.envelope.id for one in taken] == [one.id for one in batch[:2]]
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert [one.envelope.id for one in kept.batch] == [one.id for one in batch[:2]]


@pytest.mark.parametrize("gone", [(), (0,), (1,), (0, 1)])
def test_one_of_a_batch_that_may_be_ours_is_to_be_done_whatever_of_the_batch_others_have_taken(
    scene: Scene, gone: tuple[int, ...]
) -> None:
    """It lies in `cur` though its claim has failed, and is listed no more."""
    head, *batch = (scene.mail(body=f"chore {number}") for number in range(4))
    record = opened(scene, Candidate(head), *batch)
    scene.run(take(scene.room, record))
    for number in gone:
        (scene.box / "new" / batch[number].locator).unlink()
    scene.place.disk.system = Refusing("inbox/cur", On.SYNC, code=errno.EIO, after=2 - len(gone))
    with pytest.raises(MailboxUnavailable):
        scene.run(take_batch(scene.room, record))
    scene.place.disk.system = SystemCalls()
    assert (scene.box / "cur" / batch[2].locator).exists()
    scene.run(give_back(scene.room, record))
    theirs = {batch[number].id for number in gone}
    assert {one.envelope.id for one in scene.state.retries.all()} == {one.id for one in (head, *batch)} - theirs


def test_a_turn_that_was_handed_others_has_no_copy_of_it(scene: Scene) -> None:
    head, other, third = (scene.mail(body=body) for body in ("one", "two", "three"))
    record = opened(scene, Candidate(head))
    scene.handed(record.turn_id, Message(head, body="one"), Message(other, body="two"))
    wanted = TurnRecord(new_turn_id(NOW), other, record.phase, "command", NOW)
    assert _in_folder(scene.room, record.turn_id, wanted).body.strip() == "two"
    with pytest.raises(MailerError, match="was not handed it"):
        _in_folder(scene.room, record.turn_id, msgspec.structs.replace(wanted, envelope=third))
    # A turn of one message is of that, whatever another client has called it.
    scene.handed(record.turn_id, Message(head, body="one"))
    assert _in_folder(scene.room, record.turn_id, wanted).body.strip() == "one"
