"""A settlement record applied to a real state and mailbox, once and again; and what is done with turns left open."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.refusing import Died, On, Refusing, unreadable, without_descriptors
from tests.watch_room import Scene, scene_at

from agent_mailer.approvals.calls import Call
from agent_mailer.disk import SystemCalls
from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Action, Draft, Envelope, Outgoing, Progress, Stage
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome, StopReason
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.process.holder import read_exit
from agent_mailer.reservations.port import Doubt, How, Touched
from agent_mailer.runtimes.port import Usage
from agent_mailer.state.notices import Channel, NoticeKind
from agent_mailer.state.records import (
    AfterStop,
    Attempt,
    Batched,
    DeadLetter,
    ItemState,
    Pause,
    PauseReason,
    Phase,
    RetryEntry,
    SessionChange,
    SessionEntry,
    SettledItem,
    Settlement,
    StopAsked,
    TurnRecord,
)
from agent_mailer.turn_tools.folder import OUTBOX, FinishKind, FinishNote, NoteScope, NoteWrite
from agent_mailer.watch import recovery
from agent_mailer.watch.claim import open_turn, take, take_batch
from agent_mailer.watch.given_up import forget, take_up_again
from agent_mailer.watch.housekeeping import prune
from agent_mailer.watch.recovery import recover, salvage
from agent_mailer.watch.room import Stage as At
from agent_mailer.watch.room import Work
from agent_mailer.watch.rules import Candidate
from agent_mailer.watch.settling import settle
from agent_mailer.watch.watcher import Watcher

NOW = 2_100_000_000.0
RAN = ProcessIdentity(1, 1, "another boot")
DONE = Settlement(Outcome.DONE, "all well", NOW, 12.5, finished=True)
FAILED = Settlement(Outcome.FAILED, "no luck", NOW, 3.0, finished=False)


scene = scene_at(lambda: FakeClock(NOW), told=True)


@pytest.fixture
def reports(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Progress]]:
    """What a sender may hear where the mailbox can hold it; a folder holds none of it."""
    heard: list[tuple[str, Progress]] = []
    done = scene.room.mailbox.done

    async def told(envelope: Envelope, progress: Progress | None = None) -> None:
        assert progress is not None
        heard.append((envelope.id, progress))
        await done(envelope, progress)

    monkeypatch.setattr(scene.room.mailbox, "done", told)
    monkeypatch.setattr(scene.room.mailbox, "report", lambda envelope, progress: heard.append((envelope.id, progress)))
    return heard


def turn(scene: Scene, settlement: Settlement | None = DONE, **more: Any) -> TurnRecord:
    """A turn of a message that was claimed, as its record stands before it is applied."""
    envelope = more.pop("envelope", None) or scene.mail()
    scene.run(scene.room.mailbox.claim(envelope))
    phase = Phase.SETTLING if settlement is not None else Phase.RUNNING
    name = new_turn_id(more.pop("moment", NOW))
    record = TurnRecord(name, envelope, phase, "command", NOW - 20, process=RAN, settlement=settlement)
    for key, value in more.items():
        setattr(record, key, value)
    scene.state.turns.create(record)
    return record


def changed(settlement: Settlement, **more: Any) -> Settlement:
    return msgspec.structs.replace(settlement, **more)


def apply(scene: Scene, record: TurnRecord, *, again: bool = False) -> None:
    scene.run(settle(scene.room, record, again=again))


def said(scene: Scene, name: EventName) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if value is not None} for one in scene.told(name)]


def test_a_message_that_is_done_counts_as_settled_and_its_sender_may_hear_it(
    scene: Scene, reports: list[tuple[str, Progress]]
) -> None:
    record = turn(scene, changed(DONE, usage=Usage(7, 5, 0.5)))
    scene.state.retries.put(RetryEntry(record.envelope, 1, 1, revision=1))
    apply(scene, record)
    name = record.envelope.id
    assert name in scene.state.processed
    assert scene.state.retries.get(name) is None
    assert scene.state.turns.is_settled(record.turn_id)
    assert reports == [(name, Progress(record.turn_id, Stage.SETTLED, "done", "all well", final=True))]
    [end] = said(scene, EventName.MESSAGE_DONE)
    assert (end["turn_id"], end["message_id"], end["thread"]) == (record.turn_id, name, record.envelope.thread)
    [settled] = said(scene, EventName.TURN_SETTLED)
    assert (settled["turn_id"], settled["outcome"], settled["seconds"]) == (record.turn_id, "done", 12.5)
    [spent] = scene.state.usage.days().values()
    assert (spent.turns, spent.seconds, spent.usage) == (1, 12.5, Usage(7, 5, 0.5))
    assert said(scene, EventName.RETRY_SCHEDULED) == said(scene, EventName.DEAD_LETTER) == []


def test_what_is_to_be_tried_again_is_written_down_and_is_not_done(
    scene: Scene, reports: list[tuple[str, Progress]]
) -> None:
    envelope = scene.mail()
    entry = RetryEntry(envelope, 2, 3, NOW + 30.06, revision=4)
    record = turn(scene, changed(FAILED, retry=entry), envelope=envelope)
    apply(scene, record)
    assert scene.state.retries.get(envelope.id) == entry
    assert envelope.id not in scene.state.processed
    assert reports == [(envelope.id, Progress(record.turn_id, Stage.SETTLED, "failed", "no luck", final=False))]
    [told] = said(scene, EventName.RETRY_SCHEDULED)
    assert {key: told[key] for key in ("turn_id", "message_id", "thread", "outcome", "attempts", "in_seconds")} == {
        "turn_id": record.turn_id,
        "message_id": envelope.id,
        "thread": envelope.thread,
        "outcome": "failed",
        "attempts": 2,
        "in_seconds": 30.1,
    }
    assert said(scene, EventName.MESSAGE_DONE) == []
    assert scene.state.turns.is_settled(record.turn_id)


def test_a_retry_that_is_due_waits_no_second_and_one_of_a_settled_message_is_none(scene: Scene) -> None:
    envelope = scene.mail()
    record = turn(scene, changed(FAILED, retry=RetryEntry(envelope, 1, 1, NOW - 9, revision=1)), envelope=envelope)
    apply(scene, record)
    assert [one["in_seconds"] for one in said(scene, EventName.RETRY_SCHEDULED)] == [0.0]
    other = scene.mail(body="other")
    scene.state.processed.add(other.id)
    late = turn(scene, changed(FAILED, retry=RetryEntry(other, 1, 1, revision=1)), envelope=other)
    apply(scene, late, again=True)
    assert scene.state.retries.get(other.id) is None
    assert len(said(scene, EventName.RETRY_SCHEDULED)) == 1


def test_what_is_given_up_is_a_dead_letter_and_done(scene: Scene, reports: list[tuple[str, Progress]]) -> None:
    envelope = scene.mail()
    letter = DeadLetter(envelope.id, envelope.thread, 4, "no luck", turn_id="t", envelope=envelope)
    record = turn(scene, changed(FAILED, finished=True, dead=letter), envelope=envelope)
    apply(scene, record)
    assert scene.state.dead_letters.among([envelope.id]) != {}
    assert envelope.id in scene.state.processed
    [told] = said(scene, EventName.DEAD_LETTER)
    assert {key: told[key] for key in ("turn_id", "message_id", "thread", "why")} == {
        "turn_id": record.turn_id,
        "message_id": envelope.id,
        "thread": envelope.thread,
        "why": "no luck",
    }
    [(_, progress)] = reports
    assert progress.final
    assert scene.state.notices.told.turns


def test_what_was_given_up_and_is_asked_for_again_runs_whoever_dies_at_whichever_write(scene: Scene) -> None:
    """A request that was cut off is carried out once more by the next watcher."""

    for number in range(20):
        envelope = scene.mail(body=str(number))
        letter = DeadLetter(envelope.id, envelope.thread, 4, "no luck", turn_id="t", envelope=envelope)
        apply(scene, turn(scene, changed(FAILED, finished=True, dead=letter), envelope=envelope))
        scene.state.folder.disk.system = system = Refusing("*", On.REPLACE, code=None, after=number)
        with suppress(Died):
            take_up_again(scene.state, [envelope.id])
        scene.state.folder.disk.system = SystemCalls()
        later = scene.desk.place(scene.place.clock).state
        take_up_again(later, [envelope.id])
        assert later.retries.get(envelope.id) is not None, f"died after {number} writes"
        assert envelope.id not in later.processed, f"died after {number} writes"
        if not system.refused:
            return
    raise AssertionError("whoever asked was never let through")


def test_a_session_is_bound_or_dropped_once(scene: Scene) -> None:
    envelope = scene.mail()
    bound = SessionChange(envelope.thread, 0, SessionEntry("s-1", 1, runtime="command", generation=1))
    record = turn(scene, changed(DONE, session=bound), envelope=envelope)
    apply(scene, record)
    apply(scene, record, again=True)
    assert scene.state.sessions.get(envelope.thread) == bound.entry
    [told] = said(scene, EventName.SESSION_BOUND)
    assert (told["turn_id"], told["thread"], told["session"]) == (record.turn_id, envelope.thread, "s-1")
    gone = SessionChange(envelope.thread, 1, SessionEntry(generation=2))
    after = turn(scene, changed(DONE, session=gone), envelope=scene.mail(body="x", thread=envelope.thread))
    apply(scene, after)
    [told] = said(scene, EventName.SESSION_DROPPED)
    assert (told["turn_id"], told["thread"]) == (after.turn_id, envelope.thread)
    # Applied three times, there were two turns.
    [spent] = scene.state.usage.days().values()
    assert spent.turns == 2


def test_what_changed_of_others_reserved_files_is_told_once(scene: Scene) -> None:
    files = tuple(Touched(f"f{n}.py", How.CHANGED, "ann", "*.py", Doubt.BUSY) for n in range(12))
    record = turn(scene, changed(DONE, touched=files))
    apply(scene, record)
    apply(scene, record, again=True)
    [told] = said(scene, EventName.RESERVATION_TOUCHED)
    assert (told["turn_id"], told["thread"]) == (record.turn_id, record.envelope.thread)
    assert told["file"] == " ".join(f"f{n}.py" for n in range(10))
    assert "files changed that others have reserved: f0.py (ann has *.py" in told["why"]
    # An earlier watcher was killed before it told.
    other = turn(scene, changed(DONE, touched=files), envelope=scene.mail(body="x"))
    apply(scene, other, again=True)
    assert [one["turn_id"] for one in said(scene, EventName.RESERVATION_TOUCHED)] == [record.turn_id, other.turn_id]


def test_notes_of_a_turn_that_ended_well_are_the_agents_and_of_another_they_are_kept(scene: Scene) -> None:
    note = NoteWrite(NoteScope.GLOBAL, "remember this")
    failed = turn(scene, changed(FAILED, finished=True, notes=(note,)))
    apply(scene, failed)
    before = {path: path.read_text() for path in scene.desk.state.rglob("*.md") if path.is_file()}
    assert not any("remember this" in text for text in before.values())
    kept = [path for path in scene.desk.state.rglob("*") if path.is_file() and b"remember this" in path.read_bytes()]
    assert kept
    apply(scene, turn(scene, changed(DONE, notes=(note,)), envelope=scene.mail(body="x")))
    after = [path for path in scene.desk.state.rglob("*.md") if "remember this" in path.read_text()]
    assert after
    scene.room.policy = msgspec.structs.replace(scene.room.policy, global_note_fixed=True)
    fixed = NoteWrite(NoteScope.GLOBAL, "and this")
    apply(scene, turn(scene, changed(DONE, notes=(fixed,)), envelope=scene.mail(body="y")))
    notes = [path for path in (scene.desk.state / "memory").rglob("*") if path.is_file()]
    assert not any(b"and this" in path.read_bytes() for path in notes), "nobody changes a note that is fixed"


def test_what_did_not_leave_is_noted_and_stays_in_the_record(scene: Scene) -> None:
    item = SettledItem(Outgoing("o-1", "nobody", "t", "payload"), ItemState.REFUSED, "no such agent")
    gone = SettledItem(Outgoing("o-2", "user", "t", "payload"), ItemState.DELIVERED)
    record = turn(scene, changed(DONE, items=(gone, item)))
    apply(scene, record)
    assert scene.state.unsent.all() == [f"{record.turn_id}.1"]
    kept = scene.state.turns.load(record.turn_id)
    assert kept is not None
    assert kept.settlement is not None
    assert [(one.state, one.item.payload) for one in kept.settlement.items] == [
        (ItemState.DELIVERED, ""),
        (ItemState.REFUSED, "payload"),
    ]


def test_a_pause_begins_with_its_settlement_and_not_when_that_is_applied_again(scene: Scene) -> None:
    pause = Pause(PauseReason.LIMITED, NOW, NOW + 600, "limit")
    envelope = scene.mail()
    limited = changed(FAILED, outcome=Outcome.LIMITED, pause=pause, retry=RetryEntry(envelope, 0, 0, NOW, revision=1))
    record = turn(scene, limited, envelope=envelope)
    apply(scene, record, again=True)
    assert scene.state.pause.read() is None
    apply(scene, record)
    assert scene.state.pause.read() == pause


def test_a_question_stands_for_its_thread_and_one_of_a_batch_too(scene: Scene) -> None:
    envelope = scene.mail(thread="th")
    second = scene.mail(body="two", thread="th")
    asks = changed(DONE, outcome=Outcome.BLOCKED, question="Which one?")
    record = turn(scene, DONE, envelope=envelope, batch=(Batched(second, settlement=asks),))
    apply(scene, record)
    [question] = scene.state.questions.all()
    assert (question.message_id, question.text) == (second.id, "Which one?")
    assert {envelope.id, second.id} == set(scene.state.processed.among([envelope.id, second.id]))
    assert [one["message_id"] for one in said(scene, EventName.MESSAGE_DONE)] == [envelope.id, second.id]
    third = scene.mail(body="three", thread="th")
    apply(scene, turn(scene, changed(DONE, decided_at=NOW + 5), envelope=third))
    assert scene.state.questions.all() == []


def test_of_a_batch_what_failed_is_tried_again_though_the_rest_is_done(scene: Scene) -> None:
    first, second = scene.mail(thread="th"), scene.mail(body="two", thread="th")
    entry = RetryEntry(second, 1, 1, NOW + 5, revision=1)
    record = turn(scene, envelope=first, batch=(Batched(second, settlement=changed(FAILED, retry=entry)),))
    apply(scene, record)
    assert first.id in scene.state.processed
    assert second.id not in scene.state.processed
    assert scene.state.retries.get(second.id) == entry
    [told] = said(scene, EventName.RETRY_SCHEDULED)
    assert (told["turn_id"], told["message_id"]) == (record.turn_id, second.id)


def test_of_a_batch_each_that_is_given_up_is_told_of(scene: Scene) -> None:
    first, second = scene.mail(thread="th"), scene.mail(body="two", thread="th")
    letter = DeadLetter(second.id, "th", 0, "no luck", "", "t-1", Outcome.FAILED, second)
    given_up = changed(FAILED, finished=True, dead=letter)
    apply(scene, turn(scene, envelope=first, batch=(Batched(second, settlement=given_up),)))
    told = [(one.kind, one.message_id) for one in scene.state.notices.told.waiting]
    assert told == [(NoticeKind.DEAD_LETTER, second.id)]


def test_a_thread_has_moved_on_where_the_first_of_a_batch_is_done(scene: Scene) -> None:
    asks = changed(DONE, outcome=Outcome.BLOCKED, question="Which one?")
    apply(scene, turn(scene, asks, envelope=scene.mail(thread="th")))
    assert len(scene.state.questions.all()) == 1
    later, second = changed(DONE, decided_at=NOW + 5), scene.mail(body="three", thread="th")
    again = Batched(second, settlement=changed(FAILED, retry=RetryEntry(second, 1, 1, NOW + 30)))
    apply(scene, turn(scene, later, envelope=scene.mail(body="two", thread="th"), batch=(again,)))
    assert scene.state.questions.all() == []


@pytest.mark.parametrize("how", ["removed", "another's", "gone with its folder"])
def test_whose_workdir_is_another_watchers_by_now_settles_nothing(scene: Scene, how: str) -> None:
    record = turn(scene)
    lock = scene.desk.state / ".lock"
    match how:
        case "removed":
            lock.unlink()
        case "another's":
            lock.unlink()
            lock.touch(0o600)
        case _:
            scene.desk.state.rename(scene.desk.base / "away")
    with pytest.raises(ConfigFault if how.startswith("gone") else BusyFault):
        apply(scene, record)
    if how.startswith("gone"):
        (scene.desk.base / "away").rename(scene.desk.state)
    assert not scene.state.turns.is_settled(record.turn_id)
    assert record.envelope.id not in scene.desk.place().state.processed


def test_whom_the_mail_came_from_is_asked_also_where_no_operator_is_told(scene: Scene) -> None:
    scene.desk.configure(approve={"tools": ["Bash"], "by": "sender"}, notify={})
    scene.room = scene.desk.place(scene.place.clock).room(scene.lock)
    envelope = scene.mail()
    call = Call("Bash", '{"command":"git push"}', "c-1")
    retry = RetryEntry(envelope, 0, 0, NOW, revision=1, asked=("q",))
    asks = changed(FAILED, outcome=Outcome.ASKED, asked=(call,), asked_until=NOW + 60, retry=retry)
    apply(scene, turn(scene, asks, envelope=envelope))
    [notice] = scene.desk.place().state.notices.told.waiting
    assert (notice.kind, notice.message_id, notice.left) == (NoticeKind.APPROVAL, envelope.id, (Channel.SENDER,))


def test_what_a_person_is_asked_is_written_down_and_no_retry_is_told(scene: Scene) -> None:
    envelope = scene.mail()
    call = Call("Bash", '{"command":"git push"}', "c-1")
    asks = changed(
        FAILED,
        outcome=Outcome.ASKED,
        asked=(call,),
        asked_until=NOW + 60,
        retry=RetryEntry(envelope, 0, 0, NOW, revision=1, asked=("q",)),
    )
    apply(scene, turn(scene, asks, envelope=envelope))
    [question] = scene.state.approvals.all()
    assert (question.message_id, question.expires_at, question.call) == (envelope.id, NOW + 60, call)
    assert said(scene, EventName.RETRY_SCHEDULED) == []
    assert len(said(scene, EventName.APPROVAL_ASKED)) == 1
    # Its message is over: nobody is asked any more.
    rerun = RetryEntry(envelope, 0, 0, NOW, revision=1, asked=(question.id,))
    apply(scene, turn(scene, changed(DONE, used=(question.id,)), envelope=envelope, rerun=rerun))
    [question] = scene.state.approvals.all()
    assert question.over


def test_where_nothing_ran_nothing_is_spent(scene: Scene) -> None:
    envelope = scene.mail()
    record = turn(scene, changed(FAILED, retry=RetryEntry(envelope, 1, 1, NOW, revision=1)), envelope=envelope)
    record.process = None
    apply(scene, record)
    assert scene.state.usage.days() == {}


# Left open.


def test_an_open_turn_whose_record_is_damaged_gives_its_message_back_and_counts_as_a_start(scene: Scene) -> None:
    record = turn(scene, None)
    entry = RetryEntry(record.envelope, 2, 3, NOW + 5, revision=4)
    scene.state.retries.put(entry)
    path = scene.state.turns.path(record.turn_id) / "turn.json"
    path.write_text("{")
    found = asyncio.run(salvage(scene.state, record.turn_id))
    assert [one.id for one in found] == [record.envelope.id]
    known = scene.state.retries.get(record.envelope.id)
    assert known is not None
    assert (known.attempts, known.starts) == (2, 4)
    assert not path.exists()
    assert scene.state.turns.is_settled(record.turn_id)
    [dropped] = said(scene, EventName.TURN_DROPPED)
    assert (dropped["turn_id"], dropped["message_id"]) == (record.turn_id, record.envelope.id)


@pytest.mark.parametrize("name", ["retries.json", "turn.json", "settled"])
def test_who_dies_while_a_damaged_turn_is_given_back_has_not_lost_its_message(scene: Scene, name: str) -> None:
    """It is claimed: only its retry says that it is to be done."""
    record = turn(scene, None)
    (scene.state.turns.path(record.turn_id) / "turn.json").write_text("{")
    scene.place.disk.system = Refusing(name, *On, code=None, times=1)
    with pytest.raises(Died):
        asyncio.run(salvage(scene.state, record.turn_id))
    again = scene.desk.place().state
    assert again.retries.get(record.envelope.id) is not None or not again.turns.is_settled(record.turn_id)
    assert (name == "retries.json") is (again.retries.get(record.envelope.id) is None)


def test_what_runs_of_a_claim_is_ended_before_the_claim_is_given_back(scene: Scene) -> None:
    record = turn(scene, None, phase=Phase.CLAIMED, process=None)
    env = {"AGENT_MAILER_TURN_ID": record.turn_id}
    with subprocess.Popen(["/bin/sleep", "600"], env=env, start_new_session=True) as left:
        try:
            [one] = scene.run(recover(scene.room))
            scene.place.disk.system = Refusing("turn.json", *On, code=None)
            with pytest.raises(Died):
                scene.run(one.finish())  # type: ignore[arg-type]
            assert left.poll() == -signal.SIGTERM
        finally:
            left.kill()


def test_what_somebody_else_has_of_a_batch_leaves_the_record_before_anything_is_started(scene: Scene) -> None:
    """Left in it, it would be given back and run, though another has it."""
    first, second = scene.mail(), scene.mail(body="two")

    async def claimed() -> TurnRecord:
        record = await open_turn(scene.room, Candidate(first), new_turn_id(NOW), "command", (second,))
        assert record is not None
        assert len(record.batch) == 1
        assert await take(scene.room, record) is not None
        (scene.box / "new" / f"{second.id}.md").unlink()
        assert await take_batch(scene.room, record) == ()
        return record

    record = scene.run(claimed())
    kept = scene.place.state.turns.load(record.turn_id)
    assert kept is not None
    assert kept.batch == ()


def test_a_turn_of_a_message_that_another_has_in_hand_waits_for_it(scene: Scene) -> None:
    record = turn(scene)
    busy = scene.room.work[new_turn_id(NOW + 1)] = Work(record.envelope, At.RUNNING, {record.envelope.id})
    assert scene.run(recover(scene.room)) == []
    busy.message_ids = {"another"}
    assert [one.record.turn_id for one in scene.run(recover(scene.room))] == [record.turn_id]


def test_of_a_turn_of_which_nothing_is_known_nothing_is_made(scene: Scene) -> None:
    record = turn(scene, None)
    scene.state.processed.add(record.envelope.id)
    (scene.state.turns.path(record.turn_id) / "turn.json").write_text("{")
    asyncio.run(salvage(scene.state, record.turn_id))
    assert scene.state.retries.get(record.envelope.id) is None
    name = new_turn_id(NOW + 1)
    scene.state.turns.path(name).mkdir(parents=True)
    before = scene.place.disk.syncs
    assert asyncio.run(salvage(scene.state, name)) == ()
    assert scene.place.disk.syncs > before, "no power failure brings it back"
    assert scene.state.turns.is_settled(name)
    assert "message_id" not in said(scene, EventName.TURN_DROPPED)[-1]


def test_open_turns_are_found_oldest_first_and_a_damaged_one_is_given_back(scene: Scene) -> None:
    first = turn(scene, None, phase=Phase.CLAIMED, process=None)
    second = turn(scene, envelope=scene.mail(body="two"))
    third = turn(scene, None, envelope=scene.mail(body="three"))
    (scene.state.turns.path(third.turn_id) / "turn.json").write_text("{")
    found = scene.run(recover(scene.room))
    assert {one.record.turn_id for one in found} == {first.turn_id, second.turn_id}
    assert scene.state.turns.is_settled(third.turn_id)
    for one in found:
        scene.run(one.finish())  # type: ignore[arg-type]
    assert scene.state.turns.open_ids() == []
    assert second.envelope.id in scene.state.processed
    assert first.envelope.id not in scene.state.processed


def test_a_settlement_of_a_message_that_still_waits_was_written_by_no_watcher(scene: Scene) -> None:
    envelope = scene.mail()
    record = TurnRecord(new_turn_id(NOW), envelope, Phase.SETTLING, "command", NOW - 20, settlement=DONE)
    scene.state.turns.create(record)
    [one] = scene.run(recover(scene.room))
    scene.run(one.finish())  # type: ignore[arg-type]
    assert envelope.id not in scene.state.processed
    assert scene.state.turns.is_settled(record.turn_id)
    assert [each.id for each in scene.listed()] == [envelope.id]
    [dropped] = said(scene, EventName.TURN_DROPPED)
    assert (dropped["turn_id"], dropped["message_id"]) == (record.turn_id, envelope.id)


def test_a_turn_whose_watcher_was_ended_while_it_stopped_is_adopted_and_told(scene: Scene) -> None:
    record = turn(scene, None)
    scene.state.turns.stop_begins()
    [one] = scene.run(recover(scene.room))
    assert not scene.state.turns.stop_was_cut_off()
    [told] = said(scene, EventName.TURN_ADOPTED)
    assert (told["turn_id"], told["message_id"], told["thread"]) == (
        record.turn_id,
        record.envelope.id,
        record.envelope.thread,
    )
    assert told["running"] is False
    assert one.record.turn_id == record.turn_id


def test_a_finished_message_leaves_the_transcripts_of_its_turns(scene: Scene) -> None:
    envelope = scene.mail()
    earlier = turn(scene, changed(FAILED, retry=RetryEntry(envelope, 1, 1, NOW, revision=1)), envelope=envelope)
    apply(scene, earlier)
    said_then = scene.state.turns.path(earlier.turn_id) / "stdout"
    said_then.write_text("said")
    history = (Attempt(earlier.turn_id, Outcome.FAILED, "no luck", NOW),)
    rerun = RetryEntry(envelope, 1, 1, NOW, history=history, revision=1)
    last = turn(scene, envelope=envelope, rerun=rerun)
    apply(scene, last)
    assert json.loads((scene.state.turns.path(last.turn_id) / "turn.json").read_text())["turn_id"] == last.turn_id
    assert said_then.exists(), "transcripts are kept"


def test_turns_past_their_days_go_but_of_messages_that_are_to_be_tried_again(scene: Scene) -> None:
    """Also of one that has become so while others were looked at: a retry can be made anew from them."""
    done, again, late = (turn(scene, envelope=scene.mail(body=str(number))) for number in range(3))
    for record in (done, again, late):
        scene.state.turns.mark_settled(record.turn_id)
    scene.state.retries.put(RetryEntry(again.envelope, 1, 1, revision=1))

    async def story() -> None:
        pruning = asyncio.ensure_future(prune(scene.room))
        await asyncio.sleep(0)
        scene.state.retries.put(RetryEntry(late.envelope, 1, 1, revision=1))
        await pruning

    scene.run(story())
    assert set(scene.state.turns.ids()) == {again.turn_id, late.turn_id}


@pytest.mark.parametrize("put_back", [False, True])
@pytest.mark.parametrize(("before", "revision"), [(None, 1), (4, 5)])
def test_what_is_taken_up_again_is_newer_than_what_any_of_its_turns_left(
    scene: Scene, before: int | None, revision: int, put_back: bool
) -> None:
    """How often its mailbox has listed it again counts, a person's word begins that anew."""
    envelope = scene.mail()
    rerun = RetryEntry(envelope, 1, 1, revision=before) if before is not None else None
    record = turn(scene, changed(FAILED, finished=True), envelope=envelope, rerun=rerun)
    scene.state.turns.mark_settled(record.turn_id)
    letter = DeadLetter(envelope.id, "th", 0, "no luck", "", record.turn_id, Outcome.FAILED, envelope, put_back=2)
    scene.state.dead_letters.add(letter, again=False)
    scene.state.processed.add(envelope.id)
    # As another client counts, or an interrupted write leaves it.
    scene.state.retries.put(RetryEntry(envelope, 3, 3, revision=9))
    take_up_again(scene.state, [envelope.id], put_back=put_back)
    known = scene.state.retries.get(envelope.id)
    assert known is not None
    assert (known.revision, known.put_back, known.attempts) == (revision, 3 if put_back else 0, 0)
    assert envelope.id not in scene.state.processed


