"""The model of a disk that loses power: what it may leave, and what it must not."""

from __future__ import annotations

import random
from pathlib import Path

from tests.crash.power import (
    EXTREMES,
    ROOT,
    Chance,
    MakeFile,
    MakeFolder,
    Operation,
    PowerModel,
    Rename,
    SyncFile,
    SyncFolder,
    Truncate,
    Unlink,
    Write,
)
from tests.crash.recording import RecordingSystem

NOTHING_ELSE = EXTREMES[0]


def states(*operations: Operation, tries: int = 300) -> set[tuple[tuple[str, bytes], ...]]:
    """All that a crash after these operations was seen to leave."""
    model = PowerModel(operations)
    fates = [*EXTREMES, *(Chance(random.Random(seed)) for seed in range(tries))]
    return {tuple(sorted(model.crash(fate).content().items())) for fate in fates}


def test_what_was_never_synced_is_there_torn_as_zeros_or_not_at_all() -> None:
    found = states(MakeFile(1, ROOT, "f"), Write(1, 0, b"ab"))
    assert found == {
        (),
        (("f", b""),),
        (("f", b"a"),),
        (("f", b"ab"),),
        (("f", b"\0\0"),),
        (("f", b"a\0"),),
    }


def test_what_was_synced_stays() -> None:
    whole = (MakeFile(1, ROOT, "f"), Write(1, 0, b"ab"), SyncFile(1), SyncFolder(ROOT))
    assert states(*whole) == {(("f", b"ab"),)}
    assert states(*whole, Write(1, 2, b"c")) == {(("f", b"ab"),), (("f", b"abc"),), (("f", b"ab\0"),)}
    assert states(*whole, Truncate(1, 0), Write(1, 0, b"x")) == {
        (("f", b"ab"),),
        (("f", b""),),
        (("f", b"x"),),
        (("f", b"\0"),),
        (("f", b"a"),),  # the old bytes at the new size
    }
    assert states(*whole, Unlink(ROOT, "f")) == {(), (("f", b"ab"),)}
    assert states(*whole, Unlink(ROOT, "f"), SyncFolder(ROOT)) == {()}


def test_a_file_synced_without_its_folder_may_have_no_name() -> None:
    assert states(MakeFile(1, ROOT, "f"), Write(1, 0, b"a"), SyncFile(1)) == {(), (("f", b"a"),)}


def test_a_rename_is_no_older_than_nothing_and_makes_no_data_durable() -> None:
    old = (MakeFile(1, ROOT, "f"), Write(1, 0, b"old"), SyncFile(1), SyncFolder(ROOT))
    replaced = (*old, MakeFile(2, ROOT, "t"), Write(2, 0, b"n"), Rename(2, ROOT, "t", ROOT, "f"))
    found = {dict(state)["f"] for state in states(*replaced)}
    assert found == {b"old", b"", b"n", b"\0"}
    synced = (*old, MakeFile(2, ROOT, "t"), Write(2, 0, b"n"), SyncFile(2), Rename(2, ROOT, "t", ROOT, "f"))
    assert {dict(state)["f"] for state in states(*synced)} == {b"old", b"n"}
    assert states(*synced, SyncFolder(ROOT)) == {(("f", b"n"),)}


def test_between_folders_a_name_is_never_lost() -> None:
    made = (
        MakeFolder(1, ROOT, "new"),
        MakeFolder(2, ROOT, "cur"),
        SyncFolder(ROOT),
        MakeFile(3, 1, "m"),
        Write(3, 0, b"x"),
        SyncFile(3),
        SyncFolder(1),
        Rename(3, 1, "m", 2, "m"),
    )
    before, both, after = (("new/m", b"x"),), (("cur/m", b"x"), ("new/m", b"x")), (("cur/m", b"x"),)
    assert states(*made) == {before, both, after}
    assert states(*made, SyncFolder(2)) == {both, after}
    assert states(*made, SyncFolder(1)) == {after}, "that the old name is gone is not durable without the new one"
    tree = PowerModel((*made, SyncFolder(2))).crash(NOTHING_ELSE)
    assert tree.files["new/m"][0] == tree.files["cur/m"][0]


def test_files_and_folders_are_written_in_any_order() -> None:
    found = states(MakeFile(1, ROOT, "a"), MakeFile(2, ROOT, "b"), SyncFile(1), SyncFile(2))
    assert {tuple(name for name, _ in state) for state in found} == {(), ("a",), ("b",), ("a", "b")}


def test_what_lies_in_a_folder_without_a_name_is_gone() -> None:
    inside = (MakeFolder(1, ROOT, "d"), MakeFile(2, 1, "f"), SyncFile(2), SyncFolder(1))
    assert states(*inside) == {(), (("d/f", b""),)}
    assert states(*inside, SyncFolder(ROOT)) == {(("d/f", b""),)}


def test_a_name_used_again_keeps_its_order() -> None:
    found = states(
        MakeFile(1, ROOT, "f"), SyncFile(1), Unlink(ROOT, "f"), MakeFile(2, ROOT, "f"), Write(2, 0, b"2"), SyncFile(2)
    )
    assert found == {(), (("f", b""),), (("f", b"2"),)}


def test_what_others_wrote_between_two_looks_is_taken_down_in_their_order(tmp_path: Path) -> None:
    """An agent's end stands above what it leaves, and comes after it: no power cut keeps the end alone."""
    turn = tmp_path / "turn"
    turn.mkdir()
    system = RecordingSystem(tmp_path, ("turn",), lambda _: False)
    (turn / "outbox").mkdir()
    for name in ("outbox/b", "outbox/a", "exit"):
        (turn / name).write_bytes(b"1")
    system.look_around()
    made = [operation.name for operation in system.operations if isinstance(operation, MakeFile)]
    assert made[-1] == "exit"
    assert sorted(made) == ["a", "b", "exit"]
