"""The turn folders and their index: what is open is known whatever becomes of one of them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.names import new_turn_id
from agent_mailer.outcomes import Outcome
from agent_mailer.state import State
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.records import (
    Batched,
    DeadLetter,
    ItemState,
    Phase,
    Provisional,
    RetryEntry,
    SessionChange,
    SessionEntry,
    SettledItem,
    Settlement,
    TurnRecord,
)
from agent_mailer.state.retention import Retention
from agent_mailer.state.turns import TurnStore

GARBAGE = [b"", b'{"turn_id": "', b"\0" * 100, b"[]", b"[" * 100_000, b"\xff", b"null", b'{"turns": [1]}']


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path, clock: FakeClock) -> StateFolder:
    found = StateFolder(tmp_path, Disk(), clock)
    found.prepare()
    return found


def record(store: TurnStore, name: str = "m") -> TurnRecord:
    envelope = Envelope(name, "t", "user", 0.0, "1", f"{name}.md")
    return TurnRecord(new_turn_id(0.0), envelope, Phase.CLAIMED, "command", 1.0)


def open_turn(folder: StateFolder, name: str = "m") -> TurnRecord:
    store = TurnStore(folder)
    made = record(store, name)
    store.create(made)
    return made


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_record_is_none(folder: StateFolder, garbage: bytes) -> None:
    made = open_turn(folder)
    path = folder.turns / made.turn_id / "turn.json"
    assert TurnStore(folder).load(made.turn_id) == made
    path.write_bytes(garbage)
    assert TurnStore(folder).load(made.turn_id) is None
    assert TurnStore(folder).open_ids() == [made.turn_id]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_word_that_a_turn_is_to_stop_is_none(folder: StateFolder, garbage: bytes) -> None:
    made = open_turn(folder)
    (folder.turns / made.turn_id / "stop.json").write_bytes(garbage)
    assert TurnStore(folder).stop_asked(made.turn_id) is None


def test_a_record_torn_anywhere_is_none(folder: StateFolder) -> None:
    made = open_turn(folder)
    path = folder.turns / made.turn_id / "turn.json"
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert TurnStore(folder).load(made.turn_id) is None, length


def test_a_record_that_is_no_file_is_none_and_never_waited_for(folder: StateFolder, tmp_path: Path) -> None:
    made = open_turn(folder)
    path = folder.turns / made.turn_id / "turn.json"
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    assert TurnStore(folder).load(made.turn_id) is None
    path.symlink_to(elsewhere)
    assert TurnStore(folder).load(made.turn_id) is None
    path.unlink()
    os.mkfifo(path)
    assert TurnStore(folder).load(made.turn_id) is None


def test_a_folder_in_a_records_place_is_put_beside_it(folder: StateFolder) -> None:
    made = open_turn(folder)
    path = folder.turns / made.turn_id / "turn.json"
    path.unlink()
    path.mkdir()
    TurnStore(folder).save(made)
    assert TurnStore(folder).load(made.turn_id) == made
    assert len([one for one in path.parent.iterdir() if one.is_dir() and one.name.startswith("turn.json.")]) == 1


@pytest.mark.parametrize("other", ["../../../x", "20260101T000000-ffffffff", ""])
def test_a_record_that_claims_another_folder_is_none(folder: StateFolder, other: str) -> None:
    made = open_turn(folder)
    forged = msgspec.structs.replace(made, turn_id=other)
    (folder.turns / made.turn_id / "turn.json").write_bytes(msgspec.json.encode(forged))
    assert TurnStore(folder).load(made.turn_id) is None


def test_a_record_of_two_messages_or_threads_is_none(folder: StateFolder) -> None:
    store = TurnStore(folder)
    own = record(store).envelope
    changed, elsewhere = msgspec.structs.replace(own, id="another"), msgspec.structs.replace(own, thread="another")
    bound = SessionEntry("s", 1, "", "", "command")

    def loaded(**changes: object) -> bool:
        made = msgspec.structs.replace(record(store), **changes)
        store.create(made)
        return store.load(made.turn_id) == made

    def settled(**changes: object) -> bool:
        settlement = Settlement(Outcome.FAILED, "", 0.0, 0.0, finished=False)
        return loaded(phase=Phase.SETTLING, settlement=msgspec.structs.replace(settlement, **changes))

    def shared(envelope: Envelope, *before: Envelope, **changes: object) -> bool:
        settlement = Settlement(Outcome.FAILED, "", 0.0, 0.0, finished=False)
        one = Batched(envelope, settlement=msgspec.structs.replace(settlement, **changes))
        sound = Batched(msgspec.structs.replace(own, id="sound"), settlement=settlement)
        return loaded(phase=Phase.SETTLING, settlement=settlement, batch=(sound, one))

    def letter(envelope: Envelope, name: str = "m") -> DeadLetter:
        return DeadLetter(name, "t", envelope=envelope)

    assert loaded(rerun=RetryEntry(own))
    assert settled(retry=RetryEntry(own))
    assert settled(dead=letter(own), session=SessionChange("t", 0, bound))
    assert shared(changed, retry=RetryEntry(changed))
    assert not settled(session=SessionChange("another", 0, bound))
    assert not settled(dead=letter(own, "another"))
    for other in (changed, elsewhere):
        assert not loaded(rerun=RetryEntry(other))
        assert not settled(retry=RetryEntry(other))
        assert not settled(dead=letter(other))
    assert shared(own, changed)
    assert not shared(elsewhere)
    assert not shared(elsewhere, changed)
    assert not shared(changed, retry=RetryEntry(own))
    assert not shared(changed, dead=letter(own))
    odd, fine = (Provisional(name, "claude", Outcome.LIMITED) for name in ("--yes", "s-1"))
    assert settled(retry=RetryEntry(own, provisional=fine))
    assert not settled(retry=RetryEntry(own, provisional=odd))
    assert not shared(changed, retry=RetryEntry(changed, provisional=odd))


@pytest.mark.parametrize("where", ["resume", "fresh", "provisional"])
def test_a_record_that_names_what_can_be_no_session_is_none(folder: StateFolder, where: str) -> None:
    store = TurnStore(folder)
    own = record(store).envelope

    def named(session: str) -> TurnRecord:
        entry = RetryEntry(own, provisional=Provisional(session, "command", Outcome.FAILED))
        changes: dict[str, object] = {"rerun": entry} if where == "provisional" else {where: session}
        made = msgspec.structs.replace(record(store), **changes)
        store.create(made)
        return made

    assert store.load(named("s").turn_id) is not None
    assert store.load(named("--yes").turn_id) is None


def test_only_folders_named_like_turns_are_turns(folder: StateFolder, tmp_path: Path) -> None:
    made = open_turn(folder)
    (folder.turns / "20260101T000000-00000000").write_text("a file")
    (folder.turns / "20260101T000000-00000001").symlink_to(tmp_path)
    (folder.turns / "notes").mkdir()
    (folder.turns / "20260101T000000-0000000g").mkdir()
    assert TurnStore(folder).ids() == [made.turn_id]


def test_the_index_outlives_the_watcher_that_wrote_it(folder: StateFolder) -> None:
    """The next one starts with it: settling one turn must not forget another whose record has become unreadable."""
    one, other = open_turn(folder, "one"), open_turn(folder, "other")
    (folder.turns / one.turn_id / "turn.json").write_bytes(b"torn")
    (folder.turns / other.turn_id / "turn.json").write_bytes(b"torn")
    store = TurnStore(folder)
    store.mark_settled(other.turn_id)
    assert [row.envelope for row in TurnStore(folder).indexed()] == [one.envelope]
    store.mark_settled(one.turn_id)
    assert TurnStore(folder).indexed() == []


def test_of_several_open_turns_each_has_its_row_until_it_is_gone(folder: StateFolder) -> None:
    opened = sorted(open_turn(folder, name).turn_id for name in ("one", "two", "three"))
    store = TurnStore(folder)
    assert sorted(row.turn_id for row in store.indexed()) == opened
    (folder.path / "inflight.json").unlink()
    assert TurnStore(folder).remake_index()
    again = TurnStore(folder)
    assert sorted(row.turn_id for row in again.indexed()) == opened
    assert not again.remake_index()
    for turn_id in opened[1:]:
        (again.path(turn_id) / "turn.json").unlink()
        again.path(turn_id).rmdir()
    assert sorted(row.turn_id for row in TurnStore(folder).vanished()) == opened[1:]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_index_is_taken_from_the_folders(folder: StateFolder, garbage: bytes) -> None:
    made = open_turn(folder)
    (folder.path / "inflight.json").write_bytes(garbage)
    assert [row.msg_id for row in TurnStore(folder).indexed()] == ["m"]
    second = open_turn(folder, "second")
    assert {row.turn_id for row in TurnStore(folder).indexed()} == {made.turn_id, second.turn_id}


def test_an_index_that_is_no_file_stops_nothing(folder: StateFolder) -> None:
    (folder.path / "inflight.json").mkdir()
    made = open_turn(folder)
    assert [row.turn_id for row in TurnStore(folder).indexed()] == [made.turn_id]
    TurnStore(folder).mark_settled(made.turn_id)


def test_the_index_of_another_client_names_no_turn(folder: StateFolder) -> None:
    (folder.path / "inflight.json").write_text(
        '{"msg_id": "m", "thread_id": "t", "started_at": "2026-01-01T00:00:00+00:00", "retry_count": 0}'
    )
    assert TurnStore(folder).indexed() == []
    made = open_turn(folder)
    assert [row.turn_id for row in TurnStore(folder).indexed()] == [made.turn_id]


def test_rows_of_turns_that_are_gone_or_strange_are_dropped(folder: StateFolder) -> None:
    gone, kept = open_turn(folder, "gone"), open_turn(folder, "kept")
    Disk().remove_tree(folder.turns / gone.turn_id)
    index = folder.path / "inflight.json"
    index.write_bytes(index.read_bytes().replace(kept.turn_id.encode(), b"../../memory", 1))
    open_turn(folder, "new")
    assert [row.msg_id for row in TurnStore(folder).indexed()] == ["new"]


def test_the_index_is_made_anew_from_every_open_turn_and_tells_of_each_that_vanished(folder: StateFolder) -> None:
    turns = [open_turn(folder, name) for name in ("one", "two", "three")]
    names = {turn.turn_id for turn in turns}
    assert not TurnStore(folder).remake_index()
    (folder.path / "inflight.json").unlink()
    assert TurnStore(folder).remake_index()
    assert {row.turn_id for row in TurnStore(folder).indexed()} == names
    assert not TurnStore(folder).remake_index()
    for turn in turns[:2]:
        Disk().remove_tree(folder.turns / turn.turn_id)
    assert {row.turn_id for row in TurnStore(folder).vanished()} == {turn.turn_id for turn in turns[:2]}


def test_of_turns_that_are_removed_nothing_is_left(folder: StateFolder) -> None:
    gone, kept = [open_turn(folder, name).turn_id for name in ("one", "two", "three")], open_turn(folder, "kept")
    store = TurnStore(folder)
    store.remove(gone)
    while not store.sweep():
        pass
    assert os.listdir(folder.turns) == [kept.turn_id]


def settled(folder: StateFolder, clock: FakeClock, days: float, name: str) -> TurnRecord:
    made = open_turn(folder, name)
    TurnStore(folder).mark_settled(made.turn_id)
    moment = clock.now() - days * 86400
    os.utime(folder.turns / made.turn_id / "settled", (moment, moment))
    return made


def retention_of(folder: StateFolder) -> Retention:
    return State(folder, EventLog(folder.log, folder.disk, folder.clock)).retention


def prune(folder: StateFolder, *needed: str) -> set[str]:
    """Which turns are gone by it."""
    before = set(TurnStore(folder).ids())
    for _ in retention_of(folder).prune(7, lambda: needed):
        pass
    return before - set(TurnStore(folder).ids())


def test_pruning_leaves_what_is_open_needed_or_young(folder: StateFolder, clock: FakeClock) -> None:
    old = settled(folder, clock, 8, "old")
    needed = settled(folder, clock, 8, "needed")
    young = settled(folder, clock, 6, "young")
    future = settled(folder, clock, -400, "future")
    still_open = open_turn(folder, "open")
    store = TurnStore(folder)
    assert prune(folder, "needed") == {old.turn_id}
    assert set(store.ids()) == {turn.turn_id for turn in (needed, young, future, still_open)}
    # A clock that ran a year ahead takes the transcripts, and nothing that is still to be done.
    clock.moment += 365 * 86400
    prune(folder, "needed")
    assert {needed.turn_id, still_open.turn_id, future.turn_id} == set(store.ids())


def test_what_is_needed_keeps_its_output_too_however_much_there_is(
    folder: StateFolder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.state.retention.MAX_TOTAL_BYTES", 0)
    monkeypatch.setattr("agent_mailer.state.retention.COUNTED", clock.now())
    needed, done = settled(folder, clock, 1, "needed"), settled(folder, clock, 1, "done")
    for turn in (needed, done):
        (folder.turns / turn.turn_id / "stdout").write_bytes(b"what it said")
    assert prune(folder, "needed") == set()
    assert [(folder.turns / turn.turn_id / "stdout").exists() for turn in (needed, done)] == [True, False]


def test_what_is_wanted_again_while_others_are_looked_at_stays(folder: StateFolder, clock: FakeClock) -> None:
    for number in range(50):
        settled(folder, clock, 8, f"old-{number}")
    revived = settled(folder, clock, 9, "revived")
    wanted: list[str] = []
    steps = retention_of(folder).prune(7, lambda: wanted)
    for _ in range(3):
        next(steps)
    wanted.append("revived")
    for _ in steps:
        pass
    assert TurnStore(folder).ids() == [revived.turn_id]


def test_an_interrupted_write_of_the_record_goes_with_the_mail(folder: StateFolder) -> None:
    made = open_turn(folder)
    half = folder.turns / made.turn_id / ".tmp.turn.json.0123456789ab"
    half.write_bytes(b'{"turn_id": "')
    prune(folder)
    assert half.exists()  # the turn is open: who settles it comes back
    retention_of(folder).strip(made.turn_id, 7)
    assert sorted(os.listdir(half.parent)) == ["turn.json"]


def test_pruning_clears_what_was_interrupted_after_the_settlement(folder: StateFolder, clock: FakeClock) -> None:
    young, needed = settled(folder, clock, 1, "young"), settled(folder, clock, 1, "needed")
    for turn in (young, needed):
        (folder.turns / turn.turn_id / ".tmp.turn.json.0123456789ab").write_bytes(b"half")
    assert prune(folder, "needed") == set()
    for turn in (young, needed):
        assert sorted(os.listdir(folder.turns / turn.turn_id)) == ["settled", "turn.json"]


def test_what_was_sent_into_a_thread_is_read_once_of_each_settled_turn(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of turns would be read for every answer that an agent sends by a way of its own."""
    store = TurnStore(folder)
    sent = [sends(folder, f"m{number}", "one") for number in range(3)]
    for record in sent:
        store.mark_settled(record.turn_id)
    elsewhere = sends(folder, "elsewhere", "two")
    store.mark_settled(elsewhere.turn_id)
    still_open = sends(folder, "open", "one")
    fresh = TurnStore(folder)

    def by(*names: str) -> set[str]:
        return {f"{item}-{name}" for name in names for item in ("out", "more")}

    assert fresh.sent_into("one") == by("m0", "m1", "m2", "open")
    read: list[str] = []
    real = TurnStore.load

    def spied(self: TurnStore, turn_id: str) -> TurnRecord | None:
        read.append(turn_id)
        return real(self, turn_id)

    later = sends(folder, "later", "one")
    store.mark_settled(later.turn_id)
    with monkeypatch.context() as patch:
        patch.setattr(TurnStore, "load", spied)
        assert fresh.sent_into("one") == by("m0", "m1", "m2", "open", "later")
        assert fresh.sent_into("two") == by("elsewhere")
    assert set(read) == {still_open.turn_id, later.turn_id}


def sends(folder: StateFolder, message_id: str, thread: str) -> TurnRecord:
    """An open turn that has decided what leaves."""
    record = open_turn(folder, message_id)
    items = tuple(
        SettledItem(Outgoing(f"{name}-{message_id}", "user", thread, "payload"), ItemState.DELIVERED)
        for name in ("out", "more")
    )
    record.settlement = Settlement(Outcome.DONE, "", 1.0, 1.0, finished=True, items=items)
    record.phase = Phase.SETTLING
    TurnStore(folder).save(record)
    return record
