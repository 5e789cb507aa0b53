"""What is stuck: each thing once, kept over a torn line and a full file, and never more than the file may hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock

from agent_mailer.clock import SystemClock, iso
from agent_mailer.disk import Disk
from agent_mailer.events import EventLog
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.outcomes import Outcome
from agent_mailer.state import State
from agent_mailer.state.dead_letters import DeadLetters
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.held import Ended, Guard, Held, HeldEntry
from agent_mailer.state.records import DeadLetter, ItemState, Phase, SettledItem, Settlement, TurnRecord
from agent_mailer.state.stuck import Stuck, StuckKind, Unsent, split_key
from agent_mailer.views import kept

LETTER = Envelope("m-1", "t", "alice", 1.0, "1 m-1", "m-1.md")


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    found = StateFolder(tmp_path, Disk(), FakeClock())
    found.prepare()
    return found


def test_a_thing_is_there_once_and_stays_until_it_is_removed(folder: StateFolder) -> None:
    stuck = Stuck(folder)
    assert stuck.add(StuckKind.NO_WAY_BACK, "m-1", LETTER, "x")
    assert not stuck.add(StuckKind.NO_WAY_BACK, "m-1", LETTER, "another word")
    assert stuck.add(StuckKind.UNREADABLE, "m-1", None, "no header\n", sender="bob", locator="m-1.md")
    again = Stuck(folder)
    assert not again.add(StuckKind.UNREADABLE, "m-1", None, "x")
    first, second = again.all()
    assert (first.envelope, first.sender, first.why) == (LETTER, "alice", "x")
    assert (second.envelope, second.sender, second.locator, second.why) == (None, "bob", "m-1.md", "no header\\n")
    assert again.waiting == {"m-1"}
    assert again.remove([(StuckKind.NO_WAY_BACK, "m-1"), (StuckKind.NO_WAY_BACK, "other")]) == 1
    assert again.waiting == set()
    assert [entry.kind for entry in Stuck(folder).all()] == [StuckKind.UNREADABLE]


def test_of_several_each_stays_until_it_is_removed(folder: StateFolder) -> None:
    stuck, kind = Stuck(folder), StuckKind.NOT_FETCHED
    for key in "abcd":
        assert stuck.add(kind, key, msgspec.structs.replace(LETTER, id=key), "x")
    again = Stuck(folder)
    assert again.waiting == set("abcd")
    assert [entry.key for entry in again.untold] == list("abcd")
    assert {entry.key for entry in again.unheard} == set("abcd")
    for entry in again.unheard:
        if entry.key in "bcd":
            again.heard(entry)
    assert again.remove([(kind, "b"), (kind, "c")]) == 2
    for found in (again, Stuck(folder)):
        assert [entry.key for entry in found.all()] == ["a", "d"]
        assert (found.waiting, {entry.key for entry in found.unheard}) == ({"a", "d"}, {"a"})


def test_all_of_a_turn_that_did_not_leave_is_known_until_it_is_removed(folder: StateFolder) -> None:
    states = (ItemState.REFUSED, ItemState.DELIVERED, ItemState.KEPT, ItemState.REFUSED)
    items = tuple(SettledItem(Outgoing(f"o-{n}", "user", "t", "x"), state) for n, state in enumerate(states))
    settlement = Settlement(Outcome.DONE, "", 1.0, 1.0, finished=True, items=items)
    turn_id = "20260101T000000-00000000"
    record = TurnRecord(turn_id, LETTER, Phase.SETTLING, "command", 1.0, settlement=settlement)
    unsent = Unsent(folder)
    for _ in range(2):
        unsent.note(record)
    for found in (unsent, Unsent(folder)):
        assert found.all() == [f"{turn_id}.{number}" for number in (0, 2, 3)]
    unsent.remove([f"{turn_id}.2"])
    for found in (unsent, Unsent(folder)):
        assert found.all() == [f"{turn_id}.{number}" for number in (0, 3)]


def test_of_several_that_are_held_each_has_its_end(folder: StateFolder) -> None:
    names = ["one", "two", "three", "odd \\ name"]
    held = Held(folder)
    held.add(HeldEntry(name, 1.0, Guard.PAIR, "x", name, msgspec.structs.replace(LETTER, id=name)) for name in names)
    assert [entry.message_id for entry in Held(folder).all()] == names
    assert [*held.find(names[:3])] == names[:3]
    assert [*held.find(names)] == names
    assert held.end(["one", "two"], Ended.RELEASED) == 2
    again = Held(folder)
    assert [entry.message_id for entry in again.all()] == names[2:]
    assert [envelope.id for envelope in again.released()] == ["one", "two"]


def test_of_several_letters_each_message_has_its_last(folder: StateFolder) -> None:
    letters = DeadLetters(folder)
    for number, name in enumerate(("one", "two", "three", "one")):
        letters.add(DeadLetter(name, turn_id=f"t-{number}"), again=False)
    last = {"two": "t-1", "three": "t-2", "one": "t-3"}
    assert {letter.msg_id: letter.turn_id for letter in letters.all()} == last
    assert (letters.count(), letters.turn_ids()) == (3, set(last.values()))
    for name, turn_id in last.items():
        known = letters.find(name)
        assert known is not None
        assert known.turn_id == turn_id
    assert {name: letter.turn_id for name, letter in letters.among(["one", "three"]).items()} == {
        "one": "t-3", "three": "t-2"
    }  # fmt: skip
    assert [letter.turn_id for letter in letters.newest(2)] == ["t-2", "t-3"]


def test_what_was_added_is_told_of_once_and_by_the_next_watcher_where_this_one_could_not(folder: StateFolder) -> None:
    clock = folder.clock
    assert isinstance(clock, FakeClock)
    stuck = Stuck(folder)
    stuck.add(StuckKind.UNREADABLE, "a", None, "x")
    assert [entry.key for entry in stuck.untold] == ["a"]
    stuck.untold.popleft()
    stuck.add(StuckKind.UNREADABLE, "a", None, "x")
    assert not stuck.untold
    assert [entry.key for entry in Stuck(folder).untold] == ["a"]
    clock.moment += 2 * 86400.0
    assert not Stuck(folder).untold


def test_who_is_still_to_be_told_outlives_the_watcher_until_he_was(folder: StateFolder) -> None:
    Stuck(folder).add(StuckKind.NOT_FETCHED, "m-1", LETTER, "x")
    stuck = Stuck(folder)
    [entry] = stuck.unheard
    stuck.heard(entry)
    assert stuck.unheard == []
    again = Stuck(folder)
    assert again.unheard == []
    assert [one.why for one in again.all()] == ["x"]
    again.remove([(StuckKind.NOT_FETCHED, "m-1")])
    assert again.add(StuckKind.NOT_FETCHED, "m-1", LETTER, "y"), "it is stuck anew, and told anew"
    assert [one.why for one in Stuck(folder).unheard] == ["y"]


@pytest.mark.parametrize("said", [("want",), ("heard",), ("want", "heard"), ("heard", "want")])
def test_what_a_person_wants_and_who_is_to_be_told_are_known_each_for_itself(
    folder: StateFolder, said: tuple[str, ...]
) -> None:
    stuck = Stuck(folder)
    stuck.add(StuckKind.NOT_FETCHED, "m-1", LETTER, "x")
    for word in said:
        [entry] = stuck.all()
        (stuck.heard if word == "heard" else stuck.want)(entry)
    for known in (stuck, Stuck(folder)):
        assert [one.key for one in known.unheard] == ([] if "heard" in said else ["m-1"])
        assert [key for _, key in known.wanted] == (["m-1"] if "want" in said else [])
        assert [one.why for one in known.all()] == ["x"]


def test_a_damaged_line_harms_no_other_and_is_kept(folder: StateFolder) -> None:
    Stuck(folder).add(StuckKind.UNREADABLE, "a", None, "x")
    path = folder.path / "stuck.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "unknown"}\n\0\0\0\ntorn')
    stuck = Stuck(folder)
    assert stuck.add(StuckKind.UNREADABLE, "b", None, "x")
    assert [entry.key for entry in Stuck(folder).all()] == ["a", "b"]
    stuck.remove([(StuckKind.UNREADABLE, "a")])
    assert [entry.key for entry in Stuck(folder).all()] == ["b"]
    [beside] = folder.path.glob("stuck.jsonl.corrupt-*")
    assert beside.read_bytes() == b'{"kind": "unknown"}\ntorn\n'


def test_a_full_file_counts_the_oldest_and_loses_none_that_is_still_listed(folder: StateFolder) -> None:
    stuck = Stuck(folder, most=10, spared=4)
    stuck.add(StuckKind.NOT_FETCHED, "kept", LETTER, "x")
    for number in range(40):
        stuck.add(StuckKind.UNREADABLE, f"u{number}", None, "x")
    for found in (stuck, Stuck(folder)):
        assert found.counts() == {StuckKind.NOT_FETCHED: 1, StuckKind.UNREADABLE: 40}
        assert len(found.all()) <= 10
        assert found.get(StuckKind.NOT_FETCHED, "kept") is not None
        assert found.all()[-1].key == "u39"


@pytest.mark.parametrize("last", ["given-up", "not-sent", "unreadable"])
def test_of_several_kinds_a_short_list_has_the_newest_whatever_kind_they_are_of(
    tmp_path: Path, folder: StateFolder, last: str
) -> None:
    clock = folder.clock
    assert isinstance(clock, FakeClock)
    state = State(folder, EventLog(tmp_path / "log.jsonl", Disk(), SystemClock()))
    kinds = ["given-up", "not-sent", "unreadable"]
    kinds.remove(last)
    for number, kind in enumerate([kinds[0]] * 3 + [kinds[1]] * 3 + [last] * 2, 1):
        clock.moment = 1_800_000_000.0 + number
        if kind == "given-up":
            state.dead_letters.add(DeadLetter(f"m{number}", stuck_at=iso(clock.moment)), again=False)
        elif kind == "unreadable":
            state.stuck.add(StuckKind.UNREADABLE, f"m{number}", None, "x")
        else:
            left = SettledItem(Outgoing("a", "bob", "t", "x"), ItemState.REFUSED)
            ended = Settlement(Outcome.DONE, "", clock.moment, 1.0, finished=True, items=(left,))
            turn_id = f"20270115T08000{number}-0123abcd"
            record = TurnRecord(turn_id, LETTER, Phase.SETTLING, "command", clock.moment, settlement=ended)
            state.turns.create(record)
            state.unsent.note(record)
    whole = [view.at - 1_800_000_000.0 for view in kept.stuck(state)]
    assert whole == [1, 2, 3, 4, 5, 6, 7, 8]
    for limit in (1, 3, 7):
        assert [view.at - 1_800_000_000.0 for view in kept.stuck(state, limit=limit)] == whole[-limit:]


def test_of_mail_that_is_held_the_oldest_are_counted_still_once_what_ended_is_forgotten(folder: StateFolder) -> None:
    def strangers(first: int, last: int) -> list[HeldEntry]:
        return [HeldEntry(f"m{number}", envelope=LETTER) for number in range(first, last + 1)]

    held = Held(folder, most=10, spared=4)
    held.add(strangers(1, 11))
    ended = [entry.message_id for entry in strangers(5, 8)]
    for number, how in enumerate((Ended.RELEASED, Ended.DROPPED)):
        held.end(ended[2 * number : 2 * number + 2], how)
    held.tidy(ended.__contains__)
    assert [entry.message_id for entry in Held(folder).all()] == ["m9", "m10", "m11"]
    assert not any(name.encode() in (folder.path / "held.jsonl").read_bytes() for name in ended), "it is written anew"
    for found in (held, Held(folder)):
        assert found.counts() == {Guard.WHO: 4 + 3}
    # Those that come to be counted later are counted with them.
    Held(folder, most=10, spared=4).add(strangers(20, 27))
    assert Held(folder).counts() == {Guard.WHO: 7 + 8}
    assert len([*Held(folder).all()]) == 7


TURN = "20260101T000000-0123abcd"


@pytest.mark.parametrize("key", ["", "x", TURN, f"{TURN}.", "../x.1", "a.b", f"{TURN}.\u0663", f"{TURN}.{'9' * 5000}"])
def test_what_is_no_key_of_an_item_names_none(key: str) -> None:
    """Whoever asks for it, or writes it into the list, stops nothing: a number without end is none."""
    assert split_key(key) is None


def test_the_key_of_an_item_names_its_turn_and_its_number() -> None:
    assert split_key(f"{TURN}.12") == (TURN, 12)


@pytest.mark.parametrize(
    ("name", "good"),
    [("stuck.jsonl", b'{"kind":"unreadable","key":"a","at":1.0}'), ("held.jsonl", b'{"message_id":"a"}')],
)
def test_lines_that_cannot_be_read_are_told_of_and_set_aside(tmp_path: Path, name: str, good: bytes) -> None:
    """Others stay, what a crash has torn at the end is no damage, and without the lock nothing is changed."""
    told: list[tuple[str, str]] = []
    folder = StateFolder(tmp_path, Disk(), FakeClock(), lambda path, why: told.append((path.name, why)))
    folder.path.mkdir()
    path = folder.path / name

    def count() -> int:
        return sum((Stuck(folder) if name == "stuck.jsonl" else Held(folder)).counts().values())

    data = b"\xff garbage\n" + good + b'\n{"kind":7}7\n{"torn'
    path.write_bytes(data)
    assert count() == 1
    assert (told, path.read_bytes()) == ([(name, "2 of its lines cannot be read")], data)
    folder.hold()
    assert count() == 1
    assert path.read_bytes() == good + b'\n{"torn\n'
    [aside] = folder.path.glob(f"{name}.corrupt-*")
    assert aside.read_bytes() == b'\xff garbage\n{"kind":7}7\n'
    told.clear()
    assert (count(), told) == (1, [])


def test_what_a_crash_has_torn_is_no_damage_once_something_stands_behind_it(tmp_path: Path) -> None:
    told: list[Path] = []
    folder = StateFolder(tmp_path, Disk(), FakeClock(), lambda path, _: told.append(path))
    folder.prepare()
    Stuck(folder).add(StuckKind.UNREADABLE, "a", None, "x")
    Held(folder).add([HeldEntry("a", guard=Guard.PAIR, envelope=LETTER)])
    for name in ("stuck.jsonl", "held.jsonl"):
        path = folder.path / name
        path.write_bytes(path.read_bytes() + path.read_bytes()[:30])
    Stuck(folder).add(StuckKind.UNREADABLE, "b", None, "x")
    Held(folder).add([HeldEntry("b", guard=Guard.PAIR, envelope=LETTER)])
    assert [entry.key for entry in Stuck(folder).all()] == ["a", "b"]
    assert list(Held(folder).waiting) == ["a", "b"]
    assert told == []