def test_of_several_that_are_taken_up_each_runs_again(scene: Scene) -> None:
    letters = []
    for number, revision in enumerate((4, 7)):
        envelope = scene.mail(body=str(number))
        for known in (1, revision, 2):
            rerun = RetryEntry(envelope, 1, 1, revision=known)
            record = turn(scene, changed(FAILED, finished=True), envelope=envelope, rerun=rerun)
            scene.state.turns.mark_settled(record.turn_id)
        letters.append(DeadLetter(envelope.id, "th", turn_id=record.turn_id, envelope=envelope))
        scene.state.processed.add(envelope.id)
        scene.state.dead_letters.add(letters[-1], again=False)
    ids = [one.msg_id for one in letters]
    told = take_up_again(scene.state, [*ids, "nothing"])
    assert told == [*((True, f"{one}: pending again") for one in ids), (False, "nothing: no dead letter")]
    assert {one.envelope.id: one.revision for one in scene.state.retries.all()} == dict(zip(ids, (5, 8), strict=True))
    assert not any(one in scene.state.processed for one in ids)
    assert scene.state.dead_letters.all() == []
    assert [one["message_id"] for one in scene.told(EventName.MESSAGE_REVIVED)] == ids


def test_what_is_forgotten_is_settled_for_good_and_an_open_turn_stays_open(scene: Scene) -> None:
    ended, opened = (turn(scene, envelope=scene.mail(body=body)) for body in ("one", "two"))
    scene.state.turns.mark_settled(ended.turn_id)
    for record in (ended, opened):
        message = record.envelope
        letter = DeadLetter(message.id, "th", 0, "no luck", "", record.turn_id, Outcome.FAILED, message)
        scene.state.dead_letters.add(letter, again=False)
    before = scene.place.disk.syncs
    forget(scene.state, [opened.envelope.id])
    assert not scene.state.turns.is_settled(opened.turn_id)
    without = scene.place.disk.syncs - before
    forget(scene.state, [ended.envelope.id])
    assert scene.place.disk.syncs - before - without > without, "its settlement must never apply again"
    assert scene.state.dead_letters.all() == []


