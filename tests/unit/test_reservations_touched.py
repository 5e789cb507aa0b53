"""What is told of files that changed while others had them: what was seen, and never more than is known."""

from __future__ import annotations

import pytest

from agent_mailer.mailbox.port import Action, Automatic, Draft
from agent_mailer.reservations.calls import Calls, Sighting
from agent_mailer.reservations.port import Doubt, How, Owner, Touched
from agent_mailer.reservations.snapshots import Change, FileState, Snapshot, changes
from agent_mailer.reservations.touched import as_line, told, weighed

TURN = "20261128T150000-0000000a"


def sighting(path: str = "src/a.py", at: float = 150.0, **fields: object) -> Sighting:
    given: dict[str, object] = {"since": 100.0, "until": 200.0, "owner": Owner("planner", TURN), **fields}
    return Sighting(path, How.CHANGED, pattern="src/**", at=at, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("calls", "doubt"),
    [
        (None, Doubt.UNKNOWN),
        (Calls(), Doubt.IDLE),
        (Calls(spans=((10.0, 97.0), (203.0, 220.0))), Doubt.IDLE),
        (Calls(spans=((10.0, 98.5),)), Doubt.BUSY),
        (Calls(spans=((201.5, float("inf")),)), Doubt.BUSY),
        (Calls(spans=((120.0, 130.0),)), Doubt.BUSY),
        (Calls(spans=((10.0, 97.0), (120.0, 130.0))), Doubt.BUSY),
        (Calls(edits=(("src/b.py", 150.0),)), Doubt.IDLE),
        (Calls(edits=(("src/a.py", 97.0), ("src/a.py", 203.0))), Doubt.IDLE),
        # It edited the file itself in that time, and somebody wrote it after that.
        (Calls(edits=(("src/a.py", 120.0),)), Doubt.BUSY),
        (Calls(spans=((10.0, 20.0), (120.0, 130.0))), Doubt.BUSY),
        (Calls(edits=(("src/b.py", 120.0), ("src/a.py", 120.0))), Doubt.BUSY),
    ],
)
def test_of_its_holder_no_more_is_said_than_its_own_hooks_tell(calls: Calls | None, doubt: Doubt) -> None:
    (one,) = weighed([sighting()], {TURN: calls} if calls is not None else {})
    assert (one.path, one.holder, one.pattern, one.doubt) == ("src/a.py", "planner", "src/**", doubt)


@pytest.mark.parametrize("at", [149.0, 151.0])
def test_what_its_holder_edited_by_name_itself_is_left_out(at: float) -> None:
    assert weighed([sighting()], {TURN: Calls(edits=(("src/a.py", at),))}) == ()
    assert weighed([sighting()], {TURN: Calls(edits=(("src/b.py", at), ("src/a.py", at)))}) == ()
    gone = sighting(at=0.0)
    assert weighed([gone], {TURN: Calls(edits=(("src/a.py", 199.0),))}) == ()


def test_what_a_person_has_reserved_may_be_a_persons_work() -> None:
    (one,) = weighed([sighting(owner=Owner("user"))], {"": Calls()})
    assert one.doubt is Doubt.UNKNOWN


def test_each_file_is_told_once_with_the_least_doubt_and_a_call_before_a_turn() -> None:
    calls = Calls(spans=((99.0, 140.0),))
    late = sighting(since=150.0, until=160.0)
    whole = sighting(since=150.0, until=160.0, by_call=False)
    for order in ([sighting(), late, whole], [whole, late, sighting()], [late, whole, sighting()]):
        (one,) = weighed(order, {TURN: calls})
        assert (one.doubt, one.by_call) == (Doubt.IDLE, True)


def _state(written: int, inode: int = 1) -> FileState:
    return FileState(1, inode, 10, written, written)


def test_two_looks_tell_what_was_made_changed_and_removed() -> None:
    before = Snapshot(1.0, {"a": _state(1), "b": _state(1), "c": _state(1), "d": _state(1)})
    after = Snapshot(
        2.0,
        {
            "a": _state(1),
            "b": _state(3),
            "c": _state(1, inode=2),
            "e": _state(2_000_000_000),
            "f": _state(4_000_000_000),
        },
    )
    assert changes(before, after) == [
        Change("b", How.CHANGED, 3e-9),
        Change("c", How.CHANGED, 1e-9),
        Change("d", How.REMOVED),
        Change("e", How.MADE, 2.0),
        Change("f", How.MADE, 4.0),
    ]


def test_of_looks_that_were_cut_only_what_both_saw_is_told() -> None:
    few = Snapshot(1.0, {"a": _state(1), "b": _state(1)}, whole=False)
    assert changes(few, Snapshot(2.0, {"a": _state(2), "z": _state(1)})) == [
        Change("a", How.CHANGED, 2e-9),
        Change("b", How.REMOVED),
    ]
    assert changes(Snapshot(1.0, {"a": _state(1), "b": _state(1)}), Snapshot(2.0, {"b": _state(1)}, whole=False)) == []


def _touched(path: str = "src/a.py", holder: str = "planner", **fields: object) -> Touched:
    return Touched(path, How.CHANGED, holder, "src/**", **{"doubt": Doubt.IDLE, **fields})  # type: ignore[arg-type]


def _draft(key: str, action: Action = Action.REPLY, **fields: object) -> Draft:
    return Draft(key, action, 5.0, body="done\n", **fields)  # type: ignore[arg-type]


def test_the_answer_says_it_and_each_holder_is_told_but_not_ourselves() -> None:
    mail = [
        _draft("first"),
        _draft("answer"),
        _draft("copy", to=("somebody",)),
        _draft("news", at_once=True),
        _draft("mail", Action.SEND, to=("x",)),
        _draft("notice", automatic=Automatic.NOTICE),
    ]
    touched = (_touched(), _touched("src/b.py", "user", doubt=Doubt.UNKNOWN), _touched("src/c.py", "Coder"))
    drafts = told(mail, touched, "coder", TURN, 9.0, holders=True)
    line = as_line(touched)
    assert [one.key for one in drafts[:6] if one.body != "done\n"] == ["answer"]
    assert drafts[1].body == f"done\n\n[{line}]"
    assert "src/a.py (planner has src/**; no call of planner's ran then)" in line
    assert "src/b.py (user has src/**; who wrote it is not known)" in line
    holders = drafts[6:]
    assert [(one.to, one.automatic) for one in holders] == [
        (("planner",), Automatic.NOTICE),
        (("user",), Automatic.NOTICE),
    ]
    assert f"While shell commands of coder ran (turn {TURN})" in holders[0].body
    assert "- src/a.py (src/**): changed; no call of planner's ran then" in holders[0].body
    assert "src/b.py" not in holders[0].body
    assert told(mail, touched, "coder", TURN, 9.0, holders=False)[6:] == []


def test_of_a_whole_turn_no_command_is_spoken_of_and_of_many_files_some_are_named() -> None:
    many = [_touched(f"src/{number:02}.py", by_call=False) for number in range(12)]
    line = as_line(many)
    assert line.startswith("While this turn ran files changed that others have reserved: src/00.py")
    assert line.endswith("; and 2 more")
    assert "src/09.py" in line
    assert "src/10.py" not in line
    assert as_line([_touched(), *many]).startswith("While this turn ran files changed")
    assert as_line([_touched(doubt=Doubt.BUSY)]).endswith("a call of planner's own ran as well)")
    mixed = [_touched(), _touched("src/b.py", by_call=False)]
    assert as_line(mixed).startswith("While this turn ran files"), "not all of it a command has done"