@pytest.mark.parametrize(
    ("settlement", "process", "gone"), [(DONE, RAN, True), (FAILED, RAN, False), (FAILED, None, True)]
)
def test_mail_leaves_the_folder_of_a_turn_whose_message_is_done_or_in_which_nothing_ran(
    scene: Scene, settlement: Settlement, process: ProcessIdentity | None, gone: bool
) -> None:
    """What was said stays, and so does the mail of a message that is to be tried again."""
    envelope = scene.mail()
    retry = None if settlement.finished else RetryEntry(envelope, 1, 1, NOW, revision=1)
    record = turn(scene, changed(settlement, retry=retry), envelope=envelope, process=process)
    folder = scene.state.turns.path(record.turn_id)
    for name in ("prompt.md", "stdout"):
        (folder / name).write_text("text")
    (folder / "outbox").mkdir()
    for number in range(1200 if process is not None else 0):
        (folder / f"outbox/{number}").touch()
    left: list[bool] = []

    class Looks(SystemCalls):
        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            if path == folder / "settled":
                left.append((folder / "prompt.md").exists())
            return super().open(path, flags, mode)

    scene.place.disk.system = Looks()
    apply(scene, record)
    assert left == [not settlement.finished], "nobody comes back to a settled turn for what a crash has left in it"
    assert ((folder / "prompt.md").exists(), (folder / "outbox").exists()) == (not gone, not gone)
    assert (folder / "stdout").exists()
    assert scene.state.turns.is_settled(record.turn_id)


def test_of_a_batch_one_that_is_to_be_tried_again_keeps_the_mail_of_all(scene: Scene) -> None:
    first, second = scene.mail(thread="th"), scene.mail(body="two", thread="th")
    retry = changed(FAILED, retry=RetryEntry(first, 1, 1, NOW, revision=1))
    record = turn(scene, retry, envelope=first, batch=(Batched(second, settlement=DONE),))
    prompt = scene.state.turns.path(record.turn_id) / "prompt.md"
    prompt.write_text("text")
    apply(scene, record)
    assert prompt.exists()
    assert (first.id in scene.state.processed, second.id in scene.state.processed) == (False, True)


def test_what_was_sent_again_counts_as_delivered_and_its_own_record_goes(scene: Scene) -> None:
    item = SettledItem(Outgoing("o-1", "user", "t", "payload"), ItemState.REFUSED, "no such agent")
    first = turn(scene, changed(DONE, items=(item,)))
    apply(scene, first)
    [key] = scene.state.unsent.all()
    sent = changed(DONE, items=(msgspec.structs.replace(item, state=ItemState.DELIVERED, why=""),))
    again = TurnRecord(
        new_turn_id(NOW + 1), first.envelope, Phase.SETTLING, "command", NOW, settlement=sent, resends=key
    )
    scene.state.turns.create(again)
    before = list[ItemState]()

    class Watched(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            if source.name == again.turn_id:
                there = scene.desk.place().state.turns.load(first.turn_id)
                assert there is not None
                assert there.settlement is not None
                before.extend(one.state for one in there.settlement.items)
            super().rename_noreplace(source, target)

    scene.state.folder.disk.system = Watched()
    apply(scene, again)
    assert before == [ItemState.DELIVERED], "whoever is killed once it is gone has the first record alone"
    assert scene.state.unsent.all() == []
    known = scene.state.turns.load(first.turn_id)
    assert known is not None
    assert known.settlement is not None
    assert [one.state for one in known.settlement.items] == [ItemState.DELIVERED]
    assert again.turn_id not in scene.state.turns.ids()
    assert len(said(scene, EventName.TURN_SETTLED)) == 1


@pytest.mark.parametrize(
    ("ended", "cut_off", "stopped"),
    [("143", True, True), ("", True, True), ("1", True, False), ("0", True, False), ("143", False, False)],
)
def test_only_what_a_stop_can_have_ended_is_excused_and_only_after_a_stop(
    scene: Scene, ended: str, cut_off: bool, stopped: bool
) -> None:
    """The holder has written how the agent ended: by a signal, or by itself."""
    records = [turn(scene, None, envelope=scene.mail(body=body), moment=NOW + len(body)) for body in ("1", "22", "333")]
    for record in records if ended else ():
        (scene.state.turns.path(record.turn_id) / "exit").write_text(f"{ended}\n")
    if cut_off:
        scene.state.turns.stop_begins()
    found = [one.record for one in scene.run(recover(scene.room))]
    assert [one.turn_id for one in found] == [record.turn_id for record in records]
    for one in found:
        assert (one.stopped is StopReason.SHUTDOWN) is stopped
        kept = scene.state.turns.load(one.turn_id)
        assert kept is not None
        assert kept.stopped == one.stopped
    assert not scene.state.turns.stop_was_cut_off()


def test_what_was_stopped_before_keeps_its_reason_and_a_watcher_that_stops_excuses_nobody(scene: Scene) -> None:
    record = turn(scene, None, stopped=StopReason.TURN_TIMEOUT)
    scene.state.turns.stop_begins()
    [one] = scene.run(recover(scene.room))
    assert one.record.stopped is StopReason.TURN_TIMEOUT
    other = turn(scene, None, envelope=scene.mail(body="other"))
    scene.state.turns.stop_begins()
    scene.room.stopping.set()
    found = {one.record.turn_id: one.record for one in scene.run(recover(scene.room))}
    assert set(found) == {record.turn_id, other.turn_id}
    assert found[other.turn_id].stopped is None
    assert scene.state.turns.stop_was_cut_off()


def test_of_several_stops_the_shortest_counts_and_asking_on_prolongs_none(scene: Scene) -> None:
    room, now = scene.room, scene.place.clock.monotonic()
    room.request_stop(60.0)
    room.request_stop(0.0)
    first = room.stop_at
    assert first is not None
    assert first < now + 30
    for grace in (0.0, 60.0):
        room.request_stop(grace)
        assert room.stop_at == first


def test_who_begins_clears_away_answers_that_nobody_fetched(scene: Scene) -> None:
    old = scene.desk.state / "requests/one.answer"
    old.parent.mkdir(exist_ok=True)
    old.write_text("{}")
    os.utime(old, (NOW - 400, NOW - 400))
    scene.run(recover(scene.room))
    assert not old.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_what_this_watcher_has_in_work_is_not_taken_up_beside_it(scene: Scene, *, damaged: bool) -> None:
    record = turn(scene, resends="gone 0")
    path = scene.state.turns.path(record.turn_id) / "turn.json"
    if damaged:
        path.write_text("{")
    scene.room.work[record.turn_id] = Work(record.envelope, At.RUNNING, {record.envelope.id})
    assert scene.run(recover(scene.room)) == []
    assert path.exists()
    assert scene.told(EventName.TURN_DROPPED) == []
    assert list(scene.state.turns.open_ids()) == [record.turn_id]


def test_what_this_watcher_has_in_work_waits_and_hides_no_other(scene: Scene) -> None:
    ours, other = turn(scene, None), turn(scene, None, envelope=scene.mail(body="other"), moment=NOW + 1)
    again = turn(scene, None, envelope=ours.envelope, phase=Phase.CLAIMED, process=None)
    scene.room.work[ours.turn_id] = Work(ours.envelope, At.RUNNING, {ours.envelope.id})
    assert [one.record.turn_id for one in scene.run(recover(scene.room))] == [other.turn_id]
    scene.room.work.clear()
    found = {one.record.turn_id for one in scene.run(recover(scene.room))}
    assert found == {ours.turn_id, other.turn_id, again.turn_id}


def test_what_is_interrupted_while_open_turns_are_looked_for_is_taken_up_as_well(scene: Scene) -> None:
    ours = turn(scene, None, phase=Phase.CLAIMED)
    damaged = turn(scene, None, envelope=scene.mail(body="other"), moment=NOW + 1)
    (scene.state.turns.path(damaged.turn_id) / "turn.json").write_text("{")
    scene.room.policy = msgspec.structs.replace(scene.policy, trouble_first=0.0)
    scene.room.work[ours.turn_id] = Work(ours.envelope, At.CLAIMING, {ours.envelope.id})
    watcher = Watcher(scene.room)

    async def interrupted() -> None:
        looking = asyncio.create_task(watcher._take_up_open())
        await asyncio.sleep(0)
        assert not scene.told(EventName.TURN_DROPPED), "what the damaged one has left is looked for"
        del scene.room.work[ours.turn_id]
        watcher._interrupted(OSError(28, "No space left on device"))
        assert watcher._hold_remaining() > 0, "it goes round and round"
        await looking
        await asyncio.sleep(watcher._hold_remaining())
        await watcher._take_up_open()
        assert list(scene.room.work) == [ours.turn_id]
        await asyncio.gather(*(work.task for work in scene.room.work.values() if work.task is not None))

    scene.run(interrupted())
    assert scene.state.turns.is_settled(ours.turn_id)


def test_a_settlement_that_an_earlier_watcher_may_have_applied_begins_no_pause(scene: Scene) -> None:
    pause = Pause(PauseReason.LIMITED, NOW, NOW + 600, "limit")
    envelope = scene.mail()
    entry = RetryEntry(envelope, 0, 0, NOW, revision=1)
    record = turn(scene, changed(FAILED, outcome=Outcome.LIMITED, pause=pause, retry=entry), envelope=envelope)
    [one] = scene.run(recover(scene.room))
    scene.run(one.finish())  # type: ignore[arg-type]
    assert scene.state.turns.is_settled(record.turn_id)
    assert scene.state.retries.get(envelope.id) == entry
    assert scene.state.pause.read() is None


def test_of_a_batch_one_message_that_still_waits_is_enough(scene: Scene) -> None:
    """What gave a claim back that may have failed is no sign: its message may well wait."""
    for second, put_away in ((DONE, True), (FAILED, False), (None, False)):
        record = turn(scene, envelope=scene.mail(body="first"))
        waits = scene.mail(body="second")
        record.batch = (Batched(msgspec.structs.replace(waits, thread=record.envelope.thread), settlement=second),)
        if second is None:
            record.batch = ()
        scene.state.turns.save(record)
        [one] = scene.run(recover(scene.room))
        scene.run(one.finish())  # type: ignore[arg-type]
        assert (record.envelope.id not in scene.state.processed) is put_away
        assert scene.state.turns.is_settled(record.turn_id)
        (scene.box / "new" / waits.locator).unlink()


@pytest.mark.parametrize("at_work", [False, True])
def test_what_was_to_be_sent_again_is_sent_though_its_message_waits_or_is_at_work(scene: Scene, at_work: bool) -> None:
    envelope = scene.mail()
    if at_work:
        scene.room.work[new_turn_id(NOW + 1)] = Work(envelope, At.RUNNING, {envelope.id})
    sent = changed(DONE, items=(SettledItem(Outgoing("o-1", "user", "t", "payload"), ItemState.DELIVERED),))
    record = TurnRecord(new_turn_id(NOW), envelope, Phase.SETTLING, "command", NOW, settlement=sent, resends="gone 0")
    scene.state.turns.create(record)
    [one] = scene.run(recover(scene.room))
    scene.run(one.finish())  # type: ignore[arg-type]
    assert said(scene, EventName.TURN_DROPPED) == []
    assert envelope.id not in scene.state.processed


def test_what_an_open_turn_left_running_ends_whatever_becomes_of_it(scene: Scene) -> None:
    damaged = turn(scene, None, phase=Phase.CLAIMED, process=None)
    (scene.state.turns.path(damaged.turn_id) / "turn.json").write_text("{")
    unbegun = turn(scene, None, envelope=scene.mail(body="two"), phase=Phase.CLAIMED, process=None)
    waits = scene.mail(body="three")
    nobodys = TurnRecord(new_turn_id(NOW), waits, Phase.SETTLING, "command", NOW - 20, settlement=DONE)
    scene.state.turns.create(nobodys)
    left = {
        name: subprocess.Popen(["sleep", "600"], env={**os.environ, "AGENT_MAILER_TURN_ID": name})
        for name in (damaged.turn_id, unbegun.turn_id, nobodys.turn_id)
    }
    try:
        work = {one.record.turn_id: one for one in scene.run(recover(scene.room))}
        assert [name for name, process in left.items() if process.poll() is not None] == [damaged.turn_id]
        for name in (unbegun.turn_id, nobodys.turn_id):
            scene.run(work[name].finish())  # type: ignore[arg-type]
            assert left[name].poll() is not None
    finally:
        for process in left.values():
            process.kill()
            process.wait()
    assert "it settles a message that waits still" in [one["why"] for one in said(scene, EventName.STATE_DAMAGED)]


def test_where_a_turns_mail_cannot_be_read_the_index_tells_but_not_while_another_holds_it(scene: Scene) -> None:
    """A file that a program holds for itself alone (a server of files does) may be whole, and say more."""
    record = turn(scene, None)
    mail = scene.state.turns.path(record.turn_id) / "mail.json"
    mail.mkdir()
    assert [one.id for one in recovery._envelopes_of(scene.state, record.turn_id)] == [record.envelope.id]
    mail.rmdir()
    mail.touch()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with mail.open() as held:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            with pytest.raises(BlockingIOError):
                recovery._envelopes_of(scene.state, record.turn_id)
        finally:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)


def test_a_folder_that_cannot_be_read_just_now_is_no_turn_without_messages(scene: Scene) -> None:
    record = turn(scene, None)
    assert [one.id for one in recovery._envelopes_of(scene.state, record.turn_id)] == [record.envelope.id]
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        recovery._envelopes_of(scene.state, record.turn_id)


READ_OF_A_TURN: dict[str, Callable[[Scene, str], object]] = {
    "turn.json": lambda scene, turn_id: scene.state.turns.load(turn_id),
    "stop.json": lambda scene, turn_id: scene.state.turns.stop_asked(turn_id),
    "inflight.json": lambda scene, turn_id: scene.state.turns.index_is_damaged() or "whole",
    "exit": lambda scene, turn_id: read_exit(scene.state.turns.path(turn_id)),
    "k.json": lambda scene, turn_id: scene.state.turns.folder(turn_id).staged(),
    "finish": lambda scene, turn_id: scene.state.turns.folder(turn_id).seal().finish,
    "note-global": lambda scene, turn_id: scene.state.turns.folder(turn_id).seal().notes,
}


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("name", READ_OF_A_TURN)
def test_what_is_there_and_cannot_be_read_just_now_is_not_taken_for_missing(scene: Scene, name: str, code: int) -> None:
    """A record for damaged, a reply for none, a person's stop for no stop: what comes of it is for good."""
    turn_id = turn(scene, None).turn_id
    scene.state.turns.ask_stop(turn_id, StopAsked(AfterStop.DROP, NOW))
    path, outbox = scene.state.turns.path(turn_id), scene.state.turns.path(turn_id) / OUTBOX
    outbox.mkdir(exist_ok=True)
    (outbox / "k.json").write_bytes(msgspec.json.encode(Draft("k", Action.REPLY, NOW, body="42")))
    (outbox / "finish").write_bytes(msgspec.json.encode(FinishNote(FinishKind.DONE)))
    (outbox / "note-global").write_text("It rains.")
    (path / "exit").write_text("3\n")
    with unreadable(name, code), pytest.raises(OSError, match=os.strerror(code)):
        READ_OF_A_TURN[name](scene, turn_id)
    assert READ_OF_A_TURN[name](scene, turn_id)
